//! Sources and sinks of one broker, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_conformance::{Note, Seen, TestDeadLetters, TestStage, counted, missing, pack};
use millrace_kit::{Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source, State};
use millrace_mqtt::{MqttSink, MqttSource};
use millrace_settings::from_flat;
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

fn flat(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
}

fn link(name: &str, direction: Direction) -> Arc<Link> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let names = LinkNames { pipeline: "line".into(), name: name.into(), stage: "clean".into() };
    Arc::new(Link::new(names, direction))
}

/// A source and its stage.
pub struct In {
    pub link: Arc<Link>,
    pub stage: Arc<TestStage>,
    pub task: JoinHandle<()>,
}

impl In {
    /// Starts one without waiting for its connection.
    pub fn start(name: &str, stage: &Arc<TestStage>, pairs: &[(&str, &str)]) -> Self {
        let settings: SourceSettings = from_flat(&flat(pairs), &[]).unwrap();
        let limits = Limits { messages: 20, bytes: 100_000, linger: Duration::from_millis(5) };
        let link = link(name, Direction::Source);
        let policy = Policy {
            in_flight: 4,
            call_timeout: Duration::from_secs(600),
            attempts: 3,
            suspect_after: 3,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(200),
        };
        let dead = Arc::new(TestDeadLetters::default());
        let delivery = Arc::new(Delivery::new(stage.clone(), dead, link.clone(), policy));
        let source = Box::new(MqttSource::new(settings, limits, format!("the-{name}")).unwrap());
        let task = tokio::spawn(source.run(link.clone(), delivery));
        Self { link, stage: stage.clone(), task }
    }

    /// Starts one and waits until it is connected.
    pub async fn connected(name: &str, pairs: &[(&str, &str)]) -> Self {
        let source = Self::start(name, &Arc::default(), pairs);
        reaches(&source.link, State::Connected).await;
        source
    }

    /// How often each number was seen.
    pub fn counts(&self) -> BTreeMap<u64, usize> {
        counted(self.stage.seen().iter().filter_map(|seen| Note::number_in(&seen.payload)))
    }

    /// Waits until each of these numbers was seen.
    pub async fn sees(&self, wanted: std::ops::Range<u64>) {
        let start = Instant::now();
        while missing(&self.counts(), wanted.clone()) != "none" {
            let late = start.elapsed() > Duration::from_secs(30);
            let missing = missing(&self.counts(), wanted.clone());
            assert!(!late, "missing {missing} of {wanted:?}; {:?}", self.link.status());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it as a crash does.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Drains it.
    pub async fn drain(self) {
        self.link.start_drain();
        timeout(Duration::from_secs(10), self.task).await.expect("drains").unwrap();
    }
}

/// A sink and its dead letters.
pub struct Out {
    pub sink: Arc<MqttSink>,
    pub link: Arc<Link>,
    pub dead: Arc<TestDeadLetters>,
}

impl Out {
    /// Starts one without waiting for its connection.
    pub fn start(name: &str, pairs: &[(&str, &str)]) -> Self {
        let settings: SinkSettings = from_flat(&flat(pairs), &[]).unwrap();
        let link = link(name, Direction::Sink);
        let dead = Arc::new(TestDeadLetters::default());
        let sink =
            MqttSink::open(settings, format!("the-{name}"), link.clone(), dead.clone()).unwrap();
        Self { sink, link, dead }
    }

    /// Starts one and waits until it is connected.
    pub async fn connected(name: &str, pairs: &[(&str, &str)]) -> Self {
        let sink = Self::start(name, pairs);
        reaches(&sink.link, State::Connected).await;
        sink
    }

    /// Writes a batch again and again until it is ok; says how often it was not.
    pub async fn writes(&self, batch: Bytes) -> usize {
        let start = Instant::now();
        let mut failed = 0;
        while let Err(error) = self.sink.write(batch.clone()).await {
            failed += 1;
            assert!(start.elapsed() < Duration::from_secs(40), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        failed
    }

    /// Closes it, as a provider does.
    pub async fn close(self) {
        self.link.start_drain();
        timeout(Duration::from_secs(10), self.sink.close()).await.expect("closes");
    }
}

/// Waits for a state.
pub async fn reaches(link: &Link, state: State) {
    let start = Instant::now();
    while link.state() != state {
        assert!(start.elapsed() < Duration::from_secs(20), "{state:?}: {:?}", link.status());
        sleep(Duration::from_millis(5)).await;
    }
}

/// A batch of messages with these numbers.
pub fn batch(numbers: std::ops::Range<u64>) -> Bytes {
    let messages: Vec<Seen> = numbers
        .clone()
        .map(|number| Seen {
            timestamp: 1,
            topic: "press-1".to_owned(),
            payload: Note::new(number).payload(),
            ..Seen::default()
        })
        .collect();
    pack(&format!("batch-{}", numbers.start), &messages).unwrap()
}
