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
mod machine;
mod modbus;
mod mosquitto;
mod nats;
mod process;
mod programs;
mod web;

pub use certificates::{Authority, Identity, Validity};
pub use kafka::{KAFKA_USER, Kafka, KafkaOptions};
pub use kafka_certificates::Certificates;
pub use machine::{MachineOptions, NatsMachine};
pub use modbus::{ModbusSlave, SerialPair, SlaveMode, SlaveUnit};
pub use mosquitto::{Mosquitto, mosquitto_password};
pub use nats::{NatsOptions, NatsServer};
pub use programs::{schemathesis, wash};
pub use web::WebServer;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

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
    /// There is no virtual machine.
    #[error("no virtual machine: {0}. Set it up: scripts/setup gpio-vm")]
    NoMachine(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The ports given out: below those that the kernel takes for outgoing
/// connections (32768 and up on Linux), one of which could take a port between
/// its choice and its use.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A TCP port of the loopback interface that is free now, and that this process
/// has not given out before.
///
/// # Errors
///
/// When no port can be had.
pub fn free_port() -> io::Result<u16> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Processes begin at different places.
    let next =
        NEXT.get_or_init(|| AtomicU16::new(RandomState::new().build_hasher().finish() as u16));
    let count = PORTS.end - PORTS.start;
    for _ in 0..count {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % count;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port"))
}
