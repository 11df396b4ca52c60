//! The installation's own journals: what was refused before it came to a tenant (`api.jsonl`), such as calls of the control API
//! without a token, and what was done to the installation itself (`platform.jsonl`), such as tokens that were made. They are two,
//! so that nobody pushes the second out by being refused.
//!
//! Each is lines of JSON, and what came before stands beside it in a file that ends with `.1`: together they take no more room
//! than [`MAX`] twice.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::files::{self, FileError};
use crate::home::Home;
use crate::tenants::Entry;

/// A file of it that has so many bytes is put aside, and the one before it deleted.
pub const MAX: u64 = 8 << 20;
/// Of its end so much is read, in bytes.
const TAIL: u64 = 1 << 20;
/// Longest text of an entry, in characters.
const TEXT_MAX: usize = 400;

/// A journal of an installation.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    max: u64,
    /// Two that put the file aside at once would delete both.
    alone: Mutex<()>,
}

impl Journal {
    /// That of calls which were refused.
    #[must_use]
    pub fn of_calls(home: &Home) -> Self {
        Self::at(home.root().join("api.jsonl"))
    }

    /// That of what was done to the installation.
    #[must_use]
    pub fn of_platform(home: &Home) -> Self {
        Self::at(home.root().join("platform.jsonl"))
    }

    fn at(path: PathBuf) -> Self {
        Self { path, max: MAX, alone: Mutex::new(()) }
    }

    /// Adds an entry. Texts that are longer than 400 characters are cut.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn add(&self, entry: &Entry) -> Result<(), FileError> {
        let cut = |text: &String| text.chars().take(TEXT_MAX).collect();
        let entry = Entry {
            who: cut(&entry.who),
            what: cut(&entry.what),
            subject: cut(&entry.subject),
            outcome: cut(&entry.outcome),
            ..*entry
        };
        let written = |e: serde_json::Error| FileError::io("write", &self.path)(e.into());
        let line = serde_json::to_vec(&entry).map_err(written)?;
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let size = fs::metadata(&self.path).map_or(0, |about| about.len());
        if size.saturating_add(line.len() as u64 + 2) > self.max {
            fs::rename(&self.path, self.before())
                .map_err(FileError::io("put aside", &self.path))?;
        }
        files::append_line(&self.path, &line)
    }

    /// Its newest entries, oldest first: those in the last MiB of each of its files.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn tail(&self) -> Result<Vec<Entry>, FileError> {
        let mut entries = Vec::new();
        for path in [self.before(), self.path.clone()] {
            let text = end(&path)?;
            let lines = text.split(|byte| *byte == b'\n');
            entries.extend(lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()));
        }
        Ok(entries)
    }

    fn before(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }
}

fn end(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut text = Vec::new();
    let read = (|| {
        let mut file = File::open(path)?;
        let begin = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(begin))?;
        file.take(TAIL).read_to_end(&mut text)
    })();
    match read {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("read", path)(e)),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_and_takes_no_more_room_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.jsonl");
        let journal = Journal { path, max: 4096, alone: Mutex::new(()) };
        assert!(journal.tail().unwrap().is_empty());
        for time in 0..200 {
            let text = "x".repeat(2000);
            let entry = Entry {
                time,
                who: text.clone(),
                what: "api".into(),
                subject: text.clone(),
                outcome: "refused".into(),
                by_tenant: false,
            };
            journal.add(&entry).unwrap();
        }
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap()).collect();
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 4096));
        let tail = journal.tail().unwrap();
        assert_eq!(tail.last().unwrap().time, 199);
        assert!(tail.len() >= 4 && tail.iter().all(|entry| entry.who.len() == TEXT_MAX));
        assert!(tail.is_sorted_by_key(|entry| entry.time));
    }
}
