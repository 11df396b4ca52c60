//! A child process that does not outlive this one.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::PlatformError;

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
}

impl Process {
    /// Starts `command` in a process group of its own, so that a Ctrl-C at the terminal reaches this process alone
    /// and the children are ended in order.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        log: &Path,
        stdin: Stdio,
    ) -> Result<Self, PlatformError> {
        let open = || std::fs::File::options().create(true).append(true).open(log);
        let out = open().map_err(PlatformError::io(format!("write {}", log.display())))?;
        let err = open().map_err(PlatformError::io(format!("write {}", log.display())))?;
        let mut child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(PlatformError::io(format!("start {name}")))?;
        let lifeline = child.stdin.take();
        Ok(Self { name, child, lifeline, log: log.to_owned() })
    }

    /// The same for a program that does not watch its parent itself.
    pub(crate) fn spawn_guarded(
        name: &'static str,
        program: &Path,
        arguments: &[&std::ffi::OsStr],
        log: &Path,
    ) -> Result<Self, PlatformError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "guard"]).arg(program).args(arguments);
        Self::spawn(name, command, log, Stdio::piped())
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
        PlatformError::Ended { name: self.name, status: status.to_string(), log: tail(&self.log) }
    }

    pub(crate) fn not_ready(&self, after: Duration) -> PlatformError {
        PlatformError::NotReady { name: self.name, after, log: tail(&self.log) }
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
