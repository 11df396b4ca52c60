//! A step that keeps what it is given, and calls to the engine.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use millrace_batch::{Batch, BatchWriter, Fields, Message};
use millrace_window::{
    attach, detach, ApplyError, Document, Ended, Engine, Failure, Group, Late, Step, Window,
};

/// A message: key, event time, payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub key: Option<String>,
    pub time: u64,
    pub payload: String,
}

pub fn sent(key: &str, time: u64, payload: &str) -> Sent {
    Sent { key: Some(key.to_owned()), time, payload: payload.to_owned() }
}

/// A window that came to its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closed {
    pub group: String,
    pub start: u64,
    pub end: u64,
    pub items: Vec<String>,
}

pub fn closed(group: &str, start: u64, end: u64, items: &[&str]) -> Closed {
    let items = items.iter().map(|item| (*item).to_owned()).collect();
    Closed { group: group.to_owned(), start, end, items }
}

pub fn name(group: &Group<'_>) -> String {
    match group {
        Group::Key(key) => String::from_utf8_lossy(key).into_owned(),
        Group::Topic(topic) => format!("topic {topic}"),
    }
}

/// Its state is the payloads with a comma behind each. Rejects `bad`, asks for another try at `retry`, and makes much of
/// `huge <bytes>`.
#[derive(Debug, Default)]
pub struct Recorder {
    pub closed: Vec<Closed>,
    pub times: Vec<u64>,
    pub late: Vec<String>,
    pub refused: Vec<(String, String, String)>,
    pub lost: Vec<(Closed, String)>,
    pub folds: usize,
    /// Rejects the end of windows of this group.
    pub unfinished: Option<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn window(ended: &Ended<'_>) -> Closed {
    let entry = &ended.entry;
    let items: Vec<String> = text(entry.state).split_terminator(',').map(str::to_owned).collect();
    assert_eq!(items.len() as u64, entry.count);
    Closed { group: name(&entry.group), start: entry.start, end: entry.end, items }
}

impl Step for Recorder {
    fn fold(&mut self, state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure> {
        self.folds += 1;
        assert!(!messages.is_empty());
        let mut state = state.unwrap_or_default().to_vec();
        for message in messages {
            let payload = text(message.payload);
            if payload.starts_with("bad") {
                return Err(Failure::Reject {
                    kind: "invalid-argument",
                    text: format!("not {payload}"),
                });
            }
            if payload == "retry" {
                return Err(Failure::Fail("retry: later".to_owned()));
            }
            if let Some(bytes) = payload.strip_prefix("huge ") {
                state.resize(state.len() + bytes.parse::<usize>().unwrap() - 1, b'x');
            } else {
                state.extend_from_slice(payload.as_bytes());
            }
            state.push(b',');
        }
        Ok(state)
    }

    fn finish(&mut self, ended: &Ended<'_>) -> Result<(), Failure> {
        let window = window(ended);
        if self.unfinished.as_ref() == Some(&window.group) {
            return Err(Failure::Reject { kind: "internal", text: "no end".to_owned() });
        }
        self.closed.push(window);
        self.times.push(ended.time);
        Ok(())
    }

    fn late(&mut self, late: &Late<'_>) -> Result<(), String> {
        self.late.push(text(late.message.payload));
        Ok(())
    }

    fn refused(&mut self, message: &Message<'_>, kind: &str, why: &str) -> Result<(), String> {
        self.refused.push((text(message.payload), kind.to_owned(), why.to_owned()));
        Ok(())
    }

    fn lost(&mut self, ended: &Ended<'_>, _: &str, why: &str) -> Result<(), String> {
        self.lost.push((window(ended), why.to_owned()));
        Ok(())
    }
}

pub fn batch(messages: &[Sent]) -> Vec<u8> {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for message in messages {
        let fields = Fields {
            timestamp: message.time,
            topic: "t",
            key: message.key.as_deref().map(str::as_bytes),
            payload: message.payload.as_bytes(),
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish()
}

/// A step with state, its document kept from call to call.
pub struct Running {
    pub engine: Engine,
    pub document: Vec<u8>,
    pub step: Recorder,
}

impl Running {
    pub fn new(window: &str, lateness: u64) -> Self {
        let window = Window { lateness, ..window.parse().unwrap() };
        Self { engine: Engine::new(window), document: Vec::new(), step: Recorder::default() }
    }

    pub fn try_call(&mut self, messages: &[Sent], now: u64, idle: bool) -> Result<(), ApplyError> {
        let batch = batch(messages);
        let batch = Batch::parse(&batch).unwrap();
        let call = attach(&batch, &self.document, "s", now, idle).unwrap();
        let call = Batch::parse(&call).unwrap();
        self.document = self.engine.apply(&detach(&call).unwrap(), &mut self.step)?;
        Ok(())
    }

    /// One batch.
    pub fn call(&mut self, messages: &[Sent]) -> &mut Self {
        self.try_call(messages, 1, false).unwrap();
        self
    }

    /// A call of a step that has been idle.
    pub fn idle(&mut self, now: u64) -> &mut Self {
        self.try_call(&[], now, true).unwrap();
        self
    }

    pub fn document(&self) -> Document {
        Document::read(&self.document).unwrap()
    }

    /// Closed since the last time.
    pub fn closed(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.step.closed)
    }
}
