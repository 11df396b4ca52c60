//! What a source says of a line.

use millrace_settings::gpio::Level;
use serde::Serialize;

use crate::clock::rfc3339;

/// The content type of reports.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// The payload of a message, as compact JSON.
#[derive(Debug, Serialize)]
struct Payload<'a> {
    line: &'a str,
    level: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u32>,
    time: String,
}

/// An edge. `lost` is how many edges of the line are missing before it.
pub(crate) fn edge(line: &str, level: Level, seq: u32, lost: u32, time: u64) -> Vec<u8> {
    write(&Payload {
        line,
        level: number(level),
        edge: Some(match level {
            Level::Active => "rising",
            Level::Inactive => "falling",
        }),
        sample: None,
        seq: Some(seq),
        lost: (lost > 0).then_some(lost),
        time: rfc3339(time),
    })
}

/// A level that was looked at, and why: `start` or `interval`.
pub(crate) fn sample(line: &str, level: Level, why: &'static str, time: u64) -> Vec<u8> {
    write(&Payload {
        line,
        level: number(level),
        edge: None,
        sample: Some(why),
        seq: None,
        lost: None,
        time: rfc3339(time),
    })
}

const fn number(level: Level) -> u8 {
    match level {
        Level::Inactive => 0,
        Level::Active => 1,
    }
}

fn write(payload: &Payload<'_>) -> Vec<u8> {
    // Fails only for maps with keys that are no text.
    serde_json::to_vec(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: Vec<u8>) -> String {
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn payloads_are_those_documented() {
        let time = 1_700_000_000_123_456_789;
        assert_eq!(
            text(edge("door", Level::Active, 7, 0, time)),
            r#"{"line":"door","level":1,"edge":"rising","seq":7,"time":"2023-11-14T22:13:20.123456789Z"}"#
        );
        assert_eq!(
            text(edge("door", Level::Inactive, 9, 1, time)),
            r#"{"line":"door","level":0,"edge":"falling","seq":9,"lost":1,"time":"2023-11-14T22:13:20.123456789Z"}"#
        );
        assert_eq!(
            text(sample("door", Level::Active, "start", time)),
            r#"{"line":"door","level":1,"sample":"start","time":"2023-11-14T22:13:20.123456789Z"}"#
        );
    }
}
