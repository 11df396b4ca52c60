//! A stage and dead letters that a check has in its hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, OwnedMessage};
use millrace_kit::{CallError, DeadLetters, Stage, WriteError};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A message as a stage saw it, or as a sink is given it.
pub type Seen = OwnedMessage;

/// A packed batch of these messages.
///
/// # Errors
///
/// When a message does not fit into the format.
pub fn pack(id: &str, messages: &[Seen]) -> anyhow::Result<Bytes> {
    let mut writer = BatchWriter::new([(millrace_batch::ID, id)])?;
    for message in messages {
        message.push(&mut writer)?;
    }
    Ok(writer.finish().into())
}

/// What a call found: the messages, and the batch's headers.
#[derive(Debug, Clone)]
pub struct Call {
    /// The messages of the batch.
    pub messages: Vec<Seen>,
    /// Headers of the batch.
    pub headers: BTreeMap<String, String>,
    /// The trace context given beside the batch.
    pub traceparent: Option<String>,
}

/// A stage that remembers every call and answers when it is let: a held one
/// answers nothing until it is released.
#[derive(Debug)]
pub struct TestStage {
    calls: Mutex<Vec<Call>>,
    /// Messages of calls that were answered with ok.
    safe: Mutex<Vec<Seen>>,
    held: watch::Sender<bool>,
    /// Calls that are still to fail.
    failing: AtomicUsize,
    /// Milliseconds before each answer.
    slow: AtomicU64,
}

impl Default for TestStage {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            safe: Mutex::default(),
            held: watch::Sender::new(false),
            failing: AtomicUsize::new(0),
            slow: AtomicU64::new(0),
        }
    }
}

impl TestStage {
    /// Answers nothing from now on, and then everything that waited.
    pub fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Fails the next calls with `downstream`.
    pub fn fail(&self, calls: usize) {
        self.failing.store(calls, SeqCst);
    }

    /// How many calls are still to fail.
    #[must_use]
    pub fn still_failing(&self) -> usize {
        self.failing.load(SeqCst)
    }

    /// Waits before each answer.
    pub fn slow(&self, pause: Duration) {
        self.slow.store(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), SeqCst);
    }

    /// Every message of every call, repeats included, in the order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.calls.lock().iter().flat_map(|call| call.messages.clone()).collect()
    }

    /// Every message that was answered with ok, repeats included.
    #[must_use]
    pub fn safe(&self) -> Vec<Seen> {
        self.safe.lock().clone()
    }

    /// Every call.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }
}

impl Stage for TestStage {
    fn call<'a>(
        &'a self,
        batch: Bytes,
        traceparent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let read = Batch::parse(&batch).map_err(|e| CallError::Batch(e.to_string()))?;
            self.calls.lock().push(Call {
                messages: read.messages().map(|message| Seen::from(&message)).collect(),
                headers: read
                    .headers()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                traceparent: traceparent.map(str::to_owned),
            });
            let slow = self.slow.load(SeqCst);
            if slow > 0 {
                tokio::time::sleep(Duration::from_millis(slow)).await;
            }
            // The sender lives as long as this stage.
            let _ = self.held.subscribe().wait_for(|held| !held).await;
            let fails = self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
            match fails {
                Ok(_) => Err(CallError::Downstream("refused by the check".to_owned())),
                Err(_) => {
                    self.safe.lock().extend(read.messages().map(|message| Seen::from(&message)));
                    Ok(())
                }
            }
        })
    }
}

/// Dead letters that are remembered.
#[derive(Debug, Default)]
pub struct TestDeadLetters {
    letters: Mutex<Vec<Seen>>,
}

impl TestDeadLetters {
    /// All of them.
    #[must_use]
    pub fn letters(&self) -> Vec<Seen> {
        self.letters.lock().clone()
    }
}

impl DeadLetters for TestDeadLetters {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        let read = Batch::parse(&letters).map_err(|e| WriteError::Unreadable(e.to_string()));
        let result = read.map(|batch| {
            self.letters.lock().extend(batch.messages().map(|message| Seen::from(&message)));
        });
        Box::pin(std::future::ready(result))
    }
}

/// How often each number is there.
#[must_use]
pub fn counted(numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for number in numbers {
        *counts.entry(number).or_default() += 1;
    }
    counts
}

/// Those of `wanted` that are not among `counts`, a few of them in words.
#[must_use]
pub fn missing(counts: &BTreeMap<u64, usize>, wanted: std::ops::Range<u64>) -> String {
    let missing: BTreeSet<u64> = wanted.filter(|number| !counts.contains_key(number)).collect();
    let first: Vec<String> = missing.iter().take(5).map(u64::to_string).collect();
    match missing.len() {
        0 => "none".to_owned(),
        n => format!("{n} (first {})", first.join(", ")),
    }
}
