//! What the connectors' measurements share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_bench::report::{Aim, Row};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Source, Stage, State,
    WriteError,
};
use millrace_settings::{Delivery as DeliverySettings, Settings, from_flat};
use rustix::time::{ClockId, clock_gettime};

/// Messages in a batch, as sources make them unless told otherwise.
pub(crate) const BATCH: u64 = 500;

/// Every message's payload, where nothing else is said.
pub(crate) const PAYLOAD: [u8; 200] = [b'x'; 200];

/// Rounds of which the least counts.
pub(crate) const ROUNDS: usize = 3;

/// A connector is to take at most so many times the plain library's processor time.
pub(crate) const CPU_AIM: Aim = Aim::RatioAtMost(1.2);

/// All of a round is done within this time.
const DONE: Duration = Duration::from_secs(120);

/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(1);

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// Messages a second.
    pub(crate) rate: f64,
    /// Microseconds of processor time a message.
    pub(crate) cpu: f64,
}

/// Processor time of this process so far (that of `getrusage`).
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Does the work, which is so many messages, and takes the times.
pub(crate) async fn measured(
    messages: u64,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Took> {
    let (start, before) = (Instant::now(), cpu());
    tokio::time::timeout(DONE, work).await.context("not all messages came through")??;
    let (wall, used) = (start.elapsed(), cpu().saturating_sub(before));
    Ok(Took {
        rate: messages as f64 / wall.as_secs_f64(),
        cpu: used.as_secs_f64() * 1e6 / messages as f64,
    })
}

/// The best of several rounds.
fn best(rounds: &[Took]) -> Took {
    Took {
        rate: rounds.iter().map(|took| took.rate).fold(0.0, f64::max),
        cpu: rounds.iter().map(|took| took.cpu).fold(f64::MAX, f64::min),
    }
}

/// A row: processor time a message, beside the plain library's.
pub(crate) fn row(
    part: &'static str,
    what: impl Into<String>,
    ours: &[Took],
    plain: &[Took],
) -> Row {
    let (ours, plain) = (best(ours), best(plain));
    Row::new(part, what, ours.cpu, "us CPU/message")
        .over(plain.cpu)
        .aim(CPU_AIM)
        .detail("messages/s", ours.rate)
        .detail("plain messages/s", plain.rate)
}

/// A stage and a place for dead letters; counts messages.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn messages(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Stage for Count {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        let counted = Batch::open(&body).map(|batch| batch.len() as u64);
        self.0.fetch_add(counted.unwrap_or(0), Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl DeadLetters for Count {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        let error = WriteError::Unreadable(format!("{} bytes of dead letters", letters.len()));
        Box::pin(std::future::ready(Err(error)))
    }
}

pub(crate) fn link(direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: "l".into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

/// Waits until a link is connected.
pub(crate) async fn connected(link: &Link) -> anyhow::Result<()> {
    let start = Instant::now();
    while link.state() != State::Connected {
        ensure!(start.elapsed() < DONE, "not connected: {:?}", link.status().error);
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// How sources make batches, unless told otherwise.
pub(crate) fn limits() -> Limits {
    Limits::from(&DeliverySettings::default())
}

/// Settings from their fields.
pub(crate) fn settings<S: Settings>(pairs: &[(&str, &str)]) -> anyhow::Result<S> {
    let flat: BTreeMap<String, String> =
        pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
    Ok(from_flat(&flat, &[])?)
}

/// Runs a source over a stage that counts, until so many messages are there.
pub(crate) async fn run_source(source: Box<dyn Source>, messages: u64) -> anyhow::Result<()> {
    let (count, link) = (Arc::new(Count::default()), link(Direction::Source));
    let policy = (&DeliverySettings::default()).into();
    let delivery = Arc::new(Delivery::new(count.clone(), count.clone(), link.clone(), policy));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    while count.messages() < messages {
        tokio::time::sleep(LOOK).await;
    }
    link.start_drain();
    task.await?;
    Ok(())
}

/// Batches with so many messages altogether. Each message has a key and a header, as those of a machine do.
pub(crate) fn batches(messages: u64, topic: &str) -> anyhow::Result<Vec<Bytes>> {
    (0..messages)
        .step_by(usize::try_from(BATCH)?)
        .map(|first| {
            let id = first.to_string();
            let mut writer = BatchWriter::with_capacity([("id", id.as_str())], 130_000)?;
            for n in first..first + BATCH {
                let key = n.to_string();
                let fields = Fields {
                    timestamp: 1_700_000_000_000_000_000,
                    topic,
                    key: Some(key.as_bytes()),
                    payload: &PAYLOAD,
                    content_type: None,
                };
                writer.push(&fields, [("unit", "C")])?;
            }
            Ok(Bytes::from(writer.finish()))
        })
        .collect()
}
