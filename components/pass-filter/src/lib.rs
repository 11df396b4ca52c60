//! A filter that keeps everything. Measures what a call costs.

use exports::millrace::step::filter::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "filter-step", generate_all });

struct Pass;
export!(Pass);

impl Guest for Pass {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn filter(_: Message) -> Result<bool, Error> {
        Ok(true)
    }
}
