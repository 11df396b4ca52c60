//! CPU time a message of source and sink, beside the client library alone doing
//! the same work in the same process against the same broker. Messages have a
//! value of 200 B, a key and a header; batches have 500.
//!
//! `cargo run --release --no-default-features -p millrace-kafka --example kafka_throughput`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_kafka::{KafkaSink, KafkaSource};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError,
};
use millrace_peers::Kafka;
use millrace_settings::from_flat;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, FutureProducer, FutureRecord, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};

const MESSAGES: u64 = 600_000;
const BATCH: u64 = 500;
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

struct Reports(AtomicU64);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok());
        self.0.fetch_add(1, Relaxed);
    }
}

/// CPU time of this process so far, in seconds (proc(5): ticks of 10 ms).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// What a run took: microseconds of CPU a message, messages a second.
#[derive(Clone, Copy)]
struct Took(f64, f64);

async fn measured(run: impl Future<Output = ()>) -> Took {
    let (before, start) = (cpu(), Instant::now());
    run.await;
    let (cpu, wall) = (cpu() - before, start.elapsed().as_secs_f64());
    Took(cpu * 1e6 / MESSAGES as f64, MESSAGES as f64 / wall)
}

fn link(direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: "k".into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

fn flat(kafka: &Kafka, pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("brokers".to_owned(), kafka.brokers())]);
    map.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    map
}

fn batches() -> Vec<Bytes> {
    let payload = [b'x'; 200];
    let batch = |first: u64| {
        let id = first.to_string();
        let mut writer = BatchWriter::with_capacity([("id", id.as_str())], 130_000).unwrap();
        for n in first..first + BATCH {
            let key = n.to_be_bytes();
            let fields = Fields {
                timestamp: 1_700_000_000_000_000_000,
                topic: "t",
                key: Some(&key),
                payload: &payload,
                content_type: None,
            };
            writer.push(&fields, [("unit", "C")]).unwrap();
        }
        Bytes::from(writer.finish())
    };
    (0..MESSAGES).step_by(usize::try_from(BATCH).unwrap()).map(batch).collect()
}

fn plain_sink(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.brokers())
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("batch.size", "524288")
        .set("queue.buffering.max.kbytes", "65536");
    config
}

async fn sink_ours(kafka: &Kafka, topic: &str, batches: &[Bytes]) {
    let link = link(Direction::Sink);
    let settings = from_flat(&flat(kafka, &[("topic", topic)]), &[]).unwrap();
    let sink = KafkaSink::open(settings, "ours".into(), link.clone(), Arc::<Count>::default());
    while link.state() != State::Connected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let next = AtomicU64::new(0);
    let write = || async {
        while let Some(batch) = batches.get(next.fetch_add(1, Relaxed) as usize) {
            sink.write(batch.clone()).await.unwrap();
        }
    };
    join_all((0..8).map(|_| write())).await;
    sink.close().await;
}

/// The client library with a count of reports: the least that can be done.
async fn sink_counted(kafka: &Kafka, topic: &str, batches: &[Bytes]) {
    let context = Reports(AtomicU64::new(0));
    let producer: ThreadedProducer<Reports> =
        plain_sink(kafka).create_with_context(context).unwrap();
    for body in batches {
        // No more under way than with ours.
        let sent = Batch::open(body).unwrap();
        for message in sent.messages() {
            let headers = message.headers().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(value) })
            });
            let mut record = BaseRecord::to(topic)
                .payload(message.payload)
                .key(message.key.unwrap())
                .timestamp(1_700_000_000_000)
                .headers(headers);
            while let Err((_, back)) = producer.send(record) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                record = back;
            }
        }
        while producer.in_flight_count() > 4_000 {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    assert_eq!(producer.context().0.load(Relaxed), MESSAGES);
}

/// The client library as its documentation shows it: a future a record.
async fn sink_futures(kafka: &Kafka, topic: &str, batches: &[Bytes]) {
    let producer: FutureProducer = plain_sink(kafka).create().unwrap();
    let next = AtomicU64::new(0);
    let write = || async {
        while let Some(body) = batches.get(next.fetch_add(1, Relaxed) as usize) {
            let batch = Batch::open(body).unwrap();
            let sent = batch.messages().map(|message| {
                let headers = message.headers().fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header { key, value: Some(value) })
                });
                let record = FutureRecord::to(topic)
                    .payload(message.payload)
                    .key(message.key.unwrap())
                    .timestamp(1_700_000_000_000)
                    .headers(headers);
                producer.send_result(record).map_err(|(error, _)| error).unwrap()
            });
            for report in sent.collect::<Vec<_>>() {
                report.await.unwrap().unwrap();
            }
        }
    };
    join_all((0..8).map(|_| write())).await;
}

fn plain_source(kafka: &Kafka, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("check.crcs", "true")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.max.bytes", "16777216")
        .set("fetch.queue.backoff.ms", "20");
    config
}

/// Takes a message over into a buffer of our own, as every user has to.
fn copy(message: &BorrowedMessage<'_>, into: &mut Vec<u8>) {
    into.extend_from_slice(message.topic().as_bytes());
    into.extend_from_slice(&message.timestamp().to_millis().unwrap_or_default().to_le_bytes());
    into.extend_from_slice(message.key().unwrap_or_default());
    into.extend_from_slice(message.payload().unwrap_or_default());
    for header in message.headers().unwrap().iter() {
        into.extend_from_slice(header.key.as_bytes());
        into.extend_from_slice(std::str::from_utf8(header.value.unwrap()).unwrap().as_bytes());
    }
}

/// Poll in a thread that blocks, offsets stored once a batch.
async fn source_polled(kafka: &Kafka, topic: &str, group: &str) {
    let consumer: BaseConsumer = plain_source(kafka, group).create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let name = topic.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let (mut taken, mut buffer) = (0, Vec::with_capacity(1 << 18));
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        while taken < MESSAGES {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            copy(&message, &mut buffer);
            ends.insert(message.partition(), message.offset() + 1);
            taken += 1;
            if taken % BATCH == 0 {
                black_box(&buffer);
                buffer = Vec::with_capacity(1 << 18);
                let mut list = TopicPartitionList::new();
                for (partition, end) in std::mem::take(&mut ends) {
                    list.add_partition_offset(&name, partition, Offset::Offset(end)).unwrap();
                }
                consumer.store_offsets(&list).unwrap();
            }
        }
    });
    work.await.unwrap();
}

/// The stream of the library, as its documentation shows it.
async fn source_streamed(kafka: &Kafka, topic: &str, group: &str) {
    let consumer: StreamConsumer = plain_source(kafka, group).create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let (mut taken, mut buffer) = (0, Vec::with_capacity(1 << 18));
    while taken < MESSAGES {
        let message = consumer.recv().await.unwrap();
        copy(&message, &mut buffer);
        consumer.store_offset_from_message(&message).unwrap();
        taken += 1;
        if taken % BATCH == 0 {
            black_box(&buffer);
            buffer = Vec::with_capacity(1 << 18);
        }
    }
    tokio::task::spawn_blocking(move || drop(consumer)).await.unwrap();
}

async fn source_ours(kafka: &Kafka, topic: &str, group: &str, coordinates: &str) {
    let (count, link) = (Arc::new(Count::default()), link(Direction::Source));
    let policy = Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(30),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
    };
    let delivery = Arc::new(Delivery::new(count.clone(), count.clone(), link.clone(), policy));
    let pairs = [("topics", topic), ("group", group), ("coordinates", coordinates)];
    let settings = from_flat(&flat(kafka, &pairs), &[]).unwrap();
    let limits = Limits { messages: 500, bytes: 256 * 1024, linger: Duration::from_millis(5) };
    let source = Box::new(KafkaSource::new(settings, limits, "ours".into()));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    while count.0.load(Relaxed) < MESSAGES {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    link.start_drain();
    task.await.unwrap();
}

async fn topic(kafka: &Kafka, name: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let topic = NewTopic::new(name, 4, TopicReplication::Fixed(1));
    admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].clone().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn show(name: &str, rounds: &[Took], beside: Option<f64>) -> f64 {
    // The least of several rounds: everything else is others' work.
    let cpu = rounds.iter().map(|took| took.0).fold(f64::MAX, f64::min);
    let speed = rounds.iter().map(|took| took.1).fold(0.0, f64::max);
    let ratio = beside.map_or(String::new(), |plain| format!("  {:.2} of plain", cpu / plain));
    println!("{name:<44} {speed:>9.0} messages/s {cpu:>7.2} us CPU/message{ratio}");
    cpu
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let kafka = Kafka::start().unwrap();
    let batches = batches();
    let mut rounds: [Vec<Took>; 7] = Default::default();
    for round in 0..ROUNDS {
        for (kind, rounds) in rounds.iter_mut().enumerate().take(3) {
            let name = format!("t{round}-{kind}");
            topic(&kafka, &name).await;
            rounds.push(match kind {
                0 => measured(sink_counted(&kafka, &name, &batches)).await,
                1 => measured(sink_futures(&kafka, &name, &batches)).await,
                _ => measured(sink_ours(&kafka, &name, &batches)).await,
            });
        }
        let name = format!("t{round}-0");
        for (kind, rounds) in rounds.iter_mut().enumerate().skip(3) {
            let group = format!("g{round}-{kind}");
            rounds.push(match kind {
                3 => measured(source_polled(&kafka, &name, &group)).await,
                4 => measured(source_streamed(&kafka, &name, &group)).await,
                5 => measured(source_ours(&kafka, &name, &group, "false")).await,
                _ => measured(source_ours(&kafka, &name, &group, "true")).await,
            });
        }
    }
    let plain = show("sink: library, reports counted", &rounds[0], None);
    show("sink: library, a future a record", &rounds[1], Some(plain));
    show("sink: millrace", &rounds[2], Some(plain));
    let plain = show("source: library, polled by a thread", &rounds[3], None);
    show("source: library, its stream", &rounds[4], Some(plain));
    show("source: millrace", &rounds[5], Some(plain));
    show("source: millrace, with coordinates", &rounds[6], Some(plain));
}
