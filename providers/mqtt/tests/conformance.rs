//! The MQTT connector keeps the contract, against a real Mosquitto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use anyhow::{Context, Result};
use common::{Collector, Letter};
use millrace_conformance::{
    Abilities, Ability, Flat, Note, Outside, Peer, Role, Seen, Tls, Window,
};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_mqtt::{MqttSink, MqttSource};
use millrace_peers::{Authority, Mosquitto, Validity, free_port};
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use millrace_settings::{FieldError, from_flat};
use tempfile::TempDir;

const IN: &str = "conformance/in";
const OUT: &str = "conformance/out";
const RECEIVE_MAXIMUM: u64 = 50;

/// A broker with two listeners: the first, on its own port, is the connector's
/// and changes with the checks; the second is for the world outside.
struct Broker {
    version: &'static str,
    qos: &'static str,
    /// Over WebSocket.
    websocket: bool,
    folder: TempDir,
    trusted: Authority,
    unknown: Authority,
    running: Option<Running>,
}

struct Running {
    mosquitto: Mosquitto,
    outside: u16,
    collector: Collector,
}

impl Broker {
    fn new(version: &'static str, qos: &'static str, websocket: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            version,
            qos,
            websocket,
            trusted: Authority::new(folder.path(), "trusted").unwrap(),
            unknown: Authority::new(folder.path(), "unknown").unwrap(),
            folder,
            running: None,
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("fresh was called")
    }

    fn running_mut(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("fresh was called")
    }

    /// The configuration with these lines for the connector's listener.
    fn lines(&self, outside: u16, listener: &str) -> String {
        let protocol = if self.websocket { "protocol websockets\n" } else { "" };
        format!(
            "{protocol}per_listener_settings true\nmax_inflight_messages 0\n{listener}\n\
             listener {outside} 127.0.0.1\nallow_anonymous true\n"
        )
    }

    /// Restarts the broker with these lines for the connector's listener.
    fn serve(&mut self, listener: &str) -> Result<()> {
        let lines = self.lines(self.running().outside, listener);
        let running = self.running_mut()?;
        running.mosquitto.stop()?;
        running.mosquitto.configure(&lines)?;
        Ok(running.mosquitto.restart()?)
    }

    fn url(&self, tls: bool, host: &str) -> String {
        let port = self.running().mosquitto.port();
        match (self.websocket, tls) {
            (false, false) => format!("mqtt://{host}:{port}"),
            (false, true) => format!("mqtts://{host}:{port}"),
            (true, false) => format!("ws://{host}:{port}/mqtt"),
            (true, true) => format!("wss://{host}:{port}/mqtt"),
        }
    }
}

impl Peer for Broker {
    const CONNECTOR: &'static str = "mqtt";

    fn abilities(&self) -> Abilities {
        Abilities {
            source: Ability::Yes,
            sink: Ability::Yes,
            outside: Outside::Log,
            headers: match self.version {
                "5" => Ability::Yes,
                _ => Ability::No("MQTT 3.1.1 has no user properties"),
            },
            // Seen with other clients too: Mosquitto 2.0.11 stops sending to a
            // WebSocket when about half a mebibyte is under way.
            large: match self.websocket {
                true => Ability::No("Mosquitto's WebSocket stalls in a burst of large messages"),
                false => Ability::Yes,
            },
            tls: Ability::Yes,
            mutual_tls: Ability::Yes,
            login: Ability::Yes,
            impossible: Ability::Yes,
            leaves: Ability::Yes,
        }
    }

    async fn fresh(&mut self) -> Result<()> {
        self.running = None;
        let outside = free_port()?;
        let mosquitto = Mosquitto::start_with(&self.lines(outside, "allow_anonymous true"))?;
        let collector = Collector::start(outside, OUT).await?;
        self.running = Some(Running { mosquitto, outside, collector });
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(self.running_mut()?.mosquitto.restart()?)
    }

    async fn stop(&mut self) -> Result<()> {
        // In order: Mosquitto writes its queues only then. See `Mosquitto::kill`.
        Ok(self.running_mut()?.mosquitto.stop()?)
    }

    fn address(&self) -> String {
        self.url(false, "127.0.0.1")
    }

    fn config(&self, role: Role) -> Flat {
        let mut config = Flat::from([
            ("url".to_owned(), self.url(false, "127.0.0.1")),
            ("version".to_owned(), self.version.to_owned()),
            ("qos".to_owned(), self.qos.to_owned()),
        ]);
        match role {
            Role::Source => config.extend([
                ("topic".to_owned(), IN.to_owned()),
                ("receive-maximum".to_owned(), RECEIVE_MAXIMUM.to_string()),
            ]),
            Role::Sink => config.extend([("topic".to_owned(), OUT.to_owned())]),
        }
        config
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        link: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        let settings: SourceSettings = from_flat(config, &[])?;
        let id = format!("millrace-{}", link.names.name);
        Ok(Box::new(MqttSource::new(settings, limits, id)?))
    }

    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &[])?;
        let id = format!("millrace-{}", link.names.name);
        Ok(MqttSink::open(settings, id, link.clone(), dead.clone())?)
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        let letters = notes.iter().map(|note| Letter {
            topic: IN.to_owned(),
            payload: note.payload(),
            headers: note.headers.clone(),
            ..Letter::default()
        });
        common::publish(self.running().outside, letters.collect()).await
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        let letters = self.running().collector.letters();
        let notes = letters.into_iter().filter_map(|letter| {
            let number = Note::number_in(&letter.payload)?;
            Some(Note { number, headers: letter.headers, size: 0 })
        });
        Ok(notes.collect())
    }

    fn window(&self) -> Window {
        let large = millrace_conformance::LARGE as u64;
        Window { messages: RECEIVE_MAXIMUM, bytes: RECEIVE_MAXIMUM * large }
    }

    async fn serve_tls(&mut self, case: Tls) -> Result<()> {
        let lines = match case {
            Tls::Plain => "allow_anonymous true".to_owned(),
            _ => {
                let identity = match case {
                    Tls::Untrusted => self.unknown.sign("localhost", Validity::Valid)?,
                    Tls::Expired => self.trusted.sign("localhost", Validity::Expired)?,
                    Tls::WrongName => self.trusted.sign("other.example", Validity::Valid)?,
                    _ => self.trusted.sign("localhost", Validity::Valid)?,
                };
                let mutual = match case {
                    Tls::Mutual | Tls::MutualWithout => {
                        format!(
                            "cafile {}\nrequire_certificate true\n",
                            self.trusted.file().display()
                        )
                    }
                    _ => String::new(),
                };
                format!(
                    "allow_anonymous true\ncertfile {}\nkeyfile {}\n{mutual}",
                    identity.certificate.display(),
                    identity.key.display()
                )
            }
        };
        self.serve(&lines)
    }

    fn tls_config(&self, role: Role, case: Tls) -> Flat {
        let mut config = self.config(role);
        config.insert("url".to_owned(), self.url(true, "localhost"));
        let mut file = |field: &str, path: &std::path::Path| {
            config.insert(field.to_owned(), path.to_string_lossy().into_owned());
        };
        file("tls-ca-file", self.trusted.file());
        if case == Tls::Mutual {
            let identity = self.trusted.sign("client", Validity::Valid).unwrap();
            file("tls-cert-file", &identity.certificate);
            file("tls-key-file", &identity.key);
        }
        config
    }

    async fn require_login(&mut self, user: &str, password: &str) -> Result<()> {
        let file = self.folder.path().join("users");
        millrace_peers::mosquitto_password(&file, user, password)?;
        self.serve(&format!("allow_anonymous false\npassword_file {}", file.display()))
    }

    fn impossible(&self) -> Option<(Flat, Seen)> {
        let mut config = self.config(Role::Sink);
        config.insert("topic".to_owned(), "conformance/{key}".to_owned());
        let without_a_key = Seen { payload: b"no key".to_vec(), ..Seen::default() };
        Some((config, without_a_key))
    }

    fn message(&self, note: &Note) -> Seen {
        Seen {
            topic: "conformance".to_owned(),
            key: Some(b"out".to_vec()),
            headers: note.headers.clone(),
            payload: note.payload(),
            ..Seen::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_at_qos_1() {
    millrace_conformance::all(&mut Broker::new("5", "1", false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_at_qos_2() {
    millrace_conformance::all(&mut Broker::new("5", "2", false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_at_qos_1() {
    millrace_conformance::all(&mut Broker::new("3.1.1", "1", false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_at_qos_2() {
    millrace_conformance::all(&mut Broker::new("3.1.1", "2", false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_over_websocket() {
    millrace_conformance::all(&mut Broker::new("5", "1", true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_over_websocket() {
    millrace_conformance::all(&mut Broker::new("3.1.1", "1", true)).await.unwrap();
}
