//! The message that comes of a window.

use millrace_window::rfc3339;
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

#[cfg(test)]
mod tests {
    use super::*;

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
