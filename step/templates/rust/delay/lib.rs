//! A delay: the event time is the one that the message begins with, in milliseconds since 1970, before a comma.

wit_bindgen::generate!({ path: "wit", world: "delay-step", generate_all });

use exports::millrace::step::delay::Guest;
use millrace::step::types::{Error, Message};

struct Step;
export!(Step);

impl Guest for Step {
    fn init(_configuration: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn delay(message: Message) -> Result<u64, Error> {
        time(&message.payload).map_err(Error::InvalidArgument)
    }
}

/// In nanoseconds since 1970.
fn time(payload: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not text: {e}"))?;
    let (time, _) = text.split_once(',').ok_or_else(|| format!("no time before a comma: {text}"))?;
    let time: Option<u64> = time.trim().parse().ok();
    time.and_then(|milliseconds| milliseconds.checked_mul(1_000_000))
        .ok_or_else(|| format!("not a time in milliseconds: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time(b"1500,81.5"), Ok(1_500_000_000));
        for wrong in ["81.5", "now,81.5", "-1,81.5", "18446744073709551615,81.5"] {
            assert!(time(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
