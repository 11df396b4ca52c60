//! `millrace step` as a user meets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::process::Output;

use support::{millrace, said};

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)))
}

fn example(name: &str) -> String {
    support::example(name).to_str().unwrap().to_owned()
}

#[test]
fn new_writes_a_project_and_refuses_what_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let new = ["step", "new", "hot", "--language", "python", "--kind", "filter"];
    let output = millrace(folder.path(), &new);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("millrace step build hot"), "{}", said(&output));
    assert!(folder.path().join("hot/wit/types.wit").is_file());

    let output = millrace(folder.path(), &new);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("another folder with --dir"), "{}", said(&output));
    let output =
        millrace(folder.path(), &["step", "new", "Hot", "--language", "rust", "--kind", "map"]);
    assert!(said(&output).contains("such as `hot`"), "{}", said(&output));
    let output =
        millrace(folder.path(), &["step", "new", "x", "--language", "cobol", "--kind", "map"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("rust, python, javascript"), "{}", said(&output));

    let output = millrace(folder.path(), &["step", "test", "hot"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("run `millrace step build hot`"), "{}", said(&output));
    let output = millrace(folder.path(), &["step", "build"]);
    assert!(said(&output).contains("has no step.yaml"), "{}", said(&output));
}

#[test]
fn inspect_tells_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let output = millrace(folder.path(), &["step", "inspect", &example("above-limit")]);
    assert_eq!(output.status.code(), Some(0));
    for part in ["filter", "wasi:cli/exit", "denied", "sha-256", "wit-component"] {
        assert!(said(&output).contains(part), "{}", said(&output));
    }
    let output = millrace(folder.path(), &["step", "inspect", &example("opens-sockets"), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found = json(&output);
    assert!(found["problems"][0].as_str().unwrap().contains("sockets are never granted"));

    std::fs::write(folder.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let output = millrace(folder.path(), &["step", "inspect", "core.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--target wasm32-wasip2"), "{}", said(&output));
}

#[test]
fn test_shows_each_message_and_finds_traps() {
    let folder = tempfile::tempdir().unwrap();
    let samples = "{\"payload\":\"81\"}\n{\"json\":{\"celsius\":20}}\n{\"payload\":\"fault\"}\n";
    std::fs::write(folder.path().join("s.jsonl"), samples).unwrap();
    let step = example("above-limit");
    let test =
        ["step", "test", &step, "--messages", "s.jsonl", "--config", "limit=80", "--seed", "7"];
    let output = millrace(folder.path(), &test);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for part in ["81", "dropped", "invalid-argument", "no trap: 256 messages", "--seed 7"] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }

    let step = example("misbehaves");
    let test =
        ["step", "test", &step, "--kind", "map", "--config", "trap=", "--seed", "7", "--json"];
    let output = millrace(folder.path(), &test);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let found = json(&output);
    assert_eq!(found["arbitrary"]["seed"], 7);
    assert_eq!(found["arbitrary"]["trap"]["kind"], "trap");
    assert_eq!(found["arbitrary"]["trap"]["messages"][0], serde_json::json!({ "payload": "" }));

    // A sample that traps is enough.
    std::fs::write(folder.path().join("s.jsonl"), "{\"payload\":\"trap\"}\n").unwrap();
    let test = ["step", "test", &step, "--kind", "map", "--messages", "s.jsonl", "--cases", "0"];
    let output = millrace(folder.path(), &test);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("1 of 1 samples trapped"), "{}", said(&output));

    std::fs::write(folder.path().join("s.jsonl"), "{\"paylod\":\"x\"}\n").unwrap();
    let output = millrace(folder.path(), &test);
    assert!(said(&output).contains("s.jsonl:1: there is no field `paylod`"), "{}", said(&output));
}

#[test]
fn an_accumulate_is_tried_in_windows() {
    let folder = tempfile::tempdir().unwrap();
    let samples = "{\"payload\":\"20\"}\n{\"payload\":\"22\"}\n{\"payload\":\"fault\"}\n";
    std::fs::write(folder.path().join("s.jsonl"), samples).unwrap();
    let step = example("aggregate");
    let test = ["step", "test", &step, "--messages", "s.jsonl", "--seed", "7"];
    let with = |more: &[&str]| millrace(folder.path(), &[&test[..], more].concat());
    let output = with(&["--window", "tumbling=10s,lateness=1s"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for part in [
        "20  in its window",
        "fault  x  invalid-argument",
        "\"mean\":21.0",
        "at 2026-01-01T00:00:10Z",
        "the state is bounded",
        "no trap: 256 messages",
    ] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
    let output = with(&["--window", "count=10"]);
    assert!(said(&output).contains("2 messages are in a window"), "{}", said(&output));
    let output = with(&["--window", "tumbling=soon"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("tumbling"), "{}", said(&output));

    let step = example("breaks-windows");
    let test = ["step", "test", &step, "--messages", "s.jsonl", "--cases", "1", "--json"];
    let output = millrace(folder.path(), &test);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let found = json(&output);
    assert_eq!(found["arbitrary"]["state"]["grows"], true);
    assert_eq!(found["windows"]["outputs"][0]["message"]["payload"], "20,22,fault,");
}
