//! The number in a payload.

use serde_json::Value;

/// Where the reading is.
#[derive(Debug, PartialEq)]
pub enum Path {
    /// The payload is the reading, as text.
    Payload,
    /// In JSON.
    Json {
        /// As it was given, for people.
        given: String,
        /// As a JSON pointer (RFC 6901).
        pointer: String,
    },
}

impl Path {
    /// Fields with a dot between, or a JSON pointer.
    pub fn new(given: &str) -> Result<Self, String> {
        if given.is_empty() {
            return Err(
                "`value` is empty; leave it out where the payload is the reading".to_owned()
            );
        }
        let pointer = if given.starts_with('/') {
            given.to_owned()
        } else if given.split('.').any(str::is_empty) {
            return Err(format!("`value` is no path: `{given}`"));
        } else {
            let escaped = given.replace('~', "~0").replace('/', "~1");
            format!("/{}", escaped.replace('.', "/"))
        };
        Ok(Self::Json { given: given.to_owned(), pointer })
    }

    /// The reading in a payload: a finite number.
    pub fn read(&self, payload: &[u8]) -> Result<f64, String> {
        match self {
            Self::Payload => {
                let text = String::from_utf8_lossy(payload);
                let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
                number.ok_or_else(|| {
                    format!("the payload is not a finite number: `{}`", short(&text))
                })
            }
            Self::Json { given, pointer } => {
                let value: Value = serde_json::from_slice(payload).map_err(|error| {
                    format!("`{given}` cannot be read: the payload is not JSON: {error}")
                })?;
                let found =
                    value.pointer(pointer).ok_or_else(|| format!("`{given}` is missing"))?;
                let number = found.as_f64().filter(|number| number.is_finite());
                number.ok_or_else(|| {
                    format!("`{given}` is not a finite number: {}", short(&found.to_string()))
                })
            }
        }
    }
}

fn short(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}

#[cfg(test)]
mod tests {
    use super::Path;

    const PAYLOAD: &[u8] =
        br#"{"temperature":21.5,"data":{"level":-3,"all":[7,8]},"a.b":1,"c/d":2,"text":"5","none":null}"#;

    #[test]
    fn fields_and_pointers() {
        for (path, expected) in [
            ("temperature", 21.5),
            ("data.level", -3.0),
            ("/data/level", -3.0),
            ("data.all.1", 8.0),
            ("/a.b", 1.0),
            ("c/d", 2.0),
            ("/c~1d", 2.0),
        ] {
            assert_eq!(Path::new(path).and_then(|path| path.read(PAYLOAD)), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_is_no_reading_is_told_with_its_path() {
        for (path, payload, expected) in [
            ("level", PAYLOAD, "`level` is missing"),
            ("data.level.x", PAYLOAD, "`data.level.x` is missing"),
            ("text", PAYLOAD, "`text` is not a finite number: \"5\""),
            ("none", PAYLOAD, "`none` is not a finite number: null"),
            ("data", PAYLOAD, "`data` is not a finite number: {\"level\":-3,\"all\":[7,8]}"),
            (
                "a",
                b"{\"a\":1e999}",
                "`a` cannot be read: the payload is not JSON: number out of range",
            ),
            ("a", b"21.5 C", "`a` cannot be read: the payload is not JSON: "),
        ] {
            let error = Path::new(path).and_then(|path| path.read(payload)).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
        for payload in ["", "x", "NaN", "inf", "1e999", "\u{fffd}"] {
            let error = Path::Payload.read(payload.as_bytes()).expect_err(payload);
            assert_eq!(error, format!("the payload is not a finite number: `{payload}`"));
        }
        let long = "9".repeat(50) + "x";
        let error = Path::Payload.read(long.as_bytes()).expect_err("long");
        assert!(error.ends_with("999...`") && error.len() < 100, "{error}");
    }
}
