//! Steps with windows, and what changes event times.
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

fn counting(window: &str, late: bool) -> Runtime {
    let late = if late { "\n  late: { from: count.late }" } else { "" };
    let graph = format!(
        "sources: [machine]
steps:
  count: {{ accumulate: aggregate, from: machine, window: {{ {window} }}, config: {{ functions: \"count,sum\" }} }}
sinks:
  counts: {{ from: count }}{late}
"
    );
    runtime(&loaded(&graph))
}

/// A reading of a machine, so many seconds after the start.
fn reading(machine: &str, seconds: u64, value: u32) -> Message {
    Message {
        timestamp: START + seconds * 1_000_000_000,
        topic: "t".into(),
        key: Some(machine.into()),
        payload: value.to_string().into_bytes(),
        ..Message::default()
    }
}

/// Gives each list as a batch of its own; at the end the time goes on to so many seconds.
fn run(runtime: &Runtime, batches: &[&[Message]], until: Option<u64>) -> Run {
    let mut session = runtime.session(&Setting::default());
    for batch in batches {
        session.give("machine", *batch).unwrap();
        session.settle().unwrap();
    }
    if let Some(seconds) = until {
        let text = format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60);
        session.wait_until(text.parse().unwrap()).unwrap();
    }
    session.end()
}

/// Key, count and sum of each result, and the second that it is of.
fn results(run: &Run) -> Vec<(String, u64, f64, u64)> {
    let results = run.sinks.get("counts").into_iter().flatten();
    let result = |message: &Message| {
        let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        (
            String::from_utf8(message.key.clone().unwrap()).unwrap(),
            value["count"].as_u64().unwrap(),
            value["sum"].as_f64().unwrap(),
            (message.timestamp - START) / 1_000_000_000,
        )
    };
    results.map(result).collect()
}

fn of(key: &str, count: u64, sum: f64, at: u64) -> (String, u64, f64, u64) {
    (key.to_owned(), count, sum, at)
}

#[test]
fn tumbling_windows_end_one_after_another() {
    let runtime = counting("tumbling: 10s", false);
    let first = [reading("a", 0, 1), reading("b", 3, 10), reading("a", 9, 2)];
    let second = [reading("a", 10, 4), reading("a", 31, 8)];
    let run = run(&runtime, &[&first, &second], None);
    assert_eq!(results(&run), [of("a", 2, 3.0, 10), of("b", 1, 10.0, 10), of("a", 1, 4.0, 20)]);
}

#[test]
fn hopping_windows_overlap() {
    let runtime = counting("hopping: 20s, every: 10s", false);
    let run = run(&runtime, &[&[reading("a", 5, 1), reading("a", 15, 2)]], Some(60));
    assert_eq!(results(&run), [of("a", 1, 1.0, 10), of("a", 2, 3.0, 20), of("a", 1, 2.0, 30)]);
}

#[test]
fn a_session_ends_when_its_key_is_silent() {
    let runtime = counting("session: 10s", false);
    let readings =
        [reading("a", 0, 1), reading("a", 8, 2), reading("b", 12, 5), reading("a", 30, 4)];
    let run = run(&runtime, &[&readings], Some(120));
    assert_eq!(results(&run), [of("a", 2, 3.0, 18), of("b", 1, 5.0, 22), of("a", 1, 4.0, 40)]);
}

#[test]
fn a_count_ends_with_its_last_message() {
    let runtime = counting("count: 3", false);
    let readings: Vec<Message> = (0..8).map(|n| reading("a", n, 1)).collect();
    let run = run(&runtime, &[&readings[..4], &readings[4..]], Some(3599));
    let counts: Vec<u64> = results(&run).into_iter().map(|result| result.1).collect();
    assert_eq!(counts, [3, 3], "the clock ends no count");
}

#[test]
fn out_of_order_counts_and_too_late_goes_its_own_way() {
    let batches: [&[Message]; 3] = [
        &[reading("a", 5, 1), reading("a", 12, 2)],
        // Within its lateness, and twice: a message that comes twice counts twice.
        &[reading("a", 6, 4), reading("a", 6, 4), reading("a", 23, 8)],
        &[reading("a", 7, 16)],
    ];
    let run_of = |late| run(&counting("tumbling: 10s, lateness: 3s", late), &batches, Some(60));
    let run = run_of(true);
    assert_eq!(results(&run), [of("a", 3, 9.0, 10), of("a", 1, 2.0, 20), of("a", 1, 8.0, 30)]);
    assert_eq!(run.sinks["late"], [reading("a", 7, 16)]);
    assert!(run.letters.is_empty());
    // Where nobody takes it, it is a dead letter.
    let run = run_of(false);
    assert_eq!(run.letters.len(), 1, "{:?}", run.letters);
    let letter = &run.letters[0];
    assert_eq!((letter.kind.as_str(), letter.step.as_deref()), ("late", Some("count")));
    assert_eq!(letter.message.payload, b"16");
}

#[test]
fn windows_over_windows() {
    let graph = "sources: [machine]
steps:
  tens: { accumulate: aggregate, from: machine, window: { tumbling: 10s }, config: { functions: \"count\" } }
  minutes: { accumulate: aggregate, from: tens, window: { tumbling: 1m }, config: { value: count, functions: \"count,sum\" } }
sinks:
  counts: { from: minutes }
";
    let readings: Vec<Message> = (0..120).map(|n| reading("a", n, 1)).collect();
    let run = run(&runtime(&loaded(graph)), &[&readings], Some(600));
    // The result of 50 to 60 has the end of its window, which is in the next minute.
    let sums: Vec<(u64, f64)> = results(&run).into_iter().map(|r| (r.1, r.2)).collect();
    assert_eq!(sums, [(5, 50.0), (6, 60.0), (1, 10.0)]);
}

#[test]
fn a_delay_gives_another_time() {
    let graph = "sources: [machine]
steps:
  later: { delay: pass-delay, from: machine }
sinks:
  counts: { from: later }
";
    let run = run(&runtime(&loaded(graph)), &[&[reading("a", 3, 7)]], None);
    assert_eq!(run.sinks["counts"], [reading("a", 3, 7)]);
}

/// A state of another version of the step: the message is a dead letter with what the step says of it, at the end of the
/// window as well, and what comes afterwards is in a window of its own. Here another step stands for the other version: the
/// first byte of its state is another than that of `aggregate`.
#[test]
fn a_state_of_another_version_of_the_step_is_told_and_costs_no_other() {
    let of = |component: &str| {
        let graph = format!(
            "sources: [machine]
steps:
  count: {{ accumulate: {component}, from: machine, window: {{ tumbling: 10s }} }}
sinks:
  counts: {{ from: count }}
"
        );
        runtime(&loaded(&graph))
    };
    let (older, newer) = (of("pass-accumulate"), of("aggregate"));
    let fold = |runtime: &Runtime, document: &[u8], readings: &[Message]| {
        runtime.fold("count", readings, document, (START, false), &Setting::default()).unwrap()
    };
    let written = fold(&older, &[], &[reading("a", 0, 1), reading("a", 1, 2), reading("a", 2, 3)]);
    assert!(written.letters.is_empty(), "{:?}", written.letters);

    let next = fold(&newer, &written.document, &[reading("a", 3, 4), reading("b", 4, 5)]);
    let [letter] = next.letters.as_slice() else { panic!("{:?}", next.letters) };
    assert_eq!((letter.kind.as_str(), letter.message.payload.as_slice()), ("internal", &b"4"[..]));
    let says =
        "the state was written by an aggregate whose state has version 3, and this one reads 1";
    assert!(letter.text.contains(says), "{}", letter.text);

    // The version before takes its windows up again, as if nothing had been: a roll-back loses none of them.
    let back = fold(&older, &next.document, &[reading("a", 5, 6)]);
    assert!(back.letters.is_empty(), "{:?}", back.letters);
    let back = fold(&older, &back.document, &[reading("a", 11, 7)]);
    let counts: Vec<_> = back.outputs.iter().map(|m| m.payload.clone()).collect();
    assert!(counts.contains(&b"4".to_vec()), "{counts:?}");

    // The end of the window is told too, and the others are right.
    let ended = fold(&newer, &next.document, &[reading("b", 11, 7)]);
    let [letter] = ended.letters.as_slice() else { panic!("{:?}", ended.letters) };
    assert!(letter.kind == "internal" && letter.text.contains(says), "{letter:?}");
    let results: Vec<serde_json::Value> =
        ended.outputs.iter().map(|m| serde_json::from_slice(&m.payload).unwrap()).collect();
    assert_eq!(results.len(), 1, "{results:?}");
    assert_eq!(results[0]["count"], 1, "{results:?}");
}
