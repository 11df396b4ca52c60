//! Operators that need no code of the customer.
//!
//! Two keep a state for each key. They are pure functions, as `millrace-window` says of every step with state: of a document and the messages of a call they
//! make a verdict on each message and the next document. A call that is made again gives the same.
//!
//! - [`Dedup`]: drops what has come before
//! - [`Throttle`]: lets so many messages of a key through in a time
//!
//! Neither refuses a message for want of room: when a document is full, what would be forgotten first is, and then a message
//! more goes on than would have. [`Enrich`] has no state: it adds to a message what was looked up for it. [`identity`] says what of a message makes it the same as another.

mod dedup;
mod enrich;
pub mod identity;
mod throttle;

pub use dedup::{Dedup, Verdict};
pub use enrich::{By, Enrich, Enriched, Into, Missing, PlaceError};
pub use identity::{Identity, IdentityError};
pub use throttle::Throttle;

use millrace_window::{Document, DocumentError, Entry};

/// Why a batch came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The document cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Who takes the messages failed the batch with this answer.
    #[error("{0}")]
    Answer(String),
}

/// The entries that are not over, and none of them further ahead than one of now would be: a clock that was ahead for a while
/// leaves nothing that stays for as long.
fn current(document: &Document, now: u64, most: u64) -> Vec<Entry<'_>> {
    let entries = document.entries().filter(|entry| entry.end > now);
    entries
        .map(|entry| Entry {
            start: entry.start.min(now),
            end: entry.end.min(now.saturating_add(most)),
            ..entry
        })
        .collect()
}
