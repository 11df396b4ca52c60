//! A tenant's audit log in pages: with bounded memory however long it is, and readable while nobody may connect.
//!
//! It stands in three places. Two are streams in the tenant's account: what the platform did, signed, and what the tenant's own
//! engineers did, who can write anything. The third is the journal in the tenant's folder, which has what was refused. They are
//! merged by time. While the tenant is suspended the streams cannot be read, and the journal, which has all that the platform did,
//! stands for them.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use async_nats::jetstream;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::files::FileError;
use crate::roles::{AUDIT_STREAM, AUDIT_USER_STREAM, audit_subject, audit_user_subject};
use crate::tenants::{Entry, Record, State, TenantError, Tenants, entry_of, state_error};

/// Most entries of a page.
pub const PAGE_MAX: usize = 500;
/// A page that has looked at so many messages or lines ends, also with fewer entries than were asked for.
const LOOKED_MAX: usize = 5_000;
/// Longest line of a journal that is read, in bytes.
const LINE_MAX: u64 = 64 << 10;

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    /// The stream of what the platform did, in the tenant's account. Only signed entries of it are listed.
    Platform,
    /// The stream of what the tenant's engineers did. They can write anything there.
    Tenant,
    /// The journal in the tenant's folder.
    Journal,
}

/// An entry, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// In which log.
    pub log: Log,
    /// Its number in that log, which no other entry of it has: that of the stream, or the byte in the journal at which its line
    /// begins.
    pub sequence: u64,
}

/// Some of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Oldest first. With two entries of one log the one with the lower sequence comes first, whatever time an engineer gave it.
    pub entries: Vec<Logged>,
    /// Where the next page begins. Also after the last one: later entries stand there.
    pub next: Cursor,
    /// Whether there was more when this page was read.
    pub more: bool,
    /// Entries between the page before and this one that had to make room for newer ones in a stream, and are lost.
    pub missed: u64,
}

/// A place in an audit log. It is written as text and read back: for callers it has no parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// In the account's streams, by sequence, and in the journal's refusals, by byte. Zero for the beginning.
    Account {
        /// The next of the platform's.
        platform: u64,
        /// The next of the tenant's.
        tenant: u64,
        /// The next line of the journal.
        journal: u64,
    },
    /// In the journal alone: the next line's first byte.
    Journal(u64),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account { platform, tenant, journal } => {
                write!(f, "a{platform}-{tenant}-{journal}")
            }
            Self::Journal(at) => write!(f, "j{at}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = TenantError;

    fn from_str(text: &str) -> Result<Self, TenantError> {
        let wrong = || TenantError::Cursor(text.chars().take(80).collect());
        let number = |text: &str| -> Result<u64, TenantError> {
            // `parse` alone would take a plus.
            match text.bytes().all(|byte| byte.is_ascii_digit()) {
                true => text.parse().map_err(|_| wrong()),
                false => Err(wrong()),
            }
        };
        if let Some(at) = text.strip_prefix('j') {
            return Ok(Self::Journal(number(at)?));
        }
        let mut parts = text.strip_prefix('a').ok_or_else(wrong)?.split('-').map(number);
        let mut part = || parts.next().ok_or_else(wrong).flatten();
        let (platform, tenant, journal) = (part()?, part()?, part()?);
        match parts.next() {
            None => Ok(Self::Account { platform, tenant, journal }),
            Some(_) => Err(wrong()),
        }
    }
}

impl Tenants {
    /// A page of a tenant's audit log of at most `limit` entries (1 to [`PAGE_MAX`]), from where the page before ended or from the
    /// beginning. Of a tenant that is not active it is the journal.
    ///
    /// # Errors
    ///
    /// When there is no such tenant, its streams or its journal cannot be read, or the cursor is one of the streams and the tenant
    /// has been suspended since.
    pub async fn audit_page(
        &self,
        name: &str,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, TenantError> {
        let record = self.get(name)?;
        let limit = limit.clamp(1, PAGE_MAX);
        let journal = self.folder(name)?.join("journal.jsonl");
        let active = record.state == State::Active;
        match from {
            Some(Cursor::Account { .. }) if !active => Err(state_error(name, record.state)),
            Some(Cursor::Account { platform, tenant, journal: at }) => {
                self.account_page(&record, &journal, [platform, tenant, at], limit).await
            }
            None if active => self.account_page(&record, &journal, [0; 3], limit).await,
            Some(Cursor::Journal(at)) => journal_page(&journal, at, limit),
            None => journal_page(&journal, 0, limit),
        }
    }

    async fn account_page(
        &self,
        record: &Record,
        journal: &Path,
        [platform, tenant, at]: [u64; 3],
        limit: usize,
    ) -> Result<Page, TenantError> {
        let account = Account {
            js: jetstream::new(self.admin(record).await?),
            lattice: record.lattice.clone(),
            signer: self.home().operator_signing()?,
        };
        account.read([platform, tenant], Lines::open(journal, at, true)?, limit).await
    }
}

/// The two streams of an audit log in a tenant's account, as its own engineers can read them.
pub struct Account {
    js: jetstream::Context,
    lattice: String,
    signer: KeyPair,
}

impl Account {
    /// Those of a lattice, read with a connection into its account. `signer` is the public key with which the platform signs its
    /// entries.
    ///
    /// # Errors
    ///
    /// When that is no public key.
    pub fn new(js: jetstream::Context, lattice: &str, signer: &str) -> Result<Self, TenantError> {
        let signer = KeyPair::from_public_key(signer).map_err(|e| unread(lattice, &e))?;
        Ok(Self { js, lattice: lattice.to_owned(), signer })
    }

    /// A page of at most `limit` entries (1 to [`PAGE_MAX`]), from where the page before ended or from the beginning.
    ///
    /// # Errors
    ///
    /// When the streams cannot be read, or the cursor is one of a journal.
    pub async fn page(&self, from: Option<Cursor>, limit: usize) -> Result<Page, TenantError> {
        let from = match from {
            None => [0; 2],
            Some(Cursor::Account { platform, tenant, .. }) => [platform, tenant],
            Some(journal) => return Err(TenantError::Cursor(journal.to_string())),
        };
        self.read(from, Lines::none(), limit.clamp(1, PAGE_MAX)).await
    }

    async fn read(
        &self,
        [platform, tenant]: [u64; 2],
        mut lines: Lines,
        limit: usize,
    ) -> Result<Page, TenantError> {
        let mut platform = Numbered::open(self, Log::Platform, platform).await?;
        let mut tenant = Numbered::open(self, Log::Tenant, tenant).await?;
        let (mut entries, mut looked) = (Vec::new(), 0);
        while entries.len() < limit && looked < LOOKED_MAX {
            let budget = LOOKED_MAX - looked;
            looked += platform.fill(budget).await?;
            looked += tenant.fill(budget).await?;
            looked += lines.fill(budget)?;
            if platform.is_waiting() || tenant.is_waiting() || lines.is_waiting() {
                // The budget is used up, and what one of them has next is not known.
                break;
            }
            let times = [time(&platform.head), time(&tenant.head), time(&lines.head)];
            let Some(first) = times.iter().flatten().min().copied() else { break };
            // Of those with the same time the platform's comes first.
            let taken = match times {
                [Some(time), ..] if time == first => platform.take(),
                [_, Some(time), _] if time == first => tenant.take(),
                _ => lines.take(),
            };
            entries.extend(taken);
            looked += 1;
        }
        let more = platform.is_left() || tenant.is_left() || lines.is_left();
        let missed = platform.missed.saturating_add(tenant.missed);
        let next =
            Cursor::Account { platform: platform.at(), tenant: tenant.at(), journal: lines.at() };
        Ok(Page { entries, next, more, missed })
    }
}

fn unread(lattice: &str, error: &dyn fmt::Display) -> TenantError {
    TenantError::JetStream { name: lattice.to_owned(), reason: error.to_string() }
}

fn time(head: &Option<Logged>) -> Option<i64> {
    head.as_ref().map(|head| head.entry.time)
}

fn journal_page(journal: &Path, at: u64, limit: usize) -> Result<Page, TenantError> {
    let mut lines = Lines::open(journal, at, false)?;
    let (mut entries, mut looked) = (Vec::new(), 0);
    while entries.len() < limit && looked < LOOKED_MAX {
        looked += lines.fill(LOOKED_MAX - looked)?;
        let Some(head) = lines.take() else { break };
        entries.push(head);
    }
    let (next, more) = (Cursor::Journal(lines.at()), lines.is_left());
    Ok(Page { entries, next, more, missed: 0 })
}

/// The messages of a stream, one after the other.
///
/// Each is asked for as the next from a number on: an engineer of the tenant may do that, and may not ask how the stream is.
struct Numbered<'a> {
    account: &'a Account,
    stream: Stream<()>,
    log: Log,
    subject: String,
    /// The next that has not been looked at.
    next: u64,
    /// Entries before it that are gone.
    missed: u64,
    over: bool,
    head: Option<Logged>,
}

impl<'a> Numbered<'a> {
    /// From a sequence on; zero for the beginning.
    async fn open(account: &'a Account, log: Log, from: u64) -> Result<Self, TenantError> {
        let (name, subject) = match log {
            Log::Platform => (AUDIT_STREAM, audit_subject(&account.lattice)),
            Log::Tenant | Log::Journal => (AUDIT_USER_STREAM, audit_user_subject(&account.lattice)),
        };
        let stream = account.js.get_stream_no_info(name).await;
        let stream = stream.map_err(|e| unread(&account.lattice, &e))?;
        Ok(Self { account, stream, log, subject, next: from, missed: 0, over: false, head: None })
    }

    fn is_waiting(&self) -> bool {
        self.head.is_none() && !self.over
    }

    fn is_left(&self) -> bool {
        self.head.is_some() || !self.over
    }

    /// Where to go on: at the entry that was read and not taken.
    fn at(&self) -> u64 {
        self.head.as_ref().map_or(self.next, |head| head.sequence)
    }

    fn take(&mut self) -> Option<Logged> {
        self.head.take()
    }

    /// Whether the stream ends before what was read already: it was lost, and made anew.
    async fn is_another(&self) -> Result<bool, TenantError> {
        if self.next <= 1 {
            return Ok(false);
        }
        match self.stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(last) => Ok(last.sequence.saturating_add(1) < self.next),
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(e) => Err(unread(&self.account.lattice, &e)),
        }
    }

    /// Reads up to the next entry, and says how many messages it looked at.
    async fn fill(&mut self, budget: usize) -> Result<usize, TenantError> {
        let mut looked = 0;
        while self.is_waiting() && looked < budget {
            looked += 1;
            let asked = self.next.max(1);
            let message =
                match self.stream.get_first_raw_message_by_subject(&self.subject, asked).await {
                    Ok(message) => message,
                    Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => {
                        if self.is_another().await? {
                            self.next = 0;
                            continue;
                        }
                        self.over = true;
                        break;
                    }
                    Err(e) => return Err(unread(&self.account.lattice, &e)),
                };
            let sequence = message.sequence;
            if self.next > 0 {
                // From the beginning nothing is missed: what went before nobody began to read.
                self.missed = self.missed.saturating_add(sequence.saturating_sub(self.next));
            }
            self.next = sequence.saturating_add(1);
            let Account { lattice, signer, .. } = self.account;
            let entry = entry_of(signer, lattice, self.log == Log::Tenant, &message);
            self.head = entry.map(|entry| Logged { entry, log: self.log, sequence });
        }
        Ok(looked)
    }
}

/// The lines of a journal, one after the other.
struct Lines {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The byte after the last line that was looked at.
    next: u64,
    over: bool,
    /// Only what stands here alone, such as what was refused: all else stands in the account.
    alone: bool,
    head: Option<Logged>,
}

impl Lines {
    /// None at all.
    fn none() -> Self {
        Self { path: PathBuf::new(), file: None, next: 0, over: true, alone: true, head: None }
    }

    fn is_waiting(&self) -> bool {
        self.head.is_none() && !self.over
    }

    fn open(path: &Path, at: u64, alone: bool) -> Result<Self, TenantError> {
        let mut file = match File::open(path) {
            Ok(file) => Some(BufReader::new(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(FileError::io("open", path)(e).into()),
        };
        let mut at = at;
        if let Some(file) = &mut file {
            let length = file.get_ref().metadata().map_err(FileError::io("read", path))?.len();
            if at > length {
                // It is another journal than the one that was read: that of a backup.
                at = 0;
            }
            file.seek(SeekFrom::Start(at)).map_err(FileError::io("read", path))?;
        }
        let over = file.is_none();
        Ok(Self { path: path.to_owned(), file, next: at, over, alone, head: None })
    }

    fn is_left(&self) -> bool {
        self.head.is_some() || !self.over
    }

    fn at(&self) -> u64 {
        self.head.as_ref().map_or(self.next, |head| head.sequence)
    }

    fn take(&mut self) -> Option<Logged> {
        self.head.take()
    }

    fn fill(&mut self, budget: usize) -> Result<usize, TenantError> {
        let mut looked = 0;
        let Some(file) = &mut self.file else { return Ok(0) };
        while self.head.is_none() && !self.over && looked < budget {
            looked += 1;
            let mut line = Vec::new();
            let read = file.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
            read.map_err(FileError::io("read", &self.path))?;
            let whole = line.last() == Some(&b'\n');
            let length = line.len() as u64;
            if !whole && length < LINE_MAX {
                // The end, or a line that is being written: it is read whole next time.
                self.over = true;
                break;
            }
            let sequence = self.next;
            self.next += length;
            // Half a line, as a power cut leaves it, is no entry.
            let entry = serde_json::from_slice::<Entry>(&line).ok();
            let wanted = |entry: &Entry| !self.alone || entry.outcome != "ok";
            let entry = entry.filter(wanted);
            self.head = entry.map(|entry| Logged { entry, log: Log::Journal, sequence });
        }
        Ok(looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        let all =
            [Cursor::Account { platform: 1, tenant: 0, journal: u64::MAX }, Cursor::Journal(7)];
        for cursor in all {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for odd in [
            "",
            "a",
            "j",
            "a1-2",
            "a1-2-3-4",
            "a+1-2-3",
            "j-1",
            "j1x",
            "a1-2-99999999999999999999",
            "x1",
            "ä",
        ] {
            assert!(matches!(odd.parse::<Cursor>(), Err(TenantError::Cursor(_))), "{odd:?}");
        }
    }

    #[test]
    fn a_journal_is_read_in_pages_past_what_is_no_entry_and_not_beyond_a_line_that_is_being_written()
     {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let line = |n: i64| {
            format!(
                "{{\"time\":{n},\"who\":\"w\",\"what\":\"x\",\"subject\":\"s\",\"outcome\":\"ok\"}}\n"
            )
        };
        let long = format!("{}\n", "x".repeat(200_000));
        std::fs::write(
            &path,
            [&line(1), "{\"time\":2,\"wh\n", &long, &line(3), "{\"time\":4"].concat(),
        )
        .unwrap();
        let first = journal_page(&path, 0, 1).unwrap();
        assert_eq!((first.entries.len(), first.more), (1, true));
        let Cursor::Journal(at) = first.next else { panic!("{:?}", first.next) };
        let second = journal_page(&path, at, 100).unwrap();
        assert_eq!(second.entries.iter().map(|e| e.entry.time).collect::<Vec<_>>(), [3]);
        assert!(!second.more);
        let Cursor::Journal(at) = second.next else { panic!("{:?}", second.next) };
        let whole = std::fs::read_to_string(&path).unwrap().replace("{\"time\":4", &line(4));
        std::fs::write(&path, whole).unwrap();
        assert_eq!(journal_page(&path, at, 100).unwrap().entries[0].entry.time, 4);
    }
}
