//! The Kafka connector keeps the contract, against a real Apache Kafka.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::sync::Arc;

use anyhow::Result;
use common::{Record, all, producer, send, topic, unique};
use millrace_conformance::{
    Abilities, Ability, Flat, Note, Outside, Peer, Role, Seen, Tls, Window,
};
use millrace_kafka::{KafkaSink, KafkaSource};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_peers::Kafka;
use millrace_settings::kafka::{SinkSettings, SourceSettings};
use millrace_settings::{FieldError, from_flat};
use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::Producer as _;

const WINDOW: u64 = 50;

/// One broker for all checks, and topics of its own for each.
struct Broker {
    kafka: Kafka,
    place: String,
    /// Whether its certificate or its users are not those of its first start.
    changed: bool,
}

impl Broker {
    fn start() -> Self {
        Self { kafka: Kafka::start().unwrap(), place: String::new(), changed: false }
    }

    fn topic_in(&self) -> String {
        format!("{}-in", self.place)
    }

    fn topic_out(&self) -> String {
        format!("{}-out", self.place)
    }

    fn at(&self, brokers: String, role: Role) -> Flat {
        let mut config = Flat::from([("brokers".to_owned(), brokers)]);
        match role {
            Role::Source => config.extend([
                ("topics".to_owned(), self.topic_in()),
                ("group".to_owned(), format!("{}-group", self.place)),
                ("start".to_owned(), "earliest".to_owned()),
                ("session-timeout".to_owned(), "6s".to_owned()),
                ("window".to_owned(), WINDOW.to_string()),
            ]),
            Role::Sink => config.extend([("topic".to_owned(), "{key}".to_owned())]),
        }
        config
    }
}

impl Peer for Broker {
    const CONNECTOR: &'static str = "kafka";

    fn abilities(&self) -> Abilities {
        Abilities {
            source: Ability::Yes,
            sink: Ability::Yes,
            outside: Outside::Log,
            headers: Ability::Yes,
            large: Ability::Yes,
            tls: Ability::Yes,
            mutual_tls: Ability::Yes,
            login: Ability::Yes,
            impossible: Ability::Yes,
            leaves: Ability::Yes,
        }
    }

    async fn fresh(&mut self) -> Result<()> {
        if self.changed {
            let good = self.kafka.certificates().good_server().to_owned();
            self.kafka.use_server_certificate(&good)?;
            self.changed = false;
            self.kafka.restart()?;
        } else if self.kafka.pid().is_none() {
            self.kafka.restart()?;
        }
        self.place = unique("place");
        topic(&self.kafka, &self.topic_in(), 2, &[]).await;
        topic(&self.kafka, &self.topic_out(), 2, &[]).await;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(self.kafka.restart()?)
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.kafka.stop()?)
    }

    fn address(&self) -> String {
        self.kafka.brokers()
    }

    fn config(&self, role: Role) -> Flat {
        self.at(self.kafka.brokers(), role)
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        link: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        let settings: SourceSettings = from_flat(config, &[])?;
        Ok(Box::new(KafkaSource::new(settings, limits, format!("millrace-{}", link.names.name))))
    }

    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &[])?;
        let id = format!("millrace-{}", link.names.name);
        Ok(KafkaSink::open(settings, id, link.clone(), dead.clone()))
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        let producer = producer(&self.kafka.brokers());
        for note in notes {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &note.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let (payload, partition) = (note.payload(), i32::from(note.number % 2 == 1));
            let record = Record {
                partition: Some(partition),
                payload: Some(&payload),
                headers: Some(headers),
                ..Record::default()
            };
            send(&producer, &self.topic_in(), record);
        }
        Ok(producer.flush(std::time::Duration::from_secs(20))?)
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        let records = all(&self.kafka, &self.topic_out());
        let notes = records.iter().filter_map(|record| {
            let number = Note::number_in(record.payload()?)?;
            let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = headers
                .filter_map(|header| Some((header.key.to_owned(), text(header.value?))))
                .collect();
            Some(Note { number, headers, size: 0 })
        });
        Ok(notes.collect())
    }

    fn message(&self, note: &Note) -> Seen {
        Seen {
            topic: "conformance".to_owned(),
            key: Some(self.topic_out().into_bytes()),
            headers: note.headers.clone(),
            payload: note.payload(),
            ..Seen::default()
        }
    }

    fn window(&self) -> Window {
        Window { messages: WINDOW, bytes: WINDOW * millrace_conformance::LARGE as u64 }
    }

    async fn serve_tls(&mut self, case: Tls) -> Result<()> {
        let certificates = self.kafka.certificates();
        let pem = match case {
            Tls::Untrusted => certificates.untrusted_server(),
            Tls::Expired => certificates.expired_server(),
            Tls::WrongName => certificates.other_server(),
            Tls::Good | Tls::Plain | Tls::Mutual | Tls::MutualWithout => certificates.good_server(),
        };
        let pem = pem.to_owned();
        self.kafka.use_server_certificate(&pem)?;
        self.changed = true;
        Ok(self.kafka.restart()?)
    }

    fn tls_config(&self, role: Role, case: Tls) -> Flat {
        let brokers = match case {
            Tls::Plain => self.kafka.brokers(),
            Tls::Mutual | Tls::MutualWithout => self.kafka.brokers_mutual_tls(),
            _ => self.kafka.brokers_tls(),
        };
        let mut config = self.at(brokers, role);
        let certificates = self.kafka.certificates();
        config.insert("tls".to_owned(), "true".to_owned());
        config.insert("tls-ca-file".to_owned(), certificates.path("ca.pem"));
        if case == Tls::Mutual {
            config.insert("tls-cert-file".to_owned(), certificates.path("client.pem"));
            config.insert("tls-key-file".to_owned(), certificates.path("client.key"));
        }
        config
    }

    async fn require_login(&mut self, user: &str, password: &str) -> Result<()> {
        self.kafka.add_user(user, password)?;
        Ok(self.kafka.restart()?)
    }

    fn login_config(&self, role: Role) -> Flat {
        let mut config = self.at(self.kafka.brokers_sasl(), role);
        config.insert("sasl".to_owned(), "plain".to_owned());
        config
    }

    fn impossible(&self) -> Option<(Flat, Seen)> {
        // Its topic is made from a key that is not there.
        let without_a_key = Seen { payload: b"no key".to_vec(), ..Seen::default() };
        Some((self.config(Role::Sink), without_a_key))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract() {
    millrace_conformance::all(&mut Broker::start()).await.unwrap();
}
