//! A test step that uses what Rust's standard library offers a program for wasm32-wasip2. The payload names the thing; the
//! returned payload is what came of it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use exports::millrace::step::map::Guest;
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({ path: "../../../wit/step", world: "map-step", generate_all });

struct AsksAround;
export!(AsksAround);

impl Guest for AsksAround {
    fn init(_: Vec<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    fn map(mut message: Message) -> Result<Message, Error> {
        let thing = String::from_utf8_lossy(&message.payload).into_owned();
        let seen =
            ask(&thing).ok_or_else(|| Error::InvalidArgument(format!("do not know {thing}")))?;
        message.payload = seen.into_bytes();
        Ok(message)
    }
}

fn ask(thing: &str) -> Option<String> {
    Some(match thing {
        "hash" => {
            let counts: HashMap<String, usize> = (0..100).map(|n| (n.to_string(), n)).collect();
            format!("{} entries", counts.len())
        }
        "print" => {
            println!("to nobody");
            eprintln!("to nobody");
            "printed".into()
        }
        "env" => format!(
            "{} variables, {} arguments",
            std::env::vars().count(),
            std::env::args().count()
        ),
        "stdin" => {
            let mut line = String::new();
            format!("{:?}", std::io::stdin().read_line(&mut line).ok())
        }
        "files" => {
            match std::fs::read_to_string("/etc/passwd").and(std::fs::write("/tmp/x", "x")) {
                Ok(_) => "files were there".into(),
                Err(_) => "no files".into(),
            }
        }
        "clocks" => {
            let wall =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let _ = Instant::now().elapsed();
            format!("after 2020: {}", wall > 1_577_836_800)
        }
        "sleep" => {
            std::thread::sleep(Duration::from_millis(1));
            "slept".into()
        }
        "random" => {
            let (one, other) = (
                wasip2::random::random::get_random_u64(),
                wasip2::random::random::get_random_u64(),
            );
            format!("different: {}", one != other)
        }
        _ => return None,
    })
}
