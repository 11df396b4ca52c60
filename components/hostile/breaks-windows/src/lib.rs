//! A test step with state that fails as the payload says. Its state is the payloads, with a comma behind each, and comes
//! out as it is when a window ends.
//!
//! - the payloads `invalid`, `internal` and `retry` are that error, `trap` traps
//! - `clock` adds what the clock says to the state, so that the same call does not give the same
//! - `end-internal` and `end-retry` are an error of the window that they are in, at its end
//! - `end-long-topic` makes two messages of its window, of which the second cannot be sent on
//! - `end-timed` has the result bear the time 42, a header and an arm of its own
//!
//! Configuration: `init` = `invalid` makes `init` fail.

use exports::millrace::step::accumulate::{Guest, Window};
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../../wit/step", world: "accumulate-step", generate_all });

struct Breaks;
export!(Breaks);

impl Guest for Breaks {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        if configuration.iter().any(|(name, value)| name == "init" && value == "invalid") {
            return Err(Error::InvalidArgument("init was told to fail".into()));
        }
        Ok(())
    }

    fn accumulate(state: Option<Vec<u8>>, messages: Vec<Message>) -> Result<Vec<u8>, Error> {
        let mut state = state.unwrap_or_default();
        for message in messages {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            match text.as_str() {
                "invalid" => return Err(Error::InvalidArgument(format!("told so by: {text}"))),
                "internal" => return Err(Error::Internal(format!("told so by: {text}"))),
                "retry" => return Err(Error::Retry(format!("told so by: {text}"))),
                "trap" => std::process::abort(),
                "clock" => {
                    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                    state.extend_from_slice(format!("{now:?}").as_bytes());
                }
                _ => {}
            }
            state.extend_from_slice(&message.payload);
            state.push(b',');
        }
        Ok(state)
    }

    fn finish(window: Window, state: Vec<u8>) -> Result<Vec<Message>, Error> {
        let text = String::from_utf8_lossy(&state).into_owned();
        let says = |word: &str| text.contains(word);
        if says("end-internal") {
            return Err(Error::Internal("told not to end".into()));
        }
        if says("end-retry") {
            return Err(Error::Retry("told to end later".into()));
        }
        let mut result = Message {
            timestamp: 0,
            topic: window.topic,
            key: window.key,
            content_type: None,
            headers: vec![],
            payload: state,
        };
        if says("end-timed") {
            result.timestamp = 42;
            result.headers =
                vec![("own".into(), "1".into()), ("millrace-arm".into(), "own".into())];
        }
        if says("end-long-topic") {
            let second = Message { topic: "x".repeat(70_000), ..result.clone() };
            return Ok(vec![result, second]);
        }
        Ok(vec![result])
    }
}
