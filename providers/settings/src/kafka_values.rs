//! Values that only the Kafka connector has: brokers, topics, partitions, where
//! to start, and the topic a sink writes to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::list::{Items, LIST_MAX, items, text_or_list};
use crate::values::{ValueError, refuse};

/// Port of a broker that names none.
const PORT: u16 = 9092;

/// Longest topic name (Kafka, `org.apache.kafka.common.internals.Topic`).
const TOPIC_MAX: usize = 249;

/// Addresses to ask for the cluster: `host:port`, several separated by commas.
/// The port is 9092 when left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokers(Vec<(String, u16)>);

impl FromStr for Brokers {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        items(text)?.iter().map(|item| broker(item)).collect::<Result<_, _>>().map(Self)
    }
}

fn broker(text: &str) -> Result<(String, u16), ValueError> {
    const FORM: &str = "must be host:port, several separated by commas";
    if text.contains('@') {
        return refuse("must not contain a user or password: use username and password-file");
    }
    if text.contains("://") {
        return refuse("must be host:port without a scheme; TLS is a setting of its own, tls");
    }
    // An IPv6 address stands in brackets; a bare one has no port.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) if host.contains(':') => (format!("[{host}]"), None),
        Some((host, rest)) if host.contains(':') => match rest.strip_prefix(':') {
            Some(port) => (format!("[{host}]"), Some(port)),
            None => return refuse(FORM),
        },
        Some(_) => return refuse(FORM),
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c);
    if host.is_empty() || host.len() > 255 || !host.chars().all(plain) {
        return refuse(FORM);
    }
    match port.map_or(Ok(PORT), str::parse) {
        Ok(port) if port > 0 => Ok((host, port)),
        _ => refuse("must have a port from 1 to 65535"),
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (host, port)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{host}:{port}")?;
        }
        Ok(())
    }
}

text_or_list!(
    Brokers,
    "broker addresses",
    json_schema!({ "title": "brokers", "anyOf": [
        { "type": "string", "minLength": 1, "examples": ["localhost:9092"] },
        { "type": "array", "minItems": 1, "items": { "type": "string" } },
    ] })
);

/// Topics a source reads: names, or a regular expression that begins with `^`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(Vec<String>);

impl Topics {
    /// The names and regular expressions, as librdkafka takes them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether one of them is a regular expression.
    #[must_use]
    pub fn has_pattern(&self) -> bool {
        self.0.iter().any(|topic| topic.starts_with('^'))
    }
}

impl FromStr for Topics {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A regular expression may hold commas.
        let topics =
            if text.starts_with('^') { vec![text.trim().to_owned()] } else { items(text)? };
        let mut seen = BTreeSet::new();
        for topic in &topics {
            if topic.starts_with('^') {
                if topic.contains('\0') || topic.len() > 1_000 {
                    return refuse("must have a regular expression of at most 1000 bytes");
                }
            } else if let Some(wrong) = wrong_topic(topic) {
                return refuse(format!(
                    "must be a topic, several separated by commas, or a regular expression that \
                     begins with ^: {wrong}"
                ));
            }
            if !seen.insert(topic) {
                return refuse(format!("must name {topic} only once"));
            }
        }
        Ok(Self(topics))
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            several if self.has_pattern() => {
                f.write_str(&serde_json::Value::from(several.to_vec()).to_string())
            }
            several => f.write_str(&several.join(",")),
        }
    }
}

text_or_list!(
    Topics,
    "topics",
    json_schema!({ "title": "topics", "anyOf": [
        { "type": "string", "minLength": 1, "examples": ["plant.temperature", "^plant\\..*"] },
        { "type": "array", "minItems": 1, "items": { "type": "string" } },
    ] })
);

/// What is wrong with a topic's name.
fn wrong_topic(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a name is empty".to_owned());
    }
    if name.len() > TOPIC_MAX {
        return Some(format!("a name has at most {TOPIC_MAX} characters"));
    }
    if matches!(name, "." | "..") {
        return Some("a name cannot be . or ..".to_owned());
    }
    let wrong = name.chars().find(|c| !legal(*c))?;
    Some(format!("a name has letters, digits, dot, underscore and hyphen, not {wrong:?}"))
}

const fn legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Partitions by number: `0,1,5-7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions(BTreeSet<i32>);

impl Partitions {
    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i32> {
        self.0.iter().copied()
    }
}

impl FromStr for Partitions {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORM: &str = "must be partition numbers and ranges, such as 0,1,5-7";
        let number = |text: &str| -> Result<i32, ValueError> {
            match text.trim().parse() {
                Ok(number) if number >= 0 => Ok(number),
                _ => refuse(FORM),
            }
        };
        let mut all = BTreeSet::new();
        for item in items(text)? {
            let (first, last) = item.split_once('-').unwrap_or((&item, &item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return refuse(FORM);
            }
            if usize::try_from(last - first).unwrap_or(usize::MAX) >= LIST_MAX {
                return refuse(format!("must name at most {LIST_MAX}"));
            }
            all.extend(first..=last);
        }
        if all.len() > LIST_MAX {
            return refuse(format!("must name at most {LIST_MAX}"));
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek().is_some_and(|next| Some(*next) == last.checked_add(1)) {
                last = rest.next().unwrap_or(last);
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

text_or_list!(
    Partitions,
    "partition numbers",
    json_schema!({ "title": "partitions", "anyOf": [
        { "type": "string", "pattern": "^[0-9]+(-[0-9]+)?( *, *[0-9]+(-[0-9]+)?)*$", "examples": ["0,1,5-7"] },
        { "type": "integer", "minimum": 0 },
        { "type": "array", "minItems": 1, "items": { "type": ["integer", "string"] } },
    ] })
);

/// Where a partition is read from that has no stored offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the oldest record there is.
    #[default]
    Earliest,
    /// After the newest record there is at that time.
    Latest,
    /// At the first record with this time or a later one: milliseconds since
    /// the Unix epoch.
    At(i64),
}

impl FromStr for Start {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => match chrono::DateTime::parse_from_rfc3339(time) {
                Ok(time) if time.timestamp_millis() >= 0 => Ok(Self::At(time.timestamp_millis())),
                Ok(_) => refuse("must not be before 1970"),
                Err(_) => refuse(
                    "must be earliest, latest or a time as in RFC 3339, such as 2026-11-21T03:00:00Z",
                ),
            },
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::At(millis) => {
                let time = chrono::DateTime::from_timestamp_millis(*millis).unwrap_or_default();
                let subsec = if millis % 1_000 == 0 { "" } else { "%.3f" };
                write!(f, "{}", time.format(&format!("%Y-%m-%dT%H:%M:%S{subsec}Z")))
            }
        }
    }
}

text_or_list!(
    Start,
    "earliest, latest or a time",
    json_schema!({ "title": "start", "type": "string", "pattern": "^(earliest|latest|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].*)$" })
);

/// The topic a sink writes to: a name in which `{topic}` and `{key}` stand for
/// those of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTopic {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
}

impl KafkaTopic {
    /// The topic for one message, written over `into`. `key` is absent when the
    /// message has none, or one that is not text. In what is inserted `/`
    /// becomes a dot, and every other character that Kafka does not allow
    /// becomes an underscore.
    ///
    /// # Errors
    ///
    /// When no topic can be made: a key is asked for and absent, or the result
    /// is empty, too long, `.` or `..`.
    pub fn render(
        &self,
        topic: &str,
        key: Option<&str>,
        into: &mut String,
    ) -> Result<(), ValueError> {
        into.clear();
        for part in &self.parts {
            match (part, key) {
                (Part::Text(text), _) => into.push_str(text),
                (Part::Topic, _) => into.extend(topic.chars().map(mapped)),
                (Part::Key, Some(key)) => into.extend(key.chars().map(mapped)),
                (Part::Key, None) => return refuse("needs a key, and the message has none"),
            }
        }
        match wrong_topic(into) {
            Some(wrong) => refuse(wrong),
            None => Ok(()),
        }
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

const fn mapped(c: char) -> char {
    match c {
        '/' => '.',
        c if legal(c) => c,
        _ => '_',
    }
}

impl FromStr for KafkaTopic {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORM: &str = "must have letters, digits, dot, underscore and hyphen, and braces only \
                            as {topic} and {key}";
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((name, after)) = after.split_once('}') else { return refuse(FORM) };
            parts.push(match name {
                "topic" => Part::Topic,
                "key" => Part::Key,
                _ => return refuse(FORM),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let literal: String = parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect();
        if !literal.chars().all(legal) {
            return refuse(FORM);
        }
        // What is inserted makes it longer, never shorter.
        let template = Self { parts };
        let least = template.literal().unwrap_or("x");
        match wrong_topic(least) {
            _ if text.is_empty() => refuse("must not be empty"),
            Some(wrong) => refuse(format!("must be a topic: {wrong}")),
            None if literal.len() > TOPIC_MAX => {
                refuse(format!("must have at most {TOPIC_MAX} characters"))
            }
            None => Ok(template),
        }
    }
}

impl fmt::Display for KafkaTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Topic => f.write_str("{topic}"),
            Part::Key => f.write_str("{key}"),
        })
    }
}

text_or_list!(
    KafkaTopic,
    "a topic",
    json_schema!({
        "title": "topic",
        "type": "string",
        "pattern": "^([A-Za-z0-9._-]|\\{topic\\}|\\{key\\})+$",
        "examples": ["plant.alerts", "alerts.{topic}"],
    })
);
