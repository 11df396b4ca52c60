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
use millrace_step::{Ended, Fate, Inspection, Settings, Trial, TrialError, arbitrary, inspect};
use support::{engine, example, trial};

fn of(name: &str, grants: &[Grant]) -> Inspection {
    let grants: BTreeSet<Grant> = grants.iter().copied().collect();
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
fn what_a_grant_opens() {
    let found = of("asks-around", &[]);
    for (import, by) in [
        ("wasi:clocks/wall-clock", Grant::Clocks),
        ("wasi:clocks/monotonic-clock", Grant::Clocks),
        ("wasi:random/random", Grant::Random),
    ] {
        let fate = fate(&found, import);
        assert!(matches!(fate, Fate::Denied { grant: Some(grant) } if *grant == by), "{fate:?}");
    }
    let found = of("asks-around", &[Grant::Clocks, Grant::Random]);
    assert!(matches!(fate(&found, "wasi:random/random"), Fate::Granted { grant: Grant::Random }));
    assert!(found.problems.is_empty());
}

#[test]
fn sockets_are_refused_with_the_reason() {
    let found = of("opens-sockets", &Grant::ALL);
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
    assert!(matches!(
        Trial::build(engine(), Path::new("x.wasm"), &[Kind::Accumulate], &Settings::default()),
        Err(TrialError::HasState)
    ));

    let config: BTreeMap<_, _> = [("init".to_owned(), "invalid".to_owned())].into();
    let refuses = trial(&file, &Settings { config, ..map });
    assert!(refuses.give(&text("x")).unwrap_err().to_string().contains("init was told to fail"));
    assert!(arbitrary(&refuses, &[], 1, 10).is_err());
}
