//! A map from Fahrenheit to Celsius. The payload is a number, or a JSON object with the temperature in one of its fields:
//! `{"machine":"press-1","fahrenheit":181.4}` becomes `{"machine":"press-1","celsius":83.0}`. Everything else in the
//! message stays as it is.
//!
//! Configuration: `field` names the field that is read (default `fahrenheit`), `result` the one that takes its place
//! (default `celsius`).

use std::cell::RefCell;

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};
use serde_json::{Map, Number, Value};

wit_bindgen::generate!({ path: "../../wit/step", world: "map-step", generate_all });

struct FahrenheitToCelsius;
export!(FahrenheitToCelsius);

struct Fields {
    field: String,
    result: String,
}

thread_local! {
    static FIELDS: RefCell<Fields> =
        RefCell::new(Fields { field: "fahrenheit".into(), result: "celsius".into() });
}

impl Guest for FahrenheitToCelsius {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        FIELDS.with_borrow_mut(|fields| {
            for (name, value) in configuration {
                match name.as_str() {
                    "field" => fields.field = value,
                    "result" => fields.result = value,
                    other => {
                        return Err(Error::InvalidArgument(format!("no such setting: `{other}`")))
                    }
                }
            }
            Ok(())
        })
    }

    fn map(mut message: Message) -> Result<Message, Error> {
        let converted = FIELDS.with_borrow(|fields| convert(&message.payload, fields));
        message.payload = converted.map_err(Error::InvalidArgument)?;
        Ok(message)
    }
}

fn convert(payload: &[u8], fields: &Fields) -> Result<Vec<u8>, String> {
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    let converted = match value {
        Value::Object(object) => Value::Object(convert_field(object, fields)?),
        number => celsius(&number)?,
    };
    serde_json::to_vec(&converted).map_err(|error| error.to_string())
}

/// The result stands where the reading stood.
fn convert_field(
    object: Map<String, Value>,
    fields: &Fields,
) -> Result<Map<String, Value>, String> {
    let reading = object
        .get(&fields.field)
        .ok_or_else(|| format!("the payload has no field `{}`", fields.field))?;
    let converted = celsius(reading)?;
    let renamed =
        object.into_iter().filter(|(name, _)| *name != fields.result || *name == fields.field);
    Ok(renamed
        .map(|(name, value)| {
            if name == fields.field {
                (fields.result.clone(), converted.clone())
            } else {
                (name, value)
            }
        })
        .collect())
}

fn celsius(fahrenheit: &Value) -> Result<Value, String> {
    let fahrenheit = fahrenheit.as_f64().ok_or_else(|| format!("not a number: {fahrenheit}"))?;
    // Thousandths: finer than any sensor, and free of the noise of binary fractions.
    let celsius = ((fahrenheit - 32.0) / 1.8 * 1000.0).round() / 1000.0;
    Number::from_f64(celsius)
        .map(Value::Number)
        .ok_or_else(|| format!("out of range: {fahrenheit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(payload: &str) -> Result<String, String> {
        let fields = Fields { field: "fahrenheit".into(), result: "celsius".into() };
        convert(payload.as_bytes(), &fields)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn converts_numbers_and_fields_and_keeps_the_rest() {
        assert_eq!(converted("212"), Ok("100.0".into()));
        assert_eq!(converted(" -40.0 "), Ok("-40.0".into()));
        assert_eq!(
            converted(r#"{"machine":"press-1","fahrenheit":181.4,"z":[1,{"a":null}]}"#),
            Ok(r#"{"machine":"press-1","celsius":83.0,"z":[1,{"a":null}]}"#.into())
        );
    }

    #[test]
    fn refuses_what_is_not_a_temperature() {
        for (payload, text) in [
            ("", "the payload is not JSON"),
            ("fault", "the payload is not JSON"),
            ("\"hot\"", "not a number"),
            ("{}", "no field `fahrenheit`"),
            (r#"{"fahrenheit":null}"#, "not a number"),
        ] {
            let error = converted(payload).expect_err(payload);
            assert!(error.contains(text), "{payload}: {error}");
        }
    }
}
