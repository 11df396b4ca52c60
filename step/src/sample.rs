//! Messages to try a step with: a file of JSON lines, in the words of a pipeline's tests.

use std::path::{Path, PathBuf};

use millrace_desk::Message;
use millrace_pipeline::{Hex, Time};
use serde_json::{Map, Value};

const FIELDS: &str =
    "payload, json, hex, topic, key, headers, content-type and timestamp are known";

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The file cannot be read.
    #[error("could not read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is no message.
    #[error("{file}:{line}: {what}", file = file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, and the mend.
        what: String,
    },
}

/// Reads the samples of a file.
///
/// # Errors
///
/// [`SampleError`]: the file, or the first line that is no message.
pub fn read(file: &Path) -> Result<Vec<Message>, SampleError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| SampleError::Read { file: file.to_owned(), source })?;
    parse(&text, file)
}

/// Reads samples out of a text. `file` is for what is said of it.
///
/// # Errors
///
/// The first line that is no message.
pub fn parse(text: &str, file: &Path) -> Result<Vec<Message>, SampleError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let message = |(index, line)| {
        message(line).map_err(|what| SampleError::Line {
            file: file.to_owned(),
            line: index + 1,
            what,
        })
    };
    lines.map(message).collect()
}

fn message(line: &str) -> Result<Message, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        format!(
            "this is not JSON ({error}); each line is a message, such as {{\"payload\":\"21.5\"}}"
        )
    })?;
    let Value::Object(fields) = value else {
        return Err(
            "a message is an object, such as {\"payload\":\"21.5\"} or {\"json\":{\"value\":21.5}}"
                .to_owned(),
        );
    };
    let mut message = Message { timestamp: Time::DEFAULT.nanoseconds(), ..Message::default() };
    let contents = ["payload", "json", "hex"];
    let given: Vec<&str> = contents.into_iter().filter(|name| fields.contains_key(*name)).collect();
    if given.len() > 1 {
        return Err(format!("a message has one content, and this one has {}", given.join(" and ")));
    }
    for (name, value) in fields {
        match name.as_str() {
            "payload" => message.payload = payload(value),
            "json" => message.payload = value.to_string().into_bytes(),
            "hex" => {
                let bytes: Hex =
                    text(&name, value)?.parse().map_err(|what| format!("`hex` {what}"))?;
                message.payload = bytes.0;
            }
            "topic" => message.topic = text(&name, value)?,
            "key" => message.key = Some(text(&name, value)?.into_bytes()),
            "content-type" => message.content_type = Some(text(&name, value)?),
            "timestamp" => {
                let time: Time =
                    text(&name, value)?.parse().map_err(|what| format!("`timestamp` {what}"))?;
                message.timestamp = time.nanoseconds();
            }
            "headers" => message.headers = headers(value)?,
            other => return Err(format!("there is no field `{other}`; {FIELDS}")),
        }
    }
    Ok(message)
}

/// As in a pipeline's tests: a mapping or a list is JSON, a single value the text as it is written.
fn payload(value: Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

fn text(name: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("`{name}` has to be a text, and is {other}")),
    }
}

fn headers(value: Value) -> Result<Vec<(String, String)>, String> {
    let wrong = || "`headers` has to be an object of texts, such as {\"unit\":\"C\"}".to_owned();
    let Value::Object(fields) = value else { return Err(wrong()) };
    let fields: Map<String, Value> = fields;
    fields.into_iter().map(|(name, value)| Ok((name, text("headers", value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_test() {
        let text = r#"
{"payload":"21.5","topic":"a/b","key":"k","headers":{"unit":"C"},"content-type":"text/plain","timestamp":"1970-01-01T00:00:01Z"}
{"payload":{"a":1}}

{"json":"text"}
{"hex":"ff 00"}
{"payload":21.5}
{}
"#;
        let samples = parse(text, Path::new("samples.jsonl")).unwrap();
        let payloads: Vec<&[u8]> = samples.iter().map(|m| m.payload.as_slice()).collect();
        let expected: [&[u8]; 6] = [b"21.5", b"{\"a\":1}", b"\"text\"", b"\xff\0", b"21.5", b""];
        assert_eq!(payloads, expected);
        assert_eq!(samples[0].timestamp, 1_000_000_000);
        assert_eq!(samples[0].key.as_deref(), Some(b"k".as_slice()));
        assert_eq!(samples[0].header("unit"), Some("C"));
        assert_eq!(samples[1].timestamp, Time::DEFAULT.nanoseconds());
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, says) in [
            ("{}\nhello", "samples.jsonl:2: this is not JSON"),
            ("21", "a message is an object"),
            (r#"{"paylod":"x"}"#, "there is no field `paylod`"),
            (r#"{"payload":"x","hex":"ff"}"#, "payload and hex"),
            (r#"{"hex":"f"}"#, "pairs of hexadecimal digits"),
            (r#"{"timestamp":"now"}"#, "a date and time"),
            (r#"{"headers":["a"]}"#, "an object of texts"),
            (r#"{"topic":1}"#, "`topic` has to be a text"),
        ] {
            let said = parse(text, Path::new("samples.jsonl")).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
