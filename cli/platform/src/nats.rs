//! A nats-server of our own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_access::{Access, AccessError};

use crate::process::Process;
use crate::{LogLimits, PlatformError, find};

/// When JetStream writes through to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Before each acknowledgement: a power cut loses nothing that was acknowledged.
    #[default]
    Always,
    /// Every two minutes, as nats-server does by default: a power cut can lose what was acknowledged since.
    Interval,
}

/// How a nats-server is started.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// TCP port on the loopback interface; 0 takes a free one.
    pub port: u16,
    /// Folder for JetStream's files, the configuration and the log; made when missing.
    pub dir: PathBuf,
    /// When JetStream writes through.
    pub sync: Sync,
    /// How much room its log may take.
    pub log: LogLimits,
}

/// A nats-server with a configuration that somebody else has written.
#[derive(Debug, Clone)]
pub struct Configured {
    /// TCP port on the loopback interface, as the configuration says.
    pub port: u16,
    /// Folder for its log, which the configuration names `nats.log`, and for what it says beside that; made when missing.
    pub dir: PathBuf,
    /// The configuration's file.
    pub config: PathBuf,
    /// File that the server writes its process id to, as the configuration says.
    pub pid_file: PathBuf,
    /// What to connect with, to see that it answers.
    pub access: Access,
}

/// A running nats-server with JetStream.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    executable: PathBuf,
    config: PathBuf,
    dir: PathBuf,
    pid_file: PathBuf,
    port: u16,
    access: Access,
    /// Whether the one who asks whether it answers has JetStream: a system account has none.
    jetstream: bool,
}

/// Name of its log in its folder.
const LOG: &str = "nats.log";

/// From start to the first answered connection. JetStream reads its files first.
const READY: Duration = Duration::from_secs(30);

impl NatsServer {
    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    ///
    /// No usable nats-server, port taken, files not writable, or it ended or did not answer within 30 s.
    pub async fn start(options: &NatsOptions) -> Result<Self, PlatformError> {
        let port = free_port(options.port)?;
        let dir = options.dir.clone();
        make(&dir)?;
        let (config, pid_file) = (dir.join("nats.conf"), dir.join("nats.pid"));
        std::fs::write(&config, configuration(port, &dir, &pid_file, options))
            .map_err(PlatformError::io(format!("write {}", config.display())))?;
        let access = Access::default();
        Self::run(Configured { port, dir, config, pid_file, access }, true).await
    }

    /// The same with a configuration that is there already.
    ///
    /// # Errors
    ///
    /// As [`NatsServer::start`], and when it does not let these credentials in.
    pub async fn start_configured(options: &Configured) -> Result<Self, PlatformError> {
        let port = free_port(options.port)?;
        make(&options.dir)?;
        Self::run(Configured { port, ..options.clone() }, false).await
    }

    async fn run(options: Configured, jetstream: bool) -> Result<Self, PlatformError> {
        let Configured { port, dir, config, pid_file, access } = options;
        let executable = find::nats_server()?;
        let process = spawn(&executable, &config, &dir)?;
        let mut server =
            Self { process, executable, config, dir, pid_file, port, access, jetstream };
        server.ready().await?;
        Ok(server)
    }

    /// The URL clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would (`kill -9`); [`NatsServer::restart`] starts it again on the same files.
    pub async fn kill(&mut self) {
        if let Some(pid) = pid_in(&self.pid_file) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.process.ended_by_itself().await;
    }

    /// Starts the server again after [`NatsServer::kill`], with the same port and files.
    ///
    /// # Errors
    ///
    /// As [`NatsServer::start`].
    pub async fn restart(&mut self) -> Result<(), PlatformError> {
        self.process = spawn(&self.executable, &self.config, &self.dir)?;
        self.ready().await
    }

    /// The file with its process id.
    #[must_use]
    pub fn pid_file(&self) -> &Path {
        &self.pid_file
    }

    /// Has the server with this process id file read its configuration and certificates anew; connections stay
    /// (<https://docs.nats.io/running-a-nats-service/nats_admin/signals>).
    pub fn reload(pid_file: &Path) {
        if let Some(pid) = pid_in(pid_file) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
    }

    /// Waits until the server has ended by itself, which it should not.
    pub async fn ended_by_itself(&mut self) -> PlatformError {
        self.process.ended_by_itself().await
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.process.stop(Duration::from_secs(10)).await;
    }

    async fn ready(&mut self) -> Result<(), PlatformError> {
        let start = Instant::now();
        while start.elapsed() < READY {
            self.process.alive()?;
            match self.access.connect("millrace platform", &self.url()).await {
                Ok(client) => {
                    let jetstream = async_nats::jetstream::new(client);
                    if !self.jetstream || jetstream.query_account().await.is_ok() {
                        return Ok(());
                    }
                }
                // It is not up yet.
                Err(AccessError::Unreachable { .. }) => {}
                // It is, and no time mends this.
                Err(error) => return Err(PlatformError::access(error)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(self.process.not_ready(READY))
    }
}

fn make(dir: &Path) -> Result<(), PlatformError> {
    std::fs::create_dir_all(dir).map_err(PlatformError::io(format!("make {}", dir.display())))
}

/// The server writes its log, and bounds it, by itself. What it says before that, and what it says when it crashes, is in a file
/// of its own.
fn spawn(executable: &Path, config: &Path, dir: &Path) -> Result<Process, PlatformError> {
    let (log, beside) = (dir.join(LOG), dir.join("nats-stderr.log"));
    let arguments = ["-c".as_ref(), config.as_os_str()];
    Process::spawn_guarded("nats-server", executable, &arguments, &log, &beside)
}

fn configuration(port: u16, dir: &Path, pid_file: &Path, options: &NatsOptions) -> String {
    let sync = match options.sync {
        Sync::Always => "always",
        Sync::Interval => "2m",
    };
    // Debug formatting quotes and escapes the paths as the configuration's strings are.
    format!(
        "# Written by millrace; written anew at each start.\n\
         listen: \"127.0.0.1:{port}\"\n\
         server_name: \"millrace-{port}\"\n\
         pid_file: {pid_file:?}\n\
         log_file: {:?}\nlogfile_size_limit: {}\nlogfile_max_num: {}\n\
         jetstream {{\n  store_dir: {:?}\n  sync_interval: {sync}\n}}\n",
        dir.join(LOG),
        options.log.bytes,
        options.log.files,
        dir.join("jetstream")
    )
}

/// The port itself when nothing listens on it, or a free one for 0.
/// A port of this machine that nobody listens on: this one, or any where it is 0.
///
/// # Errors
///
/// When it is taken.
pub fn free_port(port: u16) -> Result<u16, PlatformError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|_| PlatformError::PortTaken { port })
}

fn pid_in(file: &Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(file).ok()?;
    rustix::process::Pid::from_raw(text.trim().parse().ok()?)
}
