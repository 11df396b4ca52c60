//! A map: the text of each message in capital letters.

wit_bindgen::generate!({ path: "wit", world: "map-step", generate_all });

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};

struct Step;
export!(Step);

impl Guest for Step {
    fn init(_configuration: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn map(mut message: Message) -> Result<Message, Error> {
        message.payload = upper(&message.payload).map_err(Error::InvalidArgument)?;
        Ok(message)
    }
}

fn upper(payload: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not text: {e}"))?;
    Ok(text.to_uppercase().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_capital_letters() {
        assert_eq!(upper("grün".as_bytes()), Ok("GRÜN".into()));
        assert!(upper(b"\xff").is_err());
    }
}
