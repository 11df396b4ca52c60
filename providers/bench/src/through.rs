//! A whole pipeline on a lattice: Kafka, a stage that passes everything on, Kafka. Beside it a process that consumes and
//! produces with the client library alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use millrace_bench::lab::{Lab, Sync};
use millrace_bench::report::{Aim, Row};
use millrace_bench::{deploy, progress};
use millrace_peers::Kafka;
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::BorrowedHeaders;

use crate::common::{BATCH, batches};
use crate::kafka::{consumer, flush, plain_sink, producer, records, send, store, topic, wait};

const MESSAGES: u64 = 1_500_000;

/// What the pipeline is to carry, in messages a second.
const AIM: f64 = 150_000.0;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);

/// All is through within this time.
const DONE: Duration = Duration::from_secs(120);

/// Topic to write to, name, settings of the source, settings of its delivery.
const SETTINGS: [(&str, &str, &str, &str); 2] = [
    ("out", "default settings", "", ""),
    (
        "out-wide",
        "in-flight 16, batch-messages 1000, window 40000",
        ", window: 40000",
        "in-flight: 16, batch-messages: 1000",
    ),
];

const DEFINITION: &str = r"
millrace: v1alpha1
pipeline: bench
version: 0.1.0
sources: [readings]
steps:
  pass: { map: pass-map, from: readings }
sinks:
  out: { from: pass }
";

pub(crate) async fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let messages = if quick { MESSAGES / 10 } else { MESSAGES };
    progress("kafka: topic to stage to topic");
    let kafka = Kafka::start()?;
    for name in ["in", "plain"] {
        topic(&kafka, name).await?;
    }
    plain_sink(&kafka, "in", &batches(messages, "t")?).await?;
    let plain = plain(&kafka, messages).await?;
    let mut rows = Vec::new();
    for (to, name, source, delivery) in SETTINGS {
        topic(&kafka, to).await?;
        let ours = Lab::host(Sync::Interval, async |lab| {
            pipeline(lab, &kafka, to, (source, delivery), messages).await
        })
        .await?;
        let what = format!("topic to stage to topic, 200 B, {name}");
        rows.push(Row::new("kafka", what, ours, "messages/s").over(plain).aim(Aim::AtLeast(AIM)));
    }
    Ok(rows)
}

/// Messages a second between the first and the last that are seen to arrive: how long a start takes is another figure.
async fn arriving(kafka: &Kafka, topic: &'static str, messages: u64) -> anyhow::Result<f64> {
    let consumer = consumer(kafka, "looking")?;
    let work = move || {
        let (start, mut first) = (Instant::now(), None);
        loop {
            let (found, now) = (records(&consumer, topic)?, Instant::now());
            match first {
                None if found > 0 => first = Some((found, now)),
                Some((before, since)) if found >= messages => {
                    let rate = (found - before) as f64 / (now - since).as_secs_f64();
                    return Ok(rate);
                }
                _ => {}
            }
            ensure!(
                start.elapsed() < DONE,
                "{found} of {messages} records came through in {DONE:?}"
            );
            std::thread::sleep(LOOK);
        }
    };
    tokio::task::spawn_blocking(work).await?
}

/// Consumes and produces with the client library alone.
async fn plain(kafka: &Kafka, messages: u64) -> anyhow::Result<f64> {
    let (consumer, producer) = (consumer(kafka, "plain")?, producer(kafka)?);
    consumer.subscribe(&["in"])?;
    let copying = tokio::task::spawn_blocking(move || {
        let mut taken = 0;
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        while taken < messages {
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
            let record = record?;
            let headers = record.headers().map(BorrowedHeaders::detach).unwrap_or_default();
            let (key, payload) = (record.key().unwrap_or_default(), record.payload());
            send(&producer, "plain", key, payload.unwrap_or_default(), headers)?;
            ends.insert(record.partition(), record.offset() + 1);
            taken += 1;
            if taken % BATCH == 0 {
                wait(&producer);
                store(&consumer, "in", std::mem::take(&mut ends))?;
            }
        }
        flush(&producer, messages)
    });
    let rate = arriving(kafka, "plain", messages).await?;
    copying.await??;
    Ok(rate)
}

async fn pipeline(
    lab: &Lab,
    kafka: &Kafka,
    to: &'static str,
    (source, delivery): (&str, &str),
    messages: u64,
) -> anyhow::Result<f64> {
    let brokers = kafka.brokers();
    let binding = format!(
        r#"millrace: v1alpha1
binding:
  sources:
    readings:
      kafka: {{ brokers: "{brokers}", topics: in, group: to-{to}{source} }}
      delivery: {{ {delivery} }}
  sinks:
    out: {{ kafka: {{ brokers: "{brokers}", topic: {to} }} }}
  components:
    pass-map: {{ file: {:?} }}
"#,
        deploy::component("pass-map"),
    );
    let plan = deploy::plan(DEFINITION, &binding)?;
    deploy::deploy(lab, &plan).await.context("the pipeline does not start")?;
    arriving(kafka, to, messages).await
}
