//! States of steps, in key-value buckets.
//!
//! A step with state has one value for each partition of its edge: the
//! document that goes with each batch (`millrace-window`), and how far the edge
//! had come when it was made. Both are written in one go, by compare-and-set
//! on the revision that the call was made with. So a batch that has been
//! applied is known, whoever applied it and however often it comes again, and
//! of two that work on one partition only one gets through.
//!
//! A value is a line of text, `millrace-state 1` and the positions, and after
//! it the document.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::CreateKeyValueErrorKind;
use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use millrace_kit::regroup::partition_of;
use millrace_window::{Document, MAX_BYTES, repartition};
use parking_lot::Mutex;

/// First word of a value, and the version of its form.
const FORM: &str = "millrace-state 1";

/// Longest first line of a value. More positions than partitions there ever are
/// need.
const LINE_MAX: usize = 64 << 10;

/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(4);

/// One of so many parts of an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition {
    pub(crate) count: u16,
    pub(crate) number: u16,
}

/// How far an edge has come: all batches of the stream before `sequence`, and
/// so many messages of that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// When the stream was made, nanoseconds since the Unix epoch: another of
    /// its name numbers anew.
    pub(crate) made: i64,
    pub(crate) sequence: u64,
    pub(crate) messages: u64,
}

/// What is kept for one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How far each partition had come that messages were taken from: those of
    /// another number too, whose batches were still there.
    pub(crate) positions: BTreeMap<Partition, Position>,
    pub(crate) document: Bytes,
}

/// What is kept, and which revision of it that is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    pub(crate) revision: u64,
    pub(crate) kept: Kept,
}

/// What a call says about the state that it brings along, and a commit gives
/// back: the batch header `state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) step: String,
    pub(crate) partition: Partition,
    pub(crate) revision: u64,
    /// How far the edge has come with this call.
    pub(crate) position: Option<(Partition, Position)>,
}

/// Why a state cannot be read or kept. The text names the bucket and the key.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The server is away or refuses.
    #[error("state {key} in bucket {bucket}: {reason}")]
    Store {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What the server said.
        reason: String,
    },
    /// Somebody else has written it since it was read.
    #[error("state {key} in bucket {bucket}: it has changed since this batch was begun")]
    Changed {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// What is there cannot be read.
    #[error(
        "state {key} in bucket {bucket} cannot be read: {reason}; `nats kv get {bucket} {key}` shows it, `nats kv del {bucket} {key}` begins anew"
    )]
    Unreadable {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A stage gives a state that it was not given.
    #[error("a stage gives the state {0:?}, which is not its own")]
    Foreign(String),
}

/// What this process knows of states: what it wrote last. Whoever reads asks
/// here before the server.
#[derive(Debug, Clone, Default)]
pub struct States {
    known: Arc<Mutex<HashMap<String, Loaded>>>,
    /// How many partitions the state of each step has, as far as it is known.
    arranged: Arc<Mutex<HashMap<String, u16>>>,
}

/// The states of the steps of one pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    js: Context,
    name: String,
    states: States,
    store: Arc<Mutex<Option<Store>>>,
}

impl States {
    pub(crate) fn of(&self, client: &async_nats::Client, lattice: &str, pipeline: &str) -> Bucket {
        let mut js = jetstream::new(client.clone());
        js.set_timeout(ANSWER);
        Bucket {
            js,
            name: format!("MILLRACE_{lattice}_{pipeline}_state"),
            states: self.clone(),
            store: Arc::default(),
        }
    }
}

impl Bucket {
    /// What is kept for a partition of a step; nothing at first.
    pub(crate) async fn load(&self, step: &str, of: Partition) -> Result<Loaded, StateError> {
        let key = key(step, of);
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let loaded = self.read(&key).await?;
        self.learn(&key, Some(loaded.clone()));
        Ok(loaded)
    }

    /// What is kept may have been written by somebody else.
    pub(crate) fn forget(&self, step: &str, of: Partition) {
        self.learn(&key(step, of), None);
    }

    /// Keeps what a stage has made of a state.
    pub(crate) async fn commit(
        &self,
        stage: &str,
        ticket: &str,
        document: &[u8],
    ) -> Result<(), StateError> {
        let foreign = || StateError::Foreign(millrace_kit::answer::bounded(ticket));
        let read: Ticket = ticket.parse().map_err(|()| foreign())?;
        let Partition { count, number } = read.partition;
        if read.step != stage || document.len() > MAX_BYTES || number >= count {
            return Err(foreign());
        }
        // A stage that packs its batches itself can say what it likes: only one with a state has partitions of it.
        if self.arranged(stage) != Some(count) {
            let (_, there) = self.read_count(&layout(stage)).await?;
            if there != Some(count) {
                return Err(foreign());
            }
            self.states.arranged.lock().insert(self.place(stage), count);
        }
        let key = key(&read.step, read.partition);
        let before = match self.known(&key).filter(|known| known.revision == read.revision) {
            Some(known) => known,
            None => self.read(&key).await?,
        };
        if before.revision != read.revision {
            self.learn(&key, Some(before));
            return Err(StateError::Changed { bucket: self.name.clone(), key });
        }
        let mut positions = before.kept.positions;
        if let Some((of, position)) = read.position {
            // Of a stream that was made anew the others are gone.
            positions.retain(|_, other| other.made == position.made);
            positions.insert(of, position);
        }
        let kept = Kept { positions, document: Bytes::copy_from_slice(document) };
        let written = self.write(&key, &kept, read.revision).await;
        match written {
            Ok(revision) => {
                self.learn(&key, Some(Loaded { revision, kept }));
                Ok(())
            }
            Err(error) => {
                // It may have been written all the same.
                self.learn(&key, None);
                Err(error)
            }
        }
    }

    /// Sees that the states of a step are those of so many partitions: of
    /// another number they are put together anew. To be called before anything
    /// is handed on; what was cut off is begun again.
    pub(crate) async fn arrange(&self, step: &str, count: u16) -> Result<(), StateError> {
        let layout = layout(step);
        let (revision, before) = self.read_count(&layout).await?;
        if before != Some(count) {
            if let Some(before) = before {
                self.rearrange(step, before, count).await?;
            }
            let store = self.store(&layout).await?;
            let written = store.update(&layout, count.to_string().into(), revision).await;
            written.map_err(|error| self.refused(&layout, error))?;
        }
        for number in 0..count {
            self.forget(step, Partition { count, number });
        }
        self.states.arranged.lock().insert(self.place(step), count);
        Ok(())
    }

    async fn rearrange(&self, step: &str, before: u16, count: u16) -> Result<(), StateError> {
        let mut documents = Vec::new();
        let mut positions = BTreeMap::new();
        for number in 0..before {
            let key = key(step, Partition { count: before, number });
            let kept = self.read(&key).await?.kept;
            documents.push(self.document(&key, &kept.document)?);
            positions.extend(kept.positions);
        }
        let documents =
            repartition(&documents, count, |group, topic| partition_of(group, topic, count));
        for (number, document) in (0..count).zip(documents) {
            let key = key(step, Partition { count, number });
            let document = document.write();
            if document.len() > MAX_BYTES {
                let reason = format!(
                    "with {count} partitions one of them has {} bytes, at most {MAX_BYTES} are allowed; write `partitions: {before}` again, or more",
                    document.len()
                );
                return Err(self.refused(&key, reason));
            }
            let there = self.read(&key).await?;
            let kept = Kept { positions: positions.clone(), document: document.into() };
            self.write(&key, &kept, there.revision).await?;
        }
        Ok(())
    }

    fn document(&self, key: &str, bytes: &[u8]) -> Result<Document, StateError> {
        Document::read(bytes).map_err(|error| self.unreadable(key, error))
    }

    async fn read_count(&self, key: &str) -> Result<(u64, Option<u16>), StateError> {
        let Some((revision, value)) = self.get(key).await? else { return Ok((0, None)) };
        let Some(value) = value else { return Ok((revision, None)) };
        let count = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        match count {
            Some(count) => Ok((revision, Some(count))),
            None => Err(self.unreadable(key, "it is no number of partitions")),
        }
    }

    async fn read(&self, key: &str) -> Result<Loaded, StateError> {
        let Some((revision, value)) = self.get(key).await? else { return Ok(Loaded::default()) };
        let kept = match value {
            Some(value) => Kept::read(&value).map_err(|reason| self.unreadable(key, reason))?,
            None => Kept::default(),
        };
        Ok(Loaded { revision, kept })
    }

    /// The revision of a key and its value; no value where it was deleted.
    async fn get(&self, key: &str) -> Result<Option<(u64, Option<Bytes>)>, StateError> {
        let store = self.store(key).await?;
        let entry = tokio::time::timeout(ANSWER, store.entry(key)).await;
        let entry = entry
            .map_err(|_| self.refused(key, format_args!("no answer within {ANSWER:?}")))?
            .map_err(|error| self.refused(key, error))?;
        Ok(entry.map(|entry| {
            let there = entry.operation == kv::Operation::Put;
            (entry.revision, there.then_some(entry.value))
        }))
    }

    async fn write(&self, key: &str, kept: &Kept, revision: u64) -> Result<u64, StateError> {
        let store = self.store(key).await?;
        let write = store.update(key, kept.write(), revision);
        match tokio::time::timeout(ANSWER, write).await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(error)) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                Err(StateError::Changed { bucket: self.name.clone(), key: key.to_owned() })
            }
            Ok(Err(error)) => Err(self.refused(key, error)),
            Err(_) => Err(self.refused(key, format_args!("no answer within {ANSWER:?}"))),
        }
    }

    /// The bucket, made where it is missing.
    async fn store(&self, key: &str) -> Result<Store, StateError> {
        if let Some(store) = self.store.lock().clone() {
            return Ok(store);
        }
        let store = tokio::time::timeout(ANSWER, self.find_or_make())
            .await
            .map_err(|_| self.refused(key, format_args!("no answer within {ANSWER:?}")))?
            .map_err(|error| self.refused(key, error))?;
        *self.store.lock() = Some(store.clone());
        Ok(store)
    }

    async fn find_or_make(&self) -> Result<Store, async_nats::Error> {
        if let Ok(store) = self.js.get_key_value(&self.name).await {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: self.name.clone(),
            description: "states of the steps of a pipeline".to_owned(),
            history: 1,
            storage: StorageType::File,
            num_replicas: 1,
            ..kv::Config::default()
        };
        match self.js.create_key_value(config).await {
            // Somebody else was faster.
            Err(error) if error.kind() == CreateKeyValueErrorKind::BucketCreate => {
                Ok(self.js.get_key_value(&self.name).await?)
            }
            made => Ok(made?),
        }
    }

    fn arranged(&self, step: &str) -> Option<u16> {
        self.states.arranged.lock().get(&self.place(step)).copied()
    }

    fn known(&self, key: &str) -> Option<Loaded> {
        self.states.known.lock().get(&self.place(key)).cloned()
    }

    fn learn(&self, key: &str, loaded: Option<Loaded>) {
        let mut known = self.states.known.lock();
        match loaded {
            Some(loaded) => known.insert(self.place(key), loaded),
            None => known.remove(&self.place(key)),
        };
    }

    fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    fn refused(&self, key: &str, reason: impl fmt::Display) -> StateError {
        // The bucket may be gone: it is looked for again.
        *self.store.lock() = None;
        StateError::Store {
            bucket: self.name.clone(),
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn unreadable(&self, key: &str, reason: impl fmt::Display) -> StateError {
        StateError::Unreadable {
            bucket: self.name.clone(),
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Key of the number of partitions of a step's state.
fn layout(step: &str) -> String {
    format!("{step}.partitions")
}

fn key(step: &str, of: Partition) -> String {
    format!("{step}.{of}")
}

impl Kept {
    fn read(value: &[u8]) -> Result<Self, &'static str> {
        let end = value.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
        let (line, document) =
            end.and_then(|end| value.split_at_checked(end)).ok_or("it has no first line")?;
        let line = std::str::from_utf8(line).map_err(|_| "its first line is no text")?;
        let positions = line.strip_prefix(FORM).ok_or("it is of another version")?;
        let positions = positions
            .split_ascii_whitespace()
            .map(read_position)
            .collect::<Option<_>>()
            .ok_or("a position in its first line is none")?;
        let document = document.get(1..).unwrap_or_default();
        Ok(Self { positions, document: Bytes::copy_from_slice(document) })
    }

    fn write(&self) -> Bytes {
        let mut line = FORM.to_owned();
        for (of, position) in &self.positions {
            line.push_str(&format!(" {of}@{position}"));
        }
        line.push('\n');
        let mut value = line.into_bytes();
        value.extend_from_slice(&self.document);
        value.into()
    }
}

fn read_position(text: &str) -> Option<(Partition, Position)> {
    let (of, position) = text.split_once('@')?;
    Some((of.parse().ok()?, position.parse().ok()?))
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.count, self.number)
    }
}

impl FromStr for Partition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (count, number) = text.split_once('.').ok_or(())?;
        Ok(Self { count: count.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.made, self.sequence, self.messages)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(());
        let position = Self {
            made: next()?.parse().map_err(drop)?,
            sequence: next()?.parse().map_err(drop)?,
            messages: next()?.parse().map_err(drop)?,
        };
        parts.next().is_none().then_some(position).ok_or(())
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.step, self.partition, self.revision)?;
        match &self.position {
            Some((of, position)) => write!(f, " {of}@{position}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Ticket {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(' ');
        let step = parts.next().ok_or(())?.to_owned();
        let partition = parts.next().ok_or(())?.parse()?;
        let revision = parts.next().ok_or(())?.parse().map_err(drop)?;
        let position = match parts.next() {
            Some(text) => Some(read_position(text).ok_or(())?),
            None => None,
        };
        parts.next().is_none().then_some(Self { step, partition, revision, position }).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let of = Partition { count: 8, number: 3 };
        let position = Position { made: 1_700_000_000_123_456_789, sequence: 57, messages: 12 };
        let kept = Kept {
            positions: BTreeMap::from([(of, position)]),
            document: Bytes::from_static(b"doc\nument"),
        };
        assert_eq!(Kept::read(&kept.write()).unwrap(), kept);
        let ticket = Ticket {
            step: "mean".into(),
            partition: of,
            revision: 42,
            position: Some((of, position)),
        };
        assert_eq!(ticket.to_string(), "mean 8.3 42 8.3@1700000000123456789:57:12");
        assert_eq!(ticket.to_string().parse(), Ok(ticket.clone()));
        let first = Ticket { position: None, ..ticket };
        assert_eq!(first.to_string().parse(), Ok(first));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        for wrong in [&b""[..], b"millrace-state 2\n", b"millrace-state 1", b"millrace-state 1 x\n"]
        {
            assert!(Kept::read(wrong).is_err(), "{wrong:?}");
        }
        for wrong in
            ["", "mean", "mean 8 1", "mean 8.3 x", "mean 8.3 1 8.3", "mean 8.3 1 8.3@1:2:3 more"]
        {
            assert!(wrong.parse::<Ticket>().is_err(), "{wrong}");
        }
    }
}
