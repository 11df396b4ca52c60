//! The configuration of nats-server: operator mode with the full resolver, JetStream, TLS.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::files::{self, FileError};
use crate::home::Home;

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Address and port for clients, such as `127.0.0.1:4222`.
    pub listen: String,
    /// Its name; servers of a cluster need one each.
    pub name: Option<String>,
    /// Folder for JetStream's streams.
    pub store: PathBuf,
    /// Bytes on disk and in memory that the limits of all accounts together may come to. A server refuses JetStream to
    /// an account whose limit does not fit; so this is how far it is overbooked, and not what the machine has.
    pub promise: (u64, u64),
    /// Folder for its copy of all accounts. Each server of a cluster has one of its own.
    pub jwt: PathBuf,
    /// `always`, or a time such as `2m`: how long acknowledged messages may wait for the disk.
    pub sync_interval: String,
    /// Certificate, key and authority for clients; without it nothing is encrypted.
    pub tls: Option<TlsFiles>,
    /// Address and port of its monitoring, which anybody may ask who reaches it.
    pub monitor: Option<String>,
    /// Its place in a cluster.
    pub cluster: Option<Cluster>,
    /// File for its process id.
    pub pid_file: Option<PathBuf>,
    /// Where its log goes; without it to standard error.
    pub log: Option<LogFile>,
}

/// A log whose size and number of files are bounded by the server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The file. Those that are full get the time behind its name.
    pub path: PathBuf,
    /// Bytes at which it is full.
    pub bytes: u64,
    /// How many there are at most, this one among them.
    pub files: u32,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that clients trust.
    pub authority: PathBuf,
}

/// A server's place in a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// Address and port for the other servers.
    pub listen: String,
    /// Where the others listen, as `host:port`.
    pub routes: Vec<String>,
    /// Certificate, key and authority for routes. Both sides show a certificate of the authority: who is let in as a server
    /// has every account's messages and may push accounts.
    pub tls: TlsFiles,
}

impl ServerOptions {
    /// A single server of an installation, on an address, with its folders in the installation's.
    #[must_use]
    pub fn new(home: &Home, listen: &str) -> Self {
        Self {
            listen: listen.to_owned(),
            name: None,
            store: home.root().join("jetstream"),
            promise: (4 << 40, 256 << 30),
            jwt: home.jwt_folder(),
            sync_interval: "2m".to_owned(),
            tls: None,
            monitor: None,
            cluster: None,
            pid_file: None,
            log: None,
        }
    }

    /// The whole configuration.
    #[must_use]
    pub fn configuration(&self, home: &Home) -> String {
        // Debug formatting quotes and escapes as the configuration's strings are.
        let mut text =
            format!("# Written by millrace. Changes are lost.\nlisten: {:?}\n", self.listen);
        if let Some(name) = &self.name {
            let _ = writeln!(text, "server_name: {name:?}");
        }
        if let Some(pid_file) = &self.pid_file {
            let _ = writeln!(text, "pid_file: {pid_file:?}");
        }
        if let Some(LogFile { path, bytes, files }) = &self.log {
            let _ = writeln!(
                text,
                "log_file: {path:?}\nlogfile_size_limit: {bytes}\nlogfile_max_num: {files}"
            );
        }
        if let Some(monitor) = &self.monitor {
            let _ = writeln!(text, "http: {monitor:?}");
        }
        let _ = writeln!(
            text,
            "jetstream {{\n  store_dir: {:?}\n  sync_interval: {:?}\n  max_file_store: {}\n  max_memory_store: {}\n}}",
            self.store, self.sync_interval, self.promise.0, self.promise.1
        );
        if let Some(cluster) = &self.cluster {
            let routes = cluster.routes.iter().map(|route| format!("\"nats://{route}\""));
            let routes = routes.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "cluster {{\n  name: {:?}\n  listen: {:?}\n  routes: [{routes}]\n  tls {{\n    cert_file: {:?}\n    key_file: {:?}\n    ca_file: {:?}\n    verify: true\n    min_version: \"1.2\"\n    timeout: 5\n  }}\n}}",
                cluster.name,
                cluster.listen,
                cluster.tls.certificate,
                cluster.tls.key,
                cluster.tls.authority
            );
        }
        if let Some(tls) = &self.tls {
            let _ = writeln!(
                text,
                "tls {{\n  cert_file: {:?}\n  key_file: {:?}\n  ca_file: {:?}\n  min_version: \"1.2\"\n}}",
                tls.certificate, tls.key, tls.authority
            );
        }
        text + &accounts(home, &self.jwt)
    }

    /// Writes the whole configuration, and makes the folder of accounts.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, home: &Home, file: &Path) -> Result<(), FileError> {
        files::private_folder(&self.jwt)?;
        files::write_private(file, self.configuration(home).as_bytes())
    }
}

/// The part of a configuration that makes a server trust the operator, and keep accounts in a folder.
///
/// Servers of a cluster compare their folders at the interval: for so long a server that was away may let in whoever
/// was suspended meanwhile.
#[must_use]
pub fn accounts(home: &Home, jwt: &Path) -> String {
    format!(
        "operator: {operator:?}\n\
         system_account: {system:?}\n\
         resolver {{\n  type: full\n  dir: {jwt:?}\n  allow_delete: true\n  interval: \"5s\"\n  limit: 100000\n}}\n\
         resolver_preload {{\n  {system}: {token:?}\n}}\n",
        operator = home.operator_jwt(),
        system = home.system_account(),
        token = home.system_jwt(),
    )
}
