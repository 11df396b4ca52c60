//! What makes two messages the same.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use millrace_batch::Message;
use serde_json::Value;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Most parts of an identity.
pub const PARTS_MAX: usize = 16;

/// Longest part of an identity, in bytes.
pub const PART_MAX: usize = 200;

/// Bytes of an id.
pub(crate) const ID: usize = 16;

/// The parts of a message that are compared. Messages are the same when they have the same key (or topic, where they have
/// no key) and are the same in all parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Vec<Part>);

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// All bytes of the payload.
    Payload,
    /// What is at a place in a JSON payload: names of fields, and numbers of items counted from 0.
    Path(Vec<String>),
    Topic,
    Timestamp,
    /// The first header of this name.
    Header(String),
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a part of a message.
    #[error("`{0}` is no part of a message: write payload, payload.FIELD, headers.NAME, topic or timestamp")]
    NoSuch(String),
    /// None, or too many.
    #[error("{0} parts are named; 1 to {PARTS_MAX} can be")]
    Number(usize),
}

impl Identity {
    /// The id of a message: the same for messages whose parts are the same, and as good as never for others (SipHash-2-4
    /// with 128 bits and a fixed key, over each part with its length).
    ///
    /// # Errors
    ///
    /// A part is not there, for people.
    pub fn of(&self, message: &Message<'_>) -> Result<[u8; ID], String> {
        let mut hasher = SipHasher24::new();
        let mut json = None;
        for part in &self.0 {
            match part {
                Part::Payload => write(&mut hasher, message.payload),
                Part::Topic => write(&mut hasher, message.topic.as_bytes()),
                Part::Timestamp => write(&mut hasher, &message.timestamp.to_le_bytes()),
                Part::Header(name) => {
                    let value = message
                        .header(name)
                        .ok_or_else(|| format!("the message has no header `{name}`"))?;
                    write(&mut hasher, value.as_bytes());
                }
                Part::Path(path) => {
                    let root = match &json {
                        Some(root) => root,
                        None => json.insert(parse(message.payload)?),
                    };
                    let found = at(root, path)
                        .ok_or_else(|| format!("the payload has no `{}`", path.join(".")))?;
                    // Fields of an object are sorted by name.
                    write(&mut hasher, found.to_string().as_bytes());
                }
            }
        }
        Ok(hasher.finish128().as_bytes())
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Parts separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts =
            text.split(',').map(|part| part.trim().parse()).collect::<Result<Vec<_>, _>>()?;
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(IdentityError::Number(parts.len()));
        }
        Ok(Self(parts))
    }
}

impl FromStr for Part {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_such = || IdentityError::NoSuch(text.chars().take(PART_MAX).collect());
        if text.len() > PART_MAX {
            return Err(no_such());
        }
        match text {
            "payload" => return Ok(Self::Payload),
            "topic" => return Ok(Self::Topic),
            "timestamp" => return Ok(Self::Timestamp),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("headers.").filter(|name| !name.is_empty()) {
            return Ok(Self::Header(name.to_owned()));
        }
        let path: Vec<String> = text
            .strip_prefix("payload.")
            .ok_or_else(no_such)?
            .split('.')
            .map(str::to_owned)
            .collect();
        if path.iter().any(String::is_empty) {
            return Err(no_such());
        }
        Ok(Self::Path(path))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match part {
                Part::Payload => f.write_str("payload")?,
                Part::Topic => f.write_str("topic")?,
                Part::Timestamp => f.write_str("timestamp")?,
                Part::Header(name) => write!(f, "headers.{name}")?,
                Part::Path(path) => write!(f, "payload.{}", path.join("."))?,
            }
        }
        Ok(())
    }
}

/// With the length in front, so that no two lists of parts are the same bytes.
fn write(hasher: &mut SipHasher24, bytes: &[u8]) {
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}

pub(crate) fn parse(payload: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(payload).map_err(|error| format!("the payload is not JSON: {error}"))
}

pub(crate) fn at<'v>(root: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(root, |value, name| match value {
        Value::Object(fields) => fields.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}
