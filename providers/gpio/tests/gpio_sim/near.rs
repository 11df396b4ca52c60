//! The pipeline's side: a stage and dead letters that remember, links, and
//! sources and sinks made from settings as they are written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_gpio::{GpioSink, GpioSource};
use millrace_grants::WRITERS_KEY;
use millrace_kit::telemetry::now_ns;
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError, Writers,
};
use millrace_settings::{Settings, from_flat};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A message as the stage saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) timestamp: u64,
    pub(crate) content_type: Option<String>,
    pub(crate) json: Value,
}

impl Seen {
    /// Line, level and edge (or why it was looked at).
    pub(crate) fn brief(&self) -> (String, u64, String) {
        let word = self.json.get("edge").or_else(|| self.json.get("sample")).unwrap();
        (
            self.json["line"].as_str().unwrap().to_owned(),
            self.json["level"].as_u64().unwrap(),
            word.as_str().unwrap().to_owned(),
        )
    }
}

/// A stage that remembers, and answers only as often as it is let.
pub(crate) struct Near {
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) open: Semaphore,
    pub(crate) dead: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Near {
    pub(crate) fn open() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS)
    }

    pub(crate) fn with(answers: usize) -> Arc<Self> {
        let open = Semaphore::new(answers);
        Arc::new(Self { seen: Mutex::default(), open, dead: Mutex::default() })
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(crate) fn briefs(&self) -> Vec<(String, u64, String)> {
        self.seen.lock().iter().map(Seen::brief).collect()
    }

    /// Waits until so many messages were seen.
    pub(crate) async fn until(&self, count: usize) {
        eventually(|| self.seen.lock().len() >= count)
            .await
            .unwrap_or_else(|()| panic!("{:?} instead of {count}", self.briefs()));
    }
}

impl Stage for Near {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            self.open.acquire().await.unwrap().forget();
            let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
            self.seen.lock().extend(batch.messages().map(|m| Seen {
                topic: m.topic.to_owned(),
                timestamp: m.timestamp,
                content_type: m.content_type.map(str::to_owned),
                json: serde_json::from_slice(m.payload).unwrap(),
            }));
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

/// Waits until something is so.
pub(crate) async fn eventually(is_so: impl Fn() -> bool) -> Result<(), ()> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > Duration::from_secs(30) {
            return Err(());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

pub(crate) async fn reaches(link: &Link, state: State) {
    eventually(|| link.state() == state).await.unwrap_or_else(|()| panic!("{:?}", link.status()));
}

/// Waits until the link's status says this.
pub(crate) async fn says(link: &Link, text: &str) {
    let said = || link.status().error.is_some_and(|error| error.contains(text));
    eventually(said).await.unwrap_or_else(|()| panic!("not \"{text}\": {:?}", link.status()));
}

pub(crate) fn link(name: &str, direction: Direction) -> Arc<Link> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let names = LinkNames { pipeline: "line".into(), name: name.into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

/// Settings by way of a link's flat map.
pub(crate) fn settings<S: Settings>(json: Value) -> S {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let flat: BTreeMap<String, String> =
        json.as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect();
    from_flat(&flat, &[]).unwrap()
}

/// A running source.
pub(crate) struct Running {
    pub(crate) link: Arc<Link>,
    pub(crate) near: Arc<Near>,
    task: JoinHandle<()>,
}

/// Starts a source without waiting for its lines.
pub(crate) fn start_source(near: &Arc<Near>, json: Value) -> Running {
    let limits = Limits { messages: 100, bytes: 100_000, linger: Duration::ZERO };
    let link = link("in", Direction::Source);
    let policy = Policy {
        in_flight: 1,
        call_timeout: Duration::from_secs(600),
        attempts: 3,
        suspect_after: 3,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
    };
    let delivery = Arc::new(Delivery::new(near.clone(), near.clone(), link.clone(), policy));
    let source = Box::new(GpioSource::new(settings(json), limits));
    Running {
        link: link.clone(),
        near: near.clone(),
        task: tokio::spawn(source.run(link, delivery)),
    }
}

/// Starts a source and waits for its lines.
pub(crate) async fn source(json: Value) -> Running {
    let running = start_source(&Near::open(), json);
    reaches(&running.link, State::Connected).await;
    running
}

impl Running {
    /// Drains it and waits for its end.
    pub(crate) async fn drain(self) {
        self.link.start_drain();
        timeout(Duration::from_secs(30), self.task).await.expect("drained").unwrap();
    }
}

/// Starts a sink without waiting for its lines.
pub(crate) fn start_sink(dead: &Arc<Near>, json: Value) -> (Arc<GpioSink>, Arc<Link>) {
    start_sink_for(Writers::default(), dead, json)
}

/// The same, for writers that are held to what they were granted.
pub(crate) fn start_sink_for(
    writers: Writers,
    dead: &Arc<Near>,
    json: Value,
) -> (Arc<GpioSink>, Arc<Link>) {
    let link = Arc::into_inner(link("out", Direction::Sink)).unwrap();
    let link = Arc::new(link.with_writers(writers));
    let sink = GpioSink::open(settings(json), link.clone(), dead.clone()).unwrap();
    (sink, link)
}

/// Writers as the settings of a link say: all that comes is of the step `control`, which is granted this.
pub(crate) fn control(grants: &[&str]) -> Writers {
    let writers = serde_json::json!({ "control": { "control": grants } }).to_string();
    Writers::of(&BTreeMap::from([(WRITERS_KEY.to_owned(), writers)])).unwrap()
}

pub(crate) async fn sink(json: Value) -> (Arc<GpioSink>, Arc<Link>) {
    let (sink, link) = start_sink(&Near::open(), json);
    reaches(&link, State::Connected).await;
    (sink, link)
}

/// A batch of messages, each a topic and a payload.
pub(crate) fn batch(messages: &[(&str, &str)]) -> Bytes {
    batch_of(now_ns(), messages)
}

pub(crate) fn batch_of(timestamp: u64, messages: &[(&str, &str)]) -> Bytes {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for (topic, payload) in messages {
        let fields = Fields { timestamp, topic, payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}

pub(crate) async fn write(sink: &GpioSink, messages: &[(&str, &str)]) {
    sink.write(batch(messages)).await.unwrap();
}
