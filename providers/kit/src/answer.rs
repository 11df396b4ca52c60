//! What a stage answers, and what that means for the batch.
//!
//! The kinds are those of the architecture's "What a stage answers". They are
//! few on purpose: a kind exists only where the caller does something
//! different.

use std::time::Duration;

/// Longest error text kept, in bytes. A stage is not trusted to be brief.
const TEXT_MAX: usize = 1_024;

/// Why a call to a stage did not end with ok.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A step asked for the call to be made again.
    #[error("retry: {0}")]
    Retry(String),
    /// The stage could not hand on its output.
    #[error("downstream: {0}")]
    Downstream(String),
    /// The stage is not configured, or a step refused its configuration.
    #[error("config: {0}")]
    Config(String),
    /// The stage could not read the batch.
    #[error("batch: {0}")]
    Batch(String),
    /// The call ended without an answer: a trap, an exhausted time or memory
    /// limit, or an import that failed below the stage.
    #[error("trap: {0}")]
    Trap(String),
    /// No answer within the time given.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Nobody listens for calls to this stage, or the call could not be sent.
    #[error("stage away: {0}")]
    Away(String),
}

impl CallError {
    /// Reads the error string of a stage, `<kind>: <text>`. A string of
    /// another form is from a component that is not ours, which can only ask
    /// for a retry: nothing in the string says whose fault it was.
    #[must_use]
    pub fn from_answer(answer: &str) -> Self {
        let (kind, text) = answer.split_once(':').unwrap_or(("", answer));
        let text = bounded(text.trim());
        match kind {
            "downstream" => Self::Downstream(text),
            "config" => Self::Config(text),
            "batch" => Self::Batch(text),
            "retry" => Self::Retry(text),
            _ => Self::Retry(bounded(answer.trim())),
        }
    }

    /// The kind, for counters.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Retry(_) => ErrorKind::Retry,
            Self::Downstream(_) => ErrorKind::Downstream,
            Self::Config(_) => ErrorKind::Config,
            Self::Batch(_) => ErrorKind::Batch,
            Self::Trap(_) => ErrorKind::Trap,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Away(_) => ErrorKind::Away,
        }
    }
}

/// `text` cut at a character boundary to what is kept of an error text.
#[must_use]
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// The kinds of errors that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum ErrorKind {
    /// A step asked for a retry.
    Retry,
    /// A publish was refused or not answered.
    Downstream,
    /// Configuration missing or refused.
    Config,
    /// A batch that cannot be read.
    Batch,
    /// A call that ended without an answer.
    Trap,
    /// A call that was not answered in time.
    Timeout,
    /// A stage nobody answers for.
    Away,
    /// The connection to the outside: broker, device, JetStream.
    Connection,
}

impl ErrorKind {
    /// Every kind, in the order of its counter.
    pub const ALL: [Self; 8] = [
        Self::Retry,
        Self::Downstream,
        Self::Config,
        Self::Batch,
        Self::Trap,
        Self::Timeout,
        Self::Away,
        Self::Connection,
    ];

    /// The name as it is in status and dead letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Downstream => "downstream",
            Self::Config => "config",
            Self::Batch => "batch",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Away => "away",
            Self::Connection => "connection",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        assert_eq!(CallError::from_answer("retry: later"), CallError::Retry("later".into()));
        assert_eq!(
            CallError::from_answer("downstream: edge a.b is full"),
            CallError::Downstream("edge a.b is full".into())
        );
        assert_eq!(
            CallError::from_answer("config: no out-subject"),
            CallError::Config("no out-subject".into())
        );
        assert_eq!(
            CallError::from_answer("batch: cut short"),
            CallError::Batch("cut short".into())
        );
    }

    #[test]
    fn a_string_of_another_form_is_a_retry_with_all_its_text() {
        assert_eq!(CallError::from_answer("boom"), CallError::Retry("boom".into()));
        assert_eq!(
            CallError::from_answer("io error: gone"),
            CallError::Retry("io error: gone".into())
        );
        assert_eq!(CallError::from_answer(""), CallError::Retry(String::new()));
    }

    #[test]
    fn text_is_bounded_at_a_character() {
        let long = format!("retry: {}", "ä".repeat(5_000));
        let CallError::Retry(text) = CallError::from_answer(&long) else { panic!("kind") };
        assert_eq!(text.len(), TEXT_MAX);
        assert!(text.chars().all(|c| c == 'ä'));
    }

    #[test]
    fn counters_have_one_place_a_kind() {
        for (place, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }
}
