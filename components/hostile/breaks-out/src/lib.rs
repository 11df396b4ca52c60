//! A monolithic test step that tries to reach what is not its own. The payload of a message names the attempt: `subjects`,
//! `request`, `identity`, `config`, `giant`, `malformed`, `deep`. What came of it goes on as a message of its own, a line for each
//! try. What it publishes where it should not contains `stolen`.
#![allow(unsafe_code, reason = "a string that is none, to see what the host does with it")]

use exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use millrace_batch::{Batch, BatchWriter, Fields, PROBE};
use millrace_grants::{Request, Use, SUBJECT};
use wasi::config::store;
use wasmcloud::messaging::consumer;

wit_bindgen::generate!({
    path: ["../../../wit/deps/config", "../../../wit/deps/messaging", "wit"],
    world: "test:breaks-out/breaks-out",
    generate_all,
});

struct BreaksOut;
export!(BreaksOut);

impl Guest for BreaksOut {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let batch = Batch::parse(&message.body).map_err(|error| format!("batch: {error}"))?;
        let subject = match store::get("out-subject") {
            Ok(Some(subject)) => subject,
            _ => return Err("config: no `out-subject`".to_owned()),
        };
        if batch.is_empty() {
            return match batch.header(PROBE) {
                Some(_) => publish(&subject, message.body),
                None => Ok(()),
            };
        }
        for (number, message) in batch.messages().enumerate() {
            let attempt = String::from_utf8_lossy(message.payload).into_owned();
            let said = format!("{attempt}\n{}", attempt_of(&attempt, &subject));
            let id = format!("{}.{number}", batch.header("id").unwrap_or_default());
            publish(&subject, packed(&[("id", &id)], said.as_bytes()))
                .map_err(|error| format!("downstream: {error}"))?;
        }
        Ok(())
    }
}

fn attempt_of(attempt: &str, own: &str) -> String {
    match attempt {
        "subjects" => subjects(),
        "request" => request(),
        "identity" => identity(own),
        "config" => config(),
        "giant" => line("giant", &publish(own, vec![b'x'; 5 * 1024 * 1024])),
        "malformed" => {
            // SAFETY: it is not, which is the point: the host has to check what it is given.
            let subject = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, b'x']) };
            line("malformed", &publish(&subject, packed(&[], b"stolen")))
        }
        "deep" => deep(u64::MAX).to_string(),
        _ => "nothing".to_owned(),
    }
}

/// Whatever is said here, the lattice carries it along the step's own link.
fn subjects() -> String {
    let wanted = [
        "neighbour.out.pass",
        "neighbour.dead.pass",
        "neighbour.state.pass",
        "millrace.test.neighbour.out.pass",
        "$JS.API.STREAM.DELETE.MILLRACE_test_neighbour",
        "$JS.API.STREAM.LIST",
        "wadm.api.test.model.del.neighbour",
        "wasmbus.ctl.v1.test.host.ping",
        "",
        " ",
        ">",
        "*",
        "a b",
        "a\0b",
        "x\r\nPUB neighbour.out.pass 6\r\nstolen\r\n",
    ];
    let tries = wanted.iter().enumerate().map(|(number, subject)| {
        let id = format!("stolen-{number}");
        line(subject, &publish(subject, packed(&[("id", &id)], b"stolen")))
    });
    tries.collect()
}

fn request() -> String {
    let wanted = ["$JS.API.INFO", "wadm.api.test.model.list", "wasmbus.ctl.v1.test.host.ping"];
    let answered = |subject: &&str| {
        let answer = consumer::request(subject, b"{}", 500).map(drop);
        line(subject, &answer)
    };
    let mut said: String = wanted.iter().map(answered).collect();
    // What a step of the neighbour was granted, in its name, in its own, and in none.
    for step in ["pass", "keep", "escape", "neighbour", ""] {
        let what = Use::Get { bucket: "secrets".to_owned(), keys: vec![b"recipe".to_vec()] };
        let body = Request { step: step.to_owned(), what }.encode().unwrap_or_default();
        let answer = consumer::request(SUBJECT, &body, 500).map(drop);
        said += &line(step, &answer);
    }
    said
}

/// Batches that look like somebody else's.
fn identity(own: &str) -> String {
    let tries: [(&str, &[(&str, &str)]); 7] = [
        ("state", &[("state", "pass 1/0 0")]),
        ("own state", &[("state", "escape 4000000000/7 0")]),
        ("id", &[("id", "x\r\nno header at all")]),
        ("trace", &[("traceparent", "x\r\nNats-Rollup: all")]),
        ("enter", &[("enter", "pass"), ("id", "stolen-enter")]),
        ("arm", &[("arm", "result"), ("id", "stolen-arm")]),
        ("dead", &[("millrace-dead-pipeline", "neighbour"), ("id", "stolen-dead")]),
    ];
    tries
        .iter()
        .map(|(name, headers)| line(name, &publish(own, packed(headers, b"stolen"))))
        .collect()
}

fn config() -> String {
    match store::get_all() {
        Ok(all) => all.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
        Err(_) => "error".to_owned(),
    }
}

fn deep(left: u64) -> u64 {
    let kept = std::hint::black_box([left; 64]);
    match left {
        0 => 0,
        _ => deep(left - 1).wrapping_add(kept.iter().sum()),
    }
}

fn packed(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let writer = BatchWriter::new(headers.iter().copied());
    let packed = writer.and_then(|mut writer| {
        writer.push(&Fields { topic: "stolen", payload, ..Fields::default() }, [])?;
        Ok(writer.finish())
    });
    packed.unwrap_or_default()
}

fn publish(subject: &str, body: Vec<u8>) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: subject.to_owned(), body, reply_to: None })
}

fn line(what: &str, result: &Result<(), String>) -> String {
    match result {
        Ok(()) => format!("{what:?}: ok\n"),
        Err(error) => format!("{what:?}: error: {error}\n"),
    }
}
