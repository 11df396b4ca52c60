//! Mosquitto, the MQTT broker.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Program, Running};
use crate::{PeerError, free_port};

const PROGRAM: Program = Program {
    name: "mosquitto",
    variable: "MILLRACE_MOSQUITTO",
    install: "apt-get install mosquitto, or `make setup`",
};

/// Writes a password file with one user, in the form that Mosquitto reads.
///
/// # Errors
///
/// When the broker's own tool is missing or fails.
pub fn mosquitto_password(file: &Path, user: &str, password: &str) -> Result<(), PeerError> {
    let tool =
        Program { name: "mosquitto_passwd", variable: "MILLRACE_MOSQUITTO_PASSWD", ..PROGRAM };
    let output = Command::new(tool.find()?)
        .args(["-c".as_ref(), "-b".as_ref(), file.as_os_str(), user.as_ref(), password.as_ref()])
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(PeerError::NotStarted { program: tool.name, reason })
}

/// A broker on a free port that keeps sessions and queued messages over a
/// restart.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    folder: TempDir,
    running: Option<Running>,
}

impl Mosquitto {
    /// Starts a broker that lets everyone in.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start() -> Result<Self, PeerError> {
        Self::start_with("allow_anonymous true\n")
    }

    /// Starts a broker with lines of its own in the configuration file.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start_with(config: &str) -> Result<Self, PeerError> {
        let mut broker = Self {
            port: free_port()?,
            folder: TempDir::with_prefix("millrace-mqtt-")?,
            running: None,
        };
        broker.configure(config)?;
        broker.restart()?;
        Ok(broker)
    }

    /// Writes the configuration anew; it counts from the next start on.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn configure(&mut self, config: &str) -> io::Result<()> {
        let (folder, port) = (self.folder.path(), self.port);
        // As root Mosquitto changes to another user, who must reach the store.
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\npersistence true\npersistence_location {}/\n\
             max_queued_messages 0\nset_tcp_nodelay true\nlog_type all\n{config}\n",
            folder.display()
        );
        std::fs::write(folder.join("mosquitto.conf"), config)
    }

    /// Its port on the loopback interface.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Kills it (kill -9). Mosquitto keeps queued messages in memory and
    /// writes them at its end: what it had queued is lost, whoever sent it.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.kill())
    }

    /// Stops it from answering, or lets it go on.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| running.freeze(freeze))
    }

    /// Has it write sessions and queued messages now, as it does at its end: a
    /// later [`Mosquitto::kill`] loses only what came after.
    ///
    /// # Errors
    ///
    /// When it does not say in time that it has.
    pub fn save(&self) -> Result<(), PeerError> {
        const SAYS: &str = "Saving in-memory database";
        let Some(running) = &self.running else { return Ok(()) };
        let before = self.log().matches(SAYS).count();
        running.signal(Signal::USR1)?;
        let start = Instant::now();
        while self.log().matches(SAYS).count() == before {
            if start.elapsed() > Duration::from_secs(10) {
                let reason = "it has not saved its database".to_owned();
                return Err(PeerError::NotStarted { program: PROGRAM.name, reason });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // It says so before, and answers again when it has: writing takes its only thread.
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    /// Ends it in order: sessions and queued messages are written.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn stop(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.terminate())
    }

    /// Starts it again on the same port and store, after ending one that runs.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), PeerError> {
        self.stop()?;
        let config = self.folder.path().join("mosquitto.conf");
        let log = self.folder.path().join("log");
        self.running =
            Some(Running::start(&PROGRAM, ["-c".as_ref(), config.as_os_str()], &log, self.port)?);
        Ok(())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
