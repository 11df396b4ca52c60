//! A Modbus slave (pymodbus), and a serial line with two ends (socat).

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::{Program, Running};
use crate::{PeerError, free_port};

const PYMODBUS: Program = Program {
    // A virtual environment in the folder of tools.
    name: "pymodbus/bin/python3",
    variable: "MILLRACE_PYMODBUS",
    install: "scripts/setup pymodbus",
};

const SOCAT: Program = Program {
    name: "socat",
    variable: "MILLRACE_SOCAT",
    install: "apt-get install socat, or `make setup`",
};

/// The slave itself, which runs pymodbus.
const SCRIPT: &str = include_str!("modbus_slave.py");

/// How the slave is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlaveMode {
    /// Modbus TCP.
    Tcp,
    /// RTU frames over TCP.
    RtuOverTcp,
    /// RTU on this serial line.
    Serial(PathBuf),
}

/// One unit of a slave. Each table begins at address 0 on the wire, and a
/// table may not be empty.
#[derive(Debug, Clone)]
pub struct SlaveUnit {
    /// Its identifier.
    pub unit: u8,
    /// Coils; a multiple of 16.
    pub coils: Vec<bool>,
    /// Discrete inputs; a multiple of 16.
    pub discrete: Vec<bool>,
    /// Holding registers.
    pub holding: Vec<u16>,
    /// Input registers.
    pub input: Vec<u16>,
}

impl SlaveUnit {
    /// A unit with so many holding and input registers of ascending value and
    /// 16 coils and discrete inputs that are off.
    #[must_use]
    pub fn ascending(unit: u8, registers: u16) -> Self {
        Self {
            unit,
            coils: vec![false; 16],
            discrete: vec![false; 16],
            holding: (0..registers).collect(),
            input: (0..registers).collect(),
        }
    }
}

/// A slave with several units, on a free port or a serial line. Units that it
/// does not have do not answer.
#[derive(Debug)]
pub struct ModbusSlave {
    port: u16,
    mode: SlaveMode,
    folder: TempDir,
    running: Option<Running>,
}

impl ModbusSlave {
    /// Starts a slave.
    ///
    /// # Errors
    ///
    /// When the program is missing or does not start.
    pub fn start(mode: SlaveMode, units: &[SlaveUnit]) -> Result<Self, PeerError> {
        let folder = TempDir::with_prefix("millrace-modbus-")?;
        let port = free_port()?;
        let (name, line) = match &mode {
            SlaveMode::Tcp => ("tcp", String::new()),
            SlaveMode::RtuOverTcp => ("rtu-over-tcp", String::new()),
            SlaveMode::Serial(line) => ("serial", line.display().to_string()),
        };
        let units: Vec<String> = units.iter().map(json).collect();
        let config = format!(
            "{{\"mode\":\"{name}\",\"port\":{port},\"line\":\"{line}\",\"units\":[{}]}}",
            units.join(",")
        );
        std::fs::write(folder.path().join("config.json"), config)?;
        std::fs::write(folder.path().join("slave.py"), SCRIPT)?;
        let mut slave = Self { port, mode, folder, running: None };
        slave.restart()?;
        Ok(slave)
    }

    /// Address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.mode {
            SlaveMode::Tcp => format!("tcp://127.0.0.1:{}", self.port),
            SlaveMode::RtuOverTcp => format!("rtu-over-tcp://127.0.0.1:{}", self.port),
            // The other end is where the client is; the test knows it.
            SlaveMode::Serial(line) => format!("rtu://{}", line.display()),
        }
    }

    /// Its TCP port on the loopback interface.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it (kill -9).
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.kill())
    }

    /// Starts it again on the same port, with the values of its first start.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), PeerError> {
        self.kill()?;
        let folder = self.folder.path();
        let args = [folder.join("slave.py"), folder.join("config.json")];
        self.running = Some(Running::start(&PYMODBUS, args, &folder.join("log"), self.port)?);
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

    /// The requests it has got since its first start, each as `unit function
    /// address count`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter_map(|line| line.strip_prefix("request "))
            .map(str::to_owned)
            .collect()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn json(unit: &SlaveUnit) -> String {
    let mut text = format!("{{\"unit\":{}", unit.unit);
    let tables = [
        ("coils", format!("{:?}", unit.coils)),
        ("discrete", format!("{:?}", unit.discrete)),
        ("holding", format!("{:?}", unit.holding)),
        ("input", format!("{:?}", unit.input)),
    ];
    for (name, values) in tables {
        // Rust prints lists of numbers and truth values as JSON has them.
        let _ = write!(text, ",\"{name}\":{values}");
    }
    text + "}"
}

/// A serial line with two ends, each a path under a folder of its own.
#[derive(Debug)]
pub struct SerialPair {
    folder: TempDir,
    running: Option<Running>,
}

impl SerialPair {
    /// Makes a line.
    ///
    /// # Errors
    ///
    /// When socat is missing or does not start.
    pub fn start() -> Result<Self, PeerError> {
        let mut pair = Self { folder: TempDir::with_prefix("millrace-serial-")?, running: None };
        pair.connect()?;
        Ok(pair)
    }

    /// Path of the end for the client.
    #[must_use]
    pub fn near(&self) -> PathBuf {
        self.end("near")
    }

    /// Path of the end for the slave.
    #[must_use]
    pub fn far(&self) -> PathBuf {
        self.end("far")
    }

    fn end(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Takes the line away, as pulling out an adapter does: both paths are
    /// gone, and whoever had one open gets errors.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn disconnect(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.terminate())
    }

    /// Puts the line back, under the same paths.
    ///
    /// # Errors
    ///
    /// When socat does not start.
    pub fn connect(&mut self) -> Result<(), PeerError> {
        self.disconnect()?;
        let end = |path: &Path| format!("pty,rawer,link={}", path.display());
        let (near, far) = (self.near(), self.far());
        let ready = || near.exists() && far.exists();
        let log = self.folder.path().join("log");
        self.running = Some(Running::start_until(&SOCAT, [end(&near), end(&far)], &log, ready)?);
        Ok(())
    }
}
