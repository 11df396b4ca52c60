//! The message that comes of a window.

use serde_json::{Map, Value};

use crate::exports::millrace::step::accumulate::Window;
use crate::millrace::step::types::Message;
use crate::settings::{Function, Settings};
use crate::state::State;

pub fn message(window: Window, state: &State, settings: &Settings) -> Message {
    let mut fields = Map::new();
    if window.end != 0 {
        fields.insert("window_start".into(), rfc3339(window.start).into());
        fields.insert("window_end".into(), rfc3339(window.end).into());
    }
    if let Some(Ok(key)) = window.key.as_deref().map(std::str::from_utf8) {
        fields.insert("key".into(), key.into());
    }
    for (name, function) in &settings.functions {
        let number = match *function {
            Function::Count => {
                fields.insert(name.clone(), state.count().into());
                continue;
            }
            Function::Sum => state.sum(),
            Function::Mean => state.mean(),
            Function::Min => state.min(),
            Function::Max => state.max(),
            Function::Variance => state.variance(),
            Function::First => state.first(),
            Function::Last => state.last(),
            Function::Percentile(percent) => state.percentile(percent),
        };
        // What is beyond a number's range is null, as what the state does not have.
        fields.insert(name.clone(), number.map_or(Value::Null, Value::from));
    }
    Message {
        // The platform puts the window's end.
        timestamp: 0,
        topic: settings.topic.clone().unwrap_or(window.topic),
        key: window.key,
        content_type: Some("application/json".into()),
        headers: vec![],
        payload: Value::Object(fields).to_string().into_bytes(),
    }
}

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC.
fn rfc3339(time: u64) -> String {
    let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01: years from March on, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + turn;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let fraction = match nanos {
        0 => String::new(),
        _ => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_told_as_they_are_written() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696_000_000_000, "2000-02-29T12:34:56Z"),
            (1_735_689_600_250_000_000, "2025-01-01T00:00:00.25Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
    }
}
