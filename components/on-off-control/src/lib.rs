//! A flat-map that keeps a reading between two limits with something that can only be on or off: a two-position
//! controller with hysteresis.
//!
//! In: readings as the Modbus source writes them, `{"field":"level","value":41.5,"quality":"good",...}`. Out: what the
//! Modbus sink writes, `{"field":"pump","value":true}`, or nothing. Between the limits nothing is said, so what is on
//! stays on and what is off stays off: the state is in the plant, not here. Readings of other fields, and those whose
//! quality is not good, say nothing about the level and make no command.
//!
//! Configuration, all to be given: `reading` is the field that is watched, `output` the field that is written, `low` and
//! `high` the limits. At or below `low` the output is switched on, at or above `high` off; with `acts: lowers` the other way
//! round, for an output that makes the reading fall.

use std::cell::RefCell;

use exports::millrace::step::flat_map::Guest;
use millrace::step::types::{Error, Message};
use serde_json::{json, Value};

wit_bindgen::generate!({ path: "../../wit/step", world: "flat-map-step", generate_all });

struct OnOffControl;
export!(OnOffControl);

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    reading: String,
    output: String,
    low: f64,
    high: f64,
    raises: bool,
}

thread_local! {
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

impl Guest for OnOffControl {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        let settings = read(&configuration).map_err(Error::InvalidArgument)?;
        SETTINGS.set(Some(settings));
        Ok(())
    }

    fn flat_map(message: Message) -> Result<Vec<Message>, Error> {
        SETTINGS.with_borrow(|settings| {
            let settings =
                settings.as_ref().ok_or_else(|| Error::Internal("called before init".into()))?;
            let command = decide(&message.payload, settings).map_err(Error::InvalidArgument)?;
            let Some(on) = command else { return Ok(Vec::new()) };
            let payload = json!({ "field": settings.output, "value": on }).to_string();
            let topic = settings.output.clone();
            Ok(vec![Message { topic, payload: payload.into_bytes(), ..message }])
        })
    }
}

fn read(configuration: &[(String, String)]) -> Result<Settings, String> {
    for (name, _) in configuration {
        if !matches!(name.as_str(), "reading" | "output" | "low" | "high" | "acts") {
            return Err(format!("no such setting: `{name}`"));
        }
    }
    let find = |name: &str| configuration.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let text = |name: &str| find(name).ok_or_else(|| format!("`{name}` is not set"));
    let number = |name: &str| {
        let value = text(name)?;
        let number = value.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        number.ok_or_else(|| format!("`{name}` is not a number: `{value}`"))
    };
    let raises = match find("acts") {
        None | Some("raises") => true,
        Some("lowers") => false,
        Some(other) => return Err(format!("`acts` is raises or lowers, not `{other}`")),
    };
    let settings = Settings {
        reading: text("reading")?.to_owned(),
        output: text("output")?.to_owned(),
        low: number("low")?,
        high: number("high")?,
        raises,
    };
    if settings.low >= settings.high {
        return Err(format!("`low` is not below `high`: {} and {}", settings.low, settings.high));
    }
    Ok(settings)
}

/// On, off, or nothing to say.
fn decide(payload: &[u8], settings: &Settings) -> Result<Option<bool>, String> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    if text("field") != Some(settings.reading.as_str()) || text("quality") != Some("good") {
        return Ok(None);
    }
    let level = value
        .get("value")
        .and_then(Value::as_f64)
        .ok_or_else(|| format!("the reading of `{}` has no number in `value`", settings.reading))?;
    Ok(if level <= settings.low {
        Some(settings.raises)
    } else if level >= settings.high {
        Some(!settings.raises)
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let mut all = vec![("reading", "level"), ("output", "pump"), ("low", "30"), ("high", "70")];
        all.retain(|(name, _)| !pairs.iter().any(|(n, _)| n == name));
        all.extend(pairs);
        let pairs: Vec<_> = all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        read(&pairs)
    }

    fn level(value: f64) -> Vec<u8> {
        json!({ "field": "level", "value": value, "quality": "good" }).to_string().into_bytes()
    }

    #[test]
    fn switches_at_the_limits_and_leaves_alone_what_is_between() {
        let s = settings(&[]).unwrap();
        let decisions =
            [29.0, 30.0, 30.1, 69.9, 70.0, 71.0].map(|v| decide(&level(v), &s).unwrap());
        assert_eq!(decisions, [Some(true), Some(true), None, None, Some(false), Some(false)]);
        let s = settings(&[("acts", "lowers")]).unwrap();
        assert_eq!(decide(&level(75.0), &s), Ok(Some(true)));
        assert_eq!(decide(&level(10.0), &s), Ok(Some(false)));
    }

    #[test]
    fn a_bad_reading_or_another_field_decides_nothing() {
        let s = settings(&[]).unwrap();
        for payload in [
            &br#"{"field":"level","value":null,"quality":"bad","reason":"timeout"}"#[..],
            br#"{"field":"valve","value":1,"quality":"good"}"#,
            br#"{"field":"level","value":10}"#,
        ] {
            assert_eq!(decide(payload, &s), Ok(None));
        }
        assert!(decide(br#"{"field":"level","value":"x","quality":"good"}"#, &s).is_err());
        assert!(decide(b"level 10", &s).is_err());
    }

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        assert!(settings(&[("low", "70")]).unwrap_err().contains("not below"));
        assert!(settings(&[("low", "NaN")]).unwrap_err().contains("`low` is not a number"));
        assert!(settings(&[("acts", "up")]).unwrap_err().contains("raises or lowers"));
        assert!(settings(&[("hihg", "1")]).unwrap_err().contains("no such setting: `hihg`"));
        assert_eq!(read(&[]), Err("`reading` is not set".into()));
    }
}
