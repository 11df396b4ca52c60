//! How much memory the processes of the platform have.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one process, or what took its place, has had.
#[derive(Debug, Default)]
struct Samples(Vec<f64>);

/// Memory of every process, looked at every now and then.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    processes: BTreeMap<String, Samples>,
}

/// Resident memory of one process in MiB.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    process: String,
    /// In the middle of the first tenth of the run, the middle tenth and the last.
    pub(crate) first_mib: f64,
    pub(crate) middle_mib: f64,
    pub(crate) last_mib: f64,
    pub(crate) most_mib: f64,
}

impl Memory {
    pub(crate) fn process(&self) -> &str {
        &self.process
    }
}

impl Usage {
    /// Looks at processes by name: those of one name count together.
    pub(crate) fn look(&mut self, processes: impl IntoIterator<Item = (String, u32)>) {
        let mut now: BTreeMap<String, f64> = BTreeMap::new();
        for (name, pid) in processes {
            // One that has just ended has none.
            if let Some(mib) = resident_mib(pid) {
                *now.entry(name).or_default() += mib;
            }
        }
        for (name, mib) in now {
            self.processes.entry(name).or_default().0.push(mib);
        }
    }

    /// What came of it.
    pub(crate) fn report(&self) -> Vec<Memory> {
        self.processes.iter().map(|(name, samples)| samples.report(name)).collect()
    }
}

impl Samples {
    fn report(&self, name: &str) -> Memory {
        let all = &self.0;
        let tenth = all.len().div_ceil(10);
        let from = |at: usize| all.get(at..at + tenth).map_or(0.0, middle);
        Memory {
            process: name.to_owned(),
            first_mib: from(0),
            middle_mib: from((all.len() - tenth) / 2),
            last_mib: from(all.len() - tenth),
            most_mib: all.iter().copied().fold(0.0, f64::max),
        }
    }
}

fn middle(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// `VmRSS` of proc_pid_status(5), which is in units of 1024 bytes.
fn resident_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenths_are_those_of_the_run() {
        let samples = Samples((0..100).map(f64::from).collect());
        let memory = samples.report("x");
        assert_eq!(
            (memory.first_mib, memory.middle_mib, memory.last_mib, memory.most_mib),
            (5.0, 50.0, 95.0, 99.0)
        );
        let one = Samples(vec![7.0]).report("x");
        assert_eq!((one.first_mib, one.last_mib), (7.0, 7.0));
    }

    #[test]
    fn this_process_has_memory() {
        let mut usage = Usage::default();
        usage.look([("own".to_owned(), std::process::id()), ("none".to_owned(), u32::MAX)]);
        let report = usage.report();
        assert_eq!(report.len(), 1);
        assert!(report[0].most_mib > 0.5, "{report:?}");
    }
}
