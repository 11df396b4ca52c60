//! Dead letters: the message as the step saw it, with why it is here.

use bytes::Bytes;

use crate::link::LinkNames;
use crate::packed::{Packed, TRACEPARENT};

/// What the names of all these headers begin with. They belong to the platform, and are no part of the message.
pub const PREFIX: &str = "millrace-dead-";
/// Header of a dead letter: the pipeline.
pub const PIPELINE: &str = "millrace-dead-pipeline";
/// Header of a dead letter: the stage that was called.
pub const STAGE: &str = "millrace-dead-stage";
/// Header of a dead letter: the step that refused it. Where a stage or a connector did, there is none.
pub const STEP: &str = "millrace-dead-step";
/// Header of a dead letter: why, one of a few words.
pub const KIND: &str = "millrace-dead-kind";
/// Header of a dead letter: the number of the last attempt.
pub const ATTEMPT: &str = "millrace-dead-attempt";
/// Header of a dead letter: what the step or the caller said.
pub const TEXT: &str = "millrace-dead-text";
/// Header of a dead letter: when it was written, RFC 3339.
pub const TIME: &str = "millrace-dead-time";

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadKind {
    /// A step asked for a retry as often as was allowed.
    Retry,
    /// The stage traps with this message, and only with it.
    Trap,
    /// The stage does not answer with this message, and only with it.
    Timeout,
    /// The body is no batch the stage can read.
    Batch,
    /// The sink can never write the message: no topic can be made for it.
    InvalidArgument,
    /// The step it is of is not granted what the message is for.
    Refused,
}

impl DeadKind {
    /// The word in the header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Batch => "batch",
            Self::InvalidArgument => "invalid-argument",
            Self::Refused => "refused",
        }
    }
}

/// Packs a batch's messages (one, except for an unreadable body) as dead
/// letters. The caller does not know which step it was: a trap names none.
///
/// # Errors
///
/// When the message with its new headers does not fit into the format.
pub fn letter(
    batch: &Packed,
    names: &LinkNames,
    kind: DeadKind,
    attempt: u32,
    text: &str,
) -> Result<Bytes, millrace_batch::WriteError> {
    let attempt = attempt.to_string();
    let id = format!("{}/dead/{}", batch.id().unwrap_or("unknown"), names.stage);
    let mut set = Vec::with_capacity(2);
    // Without an id of its own the letter must not be taken for another one.
    if batch.id().is_some() {
        set.push((millrace_batch::ID, id.as_str()));
    }
    if let Some(trace) = batch.traceparent() {
        set.push((TRACEPARENT, trace));
    }
    let headers = [
        (PIPELINE, names.pipeline.as_str()),
        (STAGE, names.stage.as_str()),
        (KIND, kind.name()),
        (ATTEMPT, attempt.as_str()),
        (TEXT, text),
    ];
    batch.annotated(&set, &headers)
}
