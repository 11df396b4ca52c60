//! Checks the JSON payload of each message against a [JSON Schema](https://json-schema.org). It is two kinds of step at once:
//!
//! - a filter, which keeps the messages that the schema allows, and rejects the others with the place and the reason:
//!   `/celsius: "hot" is not of type "number"`
//! - a branch with the arms `valid` and `invalid`
//!
//! A payload that is not JSON is not allowed by any schema.
//!
//! Configuration:
//!
//! - `schema`: the schema as JSON text, 64 KiB at most. It is of draft 2020-12, or of draft-07 where its `$schema` says
//!   so. A `$ref` leads to a place in the same schema: nothing is fetched.
//! - `on-invalid`, of the filter only: `reject` (default) makes dead letters of what the schema does not allow, `drop`
//!   drops it.
//!
//! `format` is checked. A `pattern` without look-around and back-references takes time in proportion to the text; one with
//! them is given up after so many steps, and the message then counts as not allowed.
//!
//! The layers: `settings`, `schema` (compiling it, and what is wrong with a payload), `random` (of the dependencies).

#[cfg(target_arch = "wasm32")]
mod random;
mod schema;
mod settings;

use std::cell::RefCell;

use exports::millrace::step::{branch, filter};
use millrace::step::types::{Error, Message};
use settings::{OnInvalid, Settings};

wit_bindgen::generate!({
    path: "../../wit/step",
    inline: "
        package millrace:json-schema;
        world json-schema {
            include millrace:step/filter-step@0.1.0;
            include millrace:step/branch-step@0.1.0;
        }
    ",
    world: "millrace:json-schema/json-schema",
    generate_all,
});

struct JsonSchema;
export!(JsonSchema);

thread_local! {
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

impl filter::Guest for JsonSchema {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        SETTINGS.set(Some(Settings::filter(configuration).map_err(Error::InvalidArgument)?));
        Ok(())
    }

    fn filter(message: Message) -> Result<bool, Error> {
        with(|settings| keep(settings, &message.payload).map_err(Error::InvalidArgument))
    }
}

impl branch::Guest for JsonSchema {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        SETTINGS.set(Some(Settings::branch(configuration).map_err(Error::InvalidArgument)?));
        Ok(())
    }

    fn branch(message: Message) -> Result<String, Error> {
        with(|settings| Ok(arm(settings, &message.payload).to_owned()))
    }
}

fn with<T>(work: impl FnOnce(&Settings) -> Result<T, Error>) -> Result<T, Error> {
    SETTINGS.with_borrow(|settings| match settings {
        Some(settings) => work(settings),
        None => Err(Error::Internal("called before init".into())),
    })
}

fn keep(settings: &Settings, payload: &[u8]) -> Result<bool, String> {
    match settings.on_invalid {
        OnInvalid::Drop => Ok(settings.schema.allows(payload)),
        OnInvalid::Reject => settings.schema.check(payload).map(|()| true),
    }
}

fn arm(settings: &Settings, payload: &[u8]) -> &'static str {
    if settings.schema.allows(payload) {
        "valid"
    } else {
        "invalid"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    const NUMBER: (&str, &str) = ("schema", r#"{"type":"number"}"#);

    #[test]
    fn what_is_not_allowed_is_rejected_or_dropped() {
        let rejects = Settings::filter(pairs(&[NUMBER])).expect("settings");
        assert_eq!(keep(&rejects, b"21.5"), Ok(true));
        assert_eq!(keep(&rejects, b"\"x\""), Err("\"x\" is not of type \"number\"".into()));
        assert!(keep(&rejects, b"hot")
            .expect_err("no JSON")
            .starts_with("the payload is not JSON: "));
        let drops = Settings::filter(pairs(&[NUMBER, ("on-invalid", "drop")])).expect("settings");
        assert_eq!(keep(&drops, b"21.5"), Ok(true));
        assert_eq!(keep(&drops, b"\"x\""), Ok(false));
        assert_eq!(keep(&drops, b"hot"), Ok(false));
    }

    #[test]
    fn a_branch_has_two_arms() {
        let settings = Settings::branch(pairs(&[NUMBER])).expect("settings");
        for (payload, expected) in [("1", "valid"), ("true", "invalid"), ("", "invalid")] {
            assert_eq!(arm(&settings, payload.as_bytes()), expected, "{payload}");
        }
    }
}
