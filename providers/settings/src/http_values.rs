//! Values that only the HTTP connector has: where it listens, paths, names of headers.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::list::{Items, items, text_or_list};
use crate::values::{ValueError, refuse};

/// Longest path of a source, in bytes.
const PATH_MAX: usize = 512;

/// Most parts of a path.
const PARTS_MAX: usize = 32;

/// Longest name of a part that a path names, in bytes.
const PART_NAME_MAX: usize = 40;

/// Longest name of a header, in bytes.
const HEADER_NAME_MAX: usize = 128;

/// Most headers that a source takes over.
const HEADERS_MAX: usize = 32;

/// Headers that are never taken over into a message: they hold credentials.
const SECRET: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// Deserialises through [`FromStr`], and serialises through [`fmt::Display`].
macro_rules! as_text {
    ($type:ident, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
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

/// Where a server listens: an IP address and a port that is not 0, such as `127.0.0.1:8480` or `[::]:8480`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen(SocketAddr);

impl Listen {
    /// This machine alone, port 8480.
    pub const DEFAULT: Self = Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8480));

    /// The address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse::<SocketAddr>() {
            // A port that the system chooses is one that no client knows.
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            Ok(_) => refuse("must name a port from 1 to 65535"),
            Err(_) => refuse(
                "must be an IP address and a port, such as 127.0.0.1:8480, or 0.0.0.0:8480 for all addresses",
            ),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(
    Listen,
    json_schema!({ "title": "address and port", "type": "string", "pattern": "^.+:[0-9]{1,5}$",
        "examples": ["127.0.0.1:8480", "0.0.0.0:8480"] })
);

/// One part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Literal(String),
    /// Any one part, under this name.
    Named(String),
}

/// The path of a source: `/orders`, or with parts that may be anything, `/machines/{machine}/state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

impl PathTemplate {
    /// Its parts, those between the slashes.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The names of the parts that may be anything.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Named(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// Whether every path that one of them takes is taken by the other: names are only names.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Part, &Part)| match (a, b) {
            (Part::Literal(a), Part::Literal(b)) => a == b,
            (Part::Named(_), Part::Named(_)) => true,
            _ => false,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl FromStr for PathTemplate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(rest) = text.strip_prefix('/').filter(|rest| !rest.is_empty()) else {
            return refuse("must be a path that begins with a slash, such as /orders");
        };
        if text.len() > PATH_MAX {
            return refuse(format!("must be at most {PATH_MAX} bytes"));
        }
        let parts: Vec<Part> = rest.split('/').map(part).collect::<Result<_, _>>()?;
        if parts.len() > PARTS_MAX {
            return refuse(format!("must have at most {PARTS_MAX} parts"));
        }
        let path = Self(parts);
        let mut seen = BTreeSet::new();
        if let Some(twice) = path.names().find(|name| !seen.insert(*name)) {
            return refuse(format!("must name {{{twice}}} only once"));
        }
        Ok(path)
    }
}

fn part(text: &str) -> Result<Part, ValueError> {
    if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        return match name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= PART_NAME_MAX
            && !name.starts_with("millrace-")
            && name.bytes().all(plain)
        {
            true => Ok(Part::Named(name.to_owned())),
            false => refuse(format!(
                "must name its parts with lower-case letters, digits and hyphens, a letter first, at most \
                 {PART_NAME_MAX}: {{machine}}"
            )),
        };
    }
    // What a path is made of without percent signs (RFC 3986, section 3.3, `pchar`), so that there is one way to write it.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    match text {
        "" => refuse("must have no empty parts, and no slash at the end"),
        "." | ".." => refuse("must not have . or .. as a part"),
        text if text.bytes().all(plain) => Ok(Part::Literal(text.to_owned())),
        _ => refuse(
            "must have parts of letters, digits and -._~!$&'()*+,;=:@, or a name in braces, such as {machine}",
        ),
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Literal(text) => write!(f, "/{text}")?,
                Part::Named(name) => write!(f, "/{{{name}}}")?,
            }
        }
        Ok(())
    }
}

as_text!(
    PathTemplate,
    json_schema!({ "title": "path", "type": "string", "pattern": "^/.+", "maxLength": PATH_MAX,
        "examples": ["/orders", "/machines/{machine}"] })
);

/// The name of a header of a request, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One of this program's own. For constants; the tests read them.
    pub(crate) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl FromStr for HeaderName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A token of RFC 9110, section 5.6.2.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > HEADER_NAME_MAX || !text.bytes().all(plain) {
            return refuse(format!(
                "must be the name of a header, at most {HEADER_NAME_MAX} letters, digits and hyphens"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(
    HeaderName,
    json_schema!({ "title": "name of a header", "type": "string", "minLength": 1, "maxLength": HEADER_NAME_MAX })
);

/// Names of headers that become headers of the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderNames(Vec<HeaderName>);

impl HeaderNames {
    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(HeaderName::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for HeaderNames {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut names: Vec<HeaderName> = Vec::new();
        for item in items(text)? {
            let name: HeaderName = item.parse()?;
            if SECRET.contains(&name.as_str()) {
                return refuse(format!("must not name {name}: it holds credentials"));
            }
            if name.as_str().starts_with("millrace-") {
                return refuse(format!(
                    "must not name {name}: names that begin so are Millrace's own"
                ));
            }
            if names.contains(&name) {
                return refuse(format!("must name {name} only once"));
            }
            names.push(name);
        }
        if names.len() > HEADERS_MAX {
            return refuse(format!("must name at most {HEADERS_MAX}"));
        }
        Ok(Self(names))
    }
}

impl fmt::Display for HeaderNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, name) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

text_or_list!(
    HeaderNames,
    "names of headers",
    json_schema!({ "title": "names of headers", "anyOf": [
        { "type": "string", "minLength": 1 },
        { "type": "array", "minItems": 1, "maxItems": HEADERS_MAX, "items": { "type": "string" } },
    ] })
);

/// A media type without parameters, or one with any subtype: `application/json`, `text/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaTypes(Vec<String>);

impl MediaTypes {
    /// Whether a `Content-Type` is one of them; parameters are not looked at.
    #[must_use]
    pub fn takes(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        self.0.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => essence.get(..start.len()).is_some_and(|found| {
                found.eq_ignore_ascii_case(start) && essence.len() > start.len()
            }),
            None => known.eq_ignore_ascii_case(essence),
        })
    }
}

impl FromStr for MediaTypes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let types = items(text)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        for name in &types {
            let parts = name.split_once('/');
            let right = parts.is_some_and(|(kind, sub)| {
                !kind.is_empty()
                    && !sub.is_empty()
                    && kind.bytes().all(plain)
                    && (sub == "*" || sub.bytes().all(plain))
            });
            if !right || name.len() > HEADER_NAME_MAX {
                return refuse(
                    "must be a media type without parameters, such as application/json or text/*",
                );
            }
        }
        if types.len() > HEADERS_MAX {
            return refuse(format!("must name at most {HEADERS_MAX}"));
        }
        Ok(Self(types))
    }
}

impl fmt::Display for MediaTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

text_or_list!(
    MediaTypes,
    "media types",
    json_schema!({ "title": "media types", "anyOf": [
        { "type": "string", "minLength": 1, "examples": ["application/json"] },
        { "type": "array", "minItems": 1, "maxItems": HEADERS_MAX, "items": { "type": "string" } },
    ] })
);

/// Methods that a source takes: `POST`, `PUT` or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods(BTreeSet<&'static str>);

impl Methods {
    /// The methods, as they are in a request.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }
}

impl Default for Methods {
    fn default() -> Self {
        Self(BTreeSet::from(["POST"]))
    }
}

impl FromStr for Methods {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut methods = BTreeSet::new();
        for item in items(text)? {
            let method = match item.as_str() {
                "POST" => "POST",
                "PUT" => "PUT",
                _ => return refuse("must be POST, PUT or both"),
            };
            if !methods.insert(method) {
                return refuse(format!("must name {method} only once"));
            }
        }
        Ok(Self(methods))
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.iter().collect();
        f.write_str(&all.join(","))
    }
}

text_or_list!(
    Methods,
    "methods",
    json_schema!({ "title": "methods", "anyOf": [
        { "enum": ["POST", "PUT", "POST,PUT"] },
        { "type": "array", "minItems": 1, "maxItems": 2, "items": { "enum": ["POST", "PUT"] } },
    ] })
);
