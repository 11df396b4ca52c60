//! The conduit's library against a real nats-server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod adaptive;
mod arms;
mod hold;
mod lanes;
mod outside;
mod spill;
mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_conduit::{Consumer, Edge, Provision, Publisher, Spills, States};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError,
};
use millrace_peers::NatsServer;
use millrace_settings::edge::EdgeSettings;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The far end: remembers what it was called with.
#[derive(Default)]
struct Far {
    seen: Mutex<BTreeMap<u64, usize>>,
    ids: Mutex<Vec<String>>,
    dead: Mutex<Vec<u64>>,
    /// Key and number of each message, as they came.
    order: Mutex<Vec<(String, u64)>>,
    hangs: AtomicBool,
    /// Does its work and does not answer.
    mute: AtomicBool,
    hangs_on: Option<&'static str>,
    /// How long a call takes.
    takes: Duration,
    poison: Option<u64>,
}

impl Far {
    fn count(&self) -> usize {
        self.seen.lock().len()
    }

    async fn until(&self, count: usize, limit: Duration) {
        let start = Instant::now();
        while self.count() < count {
            assert!(start.elapsed() < limit, "{} of {count} after {limit:?}", self.count());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Stage for Far {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            if self.hangs.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            sleep(self.takes).await;
            let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
            if batch.messages().any(|m| Some(m.timestamp) == self.poison) {
                return Err(CallError::Trap("unreachable".into()));
            }
            let key = |key: Option<&[u8]>| String::from_utf8_lossy(key.unwrap_or(b"")).into_owned();
            if batch.messages().any(|m| Some(key(m.key).as_str()) == self.hangs_on) {
                std::future::pending::<()>().await;
            }
            for message in batch.messages() {
                self.order.lock().push((key(message.key), message.timestamp));
                *self.seen.lock().entry(message.timestamp).or_default() += 1;
            }
            self.ids.lock().push(batch.header("id").unwrap_or_default().to_owned());
            if self.mute.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

impl DeadLetters for Far {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        let batch = Batch::parse(&letters).unwrap();
        self.dead.lock().extend(batch.messages().map(|m| m.timestamp));
        Box::pin(std::future::ready(Ok(())))
    }
}

fn link(name: &str, stage: &str, direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "line".into(), name: name.into(), stage: stage.into() };
    Arc::new(Link::new(names, direction))
}

/// The defaults of an edge.
const LIMITS: Limits = Limits { messages: 500, bytes: 256 << 10, linger: Duration::ZERO };

fn policy() -> Policy {
    Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(60),
        attempts: 3,
        suspect_after: 2,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
    }
}

fn edge(name: &str) -> Edge {
    Edge::new("plant", "line", name).unwrap()
}

/// `count` messages from `first`, `payload` bytes each.
fn batch(id: &str, first: u64, count: u64, payload: usize) -> Bytes {
    let mut writer = BatchWriter::new([("id", id), ("traceparent", "00-1-2-01")]).unwrap();
    let payload = vec![b'x'; payload];
    for n in first..first + count {
        writer
            .push(&Fields { timestamp: n, topic: "t", payload: &payload, ..Fields::default() }, [])
            .unwrap();
    }
    writer.finish().into()
}

async fn client(server: &NatsServer) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .max_reconnects(None)
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|_| Duration::from_millis(100))
        .connect(server.url())
        .await
        .unwrap()
}

async fn publisher(
    server: &NatsServer,
    edges: &[(&str, EdgeSettings)],
) -> (Arc<Publisher>, Arc<Link>) {
    let link = link("out", "first", Direction::Sink);
    let edges = edges.iter().map(|(name, settings)| (edge(name), settings.clone())).collect();
    let publisher = Publisher::open(
        &client(server).await,
        edges,
        link.clone(),
        &Spills::default(),
        &States::default(),
    );
    connected(&link).await;
    (publisher, link)
}

async fn connected(link: &Link) {
    let reached = async {
        while link.state() != State::Connected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), reached)
        .await
        .unwrap_or_else(|_| panic!("{:?}", link.status()));
}

async fn consumer(server: &NatsServer, name: &str, far: &Arc<Far>) -> (Arc<Link>, JoinHandle<()>) {
    consumer_of(server, name, far, policy()).await
}

async fn consumer_of(
    server: &NatsServer,
    name: &str,
    far: &Arc<Far>,
    policy: Policy,
) -> (Arc<Link>, JoinHandle<()>) {
    let link = link(name, "second", Direction::Source);
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy));
    let source =
        Box::new(Consumer::new(client(server).await, edge(name), EdgeSettings::default(), LIMITS));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    connected(&link).await;
    (link, task)
}

/// Writes as a stage's caller would: until it is accepted.
async fn write(publisher: &Publisher, batch: Bytes) {
    while publisher.write(batch.clone()).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn waiting(server: &NatsServer, name: &str) -> u64 {
    let js = jetstream::new(client(server).await);
    js.get_stream(edge(name).stream()).await.unwrap().cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_go_through_in_full_and_leave_nothing_behind() {
    let server = NatsServer::start().unwrap();
    let (publisher, out) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let far = Arc::new(Far::default());
    let (link, _task) = consumer(&server, "first.second", &far).await;
    for n in 0..200 {
        publisher.write(batch(&format!("b{n}"), n * 100, 100, 20)).await.unwrap();
    }
    far.until(20_000, Duration::from_secs(30)).await;
    assert!(far.seen.lock().values().all(|n| *n == 1), "no duplicates without faults");
    let start = Instant::now();
    while waiting(&server, "first.second").await > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "every batch is acknowledged");
        sleep(Duration::from_millis(20)).await;
    }
    let (published, consumed) = (out.telemetry.snapshot(), link.telemetry.snapshot());
    assert_eq!(
        (published.messages_in, published.messages_out, published.batches_out),
        (20_000, 20_000, 200)
    );
    assert_eq!((consumed.messages_in, consumed.messages_out), (20_000, 20_000));
    assert!(consumed.lag_last_us > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_is_killed_and_returns() {
    let mut server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let far = Arc::new(Far::default());
    let (link, _task) = consumer(&server, "first.second", &far).await;
    let writer = {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            for n in 0..3_000 {
                write(&publisher, batch(&format!("b{n}"), n * 10, 10, 20)).await;
            }
        })
    };
    for _ in 0..2 {
        sleep(Duration::from_millis(300)).await;
        server.kill().unwrap();
        sleep(Duration::from_millis(500)).await;
        server.restart().unwrap();
    }
    timeout(Duration::from_secs(60), writer).await.expect("the writer comes to its end").unwrap();
    far.until(30_000, Duration::from_secs(60)).await;
    let seen = far.seen.lock().clone();
    assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), (0..30_000).collect());
    // A batch delivered while the server was down is delivered again: at most
    // what was in work or handed out at each of the two kills.
    let duplicates = seen.values().filter(|n| **n > 1).count();
    assert!(duplicates <= 2 * 8 * 10, "{duplicates} duplicates");
    assert_eq!(link.state(), State::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_edge_refuses_by_name_and_nothing_is_lost() {
    let server = NatsServer::start().unwrap();
    let small = EdgeSettings { max_bytes: "1MiB".parse().unwrap(), ..EdgeSettings::default() };
    let (publisher, out) = publisher(&server, &[("first.second", small)]).await;
    let mut refused = None;
    let mut accepted = 0;
    while refused.is_none() {
        match publisher.write(batch(&format!("b{accepted}"), accepted, 1, 50_000)).await {
            Ok(()) => accepted += 1,
            Err(error) => refused = Some(error),
        }
        assert!(accepted < 100, "1 MiB holds about twenty");
    }
    let text = refused.unwrap().to_string();
    assert!(text.contains("edge first.second") && text.contains("maximum bytes"), "{text}");
    assert_eq!(out.state(), State::Retrying);
    assert!(accepted >= 15, "{accepted}");

    let more = {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            for n in accepted..accepted + 50 {
                write(&publisher, batch(&format!("b{n}"), n, 1, 50_000)).await;
            }
        })
    };
    sleep(Duration::from_millis(300)).await;
    assert!(!more.is_finished(), "held back");
    let far = Arc::new(Far::default());
    let (_link, _task) = consumer_with(&server, "first.second", &far, "1MiB").await;
    timeout(Duration::from_secs(30), more).await.unwrap().unwrap();
    let count = usize::try_from(accepted).unwrap() + 50;
    far.until(count, Duration::from_secs(20)).await;
    assert!(far.seen.lock().values().all(|n| *n == 1));
    assert_eq!(out.state(), State::Connected);
}

async fn consumer_with(
    server: &NatsServer,
    name: &str,
    far: &Arc<Far>,
    max_bytes: &str,
) -> (Arc<Link>, JoinHandle<()>) {
    let link = link(name, "second", Direction::Source);
    let settings =
        EdgeSettings { max_bytes: max_bytes.parse().unwrap(), ..EdgeSettings::default() };
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy()));
    let source = Box::new(Consumer::new(client(server).await, edge(name), settings, LIMITS));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    connected(&link).await;
    (link, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_is_dropped_on_the_edge() {
    let server = NatsServer::start().unwrap();
    let (publisher, out) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    publisher.write(batch("same", 0, 3, 10)).await.unwrap();
    publisher.write(batch("same", 0, 3, 10)).await.unwrap();
    publisher.write(batch("other", 3, 1, 10)).await.unwrap();
    assert_eq!(out.telemetry.snapshot().duplicates, 1);
    assert_eq!(waiting(&server, "first.second").await, 2);
    let far = Arc::new(Far::default());
    let (_link, _task) = consumer(&server, "first.second", &far).await;
    far.until(4, Duration::from_secs(10)).await;
    assert!(far.seen.lock().values().all(|n| *n == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_full_edge_of_two_fails_the_write_and_the_repeat_is_dropped_on_the_other() {
    let server = NatsServer::start().unwrap();
    let small = EdgeSettings { max_bytes: "1MiB".parse().unwrap(), ..EdgeSettings::default() };
    let (publisher, _) =
        publisher(&server, &[("first.second", EdgeSettings::default()), ("first.third", small)])
            .await;
    publisher.write(batch("a", 0, 1, 600_000)).await.unwrap();
    for _ in 0..3 {
        let error = publisher.write(batch("b", 1, 1, 600_000)).await.unwrap_err();
        assert!(error.to_string().contains("first.third"), "{error}");
    }
    assert_eq!(waiting(&server, "first.second").await, 2, "once, in spite of three tries");
    assert_eq!(waiting(&server, "first.third").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_consumer_had_is_delivered_again_at_once() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..8 {
        publisher.write(batch(&format!("b{n}"), n, 1, 10)).await.unwrap();
    }
    // Four in the window, four handed out and waiting for a place.
    let stuck = Arc::new(Far { hangs: true.into(), ..Far::default() });
    let (link, task) = consumer(&server, "first.second", &stuck).await;
    while link.telemetry.snapshot().messages_in < 8 {
        sleep(Duration::from_millis(10)).await;
    }
    task.abort();

    let far = Arc::new(Far::default());
    let (_link, _task) = consumer(&server, "first.second", &far).await;
    // Sooner than JetStream's wait of 8 s is over.
    far.until(8, Duration::from_secs(3)).await;
    assert!(far.seen.lock().values().all(|n| *n == 1));
}

/// One batch in flight is how an author asks for order, which a killed conduit must not change: what it had comes again
/// before what it had not.
#[tokio::test(flavor = "multi_thread")]
async fn with_one_batch_in_flight_a_crash_changes_no_order() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let ordered = Policy { in_flight: 1, ..policy() };
    for n in 0..8 {
        publisher.write(batch(&format!("b{n}"), n, 1, 10)).await.unwrap();
    }
    let stuck = Arc::new(Far { hangs: true.into(), ..Far::default() });
    let (link, task) = consumer_of(&server, "first.second", &stuck, ordered.clone()).await;
    // In work, all of them.
    while link.telemetry.snapshot().messages_in < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    task.abort();

    let far = Arc::new(Far::default());
    let (_link, _task) = consumer_of(&server, "first.second", &far, ordered).await;
    far.until(8, Duration::from_secs(3)).await;
    let order: Vec<u64> = far.order.lock().iter().map(|(_, n)| *n).collect();
    assert_eq!(order, (0..8).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_delivery_is_not_delivered_again_meanwhile() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    publisher.write(batch("b", 0, 1, 10)).await.unwrap();
    let far = Arc::new(Far { hangs: true.into(), ..Far::default() });
    let (link, _task) = consumer(&server, "first.second", &far).await;
    // Longer than JetStream's wait of 8 s.
    sleep(Duration::from_secs(20)).await;
    assert_eq!(link.telemetry.snapshot().messages_in, 1, "handed out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_vanishes_is_made_again_and_the_status_tells() {
    let server = NatsServer::start().unwrap();
    let (publisher, out) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let far = Arc::new(Far::default());
    let (link, _task) = consumer(&server, "first.second", &far).await;
    let js = jetstream::new(client(&server).await);
    js.delete_stream(edge("first.second").stream()).await.unwrap();
    publisher.write(batch("b", 0, 1, 10)).await.unwrap();
    far.until(1, Duration::from_secs(30)).await;
    let told = [&out, &link]
        .map(|link| link.telemetry.snapshot().last_error.map(|e| e.text).unwrap_or_default());
    assert!(told.iter().any(|text| text.contains("was missing and has been made")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_traps_goes_to_the_dead_letters_and_the_rest_of_its_batch_on() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let far = Arc::new(Far { poison: Some(17), ..Far::default() });
    let (link, _task) = consumer(&server, "first.second", &far).await;
    publisher.write(batch("b", 0, 40, 10)).await.unwrap();
    far.until(39, Duration::from_secs(20)).await;
    let start = Instant::now();
    while waiting(&server, "first.second").await > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "acknowledged when the poison is dead-lettered"
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(*far.dead.lock(), [17]);
    assert_eq!(link.telemetry.snapshot().dead_letters, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_a_write_fails_in_time_and_says_where() {
    let mut server = NatsServer::start().unwrap();
    let (publisher, out) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    server.kill().unwrap();
    let start = Instant::now();
    let error = publisher.write(batch("b", 0, 1, 10)).await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "before the host's own limit: {:?}",
        start.elapsed()
    );
    assert!(error.to_string().contains("edge first.second"), "{error}");
    assert_eq!(out.state(), State::Retrying);
    server.restart().unwrap();
    write(&publisher, batch("b", 0, 1, 10)).await;
    assert_eq!(waiting(&server, "first.second").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_change_the_stream_and_a_probe_asks_only() {
    let server = NatsServer::start().unwrap();
    let js = jetstream::new(client(&server).await);
    let edge = edge("first.second");
    let settings = EdgeSettings::default();
    let (_, done) = edge.ensure_stream(&js, &settings).await.unwrap();
    assert_eq!(done, Provision::Created);
    assert_eq!(edge.ensure_stream(&js, &settings).await.unwrap().1, Provision::Found);
    let larger = EdgeSettings {
        max_bytes: "128MiB".parse().unwrap(),
        max_age: Some("2h".parse().unwrap()),
        dedup_window: "1m".parse().unwrap(),
        ..EdgeSettings::default()
    };
    assert_eq!(edge.ensure_stream(&js, &larger).await.unwrap().1, Provision::Updated);
    assert_eq!(edge.ensure_stream(&js, &larger).await.unwrap().1, Provision::Found);
    let config = js.get_stream(edge.stream()).await.unwrap().cached_info().config.clone();
    assert_eq!((config.max_bytes, config.max_age), (128 << 20, Duration::from_secs(7_200)));

    let (publisher, _) = publisher(&server, &[("first.second", larger)]).await;
    publisher.write(millrace_kit::packed::probe()).await.unwrap();
    assert_eq!(waiting(&server, "first.second").await, 0);
}
