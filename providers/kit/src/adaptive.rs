//! How many calls at once are worth it.
//!
//! A stage whose far end takes its time (a broker across a slow line, say) is
//! faster the more calls it has at once. One that works through its calls one
//! after another is not: there more calls at once only wait longer, and more
//! comes again after a crash. [`Adaptive`] tells the two apart by the time that
//! calls take, and sets the limit, once a **round** (as many calls as the limit,
//! ten at least):
//!
//! ```text
//! limit = limit * clamp(1.5 * base / time, 1/2, 1) + sqrt(limit)
//! ```
//!
//! `time` is the mean of the round, `base` what a call takes when few are at
//! work. It is the idea of TCP Vegas (Brakmo and Peterson, 1995), in the form
//! in which the literature on concurrency limits has it: as long as calls take
//! no longer than when few are at work, none waits, and the limit grows by its
//! square root. Once they wait it shrinks, and settles where about the root of
//! the limit waits: at 5 or so for a far end that does one call at a time. The
//! half that a call may take longer is for time that varies by itself.
//!
//! * `base` is measured, at the beginning and every 64 rounds, by a **probe**:
//!   for four calls the limit is a quarter. A mean over long times would do
//!   without, and would take a queue that stays for the time of a call. A probe
//!   ends at once when what has the places is refused, and the next comes
//!   after twice the time: nothing is to wait for what does not get on.
//! * The limit only moves when it was reached: what nobody uses says nothing.
//! * A call that failed in a way that less load may mend halves it, once for all
//!   the calls that were at work together.

use std::time::Duration;

/// The limit before anything is known, and what a fixed one is by default.
const START: f64 = 4.0;

/// How much longer than `base` a call may take without being taken for one
/// that waits.
const TOLERANCE: f64 = 1.5;

/// Fewest calls in a round.
const ROUND: f64 = 10.0;

/// Rounds from one probe to the next.
const PROBE_EVERY: u32 = 64;

/// Calls of a probe.
const PROBE: f64 = 4.0;

/// What part of the limit there is while probing, and how much at least: one
/// call that hangs must not hold up a probe.
const PROBE_PART: f64 = 0.25;
const PROBE_LEAST: f64 = 2.0;

/// Most rounds between probes, when one after another came to nothing.
const PROBE_EVERY_MOST: u32 = 1 << 16;

/// How a call ended, as far as the limit is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was answered with ok after this time.
    Answered(Duration),
    /// Not answered in time, refused further on, or to be made again later.
    Refused,
    /// It says nothing about load: the call's own content was at fault.
    Void,
}

/// Hears how each call of a delivery ends.
pub trait Watch: Send + Sync {
    /// A call has ended.
    fn ended(&self, how: Ended);
}

/// Nobody who wants to know.
impl Watch for () {
    fn ended(&self, _: Ended) {}
}

/// When a place was taken: what was at work before the limit was lowered says
/// nothing about the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// A limit that follows the time that calls take. Pure: it knows no clock and
/// holds nobody up.
#[derive(Debug, Clone)]
pub struct Adaptive {
    least: f64,
    most: f64,
    limit: f64,
    /// What a call takes when few are at work, in seconds.
    base: Option<f64>,
    /// Places taken so far.
    taken: u64,
    /// Places up to this one do not count.
    stale: u64,
    round: Round,
    rounds: u32,
    /// Rounds after which there is a probe.
    every: u32,
    /// The limit to return to after a probe.
    probing: Option<f64>,
}

/// The calls since the limit was last looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    calls: f64,
    seconds: f64,
    /// The limit was reached.
    full: bool,
}

impl Adaptive {
    /// A limit from `least` to `most`, and while probing from 2 on if `least` is
    /// more; neither is below 1, nor `most` below `least`.
    #[must_use]
    pub fn new(least: usize, most: usize) -> Self {
        let least = least.max(1);
        let most = most.max(least);
        let (least, most) = (least as f64, most as f64);
        let mut new = Self {
            least,
            most,
            limit: START.clamp(least, most),
            base: None,
            taken: 0,
            stale: 0,
            round: Round::default(),
            rounds: 0,
            every: PROBE_EVERY,
            probing: None,
        };
        new.probe();
        new
    }

    /// Most places at once, now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Most places that there can ever be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most as usize
    }

    /// Somebody takes a place; `last` when none is left then.
    pub fn take(&mut self, last: bool) -> Ticket {
        self.taken += 1;
        self.round.full |= last;
        Ticket(self.taken)
    }

    /// A call of somebody with a place has ended. There can be several calls
    /// to a place.
    pub fn ended(&mut self, ticket: Ticket, how: Ended) {
        let stale = ticket.0 <= self.stale;
        match how {
            Ended::Answered(took) if !stale => self.answered(took.as_secs_f64()),
            Ended::Answered(_) => {}
            Ended::Refused | Ended::Void => {
                self.abandon_probe();
                if how == Ended::Refused && !stale {
                    self.set(self.limit / 2.0);
                    self.begin_anew();
                }
            }
        }
    }

    /// Somebody may keep the few places there are, who does not get on.
    fn abandon_probe(&mut self) {
        let Some(before) = self.probing.take() else { return };
        self.every = self.every.saturating_mul(2).min(PROBE_EVERY_MOST);
        self.set(before);
        self.round = Round::default();
    }

    fn answered(&mut self, seconds: f64) {
        self.round.calls += 1.0;
        self.round.seconds += seconds;
        let mean = self.round.seconds / self.round.calls;
        if let Some(before) = self.probing {
            if self.round.calls >= PROBE {
                self.probing = None;
                self.every = PROBE_EVERY;
                self.base = Some(mean);
                self.set(before);
                self.begin_anew();
            }
            return;
        }
        if self.round.calls < self.limit.max(ROUND) {
            return;
        }
        let base = self.base.map_or(mean, |base| base.min(mean));
        self.base = Some(base);
        if self.round.full {
            // Calls that take no time at all do not wait.
            let gradient = if mean > 0.0 { TOLERANCE * base / mean } else { 1.0 };
            self.set(self.limit * gradient.clamp(0.5, 1.0) + self.limit.sqrt());
        }
        self.round = Round::default();
        self.rounds += 1;
        if self.rounds >= self.every {
            self.probe();
        }
    }

    fn probe(&mut self) {
        self.probing = Some(self.limit);
        self.rounds = 0;
        self.limit = (self.limit * PROBE_PART).max(PROBE_LEAST).min(self.limit);
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.stale = self.taken;
        self.round = Round::default();
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A far end: `servers` calls at a time, each for `seconds`, the others
    /// wait. Always asked for as many calls as the limit allows.
    struct Far {
        adaptive: Adaptive,
        servers: usize,
        seconds: f64,
        now: f64,
        /// When each server is free.
        free: Vec<f64>,
        /// When each call ends, when it began and its ticket, in order of the end.
        running: VecDeque<(f64, f64, Ticket)>,
        noise: u64,
        /// The limit after each call.
        limits: Vec<usize>,
    }

    impl Far {
        fn new(most: usize, servers: usize, seconds: f64) -> Self {
            Self {
                adaptive: Adaptive::new(1, most),
                servers,
                seconds,
                now: 0.0,
                free: vec![0.0; servers],
                running: VecDeque::new(),
                noise: 7,
                limits: Vec::new(),
            }
        }

        /// From 0.7 to 1.3.
        fn noise(&mut self) -> f64 {
            self.noise =
                self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            0.7 + 0.6 * ((self.noise >> 33) as f64 / f64::from(1_u32 << 31))
        }

        fn fill(&mut self) {
            while self.running.len() < self.adaptive.limit() {
                let last = self.running.len() + 1 == self.adaptive.limit();
                let ticket = self.adaptive.take(last);
                let took = self.seconds * self.noise();
                let server = (0..self.servers)
                    .min_by(|a, b| self.free[*a].total_cmp(&self.free[*b]))
                    .unwrap();
                let end = self.free[server].max(self.now) + took;
                self.free[server] = end;
                let at = self.running.partition_point(|(other, ..)| *other <= end);
                self.running.insert(at, (end, self.now, ticket));
            }
        }

        fn calls(&mut self, count: usize) -> &mut Self {
            for _ in 0..count {
                self.fill();
                let (end, began, ticket) = self.running.pop_front().unwrap();
                self.now = end;
                let took = Duration::from_secs_f64(end - began);
                self.adaptive.ended(ticket, Ended::Answered(took));
                self.limits.push(self.adaptive.limit());
            }
            self
        }

        fn outage(&mut self, rounds: usize) -> &mut Self {
            for _ in 0..rounds {
                self.fill();
                for (end, _, ticket) in std::mem::take(&mut self.running) {
                    self.now = self.now.max(end);
                    self.adaptive.ended(ticket, Ended::Refused);
                }
            }
            self
        }

        /// The limit as it is most of the time of late.
        fn usual(&self) -> usize {
            let mut late: Vec<usize> = self.limits.iter().rev().take(1_000).copied().collect();
            late.sort_unstable();
            late[late.len() / 2]
        }
    }

    #[test]
    fn a_far_end_that_only_takes_its_time_gets_all_there_is() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(400);
        assert_eq!(far.adaptive.limit(), 32, "soon");
        far.calls(20_000);
        assert_eq!(far.usual(), 32, "and for good");
    }

    #[test]
    fn a_far_end_that_does_one_after_another_gets_few() {
        let mut far = Far::new(32, 1, 0.02);
        far.calls(20_000);
        assert!((2..=8).contains(&far.usual()), "{}", far.usual());
        assert!(far.limits.iter().all(|limit| *limit <= 12), "{:?}", far.limits.iter().max());
    }

    #[test]
    fn a_far_end_that_has_become_slow_by_its_load_gets_less() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(2_000);
        assert_eq!(far.adaptive.limit(), 32);
        far.servers = 1;
        far.free.truncate(1);
        far.calls(10_000);
        assert!(far.usual() <= 8, "{}", far.usual());
    }

    #[test]
    fn a_line_that_has_become_longer_is_not_taken_for_load() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(2_000);
        far.seconds = 0.2;
        // Until the next probe it looks like a queue.
        far.calls(64 * 32 + 1_000);
        far.calls(2_000);
        assert_eq!(far.usual(), 32);
    }

    #[test]
    fn an_outage_lowers_it_and_afterwards_it_recovers() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(2_000).outage(1);
        assert_eq!(far.adaptive.limit(), 16, "all that were at work together halve it once");
        far.outage(10);
        assert_eq!(far.adaptive.limit(), 1);
        far.calls(400);
        assert_eq!(far.adaptive.limit(), 32);
    }

    #[test]
    fn a_probe_does_not_wait_for_what_does_not_get_on() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(2_000);
        // One that is refused again and again, and keeps its place.
        let stuck = far.adaptive.take(false);
        let mut abandoned = 0;
        for _ in 0..200_000 {
            far.calls(1);
            if far.adaptive.probing.is_some() {
                assert!(far.adaptive.limit() < 32);
                far.adaptive.ended(stuck, Ended::Refused);
                assert_eq!(far.adaptive.limit(), 32, "nobody waits for the end of the probe");
                abandoned += 1;
            }
        }
        assert!((2..=8).contains(&abandoned), "{abandoned}: fewer and fewer");
    }

    #[test]
    fn what_nobody_uses_does_not_grow() {
        let mut adaptive = Adaptive::new(1, 32);
        for _ in 0..10_000 {
            let ticket = adaptive.take(false);
            adaptive.ended(ticket, Ended::Answered(Duration::from_millis(1)));
            assert!(adaptive.limit() <= 4);
        }
    }

    #[test]
    fn a_call_at_fault_itself_changes_nothing() {
        let mut far = Far::new(32, 1_000, 0.02);
        far.calls(100);
        let mut adaptive = far.adaptive;
        let before = adaptive.limit();
        assert!((5..32).contains(&before) && adaptive.probing.is_none());
        for _ in 0..1_000 {
            let ticket = adaptive.take(true);
            adaptive.ended(ticket, Ended::Void);
        }
        assert_eq!(adaptive.limit(), before);
    }

    proptest! {
        #[test]
        fn it_settles_near_what_the_far_end_does_at_once(
            servers in 1_usize..=64, millis in 1_u64..=2_000, most in 2_usize..=64,
        ) {
            let mut far = Far::new(most, servers, millis as f64 / 1_000.0);
            far.calls(20_000);
            let usual = far.usual();
            prop_assert!(usual >= servers.min(most), "{} of {} servers", usual, servers);
            let enough = 2.0 * servers as f64 + (most as f64).sqrt() + 3.0;
            prop_assert!(usual as f64 <= enough, "{} for {} servers", usual, servers);
        }

        #[test]
        fn it_stays_within_its_bounds(
            least in 0_usize..=8, most in 0_usize..=64,
            calls in proptest::collection::vec((any::<bool>(), 0_u8..=4, 0_u64..=10_000_000), 0..2_000),
        ) {
            let mut adaptive = Adaptive::new(least, most);
            let (least, most) = (least.max(1), most.max(least).max(1));
            let mut tickets = Vec::new();
            for (last, how, micros) in calls {
                prop_assert!((least.min(2)..=most).contains(&adaptive.limit()));
                tickets.push(adaptive.take(last));
                let ticket = tickets[usize::try_from(micros).unwrap() % tickets.len()];
                adaptive.ended(ticket, match how {
                    0 => Ended::Refused,
                    1 => Ended::Void,
                    _ => Ended::Answered(Duration::from_micros(micros)),
                });
            }
        }
    }
}
