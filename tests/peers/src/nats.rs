//! nats-server with JetStream.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::{Program, Running};
use crate::{PeerError, free_port};

pub(crate) const PROGRAM: Program = Program {
    name: "nats-server",
    variable: "MILLRACE_NATS_SERVER",
    install: "go install github.com/nats-io/nats-server/v2@latest, or `make setup`",
};

/// How a server is to be started, where it differs from the default.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// Lines for its configuration file, in the server's own syntax.
    pub config: String,
    /// Folder for its store instead of one of its own. Only the room there limits what is kept.
    pub store: Option<PathBuf>,
    /// Address that clients know it by. It listens on all of the machine's then, and not on the loopback address alone.
    pub address: Option<IpAddr>,
}

/// A nats-server with JetStream on a free port, with a store of its own.
#[derive(Debug)]
pub struct NatsServer {
    address: IpAddr,
    port: u16,
    folder: TempDir,
    running: Option<Running>,
}

impl NatsServer {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start() -> Result<Self, PeerError> {
        Self::start_with(&NatsOptions::default())
    }

    /// Starts a server with options.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start_with(options: &NatsOptions) -> Result<Self, PeerError> {
        let folder = TempDir::with_prefix("millrace-nats-")?;
        let port = free_port()?;
        let (store, limit) = match &options.store {
            Some(store) => (store.clone(), ", max_file_store: 64GB"),
            None => (folder.path().join("store"), ""),
        };
        let listen = if options.address.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        let config = format!(
            "listen: \"{listen}:{port}\"\njetstream {{ store_dir: \"{}\"{limit} }}\n{}\n",
            store.display(),
            options.config
        );
        std::fs::write(folder.path().join("nats.conf"), config)?;
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let mut server = Self { address, port, folder, running: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts a server with a whole configuration of the caller's, which has it listen on a port of the loopback address.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start_configured(config: &str, port: u16) -> Result<Self, PeerError> {
        let folder = TempDir::with_prefix("millrace-nats-")?;
        std::fs::write(folder.path().join("nats.conf"), config)?;
        let address = Ipv4Addr::LOCALHOST.into();
        let mut server = Self { address, port, folder, running: None };
        server.restart()?;
        Ok(server)
    }

    /// Address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.address, self.port)
    }

    /// Its folder: configuration, store and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it (kill -9). What JetStream has acknowledged is in the store.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.kill())
    }

    /// Starts it again on the same port and store, after ending one that runs.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), PeerError> {
        self.kill()?;
        let config = self.folder.path().join("nats.conf");
        let log = self.folder.path().join("log");
        self.running =
            Some(Running::start(&PROGRAM, ["-c".as_ref(), config.as_os_str()], &log, self.port)?);
        Ok(())
    }

    /// Stops it from answering, or lets it go on.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| running.freeze(freeze))
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
