//! Memory that runs out: the hosts and their providers in a control group of their own, whose limit can be drawn tight.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Where version 1 of control groups has memory, and version 2 everything.
const VERSIONS: [(&str, Files); 2] = [
    (
        "/sys/fs/cgroup/memory",
        Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", none: "-1" },
    ),
    ("/sys/fs/cgroup", Files { limit: "memory.max", used: "memory.current", none: "max" }),
];

/// Names of a version's files, and the word for no limit.
#[derive(Debug, Clone, Copy)]
struct Files {
    limit: &'static str,
    used: &'static str,
    none: &'static str,
}

/// A control group. Vanishes with this, when nothing runs in it.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    files: Files,
}

impl Group {
    /// Makes one.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let name = format!("millrace-chaos-{}", std::process::id());
        let mut reason = anyhow::anyhow!("there are no control groups");
        for (base, files) in VERSIONS {
            if !Path::new(base).join("cgroup.procs").exists() {
                continue;
            }
            let group = Self { folder: Path::new(base).join(&name), files };
            match group.fill() {
                Ok(()) => return Ok(group),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn fill(&self) -> anyhow::Result<()> {
        std::fs::create_dir(&self.folder)
            .with_context(|| format!("could not make {}", self.folder.display()))?;
        ensure!(self.folder.join(self.files.limit).exists(), "groups here have no memory limit");
        Ok(())
    }

    /// What starts a program in it.
    pub(crate) fn way(&self) -> Vec<OsString> {
        let enter = r#"echo $$ >"$0" && exec "$@""#;
        let procs = self.folder.join("cgroup.procs");
        vec!["sh".into(), "-c".into(), enter.into(), procs.into()]
    }

    /// Takes half of the memory away that is in use, or as much as the kernel can take: it drops what it can read again,
    /// and kills where that is not enough.
    pub(crate) fn squeeze(&self) -> anyhow::Result<()> {
        let used: u64 =
            std::fs::read_to_string(self.folder.join(self.files.used))?.trim().parse()?;
        // Version 1 refuses a limit below what it cannot take away.
        for tenths in 5..=10 {
            if self.limit(&(used / 10 * tenths).to_string()).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn release(&self) -> anyhow::Result<()> {
        self.limit(self.files.none).context("could not give the memory back")
    }

    fn limit(&self, limit: &str) -> std::io::Result<()> {
        std::fs::write(self.folder.join(self.files.limit), limit)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Those that were in it have just ended; what the kernel has not noticed yet it notices soon.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
