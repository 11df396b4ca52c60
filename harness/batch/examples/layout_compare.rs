//! Compares the batch layout with rkyv, a zero-copy library, on the harness's work: 500 messages written, then read.
//!
//! `cargo run --release -p millrace-batch --example layout_compare`
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark; the derived types have no readers"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use millrace_batch::{Batch, BatchWriter, Fields};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Packed {
    headers: Vec<(String, String)>,
    messages: Vec<PackedMessage>,
}

#[derive(rkyv::Archive, rkyv::Serialize)]
struct PackedMessage {
    timestamp: u64,
    topic: String,
    content_type: Option<String>,
    key: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

const COUNT: usize = 500;
const TOPIC: &str = "plant/press-1/temperature";

fn main() {
    println!("| payload | layout | bytes a message over payload | write ns/message | check + read ns/message |");
    println!("|---|---|---|---|---|");
    for size in [64, 200, 1000] {
        let payload = vec![7; size];
        ours(&payload);
        rkyv(&payload);
    }
}

fn ours(payload: &[u8]) {
    let write = || {
        let mut writer =
            BatchWriter::with_capacity([("id", "01J")], COUNT * (payload.len() + 80)).unwrap();
        let fields = Fields { timestamp: 1, topic: TOPIC, payload, ..Fields::default() };
        for _ in 0..COUNT {
            writer.push(black_box(&fields), [("unit", "C")]).unwrap();
        }
        writer.finish()
    };
    let bytes = write();
    let read = || {
        let batch = Batch::parse(black_box(&bytes)).unwrap();
        batch
            .messages()
            .map(|m| m.payload.len() + m.topic.len() + m.headers().count())
            .sum::<usize>()
    };
    row("millrace", payload, bytes.len(), time(write), time(read));
}

/// The library writes from owned values, so the values are made inside the timed part, as a step's output would be.
fn rkyv(payload: &[u8]) {
    let write = || {
        let messages = (0..COUNT).map(|_| PackedMessage {
            timestamp: 1,
            topic: black_box(TOPIC).into(),
            content_type: None,
            key: None,
            headers: vec![("unit".into(), "C".into())],
            payload: payload.to_vec(),
        });
        let packed =
            Packed { headers: vec![("id".into(), "01J".into())], messages: messages.collect() };
        rkyv::to_bytes::<rkyv::rancor::Error>(&packed).unwrap()
    };
    let bytes = write();
    let read = || {
        let packed =
            rkyv::access::<ArchivedPacked, rkyv::rancor::Error>(black_box(&bytes)).unwrap();
        packed
            .messages
            .iter()
            .map(|m| m.payload.len() + m.topic.len() + m.headers.len())
            .sum::<usize>()
    };
    row("rkyv 0.8", payload, bytes.len(), time(write), time(read));
}

fn time<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (start, mut rounds) = (Instant::now(), 0u32);
        while start.elapsed() < Duration::from_millis(200) {
            black_box(work());
            rounds += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds));
    }
    best / COUNT as f64
}

fn row(layout: &str, payload: &[u8], bytes: usize, write: f64, read: f64) {
    let over = bytes as f64 / COUNT as f64 - payload.len() as f64;
    println!("| {} B | {layout} | {over:.1} | {write:.0} | {read:.0} |", payload.len());
}
