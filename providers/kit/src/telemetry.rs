//! What a link counts.
//!
//! Counters are touched once a batch from several tasks, so they are plain
//! atomics without ordering: a snapshot may be a batch apart between two
//! fields, which nobody reading a status can tell.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::answer::{ErrorKind, bounded};

/// Upper bounds of the classes of a [`Histogram`], in microseconds, each inclusive. A last class has all that took longer.
pub const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Times, by class.
#[derive(Debug, Default)]
struct Times {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Times {
    fn add(&self, us: u64) {
        let class = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(class) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        match counts.iter().all(|count| *count == 0) {
            true => Histogram::default(),
            false => Histogram { counts, sum_us: self.sum_us.load(Relaxed) },
        }
    }
}

/// Counters of one link.
#[derive(Debug, Default)]
pub struct Telemetry {
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_out: AtomicU64,
    batches_out: AtomicU64,
    dead_letters: AtomicU64,
    duplicates: AtomicU64,
    dropped: AtomicU64,
    dropped_batches: AtomicU64,
    reconnects: AtomicU64,
    in_flight: AtomicU64,
    window: AtomicU64,
    lag_last_us: AtomicU64,
    lag_max_us: AtomicU64,
    acknowledged: Times,
    calls: Times,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    last_error: Mutex<Option<LastError>>,
    queue: Mutex<Option<Queue>>,
    uses: Mutex<BTreeMap<String, Uses>>,
}

impl Telemetry {
    /// Messages and their bytes that came in at this end of the link.
    pub fn received(&self, messages: u64, bytes: u64) {
        self.messages_in.fetch_add(messages, Relaxed);
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    /// A batch that went out and is safe.
    pub fn delivered(&self, messages: u64, bytes: u64) {
        self.messages_out.fetch_add(messages, Relaxed);
        self.bytes_out.fetch_add(bytes, Relaxed);
        self.batches_out.fetch_add(1, Relaxed);
    }

    /// Messages written to the dead letters.
    pub fn buried(&self, messages: u64) {
        self.dead_letters.fetch_add(messages, Relaxed);
    }

    /// A batch that the other side had already and dropped.
    pub fn duplicate(&self) {
        self.duplicates.fetch_add(1, Relaxed);
    }

    /// Messages that cannot be carried and that the protocol allows to lose.
    pub fn dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Relaxed);
    }

    /// Batches that an edge has dropped because its author said so: the oldest
    /// of a full one, or those above its age.
    pub fn dropped_batches(&self, batches: u64) {
        self.dropped_batches.fetch_add(batches, Relaxed);
    }

    /// What waits on an edge.
    pub fn queued(&self, queue: Queue) {
        *self.queue.lock() = Some(queue);
    }

    /// A step of the link that may use what lies outside: it is counted from now on.
    pub fn uses(&self, step: &str) {
        self.uses.lock().entry(step.to_owned()).or_default();
    }

    /// A step has used something outside, or wanted to. The names have to be those of the link's steps: there is one counter
    /// for each. Answers what is counted for it now.
    pub fn used(&self, step: &str, how: Used<'_>) -> Uses {
        let mut all = self.uses.lock();
        let uses = all.entry(step.to_owned()).or_default();
        match how {
            Used::Done => uses.done += 1,
            Used::Failed(text) => {
                uses.failed += 1;
                uses.last_failure = Some(bounded(text));
            }
            Used::Refused(text) => {
                uses.refused += 1;
                uses.last_refusal = Some(bounded(text));
            }
        }
        uses.clone()
    }

    /// A connection made again after it was lost.
    pub fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// An error, counted by kind and kept as the last one.
    pub fn error(&self, kind: ErrorKind, text: impl std::fmt::Display) {
        if let Some(counter) = self.errors.get(kind as usize) {
            counter.fetch_add(1, Relaxed);
        }
        let error = LastError {
            kind: kind.name().to_owned(),
            text: bounded(&text.to_string()),
            at_ms: now_ms(),
        };
        *self.last_error.lock() = Some(error);
    }

    /// How long something took from its arrival to its acknowledgement.
    pub fn acknowledged_after(&self, lag: Duration) {
        let us = micros(lag);
        self.lag_last_us.store(us, Relaxed);
        self.lag_max_us.fetch_max(us, Relaxed);
        self.acknowledged.add(us);
    }

    /// How long a call of the stage took, whatever came of it.
    pub fn called(&self, time: Duration) {
        self.calls.add(micros(time));
    }

    /// Counts one call in flight until the guard is dropped.
    pub fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self)
    }

    /// Most batches that are handed on at once, from now on.
    pub fn window(&self, most: usize) {
        self.window.store(most as u64, Relaxed);
    }

    /// The counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Counters {
        let errors = ErrorKind::ALL
            .iter()
            .zip(&self.errors)
            .map(|(kind, count)| (kind.name().to_owned(), count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Counters {
            messages_in: self.messages_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            batches_out: self.batches_out.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            dropped_batches: self.dropped_batches.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            window: Some(self.window.load(Relaxed)).filter(|most| *most > 0),
            lag_last_us: self.lag_last_us.load(Relaxed),
            lag_max_us: self.lag_max_us.load(Relaxed),
            acknowledged: self.acknowledged.snapshot(),
            calls: self.calls.snapshot(),
            errors,
            last_error: self.last_error.lock().clone(),
            queue: *self.queue.lock(),
            uses: self.uses.lock().clone(),
        }
    }
}

/// One call in flight, for as long as this lives.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Telemetry);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What a link has counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Messages that came in at this end.
    pub messages_in: u64,
    /// Their payload bytes, or for packed batches the bytes of the batches.
    pub bytes_in: u64,
    /// Messages that went out and are safe.
    pub messages_out: u64,
    /// Bytes of the batches that carried them.
    pub bytes_out: u64,
    /// Batches that carried them.
    pub batches_out: u64,
    /// Messages written to the dead letters from here.
    pub dead_letters: u64,
    /// Batches that JetStream had already and dropped.
    pub duplicates: u64,
    /// Messages that were not carried because the protocol allows it and they
    /// could not be (a message above the batch limit at QoS 0, for example).
    pub dropped: u64,
    /// Batches that an edge dropped because its author said so.
    pub dropped_batches: u64,
    /// Connections made again after a loss.
    pub reconnects: u64,
    /// Calls or publishes not yet answered, now.
    pub in_flight: u64,
    /// Most batches that an edge hands on at once, now; only its far end knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Microseconds from arrival to acknowledgement, of the last batch.
    pub lag_last_us: u64,
    /// The same, the longest so far.
    pub lag_max_us: u64,
    /// The same, of all batches.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub acknowledged: Histogram,
    /// How long calls of the stage took, probes apart; of a link to a stage.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub calls: Histogram,
    /// Errors by kind; kinds without errors are left out.
    pub errors: BTreeMap<String, u64>,
    /// The last error, if there was one. It stays after things went well again.
    pub last_error: Option<LastError>,
    /// What waits on an edge; only its far end knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// What the steps of the stage have used of what lies outside, by step; of a link to the conduit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub uses: BTreeMap<String, Uses>,
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// How often, for each class of [`BOUNDS_US`] and for what took longer. Nothing where nothing was counted.
    pub counts: Vec<u64>,
    /// All times together, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// How often in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// What a step has used of what lies outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uses {
    /// Requests that were answered.
    pub done: u64,
    /// Requests that were not granted.
    pub refused: u64,
    /// Requests that were granted and could not be answered.
    pub failed: u64,
    /// The last one that was not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<String>,
    /// Why the last one that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// What became of a request of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used<'a> {
    /// It was answered.
    Done,
    /// It could not be.
    Failed(&'a str),
    /// It was not granted.
    Refused(&'a str),
}

/// What waits on an edge, in work included. `batches` and `bytes` are without
/// what is in its spill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Batches.
    pub batches: u64,
    /// Their bytes, with what JetStream adds.
    pub bytes: u64,
    /// Most bytes that there can be.
    pub max_bytes: u64,
    /// Milliseconds for which the oldest has waited; 0 when there is none.
    pub oldest_ms: u64,
    /// Batches that wait in the spill of an edge that was full.
    pub spilled_batches: u64,
    /// Their bytes.
    pub spilled_bytes: u64,
}

/// An error and when it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// Its kind, as in [`Counters::errors`].
    pub kind: String,
    /// What was tried and why it failed.
    pub text: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_snapshots() {
        let telemetry = Telemetry::default();
        telemetry.received(3, 30);
        telemetry.delivered(2, 25);
        telemetry.buried(1);
        telemetry.error(ErrorKind::Trap, "first");
        telemetry.error(ErrorKind::Downstream, "edge full");
        telemetry.acknowledged_after(Duration::from_millis(7));
        telemetry.acknowledged_after(Duration::from_millis(2));
        let guard = telemetry.in_flight();
        let counters = telemetry.snapshot();
        assert_eq!((counters.messages_in, counters.bytes_in), (3, 30));
        assert_eq!((counters.messages_out, counters.bytes_out, counters.batches_out), (2, 25, 1));
        assert_eq!((counters.dead_letters, counters.in_flight), (1, 1));
        assert_eq!((counters.lag_last_us, counters.lag_max_us), (2_000, 7_000));
        assert_eq!(counters.errors, BTreeMap::from([("trap".into(), 1), ("downstream".into(), 1)]));
        assert_eq!(counters.last_error.as_ref().map(|e| e.text.as_str()), Some("edge full"));
        drop(guard);
        assert_eq!(telemetry.snapshot().in_flight, 0);
    }

    #[test]
    fn times_are_in_the_class_whose_bound_they_do_not_exceed() {
        let telemetry = Telemetry::default();
        assert_eq!(telemetry.snapshot().calls, Histogram::default());
        for us in [0, 500, 501, 60_000_000, 60_000_001] {
            telemetry.called(Duration::from_micros(us));
        }
        let calls = telemetry.snapshot().calls;
        assert_eq!((calls.count(), calls.sum_us), (5, 120_001_002));
        let classes: Vec<(usize, u64)> =
            calls.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(classes, [(0, 2), (1, 1), (15, 1), (16, 1)]);
        assert!(BOUNDS_US.is_sorted());
    }

    #[test]
    fn a_status_of_an_older_version_can_be_read() {
        let counters: Counters = serde_json::from_str(r#"{"messages_in": 5, "gone": 1}"#).unwrap();
        assert_eq!(counters.messages_in, 5);
    }
}
