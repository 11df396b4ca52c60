//! A map that returns what it is given. Measures what a call costs.

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "map-step", generate_all });

struct Pass;
export!(Pass);

impl Guest for Pass {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn map(message: Message) -> Result<Message, Error> {
        Ok(message)
    }
}
