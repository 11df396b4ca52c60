//! Drops what has come before.
//!
//! Ids are kept in entries of their group of messages: 16 bytes an id, sorted. An entry takes ids for an eighth of the time for
//! which they are remembered, and at most 1,024, so that little is forgotten at once where there is no room for all.

use std::collections::{BTreeMap, BTreeSet};

use millrace_batch::Message;
use millrace_window::{Call, Content, Document, Entry, Group};

use crate::identity::{Identity, ID};
use crate::{current, ApplyError};

/// Slices that the time is divided into.
const SLICES: u64 = 8;

/// Most ids of an entry.
const IDS: usize = 1_024;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It does not.
    Hold,
    /// It cannot be judged; why, for people.
    Wrong(String),
}

/// Drops messages that are the same as one before.
#[derive(Debug, Clone)]
pub struct Dedup {
    identity: Identity,
    /// How long one is remembered, in nanoseconds.
    within: u64,
}

impl Dedup {
    /// Remembers a message for `within` nanoseconds from when it came, and for up to an eighth more.
    #[must_use]
    pub fn new(identity: Identity, within: u64) -> Self {
        Self { identity, within }
    }

    /// Gives `take` each message of the call with its verdict, in their order, and the next document. Time is that of the
    /// caller: when messages came, whatever they say of themselves.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub fn apply<'a>(
        &self,
        call: &Call<'a>,
        take: &mut dyn FnMut(&Message<'a>, Verdict) -> Result<(), String>,
    ) -> Result<Vec<u8>, ApplyError> {
        let document = Document::read_as(Content::Ids, call.document)?;
        let now = call.now;
        let entries = current(&document, now, self.slice().saturating_add(self.within));
        let mut fresh: BTreeMap<Group<'a>, BTreeSet<[u8; ID]>> = BTreeMap::new();
        for message in call.messages() {
            let verdict = match self.identity.of(&message) {
                Ok(id) => {
                    let group = Group::of(message.key, message.topic);
                    self.judge(id, group, &entries, &mut fresh)
                }
                Err(text) => Verdict::Wrong(text),
            };
            take(&message, verdict).map_err(ApplyError::Answer)?;
        }
        Ok(self.document(now, &entries, &fresh))
    }

    fn judge<'a>(
        &self,
        id: [u8; ID],
        group: Group<'a>,
        entries: &[Entry<'_>],
        fresh: &mut BTreeMap<Group<'a>, BTreeSet<[u8; ID]>>,
    ) -> Verdict {
        if own(entries, group).any(|entry| holds(entry.state, &id)) {
            return Verdict::Hold;
        }
        match fresh.entry(group).or_default().insert(id) {
            true => Verdict::Pass,
            false => Verdict::Hold,
        }
    }

    fn slice(&self) -> u64 {
        (self.within / SLICES).max(1)
    }

    fn document(
        &self,
        now: u64,
        entries: &[Entry<'_>],
        fresh: &BTreeMap<Group<'_>, BTreeSet<[u8; ID]>>,
    ) -> Vec<u8> {
        let mut made: Vec<Made<'_>> = Vec::new();
        // Entries that take further ids are written anew.
        let mut replaced: BTreeSet<(Group<'_>, u64, u64)> = BTreeSet::new();
        for (group, ids) in fresh {
            let takes = |entry: &&Entry<'_>| {
                entry.start.saturating_add(self.slice()) > now && entry.state.len() < IDS * ID
            };
            let open = own(entries, *group).filter(takes).max_by_key(|entry| entry.start);
            let mut left = ids.iter().copied();
            if let Some(open) = open {
                let room = IDS - open.state.len() / ID;
                replaced.insert((*group, open.start, open.end));
                made.push(Made {
                    group: *group,
                    start: open.start,
                    end: open.end,
                    ids: merge(open.state, left.by_ref().take(room)),
                });
            }
            // Entries of one call have times of their own, a nanosecond apart.
            for start in now.. {
                let ids = merge(&[], left.by_ref().take(IDS));
                if ids.is_empty() {
                    break;
                }
                let end = start.saturating_add(self.slice()).saturating_add(self.within);
                made.push(Made { group: *group, start, end, ids });
            }
        }
        let stays = |entry: &&Entry<'_>| !replaced.contains(&(entry.group, entry.start, entry.end));
        let kept = entries.iter().filter(stays).copied().chain(made.iter().map(Made::entry));
        Document::of(now, kept).marked(Content::Ids).fitted().write()
    }
}

/// An entry with ids of this call.
struct Made<'a> {
    group: Group<'a>,
    start: u64,
    end: u64,
    ids: Vec<u8>,
}

impl Made<'_> {
    fn entry(&self) -> Entry<'_> {
        let count = (self.ids.len() / ID) as u64;
        Entry { group: self.group, start: self.start, end: self.end, count, state: &self.ids }
    }
}

/// The entries of a group, which stand side by side.
fn own<'e, 'd>(entries: &'e [Entry<'d>], group: Group<'e>) -> impl Iterator<Item = &'e Entry<'d>> {
    let first = entries.partition_point(|entry| entry.group < group);
    entries.iter().skip(first).take_while(move |entry| entry.group == group)
}

/// Whether an id is among sorted ones.
fn holds(ids: &[u8], id: &[u8; ID]) -> bool {
    let (mut from, mut to) = (0, ids.len() / ID);
    while from < to {
        let middle = from.midpoint(to);
        match ids.get(middle * ID..).and_then(<[u8]>::first_chunk::<ID>) {
            Some(found) if found == id => return true,
            Some(found) if found < id => from = middle + 1,
            _ => to = middle,
        }
    }
    false
}

/// Sorted ids and others as one sorted run.
fn merge(sorted: &[u8], others: impl Iterator<Item = [u8; ID]>) -> Vec<u8> {
    let sorted = sorted.chunks_exact(ID).filter_map(|id| id.first_chunk::<ID>().copied());
    let mut ids: Vec<[u8; ID]> = sorted.chain(others).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.concat()
}
