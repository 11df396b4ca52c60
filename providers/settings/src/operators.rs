//! Settings of steps that need no component, and how the harness of a stage reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use millrace_operators::{Identity, Missing};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Settings;
use crate::list::{Items, items, text_or_list};
use crate::values::{Bucket, Count, Duration, Found, LookedUp, ValueError, refuse};

/// Drops messages that are the same as one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DeDuplicate {
    /// What has to be the same beside the key (or the topic, without a key): one or a list of `payload`, `payload.FIELD` of
    /// a JSON payload, `headers.NAME`, `topic` and `timestamp`.
    pub by: Parts,
    /// For how long after a message one like it is dropped, by the time at which they come, from 1s to 30d.
    pub within: Duration<1_000, 2_592_000_000>,
}

/// Lets so many messages of a key through in a time, and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Throttle {
    /// How many messages of each key (or topic, without a key) go on in each `per`: the first, from 1 to 1000000.
    #[serde(default = "one")]
    pub messages: Count<1, 1_000_000>,
    /// A period of event time, from 1ms to 1d. Periods stand one after another from the epoch.
    pub per: Duration<1, 86_400_000>,
}

/// Adds to each message what a key-value bucket has for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Enrich {
    /// Name of the bucket: lower-case letters, digits and hyphens, at most 40.
    pub bucket: Bucket,
    /// What of a message is looked up: `key`, `topic`, `headers.NAME` or `payload.FIELD` of a JSON payload.
    #[serde(default = "by_key")]
    pub by: LookedUp,
    /// Where the value that is found goes: `payload.FIELD`, a field of the JSON payload itself, or `headers.NAME`. In a payload
    /// a value that is JSON stays JSON, any other is a text.
    pub into: Found,
    /// What becomes of a message for which the bucket has nothing: it is rejected (`reject`), goes on as it came (`keep`), or
    /// does not go on (`drop`).
    #[serde(default)]
    pub missing: WhenMissing,
}

/// What becomes of a message for which nothing is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WhenMissing {
    /// It is rejected: it goes to the dead letters.
    #[default]
    Reject,
    /// It goes on as it came.
    Keep,
    /// It does not go on.
    Drop,
}

fn by_key() -> LookedUp {
    LookedUp::KEY
}

/// A concatenate has no settings: write `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Concatenate {}

fn one() -> Count<1, 1_000_000> {
    Count::clamped(1)
}

impl Settings for DeDuplicate {}
impl Settings for Throttle {}
impl Settings for Enrich {}
impl Settings for Concatenate {}

// What the harness of a stage is told about a step: names and values, times in nanoseconds.

impl DeDuplicate {
    /// What the harness of a stage is told.
    #[must_use]
    pub fn harness(&self) -> BTreeMap<String, String> {
        let within = self.within.as_millis().saturating_mul(1_000_000);
        told([("by", self.by.to_string()), ("within", within.to_string())])
    }
}

impl Throttle {
    /// What the harness of a stage is told.
    #[must_use]
    pub fn harness(&self) -> BTreeMap<String, String> {
        let per = self.per.as_millis().saturating_mul(1_000_000);
        told([("messages", self.messages.get().to_string()), ("per", per.to_string())])
    }
}

impl Enrich {
    /// What the harness of a stage is told.
    #[must_use]
    pub fn harness(&self) -> BTreeMap<String, String> {
        let missing = match self.missing {
            WhenMissing::Reject => Missing::Reject,
            WhenMissing::Keep => Missing::Keep,
            WhenMissing::Drop => Missing::Drop,
        };
        told([
            ("bucket", self.bucket.to_string()),
            ("by", self.by.to_string()),
            ("into", self.into.to_string()),
            ("missing", missing.as_str().to_owned()),
        ])
    }
}

fn told<const N: usize>(values: [(&str, String); N]) -> BTreeMap<String, String> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Parts of a message that are compared: `payload`, `payload.FIELD`, `headers.NAME`, `topic`, `timestamp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Identity);

impl FromStr for Parts {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parts = items(text)?.join(",");
        match parts.parse() {
            Ok(identity) => Ok(Self(identity)),
            Err(error) => refuse(format!("must be parts of a message: {error}")),
        }
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const PART: &str = r"^(payload(\.[^.,\s]+)*|headers\.[^,\s]+|topic|timestamp)$";

text_or_list!(
    Parts,
    "parts of a message",
    json_schema!({ "title": "parts of a message", "anyOf": [
        { "type": "string", "minLength": 1, "examples": ["payload.id", "payload,timestamp"] },
        { "type": "array", "minItems": 1, "maxItems": 16, "items": { "type": "string", "pattern": PART } },
    ] })
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FieldError;

    fn read<T: Settings>(fields: &[(&str, &str)]) -> Result<T, FieldError> {
        let map: BTreeMap<String, String> =
            fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        crate::from_flat(&map, &[])
    }

    #[test]
    fn they_are_read_and_told_to_the_harness() {
        for by in ["payload.id,timestamp", r#"["payload.id", "timestamp"]"#] {
            let read: DeDuplicate = read(&[("by", by), ("within", "10m")]).unwrap();
            let told = read.harness();
            assert_eq!(told["by"], "payload.id,timestamp");
            assert_eq!(told["within"], "600000000000");
        }
        let throttle: Throttle = read(&[("per", "10s")]).unwrap();
        assert_eq!(throttle.harness()["messages"], "1");
        assert_eq!(throttle.harness()["per"], "10000000000");
        assert!(read::<Concatenate>(&[]).is_ok());
        let enrich: Enrich = read(&[("bucket", "machines"), ("into", "payload.machine")]).unwrap();
        let told: Vec<String> =
            enrich.harness().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["bucket=machines", "by=key", "into=payload.machine", "missing=reject"]);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_field() {
        for (fields, field) in [
            (&[("within", "1m")][..], "by"),
            (&[("by", "payload")], "within"),
            (&[("by", "key"), ("within", "1m")], "by"),
            (&[("by", "[]"), ("within", "1m")], "by"),
            (&[("by", "payload"), ("within", "0s")], "within"),
        ] {
            assert_eq!(read::<DeDuplicate>(fields).unwrap_err().field, field);
        }
        assert_eq!(
            read::<Throttle>(&[("messages", "0"), ("per", "1s")]).unwrap_err().field,
            "messages"
        );
        assert_eq!(read::<Throttle>(&[]).unwrap_err().field, "per");
        for (fields, field) in [
            (&[("into", "payload.a")][..], "bucket"),
            (&[("bucket", "A"), ("into", "payload.a")], "bucket"),
            (&[("bucket", "read:a"), ("into", "payload.a")], "bucket"),
            (&[("bucket", "a")], "into"),
            (&[("bucket", "a"), ("into", "payload")], "into"),
            (&[("bucket", "a"), ("into", "payload.a"), ("by", "payload")], "by"),
            (&[("bucket", "a"), ("into", "payload.a"), ("missing", "forget")], "missing"),
        ] {
            assert_eq!(read::<Enrich>(fields).unwrap_err().field, field);
        }
        assert_eq!(read::<Concatenate>(&[("x", "1")]).unwrap_err().field, "x");
    }
}
