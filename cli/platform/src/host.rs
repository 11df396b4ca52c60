//! A host of our own.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use millrace_access::Access;
use rustix::process::Pid;
use tokio::process::Command;

use crate::memory::kill_all_of;
use crate::process::{Process, Said};
use crate::{LogLimits, PlatformError, find};

/// How a host is started.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// NATS server to connect to.
    pub nats_url: String,
    /// Lattice to join.
    pub lattice: String,
    /// Credentials for asking whether host and wadm answer, and the authority of the server. The host's own credentials are
    /// among the arguments.
    pub access: Access,
    /// Folder for its log and its key; made when missing.
    pub dir: PathBuf,
    /// Further arguments of `millrace-host`.
    pub arguments: Vec<String>,
    /// A program with arguments that becomes `millrace-host` (by `exec`) after it has done something for it; none as a rule.
    pub through: Vec<OsString>,
    /// How much room its log may take.
    pub log: LogLimits,
}

/// A running `millrace-host`.
#[derive(Debug)]
pub struct Host {
    process: Process,
    /// Where it unpacks the providers it starts.
    unpacked: PathBuf,
}

/// Keeps the host's key over restarts.
const KEY: &str = "host.seed";

/// From start to the first answers of host and wadm.
const READY: Duration = Duration::from_secs(60);

/// A host first lets its providers drain.
const STOP: Duration = Duration::from_secs(25);

/// Providers notice within a quarter of a second that their host is gone, and drain for half a second.
const PROVIDERS_END: Duration = Duration::from_secs(5);

/// Processes whose executable is below the folder, and has a name that is meant.
fn running_from(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<Pid> {
    let is_it = |exe: PathBuf| {
        let name = exe.file_name().unwrap_or_default().to_string_lossy();
        exe.starts_with(folder) && is_meant(&name)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(&is_it))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

impl Host {
    /// Starts a host and waits until it, and wadm, answer; of the two only what the arguments leave.
    ///
    /// # Errors
    ///
    /// No `millrace-host`, or it ended or did not answer within 60 s.
    pub async fn start(options: &HostOptions) -> Result<Self, PlatformError> {
        let mut host = Self::spawn(options)?;
        host.ready(options).await?;
        Ok(host)
    }

    /// Starts a host.
    ///
    /// # Errors
    ///
    /// No `millrace-host`, or its files cannot be written.
    pub fn spawn(options: &HostOptions) -> Result<Self, PlatformError> {
        let program = find::host()?;
        let mut words =
            options.through.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(program.as_os_str()));
        command.args(words);
        let dir = &options.dir;
        // The host unpacks provider archives below TMPDIR and writes over what it finds there, which fails while a
        // provider of a host that was killed still runs from it. A new folder each time avoids that.
        let unpacked = dir.join("tmp");
        let _ = std::fs::remove_dir_all(&unpacked);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&unpacked)
            .map_err(PlatformError::io(format!("make {}", unpacked.display())))?;
        command
            .env("TMPDIR", &unpacked)
            // All that it is to show and to trust is among the arguments.
            .env_remove("MILLRACE_CREDS")
            .env_remove("MILLRACE_TLS_CA")
            // And this is nothing for it.
            .env_remove("MILLRACE_PASSPHRASE")
            .args([
                // A Ctrl-C at the terminal reaches this process alone, and hosts are ended in order.
                "--own-session",
                "--follow-parent",
                "--nats-url",
                &options.nats_url,
                "--lattice",
                &options.lattice,
            ])
            .arg("--identity")
            .arg(dir.join(KEY))
            .arg("--artifacts")
            .arg(dir.join("artifacts"))
            .args(&options.arguments);
        if let Some(ca) = &options.access.tls_ca {
            command.arg("--tls-ca").arg(ca);
        }
        let log = dir.join("host.log");
        let said = Said::Bounded(&log, options.log);
        let process = Process::spawn("millrace-host", command, said, Stdio::null())?;
        Ok(Self { process, unpacked })
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The processes of a provider that it runs, by the provider's name: an archive is unpacked to an executable that is
    /// named after it.
    #[must_use]
    pub fn providers(&self, name: &str) -> Vec<Pid> {
        let mark = format!("_{name}_");
        running_from(&self.unpacked, |executable| executable.contains(&mark))
    }

    /// Kills the host as a crash would (`kill -9`). Its providers notice by themselves.
    pub async fn kill(mut self) {
        self.process.kill().await;
    }

    /// Kills the host with all that it has started, and waits until nothing of it is left. Nobody drains.
    pub async fn kill_with_all(mut self) {
        let id = self.process.id();
        self.process.kill().await;
        if let Some(id) = id {
            kill_all_of(id).await;
        }
    }

    /// Waits until the host has ended by itself, which it should not.
    pub async fn ended_by_itself(&mut self) -> PlatformError {
        self.process.ended_by_itself().await
    }

    /// Ends the host after its providers have drained.
    pub async fn stop(self) {
        self.process.stop(STOP).await;
        // The host does not wait for its providers to end.
        let start = Instant::now();
        let running = || running_from(&self.unpacked, |_| true);
        while !running().is_empty() && start.elapsed() < PROVIDERS_END {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for pid in running() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Waits until it answers: asks wadm first, where it is to run, and then this host itself, because another one of the
    /// lattice might answer for it.
    ///
    /// # Errors
    ///
    /// It ended, or did not answer within 60 s.
    pub async fn ready(&mut self, options: &HostOptions) -> Result<(), PlatformError> {
        let access = &options.access;
        let client = access
            .connect("millrace platform", &options.nats_url)
            .await
            .map_err(PlatformError::access)?;
        let wanted = |without: &str| !options.arguments.iter().any(|a| a == without);
        let (mut wadm, mut host) = (wanted("--no-wadm"), wanted("--no-host"));
        let start = Instant::now();
        while wadm || host {
            self.process.alive()?;
            if start.elapsed() > READY {
                return Err(self.process.not_ready(READY));
            }
            let subject = match wadm {
                true => Some(format!("wadm.api.{}.model.list", options.lattice)),
                false => host_id(&options.dir.join(KEY))
                    .map(|id| format!("wasmbus.ctl.v1.{}.host.get.{id}", options.lattice)),
            };
            let answered = match subject {
                Some(subject) => {
                    let request = client.request(subject, Default::default());
                    let answer = tokio::time::timeout(Duration::from_secs(1), request).await;
                    answer.is_ok_and(|answer| answer.is_ok())
                }
                None => false,
            };
            match answered {
                false => tokio::time::sleep(Duration::from_millis(20)).await,
                true if wadm => wadm = false,
                true => host = false,
            }
        }
        Ok(())
    }
}

/// What the lattice calls the host with the key in this file, once it has made one.
fn host_id(key: &Path) -> Option<String> {
    let seed = std::fs::read_to_string(key).ok()?;
    Some(nkeys::KeyPair::from_seed(seed.trim()).ok()?.public_key())
}
