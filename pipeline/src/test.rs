//! Tests of a pipeline, as its definition has them: what goes in at the
//! sources, and what has to come of it. `millrace-desk` runs them; they are no
//! part of what is deployed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat};
use millrace_settings::values::Count;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::finding::Location;
use crate::schema;

/// One test: messages for the sources, and what has to come of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Test {
    /// What the test is about, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the clocks say, as 2026-01-01T00:00:00Z, which is the default. Also
    /// the time of messages that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub time: Option<Time>,
    /// What the clock says at the end: windows that end until then have ended.
    /// Without it those have that a later message ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub until: Option<Time>,
    /// What the key-value buckets have at the beginning, by bucket and key: a single value as it is written, a mapping or a list
    /// as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::test_values")]
    pub kv: BTreeMap<String, BTreeMap<String, String>>,
    /// What servers answer, by method and URL, as `get http://api.example.com/limits`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::test_responses")]
    pub http: BTreeMap<String, TestResponse>,
    /// The messages of each source, in order.
    #[schemars(schema_with = "schema::given_messages")]
    pub inputs: BTreeMap<String, Vec<TestMessage>>,
    /// What has to come to each sink that is named: these messages and no
    /// others. Nothing is asked of a sink that is not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::expected_messages")]
    pub outputs: BTreeMap<String, Vec<TestMessage>>,
    /// The messages that each step has to reject. A step that is not named must
    /// reject none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::rejected_messages")]
    pub rejected: BTreeMap<String, Vec<TestReject>>,
    /// Whether messages have to come in the order in which they are written
    /// here (kept, the default) or in any.
    #[serde(default, skip_serializing_if = "Order::is_kept")]
    #[schemars(schema_with = "schema::order")]
    pub order: Order,
    /// Parts of JSON payloads that are not compared, as payload.at or
    /// payload.readings.*.at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::payload_paths")]
    pub ignore: Vec<String>,
    /// The only parts of JSON payloads that are compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::payload_paths")]
    pub select: Vec<String>,
    /// How far apart two numbers in JSON payloads may be that count as the
    /// same. 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::tolerance")]
    pub tolerance: Option<Tolerance>,
}

/// A message of a test. Of one that is expected only the fields that are given
/// are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TestMessage {
    /// The content.
    #[serde(flatten)]
    pub payload: Option<Payload>,
    /// Where the message belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What messages are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Names and values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Media type of the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// When it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
}

/// What a server answers in a test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TestResponse {
    /// Status code; 200 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Count<100, 599>>,
    /// The content.
    #[serde(flatten)]
    pub payload: Option<Payload>,
    /// Header fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// A message that a step has to reject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TestReject {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RejectKind>,
    /// What the reason has to contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The message as it came to the step.
    #[serde(flatten)]
    pub message: TestMessage,
}

/// The content of a test's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// A mapping or a list: JSON.
    #[serde(rename = "payload")]
    Json(serde_json::Value),
    /// A single value: the text as it is written.
    #[serde(rename = "payload")]
    Text(String),
    /// Bytes, written in hexadecimal.
    Hex(Hex),
    /// A file, from the folder of the definition: of `.jsonl` each line is a
    /// message, of any other the whole is one.
    File(String),
}

/// Bytes, written as pairs of hexadecimal digits; blanks between pairs are
/// free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "has to be pairs of hexadecimal digits, such as \"ff00\"";
        let mut bytes = Vec::with_capacity(text.len() / 2);
        for part in text.split_whitespace() {
            for pair in part.as_bytes().chunks(2) {
                let [high, low] = *pair else { return Err(WRONG) };
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(WRONG);
                let byte = digit(high)? * 16 + digit(low)?;
                bytes.push(u8::try_from(byte).map_err(|_| WRONG)?);
            }
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a message is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectKind {
    /// The step says that the message is wrong.
    InvalidArgument,
    /// The step says that it is wrong itself.
    Internal,
    /// The step asked for a retry, as often as is allowed.
    Retry,
    /// The step traps with this message.
    Trap,
    /// The step does not answer with this message.
    Timeout,
    /// The message came too late for its window.
    Late,
    /// The state of the step has no room for it.
    Full,
}

impl RejectKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::InvalidArgument,
        Self::Internal,
        Self::Retry,
        Self::Trap,
        Self::Timeout,
        Self::Late,
        Self::Full,
    ];

    /// The word for it, as dead letters have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::Internal => "internal",
            Self::Retry => "retry",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Late => "late",
            Self::Full => "full",
        }
    }
}

impl FromStr for RejectKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or("has to be `invalid-argument`, `internal`, `retry`, `trap`, `timeout`, `late` or `full`")
    }
}

/// How the order of messages counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Messages come in the order in which they are written.
    #[default]
    Kept,
    /// In any.
    Any,
}

impl Order {
    fn is_kept(&self) -> bool {
        matches!(self, Self::Kept)
    }
}

impl FromStr for Order {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kept" => Ok(Self::Kept),
            "any" => Ok(Self::Any),
            _ => Err("has to be `kept` or `any`"),
        }
    }
}

/// A moment, in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// What the clocks of a test say that does not say it: 2026-01-01T00:00:00Z.
    pub const DEFAULT: Self = Self(1_767_225_600_000_000_000);

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// The moment so many nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }
}

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = DateTime::parse_from_rfc3339(text).ok();
        let since = time.and_then(|time| time.timestamp_nanos_opt());
        since
            .and_then(|since| u64::try_from(since).ok())
            .map(Self)
            .ok_or("has to be a date and time from 1970 on, such as `2026-01-01T00:00:00Z`")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0) {
            Ok(since) => f.write_str(
                &DateTime::from_timestamp_nanos(since).to_rfc3339_opts(SecondsFormat::AutoSi, true),
            ),
            Err(_) => write!(f, "{} ns after 1970", self.0),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How far apart two numbers may be that count as the same: finite, not below
/// 0.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Tolerance(f64);

impl Tolerance {
    /// The greatest distance.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Tolerance {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Tolerance {}

impl FromStr for Tolerance {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<f64>().ok();
        number
            .filter(|number| number.is_finite() && *number >= 0.0)
            .map(Self)
            .ok_or("has to be a number that is not negative, such as `0.001`")
    }
}

/// The way inside a payload that a field of `ignore` or `select` names:
/// `payload.readings.*.at` gives `readings`, `*` and `at`; `payload` alone is
/// the whole of it. Nothing for what is no such way.
#[must_use]
pub fn payload_path(text: &str) -> Option<Vec<&str>> {
    match text.strip_prefix("payload")? {
        "" => Some(Vec::new()),
        rest => {
            let parts: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
            parts.iter().all(|part| !part.is_empty()).then_some(parts)
        }
    }
}

/// A test with its name and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Name of the test.
    pub name: String,
    /// Where its name stands.
    pub location: Location,
    /// The folder that files are from.
    pub folder: PathBuf,
    /// The test.
    pub test: Test,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let default: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(default, Time::DEFAULT);
        assert_eq!(default.to_string(), "2026-01-01T00:00:00Z");
        let fraction: Time = "2026-01-01T01:00:00.25+01:00".parse().unwrap();
        assert_eq!(fraction.nanoseconds() - default.nanoseconds(), 250_000_000);
        for wrong in ["", "2026-01-01", "1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", "now"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hex_is_pairs_of_digits() {
        assert_eq!("ff00 0A".parse::<Hex>(), Ok(Hex(vec![255, 0, 10])));
        assert_eq!("".parse::<Hex>(), Ok(Hex(Vec::new())));
        for wrong in ["f", "fg", "0xff", "f f", "é"] {
            assert!(wrong.parse::<Hex>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_begin_at_the_payload() {
        assert_eq!(payload_path("payload.a.*.0"), Some(vec!["a", "*", "0"]));
        assert_eq!(payload_path("payload"), Some(Vec::new()));
        for wrong in ["", "a", "payloads", "payload.", "payload..a", "payload.a."] {
            assert_eq!(payload_path(wrong), None, "{wrong}");
        }
    }
}
