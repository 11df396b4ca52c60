//! The reader. It trusts nothing: every length is checked against what is left before it is used, so a damaged body
//! ends in a [`ReadError`] and never in a panic or a large allocation.

use crate::error::{Field, Problem, ReadError};
use crate::layout::{
    is_batch, BATCH_FIXED, HEADER_FIXED, MAX_BATCH_BYTES, MAX_HEADER_BLOCK, NO_CONTENT_TYPE,
    NO_KEY, RECORD_FIXED, VERSION,
};

/// A batch, borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    header_count: u16,
    header_block: &'a [u8],
    count: u32,
}

impl<'a> Batch<'a> {
    /// Reads a batch and checks all of it.
    ///
    /// # Errors
    ///
    /// The first field that breaks a rule of the format, with its offset.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let batch = Self::open(bytes)?;
        let mut messages = batch.try_messages();
        messages.by_ref().try_for_each(|message| message.map(drop))?;
        messages.finish()?;
        Ok(batch)
    }

    /// Reads a batch and checks its header only. For bytes that were checked before, or that are walked once with
    /// [`Batch::try_messages`].
    ///
    /// # Errors
    ///
    /// The first field of the header or of the batch headers that breaks a rule of the format.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ReadError> {
        if !is_batch(bytes) {
            return Err(at(0, Field::Magic, Problem::NotABatch));
        }
        let fixed: &[u8; BATCH_FIXED] = bytes
            .first_chunk()
            .ok_or_else(|| truncated(0, Field::BatchHeader, BATCH_FIXED, bytes.len()))?;
        expect(4, Field::Version, usize::from(fixed[4]), usize::from(VERSION))?;
        expect(5, Field::Flags, usize::from(fixed[5]), 0)?;
        let header_count = u16::from_le_bytes([fixed[6], fixed[7]]);
        let count = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        let total = size(u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]));
        let block = size(u32::from_le_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]));

        bound(12, Field::TotalLength, total, MAX_BATCH_BYTES)?;
        expect(12, Field::TotalLength, total, bytes.len())?;
        bound(16, Field::HeaderBlockLength, block, MAX_HEADER_BLOCK)?;
        let left = bytes.len() - BATCH_FIXED;
        let header_block = bytes
            .get(BATCH_FIXED..BATCH_FIXED + block)
            .ok_or_else(|| truncated(16, Field::HeaderBlockLength, block, left))?;
        bound(8, Field::MessageCount, size(count), (left - block) / RECORD_FIXED)?;

        let batch = Self { bytes, header_count, header_block, count };
        check_headers(header_block, header_count, BATCH_FIXED)?;
        Ok(batch)
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        size(self.count)
    }

    /// Whether there is no message: a probe.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The whole batch.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The batch headers, in the order they were written.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.header_block, left: self.header_count }
    }

    /// Value of the first batch header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The messages. After [`Batch::parse`] all of them; after [`Batch::open`] those before the first damaged record.
    #[must_use]
    pub fn messages(&self) -> Messages<'a> {
        Messages(self.try_messages())
    }

    /// The messages, each checked as it is read. Ends after the first error.
    #[must_use]
    pub fn try_messages(&self) -> TryMessages<'a> {
        TryMessages { rest: self.records(), offset: self.records_at(), left: self.count }
    }

    pub(crate) fn records(&self) -> &'a [u8] {
        self.bytes.get(self.records_at()..).unwrap_or_default()
    }

    fn records_at(&self) -> usize {
        BATCH_FIXED + self.header_block.len()
    }
}

/// The messages of a checked batch.
#[derive(Debug, Clone)]
pub struct Messages<'a>(TryMessages<'a>);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()?.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// The messages of a batch, each checked as it is read.
#[derive(Debug, Clone)]
pub struct TryMessages<'a> {
    rest: &'a [u8],
    offset: usize,
    left: u32,
}

impl TryMessages<'_> {
    /// Checks that nothing follows the last message. For use when the iterator has ended.
    ///
    /// # Errors
    ///
    /// Bytes after the last record.
    pub fn finish(&self) -> Result<(), ReadError> {
        if self.left == 0 && !self.rest.is_empty() {
            let total = self.offset + self.rest.len();
            return Err(at(
                12,
                Field::TotalLength,
                Problem::Mismatch { found: total, expected: self.offset },
            ));
        }
        Ok(())
    }
}

impl<'a> Iterator for TryMessages<'a> {
    type Item = Result<Message<'a>, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let message = Message::read(self.rest, self.offset);
        match &message {
            Ok(message) => {
                self.rest = self.rest.get(message.record.len()..).unwrap_or_default();
                self.offset += message.record.len();
            }
            Err(_) => self.left = 0,
        }
        Some(message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(size(self.left)))
    }
}

/// One message, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Event time, nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// Topic.
    pub topic: &'a str,
    /// Content type of the payload.
    pub content_type: Option<&'a str>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload.
    pub payload: &'a [u8],
    headers: &'a [u8],
    header_count: u16,
    record: &'a [u8],
}

impl<'a> Message<'a> {
    #[inline]
    fn read(bytes: &'a [u8], offset: usize) -> Result<Self, ReadError> {
        let fixed: &[u8; RECORD_FIXED] = bytes
            .first_chunk()
            .ok_or_else(|| truncated(offset, Field::Record, RECORD_FIXED, bytes.len()))?;
        let length = size(u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]));
        let timestamp = u64::from_le_bytes([
            fixed[4], fixed[5], fixed[6], fixed[7], fixed[8], fixed[9], fixed[10], fixed[11],
        ]);
        let topic = usize::from(u16::from_le_bytes([fixed[12], fixed[13]]));
        let header_count = u16::from_le_bytes([fixed[14], fixed[15]]);
        let content_type = u16::from_le_bytes([fixed[16], fixed[17]]);
        let reserved = u16::from_le_bytes([fixed[18], fixed[19]]);
        let key = u32::from_le_bytes([fixed[20], fixed[21], fixed[22], fixed[23]]);
        let payload = size(u32::from_le_bytes([fixed[24], fixed[25], fixed[26], fixed[27]]));

        expect(offset + 18, Field::Reserved, usize::from(reserved), 0)?;
        let record = bytes
            .get(..length)
            .ok_or_else(|| truncated(offset, Field::RecordLength, length, bytes.len()))?;
        let mut rest = Cursor { bytes: record, at: 0, offset };
        rest.take(RECORD_FIXED, Field::RecordLength)?;
        let topic = rest.text(topic, Field::Topic)?;
        let content_type = match content_type {
            NO_CONTENT_TYPE => None,
            length => Some(rest.text(usize::from(length), Field::ContentType)?),
        };
        let key = match key {
            NO_KEY => None,
            length => Some(rest.take(size(length), Field::Key)?),
        };
        let headers = rest.headers(header_count)?;
        let payload = rest.take(payload, Field::Payload)?;
        expect(offset, Field::RecordLength, length, rest.at)?;
        Ok(Self { timestamp, topic, content_type, key, payload, headers, header_count, record })
    }

    /// The headers, in the order they were written. A name may occur more than once.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, left: self.header_count }
    }

    /// Value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The bytes of the record: what [`crate::BatchWriter::push_record`] copies.
    #[must_use]
    pub fn record(&self) -> &'a [u8] {
        self.record
    }
}

/// Headers: name and value.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor { bytes: self.rest, at: 0, offset: 0 };
        // Checked when the batch or the message was read.
        let entry = cursor.header().ok()?;
        self.rest = self.rest.get(cursor.at..).unwrap_or_default();
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}

/// A place in a run of bytes that starts at `offset` of the batch.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    offset: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, length: usize, field: Field) -> Result<&'a [u8], ReadError> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(truncated(self.offset + self.at, field, length, left));
        }
        // In range by the check above; `get` because the lints forbid what could panic.
        let taken = self.bytes.get(self.at..self.at + length).unwrap_or_default();
        self.at += length;
        Ok(taken)
    }

    #[inline]
    fn text(&mut self, length: usize, field: Field) -> Result<&'a str, ReadError> {
        let start = self.offset + self.at;
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes).map_err(|_| at(start, field, Problem::NotUtf8))
    }

    fn header(&mut self) -> Result<(&'a str, &'a str), ReadError> {
        let start = self.offset + self.at;
        let fixed = self.take(HEADER_FIXED, Field::Header)?;
        let fixed: &[u8; HEADER_FIXED] = fixed
            .first_chunk()
            .ok_or_else(|| truncated(start, Field::Header, HEADER_FIXED, fixed.len()))?;
        let name = usize::from(u16::from_le_bytes([fixed[0], fixed[1]]));
        let value = size(u32::from_le_bytes([fixed[2], fixed[3], fixed[4], fixed[5]]));
        Ok((self.text(name, Field::HeaderName)?, self.text(value, Field::HeaderValue)?))
    }

    #[inline]
    fn headers(&mut self, count: u16) -> Result<&'a [u8], ReadError> {
        let start = self.at;
        for _ in 0..count {
            self.header()?;
        }
        Ok(self.bytes.get(start..self.at).unwrap_or_default())
    }
}

fn check_headers(block: &[u8], count: u16, offset: usize) -> Result<(), ReadError> {
    let mut cursor = Cursor { bytes: block, at: 0, offset };
    cursor.headers(count)?;
    expect(16, Field::HeaderBlockLength, block.len(), cursor.at)
}

/// A length from the wire. `usize` has at least 32 bits on every target of this crate.
#[inline]
fn size(length: u32) -> usize {
    length as usize
}

#[inline]
fn expect(offset: usize, field: Field, found: usize, expected: usize) -> Result<(), ReadError> {
    if found == expected {
        return Ok(());
    }
    Err(at(offset, field, Problem::Mismatch { found, expected }))
}

#[inline]
fn bound(offset: usize, field: Field, found: usize, most: usize) -> Result<(), ReadError> {
    if found <= most {
        return Ok(());
    }
    Err(at(offset, field, Problem::TooLarge { found, most }))
}

#[cold]
fn truncated(offset: usize, field: Field, needed: usize, left: usize) -> ReadError {
    at(offset, field, Problem::Truncated { needed, left })
}

fn at(offset: usize, field: Field, problem: Problem) -> ReadError {
    ReadError { offset, field, problem }
}
