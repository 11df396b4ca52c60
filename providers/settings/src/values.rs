//! The types of single values: what they allow, how they are written, and
//! their JSON Schema, in one place each.
//!
//! Each type parses from a string, prints as the same string in its shortest
//! form, and carries its bounds in the type, so that an out-of-range value is
//! refused where it is read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The longest string MQTT can carry, in bytes (MQTT 5.0, section 1.5.4).
const MQTT_STRING_MAX: usize = 65_535;

/// Why a value was refused. The text is a full sentence part: it follows the
/// field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

pub(crate) fn refuse<T>(message: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(message.into()))
}

/// Reads a value from text, and from a number where the author wrote one.
struct Parsed<T> {
    wanted: &'static str,
    parse: fn(&str) -> Result<T, ValueError>,
}

impl<T> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

/// Deserialises through [`FromStr`], and serialises through [`fmt::Display`].
macro_rules! as_text {
    ($type:ident $(<$(const $bound:ident: u64),*>)?, $wanted:literal) => {
        impl<'de, $($(const $bound: u64),*)?> Deserialize<'de> for $type $(<$($bound),*>)? {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Parsed { wanted: $wanted, parse: |text| text.parse() })
            }
        }

        impl $(<$(const $bound: u64),*>)? Serialize for $type $(<$($bound),*>)? {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A schema written where it is used, not as a definition of its own: the
/// bounds differ from field to field.
macro_rules! inline_schema {
    ($type:ident $(<$(const $bound:ident: u64),*>)?, $schema:expr) => {
        impl $(<$(const $bound: u64),*>)? JsonSchema for $type $(<$($bound),*>)? {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number, if it is in range.
    ///
    /// # Errors
    ///
    /// When it is not; the text says the range.
    pub fn new(number: u64) -> Result<Self, ValueError> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            refuse(format!("must be a whole number from {MIN} to {MAX}"))
        }
    }

    /// The number, moved into the range if it is outside. For constants.
    #[must_use]
    pub const fn clamped(number: u64) -> Self {
        Self(clamp(number, MIN, MAX))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a size in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const fn clamp(number: u64, min: u64, max: u64) -> u64 {
    if number < min {
        min
    } else if number > max {
        max
    } else {
        number
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Count<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse() {
            Ok(number) => Self::new(number),
            Err(_) => refuse(format!("must be a whole number from {MIN} to {MAX}")),
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Count<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Parsed { wanted: "a whole number", parse: str::parse })
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

inline_schema!(Count<const MIN: u64, const MAX: u64>, json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX }));

/// A span of time from `MIN` to `MAX` milliseconds, both included. Written as
/// a whole number and a unit: `5ms`, `30s`, `2m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration<const MIN: u64, const MAX: u64>(u64);

/// Units of time with their length in milliseconds, longest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl<const MIN: u64, const MAX: u64> Duration<MIN, MAX> {
    /// A duration of so many milliseconds, moved into the range if it is
    /// outside. For constants.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(clamp(millis, MIN, MAX))
    }

    /// The duration in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The duration as the standard library has it.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Duration<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(millis) = with_unit(text, &TIME_UNITS) else {
            return refuse("must be a duration: a whole number and ms, s, m, h or d, such as 30s");
        };
        if (MIN..=MAX).contains(&millis) {
            Ok(Self(millis))
        } else {
            refuse(format!(
                "must be a duration from {} to {}",
                in_units(MIN, &TIME_UNITS),
                in_units(MAX, &TIME_UNITS)
            ))
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Duration<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.0, &TIME_UNITS))
    }
}

as_text!(Duration<const MIN: u64, const MAX: u64>, "a duration such as 30s");
inline_schema!(
    Duration<const MIN: u64, const MAX: u64>,
    json_schema!({ "title": "duration", "type": "string", "pattern": "^[0-9]{1,15}(ms|s|m|h|d)$" })
);

/// A size in bytes from `MIN` to `MAX`, both included. Written as a whole
/// number, with or without a unit: `1000`, `64KiB`, `16MiB`, `1GiB`, `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes<const MIN: u64, const MAX: u64>(u64);

/// Units of size in bytes, largest first. Sizes are printed in the binary ones.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];
const PRINTED_SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    /// A size of so many bytes, moved into the range if it is outside. For
    /// constants.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(clamp(bytes, MIN, MAX))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size in bytes as a size in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bytes<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(bytes) = with_unit(text, &SIZE_UNITS).or_else(|| digits(text)) else {
            return refuse(
                "must be a size: a whole number and B, KiB, MiB, GiB, KB, MB or GB, such as 64MiB",
            );
        };
        if (MIN..=MAX).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            let (min, max) =
                (in_units(MIN, &PRINTED_SIZE_UNITS), in_units(MAX, &PRINTED_SIZE_UNITS));
            refuse(format!("must be a size from {min} to {max}"))
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Bytes<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.0, &PRINTED_SIZE_UNITS))
    }
}

as_text!(Bytes<const MIN: u64, const MAX: u64>, "a size such as 64MiB");
inline_schema!(
    Bytes<const MIN: u64, const MAX: u64>,
    json_schema!({ "title": "size", "anyOf": [
        { "type": "string", "pattern": "^[0-9]{1,15}(B|KiB|MiB|GiB|KB|MB|GB)?$" },
        { "type": "integer", "minimum": MIN, "maximum": MAX },
    ] })
);

/// A whole number without sign, at most 15 digits.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// A number followed directly by one of `units`, multiplied out.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(split)?;
    let (_, size) = units.iter().find(|(name, _)| *name == unit)?;
    digits(number)?.checked_mul(*size)
}

/// The largest unit that gives a whole number.
fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    let smallest = units.last().map_or("", |(name, _)| name);
    match units.iter().find(|(_, size)| number != 0 && number.is_multiple_of(*size)) {
        Some((name, size)) => format!("{}{name}", number / size),
        None => format!("{number}{smallest}"),
    }
}

/// MQTT quality of service (MQTT 5.0, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Qos {
    /// 0: sent once, may be lost.
    AtMostOnce,
    /// 1: acknowledged, may arrive more than once.
    #[default]
    AtLeastOnce,
    /// 2: arrives exactly once at the broker.
    ExactlyOnce,
}

impl Qos {
    /// The number used in the protocol.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

impl FromStr for Qos {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "0" => Ok(Self::AtMostOnce),
            "1" => Ok(Self::AtLeastOnce),
            "2" => Ok(Self::ExactlyOnce),
            _ => refuse("must be 0 (at most once), 1 (at least once) or 2 (exactly once)"),
        }
    }
}

impl<'de> Deserialize<'de> for Qos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Parsed { wanted: "0, 1 or 2", parse: str::parse })
    }
}

impl Serialize for Qos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

inline_schema!(Qos, json_schema!({ "type": "integer", "enum": [0, 1, 2] }));

/// Address of an MQTT broker: `mqtt://host:port`, or `mqtts://` for TLS. The
/// port may be left out (1883, with TLS 8883). Without user or password: an
/// address is printed and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
}

impl BrokerUrl {
    /// Whether the connection uses TLS.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// Host name or address; an IPv6 address is without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORM: &str = "must be mqtt://host:port or mqtts://host:port";
        let Ok(url) = url::Url::parse(text) else { return refuse(FORM) };
        let tls = match url.scheme() {
            "mqtt" => false,
            "mqtts" => true,
            _ => return refuse(FORM),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must not contain a user or password: use username and password-file");
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return refuse(FORM);
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return refuse("must end after the port: a broker address has no path");
        }
        let port = url.port().unwrap_or(if tls { 8883 } else { 1883 });
        if port == 0 {
            return refuse("must have a port from 1 to 65535");
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

as_text!(BrokerUrl, "a broker address");
inline_schema!(
    BrokerUrl,
    json_schema!({ "title": "broker address", "type": "string", "pattern": "^[mM][qQ][tT][tT][sS]?://[^/?#@]+/?$", "examples": ["mqtt://localhost:1883"] })
);

/// Which topics a source subscribes to: `+` stands for one level, `#` at the
/// end for all that follow (MQTT 5.0, section 4.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// The filter as MQTT has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicFilter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        mqtt_string(text)?;
        let filter = match text.strip_prefix("$share/") {
            Some(shared) => match shared.split_once('/') {
                Some((group, filter))
                    if !group.is_empty() && !group.contains(['+', '#']) && !filter.is_empty() =>
                {
                    filter
                }
                _ => return refuse("must be $share/<group>/<filter>, the group without + and #"),
            },
            None => text,
        };
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.len() > 1 && level.contains('+') {
                return refuse("must have + alone between two slashes");
            }
            if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
                return refuse("must have # alone and only as the last level");
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(TopicFilter, "a topic filter");
inline_schema!(
    TopicFilter,
    json_schema!({
        "title": "topic filter",
        "type": "string",
        "minLength": 1,
        "pattern": "^(([^/+#]*|\\+)/)*([^/+#]*|\\+|#)$",
        "examples": ["plant/+/temperature"],
    })
);

/// What every topic and filter must be (MQTT 5.0, section 4.7.3).
fn mqtt_string(text: &str) -> Result<(), ValueError> {
    if text.is_empty() {
        return refuse("must not be empty");
    }
    if text.len() > MQTT_STRING_MAX {
        return refuse(format!("must be at most {MQTT_STRING_MAX} bytes long"));
    }
    if text.contains('\0') {
        return refuse("must not contain the null character");
    }
    Ok(())
}

/// The topic a sink publishes to: a literal topic, in which `{topic}` and
/// `{key}` stand for those of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
}

impl TopicTemplate {
    /// The topic for one message. `key` is absent when the message has none.
    ///
    /// # Errors
    ///
    /// When the result is not a topic one can publish to: empty, too long,
    /// with wildcards or the null character, or the template asks for a key
    /// that the message does not have.
    pub fn render(&self, topic: &str, key: Option<&str>) -> Result<String, ValueError> {
        let mut rendered = String::new();
        for part in &self.parts {
            match (part, key) {
                (Part::Text(text), _) => rendered.push_str(text),
                (Part::Topic, _) => rendered.push_str(topic),
                (Part::Key, Some(key)) => rendered.push_str(key),
                (Part::Key, None) => return refuse("needs a key, and the message has none"),
            }
        }
        publishable(&rendered)?;
        Ok(rendered)
    }

    /// The topic, if it is the same for every message.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Whether one can publish to this topic.
fn publishable(topic: &str) -> Result<(), ValueError> {
    mqtt_string(topic)?;
    if topic.contains(['+', '#']) {
        return refuse("must not contain + or #: a message is published to one topic");
    }
    Ok(())
}

impl FromStr for TopicTemplate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        publishable(text)?;
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at_checked(open).unwrap_or((rest, ""));
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (part, length) = if from_brace.starts_with("{topic}") {
                (Part::Topic, "{topic}".len())
            } else if from_brace.starts_with("{key}") {
                (Part::Key, "{key}".len())
            } else {
                return refuse("must use braces only as {topic} and {key}");
            };
            parts.push(part);
            rest = from_brace.get(length..).unwrap_or_default();
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Topic => f.write_str("{topic}"),
            Part::Key => f.write_str("{key}"),
        })
    }
}

as_text!(TopicTemplate, "a topic");
inline_schema!(
    TopicTemplate,
    json_schema!({
        "title": "topic",
        "type": "string",
        "pattern": "^([^+#{}]|\\{topic\\}|\\{key\\})+$",
        "examples": ["plant/alerts", "alerts/{topic}"],
    })
);
