//! The suite finds what is wrong: a small connector in memory passes it, and
//! with one fault at a time it does not. Time is simulated.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, Fields};
use millrace_conformance::{
    Abilities, Ability, Check, Flat, Note, Outside, Peer, Role, Seen, Tls, Window, some,
};
use millrace_kit::dead::{self, DeadKind};
use millrace_kit::{
    Backoff, DeadLetters, Delivery, Inlet, Limits, Link, Packed, Sink, Source, WriteError,
};
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use millrace_settings::{FieldError, from_flat};
use parking_lot::Mutex;
use tokio::time::sleep;

/// What can be wrong with a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    AcknowledgesAtOnce,
    NeverAcknowledges,
    ForgetsAtReconnect,
    TriesWithoutPause,
    TriesInStep,
    TakesEverything,
    StopsBeforeSafe,
    TakesWhileDraining,
    NeverStops,
    NeverLeaves,
    GivesUp,
    SaysNothing,
    SaysOkBeforeWritten,
    WaitsWhileAway,
    WritesWithoutItsPeer,
    LosesTheImpossible,
    TrustsAnyone,
    SpeaksInClear,
    ReadsThePasswordOnce,
    ShowsThePassword,
    DropsHeaders,
    CountsNothing,
    IgnoresASetting,
}

/// The world outside.
#[derive(Default)]
struct World {
    up: bool,
    /// Changes at each stop: a connection is of one number.
    epoch: u64,
    log: Vec<Note>,
    acknowledged: BTreeSet<usize>,
    written: Vec<Note>,
    tls: Option<Tls>,
    password: Option<String>,
}

type Shared = Arc<Mutex<World>>;

struct Memory {
    world: Shared,
    fault: Fault,
}

/// One half of the connector, as its settings have it.
#[derive(Clone)]
struct Half {
    world: Shared,
    fault: Fault,
    tls: bool,
    certificate: bool,
    login: Option<String>,
    /// The password as it was when the connector was made.
    password: Option<String>,
}

impl Half {
    /// Tries to connect; the number of the connection.
    fn connect(&self) -> Result<u64, String> {
        let world = self.world.lock();
        if !world.up {
            return Err("nobody is there".to_owned());
        }
        match (self.tls, world.tls) {
            (true, Some(Tls::Untrusted | Tls::Expired | Tls::WrongName))
                if self.fault != Fault::TrustsAnyone =>
            {
                return Err("the certificate is refused".to_owned());
            }
            (true, Some(Tls::Plain) | None) if self.fault != Fault::SpeaksInClear => {
                return Err("no TLS is spoken there".to_owned());
            }
            (true, Some(Tls::Mutual | Tls::MutualWithout)) if !self.certificate => {
                return Err("a certificate is asked for".to_owned());
            }
            _ => {}
        }
        if let (Some(wanted), Some(file)) = (&world.password, &self.login) {
            let found = match self.fault {
                Fault::ReadsThePasswordOnce => self.password.clone().unwrap_or_default(),
                _ => std::fs::read_to_string(file)
                    .map_err(|e| format!("password-file {file}: {e}"))?,
            };
            if self.fault == Fault::ShowsThePassword {
                tracing_shows(&found);
            }
            if found.trim_end() != wanted {
                return Err("not let in".to_owned());
            }
        }
        Ok(world.epoch)
    }

    fn is_connected(&self, epoch: u64) -> bool {
        let world = self.world.lock();
        world.up && world.epoch == epoch
    }
}

fn tracing_shows(secret: &str) {
    tracing::trace!("logging in with {secret}");
}

fn pauses(fault: Fault, backoff: &mut Backoff) -> Duration {
    match fault {
        Fault::TriesWithoutPause => Duration::from_millis(10),
        Fault::TriesInStep => Duration::from_millis(500),
        _ => backoff.next_pause(),
    }
}

struct MemorySource {
    half: Half,
    limits: Limits,
}

impl Source for MemorySource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Half { world, fault, .. } = self.half.clone();
            let new = || Inlet::new(delivery.clone(), link.clone(), self.limits);
            let mut inlet = new();
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            let mut before = false;
            let mut given = BTreeSet::new();
            let mut connection = None;
            loop {
                let draining = link.drain.is_cancelled();
                let leaves = link.leave.is_cancelled() && fault != Fault::NeverLeaves;
                if draining && (inlet.is_idle() || leaves || fault == Fault::StopsBeforeSafe) {
                    if fault == Fault::NeverStops {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                let connected = connection.is_some_and(|epoch| self.half.is_connected(epoch));
                if !connected && !draining {
                    if connection.take().is_some() && fault == Fault::ForgetsAtReconnect {
                        world.lock().acknowledged.extend(given.iter().copied());
                        inlet = new();
                    }
                    given.clear();
                    match self.half.connect() {
                        Ok(epoch) => {
                            connection = Some(epoch);
                            if before && fault != Fault::CountsNothing {
                                link.telemetry.reconnected();
                            }
                            before = true;
                            backoff.reset();
                            link.connected();
                        }
                        Err(_) if fault == Fault::GivesUp => return,
                        Err(error) => {
                            if fault != Fault::SaysNothing {
                                link.retrying(format_args!("memory://place: {error}"));
                            }
                            let pause = pauses(fault, &mut backoff);
                            tokio::select! {
                                () = sleep(pause) => {}
                                () = link.drain.cancelled() => {}
                                tokens = inlet.settled() => drop::<Vec<(u64, usize)>>(tokens),
                            }
                            continue;
                        }
                    }
                }
                if !draining || fault == Fault::TakesWhileDraining {
                    take(&self.half, &mut inlet, connection, &mut given);
                }
                if draining {
                    inlet.flush();
                }
                tokio::select! {
                    tokens = inlet.settled() => {
                        let mut world = world.lock();
                        for (epoch, place) in tokens {
                            if world.up && world.epoch == epoch && fault != Fault::NeverAcknowledges {
                                world.acknowledged.insert(place);
                            }
                        }
                    }
                    () = sleep(Duration::from_millis(5)) => {}
                }
            }
        })
    }
}

/// Takes what is there, as far as there is room.
fn take(
    half: &Half,
    inlet: &mut Inlet<(u64, usize)>,
    connection: Option<u64>,
    given: &mut BTreeSet<usize>,
) {
    let mut world = half.world.lock();
    let Some(epoch) = connection.filter(|epoch| world.up && world.epoch == *epoch) else { return };
    let all = half.fault == Fault::TakesEverything;
    for place in 0..world.log.len() {
        let room = inlet.has_room(40, 40 * millrace_conformance::LARGE);
        if !(room || all) || world.acknowledged.contains(&place) || !given.insert(place) {
            if !(room || all) {
                return;
            }
            continue;
        }
        let note = world.log[place].clone();
        let payload = note.payload();
        let headers: Vec<(&str, &str)> = match half.fault {
            Fault::DropsHeaders => Vec::new(),
            _ => note.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        };
        let fields = Fields { timestamp: 1, topic: "t", payload: &payload, ..Fields::default() };
        inlet.push(&fields, &headers, (epoch, place)).unwrap();
        if half.fault == Fault::AcknowledgesAtOnce {
            world.acknowledged.insert(place);
        }
    }
}

struct MemorySink {
    half: Half,
    link: Arc<Link>,
    dead: Arc<dyn DeadLetters>,
    needs_key: bool,
}

impl MemorySink {
    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let fault = self.half.fault;
        let target = "sink out".to_owned();
        let connected = || self.link.state() == millrace_kit::State::Connected;
        let up = || connected() && self.half.world.lock().up;
        while fault == Fault::WaitsWhileAway && !up() {
            sleep(Duration::from_millis(10)).await;
        }
        if !up() && fault != Fault::WritesWithoutItsPeer {
            return Err(WriteError::Unreachable { target, reason: "away".to_owned() });
        }
        let batch = Batch::parse(&body).map_err(|e| WriteError::Unreadable(e.to_string()))?;
        let telemetry = &self.link.telemetry;
        let started = tokio::time::Instant::now();
        if fault != Fault::CountsNothing {
            telemetry.received(batch.len() as u64, body.len() as u64);
        }
        let mut notes = Vec::new();
        for message in batch.messages() {
            if self.needs_key && message.key.is_none() {
                if fault != Fault::LosesTheImpossible {
                    let mut writer = millrace_batch::BatchWriter::new([]).unwrap();
                    writer.push_record(&message).unwrap();
                    let single = Packed::read(writer.finish().into());
                    let kind = DeadKind::InvalidArgument;
                    let letter =
                        dead::letter(&single, &self.link.names, kind, 1, "no key").unwrap();
                    self.dead.accept(letter).await?;
                    telemetry.buried(1);
                }
                continue;
            }
            let own = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
            let headers = match fault {
                Fault::DropsHeaders => Vec::new(),
                _ => message.headers().map(own).collect(),
            };
            let number = Note::number_in(message.payload).unwrap();
            notes.push(Note { number, headers, size: 0 });
        }
        let world = self.half.world.clone();
        if fault == Fault::SaysOkBeforeWritten {
            // Written by a task of its own, which ends with the connector.
            let alive = Arc::downgrade(&self.link);
            tokio::spawn(async move {
                sleep(Duration::from_millis(50)).await;
                if alive.upgrade().is_some() {
                    world.lock().written.extend(notes);
                }
            });
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
        // What goes away amid a write is waited for as well: whether one of the outages begins just then is chance.
        while fault == Fault::WaitsWhileAway && !up() {
            sleep(Duration::from_millis(10)).await;
        }
        if !up() && fault != Fault::WritesWithoutItsPeer {
            return Err(WriteError::Unreachable { target, reason: "lost".to_owned() });
        }
        let count = notes.len() as u64;
        world.lock().written.extend(notes);
        if fault != Fault::CountsNothing {
            telemetry.delivered(count, body.len() as u64);
            telemetry.acknowledged_after(started.elapsed());
        }
        Ok(())
    }
}

impl Sink for MemorySink {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        match self.half.fault {
            Fault::NeverStops => Box::pin(std::future::pending()),
            _ => Box::pin(std::future::ready(())),
        }
    }
}

async fn keep_connected(half: Half, link: std::sync::Weak<Link>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut before = false;
    while let Some(link) = link.upgrade() {
        let Ok(epoch) = half.connect().map_err(|error| {
            if half.fault != Fault::SaysNothing {
                link.retrying(format_args!("memory://place: {error}"));
            }
        }) else {
            drop(link);
            sleep(pauses(half.fault, &mut backoff)).await;
            continue;
        };
        if before && half.fault != Fault::CountsNothing {
            link.telemetry.reconnected();
        }
        before = true;
        backoff.reset();
        link.connected();
        drop(link);
        while half.is_connected(epoch) {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Memory {
    fn half(&self, config: &Flat) -> Half {
        let login = config.get("password-file").cloned();
        Half {
            world: self.world.clone(),
            fault: self.fault,
            tls: config.get("url").is_some_and(|url| url.starts_with("mqtts")),
            certificate: config.contains_key("tls-cert-file"),
            password: login.as_ref().and_then(|file| std::fs::read_to_string(file).ok()),
            login,
        }
    }

    /// With one fault a setting is not looked at.
    fn looked_at(&self, config: &Flat) -> Flat {
        let mut config = config.clone();
        if self.fault == Fault::IgnoresASetting {
            config.remove("keep-alive");
        }
        config
    }
}

impl Peer for Memory {
    const CONNECTOR: &'static str = "mqtt";

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
        self.world = Arc::new(Mutex::new(World { up: true, ..World::default() }));
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.world.lock().up = true;
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let mut world = self.world.lock();
        world.up = false;
        world.epoch += 1;
        Ok(())
    }

    fn address(&self) -> String {
        "memory://place".to_owned()
    }

    fn config(&self, role: Role) -> Flat {
        let topic = if role == Role::Source { "in" } else { "out" };
        [("url", "mqtt://place"), ("topic", topic)].map(|(k, v)| (k.into(), v.into())).into()
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        _: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        from_flat::<SourceSettings, _>(&self.looked_at(config), &[])?;
        Ok(Box::new(MemorySource { half: self.half(config), limits }))
    }

    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(&self.looked_at(config), &[])?;
        let half = self.half(config);
        tokio::spawn(keep_connected(half.clone(), Arc::downgrade(link)));
        let needs_key = settings.topic.to_string().contains("{key}");
        Ok(Arc::new(MemorySink { half, link: link.clone(), dead: dead.clone(), needs_key }))
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        self.world.lock().log.extend_from_slice(notes);
        Ok(())
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        Ok(self.world.lock().written.clone())
    }

    fn window(&self) -> Window {
        Window { messages: 40, bytes: 41 * millrace_conformance::LARGE as u64 }
    }

    async fn serve_tls(&mut self, case: Tls) -> Result<()> {
        let mut world = self.world.lock();
        world.tls = Some(case);
        world.epoch += 1;
        Ok(())
    }

    fn tls_config(&self, role: Role, case: Tls) -> Flat {
        let mut config = self.config(role);
        config.insert("url".into(), "mqtts://place".into());
        if case == Tls::Mutual {
            config.insert("tls-cert-file".into(), "/cert".into());
            config.insert("tls-key-file".into(), "/key".into());
        }
        config
    }

    async fn require_login(&mut self, _: &str, password: &str) -> Result<()> {
        self.world.lock().password = Some(password.to_owned());
        Ok(())
    }

    fn impossible(&self) -> Option<(Flat, Seen)> {
        let mut config = self.config(Role::Sink);
        config.insert("topic".into(), "out/{key}".into());
        Some((config, Seen { payload: b"no key".to_vec(), ..Seen::default() }))
    }

    fn message(&self, note: &Note) -> Seen {
        Seen {
            key: Some(b"k".to_vec()),
            headers: note.headers.clone(),
            payload: note.payload(),
            ..Seen::default()
        }
    }
}

/// The names of the checks that find this fault.
fn found_by(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::None => &[],
        Fault::AcknowledgesAtOnce => &["holds_until_safe", "repeats_failed_calls"],
        Fault::NeverAcknowledges => &["acknowledges_when_safe", "source_drains"],
        Fault::ForgetsAtReconnect => &["source_loses_nothing"],
        Fault::TriesWithoutPause | Fault::TriesInStep => &["source_backs_off", "sink_backs_off"],
        Fault::TakesEverything => &["holds_back", "holds_back_large"],
        Fault::StopsBeforeSafe | Fault::TakesWhileDraining => &["source_drains"],
        Fault::NeverStops => {
            &["source_drains", "source_drains_while_away", "sink_closes", "sink_closes_while_away"]
        }
        Fault::NeverLeaves => &["source_leaves"],
        Fault::GivesUp => &["source_waits_for_its_peer", "source_reconnects"],
        Fault::SaysNothing => &["source_waits_for_its_peer", "sink_waits_for_its_peer"],
        Fault::SaysOkBeforeWritten => &["ok_means_written"],
        Fault::WaitsWhileAway => &["write_answers_while_away", "sink_loses_nothing"],
        Fault::WritesWithoutItsPeer => &["write_answers_while_away", "tls_refuses_expired"],
        Fault::LosesTheImpossible => &["buries_the_impossible"],
        Fault::TrustsAnyone => &[
            "tls_refuses_untrusted",
            "tls_refuses_expired",
            "tls_refuses_wrong_name",
            "tls_takes_a_renewed_certificate",
        ],
        Fault::SpeaksInClear => &["tls_refuses_plain"],
        Fault::ReadsThePasswordOnce => &["login_is_read_at_each_connect"],
        Fault::ShowsThePassword => &["no_secret_is_shown"],
        Fault::DropsHeaders => &["source_carries_headers", "sink_carries_headers"],
        Fault::CountsNothing => &["source_reconnects", "sink_loses_nothing", "sink_counts"],
        Fault::IgnoresASetting => &["settings_are_named"],
    }
}

const FAULTS: [Fault; 23] = [
    Fault::AcknowledgesAtOnce,
    Fault::NeverAcknowledges,
    Fault::ForgetsAtReconnect,
    Fault::TriesWithoutPause,
    Fault::TriesInStep,
    Fault::TakesEverything,
    Fault::StopsBeforeSafe,
    Fault::TakesWhileDraining,
    Fault::NeverStops,
    Fault::NeverLeaves,
    Fault::GivesUp,
    Fault::SaysNothing,
    Fault::SaysOkBeforeWritten,
    Fault::WaitsWhileAway,
    Fault::WritesWithoutItsPeer,
    Fault::LosesTheImpossible,
    Fault::TrustsAnyone,
    Fault::SpeaksInClear,
    Fault::ReadsThePasswordOnce,
    Fault::ShowsThePassword,
    Fault::DropsHeaders,
    Fault::CountsNothing,
    Fault::IgnoresASetting,
];

async fn failing(fault: Fault, wanted: impl Fn(&Check) -> bool) -> Vec<&'static str> {
    let mut memory = Memory { world: Shared::default(), fault };
    let report = some(&mut memory, wanted).await;
    report.failed.iter().map(|(check, _)| check.name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_connector_without_a_fault_passes() {
    assert_eq!(failing(Fault::None, |_| true).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_found_by_its_checks() {
    for fault in FAULTS {
        let expected = found_by(fault);
        let failed = failing(fault, |check| expected.contains(&check.name)).await;
        let missed: Vec<_> = expected.iter().filter(|name| !failed.contains(name)).collect();
        assert!(missed.is_empty(), "{fault:?} is not found by {missed:?}");
    }
}
