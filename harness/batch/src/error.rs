//! What can be wrong with a batch. Every error of the reader names the byte and the field, because the sender is
//! often a program in another language.

use std::fmt;

/// Why a body could not be read as a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}, {field}: {problem}")]
pub struct ReadError {
    /// Where the field starts, counted from the start of the batch.
    pub offset: usize,
    /// The field that is wrong.
    pub field: Field,
    /// What is wrong with it.
    pub problem: Problem,
}

/// The fields of a batch, as `docs/batch-format.md` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The magic bytes.
    Magic,
    /// The fixed part of the batch header.
    BatchHeader,
    /// The version.
    Version,
    /// The flags.
    Flags,
    /// Length of the whole batch.
    TotalLength,
    /// Length of the block of batch headers.
    HeaderBlockLength,
    /// An entry of the batch headers, or of a message's headers.
    Header,
    /// Name of a header.
    HeaderName,
    /// Value of a header.
    HeaderValue,
    /// Number of messages.
    MessageCount,
    /// The fixed part of a record.
    Record,
    /// Length of a record.
    RecordLength,
    /// The two reserved bytes of a record.
    Reserved,
    /// Topic of a message.
    Topic,
    /// Content type of a message.
    ContentType,
    /// Key of a message.
    Key,
    /// Payload of a message.
    Payload,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "magic",
            Self::BatchHeader => "batch header",
            Self::Version => "version",
            Self::Flags => "flags",
            Self::TotalLength => "total length",
            Self::HeaderBlockLength => "header block length",
            Self::Header => "header",
            Self::HeaderName => "header name",
            Self::HeaderValue => "header value",
            Self::MessageCount => "message count",
            Self::Record => "record",
            Self::RecordLength => "record length",
            Self::Reserved => "reserved",
            Self::Topic => "topic",
            Self::ContentType => "content type",
            Self::Key => "key",
            Self::Payload => "payload",
        })
    }
}

/// What is wrong with a field. Numbers are bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The field does not fit into what is left.
    #[error("needs {needed} bytes, {left} are left")]
    Truncated {
        /// Length the field claims.
        needed: usize,
        /// Bytes left for it.
        left: usize,
    },
    /// A number is not the one it has to be.
    #[error("is {found}, expected {expected}")]
    Mismatch {
        /// The number found.
        found: usize,
        /// The number that would be right.
        expected: usize,
    },
    /// A length is beyond its bound.
    #[error("is {found}, at most {most} is allowed")]
    TooLarge {
        /// The number found.
        found: usize,
        /// The greatest number allowed.
        most: usize,
    },
    /// A string is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The body does not start with the magic bytes.
    #[error("the body is not a batch")]
    NotABatch,
}

/// Why something could not be written into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The batch would grow beyond [`crate::MAX_BATCH_BYTES`].
    #[error("the batch would be {bytes} bytes, at most {} are allowed", crate::MAX_BATCH_BYTES)]
    BatchTooLarge {
        /// Size the batch would have had.
        bytes: usize,
    },
    /// The batch headers are beyond [`crate::MAX_HEADER_BLOCK`].
    #[error(
        "the batch headers are {bytes} bytes, at most {} are allowed",
        crate::MAX_HEADER_BLOCK
    )]
    HeadersTooLarge {
        /// Size of the block of headers.
        bytes: usize,
    },
    /// A topic, content type or header name is longer than [`crate::MAX_NAME`].
    #[error("the {field} is {bytes} bytes, at most {} are allowed", crate::MAX_NAME)]
    NameTooLong {
        /// The field.
        field: Field,
        /// Its length.
        bytes: usize,
    },
    /// More than 65,535 headers.
    #[error("{count} headers, at most 65535 are allowed")]
    TooManyHeaders {
        /// Number of headers.
        count: usize,
    },
}
