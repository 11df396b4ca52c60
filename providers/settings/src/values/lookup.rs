//! What of a message is looked up, and where the answer goes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use millrace_grants::{Access, Grant};
use millrace_operators::{By, Into as Place};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Parsed, ValueError, refuse};

/// Name of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket(String);

impl FromStr for Bucket {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match format!("kv:{text}").parse::<Grant>() {
            Ok(Grant::KeyValue { access: Access::Write, bucket }) => Ok(Self(bucket)),
            _ => refuse(
                "must be a name: lower-case letters, digits and hyphens, a letter first, at most 40",
            ),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What of a message is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp(By);

/// Where the value that is found goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(Place);

macro_rules! place {
    ($type:ident) => {
        impl FromStr for $type {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text.parse() {
                    Ok(place) => Ok(Self(place)),
                    Err(error) => refuse(format!("must be {}", error.wanted)),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

place!(LookedUp);
place!(Found);

impl LookedUp {
    /// The key.
    pub(crate) const KEY: Self = Self(By::Key);
}

as_text!(Bucket, "the name of a bucket");
as_text!(LookedUp, "a part of a message");
as_text!(Found, "a place in a message");

inline_schema!(
    Bucket,
    json_schema!({ "title": "bucket", "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$" })
);

inline_schema!(
    LookedUp,
    json_schema!({
        "title": "part of a message",
        "type": "string",
        "pattern": r"^(key|topic|headers\..+|payload(\.[^.]+)+)$",
        "examples": ["key", "payload.id"],
    })
);

inline_schema!(
    Found,
    json_schema!({
        "title": "place in a message",
        "type": "string",
        "pattern": r"^(headers\..+|payload\.[^.]+)$",
        "examples": ["payload.machine", "headers.machine"],
    })
);
