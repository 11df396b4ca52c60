//! The ready-made components that check messages, in a pipeline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::time::{Duration, Instant};

use millrace_desk::{Message, RunError, Setting};
use support::{loaded, reports, runtime};

const SCHEMA: &str = r#"{"type":"object","required":["celsius"],"properties":{"celsius":{"type":"number","maximum":300}}}"#;

fn graph(step: &str, sinks: &str, schema: &str) -> String {
    format!(
        "sources: [machine]\nsteps:\n  check: {{ {step}, from: machine, config: {{ schema: '{schema}' }} }}\nsinks:\n{sinks}\n"
    )
}

#[test]
fn a_filter_by_schema_says_where_and_why() {
    let tests = "tests:
  it:
    inputs:
      machine: [{ payload: { celsius: 20 } }, { payload: { celsius: 301 } }, { payload: { fahrenheit: 1 } }, { payload: hot }]
    outputs: { good: [{ payload: { celsius: 20 } }] }
    rejected:
      check:
        - { kind: invalid-argument, text: '/celsius: 301 is greater than the maximum of 300' }
        - { kind: invalid-argument, text: '\"celsius\" is a required property' }
        - { kind: invalid-argument, text: 'the payload is not JSON' }
";
    let filter = graph("filter: json-schema", "  good: { from: check }", SCHEMA);
    for report in reports(&format!("{filter}{tests}")) {
        assert!(report.passed(), "{report:#?}");
    }
}

#[test]
fn a_branch_by_schema_has_two_arms() {
    let tests = "tests:
  it:
    inputs: { machine: [{ payload: { celsius: 20 } }, { payload: { celsius: 301 } }, { payload: hot }] }
    outputs: { good: [{ payload: { celsius: 20 } }], bad: [{ payload: { celsius: 301 } }, { payload: hot }] }
";
    let sinks = "  good: { from: check.valid }\n  bad: { from: check.invalid }";
    let branch = graph("branch: json-schema, arms: [valid, invalid]", sinks, SCHEMA);
    for report in reports(&format!("{branch}{tests}")) {
        assert!(report.passed(), "{report:#?}");
    }
}

#[test]
fn a_wrong_schema_is_an_error_of_the_configuration() {
    for (schema, says) in [
        (r#"{"properties":{"a":{"minimum":"1"}}}"#, "/properties/a/minimum: \"1\" is not of type"),
        (r#"{"$ref":"https://example.com/a.json"}"#, "refers to `https://example.com/a.json`"),
    ] {
        let graph = graph("filter: json-schema", "  good: { from: check }", schema);
        let runtime = runtime(&loaded(&graph));
        let mut session = runtime.session(&Setting::default());
        let given = session.give("machine", &[Message::default()]).and_then(|()| session.settle());
        let Err(RunError::Config { stage, text }) = given else { panic!("{given:?}") };
        assert!(stage == "check" && text.contains(says), "{text}");
    }
}

/// Compiling the schema is part of every call, so a batch of one message is what costs most.
#[test]
fn a_message_is_checked_in_microseconds() {
    let runtime =
        runtime(&loaded(&graph("filter: json-schema", "  good: { from: check }", SCHEMA)));
    let message = Message { payload: br#"{"celsius":21.5}"#.to_vec(), ..Message::default() };
    for (count, limit) in [(1, Duration::from_millis(50)), (500, Duration::from_millis(150))] {
        let messages = vec![message.clone(); count];
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            runtime.call("machine", &messages, &Setting::default()).unwrap();
            best = best.min(start.elapsed());
        }
        println!("{count} messages in a call: {best:?}");
        assert!(best < limit, "{count} messages: {best:?}");
    }
}
