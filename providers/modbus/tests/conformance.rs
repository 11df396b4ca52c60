//! The Modbus connector keeps the contract, against a real pymodbus slave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_conformance::{Abilities, Ability, Flat, Note, Outside, Peer, Role, Seen, Window};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_modbus::{ModbusSink, ModbusSource};
use millrace_peers::{ModbusSlave, SlaveMode, SlaveUnit};
use millrace_settings::modbus::{SinkSettings, SourceSettings};
use millrace_settings::{FieldError, from_flat};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_modbus::client::{Context as Client, Reader, Writer, rtu, tcp};
use tokio_modbus::prelude::Slave;

/// The holding register that the world outside changes, and the source reads.
const IN: u16 = 0;
/// The holding register that the sink writes.
const OUT: u16 = 100;
/// What both hold before anybody has written: no number of the suite.
const NOTHING: u16 = u16::MAX;

/// Fields of the source, each a message in every cycle. With so many the most
/// that it may hold is reached within a second or two. Less than a batch of
/// the suite holds: a cycle is a batch.
const FIELDS: u16 = 45;
/// Readings that a source of so few fields holds for its stage.
const HELD: u64 = 1_000;

/// How long the world outside waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One slave, and how it is reached.
struct Bus {
    mode: SlaveMode,
    slave: Option<ModbusSlave>,
}

impl Bus {
    const fn new(mode: SlaveMode) -> Self {
        Self { mode, slave: None }
    }

    fn slave(&self) -> &ModbusSlave {
        self.slave.as_ref().expect("fresh was called")
    }

    /// A client of its own, without the connector.
    async fn client(&self) -> Result<Client> {
        let line = TcpStream::connect(("127.0.0.1", self.slave().port())).await?;
        line.set_nodelay(true)?;
        Ok(match self.mode {
            SlaveMode::Tcp => tcp::attach_slave(line, Slave(1)),
            _ => rtu::attach_slave(line, Slave(1)),
        })
    }
}

fn field(address: u16) -> Value {
    json!({ "address": format!("0x{address:04X}"), "register": "holding" })
}

impl Peer for Bus {
    const CONNECTOR: &'static str = "modbus";

    fn abilities(&self) -> Abilities {
        Abilities {
            source: Ability::Yes,
            sink: Ability::Yes,
            // A register has 65536 values, and one of them is `NOTHING`.
            outside: Outside::State { distinct: u64::from(NOTHING) },
            headers: Ability::No("Modbus has no headers"),
            large: Ability::No("the largest value of Modbus is of 250 bytes"),
            tls: Ability::No("Modbus/TLS is not supported"),
            mutual_tls: Ability::No("Modbus/TLS is not supported"),
            login: Ability::No("Modbus has no authentication"),
            impossible: Ability::Yes,
            leaves: Ability::Yes,
        }
    }

    async fn fresh(&mut self) -> Result<()> {
        self.slave = None;
        let mut unit = SlaveUnit::ascending(1, OUT + 1);
        for (address, value) in unit.holding.iter_mut().enumerate() {
            if [IN, OUT].map(usize::from).contains(&address) {
                *value = NOTHING;
            }
        }
        self.slave = Some(ModbusSlave::start(self.mode.clone(), &[unit])?);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(self.slave.as_mut().context("fresh was called")?.restart()?)
    }

    async fn stop(&mut self) -> Result<()> {
        // It keeps nothing, so there is no other way to go than to be switched off.
        Ok(self.slave.as_mut().context("fresh was called")?.kill()?)
    }

    fn address(&self) -> String {
        self.slave().url()
    }

    fn config(&self, role: Role) -> Flat {
        let fields: serde_json::Map<String, Value> = match role {
            Role::Source => (0..FIELDS)
                .map(|n| match n {
                    IN => ("in".to_owned(), field(IN)),
                    _ => (format!("more-{n}"), field(n)),
                })
                .collect(),
            Role::Sink => [("out".to_owned(), field(OUT))].into_iter().collect(),
        };
        let mut config = Flat::from([
            ("url".to_owned(), self.slave().url()),
            ("fields".to_owned(), Value::Object(fields).to_string()),
            ("timeout".to_owned(), "500ms".to_owned()),
        ]);
        if role == Role::Source {
            config.insert("interval".to_owned(), "50ms".to_owned());
        }
        config
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        _: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        let settings: SourceSettings = from_flat(config, &[])?;
        Ok(Box::new(ModbusSource::new(settings, limits)?))
    }

    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &[])?;
        Ok(ModbusSink::open(settings, link.clone(), dead.clone())?)
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        let mut client = self.client().await?;
        for note in notes {
            let value = u16::try_from(note.number)?;
            timeout(PATIENCE, client.write_single_register(IN, value)).await???;
        }
        Ok(())
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        let mut client = self.client().await?;
        let words = timeout(PATIENCE, client.read_holding_registers(OUT, 1)).await???;
        let written = words.into_iter().filter(|word| *word != NOTHING);
        Ok(written.map(|word| Note::new(word.into())).collect())
    }

    fn number(&self, seen: &Seen) -> Option<u64> {
        let reading: Value = serde_json::from_slice(&seen.payload).ok()?;
        let good = seen.topic == "in" && reading["quality"] == "good";
        reading["value"].as_u64().filter(|number| good && *number != u64::from(NOTHING))
    }

    fn message(&self, note: &Note) -> Seen {
        Seen { topic: "out".to_owned(), payload: note.payload(), ..Seen::default() }
    }

    fn window(&self) -> Window {
        // A cycle is begun while there is room, and then it is whole.
        Window { messages: HELD + u64::from(FIELDS), bytes: 16 << 20 }
    }

    fn impossible(&self) -> Option<(Flat, Seen)> {
        let not_granted =
            Seen { topic: "in".to_owned(), payload: b"1".to_vec(), ..Seen::default() };
        Some((self.config(Role::Sink), not_granted))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modbus_tcp() {
    millrace_conformance::all(&mut Bus::new(SlaveMode::Tcp)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rtu_over_tcp() {
    millrace_conformance::all(&mut Bus::new(SlaveMode::RtuOverTcp)).await.unwrap();
}
