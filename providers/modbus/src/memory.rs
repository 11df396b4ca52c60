//! What a sink remembers of batches, so that a repeated call goes on where the
//! last one ended.
//!
//! A slow device may need longer for a batch than a call may take. The caller
//! makes the call again with the same batch; beginning at its first message
//! each time would write the same few values for ever.

use std::collections::{HashMap, VecDeque};

/// Batches remembered. More are never in flight to one sink.
const MOST: usize = 256;

/// A batch that was seen before.
#[derive(Debug)]
struct Seen {
    id: String,
    messages: usize,
    /// The number of its first message, in order of arrival.
    first: u64,
    /// Messages done: written, superseded or dead.
    done: usize,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of its first message, in order of arrival.
    pub(crate) first: u64,
    /// Messages done in earlier calls.
    pub(crate) done: usize,
}

/// Batches, and the newest value of each field.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    seen: VecDeque<Seen>,
    next: u64,
    /// By field: the number of the newest message for it.
    newest: HashMap<usize, u64>,
}

impl Memory {
    /// Takes a batch up. One without an id is always new.
    pub(crate) fn enter(&mut self, id: Option<&str>, messages: usize) -> Place {
        let known = self.seen.iter().find(|s| Some(s.id.as_str()) == id && s.messages == messages);
        if let Some(seen) = known {
            return Place { first: seen.first, done: seen.done };
        }
        let first = self.next;
        self.next += messages as u64;
        if let Some(id) = id {
            if self.seen.len() >= MOST {
                self.seen.pop_front();
            }
            self.seen.push_back(Seen { id: id.to_owned(), messages, first, done: 0 });
        }
        Place { first, done: 0 }
    }

    /// Notes that the first `done` messages of a batch are done.
    pub(crate) fn done(&mut self, first: u64, done: usize) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.first == first) {
            seen.done = seen.done.max(done);
        }
    }

    /// How far a batch is now.
    pub(crate) fn progress(&self, first: u64) -> usize {
        self.seen.iter().find(|seen| seen.first == first).map_or(0, |seen| seen.done)
    }

    /// Notes that message `number` has a value for `field`.
    pub(crate) fn value(&mut self, field: usize, number: u64) {
        let newest = self.newest.entry(field).or_insert(number);
        *newest = (*newest).max(number);
    }

    /// Whether a newer message has a value for the field.
    pub(crate) fn is_superseded(&self, field: usize, number: u64) -> bool {
        self.newest.get(&field).is_some_and(|newest| *newest > number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_batch_goes_on_where_it_was() {
        let mut memory = Memory::default();
        let place = memory.enter(Some("a"), 5);
        assert_eq!(place, Place { first: 0, done: 0 });
        memory.done(place.first, 3);
        assert_eq!(memory.enter(Some("b"), 2).first, 5);
        assert_eq!(memory.enter(Some("a"), 5), Place { first: 0, done: 3 });
        assert_eq!(memory.enter(Some("a"), 4).first, 7, "another batch of the same id");
        assert_eq!(memory.progress(0), 3);
    }

    #[test]
    fn a_batch_without_an_id_is_always_new() {
        let mut memory = Memory::default();
        assert_eq!(memory.enter(None, 2), Place { first: 0, done: 0 });
        assert_eq!(memory.enter(None, 2), Place { first: 2, done: 0 });
    }

    #[test]
    fn the_value_that_came_last_is_the_newest_also_when_the_older_is_repeated() {
        let mut memory = Memory::default();
        let old = memory.enter(Some("old"), 1);
        memory.value(7, old.first);
        let new = memory.enter(Some("new"), 1);
        memory.value(7, new.first);
        let again = memory.enter(Some("old"), 1);
        memory.value(7, again.first);
        assert!(memory.is_superseded(7, again.first));
        assert!(!memory.is_superseded(7, new.first));
        assert!(!memory.is_superseded(8, 0));
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = Memory::default();
        for n in 0..10_000 {
            memory.enter(Some(&n.to_string()), 1);
        }
        assert_eq!(memory.seen.len(), MOST);
    }
}
