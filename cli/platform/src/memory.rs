//! What processes hold of the machine's memory, by the host that they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The kernel ends what it kills within this time.
const ALL_GONE: Duration = Duration::from_secs(5);

/// A process, as far as it matters here.
struct Found {
    pid: u32,
    group: u32,
    session: u32,
    has_ended: bool,
}

/// The bytes of memory of all processes that belong to each of these hosts, by its process id: those of its session, or of its
/// process group where it has no session of its own. What a process that has ended started still belongs there.
///
/// Counted is what the kernel cannot take back: memory without a file, shared memory, and what of these is swapped out. Executables
/// and files that are mapped are not: they are shared, and the kernel drops them when memory is short.
#[must_use]
pub fn memory_of(hosts: &BTreeSet<u32>) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    if hosts.is_empty() {
        return all;
    }
    for process in processes() {
        let host = [process.session, process.group].into_iter().find(|id| hosts.contains(id));
        let Some(host) = host else { continue };
        let held = held(process.pid);
        let sum = all.entry(host).or_insert(0_u64);
        *sum = sum.saturating_add(held);
    }
    all
}

/// Kills what belongs to a host, and waits until nothing of it is left, five seconds at most.
pub async fn kill_all_of(host: u32) {
    let start = Instant::now();
    while kill_all(host) > 0 && start.elapsed() < ALL_GONE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills what belongs to a host; answers how many processes that were. They may have started others meanwhile.
fn kill_all(host: u32) -> usize {
    let own = |process: &Found| process.session == host || process.group == host;
    let pids: Vec<Pid> = processes()
        .filter(|process| own(process) && !process.has_ended)
        .filter_map(|process| Pid::from_raw(i32::try_from(process.pid).ok()?))
        .collect();
    for pid in &pids {
        let _ = kill_process(*pid, Signal::KILL);
    }
    pids.len()
}

fn processes() -> impl Iterator<Item = Found> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        stat(pid, &std::fs::read(entry.path().join("stat")).ok()?)
    })
}

/// What is behind the name, which is in parentheses and may have any characters: state, parent, group, session
/// (<https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>).
fn stat(pid: u32, text: &[u8]) -> Option<Found> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end.checked_add(1)?..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let has_ended = matches!(words.next()?, "Z" | "X");
    let mut number = || words.next()?.parse::<u32>().ok();
    let (_parent, group, session) = (number()?, number()?, number()?);
    Some(Found { pid, group, session, has_ended })
}

/// Nothing where the process is gone.
fn held(pid: u32) -> u64 {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let kib = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let counts = matches!(name, "RssAnon" | "RssShmem" | "VmSwap");
        counts.then(|| value.trim().trim_end_matches(" kB").parse::<u64>().ok())?
    };
    text.lines().filter_map(kib).fold(0, u64::saturating_add).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    /// A host that starts a process of its own which holds as much again, and ends it.
    const HOST: &str =
        "x=$(head -c 30000000 /dev/zero | tr '\\0' x); (y=$x$x; sleep 60) & sleep 60";

    #[test]
    fn what_a_host_started_counts_and_goes_with_it() {
        let mut host = Command::new("sh").args(["-c", HOST]).process_group(0).spawn().unwrap();
        let other = Command::new("sleep").arg("60").process_group(0).spawn();
        let mut other = other.unwrap();
        let hosts = BTreeSet::from([host.id(), other.id()]);
        let start = Instant::now();
        let held = loop {
            let held = memory_of(&hosts);
            if held[&host.id()] > 85_000_000 || start.elapsed() > Duration::from_secs(20) {
                break held;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!((85_000_000..300_000_000).contains(&held[&host.id()]), "{held:?}");
        assert!(held[&other.id()] < 5_000_000, "{held:?}");
        assert!(kill_all(host.id()) >= 3);
        host.wait().unwrap();
        let start = Instant::now();
        while kill_all(host.id()) > 0 {
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(memory_of(&hosts).values().sum::<u64>(), 0);
    }

    #[test]
    fn a_name_can_have_anything_in_it() {
        let found = stat(7, b"7 (a) b (Z 1 2) S 1 5 6 0 -1 4194560 1 0\n").unwrap();
        assert_eq!((found.group, found.session, found.has_ended), (5, 6, false));
        assert!(stat(7, b"7 (x) Z 1 5 5 0").unwrap().has_ended);
        assert!(stat(7, b"7 (x").is_none() && stat(7, b"").is_none());
    }
}
