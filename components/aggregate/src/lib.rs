//! An accumulate that makes numbers of the readings of a window: how many, their mean, extremes, variance, percentiles. Of
//! each window that has readings comes one message, a JSON object, for the window's key:
//!
//! ```json
//! {"window_start":"2025-01-01T00:00:00Z","window_end":"2025-01-01T00:01:00Z","key":"press-1","count":60,"mean":71.5}
//! ```
//!
//! Configuration, all optional:
//!
//! - `value`: where the reading is in a JSON payload, as fields with a dot between (`data.level`) or as a JSON pointer
//!   (`/data/level`). Without it the payload itself is the reading, as text.
//! - `functions`: comma-separated of `count`, `sum`, `mean`, `min`, `max`, `variance` (of the population: divided by the
//!   number of readings), `first` and `last` (by event time), and percentiles such as `p50`, `p99` or `p99.9` (within 1 %
//!   of the reading). Default `count,mean,min,max`.
//! - `topic`: topic of the result. Default: that of the window, which has one where its messages have no key.
//!
//! A window that does not go by time has no `window_start` and `window_end`. When `functions` are changed, a window that
//! is open goes on with those that it began with, and has `null` for others.
//!
//! The layers: `settings`, `reading` (the number in a payload), `state` (what is kept of a window), `sketch` (its
//! percentiles), `result` (the message).

mod reading;
mod result;
mod settings;
mod sketch;
mod state;

use std::cell::RefCell;

use exports::millrace::step::accumulate::{Guest, Window};
use millrace::step::types::{Error, Message};
use settings::Settings;
use state::State;

wit_bindgen::generate!({ path: "../../wit/step", world: "accumulate-step", generate_all });

struct Aggregate;
export!(Aggregate);

thread_local! {
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

impl Guest for Aggregate {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        SETTINGS.set(Some(Settings::read(configuration).map_err(Error::InvalidArgument)?));
        Ok(())
    }

    fn accumulate(state: Option<Vec<u8>>, messages: Vec<Message>) -> Result<Vec<u8>, Error> {
        with(|settings| fold(state.as_deref(), &messages, settings))
    }

    fn finish(window: Window, state: Vec<u8>) -> Result<Vec<Message>, Error> {
        with(|settings| {
            let state = State::read(&state).map_err(Error::Internal)?;
            Ok(vec![result::message(window, &state, settings)])
        })
    }
}

fn with<T>(work: impl FnOnce(&Settings) -> Result<T, Error>) -> Result<T, Error> {
    SETTINGS.with_borrow(|settings| match settings {
        Some(settings) => work(settings),
        None => Err(Error::Internal("called before init".into())),
    })
}

fn fold(state: Option<&[u8]>, messages: &[Message], settings: &Settings) -> Result<Vec<u8>, Error> {
    let mut state = match state {
        Some(bytes) => State::read(bytes).map_err(Error::Internal)?,
        None => State::new(settings.parts()),
    };
    for message in messages {
        let reading = settings.path.read(&message.payload).map_err(Error::InvalidArgument)?;
        state.add(reading, message.timestamp);
    }
    Ok(state.write())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Settings::read(pairs.collect()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn message(timestamp: u64, payload: &str) -> Message {
        Message {
            timestamp,
            topic: "plant/level".into(),
            key: None,
            content_type: None,
            headers: vec![],
            payload: payload.into(),
        }
    }

    fn window(key: Option<&[u8]>, start: u64, end: u64, count: u64) -> Window {
        let topic = if key.is_none() { "plant/level".into() } else { String::new() };
        Window { key: key.map(<[u8]>::to_vec), topic, start, end, count }
    }

    /// Folded in two calls, as if a batch had ended between.
    fn result(settings: &Settings, window: Window, payloads: &[&str]) -> Message {
        let messages: Vec<Message> =
            payloads.iter().enumerate().map(|(at, payload)| message(at as u64, payload)).collect();
        let (first, second) = messages.split_at(messages.len() / 2);
        let mut state = None;
        for messages in [first, second] {
            state = Some(fold(state.as_deref(), messages, settings).expect("readings"));
        }
        let state = State::read(&state.expect("a state")).expect("a state");
        result::message(window, &state, settings)
    }

    fn text(message: &Message) -> &str {
        std::str::from_utf8(&message.payload).expect("text")
    }

    #[test]
    fn the_numbers_of_a_window() {
        let all = "count,sum,mean,min,max,variance,first,last,p0,p50,p100";
        let settings = settings(&[("value", "data.level"), ("functions", all)]);
        let payloads: Vec<String> = [2, 4, 4, 4, 5, 5, 7, 9]
            .iter()
            .map(|n| format!("{{\"data\":{{\"level\":{n}}}}}"))
            .collect();
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        let minute = 60_000_000_000;
        let result = result(&settings, window(Some(b"press-1"), minute, 2 * minute, 8), &payloads);
        let (head, tail) = text(&result).split_at(text(&result).find(",\"p0\"").expect("p0"));
        assert_eq!(
            head,
            "{\"window_start\":\"1970-01-01T00:01:00Z\",\"window_end\":\"1970-01-01T00:02:00Z\",\
             \"key\":\"press-1\",\"count\":8,\"sum\":40.0,\"mean\":5.0,\"min\":2.0,\"max\":9.0,\
             \"variance\":4.0,\"first\":2.0,\"last\":9.0"
        );
        let value: serde_json::Value = serde_json::from_slice(&result.payload).expect("JSON");
        for (name, expected) in [("p0", 2.0), ("p50", 4.0), ("p100", 9.0)] {
            let found = value.get(name).and_then(serde_json::Value::as_f64).expect("a number");
            assert!((found - expected).abs() <= expected * 0.01, "{name}: {found}; {tail}");
        }
        assert_eq!((result.topic.as_str(), result.timestamp), ("", 0));
        assert_eq!(result.key.as_deref(), Some(&b"press-1"[..]));
        assert_eq!(result.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn payloads_that_are_numbers_counted_by_topic() {
        let result = result(&settings(&[]), window(None, 0, 0, 3), &["1", " 2.5\n", "-3e0"]);
        assert_eq!(
            text(&result),
            "{\"count\":3,\"mean\":0.16666666666666666,\"min\":-3.0,\"max\":2.5}"
        );
        assert_eq!(result.topic, "plant/level");
        let renamed = settings(&[("topic", "mean"), ("functions", "count")]);
        let result = self::result(&renamed, window(Some(b"\xff"), 0, 0, 1), &["1", "2"]);
        assert_eq!((result.topic.as_str(), text(&result)), ("mean", "{\"count\":2}"));
    }

    #[test]
    fn one_bad_reading_is_an_error_of_its_message() {
        let settings = settings(&[("value", "level")]);
        let bad = [message(1, "{\"level\":1}"), message(2, "{\"lev\":1}")];
        let error = fold(None, &bad, &settings).expect_err("no reading");
        assert!(matches!(&error, Error::InvalidArgument(text) if text == "`level` is missing"));
    }

    #[test]
    fn other_functions_apply_from_the_next_window_on() {
        let before = settings(&[("functions", "count,max")]);
        let state = fold(None, &[message(1, "5"), message(2, "6")], &before).expect("a state");
        let after = settings(&[("functions", "min,max,p50,count")]);
        let state = fold(Some(&state), &[message(3, "1")], &after).expect("a state");
        let state = State::read(&state).expect("a state");
        let result = result::message(window(None, 0, 0, 3), &state, &after);
        assert_eq!(text(&result), "{\"min\":null,\"max\":6.0,\"p50\":null,\"count\":3}");
    }

    #[test]
    fn a_state_of_another_version_is_an_error() {
        let settings = settings(&[]);
        let mut state = fold(None, &[message(1, "5")], &settings).expect("a state");
        state[0] = 9;
        let error =
            fold(Some(&state), &[message(2, "5")], &settings).expect_err("a state of version 9");
        assert!(
            matches!(&error, Error::Internal(text) if text.contains("version 9, and this one reads 1"))
        );
    }
}
