//! What a batch costs beside the state of many keys: 10,000 of them, 500 messages of 200 bytes.
//!
//! `cargo run --release -p millrace-window --example apply_cost`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::{Duration, Instant};

use millrace_batch::{Batch, BatchWriter, Fields, Message};
use millrace_window::{attach, detach, Document, Ended, Engine, Entry, Failure, Group, Late, Step};

const KEYS: u64 = 10_000;
const MESSAGES: u64 = 500;

/// Counts.
struct Counter {
    ended: u64,
    rejected: u64,
}

impl Step for Counter {
    fn fold(&mut self, state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure> {
        let before = state.and_then(|state| state.first().copied()).unwrap_or_default();
        Ok(vec![before.wrapping_add(messages.len() as u8)])
    }

    fn finish(&mut self, _: &Ended<'_>) -> Result<(), Failure> {
        self.ended += 1;
        Ok(())
    }

    fn late(&mut self, _: &Late<'_>) -> Result<(), String> {
        Ok(())
    }

    /// For want of room in the document.
    fn refused(&mut self, _: &Message<'_>, _: &str, _: &str) -> Result<(), String> {
        self.rejected += 1;
        Ok(())
    }

    fn lost(&mut self, _: &Ended<'_>, _: &str, text: &str) -> Result<(), String> {
        panic!("{text}")
    }
}

fn document(end: u64) -> Vec<u8> {
    let keys: Vec<[u8; 4]> = (0..KEYS).map(|key| (key as u32).to_be_bytes()).collect();
    let entry = |key| Entry { group: Group::Key(key), start: 0, end, count: 1, state: b"\x01" };
    Document::of(1, keys.iter().map(|key| entry(&key[..]))).write()
}

fn batch(time: u64, spread: u64) -> Vec<u8> {
    let mut writer = BatchWriter::new([("id", "01J")]).unwrap();
    for number in 0..MESSAGES {
        let key = ((number * spread % KEYS) as u32).to_be_bytes();
        let fields = Fields {
            timestamp: time,
            topic: "plant/press-1/temperature",
            key: Some(&key),
            payload: &[b'x'; 200],
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish()
}

fn main() {
    println!("{KEYS} open windows, {MESSAGES} messages of 200 B; the least of many calls.");
    println!("| windows | document | messages of | time a batch | ended | rejected |");
    println!("|---|---|---|---|---|---|");
    for (name, window, end, time) in [
        ("tumbling, none ends", "tumbling 1000", 1000, 500),
        ("tumbling, all end", "tumbling 1000", 1000, 1500),
        ("hopping, 10 each", "hopping 1000 100", 1000, 500),
        ("session", "session 1000", 1000, 500),
        ("count", "count 100", 0, 500),
    ] {
        for (keys, spread) in [("500 keys", 19), ("5 keys", 2000)] {
            let document = document(end);
            let batch = batch(time, spread);
            let body = attach(&Batch::parse(&batch).unwrap(), &document, "kv/1", 1, false).unwrap();
            let engine = Engine::new(window.parse().unwrap());
            let (mut least, mut ended, mut rejected) = (Duration::MAX, 0, 0);
            for _ in 0..200 {
                let begin = Instant::now();
                let body = Batch::open(&body).unwrap();
                let mut step = Counter { ended: 0, rejected: 0 };
                let next = engine.apply(&detach(&body).unwrap(), &mut step).unwrap();
                least = least.min(begin.elapsed());
                assert!(!next.is_empty());
                (ended, rejected) = (step.ended, step.rejected);
            }
            let (kib, us) = (document.len() / 1024, least.as_micros());
            println!("| {name} | {kib} KiB | {keys} | {us} us | {ended} | {rejected} |");
        }
    }
}
