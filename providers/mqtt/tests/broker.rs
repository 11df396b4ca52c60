//! MQTT source and sink against a real Mosquitto.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_grants::WRITERS_KEY;
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError, Writers,
};
use millrace_mqtt::{KEY_PROPERTY, MqttSink, MqttSource};
use millrace_peers::Mosquitto;
use millrace_settings::from_flat;
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A message as the stage saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    topic: String,
    key: Option<Vec<u8>>,
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
    timestamp: u64,
}

/// A stage that remembers, and answers only as often as it is let.
struct Near {
    seen: Mutex<Vec<Seen>>,
    open: Semaphore,
    dead: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Near {
    fn open() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS)
    }

    fn with(answers: usize) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            open: Semaphore::new(answers),
            dead: Mutex::default(),
        })
    }

    /// How often each payload was seen.
    fn payloads(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.seen.lock().iter() {
            *counts.entry(String::from_utf8_lossy(&seen.payload).into_owned()).or_default() += 1;
        }
        counts
    }

    async fn until(&self, distinct: usize, limit: Duration) {
        let start = Instant::now();
        while self.payloads().len() < distinct {
            assert!(
                start.elapsed() < limit,
                "{} of {distinct} after {limit:?}",
                self.payloads().len()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Stage for Near {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
            self.seen.lock().extend(batch.messages().map(|m| Seen {
                topic: m.topic.to_owned(),
                key: m.key.map(<[u8]>::to_vec),
                content_type: m.content_type.map(str::to_owned),
                headers: m.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                payload: m.payload.to_vec(),
                timestamp: m.timestamp,
            }));
            self.open.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

impl DeadLetters for Near {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        let batch = Batch::parse(&letters).unwrap();
        for message in batch.messages() {
            self.dead
                .lock()
                .push(message.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Shows what happened when a test fails; `RUST_LOG` says how much.
fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

fn flat(broker: &Mosquitto, pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("url".to_owned(), broker.url())]);
    map.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    map
}

fn link(name: &str, direction: Direction) -> Arc<Link> {
    log();
    let names = LinkNames { pipeline: "line".into(), name: name.into(), stage: "clean".into() };
    Arc::new(Link::new(names, direction))
}

fn policy() -> Policy {
    Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(600),
        attempts: 3,
        suspect_after: 3,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
    }
}

/// Starts a source without waiting for its connection.
fn start_source(
    broker: &Mosquitto,
    near: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<Link>, JoinHandle<()>) {
    let mut all = vec![("topic", "plant/#")];
    all.extend_from_slice(pairs);
    let settings: SourceSettings = from_flat(&flat(broker, &all), &[]).unwrap();
    let limits = Limits { messages: 100, bytes: 100_000, linger: Duration::from_millis(5) };
    let link = link("in", Direction::Source);
    let delivery = Arc::new(Delivery::new(near.clone(), near.clone(), link.clone(), policy()));
    let source = Box::new(MqttSource::new(settings, limits, "the-source".into()).unwrap());
    (link.clone(), tokio::spawn(source.run(link, delivery)))
}

async fn source(
    broker: &Mosquitto,
    near: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<Link>, JoinHandle<()>) {
    let (link, task) = start_source(broker, near, pairs);
    reaches(&link, State::Connected).await;
    (link, task)
}

async fn sink(
    broker: &Mosquitto,
    dead: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<MqttSink>, Arc<Link>) {
    sink_for(Writers::default(), broker, dead, pairs).await
}

/// The same, for writers that are held to what they were granted.
async fn sink_for(
    writers: Writers,
    broker: &Mosquitto,
    dead: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<MqttSink>, Arc<Link>) {
    let settings: SinkSettings = from_flat(&flat(broker, pairs), &[]).unwrap();
    let link = Arc::into_inner(link("out", Direction::Sink)).unwrap();
    let link = Arc::new(link.with_writers(writers));
    let sink = MqttSink::open(settings, "the-sink".into(), link.clone(), dead.clone()).unwrap();
    reaches(&link, State::Connected).await;
    (sink, link)
}

async fn reaches(link: &Link, state: State) {
    let reached = async {
        while link.state() != state {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), reached)
        .await
        .unwrap_or_else(|_| panic!("{:?}", link.status()));
}

/// One batch of messages with these payloads.
fn batch(payloads: impl IntoIterator<Item = String>) -> Bytes {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for payload in payloads {
        let fields = Fields {
            timestamp: 1,
            topic: "press-1",
            key: Some(b"k1"),
            content_type: Some("text/plain"),
            payload: payload.as_bytes(),
        };
        writer.push(&fields, [("unit", "C")]).unwrap();
    }
    writer.finish().into()
}

async fn write(sink: &MqttSink, batch: Bytes) {
    while sink.write(batch.clone()).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_quality_of_service_goes_round_in_both_versions() {
    for version in ["3.1.1", "5"] {
        for qos in ["0", "1", "2"] {
            let broker = Mosquitto::start().unwrap();
            let near = Near::open();
            let (link_in, task) =
                source(&broker, &near, &[("version", version), ("qos", qos)]).await;
            let (sink, link_out) = sink(
                &broker,
                &near,
                &[("topic", "plant/{topic}/{key}"), ("version", version), ("qos", qos)],
            )
            .await;
            for n in 0..5 {
                sink.write(batch((0..100).map(|m| format!("{}", n * 100 + m)))).await.unwrap();
            }
            near.until(500, Duration::from_secs(10)).await;
            let name = format!("version {version}, QoS {qos}");
            assert!(
                near.payloads().values().all(|n| *n == 1),
                "{name}: no duplicates without faults"
            );
            let seen = near.seen.lock()[0].clone();
            assert_eq!(seen.topic, "plant/press-1/k1", "{name}");
            assert!(
                seen.timestamp > 1_700_000_000_000_000_000,
                "{name}: time of arrival in nanoseconds"
            );
            if version == "5" {
                assert_eq!(seen.headers, [("unit".to_owned(), "C".to_owned())], "{name}");
                assert_eq!(seen.content_type.as_deref(), Some("text/plain"), "{name}");
                assert_eq!(seen.key.as_deref(), Some(b"k1".as_slice()), "{name}");
            } else {
                assert_eq!(
                    (seen.headers.len(), seen.content_type, seen.key),
                    (0, None, None),
                    "{name}"
                );
            }
            assert_eq!(link_in.telemetry.snapshot().messages_out, 500, "{name}");
            assert_eq!(link_out.telemetry.snapshot().messages_out, 500, "{name}");
            link_in.start_drain();
            timeout(Duration::from_secs(5), task).await.expect("drains").unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_at_qos_1_and_2_when_the_broker_is_restarted() {
    for (version, qos) in [("5", "1"), ("3.1.1", "1"), ("5", "2"), ("3.1.1", "2")] {
        let mut broker = Mosquitto::start().unwrap();
        let near = Near::open();
        let (link_in, _task) = source(&broker, &near, &[("version", version), ("qos", qos)]).await;
        let (sink, _) =
            sink(&broker, &near, &[("topic", "plant/x"), ("version", version), ("qos", qos)]).await;
        let writer = tokio::spawn(async move {
            for n in 0..300 {
                write(&sink, batch((0..10).map(|m| format!("{}", n * 10 + m)))).await;
                sleep(Duration::from_millis(3)).await;
            }
        });
        for _ in 0..2 {
            sleep(Duration::from_millis(300)).await;
            // In order: Mosquitto writes its queues only then. See `Mosquitto::kill`.
            broker.stop().unwrap();
            sleep(Duration::from_millis(300)).await;
            broker.restart().unwrap();
        }
        timeout(Duration::from_secs(60), writer).await.expect("the writer ends").unwrap();
        near.until(3_000, Duration::from_secs(30)).await;
        let counters = link_in.telemetry.snapshot();
        assert!(counters.reconnects >= 2, "{version} QoS {qos}: {counters:?}");
        assert_eq!(link_in.state(), State::Connected, "{version} QoS {qos}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_reconnected_to_and_the_subscription_made_again() {
    let mut broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (link, _task) = source(&broker, &near, &[("qos", "1")]).await;
    broker.kill().unwrap();
    reaches(&link, State::Retrying).await;
    let error = link.status().error.unwrap();
    assert!(error.contains(&broker.url()), "{error}");
    // The session died with the broker: nobody but us knows of the subscription.
    broker.restart().unwrap();
    reaches(&link, State::Connected).await;
    let (sink, _) = sink(&broker, &near, &[("topic", "plant/x"), ("qos", "1")]).await;
    write(&sink, batch(["after".to_owned()])).await;
    near.until(1, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_acknowledged_only_when_it_is_safe() {
    for (version, qos) in [("5", "1"), ("3.1.1", "1"), ("5", "2"), ("3.1.1", "2")] {
        let name = format!("version {version}, QoS {qos}");
        let broker = Mosquitto::start().unwrap();
        let stuck = Near::with(0);
        let pairs = [("version", version), ("qos", qos)];
        let (link, task) = source(&broker, &stuck, &pairs).await;
        let (sink, _) =
            sink(&broker, &stuck, &[("topic", "plant/x"), ("version", version), ("qos", qos)])
                .await;
        write(&sink, batch((0..5).map(|n| n.to_string()))).await;
        stuck.until(5, Duration::from_secs(10)).await;
        assert_eq!(link.telemetry.snapshot().messages_out, 0, "{name}");
        // The process dies with the messages in its hands ...
        task.abort();
        let _ = task.await;
        // ... and another one with the same client identifier gets them.
        let near = Near::open();
        let (link, task) = source(&broker, &near, &pairs).await;
        near.until(5, Duration::from_secs(10)).await;
        // Acknowledged now: a third one gets nothing.
        link.start_drain();
        timeout(Duration::from_secs(5), task).await.expect("drains").unwrap();
        let third = Near::open();
        let (_link, _task) = source(&broker, &third, &pairs).await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(third.payloads().len(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_a_lost_connection_is_dropped_and_nothing_hangs() {
    for (version, qos) in [("5", "1"), ("3.1.1", "2"), ("5", "2")] {
        let mut broker = Mosquitto::start().unwrap();
        let near = Near::with(0);
        let pairs = [("version", version), ("qos", qos)];
        let (link, _task) = source(&broker, &near, &pairs).await;
        let (sink, _) =
            sink(&broker, &near, &[("topic", "plant/x"), ("version", version), ("qos", qos)]).await;
        write(&sink, batch((0..5).map(|n| n.to_string()))).await;
        near.until(5, Duration::from_secs(10)).await;
        broker.restart().unwrap();
        // The broker sends them again on the new connection.
        let start = Instant::now();
        while near.payloads().values().any(|n| *n < 2) {
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{version} {qos}: {:?}",
                near.payloads()
            );
            sleep(Duration::from_millis(20)).await;
        }
        near.open.add_permits(2_000_000);
        write(&sink, batch((5..50).map(|n| n.to_string()))).await;
        near.until(50, Duration::from_secs(10)).await;
        sleep(Duration::from_millis(300)).await;
        let counters = link.telemetry.snapshot();
        assert_eq!(
            counters.reconnects, 1,
            "{version} {qos}: a stale acknowledgement would end the connection"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_stage_holds_the_broker_back_and_memory_is_bounded() {
    for version in ["3.1.1", "5"] {
        let broker =
            Mosquitto::start_with("allow_anonymous true\nmax_inflight_messages 0\n").unwrap();
        let near = Near::with(0);
        let pairs = [("version", version), ("qos", "1"), ("receive-maximum", "50")];
        let (link, _task) = source(&broker, &near, &pairs).await;
        let (sink, _) =
            sink(&broker, &near, &[("topic", "plant/x"), ("version", version), ("qos", "1")]).await;
        for n in 0..20 {
            write(&sink, batch((0..100).map(|m| format!("{}", n * 100 + m)))).await;
        }
        sleep(Duration::from_millis(500)).await;
        let taken = link.telemetry.snapshot().messages_in;
        assert_eq!(taken, 50, "{version}: no more than receive-maximum");
        near.open.add_permits(2_000_000);
        near.until(2_000, Duration::from_secs(20)).await;
        assert!(near.payloads().values().all(|n| *n == 1), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_retried_and_says_why() {
    let mut broker = Mosquitto::start_with("allow_anonymous false\n").unwrap();
    for version in ["3.1.1", "5"] {
        let near = Near::open();
        let (link, task) = start_source(&broker, &near, &[("version", version)]);
        reaches(&link, State::Retrying).await;
        let error = link.status().error.unwrap();
        assert!(error.contains("NotAuthorized"), "{version}: {error}");
        assert!(link.telemetry.snapshot().errors["connection"] >= 1);
        task.abort();
    }
    // Let in later, it connects without being started again.
    let near = Near::open();
    let (link, _task) = start_source(&broker, &near, &[]);
    reaches(&link, State::Retrying).await;
    broker.configure("allow_anonymous true\n").unwrap();
    broker.restart().unwrap();
    reaches(&link, State::Connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_retried_and_a_write_fails_at_once() {
    let mut broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (sink, link) = sink(&broker, &near, &[("topic", "plant/x"), ("qos", "1")]).await;
    broker.stop().unwrap();
    reaches(&link, State::Retrying).await;
    let start = Instant::now();
    let error = sink.write(batch(["x".to_owned()])).await.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("mqtt sink out") && error.to_string().contains("not connected"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(1));
    broker.restart().unwrap();
    reaches(&link, State::Connected).await;
    sink.write(batch(["x".to_owned()])).await.unwrap();
    assert_eq!(link.telemetry.snapshot().reconnects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_topic_is_dead_lettered_and_the_rest_is_written() {
    let broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (_, _task) = source(&broker, &near, &[("qos", "1")]).await;
    let (sink, link) = sink(&broker, &near, &[("topic", "plant/{key}"), ("qos", "1")]).await;
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for (key, payload) in
        [(Some(b"a".as_slice()), b"1"), (None, b"2"), (Some(b"+"), b"3"), (Some(b"b"), b"4")]
    {
        let fields = Fields { timestamp: 1, topic: "t", key, payload, ..Fields::default() };
        writer.push(&fields, [("unit", "C")]).unwrap();
    }
    sink.write(writer.finish().into()).await.unwrap();
    near.until(2, Duration::from_secs(5)).await;
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 2);
    assert!(
        dead.iter().all(|h| h["millrace-dead-kind"] == "invalid-argument" && h["unit"] == "C"),
        "{dead:?}"
    );
    assert!(dead[0]["millrace-dead-text"].contains("key"), "{dead:?}");
    assert_eq!(link.telemetry.snapshot().dead_letters, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_step_was_not_granted_is_refused_and_the_rest_is_published() {
    let broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (_, _task) = source(&broker, &near, &[("qos", "1")]).await;
    let writers = r#"{"control":{"control":["mqtt:publish:plant/+/alarms"]}}"#.to_owned();
    let writers = Writers::of(&BTreeMap::from([(WRITERS_KEY.to_owned(), writers)])).unwrap();
    let (sink, link) = sink_for(writers, &broker, &near, &[("topic", "{topic}")]).await;
    assert_eq!(link.telemetry.snapshot().uses["control"].refused, 0);
    let mut writer = BatchWriter::new([("id", "b"), ("from", "somebody")]).unwrap();
    for (topic, payload) in [
        ("plant/a/alarms", b"1"),
        ("plant/a/orders", b"2"),
        ("plant/a", b"3"),
        ("plant/b/alarms", b"4"),
    ] {
        let fields = Fields { timestamp: 1, topic, payload, ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    sink.write(writer.finish().into()).await.unwrap();
    near.until(2, Duration::from_secs(5)).await;
    let dead = near.dead.lock().clone();
    assert!(dead.iter().all(|h| h["millrace-dead-kind"] == "refused"), "{dead:?}");
    let texts: Vec<&str> = dead.iter().map(|h| h["millrace-dead-text"].as_str()).collect();
    assert_eq!(
        texts,
        [
            "the step control is not granted topic \"plant/a/orders\"",
            "the step control is not granted topic \"plant/a\""
        ]
    );
    let counters = link.telemetry.snapshot();
    let uses = &counters.uses["control"];
    assert_eq!((uses.refused, counters.dead_letters, counters.messages_out), (2, 2, 2));
    assert_eq!(uses.last_refusal.as_deref(), Some(texts[1]));
}

/// Mosquitto would close the connection at each of them, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_mqtt_does_not_allow_is_dead_lettered_and_a_key_of_it_left_out() {
    let broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (_, _task) = source(&broker, &near, &[("qos", "1")]).await;
    let (sink, link) = sink(&broker, &near, &[("topic", "plant/1"), ("qos", "1")]).await;
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for (key, header, payload) in [
        (b"\0\x01".as_slice(), "C", b"1"),
        (b"k", "two\nlines", b"2"),
        (b"k", "\u{ffff}", b"3"),
        (b"k", "C", b"4"),
    ] {
        let fields =
            Fields { timestamp: 1, topic: "t", key: Some(key), payload, ..Fields::default() };
        writer.push(&fields, [("unit", header)]).unwrap();
    }
    sink.write(writer.finish().into()).await.unwrap();
    near.until(2, Duration::from_secs(5)).await;
    let seen: Vec<_> =
        near.seen.lock().iter().map(|m| (m.key.clone(), m.payload.clone())).collect();
    assert_eq!(seen, [(None, b"1".to_vec()), (Some(b"k".to_vec()), b"4".to_vec())]);
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 2);
    assert!(dead[0]["millrace-dead-text"].contains("\\u{a} in text, which is in unit"), "{dead:?}");
    assert_eq!(link.telemetry.snapshot().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_are_kept_and_the_key_is_a_user_property() {
    let broker = Mosquitto::start().unwrap();
    let near = Near::open();
    let (sink, _) =
        sink(&broker, &near, &[("topic", "plant/last"), ("qos", "1"), ("retain", "true")]).await;
    sink.write(batch(["old".to_owned(), "new".to_owned()])).await.unwrap();
    let (_, _task) = source(&broker, &near, &[]).await;
    near.until(1, Duration::from_secs(5)).await;
    let seen = near.seen.lock().clone();
    assert_eq!((seen.len(), seen[0].payload.as_slice()), (1, b"new".as_slice()));
    assert_eq!(KEY_PROPERTY, "millrace-key", "part of the contract with other clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_read_from_its_file_at_each_connect() {
    let folder = std::env::temp_dir().join(format!("millrace-password-{}", std::process::id()));
    let near = Near::open();
    let broker = Mosquitto::start().unwrap();
    let path = folder.to_string_lossy().into_owned();
    let (link, task) = start_source(&broker, &near, &[("username", "u"), ("password-file", &path)]);
    reaches(&link, State::Retrying).await;
    let error = link.status().error.unwrap();
    assert!(error.contains("password-file") && error.contains(&path), "{error}");
    std::fs::write(&folder, "secret\n").unwrap();
    reaches(&link, State::Connected).await;
    task.abort();
    std::fs::remove_file(&folder).unwrap();
}
