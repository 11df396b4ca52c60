//! A flat-map: a message for each line of a message.

wit_bindgen::generate!({ path: "wit", world: "flat-map-step", generate_all });

use exports::millrace::step::flat_map::Guest;
use millrace::step::types::{Error, Message};

struct Step;
export!(Step);

impl Guest for Step {
    fn init(_configuration: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn flat_map(message: Message) -> Result<Vec<Message>, Error> {
        let lines = lines(&message.payload).map_err(Error::InvalidArgument)?;
        let with = |payload| Message { payload, ..message.clone() };
        Ok(lines.into_iter().map(with).collect())
    }
}

fn lines(payload: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not text: {e}"))?;
    let lines = text.split('\n').map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(|line| line.as_bytes().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_left_out() {
        assert_eq!(lines(b"a\n\n b \n"), Ok(vec![b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(lines(b""), Ok(Vec::new()));
        assert!(lines(b"\xff").is_err());
    }
}
