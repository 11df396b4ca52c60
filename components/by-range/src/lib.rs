//! A branch that tells readings below, within and above a range apart: its arms are `low`, `normal` and `high`. The payload
//! is a JSON object with the reading in one of its fields.
//!
//! Configuration: `low` and `high` are the ends of the range, which are within it, and have to be given; `field` names the
//! field (default `value`).

use std::cell::RefCell;

use exports::millrace::step::branch::Guest;
use millrace::step::types::{Error, Message};
use serde_json::Value;

wit_bindgen::generate!({ path: "../../wit/step", world: "branch-step", generate_all });

struct ByRange;
export!(ByRange);

#[derive(Debug, Clone, PartialEq)]
struct Range {
    field: String,
    low: f64,
    high: f64,
}

thread_local! {
    static RANGE: RefCell<Option<Range>> = const { RefCell::new(None) };
}

impl Guest for ByRange {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        RANGE.set(Some(read(configuration).map_err(Error::InvalidArgument)?));
        Ok(())
    }

    fn branch(message: Message) -> Result<String, Error> {
        RANGE.with_borrow(|range| match range {
            Some(range) => arm(&message.payload, range).map_err(Error::InvalidArgument),
            None => Err(Error::Internal("called before init".into())),
        })
    }
}

fn read(configuration: Vec<(String, String)>) -> Result<Range, String> {
    let (mut field, mut low, mut high) = ("value".to_owned(), None, None);
    for (name, value) in configuration {
        match name.as_str() {
            "field" => field = value,
            "low" => low = Some(number(&name, &value)?),
            "high" => high = Some(number(&name, &value)?),
            other => return Err(format!("no such setting: `{other}`")),
        }
    }
    let (low, high) = (low.ok_or("`low` is not set")?, high.ok_or("`high` is not set")?);
    if low > high {
        return Err(format!("`low` is {low}, and `high` is {high}"));
    }
    Ok(Range { field, low, high })
}

fn number(name: &str, value: &str) -> Result<f64, String> {
    value.trim().parse().map_err(|_| format!("`{name}` is not a number: `{value}`"))
}

fn arm(payload: &[u8], range: &Range) -> Result<String, String> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    let reading = value.get(&range.field);
    let reading = reading.ok_or_else(|| format!("the payload has no field `{}`", range.field))?;
    let reading = reading.as_f64().ok_or_else(|| format!("not a number: {reading}"))?;
    let arm = if reading < range.low {
        "low"
    } else if reading > range.high {
        "high"
    } else {
        "normal"
    };
    Ok(arm.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_ends_are_within() {
        let range = read(pairs(&[("low", "30"), ("high", "70")])).expect("settings");
        for (reading, expected) in
            [("29.9", "low"), ("30", "normal"), ("70", "normal"), ("70.1", "high")]
        {
            let payload = format!("{{\"value\":{reading}}}");
            assert_eq!(arm(payload.as_bytes(), &range).as_deref(), Ok(expected));
        }
        assert!(arm(b"{}", &range).is_err());
        assert!(arm(b"{\"value\":\"high\"}", &range).is_err());
    }

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        assert_eq!(read(pairs(&[("low", "1")])), Err("`high` is not set".into()));
        assert_eq!(
            read(pairs(&[("low", "2"), ("high", "1")])),
            Err("`low` is 2, and `high` is 1".into())
        );
        assert_eq!(read(pairs(&[("lo", "1")])), Err("no such setting: `lo`".into()));
    }
}
