//! Apache Kafka, beside rdkafka. Records have a value of 200 B, a key and a header.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use millrace_batch::Batch;
use millrace_bench::progress;
use millrace_bench::report::Row;
use millrace_kafka::{KafkaSink, KafkaSource};
use millrace_kit::{Direction, Sink as _};
use millrace_peers::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{
    BorrowedMessage, DeliveryResult, Header, Headers as _, Message as _, OwnedHeaders,
};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};

use crate::common::{
    BATCH, Count, ROUNDS, Took, batches, connected, limits, link, measured, row, run_source,
    settings,
};

const MESSAGES: u64 = 600_000;

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 4;

/// Batches that are written at once.
const WRITERS: usize = 8;

/// Records that are on their way at once: those of as many batches.
const SENT: i32 = WRITERS as i32 * BATCH as i32;

pub(crate) async fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let messages = if quick { MESSAGES / 10 } else { MESSAGES };
    let kafka = Kafka::start()?;
    let batches = batches(messages, "t")?;
    let mut rounds: [Vec<Took>; 4] = Default::default();
    for round in 1..=ROUNDS {
        progress(format!("kafka: round {round} of {ROUNDS}"));
        let [plain_out, out, plain_in, r#in] = &mut rounds;
        let (theirs, ours) = (format!("plain-{round}"), format!("ours-{round}"));
        for name in [&theirs, &ours] {
            topic(&kafka, name).await?;
        }
        plain_out.push(measured(messages, plain_sink(&kafka, &theirs, &batches)).await?);
        out.push(measured(messages, sink(&kafka, &ours, &batches)).await?);
        plain_in.push(measured(messages, plain_source(&kafka, &theirs, messages)).await?);
        let pairs = [("brokers", &*kafka.brokers()), ("topics", &theirs), ("group", &ours)];
        let source = Box::new(KafkaSource::new(settings(&pairs)?, limits(), "ours".to_owned()));
        r#in.push(measured(messages, run_source(source, messages)).await?);
    }
    let [plain_out, out, plain_in, r#in] = &rounds;
    Ok(vec![
        row("kafka", "source, consumer group, 200 B", r#in, plain_in),
        row("kafka", "sink, idempotent, 200 B", out, plain_out),
    ])
}

/// A new topic.
pub(crate) async fn topic(kafka: &Kafka, name: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create()?;
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await?;
    for result in made {
        result.map_err(|(name, error)| anyhow::anyhow!("topic {name}: {error}"))?;
    }
    // Until all of the broker knows it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn sink(kafka: &Kafka, topic: &str, batches: &[Bytes]) -> anyhow::Result<()> {
    let link = link(Direction::Sink);
    let settings = settings(&[("brokers", &kafka.brokers()), ("topic", topic)])?;
    let sink = KafkaSink::open(settings, "ours".to_owned(), link.clone(), Arc::<Count>::default());
    connected(&link).await?;
    let part = batches.len().div_ceil(WRITERS);
    let sink = &sink;
    let writing = batches.chunks(part).map(|batches| async move {
        for batch in batches {
            sink.write(batch.clone()).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(writing).await?;
    sink.close().await;
    Ok(())
}

/// Counts reports: the least that can be done with them.
#[derive(Default)]
pub(crate) struct Reports {
    written: AtomicU64,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.written.fetch_add(1, Relaxed);
        }
    }
}

pub(crate) type Plain = ThreadedProducer<Reports>;

/// A producer with the settings of ours.
pub(crate) fn producer(kafka: &Kafka) -> anyhow::Result<Plain> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.brokers())
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("batch.size", "524288")
        .set("queue.buffering.max.kbytes", "65536");
    Ok(config.create_with_context(Reports::default())?)
}

/// Hands a record over, waiting while the library's queue has no room.
pub(crate) fn send(
    producer: &Plain,
    topic: &str,
    key: &[u8],
    payload: &[u8],
    headers: OwnedHeaders,
) -> anyhow::Result<()> {
    let mut record = BaseRecord::to(topic)
        .payload(payload)
        .key(key)
        .timestamp(1_700_000_000_000)
        .headers(headers);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                std::thread::sleep(Duration::from_millis(2));
                record = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Waits until no more are under way than with ours.
pub(crate) fn wait(producer: &Plain) {
    while producer.in_flight_count() > SENT {
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Waits until all records are written.
pub(crate) fn flush(producer: &Plain, messages: u64) -> anyhow::Result<()> {
    producer.flush(Duration::from_secs(60))?;
    let written = producer.context().written.load(Relaxed);
    ensure!(written == messages, "{written} of {messages} records were written");
    Ok(())
}

/// Writes every batch's messages as records with the library alone.
pub(crate) async fn plain_sink(
    kafka: &Kafka,
    topic: &str,
    batches: &[Bytes],
) -> anyhow::Result<()> {
    let (producer, topic, batches) = (producer(kafka)?, topic.to_owned(), batches.to_vec());
    let work = move || {
        for body in &batches {
            for message in Batch::open(body)?.messages() {
                let headers = message.headers().fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header { key, value: Some(value) })
                });
                let key = message.key.unwrap_or_default();
                send(&producer, &topic, key, message.payload, headers)?;
            }
            wait(&producer);
        }
        flush(&producer, batches.len() as u64 * BATCH)
    };
    tokio::task::spawn_blocking(work).await?
}

/// A consumer with the settings of ours.
pub(crate) fn consumer(kafka: &Kafka, group: &str) -> anyhow::Result<BaseConsumer> {
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
    Ok(config.create()?)
}

/// Takes a record over into a buffer of our own, as every user has to.
fn copy(record: &BorrowedMessage<'_>, into: &mut Vec<u8>) {
    into.extend_from_slice(record.topic().as_bytes());
    into.extend_from_slice(&record.timestamp().to_millis().unwrap_or_default().to_le_bytes());
    into.extend_from_slice(record.key().unwrap_or_default());
    into.extend_from_slice(record.payload().unwrap_or_default());
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        into.extend_from_slice(header.key.as_bytes());
        let text = std::str::from_utf8(header.value.unwrap_or_default()).unwrap_or_default();
        into.extend_from_slice(text.as_bytes());
    }
}

/// Polls in a thread that blocks, and stores offsets once a batch.
async fn plain_source(kafka: &Kafka, topic: &str, messages: u64) -> anyhow::Result<()> {
    let consumer = consumer(kafka, topic)?;
    consumer.subscribe(&[topic])?;
    let name = topic.to_owned();
    let work = move || {
        let (mut taken, mut buffer) = (0, Vec::with_capacity(1 << 18));
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        while taken < messages {
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
            let record = record?;
            copy(&record, &mut buffer);
            ends.insert(record.partition(), record.offset() + 1);
            taken += 1;
            if taken % BATCH == 0 {
                black_box(&buffer);
                buffer = Vec::with_capacity(1 << 18);
                store(&consumer, &name, std::mem::take(&mut ends))?;
            }
        }
        anyhow::Ok(())
    };
    tokio::task::spawn_blocking(work).await?
}

/// Stores the offsets that come next.
pub(crate) fn store(
    consumer: &BaseConsumer,
    topic: &str,
    ends: BTreeMap<i32, i64>,
) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    for (partition, end) in ends {
        list.add_partition_offset(topic, partition, Offset::Offset(end))?;
    }
    consumer.store_offsets(&list).context("offsets are not stored")
}

/// Records that a topic has.
pub(crate) fn records(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<u64> {
    let mut all = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10))?;
        all += u64::try_from(high - low)?;
    }
    Ok(all)
}
