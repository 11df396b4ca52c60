//! What was sent, what came, and what that proves.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::message;

/// Books of one run. Numbers are given out from 0 without gaps.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: u64,
    /// How often each number came.
    came: Vec<u32>,
    /// The highest number so far.
    newest: Option<u64>,
    /// The highest number of each key.
    last: HashMap<u64, u64>,
    /// Messages that came first after a later one of their key.
    overtaken: u64,
    /// Messages that are not as they were sent.
    damaged: u64,
    /// When something new came last, and the longest time before that in which nothing did: since the watch began.
    news: Option<Instant>,
    silence: Duration,
}

impl Ledger {
    /// The number of the next message, which counts as sent.
    pub(crate) fn next(&mut self) -> u64 {
        self.sent += 1;
        self.sent - 1
    }

    /// How many were sent.
    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Enters what came.
    pub(crate) fn enter(&mut self, payload: &[u8], now: Instant) {
        let Some(number) = message::read(payload).filter(|number| *number < self.sent) else {
            self.damaged += 1;
            return;
        };
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if self.came.len() <= at {
            self.came.resize(at + 1, 0);
        }
        let Some(count) = self.came.get_mut(at) else { return };
        *count += 1;
        if *count > 1 {
            return;
        }
        if let Some(before) = self.news.replace(now) {
            self.silence = self.silence.max(now.duration_since(before));
        }
        let last = self.last.entry(message::key(number)).or_insert(number);
        if number < *last {
            self.overtaken += 1;
        }
        *last = number.max(*last);
        self.newest = self.newest.max(Some(number));
    }

    /// Whether a message with this number or a later one has come.
    pub(crate) fn arrived_from(&self, number: u64) -> bool {
        self.newest.is_some_and(|newest| newest >= number)
    }

    /// From now on counts the time in which nothing comes.
    pub(crate) fn watch(&mut self, now: Instant) {
        (self.news, self.silence) = (Some(now), Duration::ZERO);
    }

    /// The longest time since the watch began in which nothing new came.
    pub(crate) const fn silence(&self) -> Duration {
        self.silence
    }

    /// Numbers that were sent and have neither come nor, where they trap, died.
    pub(crate) fn missing(&self, dead: &[u64]) -> Vec<u64> {
        let mut deaths: BTreeMap<u64, u64> = BTreeMap::new();
        for number in dead {
            *deaths.entry(*number).or_default() += 1;
        }
        let is_missing = |number: &u64| match message::traps(*number) {
            true => !deaths.contains_key(number),
            false => self.count(*number) == 0,
        };
        (0..self.sent).filter(is_missing).collect()
    }

    /// Messages that came again, each time counted.
    pub(crate) fn duplicates(&self) -> u64 {
        self.came.iter().map(|count| u64::from(count.saturating_sub(1))).sum()
    }

    /// Messages that came first after a later one of their key.
    pub(crate) const fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// Messages that are not as they were sent.
    pub(crate) const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// How often each number came.
    pub(crate) fn came(&self) -> &[u32] {
        &self.came
    }

    fn count(&self, number: u64) -> u32 {
        usize::try_from(number).ok().and_then(|at| self.came.get(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(sent: u64, came: impl IntoIterator<Item = u64>) -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..sent {
            ledger.next();
        }
        for number in came {
            ledger.enter(message::write(number).as_bytes(), Instant::now());
        }
        ledger
    }

    #[test]
    fn what_is_missing_comes_again_or_is_damaged_is_seen() {
        let ledger = books(6, [0, 1, 3, 3, 3, 4]);
        assert_eq!(ledger.missing(&[]), [2, 5]);
        assert_eq!((ledger.duplicates(), ledger.damaged()), (2, 0));
        assert!(ledger.arrived_from(4) && !ledger.arrived_from(5));
        let mut ledger = books(1, []);
        ledger.enter(b"{\"seq\":0}", Instant::now());
        ledger.enter(message::write(9).as_bytes(), Instant::now());
        assert_eq!(ledger.damaged(), 2, "half a message, and one that nobody sent");
    }

    #[test]
    fn a_message_that_traps_has_to_be_dead() {
        let ledger = books(501, 0..500);
        assert!(message::traps(500));
        assert_eq!(ledger.missing(&[]), [500]);
        assert!(ledger.missing(&[500]).is_empty());
    }

    #[test]
    fn silence_is_the_longest_time_without_anything_new() {
        let mut ledger = books(4, []);
        let start = Instant::now();
        ledger.watch(start);
        for (number, at) in [(0, 2), (1, 3), (0, 9), (2, 10), (3, 11)] {
            ledger.enter(message::write(number).as_bytes(), start + Duration::from_secs(at));
        }
        assert_eq!(ledger.silence(), Duration::from_secs(7), "what comes again is nothing new");
    }

    #[test]
    fn order_is_that_of_each_key() {
        let same: Vec<u64> =
            (0..400).filter(|n| message::key(*n) == message::key(0)).take(3).collect();
        let other = (0..400).find(|n| message::key(*n) != message::key(0)).unwrap();
        assert_eq!(books(400, [same[0], same[2], same[1]]).overtaken(), 1);
        assert_eq!(books(400, [same[0], same[1], same[0], same[2]]).overtaken(), 0, "a repeat");
        assert_eq!(books(400, [same[2], other]).overtaken(), 0);
    }
}
