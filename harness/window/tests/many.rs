//! A hundred million messages: of one key, and of as many keys. `make test` has of the second a part; all of it:
//! `cargo test --release -p millrace-window --test many -- --ignored --nocapture`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::{Duration, Instant};

use millrace_batch::{Batch, BatchWriter, Fields, Message};
use millrace_window::{
    attach, detach, Document, Ended, Engine, Failure, Late, Step, Window, FULL, MAX_BYTES,
};

const ALL: u64 = 100_000_000;

/// Messages in a batch: as many as a batch of `batch-messages` has at most.
const BATCH: u64 = 10_000;

/// Counts, and adds up, in 16 bytes.
#[derive(Default)]
struct Meter {
    ended: Vec<(u64, u64, u64)>,
    late: u64,
    full: u64,
}

fn read(state: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(state[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

impl Step for Meter {
    fn fold(&mut self, state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure> {
        let (mut count, mut sum) = state.map(read).unwrap_or_default();
        for message in messages {
            count += 1;
            sum += u64::from_le_bytes(message.payload.try_into().unwrap());
        }
        Ok([count.to_le_bytes(), sum.to_le_bytes()].concat())
    }

    fn finish(&mut self, ended: &Ended<'_>) -> Result<(), Failure> {
        let (count, sum) = read(ended.entry.state);
        self.ended.push((ended.entry.count, count, sum));
        Ok(())
    }

    fn late(&mut self, _: &Late<'_>) -> Result<(), String> {
        self.late += 1;
        Ok(())
    }

    fn refused(&mut self, _: &Message<'_>, kind: &str, _: &str) -> Result<(), String> {
        assert_eq!(kind, FULL);
        self.full += 1;
        Ok(())
    }

    fn lost(&mut self, _: &Ended<'_>, _: &str, why: &str) -> Result<(), String> {
        panic!("{why}");
    }
}

/// A step, its document, and how long its calls took.
struct Running {
    engine: Engine,
    document: Vec<u8>,
    step: Meter,
    took: Vec<Duration>,
}

impl Running {
    fn new(window: &str) -> Self {
        let window: Window = window.parse().unwrap();
        Self {
            engine: Engine::new(window),
            document: Vec::new(),
            step: Meter::default(),
            took: Vec::new(),
        }
    }

    fn call(&mut self, body: &[u8]) {
        let batch = Batch::open(body).unwrap();
        let attached = attach(&batch, &self.document, "s", 1, false).unwrap();
        let call = Batch::open(&attached).unwrap();
        let start = Instant::now();
        self.document = self.engine.apply(&detach(&call).unwrap(), &mut self.step).unwrap();
        self.took.push(start.elapsed());
        assert!(self.document.len() <= MAX_BYTES, "{}", self.document.len());
    }

    /// A call at the end takes no longer than one as soon as all was as at the end: the middle of many, three times, because
    /// other things run here as well.
    fn is_flat(&mut self) {
        let quarter = self.took.len() / 4;
        let middle = |calls: &mut [Duration]| {
            calls.sort_unstable();
            calls[calls.len() / 2]
        };
        let second = middle(&mut self.took[quarter..2 * quarter]);
        let last = middle(&mut self.took[3 * quarter..]);
        println!("{second:?} a batch of {BATCH} in the second quarter, {last:?} in the last");
        assert!(last < 3 * second + Duration::from_millis(1), "{second:?}, then {last:?}");
    }
}

/// Messages at `time`, with these numbers as payloads; with `keys` each has its number as its key as well.
fn batch(numbers: std::ops::Range<u64>, time: u64, keys: bool) -> Vec<u8> {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for number in numbers {
        let number = number.to_le_bytes();
        let fields = Fields {
            timestamp: time,
            topic: "t",
            key: Some(if keys { &number } else { b"press" }),
            payload: &number,
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish()
}

fn one_key(messages: u64) {
    let mut run = Running::new("tumbling 10");
    let body = batch(0..BATCH, 1, false);
    let mut size = 0;
    for _ in 0..messages / BATCH {
        run.call(&body);
        // What is kept of one key is as much at the end as at the beginning.
        assert!(size == 0 || run.document.len() == size, "{size}, {}", run.document.len());
        size = run.document.len();
    }
    run.is_flat();
    run.call(&batch(0..1, 10, false));
    let sum = messages / BATCH * (BATCH * (BATCH - 1) / 2);
    assert_eq!(run.step.ended, [(messages, messages, sum)]);
    assert_eq!((run.step.late, run.step.full), (0, 0));
}

fn a_key_each(messages: u64) {
    let mut run = Running::new("tumbling 10");
    for begin in (0..messages).step_by(BATCH as usize) {
        run.call(&batch(begin..begin + BATCH, 1, true));
    }
    run.is_flat();
    // As many as there is room for are in, and every other was said to be one too many.
    let kept = Document::read(&run.document).unwrap().len() as u64;
    assert!(kept > 6_000, "{kept}");
    assert_eq!(run.step.full, messages - kept);
    // The end of the window makes room again.
    run.call(&batch(messages..messages + 100, 10, true));
    assert_eq!(run.step.ended.len() as u64, kept);
    assert!(run.step.ended.iter().all(|ended| (ended.0, ended.1) == (1, 1)));
    assert_eq!(run.step.full, messages - kept);
    assert_eq!(Document::read(&run.document).unwrap().len(), 100);
}

/// Windows that end let others in: all keys come through, in windows of their own.
fn keys_one_after_another(messages: u64) {
    let mut run = Running::new("tumbling 1");
    for (time, begin) in (0..messages).step_by(5_000).enumerate() {
        run.call(&batch(begin..begin + 5_000, time as u64 + 1, true));
    }
    run.is_flat();
    assert_eq!(run.step.ended.len() as u64, messages - 5_000);
    assert_eq!((run.step.late, run.step.full), (0, 0));
}

#[test]
fn a_hundred_million_messages_of_one_key_are_counted_right_in_the_same_space() {
    one_key(ALL);
}

#[test]
fn of_very_many_keys_those_beyond_the_room_are_told_and_the_rest_is_right() {
    a_key_each(400_000);
    keys_one_after_another(400_000);
}

#[test]
#[ignore = "a hundred million: some minutes, with --release"]
fn a_hundred_million_keys() {
    a_key_each(ALL);
}
