//! Rejected messages: each as the step saw it, with headers that say who rejected it and why.

use crate::run::headers;
use crate::settings::Settings;
use millrace_batch::{Batch, BatchWriter, Fields, Message, WriteError};

/// Bytes of a step's error text that are kept.
const MAX_TEXT: usize = 1024;

/// Headers of this prefix belong to the platform; those of an earlier death are replaced.
const PREFIX: &str = "millrace-dead-";

/// The rejected messages of one batch at one step.
pub struct Letters<'a> {
    batch: Batch<'a>,
    settings: &'a Settings,
    /// Made at the first rejected message: most batches have none.
    writer: Option<BatchWriter>,
    first: String,
}

impl<'a> Letters<'a> {
    pub fn new(batch: Batch<'a>, settings: &'a Settings) -> Self {
        Self { batch, settings, writer: None, first: String::new() }
    }

    /// Adds a message. The error is the answer to the whole call: a batch whose rejected messages cannot be kept must not
    /// be acknowledged.
    pub fn push(&mut self, message: &Message<'_>, kind: &str, text: &str) -> Result<(), String> {
        self.push_made(&Fields::from(message), message.headers(), kind, text)
    }

    /// Adds what is not a message of the batch.
    pub fn push_made<'h>(
        &mut self,
        fields: &Fields<'_>,
        own: impl Iterator<Item = (&'h str, &'h str)>,
        kind: &str,
        text: &str,
    ) -> Result<(), String> {
        let text = shorten(text);
        if self.writer.is_none() {
            self.first = format!("{kind}: {text}");
        }
        self.write(fields, own, kind, text)
            .map_err(|error| format!("batch: a rejected message cannot be kept: {error}"))
    }

    fn write<'h>(
        &mut self,
        fields: &Fields<'_>,
        own: impl Iterator<Item = (&'h str, &'h str)>,
        kind: &str,
        text: &str,
    ) -> Result<(), WriteError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(BatchWriter::new(headers(&self.batch))?),
        };
        let added = [
            ("millrace-dead-pipeline", self.settings.pipeline()),
            ("millrace-dead-stage", self.settings.stage()),
            ("millrace-dead-step", self.settings.step()),
            ("millrace-dead-kind", kind),
            ("millrace-dead-attempt", self.batch.header("attempt").unwrap_or("1")),
            ("millrace-dead-text", text),
        ];
        let mut headers: Vec<(&str, &str)> =
            own.filter(|(name, _)| !name.starts_with(PREFIX)).collect();
        headers.extend(added);
        writer.push(fields, headers)
    }

    /// Number of messages.
    pub fn count(&self) -> usize {
        self.writer.as_ref().map_or(0, BatchWriter::len)
    }

    /// Why the first was rejected.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The messages as a batch, if there are any.
    pub fn finish(self) -> Option<Vec<u8>> {
        self.writer.map(BatchWriter::finish)
    }
}

/// The first bytes of a text, cut between characters.
pub fn shorten(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}
