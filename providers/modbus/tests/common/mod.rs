//! What the tests of source and sink have in common.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_grants::WRITERS_KEY;
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Source, Stage,
    State, WriteError, Writers,
};
use millrace_modbus::{ModbusSink, ModbusSource};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A reading as the stage saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub topic: String,
    pub key: String,
    pub timestamp: u64,
    pub content_type: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub payload: Value,
}

impl Seen {
    pub fn value(&self) -> &Value {
        &self.payload["value"]
    }

    pub fn quality(&self) -> &str {
        self.payload["quality"].as_str().unwrap()
    }

    pub fn reason(&self) -> &str {
        self.payload["reason"].as_str().unwrap_or("")
    }
}

/// A dead letter: its topic, and why.
#[derive(Debug, Clone)]
pub struct Letter {
    pub topic: String,
    pub payload: String,
    pub kind: String,
    pub text: String,
}

/// A stage that remembers, and answers only as often as it is let.
pub struct Near {
    pub seen: Mutex<Vec<Seen>>,
    pub open: Semaphore,
    pub dead: Mutex<Vec<Letter>>,
}

impl Near {
    pub fn open() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS)
    }

    pub fn with(answers: usize) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            open: Semaphore::new(answers),
            dead: Mutex::default(),
        })
    }

    /// All readings of a field.
    pub fn of(&self, field: &str) -> Vec<Seen> {
        self.seen.lock().iter().filter(|seen| seen.topic == field).cloned().collect()
    }

    /// The last reading of a field that is like this, waited for.
    pub async fn until(&self, field: &str, like: impl Fn(&Seen) -> bool) -> Seen {
        let start = Instant::now();
        loop {
            if let Some(seen) = self.of(field).into_iter().rev().find(&like) {
                return seen;
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no such reading of {field}; the last is {:?}",
                self.of(field).last()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A reading from now on that is like this.
    pub async fn next(&self, field: &str, like: impl Fn(&Seen) -> bool) -> Seen {
        self.seen.lock().clear();
        self.until(field, like).await
    }

    pub async fn good(&self, field: &str) -> Seen {
        self.until(field, |seen| seen.quality() == "good").await
    }

    pub async fn bad(&self, field: &str) -> Seen {
        self.until(field, |seen| seen.quality() == "bad").await
    }
}

impl Stage for Near {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
            self.seen.lock().extend(batch.messages().map(|m| Seen {
                topic: m.topic.to_owned(),
                key: String::from_utf8(m.key.unwrap().to_vec()).unwrap(),
                timestamp: m.timestamp,
                content_type: m.content_type.map(str::to_owned),
                headers: m.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                payload: serde_json::from_slice(m.payload).unwrap(),
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
            let header = |name| message.header(name).unwrap_or_default().to_owned();
            self.dead.lock().push(Letter {
                topic: message.topic.to_owned(),
                payload: String::from_utf8_lossy(message.payload).into_owned(),
                kind: header("millrace-dead-kind"),
                text: header("millrace-dead-text"),
            });
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

pub fn link(name: &str, direction: Direction) -> Arc<Link> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
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

/// Adds what the test says to what it does not.
fn settings(url: &str, more: Value, defaults: &[(&str, Value)]) -> Value {
    let mut all = serde_json::Map::new();
    all.insert("url".into(), url.into());
    all.extend(defaults.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    all.extend(more.as_object().unwrap().clone());
    Value::Object(all)
}

/// Starts a source that reads every 50 ms and waits 200 ms for an answer.
pub fn source(url: &str, near: &Arc<Near>, more: Value) -> (Arc<Link>, JoinHandle<()>) {
    let all = settings(url, more, &[("interval", "50ms".into()), ("timeout", "200ms".into())]);
    let limits = Limits { messages: 500, bytes: 100_000, linger: Duration::from_millis(2) };
    let link = link("in", Direction::Source);
    let delivery = Arc::new(Delivery::new(near.clone(), near.clone(), link.clone(), policy()));
    let source = ModbusSource::new(serde_json::from_value(all).unwrap(), limits).unwrap();
    (link.clone(), tokio::spawn(Box::new(source).run(link, delivery)))
}

/// Opens a sink that waits 300 ms for an answer.
pub fn sink(url: &str, dead: &Arc<Near>, more: Value) -> (Arc<ModbusSink>, Arc<Link>) {
    sink_for(Writers::default(), url, dead, more)
}

/// The same, for writers that are held to what they were granted.
pub fn sink_for(
    writers: Writers,
    url: &str,
    dead: &Arc<Near>,
    more: Value,
) -> (Arc<ModbusSink>, Arc<Link>) {
    let all = settings(url, more, &[("timeout", "300ms".into())]);
    let link = Arc::into_inner(link("out", Direction::Sink)).unwrap();
    let link = Arc::new(link.with_writers(writers));
    let settings = serde_json::from_value(all).unwrap();
    (ModbusSink::open(settings, link.clone(), dead.clone()).unwrap(), link)
}

/// Writers as the settings of a link say: all that comes is of the step `control`, which is granted this.
pub fn control(grants: &[&str]) -> Writers {
    let writers = serde_json::json!({ "control": { "control": grants } }).to_string();
    Writers::of(&BTreeMap::from([(WRITERS_KEY.to_owned(), writers)])).unwrap()
}

pub async fn reaches(link: &Link, state: State) {
    let reached = async {
        while link.state() != state {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), reached)
        .await
        .unwrap_or_else(|_| panic!("{:?}", link.status()));
}

/// Ends a source; it has to return.
pub async fn drain(link: &Link, task: JoinHandle<()>) {
    link.start_drain();
    timeout(Duration::from_secs(5), task).await.expect("the source returns").unwrap();
}

static BATCHES: AtomicU64 = AtomicU64::new(0);

/// A batch of topics and payloads, with an id of its own.
pub fn batch<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bytes {
    let id = format!("b-{}", BATCHES.fetch_add(1, Relaxed));
    let mut writer = BatchWriter::new([("id", id.as_str())]).unwrap();
    for (topic, payload) in messages {
        let fields =
            Fields { timestamp: 1, topic, payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}
