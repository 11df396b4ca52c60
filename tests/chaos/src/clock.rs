//! A wall clock that jumps, for hosts and wadm: libfaketime between them and the system. The clock that only counts goes on,
//! as it does when a machine's clock is set.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_platform::find;

/// The clock of all programs that were started by [`Clock::way`].
#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    /// Seconds that it is ahead.
    file: PathBuf,
}

impl Clock {
    /// A clock that goes right, with its file in this folder.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let library = find::libfaketime()
            .context("libfaketime is not installed: `scripts/setup faketime`")?;
        let clock = Self { library, file: folder.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// What starts a program with it.
    pub(crate) fn way(&self) -> Vec<OsString> {
        let set = |name: &str, value: &Path| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        vec![
            "env".into(),
            set("LD_PRELOAD", &self.library),
            set("FAKETIME_TIMESTAMP_FILE", &self.file),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            // How often it looks into the file, in seconds.
            "FAKETIME_CACHE_DURATION=1".into(),
        ]
    }

    /// Puts it ahead of the right time, or behind it.
    pub(crate) fn set(&self, ahead: i64) -> anyhow::Result<()> {
        // At once whole: it is read at any moment.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead:+}"))?;
        std::fs::rename(&new, &self.file).context("could not set the clock")
    }
}
