//! From a request to messages: everything but its payloads.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use hyper::HeaderMap;
use hyper::header::CONTENT_TYPE;
use millrace_settings::http::{HeaderNames, SourceSettings, Split};

use crate::answer::Refusal;
use crate::path;

/// Carried without being named: what a request is part of, and what makes it the same as another.
const ALWAYS: [&str; 3] = ["traceparent", "tracestate", IDEMPOTENCY_KEY];

/// By which a client says that two requests are one (IETF draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest of these and of content types, in bytes.
const SHORT_MAX: usize = 255;

/// What all messages of a request have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Common {
    /// Nanoseconds since 1970.
    pub(crate) timestamp: u64,
    pub(crate) topic: String,
    pub(crate) content_type: Option<String>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, String)>,
    /// Which of the headers tells the messages of one request apart.
    pub(crate) numbered: Option<usize>,
}

impl Common {
    /// What a request's path and head say.
    ///
    /// # Errors
    ///
    /// When a header is wrong, or the key is missing.
    pub(crate) fn of(
        settings: &SourceSettings,
        parts: &[String],
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let mut taken: Vec<(String, String)> = path::named(&settings.path, parts)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let listed = settings.headers.iter().flat_map(HeaderNames::iter);
        for name in listed.chain(ALWAYS) {
            if taken.iter().any(|(known, _)| known == name) {
                continue;
            }
            if let Some(value) = text(headers, name)? {
                taken.push((name.to_owned(), value));
            }
        }
        let value = |name: &str| taken.iter().find(|(known, _)| known == name).map(|(_, v)| v);
        let key = match &settings.key {
            None => None,
            Some(name) => match value(name.as_str()) {
                Some(value) => Some(value.clone().into_bytes()),
                None => return Err(Refusal::bad("the header with the key is missing")),
            },
        };
        if value(IDEMPOTENCY_KEY).is_some_and(|value| value.len() > SHORT_MAX) {
            return Err(Refusal::bad("the Idempotency-Key is too long"));
        }
        let timestamp = match &settings.timestamp_header {
            None => None,
            Some(name) => text(headers, name.as_str())?,
        };
        let timestamp = match timestamp {
            None => now(),
            Some(text) => time(&text).ok_or(Refusal::bad("the header with the time is wrong"))?,
        };
        let content_type = text(headers, CONTENT_TYPE.as_str())?;
        if content_type.as_ref().is_some_and(|name| name.len() > SHORT_MAX) {
            return Err(Refusal::bad("the content type is too long"));
        }
        let content_type = match settings.split {
            Split::None => content_type,
            Split::JsonArray => Some("application/json".to_owned()),
            Split::Lines => content_type.map(of_a_line),
        };
        let split = settings.split != Split::None;
        let numbered = taken.iter().position(|(name, _)| split && name == IDEMPOTENCY_KEY);
        Ok(Self { timestamp, topic: parts.join("/"), content_type, key, headers: taken, numbered })
    }

    /// Bytes of each message beside its payload, a little more than they are.
    pub(crate) fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| 16 + name.len() + value.len()).sum();
        64 + self.topic.len()
            + self.content_type.as_ref().map_or(0, String::len)
            + self.key.as_ref().map_or(0, Vec::len)
            + headers
    }
}

/// The value of a header; of several, all with commas (RFC 9110, section 5.3).
fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refusal> {
    let mut found: Option<String> = None;
    for value in headers.get_all(name) {
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Refusal::bad("a header is not in UTF-8"))?;
        match &mut found {
            Some(found) => {
                found.push_str(", ");
                found.push_str(value);
            }
            None => found = Some(value.to_owned()),
        }
    }
    Ok(found)
}

/// The type of a line, where there is a type for lines of it.
fn of_a_line(whole: String) -> String {
    let essence = whole.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-ndjson" | "application/jsonl" | "application/json-lines" => {
            "application/json".to_owned()
        }
        _ => whole,
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A time in RFC 3339, or as seconds since 1970 with at most nine decimals.
pub(crate) fn time(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(['-', ':']) {
        let (seconds, part) = text.split_once('.').unwrap_or((text, "0"));
        let plain =
            |text: &str| (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !plain(seconds) || !plain(part) || part.len() > 9 {
            return None;
        }
        let seconds: u64 = seconds.parse().ok()?;
        let nanos: u64 = format!("{part:0<9}").parse().ok()?;
        return seconds.checked_mul(1_000_000_000)?.checked_add(nanos);
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_nanos_opt()?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::StatusCode;
    use hyper::header::{HeaderName, HeaderValue};
    use millrace_settings::from_flat;

    use super::*;

    fn settings(more: &[(&str, &str)]) -> SourceSettings {
        let start = [("path", "/machines/{machine}/state"), ("auth", "none")];
        let flat: BTreeMap<String, String> =
            start.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_flat(&flat, &[]).unwrap()
    }

    fn headers(entries: &[(&'static str, &[u8])]) -> HeaderMap {
        entries
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
            })
            .collect()
    }

    fn common(
        settings: &SourceSettings,
        found: &[(&'static str, &[u8])],
    ) -> Result<Common, Refusal> {
        let parts = path::parts("/machines/m%207/state").unwrap();
        Common::of(settings, &parts, &headers(found))
    }

    #[test]
    fn path_headers_key_and_time() {
        let settings = settings(&[
            ("headers", "X-Shift,x-none"),
            ("key", "machine"),
            ("timestamp-header", "Date-Taken"),
        ]);
        let found: &[(&'static str, &[u8])] = &[
            ("x-shift", b"early"),
            ("x-other", b"not taken"),
            ("authorization", b"Bearer secret"),
            ("content-type", b"application/json"),
            ("traceparent", b"00-1-2-01"),
            ("idempotency-key", b"k1"),
            ("date-taken", b"2026-01-02T03:04:05.5Z"),
        ];
        let common = common(&settings, found).unwrap();
        assert_eq!(common.topic, "machines/m 7/state");
        assert_eq!(common.key.as_deref(), Some(b"m 7".as_slice()));
        assert_eq!(common.timestamp, 1_767_323_045_500_000_000);
        assert_eq!(common.content_type.as_deref(), Some("application/json"));
        let wanted = [
            ("machine", "m 7"),
            ("x-shift", "early"),
            ("traceparent", "00-1-2-01"),
            ("idempotency-key", "k1"),
        ];
        let found: Vec<(&str, &str)> =
            common.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, wanted);
        assert_eq!(common.numbered, None, "one message");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let long = [b'a'; 300];
        for (more, found) in [
            (&[("key", "x-shop"), ("headers", "x-shop")][..], ("x-other", b"".as_slice())),
            (&[("timestamp-header", "date")][..], ("date", b"yesterday")),
            (&[("headers", "x-shop")][..], ("x-shop", b"\xff")),
            (&[][..], ("idempotency-key", &long)),
            (&[][..], ("content-type", &long)),
        ] {
            let refusal = common(&settings(more), &[found]).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{more:?}");
        }
    }

    #[test]
    fn pieces_of_a_request_are_json_and_told_apart() {
        let lines = settings(&[("split", "lines")]);
        let found: &[(&'static str, &[u8])] =
            &[("idempotency-key", b"k"), ("content-type", b"application/x-ndjson; charset=utf-8")];
        let common = common(&lines, found).unwrap();
        assert_eq!(common.content_type.as_deref(), Some("application/json"));
        assert_eq!(common.numbered, Some(1));
    }

    #[test]
    fn times() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1700000000", Some(1_700_000_000_000_000_000)),
            ("1700000000.25", Some(1_700_000_000_250_000_000)),
            ("1970-01-01T00:00:01+00:00", Some(1_000_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("999999999999", None),
            ("1.", None),
            ("1.0000000001", None),
            ("1e9", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(time(text), wanted, "{text}");
        }
    }
}
