//! What came of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::ledger::Ledger;
use crate::schedule::Fault;

/// One fault that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) fault: Fault,
    /// Since the start.
    #[serde(serialize_with = "seconds")]
    pub(crate) after: Duration,
    /// From the fault to the first message that was sent after it and came through.
    #[serde(serialize_with = "seconds")]
    pub(crate) recovery: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    seed: u64,
    rate: u32,
    seconds: f64,
    messages: u64,
    lost: u64,
    /// The first of them.
    lost_first: Vec<u64>,
    damaged: u64,
    order_violations: u64,
    duplicates: u64,
    dead_letters: u64,
    faults: Vec<Event>,
}

impl Report {
    pub(crate) fn new(
        seed: u64,
        rate: u32,
        took: Duration,
        faults: Vec<Event>,
        ledger: &Ledger,
        dead: Vec<u64>,
    ) -> Self {
        let missing = ledger.missing(&dead);
        Self {
            seed,
            rate,
            seconds: took.as_secs_f64(),
            messages: ledger.sent(),
            lost: missing.len() as u64,
            lost_first: missing.into_iter().take(10).collect(),
            damaged: ledger.damaged(),
            order_violations: ledger.overtaken(),
            duplicates: ledger.duplicates(),
            dead_letters: dead.len() as u64,
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
        let mut kinds: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
        for event in &self.faults {
            kinds.entry(event.fault).or_default().push(event.recovery);
        }
        writeln!(out, "{:<14} {:>5} {:>14} {:>10}", "fault", "times", "recovery p50", "worst")?;
        for (fault, mut times) in kinds {
            times.sort_unstable();
            let at = |place: usize| times.get(place).map_or(0.0, Duration::as_secs_f64);
            writeln!(
                out,
                "{:<14} {:>5} {:>12.1} s {:>8.1} s",
                fault.name(),
                times.len(),
                at(times.len() / 2),
                at(times.len() - 1)
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
        if !self.lost_first.is_empty() {
            writeln!(out, "the first that are lost: {:?}", self.lost_first)?;
        }
        Ok(())
    }
}
