//! A test step, map and flat-map at once, that fails as the payload says: a payload that contains `trap` traps it, `spin`
//! keeps it busy for ever, `grow` makes it allocate without end; `invalid`, `internal` and `retry` return that error,
//! `long-topic` a message that cannot be sent on, `huge` one that fits into no body. Any other payload passes.
//!
//! Configuration: `init` = `invalid` makes `init` fail; `trap` = `topic` traps on every message of that topic.

use std::cell::RefCell;

use exports::millrace::step::{flat_map, map};
use millrace::step::types::{Error, Message};

wit_bindgen::generate!({
    path: "../../../wit/step",
    inline: "
        package test:misbehaves;
        world misbehaves {
            include millrace:step/map-step@0.1.0;
            include millrace:step/flat-map-step@0.1.0;
        }
    ",
    world: "test:misbehaves/misbehaves",
    generate_all,
});

struct Misbehaves;
export!(Misbehaves);

thread_local! {
    static CONFIGURATION: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
    if configuration.iter().any(|(name, value)| name == "init" && value == "invalid") {
        return Err(Error::InvalidArgument("init was told to fail".into()));
    }
    CONFIGURATION.set(configuration);
    Ok(())
}

impl map::Guest for Misbehaves {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        init(configuration)
    }

    fn map(message: Message) -> Result<Message, Error> {
        behave(message)
    }
}

impl flat_map::Guest for Misbehaves {
    fn init(configuration: Vec<(String, String)>) -> Result<(), Error> {
        init(configuration)
    }

    /// Twice what `map` returns, the unchanged message first: half an output must never be sent on.
    fn flat_map(message: Message) -> Result<Vec<Message>, Error> {
        let first = message.clone();
        Ok(vec![first, behave(message)?])
    }
}

fn behave(mut message: Message) -> Result<Message, Error> {
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    let says = |word: &str| text.contains(word);
    let told = CONFIGURATION.with_borrow(|all| {
        all.iter().any(|(name, topic)| name == "trap" && *topic == message.topic)
    });
    if says("trap") || told {
        std::process::abort();
    } else if says("spin") {
        spin();
    } else if says("grow") {
        grow();
    } else if says("invalid") {
        return Err(Error::InvalidArgument(format!("told so by: {text}")));
    } else if says("internal") {
        return Err(Error::Internal(format!("told so by: {text}")));
    } else if says("retry") {
        return Err(Error::Retry(format!("told so by: {text}")));
    } else if says("long-topic") {
        message.topic = "x".repeat(70_000);
    } else if says("huge") {
        message.payload = vec![0; 2 * 1024 * 1024];
    }
    Ok(message)
}

fn spin() {
    let mut turns = 0u64;
    while std::hint::black_box(turns) != u64::MAX {
        turns = std::hint::black_box(turns.wrapping_add(1) >> 1);
    }
}

fn grow() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1; 1024 * 1024]));
    }
}
