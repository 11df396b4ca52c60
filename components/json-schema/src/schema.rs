//! A schema that was compiled, and what is wrong with a payload.

use std::fmt::Write as _;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ReferencingError, ValidationError, Validator};
use serde_json::Value;

/// Longest schema, in bytes.
const LONGEST: usize = 64 * 1024;

/// Most reasons that are told of one payload, and most characters of each: the platform keeps 1,024 bytes of all.
const REASONS: usize = 5;
const REASON: usize = 180;

/// Longest payload, in bytes, of which several reasons are told: all of them are made before the first is there.
const LISTED: usize = 16 * 1024;

/// Longest value, in bytes of JSON, that is told. Of others only what they are.
const SHOWN: usize = 40;

/// Most steps of a pattern that has to be tried one way after another, and most bytes of a compiled one.
const BACKTRACKS: usize = 50_000;
const PATTERN: usize = 1024 * 1024;

#[derive(Debug)]
pub struct Schema(Validator);

impl Schema {
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("`schema` has {} bytes, and {LONGEST} are the most", text.len()));
        }
        // Of a text that is too deep this is an error too.
        let schema: Value =
            serde_json::from_str(text).map_err(|error| format!("`schema` is not JSON: {error}"))?;
        let draft = draft(&schema)?;
        let built = jsonschema::options()
            .with_draft(draft)
            .should_validate_formats(true)
            .with_pattern_options(
                PatternOptions::fancy_regex().backtrack_limit(BACKTRACKS).size_limit(PATTERN),
            )
            .offline()
            .build(&schema);
        built.map(Self).map_err(|error| wrong(&error))
    }

    /// Whether the payload is JSON that the schema allows.
    pub fn allows(&self, payload: &[u8]) -> bool {
        serde_json::from_slice(payload).is_ok_and(|value| self.0.is_valid(&value))
    }

    /// The first reasons why not, each with the place in the payload, as a JSON pointer.
    pub fn check(&self, payload: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(payload)
            .map_err(|error| format!("the payload is not JSON: {error}"))?;
        // Cheaper than what follows, and mostly the end of it.
        if self.0.is_valid(&value) {
            return Ok(());
        }
        if payload.len() > LISTED {
            let first = self.0.validate(&value);
            return first.map_err(|error| format!("{}; perhaps more", reason(&error)));
        }
        let mut reasons = String::new();
        for (number, error) in self.0.iter_errors(&value).enumerate() {
            if number == REASONS {
                reasons.push_str("; and more");
                break;
            }
            let and = if number == 0 { "" } else { "; " };
            let _ = write!(reasons, "{and}{}", reason(&error));
        }
        Err(reasons)
    }
}

/// The version of the language that the schema is in.
fn draft(schema: &Value) -> Result<Draft, String> {
    let Some(named) = schema.get("$schema") else { return Ok(Draft::Draft202012) };
    let Some(uri) = named.as_str() else { return Err(format!("`$schema` is not text: {named}")) };
    let bare = uri.trim_end_matches('#');
    match bare.strip_prefix("https://").or_else(|| bare.strip_prefix("http://")) {
        Some("json-schema.org/draft/2020-12/schema") => Ok(Draft::Draft202012),
        Some("json-schema.org/draft-07/schema") => Ok(Draft::Draft7),
        _ => Err(format!(
            "`$schema` is `{uri}`, and this step knows `https://json-schema.org/draft/2020-12/schema` and \
             `http://json-schema.org/draft-07/schema#`"
        )),
    }
}

/// What is wrong with a schema.
fn wrong(error: &ValidationError) -> String {
    if let ValidationErrorKind::Referencing(error) = error.kind() {
        return match error {
            ReferencingError::Unretrievable { uri, .. } => format!(
                "`schema` refers to `{uri}`, and nothing is fetched: put it into `$defs`, and write `$ref: \"#/$defs/NAME\"`"
            ),
            other => format!("`schema` has a `$ref` that leads nowhere: {other}"),
        };
    }
    format!("`schema` is not a JSON Schema: {}", reason(error))
}

/// Where, and what.
fn reason(error: &ValidationError) -> String {
    let place = error.instance_path().as_str();
    let shown = match error.instance().as_ref() {
        Value::Object(_) => "the object".to_owned(),
        Value::Array(_) => "the array".to_owned(),
        Value::String(text) if text.len() > SHOWN => "the text".to_owned(),
        scalar => scalar.to_string(),
    };
    let what = error.masked_with(shown).to_string();
    let mut text = if place.is_empty() { what } else { format!("{place}: {what}") };
    if let Some((end, _)) = text.char_indices().nth(REASON) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn schema(text: &str) -> Schema {
        Schema::new(text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn said(schema: &Schema, payload: &str) -> String {
        schema.check(payload.as_bytes()).expect_err(payload)
    }

    const READING: &str = r##"{
        "type": "object",
        "required": ["celsius", "at"],
        "properties": {
            "celsius": { "type": "number", "minimum": -50, "maximum": 300 },
            "at": { "$ref": "#/$defs/time" },
            "unit/of~it": { "enum": ["C", "F"] }
        },
        "additionalProperties": false,
        "$defs": { "time": { "type": "string", "format": "date-time" } }
    }"##;

    #[test]
    fn reasons_have_their_place() {
        let schema = schema(READING);
        assert_eq!(schema.check(br#"{"celsius":21.5,"at":"2026-01-01T00:00:00Z"}"#), Ok(()));
        for (payload, expected) in [
            ("[]", "the array is not of type \"object\""),
            (r#"{"celsius":1}"#, "\"at\" is a required property"),
            (r#"{"celsius":301,"at":"now"}"#, "/celsius: 301 is greater than the maximum of 300; /at: \"now\" is not a \"date-time\""),
            (
                r#"{"celsius":"hot","at":"2026-01-01T00:00:00Z","unit/of~it":1,"more":1}"#,
                "Additional properties are not allowed ('more' was unexpected); /celsius: \"hot\" is not of type \"number\"; \
                 /unit~1of~0it: 1 is not one of \"C\" or \"F\"",
            ),
        ] {
            // Which comes first is not promised.
            let (mut said, mut expected): (Vec<_>, Vec<_>) =
                (said(&schema, payload).split("; ").map(str::to_owned).collect(), expected.split("; ").collect());
            said.sort_unstable();
            expected.sort_unstable();
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn reasons_are_bounded() {
        let schema = schema(
            r#"{"items":{"type":"number"},"properties":{"a":true},"additionalProperties":false}"#,
        );
        let many = |count: usize| format!("[{}0]", "\"x\",".repeat(count));
        let said = self::said(&schema, &many(100));
        assert!(said.starts_with("/0: \"x\" is not of type \"number\"; /1: "), "{said}");
        assert!(said.ends_with("; and more") && said.matches("; ").count() == REASONS, "{said}");
        let long = format!("[\"{}\"]", "é".repeat(5_000));
        assert_eq!(self::said(&schema, &long), "/0: the text is not of type \"number\"");
        let long = format!("{{\"{}\":1}}", "é".repeat(5_000));
        let said = self::said(&schema, &long);
        assert!(said.ends_with("...") && said.chars().count() == REASON + 3, "{said}");
        // So many errors would not fit into the step's memory: the first has to do.
        let said = self::said(&schema, &many(100_000));
        assert_eq!(said, "/0: \"x\" is not of type \"number\"; perhaps more");
    }

    #[test]
    fn two_drafts() {
        let seven = schema(
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"number"}]}"#,
        );
        assert!(seven.allows(b"[1,true]") && !seven.allows(b"[true]"));
        let newest = schema(
            r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[{"type":"number"}],"items":false}"#,
        );
        assert!(newest.allows(b"[1]") && !newest.allows(b"[1,1]"));
        // Without `$schema` it is the newest one, in which `items` is one schema.
        let error = Schema::new(r#"{"items":[{"type":"number"}]}"#).expect_err("two drafts");
        assert!(error.starts_with("`schema` is not a JSON Schema: /items: "), "{error}");
        for other in ["http://json-schema.org/draft-04/schema#", "https://example.com/own"] {
            let error =
                Schema::new(&format!("{{\"$schema\":\"{other}\"}}")).expect_err("an unknown draft");
            assert!(
                error.starts_with(&format!("`$schema` is `{other}`, and this step knows")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_wrong_schema_has_its_place() {
        for (text, expected) in [
            ("", "`schema` is not JSON: EOF"),
            ("7", "`schema` is not a JSON Schema: 7 is not of types"),
            (
                r#"{"properties":{"a":{"type":"nunber"}}}"#,
                "`schema` is not a JSON Schema: /properties/a/type: \"nunber\" is not valid under any",
            ),
            (r#"{"minimum":"1"}"#, "`schema` is not a JSON Schema: /minimum: \"1\" is not of type \"number\""),
            (r#"{"pattern":"("}"#, "`schema` is not a JSON Schema: /pattern: \"(\" is not a \"regex\""),
            (r#"{"$schema":1}"#, "`$schema` is not text: 1"),
            (r##"{"$ref":"#/$defs/a"}"##, "`schema` has a `$ref` that leads nowhere: Pointer '/$defs/a'"),
            (
                r#"{"properties":{"a":{"$ref":"https://example.com/a.json#/b"}}}"#,
                "`schema` refers to `https://example.com/a.json`, and nothing is fetched",
            ),
            (r#"{"$ref":"file:///etc/passwd"}"#, "`schema` refers to `file:///etc/passwd`, and nothing"),
            (r#"{"$ref":"other.json"}"#, "`schema` refers to `other.json`, and nothing"),
        ] {
            let error = Schema::new(text).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
        let error = Schema::new(&" ".repeat(LONGEST + 1)).expect_err("too long");
        assert_eq!(error, "`schema` has 65537 bytes, and 65536 are the most");
        let error = Schema::new(&"{\"not\":".repeat(1_000)).expect_err("too deep");
        assert!(error.contains("recursion limit exceeded"), "{error}");
    }

    #[test]
    fn a_meta_schema_is_there_without_being_fetched() {
        let schema = schema(r#"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"#);
        assert!(schema.allows(br#"{"type":"number"}"#) && !schema.allows(br#"{"type":"nunber"}"#));
    }

    #[test]
    fn circles_and_depth_end() {
        for text in [
            r##"{"$ref":"#"}"##,
            r##"{"allOf":[{"$ref":"#"}]}"##,
            r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}"##,
        ] {
            assert!(schema(text).allows(b"1"), "{text}");
        }
        let list = schema(r##"{"type":"array","items":{"$ref":"#"}}"##);
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(list.allows(deep(127).as_bytes()));
        assert!(said(&list, &deep(128)).contains("recursion limit exceeded"));
    }

    #[test]
    fn a_pattern_that_would_take_for_ever_is_given_up() {
        let start = Instant::now();
        let linear = schema(r#"{"pattern":"^(a+)+$"}"#);
        assert!(!linear.allows(format!("\"{}!\"", "a".repeat(50_000)).as_bytes()));
        let backtracks = schema(r#"{"pattern":"^(?=(a+)+$)(?!b)"}"#);
        assert!(backtracks.allows(b"\"aaa\""));
        let said = said(&backtracks, &format!("\"{}!\"", "a".repeat(5_000)));
        assert!(said.contains("the text"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
