//! A delay that leaves the time as it is. Measures what a call costs. With the configuration `seconds` it adds so many, and
//! rejects a message whose time would be beyond 64 bits.

use std::cell::Cell;

use exports::millrace::step::delay::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "delay-step", generate_all });

struct Pass;
export!(Pass);

thread_local! {
    /// Nanoseconds to add.
    static MORE: Cell<u64> = const { Cell::new(0) };
}

impl Guest for Pass {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        for (name, value) in configuration {
            let seconds: Option<u64> = value.parse().ok();
            match (name.as_str(), seconds.and_then(|seconds| seconds.checked_mul(1_000_000_000))) {
                ("seconds", Some(more)) => MORE.set(more),
                ("seconds", None) => {
                    return Err(Error::InvalidArgument(format!("no number of seconds: `{value}`")))
                }
                _ => return Err(Error::InvalidArgument(format!("no such setting: `{name}`"))),
            }
        }
        Ok(())
    }

    fn delay(message: Message) -> Result<u64, Error> {
        let time = message.timestamp.checked_add(MORE.get());
        time.ok_or_else(|| Error::InvalidArgument("the time would be beyond 64 bits".into()))
    }
}
