//! A flat-map that makes one message of each line of the payload. Empty lines make none. Topic, key, headers and time are
//! those of the message the line came in.

use exports::millrace::step::flat_map::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../wit/step", world: "flat-map-step", generate_all });

struct SplitLines;
export!(SplitLines);

impl Guest for SplitLines {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        match configuration.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::InvalidArgument(format!("no such setting: `{name}`"))),
        }
    }

    fn flat_map(message: Message) -> Result<Vec<Message>, Error> {
        Ok(lines(&message.payload)
            .map(|line| Message { payload: line.to_vec(), ..message.clone() })
            .collect())
    }
}

fn lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines =
        payload.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn splits_at_both_line_ends_and_drops_empty_lines() {
        let found: Vec<_> = lines(b"a\r\n\nb\n\r\nc").collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
        assert_eq!(lines(b"").count(), 0);
    }
}
