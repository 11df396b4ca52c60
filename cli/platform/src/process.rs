//! A child process that does not outlive this one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::PlatformError;
use crate::log::{Log, LogLimits};

/// Lines of a log that an error shows.
const LOG_TAIL_LINES: usize = 20;

/// Runs its arguments until they end or standard input does, which is when this process is gone however it went.
/// (The kernel's parent-death signal follows the thread that forked, and threads of a pool come and go.)
const GUARD: &str = r#"exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ read -r _ <&3; kill "$child" 2>/dev/null; } & reader=$!
wait "$child"; status=$?
kill "$reader" 2>/dev/null
exit "$status""#;

/// A running child with its log.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Held apart from the child, whose `wait` would close it: its end is what ends a guarded child.
    lifeline: Option<ChildStdin>,
    log: PathBuf,
    /// What it says elsewhere.
    beside: Option<PathBuf>,
    /// Writes the log, where that is this process's work, until nobody is left who could say anything.
    writing: Option<JoinHandle<()>>,
}

/// Where a child's standard output and error go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    /// Into a file, whatever becomes of this process.
    File(&'a Path),
    /// Into files of bounded size and number.
    Bounded(&'a Path, LogLimits),
}

/// After a child's end its last lines are waited for so long: what it has started may hold its log open.
const LAST_LINES: Duration = Duration::from_millis(300);

impl Process {
    /// Starts `command`.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        said: Said<'_>,
        stdin: Stdio,
    ) -> Result<Self, PlatformError> {
        let (Said::File(log) | Said::Bounded(log, _)) = said;
        let wrong = || PlatformError::io(format!("write {}", log.display()));
        let writing = match said {
            Said::File(_) => {
                let open = || File::options().create(true).append(true).open(log);
                command.stdout(open().map_err(wrong())?).stderr(open().map_err(wrong())?);
                None
            }
            Said::Bounded(_, limits) => {
                let open = Log::open(log, limits).map_err(wrong())?;
                let (read, write) = std::io::pipe().map_err(wrong())?;
                command.stdout(write.try_clone().map_err(wrong())?).stderr(write);
                let thread = std::thread::Builder::new().name(format!("log of {name}"));
                Some(thread.spawn(move || open.take(read)).map_err(wrong())?)
            }
        };
        let mut child = command
            .stdin(stdin)
            .kill_on_drop(true)
            .spawn()
            .map_err(PlatformError::io(format!("start {name}")))?;
        let lifeline = child.stdin.take();
        Ok(Self { name, child, lifeline, log: log.to_owned(), beside: None, writing })
    }

    /// The same for a program that does not watch its parent itself, and writes a log itself; `beside` has what it says
    /// otherwise.
    pub(crate) fn spawn_guarded(
        name: &'static str,
        program: &Path,
        arguments: &[&std::ffi::OsStr],
        log: &Path,
        beside: &Path,
    ) -> Result<Self, PlatformError> {
        let mut command = guarded(program);
        command.args(arguments);
        let process = Self::spawn(name, command, Said::File(beside), Stdio::piped())?;
        Ok(Self { log: log.to_owned(), beside: Some(beside.to_owned()), ..process })
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails when the process has ended.
    pub(crate) fn alive(&mut self) -> Result<(), PlatformError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(e) => {
                Err(PlatformError::Io { what: format!("look after {}", self.name), source: e })
            }
        }
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended_by_itself(&mut self) -> PlatformError {
        match self.child.wait().await {
            Ok(status) => self.ended(status),
            Err(e) => PlatformError::Io { what: format!("wait for {}", self.name), source: e },
        }
    }

    fn ended(&self, status: ExitStatus) -> PlatformError {
        // What it said last is on its way.
        let end = Instant::now();
        while self.writing.as_ref().is_some_and(|writing| !writing.is_finished())
            && end.elapsed() < LAST_LINES
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        PlatformError::Ended { name: self.name, status: status.to_string(), log: self.tail() }
    }

    pub(crate) fn not_ready(&self, after: Duration) -> PlatformError {
        PlatformError::NotReady { name: self.name, after, log: self.tail() }
    }

    /// The last lines that it said.
    fn tail(&self) -> String {
        let beside = self.beside.as_deref().map(tail).unwrap_or_default();
        tail(&self.log) + &beside
    }

    /// Asks the process to end, and kills it when it has not after `patience`.
    pub(crate) async fn stop(mut self, patience: Duration) {
        // A guarded child is told by the end of its guard's standard input.
        if self.lifeline.take().is_none() {
            self.signal(Signal::TERM);
        }
        if tokio::time::timeout(patience, self.child.wait()).await.is_err() {
            tracing::warn!(process = self.name, "did not end in time; killing it");
            self.kill().await;
        }
    }

    /// Kills the process at once, as a crash would.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

/// A command that runs `program`, and asks it to end (SIGTERM) when its own standard input ends, which has to be a pipe from this
/// process: then it ends however this process went. A Ctrl-C at the terminal reaches this process alone.
pub fn guarded(program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARD, "guard"]).arg(program).stdin(Stdio::piped()).process_group(0);
    command
}

/// The last lines of a file, or what kept it from being read.
pub(crate) fn tail(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(LOG_TAIL_LINES);
            lines.get(from..).unwrap_or_default().iter().map(|l| format!("  {l}\n")).collect()
        }
        Err(e) => format!("  ({}: {e})\n", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_child_said_last_is_kept_although_its_log_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("child.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 200000; echo it is broken >&2; kill -9 $$"]);
        let said = Said::Bounded(&path, LogLimits { bytes: 65_536, files: 3 });
        let mut child = Process::spawn("child", command, said, Stdio::null()).unwrap();
        let ended = child.ended_by_itself().await.to_string();
        assert!(ended.contains("200000") && ended.trim_end().ends_with("it is broken"), "{ended}");
        let sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 65_636), "{sizes:?}");
    }
}
