//! A branch: numbers above the limit that the pipeline gives take the arm `high`, others the arm `low`.

use std::cell::Cell;

wit_bindgen::generate!({ path: "wit", world: "branch-step", generate_all });

use exports::millrace::step::branch::Guest;
use millrace::step::types::{Error, Message};

struct Step;
export!(Step);

thread_local! {
    static LIMIT: Cell<f64> = const { Cell::new(0.0) };
}

impl Guest for Step {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        LIMIT.set(limit(&configuration).map_err(Error::InvalidArgument)?);
        Ok(())
    }

    fn branch(message: Message) -> Result<String, Error> {
        let number = number(&message.payload).map_err(Error::InvalidArgument)?;
        Ok(if number > LIMIT.get() { "high" } else { "low" }.to_owned())
    }
}

fn limit(configuration: &[(String, String)]) -> Result<f64, String> {
    let found = configuration.iter().find(|(name, _)| name == "limit");
    let (_, value) = found.ok_or("`limit` is not set")?;
    value.parse().map_err(|_| format!("`limit` is not a number: {value}"))
}

fn number(payload: &[u8]) -> Result<f64, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not text: {e}"))?;
    text.trim().parse().map_err(|_| format!("not a number: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        assert_eq!(number(b" 80.5 "), Ok(80.5));
        assert!(number(b"hot").is_err());
        assert_eq!(limit(&[("limit".into(), "80".into())]), Ok(80.0));
        assert!(limit(&[]).is_err());
    }
}
