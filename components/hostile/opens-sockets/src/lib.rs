//! A test step that opens a socket. It is refused when a stage is composed, so it never runs.

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../../wit/step", world: "map-step", generate_all });

struct OpensSockets;
export!(OpensSockets);

impl Guest for OpensSockets {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn map(mut message: Message) -> Result<Message, Error> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")
            .map_err(|error| Error::Internal(error.to_string()))?;
        message.payload = format!("{:?}", socket.local_addr()).into_bytes();
        Ok(message)
    }
}
