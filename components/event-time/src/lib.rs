//! A delay that takes the event time out of the message: from a field of its payload, which is a JSON object. A machine
//! says when it has measured; the broker only knows when it was told.
//!
//! Configuration, all optional: `field` names the field (default `at`); `unit` is what a number in it counts since
//! 1970-01-01T00:00:00Z: `s`, `ms` (default), `us` or `ns`. A text is a time as in RFC 3339: `2026-01-01T12:30:00.5+01:00`.

mod rfc3339;

use std::cell::RefCell;

use exports::millrace::step::delay::Guest;
use millrace::step::types::{Error, Message};
use serde_json::Value;

wit_bindgen::generate!({ path: "../../wit/step", world: "delay-step", generate_all });

struct EventTime;
export!(EventTime);

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    field: String,
    /// Nanoseconds of what a number counts.
    unit: u64,
}

thread_local! {
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

impl Guest for EventTime {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        SETTINGS.set(Some(read(configuration).map_err(Error::InvalidArgument)?));
        Ok(())
    }

    fn delay(message: Message) -> Result<u64, Error> {
        SETTINGS.with_borrow(|settings| match settings {
            Some(settings) => time(&message.payload, settings).map_err(Error::InvalidArgument),
            None => Err(Error::Internal("called before init".into())),
        })
    }
}

fn read(configuration: Vec<(String, String)>) -> Result<Settings, String> {
    let mut settings = Settings { field: "at".to_owned(), unit: 1_000_000 };
    for (name, value) in configuration {
        match (name.as_str(), value.as_str()) {
            ("field", _) => settings.field = value,
            ("unit", "s") => settings.unit = 1_000_000_000,
            ("unit", "ms") => settings.unit = 1_000_000,
            ("unit", "us") => settings.unit = 1_000,
            ("unit", "ns") => settings.unit = 1,
            ("unit", other) => return Err(format!("`unit` is s, ms, us or ns, and not `{other}`")),
            (other, _) => return Err(format!("no such setting: `{other}`")),
        }
    }
    Ok(settings)
}

/// Nanoseconds since 1970.
fn time(payload: &[u8], settings: &Settings) -> Result<u64, String> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    let found = value.get(&settings.field);
    let found = found.ok_or_else(|| format!("the payload has no field `{}`", settings.field))?;
    let time = match found {
        Value::String(text) => rfc3339::read(text),
        // Exact where it is a whole number.
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole.checked_mul(settings.unit),
            None => number.as_f64().and_then(|number| nanoseconds(number * settings.unit as f64)),
        },
        _ => None,
    };
    time.ok_or_else(|| format!("no time from 1970 to 2554: {found}"))
}

fn nanoseconds(number: f64) -> Option<u64> {
    // 2^64, the first that is too large.
    (0.0..18_446_744_073_709_551_616.0).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn times_are_numbers_or_text() {
        let by_default = settings(&[]).expect("settings");
        let seconds = settings(&[("field", "t"), ("unit", "s")]).expect("settings");
        for (payload, settings, expected) in [
            (r#"{"at":1767225600000}"#, &by_default, 1_767_225_600_000_000_000),
            (r#"{"at":"2026-01-01T00:00:00Z"}"#, &by_default, 1_767_225_600_000_000_000),
            (r#"{"t":1767225600.5}"#, &seconds, 1_767_225_600_500_000_000),
            (r#"{"t":0}"#, &seconds, 0),
        ] {
            assert_eq!(time(payload.as_bytes(), settings), Ok(expected), "{payload}");
        }
    }

    #[test]
    fn what_is_no_time() {
        let settings = settings(&[]).expect("settings");
        for (payload, expected) in [
            ("now", "the payload is not JSON"),
            ("{}", "the payload has no field `at`"),
            (r#"{"at":-1}"#, "no time from 1970 to 2554: -1"),
            (r#"{"at":1e300}"#, "no time from 1970 to 2554"),
            (r#"{"at":18446744073709551615}"#, "no time from 1970 to 2554"),
            (r#"{"at":"soon"}"#, "no time from 1970 to 2554: \"soon\""),
            (r#"{"at":null}"#, "no time from 1970 to 2554: null"),
        ] {
            let error = time(payload.as_bytes(), &settings).expect_err(payload);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        assert_eq!(
            settings(&[("unit", "h")]),
            Err("`unit` is s, ms, us or ns, and not `h`".into())
        );
        assert_eq!(settings(&[("filed", "at")]), Err("no such setting: `filed`".into()));
    }
}
