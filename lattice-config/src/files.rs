//! Files that only their owner may read, written wholly or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// No file of an installation is larger, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Others than its owner may read or write it.
    #[error(
        "{path} may be used by others (mode {mode:o}), and it guards keys. Mend it with `chmod {wanted:o} {path}`"
    )]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its permissions now.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It is larger than anything that belongs there.
    #[error("{path} is larger than {MAX_BYTES} bytes: it is none of an installation's files")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("could not {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Makes a folder for its owner alone, or refuses one that others may enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::io("make", path))?;
    check(path, 0o700)
}

/// Waits until nobody else makes something in a folder, and keeps others waiting for as long as the result lives.
pub(crate) fn exclusive(folder: &Path) -> Result<File, FileError> {
    let path = folder.join(".making");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(FileError::io("open", &path))?;
    file.lock().map_err(FileError::io("lock", &path))?;
    Ok(file)
}

/// Two folders beside each other change places, both at once.
pub(crate) fn exchange(one: &Path, other: &Path) -> Result<(), FileError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let done = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    done.map_err(|e| FileError::io("exchange", one)(e.into()))?;
    // On the disk before the other one is deleted.
    let folder = one.parent().unwrap_or(one);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(FileError::io("write", folder))
}

/// Something that one process does at a time: a file that it holds, which says who that is.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it, and writes down who has it; or answers what whoever has it wrote.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or written.
    pub fn take(path: &Path, who: &str) -> Result<Result<Self, String>, FileError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(FileError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(1000).read_to_string(&mut holder);
                return Ok(Err(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(FileError::io("lock", path)(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{who}\n").as_bytes()))
            .map_err(FileError::io("write", path))?;
        Ok(Ok(Self(file)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not only closed: a process that is just being started has the file open too, until it runs its own program.
        let _ = self.0.unlock();
    }
}

/// Refuses what others than its owner may read, write or enter.
pub(crate) fn check(path: &Path, wanted: u32) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(FileError::io("open", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Loose { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

/// Reads a file that has to be its owner's alone.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    check(path, 0o600)?;
    read(path)
}

/// Reads a file, if it is not larger than such files are.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Writes a file with mode 0600: a reader sees the old or the new content whole, also after a power cut.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600)
}

/// Writes a file with a mode of its own, wholly or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // With an ending of its own: readers of a folder pass it over, a crash leaves nothing that looks whole.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{count}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        // The mode above is narrowed by the umask; a file that is to be read by others needs it as it is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(path)
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&new);
        FileError::Io { what: "write", path: path.to_owned(), source }
    })
}

/// Appends a line to a file, and has it on the disk. What an interruption left of a line before it does not swallow it.
pub(crate) fn append_line(path: &Path, line: &[u8]) -> Result<(), FileError> {
    let written = (|| {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut text = Vec::with_capacity(line.len() + 2);
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(io::SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                text.push(b'\n');
            }
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_data()
    })();
    written.map_err(FileError::io("write", path))
}

/// Copies a file, and has it on the disk, under a name that nothing has yet: with a number before its ending where it has to be.
pub(crate) fn keep_copy(from: &Path, folder: &Path, name: &str) -> Result<(), FileError> {
    let mut bytes = Vec::new();
    File::open(from)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(FileError::io("read", from))?;
    for number in 0.. {
        let name = match number {
            0 => format!("{name}.jsonl"),
            number => format!("{name}-{number}.jsonl"),
        };
        let path = folder.join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            file => {
                return file
                    .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
                    .and_then(|()| sync_folder(&path))
                    .map_err(FileError::io("write", &path));
            }
        }
    }
    Ok(())
}

/// Removes a file; it may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(e)),
        _ => sync_folder(path).or_else(missing_is_fine).map_err(FileError::io("remove", path)),
    }
}

/// Removes a folder with all in it; it may be gone already.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(path).or_else(missing_is_fine).map_err(FileError::io("remove", path))
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_permissions_are_refused_with_the_command_that_mends_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        write_private(&path, b"secret").unwrap();
        assert_eq!(read_private(&path).unwrap(), b"secret");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o666, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn half_a_line_swallows_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        append_line(&path, b"one").unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"half of").unwrap();
        append_line(&path, b"two").unwrap();
        append_line(&path, b"three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nhalf of\ntwo\nthree\n");
    }

    #[test]
    fn a_copy_is_written_over_none() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("journal.jsonl");
        for text in ["one", "two", "three"] {
            fs::write(&from, text).unwrap();
            keep_copy(&from, folder.path(), "acme-7").unwrap();
        }
        for (name, text) in [("acme-7", "one"), ("acme-7-1", "two"), ("acme-7-2", "three")] {
            let path = folder.path().join(format!("{name}.jsonl"));
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn a_lock_is_held_by_one_and_says_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, "somebody with a long name").unwrap().unwrap();
        assert_eq!(Lock::take(&path, "b").unwrap().unwrap_err(), "somebody with a long name");
        drop(first);
        let _second = Lock::take(&path, "b").unwrap().unwrap();
        assert_eq!(Lock::take(&path, "c").unwrap().unwrap_err(), "b");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_private(&path, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
