//! One message after the other. The rules are those of docs/architecture.md: a rejected message costs only itself, a
//! `retry` or a failed `init` costs the call.

#[cfg(not(feature = "keyed"))]
use crate::bindings::millrace::step::types::Error;
#[cfg(not(any(feature = "keyed", feature = "enrich")))]
use crate::kind;
#[cfg(not(any(feature = "state", feature = "enrich")))]
use crate::letters::Letters;
use crate::settings::Settings;
use millrace_batch::{Batch, BatchWriter, Fields, Message, WriteError};
#[cfg(not(feature = "keyed"))]
use millrace_grants::AWAY;
#[cfg(feature = "state")]
pub use millrace_window::{own_headers as headers, Failure};

/// Room that the outlet may need for a longer id.
const ID_ROOM: usize = 256;

/// What a failed message means.
#[cfg(not(feature = "state"))]
pub enum Failure {
    /// This message is rejected, with kind and text.
    Reject { kind: &'static str, text: String },
    /// The whole call fails, with this answer.
    Fail(String),
}

#[cfg(not(feature = "keyed"))]
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidArgument(text) => Self::Reject { kind: "invalid-argument", text },
            Error::Internal(text) => Self::Reject { kind: "internal", text },
            Error::Retry(text) => {
                // Of what lies outside of the step, as of what lies behind its stage: it is waited for.
                let (kind, text) = match text.strip_prefix(AWAY) {
                    Some(text) => ("downstream", text),
                    None => ("retry", text.as_str()),
                };
                Self::Fail(format!("{kind}: {}", crate::letters::shorten(text)))
            }
        }
    }
}

/// The batch headers that go on: all, but in a step with state those about the state.
#[cfg(not(feature = "state"))]
pub fn headers<'a>(batch: &Batch<'a>) -> millrace_batch::Headers<'a> {
    batch.headers()
}

/// Runs the step over the batch: the output, and the rejected messages.
#[cfg(not(any(feature = "state", feature = "enrich")))]
pub fn run<'a>(
    batch: &Batch<'a>,
    settings: &'a Settings,
) -> Result<(Vec<u8>, Letters<'a>), String> {
    init(settings)?;
    let mut output = Output::new(batch, settings).map_err(|error| format!("batch: {error}"))?;
    let mut letters = Letters::new(*batch, settings);
    for message in batch.try_messages() {
        let message = message.map_err(|error| format!("batch: {error}"))?;
        let before = output.mark();
        match kind::call(&message, &mut output) {
            Ok(()) => {}
            Err(Failure::Fail(answer)) => return Err(answer),
            Err(Failure::Reject { kind, text }) => {
                output.rewind(before);
                letters.push(&message, kind, &text)?;
            }
        }
    }
    Ok((output.finish(), letters))
}

/// Tells the step its configuration.
#[cfg(not(any(feature = "keyed", feature = "enrich")))]
pub fn init(settings: &Settings) -> Result<(), String> {
    kind::init(&settings.configuration()).map_err(|error| {
        let (Error::InvalidArgument(text) | Error::Internal(text) | Error::Retry(text)) = error;
        format!("config: init of step {}: {}", settings.step(), crate::letters::shorten(&text))
    })
}

/// The batch being made.
pub struct Output<'a> {
    writer: BatchWriter,
    settings: &'a Settings,
    /// Greatest record that still fits into a body, in bytes.
    #[cfg_attr(feature = "filter", allow(dead_code, reason = "a filter returns no messages"))]
    max_record: usize,
}

#[allow(
    dead_code,
    reason = "a filter keeps messages, the other kinds push them; only some have arms"
)]
impl<'a> Output<'a> {
    /// An empty batch with the batch headers of the input.
    pub fn new(batch: &Batch<'_>, settings: &'a Settings) -> Result<Self, WriteError> {
        let writer = BatchWriter::with_capacity(headers(batch), batch.bytes().len())?;
        let max_record = settings.max_body().saturating_sub(writer.byte_len() + ID_ROOM);
        Ok(Self { writer, settings, max_record })
    }

    /// The arms of the step.
    pub fn arms(&self) -> impl Iterator<Item = &'a str> {
        self.settings.arms()
    }

    /// Adds a message that a step returned.
    #[inline]
    pub fn push<'h>(
        &mut self,
        fields: &Fields<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<(), Failure> {
        let before = self.writer.byte_len();
        self.writer.push(fields, headers).map_err(refused)?;
        let bytes = self.writer.byte_len() - before;
        if bytes > self.max_record {
            let most = self.max_record;
            let text = format!(
                "the step returned a message of {bytes} bytes, at most {most} can be sent on"
            );
            return Err(Failure::Reject { kind: "internal", text });
        }
        Ok(())
    }

    /// Adds a message as it came.
    #[inline]
    pub fn keep(&mut self, message: &Message<'_>) -> Result<(), Failure> {
        self.writer.push_record(message).map_err(refused)
    }

    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    /// Where the output is now.
    pub fn mark(&self) -> millrace_batch::Mark {
        self.writer.mark()
    }

    /// Takes back what was added since.
    pub fn rewind(&mut self, mark: millrace_batch::Mark) {
        self.writer.rewind(mark);
    }

    /// The finished batch.
    pub fn finish(self) -> Vec<u8> {
        self.writer.finish()
    }
}

fn refused(error: WriteError) -> Failure {
    let text = format!("what the step returned cannot be sent on: {error}");
    Failure::Reject { kind: "internal", text }
}
