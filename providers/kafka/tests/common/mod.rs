//! What the tests have in common: a broker, a stage that remembers, links.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_grants::WRITERS_KEY;
use millrace_kafka::{KafkaSink, KafkaSource};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError, Writers,
};
use millrace_peers::Kafka;
use millrace_settings::from_flat;
use millrace_settings::kafka::{SinkSettings, SourceSettings};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The broker that the tests of one file share. It ends with the process.
pub fn kafka() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(|| Kafka::start().unwrap())
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Relaxed))
}

/// A message as the stage saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub content_type: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
    pub timestamp: u64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A stage that remembers, and answers only as often as it is let.
pub struct Near {
    pub seen: Mutex<Vec<Seen>>,
    pub open: Semaphore,
    pub dead: Mutex<Vec<Seen>>,
    /// Dead letters are not taken while this is true.
    pub deaf: Mutex<bool>,
    /// How long each answer takes.
    pub pause: Duration,
}

fn seen(batch: &Batch<'_>) -> Vec<Seen> {
    batch
        .messages()
        .map(|m| Seen {
            topic: m.topic.to_owned(),
            key: m.key.map(<[u8]>::to_vec),
            content_type: m.content_type.map(str::to_owned),
            headers: m.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            payload: m.payload.to_vec(),
            timestamp: m.timestamp,
        })
        .collect()
}

impl Near {
    pub fn open() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, Duration::ZERO)
    }

    pub fn slow(pause: Duration) -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, pause)
    }

    pub fn with(answers: usize, pause: Duration) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            open: Semaphore::new(answers),
            dead: Mutex::default(),
            deaf: Mutex::default(),
            pause,
        })
    }

    /// How often each payload was seen.
    pub fn payloads(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.seen.lock().iter() {
            *counts.entry(String::from_utf8_lossy(&seen.payload).into_owned()).or_default() += 1;
        }
        counts
    }

    pub async fn until(&self, distinct: usize, limit: Duration) {
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

    pub async fn until_dead(&self, letters: usize, limit: Duration) {
        let start = Instant::now();
        while self.dead.lock().len() < letters {
            assert!(start.elapsed() < limit, "{} of {letters}", self.dead.lock().len());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Stage for Near {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
            self.seen.lock().extend(seen(&batch));
            sleep(self.pause).await;
            self.open.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

impl DeadLetters for Near {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(async move {
            if *self.deaf.lock() {
                let (target, reason) = ("dead letters".to_owned(), "deaf".to_owned());
                return Err(WriteError::Refused { target, reason });
            }
            self.dead.lock().extend(seen(&Batch::parse(&letters).unwrap()));
            Ok(())
        })
    }
}

/// Shows what happened when a test fails; `RUST_LOG` says how much.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

fn flat(brokers: &str, pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("brokers".to_owned(), brokers.to_owned())]);
    map.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    map
}

pub fn link(name: &str, direction: Direction) -> Arc<Link> {
    log();
    let names = LinkNames { pipeline: "line".into(), name: name.into(), stage: "clean".into() };
    Arc::new(Link::new(names, direction))
}

pub fn policy() -> Policy {
    Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(600),
        attempts: 3,
        suspect_after: 3,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
    }
}

/// A source that runs.
pub struct Running {
    pub link: Arc<Link>,
    pub task: JoinHandle<()>,
}

impl Running {
    /// Drains it and waits until it has ended.
    pub async fn drain(self) {
        self.link.start_drain();
        timeout(Duration::from_secs(20), self.task).await.expect("drains").unwrap();
    }

    /// Ends it as a crash would, but for what the group is told.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Starts a source without waiting for its connection.
pub fn start_source(brokers: &str, near: &Arc<Near>, pairs: &[(&str, &str)]) -> Running {
    let settings: SourceSettings = from_flat(&flat(brokers, pairs), &[]).unwrap();
    let limits = Limits { messages: 100, bytes: 100_000, linger: Duration::from_millis(5) };
    let link = link("in", Direction::Source);
    let delivery = Arc::new(Delivery::new(near.clone(), near.clone(), link.clone(), policy()));
    let source = Box::new(KafkaSource::new(settings, limits, unique("the-source")));
    Running { link: link.clone(), task: tokio::spawn(source.run(link, delivery)) }
}

pub async fn source(brokers: &str, near: &Arc<Near>, pairs: &[(&str, &str)]) -> Running {
    let running = start_source(brokers, near, pairs);
    reaches(&running.link, State::Connected).await;
    running
}

/// Opens a sink without waiting for its connection.
pub fn start_sink(
    brokers: &str,
    dead: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<KafkaSink>, Arc<Link>) {
    let settings: SinkSettings = from_flat(&flat(brokers, pairs), &[]).unwrap();
    let link = link("out", Direction::Sink);
    (KafkaSink::open(settings, "the-sink".into(), link.clone(), dead.clone()), link)
}

/// A sink for the step `control`, which is granted this.
pub async fn sink_for_control(
    grants: &[&str],
    brokers: &str,
    dead: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<KafkaSink>, Arc<Link>) {
    let writers = serde_json::json!({ "control": { "control": grants } }).to_string();
    let writers = Writers::of(&BTreeMap::from([(WRITERS_KEY.to_owned(), writers)])).unwrap();
    let settings: SinkSettings = from_flat(&flat(brokers, pairs), &[]).unwrap();
    let link = Arc::into_inner(link("out", Direction::Sink)).unwrap();
    let link = Arc::new(link.with_writers(writers));
    let sink = KafkaSink::open(settings, "the-sink".into(), link.clone(), dead.clone());
    reaches(&link, State::Connected).await;
    (sink, link)
}

pub async fn sink(
    brokers: &str,
    dead: &Arc<Near>,
    pairs: &[(&str, &str)],
) -> (Arc<KafkaSink>, Arc<Link>) {
    let (sink, link) = start_sink(brokers, dead, pairs);
    reaches(&link, State::Connected).await;
    (sink, link)
}

pub async fn reaches(link: &Link, state: State) {
    let reached = async {
        while link.state() != state {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), reached)
        .await
        .unwrap_or_else(|_| panic!("not {state:?}: {:?}", link.status()));
}

/// Waits for a link that is retrying for a reason with these words in it.
pub async fn retries_with(link: &Link, words: &str) -> String {
    let start = Instant::now();
    loop {
        let error = link.status().error.unwrap_or_default();
        if link.state() == State::Retrying && error.contains(words) {
            return error;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no {words:?}: {:?}", link.status());
        sleep(Duration::from_millis(10)).await;
    }
}

/// One batch of messages with these payloads.
pub fn batch(payloads: impl IntoIterator<Item = String>) -> Bytes {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for payload in payloads {
        let fields = Fields {
            timestamp: 1_700_000_000_123_000_000,
            topic: "press-1",
            key: Some(b"k1"),
            content_type: Some("text/plain"),
            payload: payload.as_bytes(),
        };
        writer.push(&fields, [("unit", "C")]).unwrap();
    }
    writer.finish().into()
}

/// Writes until it is acknowledged. How often it had to be tried.
pub async fn write(sink: &KafkaSink, batch: Bytes) -> usize {
    let mut tries = 1;
    while sink.write(batch.clone()).await.is_err() {
        tries += 1;
        sleep(Duration::from_millis(50)).await;
    }
    tries
}

pub async fn topic(kafka: &Kafka, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in config {
        topic = topic.set(key, value);
    }
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    made[0].clone().unwrap();
    // The leaders are known to clients a moment later.
    for _ in 0..100 {
        let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
        let topic = &metadata.topics()[0];
        let led = topic.partitions().iter().filter(|p| p.leader() >= 0).count();
        if led == usize::try_from(partitions).unwrap() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} has no leaders");
}

/// Everything in a topic.
pub fn all(kafka: &Kafka, topic: &str) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    let mut rest = 0;
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        let (low, high) =
            consumer.fetch_watermarks(topic, partition.id(), Duration::from_secs(10)).unwrap();
        rest += high - low;
    }
    consumer.assign(&list).unwrap();
    let mut all = Vec::new();
    let start = Instant::now();
    while i64::try_from(all.len()).unwrap() < rest {
        assert!(start.elapsed() < Duration::from_secs(30), "{} of {rest}", all.len());
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            all.push(message.unwrap().detach());
        }
    }
    all
}

/// What the group has stored for a topic: partition to offset.
pub fn committed(kafka: &Kafka, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", group)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
    committed.elements().iter().map(|p| p.offset().to_raw().filter(|o| *o >= 0)).collect()
}

pub fn payload(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()
}

pub type Producer = ThreadedProducer<DefaultProducerContext>;

/// A client of the plain library.
pub fn producer(brokers: &str) -> Producer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.max.bytes", "5000000")
        .create()
        .unwrap()
}

/// What a test writes: partition, key, value, headers, milliseconds.
#[derive(Default)]
pub struct Record<'a> {
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: Option<OwnedHeaders>,
    pub timestamp: Option<i64>,
}

pub fn send(producer: &Producer, topic: &str, record: Record<'_>) {
    let mut all: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
    all.partition = record.partition;
    all.key = record.key;
    all.payload = record.payload;
    all.headers = record.headers;
    all.timestamp = record.timestamp;
    while let Err((error, back)) = producer.send(all) {
        assert!(error.to_string().contains("QueueFull"), "{error}");
        std::thread::sleep(Duration::from_millis(5));
        all = back;
    }
}

/// Writes these payloads to partitions in turn.
pub fn fill(kafka: &Kafka, topic: &str, partitions: i32, payloads: std::ops::Range<i32>) {
    let producer = producer(&kafka.brokers());
    for n in payloads {
        let text = n.to_string();
        let payload = Some(text.as_bytes());
        let partition = Some(n % partitions);
        send(&producer, topic, Record { partition, payload, ..Record::default() });
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}
