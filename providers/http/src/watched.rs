//! Files that are read again when they have changed: tokens, certificates.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// How often a file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// A file of settings and how its name is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) setting: &'static str,
    pub(crate) path: PathBuf,
    /// Largest that is read, in bytes.
    pub(crate) most: u64,
}

impl File {
    /// What it holds.
    ///
    /// # Errors
    ///
    /// Names the setting and the file.
    pub(crate) fn read(&self) -> Result<Vec<u8>, String> {
        let found = std::fs::metadata(&self.path).map_err(|e| self.error(e))?;
        if !found.is_file() {
            return Err(self.error("is no file"));
        }
        if found.len() > self.most {
            return Err(self.error(format_args!("is larger than {} bytes", self.most)));
        }
        std::fs::read(&self.path).map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, what: impl std::fmt::Display) -> String {
        format!("{} {}: {what}", self.setting, self.path.display())
    }

    /// What changes when the file does.
    fn stamp(&self) -> Stamp {
        let found = std::fs::metadata(&self.path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        #[cfg(not(unix))]
        let inode = 0;
        Some((found.modified().ok(), found.len(), inode))
    }
}

type Stamp = Option<(Option<SystemTime>, u64, u64)>;

/// What was made of files, and is made anew when one has changed.
pub(crate) struct Watched<T> {
    files: Vec<File>,
    make: fn(&[File]) -> Result<T, String>,
    now: Mutex<Now<T>>,
}

struct Now<T> {
    made: Result<Arc<T>, String>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files. Blocks for as long as that takes.
    pub(crate) fn new(files: Vec<File>, make: fn(&[File]) -> Result<T, String>) -> Self {
        // Before the reading: what changes meanwhile is seen at the next look.
        let stamps = files.iter().map(File::stamp).collect();
        let made = make(&files).map(Arc::new);
        Self { files, make, now: Mutex::new(Now { made, stamps, looked: Instant::now() }) }
    }

    /// What the files say now, or said within the last second.
    ///
    /// # Errors
    ///
    /// Names the setting and the file that cannot be used, for as long as it cannot.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<T>, String> {
        {
            let mut now = self.now.lock();
            if now.looked.elapsed() < LOOK {
                return now.made.clone();
            }
            // Others use what is there while this one looks.
            now.looked = Instant::now();
        }
        let own = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || own.look()).await;
        looked.unwrap_or_else(|_| Err("a file could not be read".to_owned()))
    }

    fn look(&self) -> Result<Arc<T>, String> {
        let stamps: Vec<Stamp> = self.files.iter().map(File::stamp).collect();
        if self.now.lock().stamps == stamps {
            return self.now.lock().made.clone();
        }
        let made = (self.make)(&self.files).map(Arc::new);
        let mut now = self.now.lock();
        now.stamps = stamps;
        now.made = made;
        now.made.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(files: &[File]) -> Result<usize, String> {
        files[0].read().map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let file = File { setting: "token-file", path: path.clone(), most: 10 };
        let watched = Arc::new(Watched::new(vec![file], length));
        assert!(watched.get().await.unwrap_err().starts_with("token-file /"));
        for (text, wanted) in
            [("a", Ok(1)), ("abc", Ok(3)), ("longer than ten", Err("larger than"))]
        {
            // As secrets are replaced: a new file under the old name.
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            tokio::time::sleep(LOOK + Duration::from_millis(50)).await;
            match (watched.get().await, wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(*found, wanted),
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(LOOK + Duration::from_millis(50)).await;
        assert!(watched.get().await.is_err(), "what is gone lets nobody in");
    }
}
