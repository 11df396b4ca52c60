//! What a message asks of an output.

use millrace_settings::gpio::Level;
use serde_json::Value;

/// Why a message asks for nothing that can be done, now or later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    /// An object that is not well-formed.
    #[error("the payload is not a JSON object: {0}")]
    NotJson(String),
    /// An object without a level.
    #[error("the payload has no level: it needs \"level\" or \"value\"")]
    NoLevel,
    /// Two levels.
    #[error("the payload has both \"level\" and \"value\"")]
    TwoLevels,
    /// A line that is no text.
    #[error("the payload's \"line\" is not a text")]
    Line,
    /// A level that is none.
    #[error("{0} is no level: it must be 1, 0, true, false, on, off, active or inactive")]
    Level(String),
}

/// The line a message names and the level it asks for.
///
/// A payload that begins with a brace is a JSON object with `level` or
/// `value`, and with `line` unless the topic names the line. Any other payload
/// is the level itself, and the topic names the line.
pub(crate) fn read(topic: &str, payload: &[u8]) -> Result<(String, Level), Unclear> {
    let start = payload.iter().position(|b| !b.is_ascii_whitespace());
    if start.and_then(|start| payload.get(start)) != Some(&b'{') {
        let text = String::from_utf8_lossy(payload);
        return Ok((topic.to_owned(), level_of_text(text.trim())?));
    }
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(payload).map_err(|e| Unclear::NotJson(e.to_string()))?;
    let line = match object.get("line") {
        None => topic.to_owned(),
        Some(Value::String(line)) => line.clone(),
        Some(_) => return Err(Unclear::Line),
    };
    match (object.get("level"), object.get("value")) {
        (Some(value), None) | (None, Some(value)) => Ok((line, level_of(value)?)),
        (None, None) => Err(Unclear::NoLevel),
        (Some(_), Some(_)) => Err(Unclear::TwoLevels),
    }
}

fn level_of(value: &Value) -> Result<Level, Unclear> {
    match value {
        Value::Bool(true) => Ok(Level::Active),
        Value::Bool(false) => Ok(Level::Inactive),
        Value::String(text) => level_of_text(text),
        // A step that computes may write 1 as 1.0.
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(Level::Active),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(Level::Inactive),
        other => Err(no_level(&other.to_string())),
    }
}

/// `high` and `low` are left out: on a line that is active-low they would mean
/// one thing to the reader and the other to the wire.
fn level_of_text(text: &str) -> Result<Level, Unclear> {
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    match unquoted {
        "1" | "1.0" | "true" | "on" | "active" => Ok(Level::Active),
        "0" | "0.0" | "false" | "off" | "inactive" => Ok(Level::Inactive),
        _ => Err(no_level(text)),
    }
}

/// Shortened: it goes into a header.
fn no_level(text: &str) -> Unclear {
    Unclear::Level(format!("\"{}\"", text.chars().take(60).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_names_line_and_level() {
        for (payload, wanted) in [
            (r#"{"line":"pump","level":true}"#, ("pump", Level::Active)),
            (r#"{"line":"pump","value":0}"#, ("pump", Level::Inactive)),
            (r#" {"level":1.0}"#, ("topic", Level::Active)),
            (r#"{"level":"off","other":[1]}"#, ("topic", Level::Inactive)),
            (r#"{"line":"door","level":1,"edge":"rising","seq":7}"#, ("door", Level::Active)),
        ] {
            let (line, level) = read("topic", payload.as_bytes()).unwrap();
            assert_eq!((line.as_str(), level), wanted, "{payload}");
        }
    }

    #[test]
    fn a_scalar_goes_to_the_topics_line() {
        for (payload, wanted) in [
            ("1", Level::Active),
            ("true\n", Level::Active),
            ("\"on\"", Level::Active),
            ("active", Level::Active),
            (" 0 ", Level::Inactive),
            ("0.0", Level::Inactive),
            ("false", Level::Inactive),
            ("off", Level::Inactive),
        ] {
            let (line, level) = read("pump", payload.as_bytes()).unwrap();
            assert_eq!((line.as_str(), level), ("pump", wanted), "{payload}");
        }
    }

    #[test]
    fn what_is_unclear_is_refused() {
        for (payload, wanted) in [
            ("", "\"\" is no level"),
            ("2", "\"2\" is no level"),
            ("high", "\"high\" is no level"),
            ("null", "\"null\" is no level"),
            ("[1]", "\"[1]\" is no level"),
            (r#"{"level":2}"#, "\"2\" is no level"),
            (r#"{"level":null}"#, "\"null\" is no level"),
            (r#"{"level":1,"value":1}"#, "both"),
            (r#"{"line":"pump"}"#, "no level"),
            (r#"{"line":7,"level":1}"#, "not a text"),
            (r#"{"line":"#, "not a JSON object"),
        ] {
            let error = read("pump", payload.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{payload}: {error}");
        }
        assert!(read("pump", &[0xff, 0xfe]).is_err());
    }
}
