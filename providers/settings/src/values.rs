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

mod lookup;
mod mqtt;

pub use lookup::{Bucket, Found, LookedUp};
pub use mqtt::{BrokerUrl, Qos, ShareName, TopicFilter, TopicTemplate, WillTopic};

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

/// A share from 0% to 100%, to two decimals. Written with the sign: `5%`,
/// `0.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

impl Percent {
    /// So many hundredths, at most all. For constants.
    #[must_use]
    pub const fn whole(percent: u32) -> Self {
        Self(if percent > 100 { 10_000 } else { percent * 100 })
    }

    /// The share of one.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl FromStr for Percent {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.strip_suffix('%').and_then(hundredths) {
            Some(share) if share <= 10_000 => Ok(Self(share)),
            _ => refuse("must be a share from 0% to 100%, such as 5% or 0.5%"),
        }
    }
}

/// A number with at most two decimals, times a hundred.
fn hundredths(number: &str) -> Option<u32> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.len() > 2 {
        return None;
    }
    let unit = if decimals.len() == 1 { 10 } else { 1 };
    let decimals = digits(decimals)? * unit;
    u32::try_from(digits(whole)?.checked_mul(100)?.checked_add(decimals)?).ok()
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}%"),
            _ if rest.is_multiple_of(10) => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

as_text!(Percent, "a share such as 5%");
inline_schema!(
    Percent,
    json_schema!({ "title": "share", "type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,2})?%$" })
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
