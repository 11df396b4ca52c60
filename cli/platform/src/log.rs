//! What a child process says, in files of bounded number and size.
//!
//! The child writes into a pipe, and a thread of this process writes on into the file. When that is full it is put aside under
//! the next number (`host.log.1` is the newest of those), and the oldest goes. What the child said last is there also
//! when it crashed. When this process is killed, what is written into the pipe afterwards is lost, and nobody waits for it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::{Path, PathBuf};

/// A line that does not end within so many bytes beyond a file's size is cut in two.
const LINE_MAX: u64 = 64 * 1024;

/// How much room a log may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size at which a file is put aside, in bytes. It ends with a line, so it may be 64 KiB larger where a line is long.
    pub bytes: u64,
    /// How many files there are at most, the one that is written among them; at least one.
    pub files: u32,
}

impl Default for LogLimits {
    /// Four files of 8 MiB.
    fn default() -> Self {
        Self { bytes: 8 << 20, files: 4 }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    /// Bytes that could not be written, and the first reason.
    lost: Option<(u64, io::Error)>,
}

impl Log {
    pub(crate) fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limits, file, size, lost: None })
    }

    /// Writes all that comes out of a pipe, until nobody holds its other end.
    pub(crate) fn take(mut self, mut from: PipeReader) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.add(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!("{} ends early: {error}", self.path.display());
                    break;
                }
            }
        }
    }

    /// Adds what can be added: the child must not wait for a disk that is full. How much was lost is written when there is room.
    fn add(&mut self, bytes: &[u8]) {
        if let Some((lost, reason)) = self.lost.take() {
            let line =
                format!("millrace: {lost} bytes of this log could not be written: {reason}\n");
            if let Err(error) = self.write(line.as_bytes()) {
                self.lost = Some((lost.saturating_add(bytes.len() as u64), error));
                return;
            }
        }
        if let Err(error) = self.write(bytes) {
            self.lost = Some((bytes.len() as u64, error));
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let cut = self.cut(bytes);
            let (now, later) = bytes.split_at_checked(cut).unwrap_or((bytes, &[]));
            self.file.write_all(now)?;
            self.size = self.size.saturating_add(now.len() as u64);
            let is_full = self.size >= self.limits.bytes && now.last() == Some(&b'\n');
            if is_full || !later.is_empty() || self.size >= self.longest() {
                self.put_aside()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// How much of the bytes goes into the file that is open: whole lines where it gets full.
    fn cut(&self, bytes: &[u8]) -> usize {
        let up_to = |end: u64| {
            let room = usize::try_from(end.saturating_sub(self.size)).unwrap_or(usize::MAX);
            bytes.get(..room).unwrap_or(bytes)
        };
        let (fits, at_most) = (up_to(self.limits.bytes), up_to(self.longest()));
        if fits.len() == bytes.len() {
            return bytes.len();
        }
        let last = fits.iter().rposition(|byte| *byte == b'\n');
        let line = last.or_else(|| at_most.iter().position(|byte| *byte == b'\n'));
        line.map_or(at_most.len(), |end| end.saturating_add(1))
    }

    fn longest(&self) -> u64 {
        self.limits.bytes.saturating_add(LINE_MAX)
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let at = |number: u32| match number {
            0 => self.path.clone(),
            _ => {
                let mut path = self.path.clone().into_os_string();
                path.push(format!(".{number}"));
                PathBuf::from(path)
            }
        };
        let oldest = self.limits.files.saturating_sub(1);
        if oldest == 0 {
            std::fs::remove_file(&self.path)?;
        }
        for number in (0..oldest).rev() {
            match std::fs::rename(at(number), at(number.saturating_add(1))) {
                Err(error) if number == 0 || error.kind() != io::ErrorKind::NotFound => {
                    return Err(error);
                }
                _ => {}
            }
        }
        self.file = File::options().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files, the oldest first, and what is in them.
    fn files(path: &Path) -> Vec<String> {
        let one = |number: u32| match number {
            0 => std::fs::read_to_string(path),
            _ => std::fs::read_to_string(format!("{}.{number}", path.display())),
        };
        (0..20).rev().filter_map(|number| one(number).ok()).collect()
    }

    fn log(folder: &Path, bytes: u64, files: u32) -> (PathBuf, Log) {
        let path = folder.join("host.log");
        let log = Log::open(&path, LogLimits { bytes, files }).unwrap();
        (path, log)
    }

    #[test]
    fn the_newest_lines_stay_whole_and_the_oldest_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(folder.path(), 10_000, 4);
        let all: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        // In pieces of any size.
        let mut rest = all.as_bytes();
        for size in [1, 7, 4096, 65_536, 13, 30_000].into_iter().cycle() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            log.add(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let files = files(&path);
        assert!((3..=4).contains(&files.len()), "{}", files.len());
        assert!(
            files.iter().all(|text| text.len() <= 10_020 && text.is_empty() | text.ends_with('\n'))
        );
        let kept = files.concat();
        assert!(kept.len() > 25_000, "{}", kept.len());
        assert!(all.ends_with(&kept));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), files.len());
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_one_file_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(folder.path(), 1000, 1);
        for _ in 0..50 {
            log.add(&[b'x'; 10_000]);
        }
        log.add(b"\nthe end\n");
        let files = files(&path);
        assert_eq!(files.len(), 1);
        assert!(files[0].len() as u64 <= 1000 + LINE_MAX && files[0].ends_with("the end\n"));
    }

    #[test]
    fn a_log_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), 20, 2).1.add(b"one two three\n");
        let (path, mut log) = log(folder.path(), 20, 2);
        log.add(b"four five\n");
        log.add(b"six\n");
        assert_eq!(files(&path), ["one two three\nfour five\n", "six\n"]);
    }

    #[test]
    fn what_could_not_be_written_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(folder.path(), 1000, 2);
        log.file = File::options().write(true).open("/dev/full").unwrap();
        log.add(b"lost\n");
        log.add(b"lost too\n");
        log.file = File::options().append(true).open(&path).unwrap();
        log.add(b"back\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("millrace: 14 bytes of this log") && text.ends_with("back\n"),
            "{text}"
        );
    }
}
