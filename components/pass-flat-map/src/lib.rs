//! A flat-map that makes one message of each. Measures what a call costs.

use exports::millrace::step::flat_map::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "flat-map-step", generate_all });

struct Pass;
export!(Pass);

impl Guest for Pass {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn flat_map(message: Message) -> Result<Vec<Message>, Error> {
        Ok(vec![message])
    }
}
