//! What lies outside of a stage, at the desk: buckets and servers that a test describes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;

use millrace_desk::{Message, Response, Setting};
use support::{loaded, reports, runtime};

/// What a test says of a definition that has to pass.
fn pass(text: &str) {
    for report in reports(text) {
        assert!(report.passed(), "{report:#?}");
    }
}

fn graph(grants: &str) -> String {
    format!(
        "sources: [machine]\nsteps:\n  ask: {{ map: reaches-out, from: machine, grants: [{grants}] }}\nsinks:\n  out: {{ from: ask }}\n"
    )
}

#[test]
fn a_step_reads_what_it_has_written_and_what_was_there() {
    let graph = graph("kv:b, kv:read:c, \"http:get:a.example\"");
    pass(&format!(
        "{graph}tests:
  it:
    kv: {{ b: {{ one: 1 }}, c: {{ two: {{ max: 2 }} }} }}
    inputs:
      machine:
        - {{ payload: get b one }}
        - {{ payload: get b two }}
        - {{ payload: get c two }}
        - {{ payload: set b two 22 }}
        - {{ payload: get b two }}
        - {{ payload: delete b one }}
        - {{ payload: all b one two one }}
    outputs:
      out: [{{ payload: \"1\" }}, {{ payload: nothing }}, {{ payload: {{ max: 2 }} }}, {{ payload: done }}, {{ payload: \"22\" }}, {{ payload: done }}, {{ payload: nothing 22 nothing }}]
"
    ));
}

#[test]
fn what_is_not_granted_is_a_dead_letter_that_says_the_grant() {
    let graph = graph("kv:read:b, \"http:get:a.example\"");
    pass(&format!(
        "{graph}tests:
  it:
    kv: {{ b: {{ one: 1 }}, other: {{ one: 1 }} }}
    http: {{ \"get http://b.example/\": {{ payload: no }} }}
    inputs:
      machine:
        - {{ payload: get b one }}
        - {{ payload: get other one }}
        - {{ payload: set b one 2 }}
        - {{ payload: delete b one }}
        - {{ payload: \"http get http://b.example/\" }}
        - {{ payload: \"http post http://a.example/\" }}
        - {{ payload: \"http get http://a.example:8080/\" }}
        - {{ payload: \"http get http://a.example@b.example/\" }}
        - {{ payload: get b one }}
    outputs: {{ out: [{{ payload: \"1\" }}, {{ payload: \"1\" }}] }}
    rejected:
      ask:
        - {{ kind: internal, text: \"the grant would be `kv:read:other`\" }}
        - {{ kind: internal, text: \"the grant would be `kv:b`\" }}
        - {{ kind: internal, text: \"the grant would be `kv:b`\" }}
        - {{ kind: internal, text: \"GET to `b.example:80` is not granted to step `ask`; the grant would be `http:get:b.example`\" }}
        - {{ kind: internal, text: \"the grant would be `http:post:a.example`\" }}
        - {{ kind: internal, text: \"the grant would be `http:get:a.example:8080`\" }}
        - {{ kind: invalid-argument, text: with a user in it }}
"
    ));
}

#[test]
fn a_server_answers_as_the_test_says() {
    let graph = graph("kv:b, \"http:post:a.example\"");
    pass(&format!(
        "{graph}tests:
  it:
    http:
      post http://a.example/v1: {{ status: 404, payload: {{ not: there }} }}
    inputs: {{ machine: [{{ payload: \"http POST http://a.example/v1 body\" }}] }}
    outputs: {{ out: [{{ payload: '404 {{\"not\":\"there\"}}' }}] }}
"
    ));
    // One that is not there is a reason to try again.
    pass(&format!(
        "{graph}tests:
  it:
    inputs: {{ machine: [{{ payload: \"http post http://a.example/v1\" }}] }}
    rejected: {{ ask: [{{ kind: retry, text: nobody answers `post http://a.example/v1` at the desk }}] }}
"
    ));
}

/// Two steps of one stage: each asks in its own name.
#[test]
fn a_grant_of_one_step_is_not_its_neighbours() {
    pass(
        "sources: [machine]
steps:
  first: { map: reaches-out, from: machine, grants: [\"kv:b\", \"http:get:a.example\"] }
  second: { map: reaches-out, from: first, grants: [\"kv:read:c\", \"http:get:a.example\"] }
sinks:
  out: { from: second }
tests:
  it:
    kv: { b: { command: get b command } }
    inputs: { machine: [{ payload: get b command }] }
    rejected: { second: [{ kind: internal, text: \"reading of bucket `b` is not granted to step `second`\" }] }
",
    );
}

#[test]
fn a_filter_has_its_limits_in_a_bucket() {
    pass(
        "sources: [machine]
steps:
  hot: { filter: above-own-limit, from: machine, grants: [\"kv:read:limits\"] }
sinks:
  out: { from: hot }
tests:
  it:
    kv: { limits: { plant/press-1: 80, plant/press-2: 90 } }
    inputs:
      machine:
        - { topic: plant/press-1, payload: 85 }
        - { topic: plant/press-2, payload: 85 }
        - { topic: plant/press-3, payload: 85 }
    outputs: { out: [{ topic: plant/press-1, payload: 85 }] }
    rejected: { hot: [{ topic: plant/press-3, text: has no limit for `plant/press-3` }] }
",
    );
}

const ENRICH: &str = "sources: [machine]
steps:
  named: { enrich: { bucket: machines, by: payload.id, into: payload.machine, missing: MISSING }, from: machine }
sinks:
  out: { from: named }
tests:
  it:
    kv: { machines: { \"17\": { name: press 1 }, \"18\": press 2 } }
    inputs:
      machine:
        - { payload: { id: 17, value: 1 } }
        - { payload: { id: \"18\", value: 2 } }
        - { payload: { id: 19 } }
        - { payload: { value: 4 } }
        - { payload: none }
        - { payload: { id: 17, machine: before } }
";

#[test]
fn enrich_adds_what_the_bucket_has() {
    let found = "{ payload: { id: 17, value: 1, machine: { name: press 1 } } }, { payload: { id: \"18\", value: 2, machine: press 2 } }";
    let last = "{ payload: { id: 17, machine: { name: press 1 } } }";
    let wrong = "{ kind: invalid-argument, text: the payload has no `id` }, { kind: invalid-argument, text: not JSON }";
    for (missing, third, also) in [
        ("reject", "", "{ kind: invalid-argument, text: the bucket has nothing for `19` }, "),
        ("keep", "{ payload: { id: 19 } }, ", ""),
        ("drop", "", ""),
    ] {
        let text = ENRICH.replace("MISSING", missing);
        pass(&format!(
            "{text}    outputs: {{ out: [{found}, {third}{last}] }}\n    rejected: {{ named: [{also}{wrong}] }}\n"
        ));
    }
}

/// However many messages there are: the values are asked for in parts that fit.
#[test]
fn a_batch_of_many_keys_with_large_values_is_enriched() {
    let text = "sources: [machine]
steps:
  named: { enrich: { bucket: big, by: topic, into: headers.site }, from: machine }
sinks:
  out: { from: named }
";
    let runtime = runtime(&loaded(text));
    let name = |number: usize| format!("machine {number}");
    let value = |number: usize| format!("{number} {}", "x".repeat(20_000));
    let values = (0..600).map(|n| (name(n).into_bytes(), value(n).into_bytes())).collect();
    let setting =
        Setting { kv: BTreeMap::from([("big".to_owned(), values)]), ..Setting::default() };
    let given: Vec<Message> =
        (0..1_200).map(|n| Message { topic: name(n % 600), ..Message::default() }).collect();
    let mut session = runtime.session(&setting);
    session.give("machine", &given).unwrap();
    session.settle().unwrap();
    let run = session.end();
    let out = &run.sinks["out"];
    assert_eq!((out.len(), run.letters.len()), (1_200, 0));
    for (number, message) in out.iter().enumerate() {
        assert_eq!(message.headers, [("site".to_owned(), value(number % 600))]);
    }
}

#[test]
fn a_setting_has_servers_too() {
    let graph = graph("\"kv:b\", \"http:get:a.example:81\"");
    let response = Response { status: 200, headers: Vec::new(), body: b"yes".to_vec() };
    let http = BTreeMap::from([("get http://a.example:81/".to_owned(), response)]);
    let runtime = runtime(&loaded(&graph));
    let mut session = runtime.session(&Setting { http, ..Setting::default() });
    let message =
        Message { payload: b"http get http://a.example:81/".to_vec(), ..Message::default() };
    session.give("machine", &[message]).unwrap();
    session.settle().unwrap();
    assert_eq!(session.end().sinks["out"][0].payload, b"200 yes");
}
