//! The grants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::place::{self, Place};
use crate::url::Authority;

/// Longest name of a bucket, as of everything that has a name.
const NAME_MAX: usize = 40;

/// The methods of HTTP that can be granted (RFC 9110, section 9; RFC 5789 for PATCH). A request that is tunnelled or traced
/// cannot.
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

/// What a step may be granted. There is no grant for file systems or sockets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// Reading the time (wasi:clocks). Waiting is not part of it.
    Clocks,
    /// Random numbers (wasi:random/random).
    Random,
    /// Log lines (wasi:logging).
    Log,
    /// The configuration of the whole stage (wasi:config). A step's own configuration needs no grant: `init` is given it.
    Config,
    /// The values of a bucket (millrace:step/key-value): `kv:BUCKET`, or `kv:read:BUCKET`.
    KeyValue {
        /// Whether it may change them.
        access: Access,
        /// Name of the bucket.
        bucket: String,
    },
    /// Requests to a server (millrace:step/http): `http:METHOD:HOST`, or `http:METHOD:HOST:PORT`.
    Http {
        /// The method, in lower case.
        method: String,
        /// The server. Without a port it is the one of the URL's scheme.
        server: Authority,
    },
    /// What its messages may be written to by sinks of a connector. A step without one for a connector is held to the sinks'
    /// settings alone; a step with some is held to these.
    Write(Place),
}

/// What may be done with the values of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// They may be read.
    Read,
    /// They may be read and changed.
    Write,
}

impl Grant {
    /// How each grant is written, for people.
    pub const FORMS: [&'static str; 12] = {
        let [mqtt, kafka, field, range, line] = place::FORMS;
        let [kv, read, http] = ["kv:BUCKET", "kv:read:BUCKET", "http:METHOD:HOST"];
        ["clocks", "random", "log", "config", kv, read, http, mqtt, kafka, field, range, line]
    };

    /// The regular expression of each grant, for the JSON Schema.
    pub const PATTERN: &'static str = "^(clocks|random|log|config|kv:(read:)?[a-z][a-z0-9-]{0,39}|\
        http:(get|head|post|put|patch|delete):[a-z0-9.\\[\\]:-]{1,260}|mqtt:publish:.{1,243}|\
        kafka:produce:[^*]{0,242}\\*?|modbus:write:[^*]{0,242}\\*?|gpio:write:[^*]{0,245}\\*?)$";

    /// The interfaces that it opens, without their versions.
    #[must_use]
    pub const fn interfaces(&self) -> &'static [&'static str] {
        match self {
            Self::Clocks => &["wasi:clocks/monotonic-clock", "wasi:clocks/wall-clock"],
            Self::Random => &["wasi:random/random"],
            Self::Log => &["wasi:logging/logging"],
            Self::Config => &["wasi:config/store"],
            Self::KeyValue { .. } => &["millrace:step/key-value"],
            Self::Http { .. } => &["millrace:step/http"],
            Self::Write(_) => &[],
        }
    }

    /// Whether the provider that a stage is linked to has to know of it: it holds each request against it.
    #[must_use]
    pub const fn is_outside(&self) -> bool {
        matches!(self, Self::KeyValue { .. } | Self::Http { .. })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clocks => f.write_str("clocks"),
            Self::Random => f.write_str("random"),
            Self::Log => f.write_str("log"),
            Self::Config => f.write_str("config"),
            Self::KeyValue { access: Access::Write, bucket } => write!(f, "kv:{bucket}"),
            Self::KeyValue { access: Access::Read, bucket } => write!(f, "kv:read:{bucket}"),
            Self::Http { method, server } => write!(f, "http:{method}:{server}"),
            Self::Write(place) => place.fmt(f),
        }
    }
}

/// A text that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownGrant {
    /// Nothing that there is.
    #[error("no such grant: `{0}`; what can be granted is {forms}", forms = Grant::FORMS.join(", "))]
    NoSuch(String),
    /// A bucket with a wrong name.
    #[error("`{grant}`: `{bucket}` is no name of a bucket: lower-case letters, digits and hyphens, a letter first, 40 at most")]
    Bucket {
        /// The grant.
        grant: String,
        /// What should be the bucket.
        bucket: String,
    },
    /// Not a method.
    #[error("`{grant}`: `{method}` is no method that can be granted; these are {methods}", methods = METHODS.join(", "))]
    Method {
        /// The grant.
        grant: String,
        /// What should be the method.
        method: String,
    },
    /// Not a server.
    #[error("`{grant}`: {reason}: write the name of one server, such as `http:get:api.example.com` or `http:get:10.0.0.7:8080`")]
    Server {
        /// The grant.
        grant: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a place that messages can be written to.
    #[error("`{grant}`: {reason}; what can be granted of sinks is {forms}", forms = place::FORMS.join(", "))]
    Place {
        /// The grant.
        grant: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl UnknownGrant {
    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> String {
        match self {
            Self::NoSuch(_) => format!("what can be granted is {}", Grant::FORMS.join(", ")),
            Self::Bucket { .. } => "write `kv:BUCKET`, or `kv:read:BUCKET` for a step that only reads; a bucket's name has \
                lower-case letters, digits and hyphens, a letter first, 40 at most"
                .to_owned(),
            Self::Method { .. } => {
                format!("write `http:METHOD:HOST`; the methods are {}", METHODS.join(", "))
            }
            Self::Server { reason, .. } => format!(
                "{reason}; name one server, such as `http:get:api.example.com` or `http:get:10.0.0.7:8080`"
            ),
            Self::Place { reason, .. } => {
                format!("{reason}; write one of {}", place::FORMS.join(", "))
            }
        }
    }
}

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let grant = || shown(text);
        Ok(match text {
            "clocks" => Self::Clocks,
            "random" => Self::Random,
            "log" => Self::Log,
            "config" => Self::Config,
            _ => match text.split_once(':') {
                Some(("kv", rest)) => {
                    let (access, bucket) = match rest.strip_prefix("read:") {
                        Some(bucket) => (Access::Read, bucket),
                        None => (Access::Write, rest),
                    };
                    if !is_name(bucket) {
                        return Err(UnknownGrant::Bucket { grant: grant(), bucket: shown(bucket) });
                    }
                    Self::KeyValue { access, bucket: bucket.to_owned() }
                }
                Some(("http", rest)) => {
                    let (method, server) = rest.split_once(':').unwrap_or((rest, ""));
                    if !METHODS.contains(&method) {
                        return Err(UnknownGrant::Method { grant: grant(), method: shown(method) });
                    }
                    let server = server.parse().map_err(|error: crate::UrlError| {
                        UnknownGrant::Server { grant: grant(), reason: error.to_string() }
                    })?;
                    Self::Http { method: method.to_owned(), server }
                }
                Some((connector, _)) if place::CONNECTORS.contains(&connector) => {
                    let place: Result<Place, _> = text.parse();
                    Self::Write(place.map_err(|error| UnknownGrant::Place {
                        grant: grant(),
                        reason: error.to_string(),
                    })?)
                }
                _ => return Err(UnknownGrant::NoSuch(grant())),
            },
        })
    }
}

/// A text of foreign length, for a message.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Whether this is a name, as of everything in a definition: `[a-z][a-z0-9-]{0,39}`.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_written_as_they_are_read() {
        for text in [
            "clocks",
            "random",
            "log",
            "config",
            "kv:limits",
            "kv:read:limits",
            "http:get:api.example.com",
            "http:post:10.0.0.7:8080",
            "http:get:[::1]:80",
            "mqtt:publish:plant/+/alarms/#",
            "kafka:produce:alarms.*",
            "modbus:write:valve-1",
            "modbus:write:holding:100-119",
            "modbus:write:coil:7-7",
            "gpio:write:lamp",
        ] {
            let grant: Grant = text.parse().unwrap();
            assert_eq!(grant.to_string(), text);
            let json = serde_json::to_string(&grant).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Grant>(&json).unwrap(), grant);
        }
    }

    #[test]
    fn what_is_no_grant_is_refused_with_what_would_be_one() {
        for (text, says) in [
            ("files", "no such grant: `files`; what can be granted is clocks"),
            ("", "no such grant"),
            ("kv:", "is no name of a bucket"),
            ("kv:Limits", "is no name of a bucket"),
            ("kv:a.b", "is no name of a bucket"),
            ("kv:write:a", "is no name of a bucket"),
            ("http:", "no method that can be granted; these are get"),
            ("http:GET:a", "no method that can be granted"),
            ("http:connect:a", "no method that can be granted"),
            ("http:get:", "write the name of one server"),
            ("http:get:*", "write the name of one server"),
            ("http:get:a/b", "write the name of one server"),
            ("http:get:user@a", "write the name of one server"),
            ("http:get:a:99999", "write the name of one server"),
            (
                "mqtt:subscribe:a",
                "of MQTT there is `publish`; what can be granted of sinks is mqtt:publish:FILTER",
            ),
            ("modbus:", "of machines there is `write`"),
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
