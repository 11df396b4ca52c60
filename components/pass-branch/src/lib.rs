//! A branch that sends everything to its arm `on`. Measures what a call costs.

use exports::millrace::step::branch::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "branch-step", generate_all });

struct Pass;
export!(Pass);

impl Guest for Pass {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn branch(_: Message) -> Result<String, Error> {
        Ok("on".to_owned())
    }
}
