//! The first part of a stage. It is the only one that looks at bytes from outside, so the parts behind it need not
//! doubt them.
//!
//! 1. what is not a batch becomes a batch of one raw message
//! 2. the batch is checked, all of it
//! 3. an empty batch is answered here, unless it asks about the whole way (batch header `probe`)
//! 4. everything else goes to the first step
#![allow(unsafe_code, reason = "generated bindings")]

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../../wit/deps/config",
            "../../../wit/deps/logging",
            "../../../wit/deps/messaging",
            "../../../wit/step",
            "../../../wit/stage",
        ],
        world: "millrace:stage/intake",
        generate_all,
    });
    use super::Intake;
    export!(Intake);
}

use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::millrace::stage::flow;
use bindings::wasi::logging::logging::{log, Level};
use millrace_batch::{is_batch, wrap_raw, Batch, PROBE};

struct Intake;

impl Guest for Intake {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let mut body = as_batch(message)?;
        let batch = Batch::parse(&body).map_err(|error| refused(&error))?;
        if batch.is_empty() && batch.header(PROBE).is_none() {
            return Ok(());
        }
        let (length, words) = words::pack(&mut body);
        flow::process(0, length, &words)
    }
}

fn as_batch(message: BrokerMessage) -> Result<Vec<u8>, String> {
    if is_batch(&message.body) {
        return Ok(message.body);
    }
    // The harness has no clock: 0 says that the time is not known.
    wrap_raw(&message.subject, &message.body, 0, []).map_err(|error| refused(&error))
}

fn refused(error: &dyn std::error::Error) -> String {
    let text = format!("batch: {error}");
    log(Level::Warn, "millrace", &text);
    text
}
