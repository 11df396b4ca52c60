//! What a bucket has for a message, added to it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use millrace_batch::Message;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::Value;

use crate::identity::{at, parse, PART_MAX};

/// Longest key that is looked up, in bytes, as key-value has it.
const KEY_MAX: usize = 1024;

/// A step that adds to each message what was looked up for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrich {
    /// What of a message is looked up.
    pub by: By,
    /// Where what was found goes.
    pub into: Into,
    /// What becomes of a message for which nothing is there.
    pub missing: Missing,
}

/// The part of a message that is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Its key.
    Key,
    /// Its topic.
    Topic,
    /// The first header of this name.
    Header(String),
    /// What is at a place in its JSON payload: a text, a number, or true or false.
    Path(Vec<String>),
}

/// The place of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Into {
    /// A header of this name, in place of one that is there.
    Header(String),
    /// This field of a JSON payload, in place of one that is there.
    Field(String),
}

/// What becomes of a message for which nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is rejected: it goes to the dead letters.
    Reject,
    /// It goes on as it came.
    Keep,
    /// It does not go on.
    Drop,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enriched<'a> {
    /// It goes on with this payload.
    Payload(Vec<u8>),
    /// It goes on with this header.
    Header(&'a str, &'a str),
    /// It goes on as it came.
    Same,
    /// It does not go on.
    Nothing,
}

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct PlaceError {
    /// The text.
    pub text: String,
    /// What would name one.
    pub wanted: &'static str,
}

impl Enrich {
    /// What is looked up for a message.
    ///
    /// # Errors
    ///
    /// It has nothing there, for people.
    pub fn key(&self, message: &Message<'_>) -> Result<Vec<u8>, String> {
        let key = self.part(message)?;
        if key.len() > KEY_MAX {
            return Err(format!(
                "what is looked up has {} bytes, at most {KEY_MAX} can be",
                key.len()
            ));
        }
        Ok(key)
    }

    fn part(&self, message: &Message<'_>) -> Result<Vec<u8>, String> {
        match &self.by {
            By::Key => {
                message.key.map(<[u8]>::to_vec).ok_or_else(|| "the message has no key".to_owned())
            }
            By::Topic => Ok(message.topic.as_bytes().to_vec()),
            By::Header(name) => message
                .header(name)
                .map(|value| value.as_bytes().to_vec())
                .ok_or_else(|| format!("the message has no header `{name}`")),
            By::Path(path) => match at(&parse(message.payload)?, path) {
                Some(Value::String(text)) => Ok(text.as_bytes().to_vec()),
                Some(Value::Bool(value)) => Ok(value.to_string().into_bytes()),
                // Others are not what they were written as any longer.
                Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                    Ok(number.to_string().into_bytes())
                }
                Some(Value::Number(_)) => Err(format!(
                    "`{}` in the payload is no whole number of 64 bits; a text can be looked up",
                    path.join(".")
                )),
                Some(_) => Err(format!("`{}` in the payload is no single value", path.join("."))),
                None => Err(format!("the payload has no `{}`", path.join("."))),
            },
        }
    }

    /// The message with what was found for it.
    ///
    /// # Errors
    ///
    /// Nothing was found and the message is rejected for it, or what was found does not go where it should: for people.
    pub fn apply<'a>(
        &'a self,
        message: &Message<'_>,
        found: Option<&'a [u8]>,
    ) -> Result<Enriched<'a>, String> {
        let Some(found) = found else {
            return match self.missing {
                Missing::Keep => Ok(Enriched::Same),
                Missing::Drop => Ok(Enriched::Nothing),
                Missing::Reject => {
                    let key = self.key(message)?;
                    let key: String = String::from_utf8_lossy(&key).chars().take(100).collect();
                    Err(format!("the bucket has nothing for `{key}`"))
                }
            };
        };
        match &self.into {
            Into::Header(name) => match std::str::from_utf8(found) {
                Ok(value) => Ok(Enriched::Header(name, value)),
                Err(_) => {
                    Err("what the bucket has is not text, so it cannot be a header".to_owned())
                }
            },
            Into::Field(name) => put(message.payload, name, found).map(Enriched::Payload),
        }
    }
}

/// A JSON object with a field more, or with another value of it. Everything else stays as it is written.
fn put(payload: &[u8], name: &str, found: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not JSON".to_owned())?;
    let Fields(fields) = serde_json::from_str(text)
        .map_err(|error| format!("the payload is not a JSON object: {error}"))?;
    // What is not JSON is a text, and so is what only looks like it: a number beyond all numbers, half a character.
    let is_json = serde_json::from_slice::<Value>(found).is_ok();
    let value = match serde_json::from_slice::<&RawValue>(found) {
        Ok(value) if is_json => value.get().to_owned(),
        _ => Value::from(String::from_utf8_lossy(found)).to_string(),
    };
    let mut out = Vec::with_capacity(payload.len() + name.len() + value.len() + 4);
    if let Some(old) = fields.get(name) {
        // It is a part of the text: where it begins there.
        let start = (old.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        out.extend(payload.get(..start).unwrap_or_default());
        out.extend(value.bytes());
        out.extend(payload.get(start + old.get().len()..).unwrap_or_default());
    } else {
        let end = text.rfind('}').unwrap_or(text.len());
        out.extend(payload.get(..end).unwrap_or_default().trim_ascii_end());
        if !fields.is_empty() {
            out.push(b',');
        }
        out.extend(Value::from(name).to_string().bytes());
        out.push(b':');
        out.extend(value.bytes());
        out.extend(payload.get(end..).unwrap_or_default());
    }
    Ok(out)
}

/// The fields of a JSON object as they are written, each once: of two with one name some readers take the first and others the
/// last.
struct Fields<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &RawValue>()? {
                    if fields.insert(name.0, value).is_some() {
                        return Err(A::Error::custom("a field is there twice"));
                    }
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// The name of a field: borrowed where nothing is escaped in it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl FromStr for By {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "what can be looked up: key, topic, headers.NAME or payload.FIELD";
        let wrong = || PlaceError { text: text.chars().take(PART_MAX).collect(), wanted };
        match text {
            "key" => return Ok(Self::Key),
            "topic" => return Ok(Self::Topic),
            _ if text.len() > PART_MAX => return Err(wrong()),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("headers.").filter(|name| !name.is_empty()) {
            return Ok(Self::Header(name.to_owned()));
        }
        let path = text.strip_prefix("payload.").ok_or_else(wrong)?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self::Path(path))
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("key"),
            Self::Topic => f.write_str("topic"),
            Self::Header(name) => write!(f, "headers.{name}"),
            Self::Path(path) => write!(f, "payload.{}", path.join(".")),
        }
    }
}

impl FromStr for Into {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "a place for what is found: payload.FIELD, a field of the payload itself, or headers.NAME";
        let wrong = || PlaceError { text: text.chars().take(PART_MAX).collect(), wanted };
        let named = |prefix| {
            text.strip_prefix(prefix).filter(|n: &&str| !n.is_empty() && text.len() <= PART_MAX)
        };
        if let Some(name) = named("headers.") {
            // These are the platform's.
            if name.starts_with("millrace-") {
                return Err(wrong());
            }
            return Ok(Self::Header(name.to_owned()));
        }
        let field = named("payload.").filter(|field| !field.contains('.')).ok_or_else(wrong)?;
        Ok(Self::Field(field.to_owned()))
    }
}

impl fmt::Display for Into {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "headers.{name}"),
            Self::Field(name) => write!(f, "payload.{name}"),
        }
    }
}

impl Missing {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }
}

impl FromStr for Missing {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Reject, Self::Keep, Self::Drop]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| PlaceError {
                text: text.chars().take(PART_MAX).collect(),
                wanted: "reject, keep or drop",
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use millrace_batch::{Batch, BatchWriter, Fields};
    use proptest::prelude::*;

    fn with(fields: &Fields<'_>, headers: &[(&str, &str)], check: impl FnOnce(&Message<'_>)) {
        let mut writer = BatchWriter::new([]).unwrap();
        writer.push(fields, headers.iter().copied()).unwrap();
        let bytes = writer.finish();
        check(&Batch::open(&bytes).unwrap().messages().next().unwrap());
    }

    fn enrich(by: &str, into: &str, missing: &str) -> Enrich {
        Enrich {
            by: by.parse().unwrap(),
            into: into.parse().unwrap(),
            missing: missing.parse().unwrap(),
        }
    }

    #[test]
    fn what_is_looked_up() {
        let long = "x".repeat(2_000);
        let payload = format!(
            r#"{{"id":"press 1","n":{{"x":17,"y":[true]}},"none":null,"big":18446744073709551616,"part":17.5,"long":"{long}"}}"#
        );
        let payload = payload.as_bytes();
        let fields = Fields { topic: "t", key: Some(b"k"), payload, ..Fields::default() };
        with(&fields, &[("site", "north")], |message| {
            for (by, key) in [
                ("key", "k"),
                ("topic", "t"),
                ("headers.site", "north"),
                ("payload.id", "press 1"),
                ("payload.n.x", "17"),
                ("payload.n.y.0", "true"),
            ] {
                assert_eq!(
                    enrich(by, "payload.a", "keep").key(message).unwrap(),
                    key.as_bytes(),
                    "{by}"
                );
            }
            for (by, says) in [
                ("headers.other", "no header `other`"),
                ("payload.n", "no single value"),
                ("payload.none", "no single value"),
                ("payload.other", "the payload has no `other`"),
                ("payload.big", "no whole number of 64 bits"),
                ("payload.part", "no whole number of 64 bits"),
                ("payload.long", "has 2000 bytes"),
            ] {
                let error = enrich(by, "payload.a", "keep").key(message).unwrap_err();
                assert!(error.contains(says), "{by}: {error}");
            }
        });
        with(&Fields { payload: b"x", ..Fields::default() }, &[], |message| {
            assert_eq!(
                enrich("key", "payload.a", "keep").key(message).unwrap_err(),
                "the message has no key"
            );
            assert!(enrich("payload.a", "payload.a", "keep")
                .key(message)
                .unwrap_err()
                .contains("not JSON"));
        });
    }

    #[test]
    fn what_is_found_goes_into_the_payload_and_the_rest_stays_as_written() {
        for (payload, found, becomes) in [
            (r#"{ "b": 1.0,  "a" : 2 }"#, r#"{"x": 1}"#, r#"{ "b": 1.0,  "a" : 2,"m":{"x": 1}}"#),
            ("{}", "17", r#"{"m":17}"#),
            (" { } ", "press \"one\"", r#" {"m":"press \"one\""} "#),
            (r#"{"m": [1, 2] , "a": "}"}"#, "null", r#"{"m": null , "a": "}"}"#),
            (r#"{"a": "}", "m" : 1}"#, "true", r#"{"a": "}", "m" : true}"#),
            // JSON for some readers, and not for others.
            ("{}", "1e999", r#"{"m":"1e999"}"#),
            ("{}", r#""\ud800""#, r#"{"m":"\"\\ud800\""}"#),
        ] {
            let fields = Fields { payload: payload.as_bytes(), ..Fields::default() };
            with(&fields, &[], |message| {
                let enrich = enrich("topic", "payload.m", "reject");
                let got = enrich.apply(message, Some(found.as_bytes()));
                assert_eq!(got, Ok(Enriched::Payload(becomes.into())));
            });
        }
        with(&Fields { payload: b"[1]", ..Fields::default() }, &[], |message| {
            let error =
                enrich("topic", "payload.m", "keep").apply(message, Some(b"1")).unwrap_err();
            assert!(error.contains("not a JSON object"), "{error}");
        });
        let twice = br#"{"m":1,"m":2}"#;
        with(&Fields { payload: twice, ..Fields::default() }, &[], |message| {
            let error =
                enrich("topic", "payload.m", "keep").apply(message, Some(b"1")).unwrap_err();
            assert!(error.contains("a field is there twice"), "{error}");
        });
    }

    #[test]
    fn what_is_not_there_is_as_the_definition_says() {
        let fields = Fields { topic: "t", payload: b"x", ..Fields::default() };
        with(&fields, &[], |message| {
            let apply = |missing| {
                enrich("topic", "headers.m", missing).apply(message, None).map(|e| format!("{e:?}"))
            };
            assert_eq!(apply("keep").unwrap(), "Same");
            assert_eq!(apply("drop").unwrap(), "Nothing");
            assert_eq!(apply("reject").unwrap_err(), "the bucket has nothing for `t`");
            let header = enrich("topic", "headers.m", "reject");
            assert_eq!(header.apply(message, Some(b"v")), Ok(Enriched::Header("m", "v")));
            assert!(header.apply(message, Some(&[0xff])).is_err());
        });
    }

    #[test]
    fn places_that_are_none_are_refused() {
        for text in ["", "payload", "payload.", "payload.a..b", "headers.", "body.x", "timestamp"] {
            assert!(text.parse::<By>().is_err(), "{text}");
        }
        for text in
            ["", "payload", "payload.", "payload.a.b", "headers.", "headers.millrace-arm", "key"]
        {
            assert!(text.parse::<Into>().is_err(), "{text}");
        }
        for text in ["key", "topic", "headers.a.b", "payload.a.0"] {
            assert_eq!(text.parse::<By>().unwrap().to_string(), text);
        }
        for text in ["headers.a.b", "payload.a"] {
            assert_eq!(text.parse::<Into>().unwrap().to_string(), text);
        }
        assert!("forget".parse::<Missing>().is_err());
    }

    proptest! {
        /// Whatever is there and whatever is found: the other fields are the same, and the new one is what was found.
        #[test]
        fn only_the_field_changes(
            fields in proptest::collection::btree_map("[a-d\"\\\\}]{0,2}", "\\PC{0,4}", 0..4),
            name in "[a-d\"\\\\}]{1,2}",
            found in "\\PC{0,6}",
        ) {
            let payload = serde_json::to_vec(&fields).unwrap();
            let after = put(&payload, &name, found.as_bytes()).unwrap();
            let mut after: BTreeMap<String, Value> = serde_json::from_slice(&after).unwrap();
            let expected = serde_json::from_str(&found).unwrap_or_else(|_| Value::from(found.as_str()));
            prop_assert_eq!(after.remove(&name), Some(expected));
            let mut before: BTreeMap<String, Value> = serde_json::from_slice(&payload).unwrap();
            before.remove(&name);
            prop_assert_eq!(after, before);
        }
    }
}
