//! Lets so many messages of a key through in a time.
//!
//! Time is event time, in periods one after another from the epoch, so that a backlog is thinned as the readings were made
//! and not as they arrive. Of each group the eight periods used last are known, so that messages out of order are counted
//! where they belong, and a clock that jumps costs one period.

use std::collections::BTreeMap;

use millrace_batch::Message;
use millrace_window::{Call, Content, Document, Entry, Group};

use crate::{current, ApplyError, Verdict};

/// A group of which nothing comes is forgotten after two periods, and not before a minute, in nanoseconds.
const QUIET_MIN: u64 = 60_000_000_000;

/// Lets so many messages of a key through in each period.
#[derive(Debug, Clone, Copy)]
pub struct Throttle {
    messages: u64,
    /// Length of a period, in nanoseconds.
    per: u64,
}

/// Periods of a group that are known.
const PERIODS: usize = 8;

/// A period, and how many messages of it have gone on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Period {
    start: u64,
    count: u64,
}

/// The periods of a group, the one used last first.
#[derive(Debug, Clone)]
struct Recent(Vec<Period>);

impl Throttle {
    /// Lets `messages` through in each `per` nanoseconds. A period of 0 is taken for one of 1.
    #[must_use]
    pub fn new(messages: u64, per: u64) -> Self {
        Self { messages, per: per.max(1) }
    }

    /// Gives `take` each message of the call with its verdict, in their order, and the next document. A message without a
    /// time of its own is of the time when it came.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub fn apply<'a>(
        &self,
        call: &Call<'a>,
        take: &mut dyn FnMut(&Message<'a>, Verdict) -> Result<(), String>,
    ) -> Result<Vec<u8>, ApplyError> {
        let document = Document::read_as(Content::Periods, call.document)?;
        let now = call.now;
        let quiet = self.per.saturating_mul(2).max(QUIET_MIN);
        let entries = current(&document, now, quiet);
        let mut used: BTreeMap<Group<'_>, Recent> = BTreeMap::new();
        for message in call.messages() {
            let group = Group::of(message.key, message.topic);
            let time = if message.timestamp == 0 { call.now } else { message.timestamp };
            let start = time - time % self.per;
            let recent = used.entry(group).or_insert_with(|| known(&entries, group));
            let verdict = match recent.count(start, self.messages) {
                true => Verdict::Pass,
                false => Verdict::Hold,
            };
            take(&message, verdict).map_err(ApplyError::Answer)?;
        }
        let states: Vec<(Group<'_>, u64, Vec<u8>)> = used
            .iter()
            .map(|(group, recent)| (*group, recent.newest().count, recent.state()))
            .collect();
        let mut kept: Vec<Entry<'_>> =
            entries.iter().filter(|entry| !used.contains_key(&entry.group)).copied().collect();
        kept.extend(states.iter().map(|(group, count, state)| Entry {
            group: *group,
            start: now,
            end: now.saturating_add(quiet),
            count: *count,
            state,
        }));
        Ok(Document::of(now, kept).marked(Content::Periods).fitted().write())
    }
}

/// What is known of a group; of a new one nothing has gone on yet.
fn known(entries: &[Entry<'_>], group: Group<'_>) -> Recent {
    let at = entries.partition_point(|entry| entry.group < group);
    let entry = entries.get(at).filter(|entry| entry.group == group);
    entry.map_or(Recent(Vec::new()), Recent::read)
}

impl Recent {
    /// Whether one more of this period may go on, which is then counted.
    fn count(&mut self, start: u64, most: u64) -> bool {
        let there = self.0.iter().position(|period| period.start == start);
        let mut period = match there {
            Some(at) => self.0.remove(at),
            None => Period { start, count: 0 },
        };
        let free = period.count < most;
        if free {
            period.count = period.count.saturating_add(1);
        }
        self.0.insert(0, period);
        self.0.truncate(PERIODS);
        free
    }

    fn newest(&self) -> Period {
        self.0.first().copied().unwrap_or_default()
    }

    /// Start of the newest period, whose count is that of the entry; start and count of each of the others.
    fn state(&self) -> Vec<u8> {
        let mut state = self.newest().start.to_le_bytes().to_vec();
        for Period { start, count } in self.0.iter().skip(1) {
            state.extend_from_slice(&start.to_le_bytes());
            state.extend_from_slice(&count.to_le_bytes());
        }
        state
    }

    /// As [`Recent::state`] and the count of an entry wrote it.
    fn read(entry: &Entry<'_>) -> Self {
        let Some((start, rest)) = entry.state.split_first_chunk::<8>() else {
            return Self(Vec::new());
        };
        let newest = Period { start: u64::from_le_bytes(*start), count: entry.count };
        let others = rest.chunks_exact(16).filter_map(|both| {
            let (start, count) = both.split_first_chunk::<8>()?;
            let count = u64::from_le_bytes(*count.first_chunk::<8>()?);
            Some(Period { start: u64::from_le_bytes(*start), count })
        });
        Self(std::iter::once(newest).chain(others).take(PERIODS).collect())
    }
}
