//! Values of MQTT: addresses, qualities of service, topics.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use super::{Parsed, ValueError, refuse};

/// The longest string MQTT can carry, in bytes (MQTT 5.0, section 1.5.4).
const MQTT_STRING_MAX: usize = 65_535;

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

/// Address of an MQTT broker: `mqtt://host:port`, or over WebSocket
/// `ws://host:port/path`; `mqtts://` and `wss://` with TLS. The port may be left
/// out: 1883, with TLS 8883, for WebSocket 80 and 443. Without user or password:
/// an address is printed and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

/// What is spoken below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheme {
    name: &'static str,
    tls: bool,
    websocket: bool,
    port: u16,
}

const SCHEMES: [Scheme; 4] = [
    Scheme { name: "mqtt", tls: false, websocket: false, port: 1883 },
    Scheme { name: "mqtts", tls: true, websocket: false, port: 8883 },
    Scheme { name: "ws", tls: false, websocket: true, port: 80 },
    Scheme { name: "wss", tls: true, websocket: true, port: 443 },
];

impl BrokerUrl {
    /// Whether the connection uses TLS.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.scheme.tls
    }

    /// Whether MQTT is carried over WebSocket (MQTT 5.0, section 6).
    #[must_use]
    pub const fn websocket(&self) -> bool {
        self.scheme.websocket
    }

    /// Host name or address; an IPv6 address is without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Host name or address as an address has it; IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The path of a WebSocket, from its slash on; empty without WebSocket.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for BrokerUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORM: &str = "must be mqtt://host:port or mqtts://host:port, \
                            over WebSocket ws://host:port/path or wss://host:port/path";
        let Ok(url) = url::Url::parse(text) else { return refuse(FORM) };
        let Some(scheme) = SCHEMES.into_iter().find(|scheme| scheme.name == url.scheme()) else {
            return refuse(FORM);
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must not contain a user or password: use username and password-file");
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return refuse(FORM);
        };
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("must not contain ? or #");
        }
        let path = match (scheme.websocket, url.path()) {
            (true, path) => path.to_owned(),
            (false, "" | "/") => String::new(),
            (false, _) => {
                return refuse("must end after the port: without WebSocket there is no path");
            }
        };
        let port = url.port().unwrap_or(scheme.port);
        if port == 0 {
            return refuse("must have a port from 1 to 65535");
        }
        Ok(Self { scheme, host: host.to_owned(), port, path })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme.name, self.host, self.port, self.path)
    }
}

as_text!(BrokerUrl, "a broker address");
inline_schema!(
    BrokerUrl,
    json_schema!({
        "title": "broker address",
        "type": "string",
        "pattern": "^([mM][qQ][tT][tT][sS]?://[^/?#@]+/?|[wW][sS][sS]?://[^/?#@]+(/[^?#]*)?)$",
        "examples": ["mqtt://localhost:1883"],
    })
);

/// The name of a group that shares a subscription (MQTT 5.0, section 4.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareName(String);

impl ShareName {
    /// The name as MQTT has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        mqtt_string(text)?;
        if text.contains(['/', '+', '#']) {
            return refuse("must not contain /, + or #");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(ShareName, "the name of a group");
inline_schema!(
    ShareName,
    json_schema!({ "title": "name", "type": "string", "minLength": 1, "pattern": "^[^/+#]+$" })
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

    /// Whether it says itself with which group it is shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.starts_with("$share/")
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

/// The topic a sink publishes to: a literal topic, in which `{topic}`, `{key}`
/// and `{header:name}` stand for those of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
    Header(String),
}

impl TopicTemplate {
    /// The topic for one message. `key` is absent when the message has none,
    /// and `header` gives a header's value, if the message has it.
    ///
    /// # Errors
    ///
    /// When the result is not a topic one can publish to: empty, too long,
    /// with wildcards or the null character, or the template asks for a key
    /// or a header that the message does not have.
    pub fn render<'m>(
        &self,
        topic: &str,
        key: Option<&str>,
        header: impl Fn(&str) -> Option<&'m str>,
    ) -> Result<String, ValueError> {
        let mut rendered = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Topic => rendered.push_str(topic),
                Part::Key => match key {
                    Some(key) => rendered.push_str(key),
                    None => return refuse("needs a key, and the message has none"),
                },
                Part::Header(name) => match header(name) {
                    Some(value) => rendered.push_str(value),
                    None => {
                        return refuse(format!(
                            "needs the header {name}, and the message has none"
                        ));
                    }
                },
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
        const BRACES: &str = "must use braces only as {topic}, {key} and {header:name}";
        publishable(text)?;
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at_checked(open).unwrap_or((rest, ""));
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let inside = from_brace.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let (part, after) = match inside {
                Some(("topic", after)) => (Part::Topic, after),
                Some(("key", after)) => (Part::Key, after),
                Some((name, after)) => match name.strip_prefix("header:") {
                    Some(name) if !name.is_empty() && !name.contains('{') => {
                        (Part::Header(name.to_owned()), after)
                    }
                    _ => return refuse(BRACES),
                },
                None => return refuse(BRACES),
            };
            parts.push(part);
            rest = after;
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
            Part::Header(name) => write!(f, "{{header:{name}}}"),
        })
    }
}

as_text!(TopicTemplate, "a topic");
inline_schema!(
    TopicTemplate,
    json_schema!({
        "title": "topic",
        "type": "string",
        "pattern": "^([^+#{}]|\\{topic\\}|\\{key\\}|\\{header:[^+#{}]+\\})+$",
        "examples": ["plant/alerts", "alerts/{topic}", "factory/{header:line}/alerts"],
    })
);

/// A topic that a last will is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillTopic(String);

impl WillTopic {
    /// The topic as MQTT has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WillTopic {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        publishable(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for WillTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(WillTopic, "a topic");
inline_schema!(
    WillTopic,
    json_schema!({ "title": "topic", "type": "string", "minLength": 1, "pattern": "^[^+#]+$" })
);
