//! A filter that keeps readings above the limit of their machine. The payload is a number; the limit is the value of the
//! message's topic in a key-value bucket, a number as well. So limits change without anything being deployed again.
//!
//! Configuration: `bucket` names the bucket (default `limits`). The step has to be granted `kv:read:BUCKET`.

use std::cell::RefCell;

use exports::millrace::step::filter::Guest;
use millrace::step::key_value;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({
    path: "../../wit/step",
    inline: "
        package example:above-own-limit;
        world step {
            import millrace:step/key-value@0.1.0;
            export millrace:step/filter@0.1.0;
        }
    ",
    world: "example:above-own-limit/step",
    generate_all,
});

struct AboveOwnLimit;
export!(AboveOwnLimit);

thread_local! {
    static BUCKET: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Guest for AboveOwnLimit {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        let mut bucket = "limits".to_owned();
        for (name, value) in configuration {
            match name.as_str() {
                "bucket" => bucket = value,
                other => return Err(Error::InvalidArgument(format!("no such setting: `{other}`"))),
            }
        }
        BUCKET.set(bucket);
        Ok(())
    }

    fn filter(message: Message) -> Result<bool, Error> {
        let bucket = BUCKET.with_borrow(String::clone);
        let limit = key_value::get(&bucket, message.topic.as_bytes())?.ok_or_else(|| {
            Error::InvalidArgument(format!(
                "bucket `{bucket}` has no limit for `{}`",
                message.topic
            ))
        })?;
        let limit = number(&limit).map_err(|text| Error::Internal(format!("the limit: {text}")))?;
        Ok(number(&message.payload).map_err(Error::InvalidArgument)? > limit)
    }
}

fn number(bytes: &[u8]) -> Result<f64, String> {
    let text = String::from_utf8_lossy(bytes);
    text.trim()
        .parse()
        .map_err(|_| format!("not a number: `{}`", text.chars().take(40).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b" 17.5\n"), Ok(17.5));
        assert!(number(b"hot").is_err());
        assert!(number(&[0xff]).is_err());
    }
}
