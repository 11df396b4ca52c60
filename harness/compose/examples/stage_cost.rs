//! What the harness costs: a composed stage with a step that does nothing, over a call that is answered at once.
//!
//! `cargo run --release -p millrace-compose --example stage_cost`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_compose::Kind;
use millrace_window::{Document, Entry, Group, attach};
use support::{Stage, step};

const COUNT: usize = 500;

fn main() {
    println!(
        "CPU time, {COUNT} messages a call; a refused call carries the same body and does nothing with it."
    );
    println!(
        "An instance kept shows the harness alone; a new one for each call, as in the host, adds the cost of fresh memory."
    );
    println!("| stage | payload | us/message, instance kept | new instance for each call |");
    println!("|---|---|---|---|");
    let accumulate = || vec![step("s", Kind::Accumulate, "pass-accumulate")];
    for (name, steps, state) in [
        ("no step", vec![], None),
        ("filter", vec![step("s", Kind::Filter, "pass-filter")], None),
        ("map", vec![step("s", Kind::Map, "pass-map")], None),
        ("delay", vec![step("s", Kind::Delay, "pass-delay")], None),
        ("accumulate, 1 key", accumulate(), Some((1, 0))),
        ("accumulate, 500 keys", accumulate(), Some((500, 0))),
        ("accumulate, 500 of 5,000 keys", accumulate(), Some((500, 4500))),
    ] {
        let stage = Stage::of(steps)
            .with("state-subject", "plant.state")
            .with("step.0.window", "tumbling 1000000");
        for size in [64, 200, 1000] {
            let keys = state.map_or(1, |(keys, _)| keys);
            let mut body = body(size, keys);
            if let Some((_, others)) = state {
                let batch = Batch::parse(&body).unwrap();
                body = attach(&batch, &document(others), "kv/1", 1, false).unwrap();
            }
            let (kept, new) = (time_kept(&stage, &body), time_new(&stage, &body));
            body[4] = 0;
            let (bare_kept, bare_new) = (time_kept(&stage, &body), time_new(&stage, &body));
            let each = |time: f64| time / COUNT as f64;
            println!(
                "| {name} | {size} B | {:.3} | {:.3} |",
                each(kept - bare_kept),
                each(new - bare_new)
            );
        }
    }
}

/// The state of so many keys of which no message comes.
fn document(keys: u32) -> Vec<u8> {
    let keys: Vec<[u8; 5]> = (0..keys).map(|key| [1, key as u8, (key >> 8) as u8, 0, 0]).collect();
    let entry =
        |key| Entry { group: Group::Key(key), start: 0, end: 1_000_000, count: 1, state: &[1; 8] };
    Document::of(1, keys.iter().map(|key| entry(&key[..]))).write()
}

fn body(size: usize, keys: u64) -> Vec<u8> {
    let mut writer = BatchWriter::new([("id", "01J"), ("traceparent", "00-ab-cd-01")]).unwrap();
    let payload = vec![b'x'; size];
    for timestamp in 0..COUNT as u64 {
        let key = (timestamp % keys).to_le_bytes();
        let fields = Fields {
            timestamp,
            key: key.first_chunk::<4>().map(|key| &key[..]),
            topic: "plant/press-1/temperature",
            payload: &payload,
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish()
}

fn time_new(stage: &Stage, body: &[u8]) -> f64 {
    time(|| drop(stage.call_in(&mut stage.store(), body).unwrap()))
}

fn time_kept(stage: &Stage, body: &[u8]) -> f64 {
    let mut store = stage.store();
    let handle = stage.handle(&mut store).unwrap();
    time(|| {
        let _ = handle(&mut store, body).unwrap();
        store.data_mut().published.clear();
        store.data_mut().logged.clear();
    })
}

/// Microseconds of CPU a call: the quickest of many averages.
fn time(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let (start, cpu, mut calls) = (Instant::now(), cpu(), 0u32);
        while start.elapsed() < Duration::from_millis(100) {
            call();
            calls += 1;
        }
        best = best.min((self::cpu() - cpu) / f64::from(calls));
    }
    best
}

/// CPU time of this thread in microseconds: other work on the machine does not count.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
}
