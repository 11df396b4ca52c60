//! Sizes and marks of the format, shared by reader and writer so that they cannot drift apart.

/// First four bytes of a batch. `0xD6` starts no UTF-8 text that goes on with `M`, so a text body is never a batch.
pub const MAGIC: [u8; 4] = [0xD6, b'M', b'R', b'B'];

/// The version this crate writes, and the only one it reads.
pub const VERSION: u8 = 1;

/// Greatest size of a batch in bytes, header included.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Greatest size in bytes of the batch headers taken together.
pub const MAX_HEADER_BLOCK: usize = 64 * 1024;

/// Greatest length in bytes of a topic, a content type or a header's name.
pub const MAX_NAME: usize = 0xFFFE;

/// Bytes of the fixed part of a batch.
pub(crate) const BATCH_FIXED: usize = 20;

/// Bytes of the fixed part of a record.
pub(crate) const RECORD_FIXED: usize = 28;

/// Bytes of the fixed part of a header entry.
pub(crate) const HEADER_FIXED: usize = 6;

/// Content-type length that means "no content type".
pub(crate) const NO_CONTENT_TYPE: u16 = u16::MAX;

/// Key length that means "no key".
pub(crate) const NO_KEY: u32 = u32::MAX;

/// Whether a body claims to be a batch: it starts with [`MAGIC`]. Any other body is one raw message.
#[must_use]
pub fn is_batch(body: &[u8]) -> bool {
    body.starts_with(&MAGIC)
}
