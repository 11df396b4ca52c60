//! Where a step's messages may be written: what a sink holds each of them against.

use std::fmt;
use std::str::FromStr;

/// Longest text of a place, in bytes.
const PLACE_MAX: usize = 256;

/// A place outside of a pipeline that a message can be written to, as a connector's sink knows it.
///
/// Which sink a step's messages go to, and what that sink may write at all, is said by the definition and its binding. Where
/// the message itself says which topic, field or line is meant, this says which of them a step's messages may name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `mqtt:publish:FILTER`: topics of MQTT.
    Mqtt(TopicFilter),
    /// `kafka:produce:TOPIC`: topics of Kafka.
    Kafka(Names),
    /// `modbus:write:FIELD`: fields of a Modbus sink by name.
    ModbusField(Names),
    /// `modbus:write:coil:FIRST-LAST` or `modbus:write:holding:FIRST-LAST`: addresses as they go over the wire.
    ModbusRange {
        /// Coils, and not holding registers.
        coils: bool,
        /// The first address.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// `gpio:write:LINE`: lines of a GPIO sink by name.
    Gpio(Names),
}

/// A filter of topics: `+` is one level, `#` at the end all that follow (MQTT 5.0, section 4.7).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(String);

/// A name, or with `*` at its end all that begin with what is before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names(String);

/// What a message is about to be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A topic of MQTT.
    Mqtt(&'a str),
    /// A topic of Kafka.
    Kafka(&'a str),
    /// A field of a Modbus sink, and what of a device it is.
    Modbus {
        /// Name of the field.
        field: &'a str,
        /// Coils, and not holding registers.
        coils: bool,
        /// The first address, as it goes over the wire.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// A line of a GPIO sink.
    Gpio(&'a str),
}

impl Place {
    /// The connector whose sinks it is for.
    #[must_use]
    pub const fn connector(&self) -> &'static str {
        match self {
            Self::Mqtt(_) => "mqtt",
            Self::Kafka(_) => "kafka",
            Self::ModbusField(_) | Self::ModbusRange { .. } => "modbus",
            Self::Gpio(_) => "gpio",
        }
    }

    /// Whether a message may be written there. All that is written has to lie within it.
    #[must_use]
    pub fn allows(&self, target: Target<'_>) -> bool {
        match (self, target) {
            (Self::Mqtt(filter), Target::Mqtt(topic)) => filter.matches(topic),
            (Self::Kafka(names), Target::Kafka(name)) | (Self::Gpio(names), Target::Gpio(name)) => {
                names.matches(name)
            }
            (Self::ModbusField(names), Target::Modbus { field, .. }) => names.matches(field),
            (
                Self::ModbusRange { coils, first, last },
                Target::Modbus { coils: of_coils, first: from, last: to, .. },
            ) => *coils == of_coils && *first <= from && to <= *last,
            _ => false,
        }
    }
}

impl TopicFilter {
    /// Whether a topic is among those that are meant. Those that begin with `$` belong to the broker, and no filter that begins
    /// with a wildcard means them (MQTT 5.0, section 4.7.2).
    fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let (mut filter, mut levels) = (self.0.split('/'), topic.split('/'));
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }
}

impl Names {
    /// Whether a name is among those that are meant.
    fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.0 == name,
        }
    }

    /// The one name that it is, if it is one.
    #[must_use]
    pub fn one(&self) -> Option<&str> {
        (!self.0.ends_with('*')).then_some(self.0.as_str())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mqtt(TopicFilter(filter)) => write!(f, "mqtt:publish:{filter}"),
            Self::Kafka(Names(names)) => write!(f, "kafka:produce:{names}"),
            Self::ModbusField(Names(names)) => write!(f, "modbus:write:{names}"),
            Self::ModbusRange { coils, first, last } => {
                let table = if *coils { COIL } else { HOLDING };
                write!(f, "modbus:write:{table}:{first}-{last}")
            }
            Self::Gpio(Names(names)) => write!(f, "gpio:write:{names}"),
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mqtt(topic) | Self::Kafka(topic) => write!(f, "topic {topic:?}"),
            Self::Modbus { field, coils, first, last } => {
                let table = if *coils { COIL } else { HOLDING };
                write!(f, "field {field:?} ({table} {first}")?;
                if first == last {
                    f.write_str(")")
                } else {
                    write!(f, "-{last})")
                }
            }
            Self::Gpio(line) => write!(f, "line {line:?}"),
        }
    }
}

const COIL: &str = "coil";
const HOLDING: &str = "holding";

/// The beginnings of what is a place, with what follows, for people.
pub(crate) const FORMS: [&str; 5] = [
    "mqtt:publish:FILTER",
    "kafka:produce:TOPIC",
    "modbus:write:FIELD",
    "modbus:write:holding:FIRST-LAST",
    "gpio:write:LINE",
];

/// The connectors that a place can be one of.
pub(crate) const CONNECTORS: [&str; 4] = ["mqtt", "kafka", "modbus", "gpio"];

/// A text that is no place: why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why: &str| Err(PlaceError(why.to_owned()));
        if text.len() > PLACE_MAX {
            return refuse("it is longer than 256 bytes");
        }
        if text.chars().any(char::is_control) {
            return refuse("it has control characters");
        }
        let mut parts = text.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("mqtt"), Some("publish"), Some(filter)) => filter_of(filter).map(Self::Mqtt),
            (Some("kafka"), Some("produce"), Some(names)) => names_of(names).map(Self::Kafka),
            (Some("gpio"), Some("write"), Some(names)) => names_of(names).map(Self::Gpio),
            (Some("modbus"), Some("write"), Some(rest)) => match rest.split_once(':') {
                Some((table @ (COIL | HOLDING), range)) => {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    match (first.parse(), last.parse()) {
                        (Ok(first), Ok(last)) if first <= last => {
                            Ok(Self::ModbusRange { coils: table == COIL, first, last })
                        }
                        _ => refuse("the addresses are two numbers from 0 to 65535, as in 100-119"),
                    }
                }
                Some(_) => refuse("only `coil` and `holding` have addresses that can be written"),
                None => names_of(rest).map(Self::ModbusField),
            },
            (Some("mqtt"), ..) => refuse("of MQTT there is `publish`"),
            (Some("kafka"), ..) => refuse("of Kafka there is `produce`"),
            (Some("modbus" | "gpio"), ..) => refuse("of machines there is `write`"),
            _ => refuse("it names no connector"),
        }
    }
}

fn filter_of(text: &str) -> Result<TopicFilter, PlaceError> {
    let levels: Vec<&str> = text.split('/').collect();
    let hash = levels.iter().position(|level| level.contains('#'));
    if text.is_empty() {
        return Err(PlaceError("there is no filter of topics".to_owned()));
    }
    if hash.is_some_and(|at| at + 1 != levels.len() || levels.get(at) != Some(&"#")) {
        return Err(PlaceError("`#` is a level of its own, and the last one".to_owned()));
    }
    if levels.iter().any(|level| level.contains('+') && *level != "+") {
        return Err(PlaceError("`+` is a level of its own".to_owned()));
    }
    Ok(TopicFilter(text.to_owned()))
}

fn names_of(text: &str) -> Result<Names, PlaceError> {
    let name = text.strip_suffix('*').unwrap_or(text);
    if text.is_empty() {
        return Err(PlaceError("there is no name".to_owned()));
    }
    if name.contains('*') {
        return Err(PlaceError("`*` stands at the end only".to_owned()));
    }
    Ok(Names(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(place: &str, target: Target<'_>) -> bool {
        place.parse::<Place>().unwrap().allows(target)
    }

    #[test]
    fn topics_are_matched_as_a_broker_matches_them() {
        for (filter, topic, matches) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("+/b", "/b", true),
            ("#", "a/b", true),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("a", "A", false),
        ] {
            assert_eq!(
                allows(&format!("mqtt:publish:{filter}"), Target::Mqtt(topic)),
                matches,
                "{filter} {topic}"
            );
        }
        assert!(!allows("mqtt:publish:#", Target::Kafka("a")));
    }

    #[test]
    fn names_and_addresses() {
        assert!(allows("kafka:produce:alarms.*", Target::Kafka("alarms.hall-3")));
        assert!(!allows("kafka:produce:alarms.*", Target::Kafka("orders")));
        assert!(allows("gpio:write:lamp", Target::Gpio("lamp")));
        assert!(!allows("gpio:write:lamp", Target::Gpio("lamp-2")));
        let target = |coils, first, last| Target::Modbus { field: "speed", coils, first, last };
        assert!(allows("modbus:write:speed", target(false, 7, 8)));
        assert!(allows("modbus:write:*", target(true, 7, 7)));
        assert!(!allows("modbus:write:pump", target(false, 7, 8)));
        assert!(allows("modbus:write:holding:7-8", target(false, 7, 8)));
        assert!(allows("modbus:write:coil:7", target(true, 7, 7)));
        // The second register lies outside.
        assert!(!allows("modbus:write:holding:1-7", target(false, 7, 8)));
        assert!(!allows("modbus:write:holding:8-9", target(false, 7, 8)));
        assert!(!allows("modbus:write:coil:0-65535", target(false, 7, 8)));
    }

    #[test]
    fn what_is_no_place_says_why() {
        let long = format!("gpio:write:{}", "a".repeat(300));
        for (text, says) in [
            ("mqtt:publish:", "no filter"),
            ("mqtt:publish:a/#/b", "the last one"),
            ("mqtt:publish:a#", "the last one"),
            ("mqtt:publish:a+/b", "`+` is a level"),
            ("mqtt:subscribe:a", "there is `publish`"),
            ("kafka:produce:", "no name"),
            ("kafka:produce:a*b", "at the end only"),
            ("kafka:consume:a", "there is `produce`"),
            ("modbus:write:holding:9-7", "two numbers"),
            ("modbus:write:holding:0-65536", "two numbers"),
            ("modbus:write:input:0-9", "only `coil` and `holding`"),
            ("modbus:read:a", "there is `write`"),
            ("gpio:read:a", "there is `write`"),
            ("gpio:write:a\nb", "control characters"),
            (&long, "longer than 256"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
