//! Real servers for tests.
//!
//! What a connector does when its peer refuses, dies or comes back can only be
//! tested against the peer itself. These helpers start one on a free port with
//! a store of its own, kill it the hard way, start it again on the same port
//! and store, and leave nothing behind when they are dropped.
//!
//! A missing program is an error that says how to install it: a test that
//! skips itself is a test that does not exist.

mod certificates;
mod kafka;
mod kafka_certificates;
mod modbus;
mod mosquitto;
mod nats;
mod process;

pub use certificates::{Authority, Identity, Validity};
pub use kafka::{KAFKA_USER, Kafka, KafkaOptions};
pub use kafka_certificates::Certificates;
pub use modbus::{ModbusSlave, SerialPair, SlaveMode, SlaveUnit};
pub use mosquitto::{Mosquitto, mosquitto_password};
pub use nats::{NatsOptions, NatsServer};

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Why a peer is not there.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The program is not installed.
    #[error(
        "{program} not found in ${variable}, PATH or the cache of tools. Install it: {install}"
    )]
    Missing {
        /// Name of the program.
        program: &'static str,
        /// Environment variable that may point to it.
        variable: &'static str,
        /// Command that installs it.
        install: &'static str,
    },
    /// It ended or did not listen in time.
    #[error("{program} did not start: {reason}")]
    NotStarted {
        /// Name of the program.
        program: &'static str,
        /// Its output, or that it took too long.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A TCP port of the loopback interface that is free now. Another program may
/// take it before it is used; the kernel hands out others first.
///
/// # Errors
///
/// When no port can be had.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
