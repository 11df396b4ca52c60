//! A server as a child process: found, started, waited for, killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::PeerError;

/// How long a server may take until it listens, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program and where to look for it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) install: &'static str,
}

impl Program {
    pub(crate) fn find(&self) -> Result<PathBuf, PeerError> {
        let named = std::env::var_os(self.variable).map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian keeps servers where an ordinary user's PATH does not look.
        let folders =
            std::env::split_paths(&path).chain(tools()).chain([PathBuf::from("/usr/sbin")]);
        let found = named
            .into_iter()
            .chain(folders.map(|folder| folder.join(self.name)))
            .find(|file| file.is_file());
        found.ok_or(PeerError::Missing {
            program: self.name,
            variable: self.variable,
            install: self.install,
        })
    }
}

/// The folder into which set-up puts tools (as scripts/common.sh has it).
pub(crate) fn tools() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("MILLRACE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("millrace")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/millrace")))?;
    Some(cache.join("tools"))
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts a server and waits until it listens.
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Program,
        args: impl IntoIterator<Item = A>,
        log: &Path,
        port: u16,
    ) -> Result<Self, PeerError> {
        let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        Self::start_until(program, args, log, listens)
    }

    /// Starts a program and waits until `ready`: for one that does not listen.
    pub(crate) fn start_until<A: AsRef<OsStr>>(
        program: &Program,
        args: impl IntoIterator<Item = A>,
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> Result<Self, PeerError> {
        Self::start_within(PATIENCE, program, args, log, ready)
    }

    /// The same for one that may take longer, or has to be quicker.
    pub(crate) fn start_within<A: AsRef<OsStr>>(
        patience: Duration,
        program: &Program,
        args: impl IntoIterator<Item = A>,
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> Result<Self, PeerError> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program.find()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut running = Self { child };
        running.wait_until(patience, program, log, ready)?;
        Ok(running)
    }

    fn wait_until(
        &mut self,
        patience: Duration,
        program: &Program,
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> Result<(), PeerError> {
        let start = Instant::now();
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > patience {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let reason =
                    ended.map_or_else(|| "is not ready".to_owned(), |status| status.to_string());
                return Err(PeerError::NotStarted {
                    program: program.name,
                    reason: format!("{reason}\n{said}"),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to end and waits.
    pub(crate) fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops or continues it: a peer that is there and does not answer.
    pub(crate) fn freeze(&self, freeze: bool) -> io::Result<()> {
        self.signal(if freeze { Signal::STOP } else { Signal::CONT })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The test has ended; there is nobody left to tell.
        let _ = self.kill();
    }
}
