//! Passes on what comes: a place where several come together. Which of them calls is the plan's matter, so that there is nothing
//! to do here.
#![allow(unsafe_code, reason = "generated bindings")]

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../../../wit/deps/config",
            "../../../../wit/deps/logging",
            "../../../../wit/deps/messaging",
            "../../../../wit/step",
            "../../../../wit/stage",
        ],
        world: "millrace:stage/drive-concatenate",
        generate_all,
    });
    use super::Concatenate;
    export!(Concatenate);
}

use bindings::exports::millrace::stage::flow::Guest;
use bindings::millrace::stage::flow;

struct Concatenate;

impl Guest for Concatenate {
    fn process(position: u32, length: u32, words: Vec<u64>) -> Result<(), String> {
        flow::process(position.saturating_add(1), length, &words)
    }
}
