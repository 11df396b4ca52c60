//! The state document: all open windows of one partition, as bytes.
//!
//! ```text
//! magic            4  D6 "MRS"
//! version          1  1
//! content          1  0: open windows, 1: ids of a de-duplicate, 2: periods of a throttle
//! reserved         2  0
//! watermark        8  event time, nanoseconds since the Unix epoch
//! entries          4  number of entries
//! entry            sorted by group, start, end:
//!   grouped by     1  0: by key, 1: by topic, of messages without a key
//!   group length   4
//!   state length   4
//!   start          8  nanoseconds since the Unix epoch; 0 where the window does not go by time
//!   end            8  as `start`
//!   count          8  messages in it
//!   group, state
//! ```
//!
//! Numbers are little-endian. The order makes the same content the same bytes. Reading trusts nothing, copies the bytes
//! once, and allocates nothing else.

use std::cmp::Ordering;

/// First four bytes of a document.
const MAGIC: [u8; 4] = [0xD6, b'M', b'R', b'S'];

/// The version this crate writes, and the only one it reads.
pub const VERSION: u8 = 1;

/// Most bytes of a document: 384 KiB. Document and batch travel together in one body of at most 960 KiB.
pub const MAX_BYTES: usize = 384 * 1024;

/// Bytes of the fixed part of a document.
pub(crate) const HEADER: usize = 20;

/// Bytes of the fixed part of an entry.
const ENTRY: usize = 33;

/// Why bytes could not be read as a state document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The bytes do not start as a document does.
    #[error("these bytes are not a state document")]
    NotADocument,
    /// A document of another version of the platform.
    #[error("the state document has version {found}, and this version of the platform reads version {VERSION}")]
    OtherVersion {
        /// The version found.
        found: u8,
    },
    /// Larger than [`MAX_BYTES`].
    #[error("the state document has {bytes} bytes, at most {MAX_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It starts as a document, and goes on as none.
    #[error("the state document is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where, counted from the start of the document.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// What messages belong together: those of a key, or those of a topic that have none. An empty key is a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group<'a> {
    /// Messages with this key, whatever their topic.
    Key(&'a [u8]),
    /// Messages of this topic without a key.
    Topic(&'a str),
}

impl<'a> Group<'a> {
    /// The group of a message with this key and topic.
    #[must_use]
    pub fn of(key: Option<&'a [u8]>, topic: &'a str) -> Self {
        key.map_or(Self::Topic(topic), Self::Key)
    }

    /// The key, where messages are grouped by it.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Key(key) => Some(key),
            Self::Topic(_) => None,
        }
    }

    /// The topic, empty where messages are grouped by key.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        match *self {
            Self::Key(_) => "",
            Self::Topic(topic) => topic,
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::Key(key) => key,
            Self::Topic(topic) => topic.as_bytes(),
        }
    }
}

/// An open window of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Whose it is.
    pub group: Group<'a>,
    /// First nanosecond of the window since the Unix epoch; 0 where it does not go by time.
    pub start: u64,
    /// First nanosecond after the window; 0 where it does not go by time.
    pub end: u64,
    /// Messages in it.
    pub count: u64,
    /// What the step has made of them.
    pub state: &'a [u8],
}

impl Entry<'_> {
    /// Bytes it takes in a document.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        size(&self.group, self.state.len())
    }

    /// The order of entries in a document.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        (self.group, self.start, self.end).cmp(&(other.group, other.start, other.end))
    }

    /// An order without ties between different entries.
    fn full_order(&self, other: &Self) -> Ordering {
        self.order(other).then_with(|| (self.count, self.state).cmp(&(other.count, other.state)))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let (kind, group) = (u8::from(self.group.key().is_none()), self.group.bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&length(group.len()));
        bytes.extend_from_slice(&length(self.state.len()));
        for number in [self.start, self.end, self.count] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(group);
        bytes.extend_from_slice(self.state);
    }
}

/// Bytes that an entry takes in a document.
pub(crate) fn size(group: &Group<'_>, state: usize) -> usize {
    ENTRY.saturating_add(group.bytes().len()).saturating_add(state)
}

/// What the entries of a document are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    /// Open windows. None may be forgotten.
    #[default]
    Windows,
    /// Ids of messages that have come. May be forgotten.
    Ids,
    /// Periods with their numbers of messages. May be forgotten.
    Periods,
}

impl Content {
    const ALL: [Self; 3] = [Self::Windows, Self::Ids, Self::Periods];

    fn byte(self) -> u8 {
        match self {
            Self::Windows => 0,
            Self::Ids => 1,
            Self::Periods => 2,
        }
    }
}

/// All open windows of one partition, or what else a step keeps for each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Event time up to which windows have ended, nanoseconds since the Unix epoch.
    pub watermark: u64,
    content: Content,
    count: u32,
    /// The entries as they lie in the document, checked.
    entries: Vec<u8>,
}

impl Document {
    /// Reads a document and checks all of it. No bytes at all are an empty document: that of a step that has seen nothing.
    ///
    /// # Errors
    ///
    /// [`DocumentError`].
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        let (watermark, content, count, entries) = open(bytes)?;
        check(entries, count)?;
        Ok(Self { watermark, content, count, entries: entries.to_vec() })
    }

    /// The document if its entries are of this kind, and otherwise an empty one: a step that was of another kind before begins
    /// anew.
    ///
    /// # Errors
    ///
    /// [`DocumentError`].
    pub fn read_as(content: Content, bytes: &[u8]) -> Result<Self, DocumentError> {
        let document = Self::read(bytes)?;
        Ok(if document.content == content { document } else { Self::default().marked(content) })
    }

    /// The same with entries of this kind.
    #[must_use]
    pub fn marked(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// The same small enough to be read. What ends first is forgotten first; of windows nothing is.
    #[must_use]
    pub fn fitted(self) -> Self {
        let mut size = self.byte_len();
        if self.content == Content::Windows || size <= MAX_BYTES {
            return self;
        }
        let mut entries: Vec<Entry<'_>> = self.entries().collect();
        // Ties in the order of the document, so that the same entries are kept every time.
        entries.sort_by(|a, b| b.end.cmp(&a.end).then_with(|| a.order(b)));
        while size > MAX_BYTES {
            let Some(gone) = entries.pop() else { break };
            size = size.saturating_sub(gone.byte_len());
        }
        Self::of(self.watermark, entries).marked(self.content)
    }

    /// The document as bytes. The same content gives the same bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = header(self.watermark, self.content, self.count, self.entries.len());
        bytes.extend_from_slice(&self.entries);
        bytes
    }

    /// Whether there is no open window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of open windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Size of the document in bytes. One that was put together from others may be larger than [`MAX_BYTES`], and can then
    /// not be read.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        HEADER + self.entries.len()
    }

    /// Event time (nanoseconds since the Unix epoch) at which the first open window ends, of those that end by time.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.entries().map(|entry| entry.end).filter(|end| *end != 0).min()
    }

    /// The open windows, in the order of group, start and end.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { rest: &self.entries, offset: HEADER, left: self.count }
    }

    /// A document of these windows, in any order.
    #[must_use]
    pub fn of<'a>(watermark: u64, entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
        let mut sorted: Vec<Entry<'_>> = entries.into_iter().collect();
        sorted.sort_by(Entry::full_order);
        let mut bytes = Vec::with_capacity(sorted.iter().map(Entry::byte_len).sum());
        for entry in &sorted {
            entry.write(&mut bytes);
        }
        // More than 32 bits of entries do not fit into memory on any target.
        let content = Content::Windows;
        Self { watermark, content, count: sorted.len() as u32, entries: bytes }
    }
}

/// The same entries for another number of partitions: one document for each, `of` says which partition a group (key,
/// topic) is in. One that is not below `count` is taken for the last. The watermark is the least of all, so that no message
/// becomes late by it.
pub fn repartition(
    documents: &[Document],
    count: u16,
    of: impl Fn(Option<&[u8]>, &str) -> u16,
) -> Vec<Document> {
    let watermark = documents.iter().map(|document| document.watermark).min().unwrap_or_default();
    // All are of one step. An empty one may be older than what it is.
    let content = documents.iter().find(|document| !document.is_empty());
    let content = content.map(|document| document.content).unwrap_or_default();
    let documents = documents.iter().filter(|document| document.content == content);
    let mut parts: Vec<Vec<Entry<'_>>> = vec![Vec::new(); usize::from(count)];
    for entry in documents.flat_map(Document::entries) {
        let part = of(entry.group.key(), entry.group.topic()).min(count.saturating_sub(1));
        if let Some(part) = parts.get_mut(usize::from(part)) {
            part.push(entry);
        }
    }
    let document = |part| Document::of(watermark, part).marked(content).fitted();
    parts.into_iter().map(document).collect()
}

/// The watermark and the windows of a document, checked, without a copy. None where the step was of another kind before.
pub(crate) fn borrow(bytes: &[u8]) -> Result<(u64, Vec<Entry<'_>>), DocumentError> {
    let (watermark, content, count, entries) = open(bytes)?;
    check(entries, count)?;
    if content != Content::Windows {
        return Ok((0, Vec::new()));
    }
    Ok((watermark, Entries { rest: entries, offset: HEADER, left: count }.collect()))
}

/// Bytes of a document from entries that are in order.
pub(crate) fn write<'a>(
    watermark: u64,
    size: usize,
    sorted: impl Iterator<Item = Entry<'a>>,
) -> Vec<u8> {
    let mut bytes = header(watermark, Content::Windows, 0, size);
    let mut count: u32 = 0;
    for entry in sorted {
        entry.write(&mut bytes);
        count = count.saturating_add(1);
    }
    if let Some(place) = bytes.get_mut(16..HEADER) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    bytes
}

fn header(watermark: u64, content: Content, count: u32, more: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER.saturating_add(more));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, content.byte(), 0, 0]);
    bytes.extend_from_slice(&watermark.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes
}

/// Watermark, what the entries are, their number, and their bytes, not yet checked.
fn open(bytes: &[u8]) -> Result<(u64, Content, u32, &[u8]), DocumentError> {
    if bytes.is_empty() {
        return Ok((0, Content::Windows, 0, &[]));
    }
    let Some((start, _)) = bytes.split_first_chunk::<5>() else {
        return Err(DocumentError::NotADocument);
    };
    let [magic @ .., version] = start;
    if *magic != MAGIC {
        return Err(DocumentError::NotADocument);
    }
    if *version != VERSION {
        return Err(DocumentError::OtherVersion { found: *version });
    }
    if bytes.len() > MAX_BYTES {
        return Err(DocumentError::TooLarge { bytes: bytes.len() });
    }
    let Some((fixed, entries)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(damaged(bytes.len(), "it ends within its header"));
    };
    let [_, _, _, _, _, content, reserved @ .., _, _, _, _, _, _, _, _, _, _, _, _] = fixed;
    let content = Content::ALL.into_iter().find(|known| known.byte() == *content);
    let content = content.ok_or_else(|| damaged(5, "nobody knows what the entries are"))?;
    if *reserved != [0; 2] {
        return Err(damaged(6, "reserved bytes are not 0"));
    }
    let watermark =
        fixed.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b));
    let count = fixed.last_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    Ok((watermark, content, count, entries))
}

fn check(bytes: &[u8], count: u32) -> Result<(), DocumentError> {
    let mut rest = Entries { rest: bytes, offset: HEADER, left: count };
    let mut before: Option<Entry<'_>> = None;
    while rest.left > 0 {
        let offset = rest.offset;
        let entry = rest.read()?;
        if before.is_some_and(|before| before.order(&entry).is_gt()) {
            return Err(damaged(offset, "the entries are not in order"));
        }
        before = Some(entry);
    }
    if !rest.rest.is_empty() {
        return Err(damaged(rest.offset, "bytes follow the last entry"));
    }
    Ok(())
}

/// The open windows of a document.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
    offset: usize,
    left: u32,
}

impl<'a> Entries<'a> {
    #[inline]
    fn read(&mut self) -> Result<Entry<'a>, DocumentError> {
        let Some((fixed, rest)) = self.rest.split_first_chunk::<ENTRY>() else {
            return Err(damaged(self.offset, "it ends within an entry"));
        };
        let (group, state) = (number(fixed, 1), number(fixed, 5));
        let Some((group_bytes, rest)) = rest.split_at_checked(group) else {
            return Err(damaged(self.offset, "it ends within a group"));
        };
        let Some((state, rest)) = rest.split_at_checked(state) else {
            return Err(damaged(self.offset, "it ends within a state"));
        };
        let group = match fixed.first() {
            Some(0) => Group::Key(group_bytes),
            Some(1) => Group::Topic(
                std::str::from_utf8(group_bytes)
                    .map_err(|_| damaged(self.offset + ENTRY, "a topic is not UTF-8"))?,
            ),
            _ => return Err(damaged(self.offset, "a group is neither by key nor by topic")),
        };
        let (start, end, count) = (long(fixed, 9), long(fixed, 17), long(fixed, 25));
        if start > end {
            return Err(damaged(self.offset, "a window ends before it starts"));
        }
        self.rest = rest;
        self.offset += ENTRY + group_bytes.len() + state.len();
        self.left = self.left.saturating_sub(1);
        Ok(Entry { group, start, end, count, state })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        // Checked when the document was read.
        self.read().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.left as usize;
        // No more than the bytes can hold, whatever the number says.
        (left.min(self.rest.len() / ENTRY), Some(left))
    }
}

#[inline]
fn number(fixed: &[u8; ENTRY], at: usize) -> usize {
    let bytes = fixed.get(at..).and_then(<[u8]>::first_chunk);
    // `usize` has at least 32 bits on every target of this crate.
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

#[inline]
fn long(fixed: &[u8; ENTRY], at: usize) -> u64 {
    fixed.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Documents stay far below 4 GiB.
fn length(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_le_bytes()
}

#[cold]
fn damaged(offset: usize, what: &'static str) -> DocumentError {
    DocumentError::Damaged { offset, what }
}
