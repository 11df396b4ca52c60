//! Messages a second, and processor time a message, of source and sink beside
//! the plain client library doing the same work in the same run: MQTT 5, QoS 1,
//! 200 B messages, Mosquitto on this machine.
//!
//! `cargo run --release -p millrace-mqtt --no-default-features --example mqtt_throughput`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError,
};
use millrace_mqtt::{MqttSink, MqttSource};
use millrace_peers::Mosquitto;
use millrace_settings::from_flat;
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use rumqttc_v5 as lib;
use rustix::time::{ClockId, clock_gettime};

const MESSAGES: u64 = 200_000;
const BATCH: u64 = 500;
const WINDOW: u16 = 2_000;
const PAYLOAD: [u8; 200] = [b'x'; 200];
const ROUNDS: usize = 3;

#[derive(Default)]
struct Count(AtomicU64);

impl Stage for Count {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        self.0.fetch_add(Batch::open(&body).unwrap().len() as u64, Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl DeadLetters for Count {
    fn accept(&self, _: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What a piece of work took.
#[derive(Clone, Copy)]
struct Took {
    /// Messages a second.
    rate: f64,
    /// Microseconds of processor time a message, of this process.
    cpu: f64,
}

/// User and system time of this process (that of `getrusage`), in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn measured(work: impl Future<Output = ()>) -> Took {
    let (wall, before) = (Instant::now(), cpu());
    work.await;
    let used = cpu() - before;
    Took { rate: MESSAGES as f64 / wall.elapsed().as_secs_f64(), cpu: used * 1e6 / MESSAGES as f64 }
}

fn plain(broker: &Mosquitto, id: &str) -> (lib::AsyncClient, lib::EventLoop) {
    let mut options = lib::MqttOptions::new(id, lib::Broker::tcp("127.0.0.1", broker.port()));
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3_600))
        .set_receive_maximum(Some(WINDOW))
        .set_outgoing_inflight_upper_limit(1_000)
        .set_broker_session_resume_policy(lib::BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(lib::AckMode::Manual);
    let mut network = lib::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    lib::AsyncClient::builder(options).capacity(usize::from(WINDOW) + 64).build()
}

/// Publishes all, a window of them in flight, and waits for every PUBACK.
async fn plain_sink(broker: &Mosquitto) {
    let (client, mut events) = plain(broker, "plain-sink");
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut answers = VecDeque::new();
    for _ in 0..MESSAGES {
        let options = lib::PublishOptions::new(lib::QoS::AtLeastOnce);
        let payload = Bytes::from_static(&PAYLOAD);
        answers.push_back(client.publish_tracked("bench/x", payload, options).await.unwrap());
        if answers.len() >= 1_000 {
            answers.pop_front().unwrap().wait_completion_async().await.unwrap();
        }
    }
    for answer in answers {
        answer.wait_completion_async().await.unwrap();
    }
    polling.abort();
}

/// Takes all and acknowledges each.
async fn plain_source(mut events: lib::EventLoop, client: lib::AsyncClient) {
    let mut count = 0;
    while count < MESSAGES {
        if let lib::Event::Incoming(lib::Packet::Publish(publish)) = events.poll().await.unwrap() {
            let ack = lib::ManualAck::PubAck(lib::PubAck::new(publish.pkid, None));
            client.try_manual_ack(ack).unwrap();
            count += 1;
        }
    }
}

fn link(name: &str, direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: name.into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

fn flat(broker: &Mosquitto, topic: &str) -> BTreeMap<String, String> {
    [("url", broker.url()), ("topic", topic.to_owned())]
        .map(|(field, value)| (field.to_owned(), value))
        .into()
}

/// Waits until it is connected.
async fn connected(link: &Link) {
    while link.state() != State::Connected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn our_sink(broker: &Mosquitto) -> Took {
    let settings: SinkSettings = from_flat(&flat(broker, "bench/x"), &[]).unwrap();
    let link = link("out", Direction::Sink);
    let dead = Arc::new(Count::default());
    let sink = MqttSink::open(settings, "our-sink".into(), link.clone(), dead).unwrap();
    connected(&link).await;
    let mut writer = BatchWriter::with_capacity([("id", "b")], 130_000).unwrap();
    for _ in 0..BATCH {
        let fields = Fields { timestamp: 1, topic: "t", payload: &PAYLOAD, ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    let batch = Bytes::from(writer.finish());
    // As many at once as a source or an edge hands over.
    let took = measured(async {
        let writing = (0..4).map(|_| async {
            for _ in 0..MESSAGES / BATCH / 4 {
                sink.write(batch.clone()).await.unwrap();
            }
        });
        futures::future::join_all(writing).await;
    })
    .await;
    link.start_drain();
    sink.close().await;
    took
}

fn our_source(broker: &Mosquitto, stage: &Arc<Count>) -> (Arc<Link>, BoxFuture<'static, ()>) {
    let settings: SourceSettings = from_flat(&flat(broker, "bench/#"), &[]).unwrap();
    let link = link("in", Direction::Source);
    let policy = Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(30),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
    };
    let limits = Limits { messages: 500, bytes: 256 * 1024, linger: Duration::from_millis(5) };
    let delivery = Arc::new(Delivery::new(stage.clone(), stage.clone(), link.clone(), policy));
    let source = Box::new(MqttSource::new(settings, limits, "our-source".into()).unwrap());
    (link.clone(), source.run(link, delivery))
}

/// Has the broker keep all messages for this session.
async fn fill(broker: &Mosquitto, id: &str) {
    let (client, mut events) = plain(broker, id);
    let subscribed = client.try_subscribe_tracked("bench/#", lib::QoS::AtLeastOnce).unwrap();
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    subscribed.wait_completion_async().await.unwrap();
    client.disconnect().await.unwrap();
    polling.await.unwrap();
    plain_sink(broker).await;
}

fn show(what: &str, plain: Took, ours: Took) {
    let line = |name: &str, took: Took| {
        println!("{what:<7} {name:<10} {:>9.0} messages/s {:>7.2} us/message", took.rate, took.cpu);
    };
    line("plain", plain);
    line("millrace", ours);
    println!(
        "{what:<7} ratio      {:>9.2} of the rate {:>6.2} of the processor time\n",
        ours.rate / plain.rate,
        ours.cpu / plain.cpu
    );
}

fn broker() -> Mosquitto {
    let lines = "allow_anonymous true\nlog_type none\nmax_inflight_messages 0\npersistence false\n";
    Mosquitto::start_with(lines).unwrap()
}

#[tokio::main]
async fn main() {
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}: {MESSAGES} messages of {} B", PAYLOAD.len());
        let server = broker();
        let theirs = measured(plain_sink(&server)).await;
        show("sink", theirs, our_sink(&server).await);
        drop(server);

        // Filled before, so that nothing else in this process works meanwhile.
        let server = broker();
        fill(&server, "plain-source").await;
        let (client, events) = plain(&server, "plain-source");
        let theirs = measured(plain_source(events, client)).await;
        drop(server);
        let server = broker();
        fill(&server, "our-source").await;
        let stage = Arc::new(Count::default());
        let (link, run) = our_source(&server, &stage);
        let ours = measured(async {
            let running = tokio::spawn(run);
            while stage.0.load(Relaxed) < MESSAGES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            link.start_drain();
            running.await.unwrap();
        })
        .await;
        show("source", theirs, ours);
    }
}
