//! An accumulate that counts. Measures what a call and its state cost.

use exports::millrace::step::accumulate::{Guest, Window};
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "accumulate-step", generate_all });

struct Pass;
export!(Pass);

impl Guest for Pass {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn accumulate(state: Option<Vec<u8>>, messages: Vec<Message>) -> Result<Vec<u8>, Error> {
        let before = state.map_or(Ok(0), |state| count(&state))?;
        Ok((before + messages.len() as u64).to_le_bytes().to_vec())
    }

    fn finish(window: Window, state: Vec<u8>) -> Result<Vec<Message>, Error> {
        Ok(vec![Message {
            timestamp: 0,
            topic: window.topic,
            key: window.key,
            content_type: Some("text/plain".into()),
            headers: vec![],
            payload: count(&state)?.to_string().into_bytes(),
        }])
    }
}

fn count(state: &[u8]) -> Result<u64, Error> {
    let bytes = state.try_into().map_err(|_| Error::Internal("the state is no count".into()))?;
    Ok(u64::from_le_bytes(bytes))
}
