//! What is told of a component, and how hostile ones fare.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use millrace_compose::{ComponentError, Grant, Kind};
use millrace_desk::Message;
use millrace_pipeline::Time;
use millrace_step::{
    Ended, Fate, Inspection, Settings, Trial, TrialError, Tried, arbitrary, inspect,
};
use support::{engine, example, trial};

fn of(name: &str, grants: &[Grant]) -> Inspection {
    let grants: BTreeSet<Grant> = grants.iter().cloned().collect();
    inspect(&std::fs::read(example(name)).unwrap(), &grants, None).unwrap()
}

fn fate<'a>(found: &'a Inspection, import: &str) -> &'a Fate {
    &found.imports.iter().find(|i| i.name.starts_with(import)).unwrap().fate
}

#[test]
fn an_ordinary_step() {
    let found = of("above-limit", &[]);
    assert_eq!(found.kinds, [Kind::Filter]);
    assert!(found.problems.is_empty() && found.other_exports.is_empty());
    assert_eq!(found.digest.len(), 64);
    assert_eq!(found.memories.len(), 1);
    assert_eq!(found.initial_memory, found.memories[0].initial_pages * 65_536);
    assert!(found.producers.iter().any(|p| p.name == "wit-component"), "{:?}", found.producers);
    assert!(matches!(fate(&found, "wasi:cli/environment"), Fate::Denied { grant: None }));
    assert!(matches!(fate(&found, "millrace:step/types"), Fate::Types));
}

#[test]
fn a_json_schema_asks_for_nothing() {
    let found = of("json-schema", &[]);
    assert_eq!(found.kinds, [Kind::Filter, Kind::Branch]);
    assert!(found.problems.is_empty() && found.other_exports.is_empty());
    let asks = found
        .imports
        .iter()
        .filter(|import| matches!(import.fate, Fate::Denied { grant: Some(_) }));
    let asks: Vec<&str> = asks.map(|import| import.name.as_str()).collect();
    // Rust's own library tells the time; randomness would be that of a dependency.
    assert!(!asks.iter().any(|name| name.starts_with("wasi:random/random")), "{asks:?}");
    println!("{} KiB, {} KiB of memory, {asks:?}", found.bytes / 1024, found.initial_memory / 1024);
}

#[test]
fn no_bytes_trap_a_json_schema() {
    let schema = r##"{ "$defs": { "tree": { "type": ["array", "number"], "items": { "$ref": "#/$defs/tree" } } },
        "type": ["object", "array"], "required": ["at"], "properties": { "at": { "type": "string", "format": "date-time" },
        "name": { "pattern": "^[a-z]+(?!x)$" }, "celsius": { "type": "number" } }, "items": { "$ref": "#/$defs/tree" } }"##;
    let sample = r#"{"at":"2026-01-01T00:00:00Z","name":"press","celsius":21.5,"more":[1]}"#;
    let config: BTreeMap<_, _> = [("schema".to_owned(), schema.to_owned())].into();
    let settings = Settings { kind: Some(Kind::Filter), config, ..Settings::default() };
    let filter = trial(&example("json-schema"), &settings);
    let findings = arbitrary(&filter, &[text(sample), text("[[[1]],[]]")], 5, 512).unwrap();
    assert!(findings.case.is_none(), "{:?}", findings.case);
    assert!((100..512).contains(&findings.refused), "{} refused", findings.refused);
    // As deep as a reader of JSON goes: what the stack has to hold.
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    assert!(filter.give(&text(&deep)).unwrap().letters.is_empty());
    let most = format!("[{}1]", "\"x\",".repeat(200_000));
    let tried = filter.give(&text(&most)).unwrap();
    assert_eq!(tried.letters[0].kind, "invalid-argument", "{:?}", tried.letters);
}

#[test]
fn what_a_grant_opens() {
    let found = of("asks-around", &[]);
    for (import, by) in [
        ("wasi:clocks/wall-clock", "clocks"),
        ("wasi:clocks/monotonic-clock", "clocks"),
        ("wasi:random/random", "random"),
    ] {
        let fate = fate(&found, import);
        assert!(matches!(fate, Fate::Denied { grant: Some(grant) } if *grant == by), "{fate:?}");
    }
    let found = of("asks-around", &[Grant::Clocks, Grant::Random]);
    assert!(matches!(fate(&found, "wasi:random/random"), Fate::Granted { grant: "random" }));
    assert!(found.problems.is_empty());
}

#[test]
fn sockets_are_refused_with_the_reason() {
    let found = of("opens-sockets", &[Grant::Clocks, Grant::Random, Grant::Log, Grant::Config]);
    let Fate::Refused { why } = fate(&found, "wasi:sockets/tcp") else { panic!() };
    assert!(why.contains("sockets are never granted"), "{why}");
    let [problem] = found.problems.as_slice() else { panic!("{:?}", found.problems) };
    assert!(problem.contains("sockets are never granted"), "{problem}");
}

#[test]
fn memory_that_is_too_small_is_named() {
    let bytes = std::fs::read(example("above-limit")).unwrap();
    let found = inspect(&bytes, &[].into(), Some(1024 * 1024)).unwrap();
    let problem = &found.problems[0];
    assert!(problem.contains("needs 1114112 bytes of memory to start"), "{problem}");
    assert!(problem.contains("raise the step's memory maximum"), "{problem}");
}

#[test]
fn what_is_no_component_or_no_step() {
    let none: BTreeSet<Grant> = BTreeSet::new();
    assert_eq!(inspect(b"hello", &none, None).unwrap_err(), ComponentError::NotWasm);
    let module = b"\0asm\x01\0\0\0";
    assert_eq!(inspect(module, &none, None).unwrap_err(), ComponentError::CoreModule);
    let empty = inspect(b"\0asm\x0d\0\x01\0", &none, None).unwrap();
    assert!(empty.problems[0].contains("no interface of `millrace:step`"), "{empty:?}");
}

fn misbehaves(config: &[(&str, &str)]) -> Trial {
    let config = config.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let settings =
        Settings { kind: Some(Kind::Map), config: config.collect(), ..Settings::default() };
    trial(&example("misbehaves"), &settings)
}

fn text(payload: &str) -> Message {
    Message { payload: payload.into(), topic: "plant/x".into(), ..Message::default() }
}

#[test]
fn what_comes_of_a_message() {
    let trial = misbehaves(&[]);
    for (payload, kind) in [
        ("invalid", "invalid-argument"),
        ("internal", "internal"),
        ("retry", "retry"),
        ("trap", "trap"),
        ("spin", "timeout"),
        ("grow", "trap"),
    ] {
        let tried = trial.give(&text(payload)).unwrap();
        assert_eq!(tried.letters[0].kind, kind, "{:?}", tried.letters);
        assert_eq!(tried.letters[0].is_trap(), matches!(kind, "trap" | "timeout"));
    }
    let tried = trial.give(&text("fine")).unwrap();
    assert_eq!(tried.outputs, [(None, text("fine"))]);
}

#[test]
fn any_bytes_find_the_topic_that_traps() {
    // Some messages have no topic, and this step traps on those.
    let trial = misbehaves(&[("trap", "")]);
    let samples = [Message { headers: vec![("a".into(), "b".into())], ..text("fine") }];
    let findings = arbitrary(&trial, &samples, 5, 256).unwrap();
    let case = findings.case.unwrap();
    assert!(matches!(case.ended, Ended::Trap(_)), "{case:?}");
    let [only] = case.messages.as_slice() else { panic!("{case:?}") };
    assert_eq!((only.topic.as_str(), only.payload.len()), ("", 0));
    assert!(only.headers.is_empty() && only.key.is_none() && only.content_type.is_none());
}

#[test]
fn a_step_without_end_is_found_too() {
    let trial = misbehaves(&[]);
    let findings = arbitrary(&trial, &[text("spin spin")], 5, 64).unwrap();
    let case = findings.case.unwrap();
    assert!(matches!(case.ended, Ended::Timeout(_)), "{case:?}");
    let payload = String::from_utf8_lossy(&case.messages[0].payload).into_owned();
    assert!(payload.contains("spin"), "{payload}");
}

#[test]
fn what_is_wrong_with_a_trial() {
    let kinds = [Kind::Map, Kind::FlatMap];
    let file = example("misbehaves");
    let said = |settings: &Settings| {
        Trial::build(engine(), &file, &kinds, settings).unwrap_err().to_string()
    };
    assert!(said(&Settings::default()).contains("map or flat-map; say which with --kind"));
    let map = Settings { kind: Some(Kind::Map), ..Settings::default() };
    let memory = Settings { memory: Some("1GiB".into()), ..map.clone() };
    assert!(said(&memory).contains("memory"), "{}", said(&memory));
    let other = Settings { kind: Some(Kind::Filter), ..map.clone() };
    assert!(said(&other).contains("a filter step has to export"), "{}", said(&other));
    let branch = Settings { kind: Some(Kind::Branch), ..Settings::default() };
    assert!(said(&branch).contains("--arm NAME"));
    assert!(matches!(
        Trial::build(engine(), Path::new("x.wasm"), &[], &Settings::default()),
        Err(TrialError::NoKind)
    ));
    let window = [("tumbling".to_owned(), "1ns".to_owned())].into();
    let accumulate = Settings { kind: Some(Kind::Accumulate), window, ..Settings::default() };
    assert!(said(&accumulate).contains("tumbling"), "{}", said(&accumulate));

    let config: BTreeMap<_, _> = [("init".to_owned(), "invalid".to_owned())].into();
    let refuses = trial(&file, &Settings { config, ..map });
    assert!(refuses.give(&text("x")).unwrap_err().to_string().contains("init was told to fail"));
    assert!(arbitrary(&refuses, &[], 1, 10).is_err());
}

fn with_windows(name: &str, window: &[(&str, &str)], grants: &[Grant]) -> Trial {
    let window = window.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let window = window.collect();
    let settings = Settings { window, grants: grants.to_vec(), ..Settings::default() };
    trial(&example(name), &settings)
}

/// A message with a payload, some seconds after the others.
fn at(seconds: u64, payload: &str) -> Message {
    let timestamp = Time::DEFAULT.nanoseconds() + seconds * 1_000_000_000;
    Message { timestamp, ..text(payload) }
}

/// Payloads of what came, and kinds of dead letters.
fn came(tried: &Tried) -> Vec<String> {
    let payloads =
        tried.outputs.iter().map(|(_, m)| String::from_utf8_lossy(&m.payload).into_owned());
    payloads.chain(tried.letters.iter().map(|letter| letter.kind.clone())).collect()
}

#[test]
fn messages_go_through_windows() {
    let samples = [at(1, "a"), at(5, "b"), at(12, "c"), at(3, "d"), at(13, "invalid")];
    let tumbling = with_windows("breaks-windows", &[("tumbling", "10s")], &[]);
    let windowed = tumbling.windows(&samples).unwrap();
    let each: Vec<Vec<String>> = windowed.messages.iter().map(came).collect();
    let none: [&str; 0] = [];
    assert_eq!(each[..2], [none, none]);
    assert_eq!(each[2..], [["a,b,"], ["late"], ["invalid-argument"]]);
    assert_eq!(came(&windowed.ended), ["c,"]);
    assert!(windowed.ended.outputs[0].1.headers.is_empty(), "{:?}", windowed.ended.outputs);
    assert_eq!((windowed.open.as_slice(), windowed.largest), ([].as_slice(), 4));

    let count = with_windows("breaks-windows", &[("count", "3")], &[]);
    let windowed = count.windows(&samples).unwrap();
    assert_eq!(came(&windowed.messages[2]), ["a,b,c,"]);
    assert!(came(&windowed.ended).is_empty());
    assert_eq!(windowed.open, [1]);

    // Without a window all that is in one year is together.
    let all = with_windows("breaks-windows", &[], &[]).windows(&samples).unwrap();
    assert_eq!(came(&all.ended), ["a,b,c,d,"]);
    let broken = tumbling.windows(&[at(1, "trap"), at(1, "end-internal")]).unwrap();
    assert!(broken.messages[0].letters[0].is_trap());
    assert_eq!(came(&broken.ended), ["internal"]);
}

#[test]
fn a_state_without_bound_is_found() {
    let samples = [text("one"), text("invalid"), text("two")];
    let grows = with_windows("breaks-windows", &[], &[]);
    let findings = arbitrary(&grows, &samples, 1, 0).unwrap();
    let kept = findings.kept.unwrap();
    assert!(kept.grows && !findings.passed(), "{kept:?}");
    assert_eq!((kept.messages, kept.before, kept.bytes), (2_000, 4_000, 8_000));
    // Of so many messages it is bounded.
    let count = with_windows("breaks-windows", &[("count", "100")], &[]);
    let findings = arbitrary(&count, &samples, 1, 0).unwrap();
    assert!(findings.passed(), "{findings:?}");
    // More than there is room for, with the first calls.
    let large = [text(&"x".repeat(3_000))];
    assert!(arbitrary(&grows, &large, 1, 0).unwrap().kept.unwrap().grows);
    // A sketch grows less and less.
    let sketch = with_windows("aggregate", &[], &[]);
    let findings = arbitrary(&sketch, &[text("1"), text("1e9"), text("-3")], 1, 256).unwrap();
    assert!(findings.passed(), "{findings:?}");
}

#[test]
fn any_bytes_find_what_trips_a_step_with_state() {
    let trial = with_windows("breaks-windows", &[("count", "10")], &[]);
    let samples = [text("trap"), text("fine")];
    let findings = arbitrary(&trial, &samples, 5, 512).unwrap();
    let case = findings.case.unwrap();
    assert!(matches!(case.ended, Ended::Trap(_)), "{case:?}");
    let [only] = case.messages.as_slice() else { panic!("{case:?}") };
    assert_eq!((only.topic.as_str(), only.payload.as_slice()), ("", b"trap".as_slice()));
}

#[test]
fn a_step_that_does_not_give_the_same_again_is_found() {
    let trial = with_windows("breaks-windows", &[("count", "10")], &[Grant::Clocks]);
    let findings = arbitrary(&trial, &[text("clock")], 5, 512).unwrap();
    assert!(!findings.passed());
    let case = findings.case.unwrap();
    assert_eq!(case.ended, Ended::Differs);
    let [only] = case.messages.as_slice() else { panic!("{case:?}") };
    assert_eq!(only.payload, b"clock");
}
