//! An accumulate: the mean of the numbers of a window.

wit_bindgen::generate!({ path: "wit", world: "accumulate-step", generate_all });

use exports::millrace::step::accumulate::{Guest, Window};
use millrace::step::types::{Error, Message};

struct Step;
export!(Step);

impl Guest for Step {
    fn init(_configuration: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn accumulate(state: Option<Vec<u8>>, messages: Vec<Message>) -> Result<Vec<u8>, Error> {
        let mut mean = match state {
            Some(state) => Mean::read(&state).map_err(Error::Internal)?,
            None => Mean::default(),
        };
        for message in &messages {
            mean.add(number(&message.payload).map_err(Error::InvalidArgument)?);
        }
        Ok(mean.write())
    }

    fn finish(window: Window, state: Vec<u8>) -> Result<Vec<Message>, Error> {
        let mean = Mean::read(&state).map_err(Error::Internal)?;
        Ok(vec![Message {
            // The window's end.
            timestamp: 0,
            topic: window.topic,
            key: window.key,
            content_type: None,
            headers: vec![],
            payload: mean.value().to_string().into_bytes(),
        }])
    }
}

/// What is kept of a window. The platform keeps its 16 bytes; a new version of the step is given those of the one before.
#[derive(Default)]
struct Mean {
    count: u64,
    sum: f64,
}

impl Mean {
    fn add(&mut self, number: f64) {
        self.count += 1;
        self.sum += number;
    }

    fn value(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn write(&self) -> Vec<u8> {
        [self.count.to_le_bytes(), self.sum.to_le_bytes()].concat()
    }

    fn read(state: &[u8]) -> Result<Self, String> {
        let wrong = || format!("a state has 16 bytes, and this one {}", state.len());
        let (count, sum) = state.split_first_chunk().ok_or_else(wrong)?;
        let sum = sum.try_into().map_err(|_| wrong())?;
        Ok(Self { count: u64::from_le_bytes(*count), sum: f64::from_le_bytes(sum) })
    }
}

fn number(payload: &[u8]) -> Result<f64, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not text: {e}"))?;
    text.trim().parse().map_err(|_| format!("not a number: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_goes_on_from_its_state() {
        let mut mean = Mean::default();
        mean.add(20.0);
        let mut mean = Mean::read(&mean.write()).unwrap();
        mean.add(22.5);
        assert_eq!(mean.value(), 21.25);
        assert!(Mean::read(b"short").is_err());
        assert!(number(b"fault").is_err());
    }
}
