//! What came of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::Args;
use crate::hops::Repeats;
use crate::ledger::Ledger;
use crate::plant::Loss;
use crate::schedule::Fault;
use crate::usage::Memory;

/// One fault that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) fault: Fault,
    /// Since the start.
    #[serde(serialize_with = "seconds")]
    pub(crate) after: Duration,
    /// The longest time in which nothing new came out, from the fault until a message came through that was sent after
    /// all was made good.
    #[serde(serialize_with = "seconds")]
    pub(crate) recovery: Duration,
    /// Of a host while there was another.
    #[serde(flatten)]
    pub(crate) loss: Option<Loss>,
}

/// What a run has found, beside what the ledger knows.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) events: Vec<Event>,
    /// The numbers of the dead letters.
    pub(crate) dead: Vec<u64>,
    pub(crate) repeats: Repeats,
    pub(crate) memory: Vec<Memory>,
}

/// All faults of one kind.
#[derive(Debug, Serialize)]
struct Kind {
    fault: Fault,
    times: usize,
    #[serde(serialize_with = "seconds")]
    recovery_p50: Duration,
    #[serde(serialize_with = "seconds")]
    recovery_worst: Duration,
}

impl Kind {
    fn all(events: &[Event]) -> Vec<Self> {
        let mut kinds: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
        for event in events {
            kinds.entry(event.fault).or_default().push(event.recovery);
        }
        let kind = |(fault, times): (Fault, Vec<Duration>)| {
            let (recovery_p50, recovery_worst) = middle_and_worst(&times);
            Self { fault, times: times.len(), recovery_p50, recovery_worst }
        };
        kinds.into_iter().map(kind).collect()
    }
}

fn middle_and_worst(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |place: Option<usize>| place.and_then(|p| times.get(p)).copied().unwrap_or_default();
    (at(Some(times.len() / 2)), at(times.len().checked_sub(1)))
}

pub(crate) fn some_seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn seconds<S: serde::Serializer>(
    time: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    seed: u64,
    rate: u32,
    hosts: usize,
    seconds: f64,
    messages: u64,
    lost: u64,
    /// The first of them.
    lost_first: Vec<u64>,
    damaged: u64,
    order_violations: u64,
    duplicates: u64,
    /// Where they were repeated.
    repeats: Repeats,
    dead_letters: u64,
    memory: Vec<Memory>,
    kinds: Vec<Kind>,
    faults: Vec<Event>,
}

impl Report {
    pub(crate) fn new(
        seed: u64,
        args: &Args,
        took: Duration,
        findings: Findings,
        ledger: &Ledger,
    ) -> Self {
        let Findings { events: faults, dead, repeats, memory } = findings;
        let missing = ledger.missing(&dead);
        Self {
            seed,
            rate: args.rate,
            hosts: args.hosts(),
            seconds: took.as_secs_f64(),
            messages: ledger.sent(),
            lost: missing.len() as u64,
            lost_first: missing.into_iter().take(10).collect(),
            damaged: ledger.damaged(),
            order_violations: ledger.overtaken(),
            duplicates: ledger.duplicates(),
            repeats,
            dead_letters: dead.len() as u64,
            memory,
            kinds: Kind::all(&faults),
            faults,
        }
    }

    /// Whether the promise was kept.
    pub(crate) const fn kept(&self) -> bool {
        self.lost == 0 && self.damaged == 0 && self.order_violations == 0
    }

    /// Writes to standard output.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        if !self.kinds.is_empty() {
            writeln!(out, "{:<14} {:>5} {:>14} {:>10}", "fault", "times", "recovery p50", "worst")?;
        }
        for kind in &self.kinds {
            writeln!(
                out,
                "{:<14} {:>5} {:>12.1} s {:>8.1} s",
                kind.fault.name(),
                kind.times,
                kind.recovery_p50.as_secs_f64(),
                kind.recovery_worst.as_secs_f64()
            )?;
        }
        let lost = self.faults.iter().filter_map(|event| event.loss.as_ref()?.take_over());
        let lost: Vec<Option<Duration>> = lost.collect();
        let taken: Vec<Duration> = lost.iter().copied().flatten().collect();
        if !lost.is_empty() {
            let (p50, worst) = middle_and_worst(&taken);
            writeln!(
                out,
                "\nproviders of a host that was killed: {} times; {} times they ran on the other before it was back, after \
                 {:.1} s (p50), at worst {:.1} s",
                lost.len(),
                taken.len(),
                p50.as_secs_f64(),
                worst.as_secs_f64()
            )?;
        }
        writeln!(
            out,
            "\nseed {}: {} messages in {:.0} s, {} faults; {} lost, {} damaged, {} out of the order of their key, {} twice, \
             {} dead letters",
            self.seed,
            self.messages,
            self.seconds,
            self.faults.len(),
            self.lost,
            self.damaged,
            self.order_violations,
            self.duplicates,
            self.dead_letters
        )?;
        writeln!(
            out,
            "repeats: {} were stored again on the first durable edge, {} on the second beyond that, {} came out again beyond that",
            self.repeats.first_edge, self.repeats.second_edge, self.repeats.sink
        )?;
        writeln!(
            out,
            "\n{:<14} {:>8} {:>8} {:>8} {:>8}",
            "MiB resident", "first", "middle", "last", "most"
        )?;
        for memory in &self.memory {
            writeln!(
                out,
                "{:<14} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                memory.process(),
                memory.first_mib,
                memory.middle_mib,
                memory.last_mib,
                memory.most_mib
            )?;
        }
        if !self.lost_first.is_empty() {
            writeln!(out, "the first that are lost: {:?}", self.lost_first)?;
        }
        Ok(())
    }
}
