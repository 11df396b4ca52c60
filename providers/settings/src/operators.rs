//! Settings of steps that need no component, and how the harness of a stage reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use millrace_operators::Identity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Settings;
use crate::list::{Items, items, text_or_list};
use crate::values::{Count, Duration, ValueError, refuse};

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

/// A concatenate has no settings: write `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Concatenate {}

fn one() -> Count<1, 1_000_000> {
    Count::clamped(1)
}

impl Settings for DeDuplicate {}
impl Settings for Throttle {}
impl Settings for Concatenate {}

/// What the harness of a stage is told about a step of settings: names and values.
pub trait Harness {
    /// Names and values; times in nanoseconds.
    fn harness(&self) -> BTreeMap<String, String>;
}

impl Harness for DeDuplicate {
    fn harness(&self) -> BTreeMap<String, String> {
        let within = self.within.as_millis().saturating_mul(1_000_000);
        BTreeMap::from([
            ("by".to_owned(), self.by.to_string()),
            ("within".to_owned(), within.to_string()),
        ])
    }
}

impl Harness for Throttle {
    fn harness(&self) -> BTreeMap<String, String> {
        let per = self.per.as_millis().saturating_mul(1_000_000);
        BTreeMap::from([
            ("messages".to_owned(), self.messages.get().to_string()),
            ("per".to_owned(), per.to_string()),
        ])
    }
}

impl Harness for Concatenate {
    fn harness(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
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
        assert!(read::<Concatenate>(&[]).unwrap().harness().is_empty());
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
        assert_eq!(read::<Concatenate>(&[("x", "1")]).unwrap_err().field, "x");
    }
}
