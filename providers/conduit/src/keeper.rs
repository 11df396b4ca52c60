//! Calls of a stage with state: the state goes along, and what has been
//! applied is not applied again.
//!
//! A [`Keeper`] stands between the delivery of one partition and its stage.
//! Before a call it looks how far the state has come. What it has seen is left
//! out: all of a batch whose answer was lost, or the first half of one that was
//! cut in two. With the rest goes the state, and the stage gives a new one back
//! on its way out, with its output in front ([`crate::state`]).

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, ID};
use millrace_kit::{CallError, Stage};
use millrace_window::{Document, attach};
use parking_lot::Mutex;

use crate::state::{Bucket, Loaded, Partition, Position, StateError, Ticket};

/// One call to be made, as the edge has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Work {
    /// Id of the batch. Halves of it have that of their half behind it.
    pub(crate) id: String,
    /// Where the messages come from.
    pub(crate) of: Partition,
    /// When the stream was made.
    pub(crate) made: i64,
    /// When the last of the batches was published, nanoseconds since the Unix
    /// epoch: the same whenever the call is made again.
    pub(crate) now: u64,
    /// The messages in their order: so many of the batch of this sequence number, from
    /// this one on.
    pub(crate) runs: Vec<Run>,
}

/// Messages of one batch of the stream, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) sequence: u64,
    pub(crate) first: u64,
    pub(crate) messages: u64,
}

impl Work {
    fn messages(&self) -> u64 {
        self.runs.iter().map(|run| run.messages).sum()
    }

    /// How many of the messages a state has seen that has come to `position`.
    fn seen(&self, position: Option<&Position>) -> u64 {
        let Some(position) = position.filter(|position| position.made == self.made) else {
            return 0;
        };
        let of = |run: &Run| match run.sequence.cmp(&position.sequence) {
            std::cmp::Ordering::Less => run.messages,
            std::cmp::Ordering::Equal => {
                position.messages.saturating_sub(run.first).min(run.messages)
            }
            std::cmp::Ordering::Greater => 0,
        };
        self.runs.iter().map(of).sum()
    }

    /// Where the edge has come to after so many of the messages.
    fn after(&self, messages: u64) -> Option<Position> {
        let mut left = messages;
        let run = self.runs.iter().find(|run| {
            let here = left <= run.messages;
            if !here {
                left -= run.messages;
            }
            here
        })?;
        Some(Position {
            made: self.made,
            sequence: run.sequence,
            messages: run.first.saturating_add(left),
        })
    }

    /// The messages of the half of a half ... that has this id: from, to.
    fn part(&self, id: &str) -> Option<(u64, u64)> {
        let way = id.strip_prefix(self.id.as_str())?;
        let (mut from, mut to) = (0, self.messages());
        for half in way.split('.').skip(1) {
            // As `Batch::split` cuts.
            let middle = from + (to - from) / 2;
            match half {
                "0" => to = middle,
                "1" => from = middle,
                _ => return None,
            }
        }
        (way.is_empty() || way.starts_with('.')).then_some((from, to))
    }
}

/// Calls a stage with the state of one partition.
pub(crate) struct Keeper {
    stage: Arc<dyn Stage>,
    bucket: Bucket,
    step: String,
    partition: Partition,
    work: Mutex<Work>,
}

impl Keeper {
    pub(crate) fn new(stage: Arc<dyn Stage>, bucket: Bucket, step: &str, of: Partition) -> Self {
        Self { stage, bucket, step: step.to_owned(), partition: of, work: Mutex::default() }
    }

    /// What the calls that follow are about. A partition has one in work.
    pub(crate) fn begin(&self, work: Work) {
        *self.work.lock() = work;
    }

    /// Ends windows whose time is over by the clock, `now` nanoseconds since the
    /// Unix epoch: one call for each time at which some end, so that a call that
    /// is made again gives the same. Gives that time, if there was one.
    pub(crate) async fn tick(&self, now: u64) -> Result<Option<u64>, CallError> {
        let loaded = self.load().await?;
        let document = Document::read(&loaded.kept.document)
            .map_err(|error| CallError::Config(error.to_string()))?;
        let Some(end) = document.next_end().filter(|end| *end <= now) else { return Ok(None) };
        let id = format!("{}.{}/idle/{end}", self.step, self.partition);
        let nothing = BatchWriter::new([(ID, id.as_str()), ("attempt", "1")])
            .map(BatchWriter::finish)
            .map_err(|error| CallError::Config(error.to_string()))?;
        let nothing =
            Batch::open(&nothing).map_err(|error| CallError::Config(error.to_string()))?;
        self.call_with(&nothing, &loaded, None, end, true, None).await?;
        Ok(Some(end))
    }

    async fn load(&self) -> Result<Loaded, CallError> {
        self.bucket.load(&self.step, self.partition).await.map_err(refused)
    }

    async fn apply(&self, body: &Bytes, traceparent: Option<&str>) -> Result<(), CallError> {
        // One that cannot be read has no messages for a window.
        let batch = Batch::open(body).map_err(|error| CallError::Batch(error.to_string()))?;
        if batch.is_empty() {
            return self.stage.call(body.clone(), traceparent).await;
        }
        let work = self.work.lock().clone();
        let id = batch.header(ID).unwrap_or_default();
        let (from, to) = work.part(id).ok_or_else(|| {
            CallError::Config(format!("batch {id:?} is no part of {:?}, which is in work", work.id))
        })?;
        let loaded = self.load().await?;
        let seen = work.seen(loaded.kept.positions.get(&work.of));
        if seen >= to {
            return Ok(());
        }
        let rest = match seen.checked_sub(from).filter(|seen| *seen > 0) {
            Some(seen) => Some(rest(&batch, id, seen).map_err(CallError::Config)?),
            None => None,
        };
        let batch = match &rest {
            Some(rest) => Batch::open(rest).map_err(|error| CallError::Batch(error.to_string()))?,
            None => batch,
        };
        let position = work.after(to).map(|position| (work.of, position));
        self.call_with(&batch, &loaded, position, work.now, false, traceparent).await
    }

    async fn call_with(
        &self,
        batch: &Batch<'_>,
        loaded: &Loaded,
        position: Option<(Partition, Position)>,
        now: u64,
        idle: bool,
        traceparent: Option<&str>,
    ) -> Result<(), CallError> {
        let ticket = Ticket {
            step: self.step.clone(),
            partition: self.partition,
            revision: loaded.revision,
            position,
        };
        let body = attach(batch, &loaded.kept.document, &ticket.to_string(), now, idle)
            .map_err(|error| CallError::Config(format!("the state does not fit: {error}")))?;
        if let Err(error) = self.stage.call(body.into(), traceparent).await {
            // Of a call without an answer the state may be there.
            self.bucket.forget(&self.step, self.partition);
            return Err(error);
        }
        // Another conduit of the lattice may have kept it.
        if self.load().await?.revision == loaded.revision {
            self.bucket.forget(&self.step, self.partition);
        }
        if self.load().await?.revision == loaded.revision {
            let text = "the stage has answered ok and kept no state".to_owned();
            return Err(CallError::Config(text));
        }
        Ok(())
    }
}

impl Stage for Keeper {
    fn call<'a>(
        &'a self,
        body: Bytes,
        traceparent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move { self.apply(&body, traceparent).await })
    }
}

/// The batch without its first messages, under an id that says so.
fn rest(batch: &Batch<'_>, id: &str, without: u64) -> Result<Vec<u8>, String> {
    let id = format!("{id}~{without}");
    let kept = batch.headers().filter(|(name, _)| *name != ID);
    let mut writer =
        BatchWriter::with_capacity(kept.chain([(ID, id.as_str())]), batch.bytes().len())
            .map_err(|error| error.to_string())?;
    let without = usize::try_from(without).unwrap_or(usize::MAX);
    for message in batch.messages().skip(without) {
        writer.push_record(&message).map_err(|error| error.to_string())?;
    }
    Ok(writer.finish())
}

/// A state that cannot be had is nobody's fault among the messages.
fn refused(error: StateError) -> CallError {
    match error {
        StateError::Unreadable { .. } | StateError::Foreign(_) => {
            CallError::Config(error.to_string())
        }
        StateError::Store { .. } | StateError::Changed { .. } => {
            CallError::Downstream(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        let run = |sequence, first, messages| Run { sequence, first, messages };
        Work {
            id: "b+1".into(),
            of: Partition { count: 8, number: 1 },
            made: 7,
            now: 0,
            runs: vec![run(10, 2, 3), run(11, 0, 4), run(15, 0, 1)],
        }
    }

    #[test]
    fn a_position_says_how_many_were_seen() {
        let work = work();
        for messages in 0..=8 {
            let position = work.after(messages).unwrap();
            assert_eq!(work.seen(Some(&position)), messages, "{position:?}");
        }
        assert_eq!(work.after(9), None);
        assert_eq!(work.seen(None), 0);
        let elsewhere = Position { made: 8, ..work.after(8).unwrap() };
        assert_eq!(work.seen(Some(&elsewhere)), 0, "another stream numbers anew");
        let later = Position { made: 7, sequence: 16, messages: 0 };
        assert_eq!(work.seen(Some(&later)), 8);
    }

    #[test]
    fn halves_are_parts() {
        let work = work();
        for (id, part) in [
            ("b+1", Some((0, 8))),
            ("b+1.0", Some((0, 4))),
            ("b+1.1", Some((4, 8))),
            ("b+1.1.0", Some((4, 6))),
            ("b+1.1.0.1", Some((5, 6))),
            ("b+12", None),
            ("b", None),
            ("b+1.2", None),
        ] {
            assert_eq!(work.part(id), part, "{id}");
        }
    }
}
