//! A filter that keeps readings above a limit. The payload is a number, or a JSON object with the reading in one of its
//! fields.
//!
//! Configuration: `limit` is the number that a kept reading is greater than, and has to be given; `field` names the field
//! (default `celsius`).

use std::cell::RefCell;

use exports::millrace::step::filter::Guest;
use millrace::step::types::{Error, Message};
use serde_json::Value;

wit_bindgen::generate!({ path: "../../wit/step", world: "filter-step", generate_all });

struct AboveLimit;
export!(AboveLimit);

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    field: String,
    limit: f64,
}

thread_local! {
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

impl Guest for AboveLimit {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        let settings = read(configuration).map_err(Error::InvalidArgument)?;
        SETTINGS.set(Some(settings));
        Ok(())
    }

    fn filter(message: Message) -> Result<bool, Error> {
        SETTINGS.with_borrow(|settings| match settings {
            Some(settings) => is_above(&message.payload, settings).map_err(Error::InvalidArgument),
            None => Err(Error::Internal("called before init".into())),
        })
    }
}

fn read(configuration: Vec<(String, String)>) -> Result<Settings, String> {
    let (mut field, mut limit) = ("celsius".to_owned(), None);
    for (name, value) in configuration {
        match name.as_str() {
            "field" => field = value,
            "limit" => {
                let number: f64 = value
                    .trim()
                    .parse()
                    .map_err(|_| format!("`limit` is not a number: `{value}`"))?;
                limit = Some(number);
            }
            other => return Err(format!("no such setting: `{other}`")),
        }
    }
    let limit = limit.ok_or("`limit` is not set")?;
    Ok(Settings { field, limit })
}

fn is_above(payload: &[u8], settings: &Settings) -> Result<bool, String> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    let reading = match &value {
        Value::Object(object) => object
            .get(&settings.field)
            .ok_or_else(|| format!("the payload has no field `{}`", settings.field))?,
        number => number,
    };
    let reading = reading.as_f64().ok_or_else(|| format!("not a number: {reading}"))?;
    Ok(reading > settings.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn keeps_what_is_above() {
        let settings = read(pairs(&[("limit", "80")])).expect("settings");
        assert_eq!(is_above(b"80.1", &settings), Ok(true));
        assert_eq!(is_above(b"80", &settings), Ok(false));
        assert_eq!(is_above(br#"{"celsius":81,"x":1}"#, &settings), Ok(true));
        assert!(is_above(br#"{"fahrenheit":81}"#, &settings).is_err());
        assert!(is_above(b"fault", &settings).is_err());
    }

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        assert_eq!(read(pairs(&[])), Err("`limit` is not set".into()));
        assert_eq!(read(pairs(&[("limit", "hot")])), Err("`limit` is not a number: `hot`".into()));
        assert_eq!(
            read(pairs(&[("limit", "1"), ("lmit", "1")])),
            Err("no such setting: `lmit`".into())
        );
    }
}
