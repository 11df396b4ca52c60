//! A local platform: nats-server and the host as child processes, started in order, ended in order, leaving nothing
//! behind, also when the process that started them is killed.
//!
//! The command line (`up`, `demo`, `bench`) and the end-to-end tests use it; a plant's own service manager can take
//! its place.
//!
//! - [`find`]: where the executables and provider archives are;
//! - [`NatsServer`]: a nats-server with JetStream on the loopback interface;
//! - [`Host`]: a `millrace-host` on a lattice of it.

pub mod find;
mod host;
mod log;
mod memory;
mod nats;
mod process;
mod time;

pub use host::{Host, HostOptions};
pub use log::LogLimits;
pub use memory::{kill_all_of, memory_of};
pub use nats::{Configured, NatsOptions, NatsServer, Sync, free_port};
pub use process::guarded;
pub use time::parse_time;

use std::path::PathBuf;
use std::time::Duration;

/// Why a part of the platform does not run.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// An executable or archive that should be installed is not there.
    #[error("{what} not found; looked at {}. {mend}", looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// What was looked for.
        what: String,
        /// Where.
        looked: Vec<PathBuf>,
        /// What to do.
        mend: String,
    },
    /// nats-server is there but too old or does not run.
    #[error("nats-server in {} is {found}, and 2.10 or newer is needed. Install a current one with `scripts/setup nats-server`", path.display())]
    NatsVersion {
        /// The executable.
        path: PathBuf,
        /// What it said of its version.
        found: String,
    },
    /// The port is taken.
    #[error(
        "port {port} on 127.0.0.1 is in use. Choose another with --nats-port, or use the server that is there with --nats-url nats://127.0.0.1:{port}"
    )]
    PortTaken {
        /// The TCP port.
        port: u16,
    },
    /// A child process could not be started, or a file it needs could not be written.
    #[error("could not {what}: {source}")]
    Io {
        /// The attempt.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The server is there and does not let this process in.
    #[error("{0}")]
    Access(Box<millrace_access::AccessError>),
    /// A child process ended when it should have become ready.
    #[error("{name} ended ({status}) before it was ready. The last lines of its log:\n{log}")]
    Ended {
        /// Which.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// End of its log, at most 20 lines.
        log: String,
    },
    /// A child process did not become ready in time.
    #[error("{name} was not ready after {} s. The last lines of its log:\n{log}", after.as_secs())]
    NotReady {
        /// Which.
        name: &'static str,
        /// The time waited.
        after: Duration,
        /// End of its log, at most 20 lines.
        log: String,
    },
}

impl PlatformError {
    fn access(error: millrace_access::AccessError) -> Self {
        Self::Access(Box::new(error))
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
