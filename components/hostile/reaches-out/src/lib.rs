//! A map that uses what lies outside as each message says, whether it was granted or not. The payload is one of
//!
//! - `get BUCKET KEY`: becomes the value, or `nothing`
//! - `all BUCKET KEY KEY...`: the values, separated by blanks
//! - `set BUCKET KEY VALUE`, `delete BUCKET KEY`: becomes `done`
//! - `http METHOD URL CONTENT`, with the message's headers: becomes the status and the content of the response
//!
//! What fails is the step's own error.

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};
use millrace::step::{http, key_value};

wit_bindgen::generate!({
    path: "../../../wit/step",
    inline: "
        package test:reaches-out;
        world step {
            import millrace:step/key-value@0.1.0;
            import millrace:step/http@0.1.0;
            export millrace:step/%map@0.1.0;
        }
    ",
    world: "test:reaches-out/step",
    generate_all,
});

struct ReachesOut;
export!(ReachesOut);

impl Guest for ReachesOut {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn map(message: Message) -> Result<Message, Error> {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let payload = run(&text, &message.headers)?;
        Ok(Message { payload, ..message })
    }
}

fn run(text: &str, headers: &[(String, String)]) -> Result<Vec<u8>, Error> {
    let mut words = text.splitn(4, ' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    let (what, first, second, third) = (next(), next(), next(), next());
    let nothing = || b"nothing".to_vec();
    match what.as_str() {
        "get" => Ok(key_value::get(&first, second.as_bytes())?.unwrap_or_else(nothing)),
        "all" => {
            let keys: Vec<Vec<u8>> =
                text.split(' ').skip(2).map(|key| key.as_bytes().to_vec()).collect();
            let values = key_value::get_many(&first, &keys)?;
            let values: Vec<Vec<u8>> =
                values.into_iter().map(|value| value.unwrap_or_else(nothing)).collect();
            Ok(values.join(&b' '))
        }
        "set" => {
            key_value::set(&first, second.as_bytes(), third.as_bytes())?;
            Ok(b"done".to_vec())
        }
        "delete" => {
            key_value::delete(&first, second.as_bytes())?;
            Ok(b"done".to_vec())
        }
        "http" => {
            let request = http::Request {
                method: first,
                url: second,
                headers: headers.to_vec(),
                body: third.into_bytes(),
            };
            let response = http::send(&request)?;
            let mut payload = format!("{} ", response.status).into_bytes();
            payload.extend(response.body);
            Ok(payload)
        }
        other => Err(Error::InvalidArgument(format!("what is `{other}`?"))),
    }
}
