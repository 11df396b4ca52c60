//! Steps that need no component.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use millrace_desk::{Message, Run, Runtime, Setting};
use support::{loaded, runtime};

const START: u64 = 1_767_225_600_000_000_000;

fn of(graph: &str) -> Runtime {
    runtime(&loaded(graph))
}

/// A message with this text of a machine, so many seconds after the start.
fn message(machine: &str, seconds: u64, text: &str) -> Message {
    Message {
        timestamp: START + seconds * 1_000_000_000,
        topic: "t".into(),
        key: Some(machine.into()),
        payload: text.into(),
        ..Message::default()
    }
}

/// Gives each list as a batch of its own.
fn run(runtime: &Runtime, source: &str, batches: &[&[Message]]) -> Run {
    let mut session = runtime.session(&Setting::default());
    for batch in batches {
        session.give(source, *batch).unwrap();
        session.settle().unwrap();
    }
    session.end()
}

/// What came to a sink: keys and payloads.
fn texts(run: &Run, sink: &str) -> Vec<String> {
    let text = |message: &Message| {
        let key = String::from_utf8_lossy(message.key.as_deref().unwrap()).into_owned();
        format!("{key}:{}", String::from_utf8_lossy(&message.payload))
    };
    run.sinks.get(sink).into_iter().flatten().map(text).collect()
}

#[test]
fn what_has_come_before_is_dropped_for_its_time() {
    let runtime = of("sources: [machine]
steps:
  once: { de-duplicate: { by: payload.id, within: 80s }, from: machine }
sinks:
  out: { from: once }
");
    let (one, two) = (r#"{"id":1}"#, r#"{"id":2,"x":0}"#);
    let first = [message("a", 0, one), message("b", 0, one), message("a", 1, two)];
    // Of the time at which they come, also in one batch.
    let second =
        [message("a", 80, one), message("a", 200, one), message("b", 5, r#"{"x":1,"id":1}"#)];
    let third = [message("a", 201, one), message("a", 0, two)];
    let run = run(&runtime, "machine", &[&first, &second, &third]);
    let expected = [
        format!("a:{one}"),
        format!("b:{one}"),
        format!("a:{two}"),
        format!("a:{one}"),
        r#"b:{"x":1,"id":1}"#.to_owned(),
        format!("a:{two}"),
    ];
    assert_eq!(texts(&run, "out"), expected);
    assert!(run.letters.is_empty());
}

#[test]
fn what_cannot_be_judged_is_a_dead_letter() {
    let runtime = of("sources: [machine]
steps:
  once: { de-duplicate: { by: [payload.id, headers.line], within: 1m }, from: machine }
sinks:
  out: { from: once }
");
    let mut right = message("a", 0, r#"{"id":1}"#);
    right.headers.push(("line".into(), "7".into()));
    let given = [message("a", 0, "no JSON"), right.clone(), message("a", 0, r#"{"id":1}"#), right];
    let run = run(&runtime, "machine", &[&given]);
    assert_eq!(texts(&run, "out"), [r#"a:{"id":1}"#]);
    let letters: Vec<_> = run.letters.iter().map(|l| (l.kind.as_str(), l.text.as_str())).collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|(kind, _)| *kind == "invalid-argument"), "{letters:?}");
    assert!(letters[0].1.contains("not JSON"), "{letters:?}");
    assert!(letters[1].1.contains("no header `line`"), "{letters:?}");
}

#[test]
fn what_is_held_goes_to_who_takes_it() {
    let runtime = of("sources: [machine]
steps:
  once: { de-duplicate: { by: payload, within: 1h }, from: machine }
  calm: { throttle: { messages: 2, per: 10s }, from: once }
sinks:
  out: { from: calm }
  again: { from: once.duplicate }
  more: { from: calm.excess }
");
    let given: Vec<Message> = (0..8).map(|n| message("a", n * 3, &(n % 6).to_string())).collect();
    let run = run(&runtime, "machine", &[&given[..5], &given[5..]]);
    assert_eq!(texts(&run, "again"), ["a:0", "a:1"]);
    // Of 0, 3, 6 and 9 seconds the first two, of 12 and 15 both.
    assert_eq!(texts(&run, "out"), ["a:0", "a:1", "a:4", "a:5"]);
    assert_eq!(texts(&run, "more"), ["a:2", "a:3"]);
    // The arm is the platform's, and no header of the message.
    assert!(run.sinks.values().flatten().all(|message| message.headers.is_empty()));
}

#[test]
fn several_come_together_in_their_order() {
    let runtime = of("sources: [left, right]
steps:
  all: { concatenate: {}, from: [left, right] }
  once: { de-duplicate: { by: payload, within: 1h }, from: all }
sinks:
  out: { from: once }
");
    let mut session = runtime.session(&Setting::default());
    session.give("left", &[message("a", 0, "1"), message("a", 0, "2")]).unwrap();
    session.settle().unwrap();
    session.give("right", &[message("a", 0, "2"), message("a", 0, "3")]).unwrap();
    session.settle().unwrap();
    assert_eq!(texts(&session.end(), "out"), ["a:1", "a:2", "a:3"]);
}

#[test]
fn a_component_that_is_a_stage_itself_takes_whole_batches() {
    let runtime = of("sources: [machine]
steps:
  kept: { filter: pass-filter, from: machine }
  in-order: { monolithic: sort-by-time, from: kept }
  after: { map: pass-map, from: in-order }
sinks:
  out: { from: after }
");
    let stages: Vec<&str> = runtime.plan().stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(stages, ["kept", "in-order", "after"]);
    let first = [message("a", 3, "3"), message("a", 1, "1"), message("b", 2, "2")];
    let second = [message("a", 1, "1")];
    let run = run(&runtime, "machine", &[&first, &second]);
    assert_eq!(texts(&run, "out"), ["a:1", "b:2", "a:3", "a:1"]);
    assert!(run.letters.is_empty());
}
