//! One dead letter: the message, and why it is here.

use chrono::{DateTime, SecondsFormat, Utc};
use millrace_batch::Message;
use millrace_kit::dead::{ATTEMPT, KIND, PREFIX, STAGE, STEP, TEXT, TIME};
use serde::Serialize;

use super::store::Kept;

/// A letter as it was read, borrowed from its batch.
#[derive(Debug, Clone)]
pub(crate) struct Letter<'a> {
    /// Number of its batch in the stream.
    pub(crate) seq: u64,
    /// Its place in that batch.
    pub(crate) place: usize,
    /// When it was written.
    pub(crate) time: DateTime<Utc>,
    /// The stage whose step, or whose link, refused it.
    pub(crate) stage: &'a str,
    /// The step that refused it, where it was a step.
    pub(crate) step: Option<&'a str>,
    /// Why, in a word.
    pub(crate) kind: Option<&'a str>,
    /// How often it had been tried.
    pub(crate) attempt: Option<u32>,
    /// Why.
    pub(crate) text: &'a str,
    /// The message, with the headers of all this.
    pub(crate) message: Message<'a>,
}

impl<'a> Letter<'a> {
    /// Reads the letter at a place of what the stream keeps.
    pub(crate) fn read(kept: &'a Kept, place: usize, message: Message<'a>) -> Self {
        let time = message.header(TIME).and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        Self {
            seq: kept.seq,
            place,
            time: time.map_or(kept.time, |time| time.to_utc()),
            // A letter that had no room for its headers still has its subject.
            stage: message.header(STAGE).unwrap_or_else(|| kept.stage()),
            step: message.header(STEP),
            kind: message.header(KIND),
            attempt: message.header(ATTEMPT).and_then(|number| number.parse().ok()),
            text: message.header(TEXT).unwrap_or_default(),
            message,
        }
    }

    /// The key for people: its text, or hexadecimal numbers where it is none that can be written.
    pub(crate) fn key(&self) -> Option<String> {
        let key = self.message.key?;
        let text = text_of(key).filter(|text| !text.chars().any(char::is_control));
        Some(text.map_or_else(|| hex(key), str::to_owned))
    }

    /// The time for people and programs.
    pub(crate) fn written(&self) -> String {
        self.time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// The message's own headers.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.message.headers().filter(|(name, _)| !name.starts_with(PREFIX))
    }

    /// Bytes of the payload.
    pub(crate) fn size(&self) -> usize {
        self.message.payload.len()
    }

    /// What programs are told of it.
    pub(crate) fn described(&self) -> Described<'a> {
        Described {
            seq: self.seq,
            place: self.place,
            time: self.written(),
            stage: self.stage,
            step: self.step,
            kind: self.kind,
            attempt: self.attempt,
            topic: self.message.topic,
            key: self.key(),
            bytes: self.size(),
            text: self.text,
        }
    }

    /// The same, with the message.
    pub(crate) fn whole(&self) -> Whole<'a> {
        let payload = text_of(self.message.payload);
        Whole {
            letter: self.described(),
            timestamp_ns: self.message.timestamp,
            content_type: self.message.content_type,
            headers: self.headers().collect(),
            payload,
            payload_hex: payload.is_none().then(|| hex(self.message.payload)),
        }
    }
}

/// A letter as a line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Described<'a> {
    seq: u64,
    place: usize,
    time: String,
    stage: &'a str,
    step: Option<&'a str>,
    kind: Option<&'a str>,
    attempt: Option<u32>,
    topic: &'a str,
    key: Option<String>,
    bytes: usize,
    text: &'a str,
}

/// A letter with its message as a line of JSON. A payload that is no text is written in hexadecimal numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Whole<'a> {
    #[serde(flatten)]
    letter: Described<'a>,
    timestamp_ns: u64,
    content_type: Option<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Bytes as hexadecimal numbers.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
