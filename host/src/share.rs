//! What this host, with all that it starts, may take of the machine beside others: told to the kernel once, at the start, and
//! inherited by its providers. How much memory it may have is watched by who started it (`millrace_platform::memory_of`).

use anyhow::Context as _;
use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};

/// A host's place among the machine's processes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Share {
    /// Begin a session. Where the kernel has autogroups (`/proc/sys/kernel/sched_autogroup_enabled` is 1), all its threads
    /// together, and those of its providers, then get as much of the processors as any other session that wants them.
    #[arg(long)]
    own_session: bool,
    /// Leave the processors to others, the more the higher.
    #[arg(long, value_name = "0..19", value_parser = clap::value_parser!(i32).range(0..=19))]
    nice: Option<i32>,
    /// When memory is short, have the kernel take this host and its providers before others: 1000 is at once, 500 is as if they had
    /// half of the machine's memory beside their own.
    #[arg(long, value_name = "0..1000", value_parser = clap::value_parser!(i32).range(0..=1000))]
    oom_score_adj: Option<i32>,
    /// No file that it or a provider writes becomes larger, in MiB. Who goes on writing is ended.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    max_file_mib: Option<u64>,
}

impl Share {
    /// Takes this place. Once more it changes nothing.
    pub(crate) fn take(&self) -> anyhow::Result<()> {
        if self.own_session && !leads_its_session() {
            // A shell at a terminal has made it the first of a process group, which cannot leave its session.
            if let Err(error) = rustix::process::setsid() {
                eprintln!("millrace-host: no session of its own: {error}");
            }
        }
        if let Some(score) = self.oom_score_adj {
            const FILE: &str = "/proc/self/oom_score_adj";
            // Lowering it again is not this process's to do.
            let now = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse().ok());
            if now.is_none_or(|now: i32| now < score) {
                std::fs::write(FILE, score.to_string()).context(FILE).context("--oom-score-adj")?;
            }
        }
        if let Some(nice) = self.nice {
            // It may have been started with more, which it cannot take back.
            let nice = getpriority_process(None).map_or(nice, |now| now.max(nice));
            setpriority_process(None, nice).context("--nice")?;
            // Within an autogroup that counts among its own threads only, and this for all of them among others. A kernel
            // without has no such file, and one that is asked twice in a tenth of a second refuses, as it is done.
            let _ = std::fs::write("/proc/self/autogroup", nice.to_string());
        }
        if let Some(mib) = self.max_file_mib {
            let bytes = mib.saturating_mul(1024 * 1024);
            // Raising what is lower already is not this process's to do.
            let least = |old: Option<u64>| Some(old.map_or(bytes, |old| old.min(bytes)));
            let Rlimit { current, maximum } = getrlimit(Resource::Fsize);
            let limit = Rlimit { current: least(current), maximum: least(maximum) };
            setrlimit(Resource::Fsize, limit).context("--max-file-mib")?;
        }
        Ok(())
    }
}

/// Whether this process is the first of its session. Read from `/proc`, because `getsid(2)` answers 0 for a session that was begun
/// outside of this process's PID namespace, as in a container, and rustix takes that for a process's number, and panics.
fn leads_its_session() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| leads(&stat))
}

/// The same of a line of `/proc/PID/stat` (proc_pid_stat(5)): the number of the process, its name in parentheses, which may have spaces
/// and parentheses, then its state, its parent, its group and its session.
fn leads(stat: &str) -> bool {
    let number = stat.split_whitespace().next();
    let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3));
    number.is_some() && number == session
}

#[cfg(test)]
mod tests {
    use super::leads;

    #[test]
    fn the_first_of_a_session_is_known_by_its_line() {
        assert!(leads("42 (millrace-host) R 1 42 42 0 -1 4194304"));
        assert!(!leads("42 (millrace-host) R 1 42 7 0 -1 4194304"));
        assert!(leads("42 (a) 7 (b c) R 1 42 42 0 -1 4194304"));
        // Begun outside of this PID namespace.
        assert!(!leads("1 (millrace-host) R 0 0 0 0 -1 4194304"));
        assert!(!leads(""));
    }
}
