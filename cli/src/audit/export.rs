//! An audit log in a file that grows: each call appends what is new, and a call that was cut off in the middle is mended by the next.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_lattice_config::audit::{Cursor, Logged};
use serde::{Deserialize, Serialize};

use crate::tenant::date;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// A line of JSON for each.
    Jsonl,
    /// RFC 4180, with a first line of names. A text that a spreadsheet would take for a formula begins with `'`.
    Csv,
}

impl Format {
    /// The line before all entries, where there is one.
    pub(crate) fn head(self) -> Option<&'static str> {
        match self {
            Self::Jsonl => None,
            Self::Csv => Some("time,log,sequence,who,what,subject,outcome"),
        }
    }

    /// The line of an entry.
    pub(crate) fn line(self, logged: &Logged) -> anyhow::Result<String> {
        let Logged { entry, log, sequence } = logged;
        if self == Self::Jsonl {
            return Ok(serde_json::to_string(logged)?);
        }
        let log = serde_json::to_value(log)?.as_str().unwrap_or_default().to_owned();
        let texts = [&entry.who, &entry.what, &entry.subject, &entry.outcome].map(|t| cell(t));
        Ok(format!("{},{log},{sequence},{}", date(entry.time), texts.join(",")))
    }
}

/// A text in quotes. One line, because engineers of a tenant can write anything, and not every reader of CSV takes line breaks.
fn cell(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let formula = text.starts_with(['=', '+', '-', '@']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

/// How far a file has come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Of which log, and which entries.
    about: String,
    format: Format,
    /// Where the log is read next.
    cursor: String,
    /// So many bytes of the file are whole entries up to there.
    bytes: u64,
}

/// A file of entries.
pub(crate) struct Export {
    path: PathBuf,
    file: File,
    about: String,
    format: Format,
    from: Option<Cursor>,
    bytes: u64,
    added: usize,
}

impl Export {
    /// Begins a file, or goes on with one. What a call that was cut off had written beyond its last mark is taken back first.
    pub(crate) fn open(
        path: PathBuf,
        format: Option<Format>,
        about: String,
    ) -> anyhow::Result<Self> {
        let named = if path.extension().is_some_and(|end| end == "csv") {
            Format::Csv
        } else {
            Format::Jsonl
        };
        let format = format.unwrap_or(named);
        let mark = mark(&path);
        let could_not = || format!("could not write {}", path.display());
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(&path).with_context(could_not)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another `audit --out` writes {} now: let it end, or name another file",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(could_not),
        }
        let state = match std::fs::read(&mark) {
            Ok(bytes) => Some(serde_json::from_slice::<State>(&bytes).with_context(|| {
                format!("{} is damaged; name another file with --out", mark.display())
            })?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("could not read {}", mark.display()));
            }
        };
        let Some(state) = state else {
            let head = format.head().map(|head| format!("{head}\n")).unwrap_or_default();
            // What a call left that was cut off before its first entry is begun anew.
            let there = path.metadata().map_or(0, |about| about.len());
            anyhow::ensure!(
                there == 0
                    || there <= head.len() as u64
                        && std::fs::read(&path)
                            .is_ok_and(|bytes| head.as_bytes().starts_with(&bytes)),
                "{} is there, and without {}: it is no log to go on with. Name another file with --out",
                path.display(),
                mark.display()
            );
            file.set_len(0)
                .and_then(|()| file.write_all(head.as_bytes()))
                .with_context(could_not)?;
            let bytes = head.len() as u64;
            return Ok(Self { path, file, about, format, from: None, bytes, added: 0 });
        };
        anyhow::ensure!(
            (&state.about, state.format) == (&about, format),
            "{} has other entries, or in another format: name another file with --out",
            path.display()
        );
        let length = file.metadata().with_context(could_not)?.len();
        anyhow::ensure!(
            length >= state.bytes,
            "{} is shorter than when it was written last: put it back, or name another file with --out",
            path.display()
        );
        file.set_len(state.bytes).with_context(could_not)?;
        let from = Some(state.cursor.parse()?);
        Ok(Self { path, file, about, format, from, bytes: state.bytes, added: 0 })
    }

    /// Where the log is read first.
    pub(crate) fn from(&self) -> Option<Cursor> {
        self.from
    }

    /// Appends entries; the next to be read stand at `next`.
    pub(crate) fn add(&mut self, entries: &[Logged], next: Cursor) -> anyhow::Result<()> {
        if self.from == Some(next) {
            return Ok(());
        }
        let mut text = String::new();
        for logged in entries {
            text.push_str(&self.format.line(logged)?);
            text.push('\n');
        }
        let could_not = || format!("could not write {}", self.path.display());
        self.file.write_all(text.as_bytes()).with_context(could_not)?;
        // Before the mark: else a power cut could leave a mark beyond what is on the disk.
        self.file.sync_data().with_context(could_not)?;
        self.bytes += text.len() as u64;
        self.added += entries.len();
        self.from = Some(next);
        let (about, format) = (self.about.clone(), self.format);
        let state = State { about, format, cursor: next.to_string(), bytes: self.bytes };
        let mark = mark(&self.path);
        let new = mark.with_extension("next.new");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(&state)?)?;
            file.sync_data()?;
            std::fs::rename(&new, &mark)
        };
        write().with_context(|| format!("could not write {}", mark.display()))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries this call added.
    pub(crate) fn added(&self) -> usize {
        self.added
    }
}

/// Where it stands how far a file has come.
fn mark(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

#[cfg(test)]
mod tests {
    use millrace_lattice_config::audit::Log;
    use millrace_lattice_config::tenants::Entry;

    use super::*;

    fn logged(sequence: u64, subject: &str) -> Logged {
        let [who, what, outcome] =
            ["=cmd|' /C calc'!A0", "pipeline.deploy", "ok"].map(str::to_owned);
        let subject = subject.to_owned();
        let entry = Entry { time: 0, who, what, subject, outcome, by_tenant: true };
        Logged { entry, log: Log::Tenant, sequence }
    }

    fn at(tenant: u64) -> Cursor {
        Cursor::Account { platform: 0, tenant, journal: 0 }
    }

    #[test]
    fn a_file_goes_on_where_it_ended_and_half_a_page_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let open = |about: &str| Export::open(path.clone(), None, about.to_owned());
        let mut export = open("acme *").unwrap();
        assert_eq!(export.from(), None);
        export.add(&[logged(1, "a"), logged(2, "b")], at(3)).unwrap();
        drop(export);
        // A call that was killed after its entries and before its mark.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"half").unwrap();
        let mut export = open("acme *").unwrap();
        assert_eq!(export.from(), Some(at(3)));
        export.add(&[logged(3, "c")], at(4)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let sequences: Vec<_> =
            lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, [1, 2, 3]);
        // Two at once would each take back what the other has written.
        assert!(open("acme *").err().unwrap().to_string().contains("another `audit --out`"));
        drop(export);
        // Not another log's, not another format, not a file that somebody cut, not somebody's own file.
        assert!(open("beta *").is_err());
        assert!(Export::open(path.clone(), Some(Format::Csv), "acme *".to_owned()).is_err());
        std::fs::write(&path, "x").unwrap();
        assert!(open("acme *").err().unwrap().to_string().contains("shorter"));
        let own = folder.path().join("own.txt");
        std::fs::write(&own, "mine").unwrap();
        assert!(Export::open(own.clone(), None, "acme *".to_owned()).is_err());
        assert_eq!(std::fs::read_to_string(own).unwrap(), "mine");
    }

    #[test]
    fn a_cell_is_no_formula_and_one_line() {
        let line = Format::Csv.line(&logged(7, "say \"a\",\nb")).unwrap();
        let wanted = "1970-01-01T00:00:00+00:00,tenant,7,\"'=cmd|' /C calc'!A0\",\"pipeline.deploy\",\
                      \"say \"\"a\"\", b\",\"ok\"";
        assert_eq!(line, wanted);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut export = Export::open(path.clone(), None, "acme *".to_owned()).unwrap();
        export.add(&[logged(1, "a")], at(2)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("time,log,"));
        drop(export);
        // Cut off before the first entry: begun anew.
        std::fs::remove_file(mark(&path)).unwrap();
        assert!(Export::open(path.clone(), None, "acme *".to_owned()).is_err());
        std::fs::write(&path, "time,l").unwrap();
        drop(Export::open(path.clone(), None, "acme *".to_owned()).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
