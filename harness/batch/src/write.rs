//! The writer. It refuses what the reader would refuse, so whatever it finishes can be read.

use crate::error::{Field, WriteError};
use crate::layout::{
    BATCH_FIXED, HEADER_FIXED, MAGIC, MAX_BATCH_BYTES, MAX_HEADER_BLOCK, MAX_NAME, NO_CONTENT_TYPE,
    NO_KEY, RECORD_FIXED, VERSION,
};
use crate::read::Message;

/// What a message holds besides its headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Event time, nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// Topic, at most [`MAX_NAME`] bytes.
    pub topic: &'a str,
    /// Content type of the payload, at most [`MAX_NAME`] bytes.
    pub content_type: Option<&'a str>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload.
    pub payload: &'a [u8],
}

impl<'a> From<&Message<'a>> for Fields<'a> {
    fn from(message: &Message<'a>) -> Self {
        Self {
            timestamp: message.timestamp,
            topic: message.topic,
            content_type: message.content_type,
            key: message.key,
            payload: message.payload,
        }
    }
}

/// A place in a batch that is being written, to return to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    bytes: usize,
    count: u32,
}

/// Builds a batch. A message that is refused leaves the batch as it was.
#[derive(Debug, Clone)]
pub struct BatchWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl BatchWriter {
    /// Starts a batch with these batch headers.
    ///
    /// # Errors
    ///
    /// [`WriteError::HeadersTooLarge`], [`WriteError::NameTooLong`], [`WriteError::TooManyHeaders`].
    pub fn new<'h>(
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<Self, WriteError> {
        Self::with_capacity(headers, 0)
    }

    /// As [`BatchWriter::new`], with room for `capacity` bytes of records.
    ///
    /// # Errors
    ///
    /// As [`BatchWriter::new`].
    pub fn with_capacity<'h>(
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
        capacity: usize,
    ) -> Result<Self, WriteError> {
        let mut bytes = Vec::with_capacity(BATCH_FIXED + 256 + capacity.min(MAX_BATCH_BYTES));
        bytes.resize(BATCH_FIXED, 0);
        let header_count = put_headers(&mut bytes, headers, BATCH_FIXED + MAX_HEADER_BLOCK)
            .map_err(|error| {
                // The only bound on a batch that has no message yet is that of its headers.
                match error {
                    WriteError::BatchTooLarge { bytes } => {
                        WriteError::HeadersTooLarge { bytes: bytes - BATCH_FIXED }
                    }
                    other => other,
                }
            })?;
        let block = bytes.len() - BATCH_FIXED;
        let mut writer = Self { bytes, count: 0 };
        writer.patch(0, &MAGIC);
        writer.patch(4, &[VERSION, 0]);
        writer.patch(6, &header_count.to_le_bytes());
        writer.patch(16, &length(block));
        Ok(writer)
    }

    /// Appends a message.
    ///
    /// # Errors
    ///
    /// [`WriteError::BatchTooLarge`], [`WriteError::NameTooLong`], [`WriteError::TooManyHeaders`].
    #[inline]
    pub fn push<'h>(
        &mut self,
        message: &Fields<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<(), WriteError> {
        let start = self.bytes.len();
        let result = self.put_message(message, headers);
        if result.is_err() {
            self.bytes.truncate(start);
        } else {
            self.count += 1;
        }
        result
    }

    /// Appends a message of another batch as it is, by copying its record.
    ///
    /// # Errors
    ///
    /// [`WriteError::BatchTooLarge`].
    #[inline]
    pub fn push_record(&mut self, message: &Message<'_>) -> Result<(), WriteError> {
        self.room(message.record().len())?;
        self.bytes.extend_from_slice(message.record());
        self.count += 1;
        Ok(())
    }

    /// Appends records that were checked as part of a batch.
    pub(crate) fn push_checked(&mut self, records: &[u8], count: u32) -> Result<(), WriteError> {
        self.room(records.len())?;
        self.bytes.extend_from_slice(records);
        self.count += count;
        Ok(())
    }

    /// Where the batch is now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), count: self.count }
    }

    /// Takes back every message since this writer's mark.
    pub fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.count = self.count.min(mark.count);
    }

    /// Number of messages so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no message yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch so far, in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished batch.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let total = length(self.bytes.len());
        let count = self.count.to_le_bytes();
        self.patch(8, &count);
        self.patch(12, &total);
        self.bytes
    }

    #[inline]
    fn put_message<'h>(
        &mut self,
        message: &Fields<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<(), WriteError> {
        let topic = name_length(message.topic, Field::Topic)?;
        let content_type = match message.content_type {
            None => NO_CONTENT_TYPE,
            Some(text) => name_length(text, Field::ContentType)?,
        };
        let content_bytes = message.content_type.unwrap_or_default().as_bytes();
        let key = message.key.unwrap_or_default();
        let body = message.topic.len() + content_bytes.len() + key.len() + message.payload.len();
        self.room(RECORD_FIXED + body)?;

        let start = self.bytes.len();
        let mut fixed = [0; RECORD_FIXED];
        fixed[4..12].copy_from_slice(&message.timestamp.to_le_bytes());
        fixed[12..14].copy_from_slice(&topic.to_le_bytes());
        fixed[16..18].copy_from_slice(&content_type.to_le_bytes());
        let key_length =
            if message.key.is_some() { length(key.len()) } else { NO_KEY.to_le_bytes() };
        fixed[20..24].copy_from_slice(&key_length);
        fixed[24..28].copy_from_slice(&length(message.payload.len()));
        self.bytes.reserve(RECORD_FIXED + body);
        self.bytes.extend_from_slice(&fixed);
        self.bytes.extend_from_slice(message.topic.as_bytes());
        self.bytes.extend_from_slice(content_bytes);
        self.bytes.extend_from_slice(key);
        let header_count = put_headers(&mut self.bytes, headers, MAX_BATCH_BYTES)?;
        self.room(message.payload.len())?;
        self.bytes.extend_from_slice(message.payload);

        let record = length(self.bytes.len() - start);
        self.patch(start, &record);
        self.patch(start + 14, &header_count.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn room(&self, more: usize) -> Result<(), WriteError> {
        let bytes = self.bytes.len().saturating_add(more);
        if bytes > MAX_BATCH_BYTES {
            return Err(WriteError::BatchTooLarge { bytes });
        }
        Ok(())
    }

    #[inline]
    fn patch(&mut self, at: usize, with: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + with.len()) {
            place.copy_from_slice(with);
        }
    }
}

/// Appends headers while the whole stays within `most` bytes, and says how many there were.
fn put_headers<'h>(
    bytes: &mut Vec<u8>,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    most: usize,
) -> Result<u16, WriteError> {
    let mut count: usize = 0;
    for (name, value) in headers {
        let name_length = name_length(name, Field::HeaderName)?;
        let grown =
            bytes.len().saturating_add(HEADER_FIXED + name.len()).saturating_add(value.len());
        if grown > most {
            return Err(WriteError::BatchTooLarge { bytes: grown });
        }
        bytes.extend_from_slice(&name_length.to_le_bytes());
        bytes.extend_from_slice(&length(value.len()));
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        count += 1;
    }
    u16::try_from(count).map_err(|_| WriteError::TooManyHeaders { count })
}

fn name_length(text: &str, field: Field) -> Result<u16, WriteError> {
    match u16::try_from(text.len()) {
        Ok(length) if usize::from(length) <= MAX_NAME => Ok(length),
        _ => Err(WriteError::NameTooLong { field, bytes: text.len() }),
    }
}

/// A length for the wire. Everything that is written is bounded by [`MAX_BATCH_BYTES`], so nothing is cut off.
#[inline]
fn length(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_le_bytes()
}
