//! The batch format: many messages in one body.
//!
//! A call over the lattice costs about the same whatever it carries, so messages travel packed. This crate is the one
//! place that knows the bytes. It exists apart because the same code runs in the wasm harness and in the native
//! providers. The format is written down in `docs/batch-format.md`; the files under `vectors/` pin it.
//!
//! Reading copies nothing: a [`Message`] borrows from the body, and keeps the bytes of its record, so that a filter
//! copies a record instead of packing it anew.
//!
//! ```
//! use millrace_batch::{Batch, BatchWriter, Fields};
//!
//! let mut writer = BatchWriter::new([("id", "01J")])?;
//! writer.push(&Fields { timestamp: 1, topic: "plant/press-1", ..Fields::default() }, [("unit", "C")])?;
//! let bytes = writer.finish();
//!
//! let batch = Batch::parse(&bytes)?;
//! assert_eq!(batch.header("id"), Some("01J"));
//! assert_eq!(batch.messages().map(|message| message.topic).collect::<Vec<_>>(), ["plant/press-1"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod layout;
mod owned;
mod read;
mod rewrite;
mod write;

pub use error::{Field, Problem, ReadError, WriteError};
pub use layout::{is_batch, MAGIC, MAX_BATCH_BYTES, MAX_HEADER_BLOCK, MAX_NAME, VERSION};
pub use owned::OwnedMessage;
pub use read::{Batch, Headers, Message, Messages, TryMessages};
pub use rewrite::{wrap_raw, Halves, ARM, ENTER, ID, PROBE};
pub use write::{BatchWriter, Fields, Mark};
