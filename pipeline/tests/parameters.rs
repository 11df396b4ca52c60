//! Parameters: where values come from, which one counts, and that a value stays one single value.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;

use millrace_pipeline::{Document, Loaded, Options, Payload, Severity, ValueOrigin, load};
use proptest::prelude::*;

const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
parameters:
  limit: { type: number, default: 85, min: 0, max: 100 }
  site: { type: text }
sources: [machine]
steps:
  too-hot:
    filter: above-limit
    from: machine
    config:
      limit: ${limit}
      place: "${site}"
sinks:
  alerts: { from: too-hot }
binding:
  parameters: { site: north }
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: a } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  components:
    above-limit: { file: above-limit.wasm }
tests:
  types:
    inputs:
      machine: [{ payload: { at: "${limit}", where: "${site}", text: "${limit} there" } }]
"#;

fn read(text: &str, beside: Option<&str>, given: &[(&str, &str)]) -> Loaded {
    let parameters = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = Options { parameters: parameters.collect(), ..Options::default() };
    let beside = beside.map(|text| Document { file: "binding.yaml", text });
    load(Document { file: "pipeline.yaml", text }, beside, &options)
}

fn config(loaded: &Loaded) -> BTreeMap<String, String> {
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    loaded.plan().unwrap().stages[0].steps[0].config.clone()
}

fn only_finding(loaded: &Loaded) -> String {
    assert_eq!(loaded.findings().len(), 1, "{}", loaded.render(false));
    loaded.findings()[0].to_string()
}

/// The definition with a binding of its own taken out.
fn graph() -> String {
    let (graph, rest) = DEFINITION.split_once("binding:").unwrap();
    format!("{graph}{}", rest.split_once("above-limit.wasm }").unwrap().1)
}

const BINDING: &str = r#"
millrace: v1alpha1
binding:
  parameters: { site: south, limit: 90.5 }
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: "${site}/#" } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  components:
    above-limit: { file: above-limit.wasm }
"#;

#[test]
fn the_command_line_comes_before_the_binding_and_that_before_the_default() {
    let loaded = read(DEFINITION, None, &[]);
    let config = |loaded: &Loaded| {
        let config = config(loaded);
        (config["limit"].clone(), config["place"].clone())
    };
    assert_eq!(config(&loaded), ("85".to_owned(), "north".to_owned()));
    let origins: Vec<_> = loaded.parameters().map(|(name, v)| (name, v.origin)).collect();
    assert_eq!(origins, [("limit", ValueOrigin::Default), ("site", ValueOrigin::Binding)]);

    let loaded = read(DEFINITION, None, &[("site", "east"), ("limit", "0")]);
    assert_eq!(config(&loaded), ("0".to_owned(), "east".to_owned()));
    assert!(loaded.parameters().all(|(_, value)| value.origin == ValueOrigin::Given));
    assert_eq!(loaded.pipeline().unwrap().steps["too-hot"].config["limit"], "0");
}

#[test]
fn a_binding_in_a_file_of_its_own_gives_its_values_to_both_files() {
    let loaded = read(&graph(), Some(BINDING), &[]);
    assert_eq!(config(&loaded)["limit"], "90.5");
    let plan = loaded.plan().unwrap();
    assert_eq!(plan.sources[0].settings["topic"], "south/#");
    let bound = loaded.pipeline().unwrap().binding.as_ref().unwrap();
    assert_eq!(bound.parameters["site"], "south");
    // It takes the place of the one in the definition, with its values.
    let loaded = read(DEFINITION, Some(&BINDING.replace("site: south, ", "")), &[]);
    assert!(only_finding(&loaded).contains("`site` has no value"), "{}", loaded.render(false));
    // What it gives wrongly is found in it.
    let loaded = read(&graph(), Some(&BINDING.replace("90.5", "many")), &[]);
    assert!(only_finding(&loaded).starts_with("binding.yaml:4:"), "{}", loaded.render(false));
}

#[test]
fn without_a_binding_a_value_may_still_come() {
    let loaded = read(&graph(), None, &[]);
    let rules: Vec<_> = loaded.findings().iter().map(|f| (f.rule, f.severity)).collect();
    let warning = Severity::Warning;
    assert_eq!(rules, [("no-binding", warning), ("missing-parameter", warning)]);
    assert!(loaded.plan().is_err());
    let bare = BINDING.replace("  parameters: { site: south, limit: 90.5 }\n", "");
    assert!(read(&graph(), Some(&bare), &[]).has_errors());
}

#[test]
fn values_that_are_given_are_checked() {
    for (name, value, says) in [
        (
            "limit",
            "101",
            "the parameter `limit` cannot be `101`, which --param gives (it must be from 0 to 100)",
        ),
        ("limit", "hot", "must be a number"),
        (
            "limt",
            "1",
            "--param gives `limt`, and the definition has no such parameter (did you mean `limit`?)",
        ),
        ("pressure", "1", "it has `limit` and `site`"),
        ("site", &"x".repeat(4097), "at most 4096 bytes"),
    ] {
        let said = only_finding(&read(DEFINITION, None, &[(name, value)]));
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_value_alone_keeps_its_type() {
    let loaded = read(DEFINITION, None, &[("limit", "12.50")]);
    let test = &loaded.tests()[0].test;
    let Some(Payload::Json(payload)) = &test.inputs["machine"][0].payload else { panic!() };
    assert_eq!(
        *payload,
        serde_json::json!({ "at": 12.5, "where": "north", "text": "12.50 there" })
    );
    // A text that looks like a number is one only where the parameter says so.
    let loaded = read(DEFINITION, None, &[("site", "7")]);
    let Some(Payload::Json(payload)) = &loaded.tests()[0].test.inputs["machine"][0].payload else {
        panic!()
    };
    assert_eq!(payload["where"], "7");
}

#[test]
fn tests_of_another_file_have_the_values_too() {
    let mut loaded = read(DEFINITION, None, &[("limit", "3")]);
    let text = "millrace: v1alpha1\ntests:\n  more:\n    inputs: { machine: [{ payload: \"${limit}\" }] }\n  \
                wrong:\n    inputs: { machine: [{ payload: \"${limt}\" }] }\n";
    loaded.add_tests(Document { file: "more.yaml", text }, &Options::default());
    let said = only_finding(&loaded);
    assert!(
        said.starts_with("more.yaml:6:") && said.contains("did you mean `${limit}`?"),
        "{said}"
    );
    let payload = &loaded.tests()[1].test.inputs["machine"][0].payload;
    assert_eq!(*payload, Some(Payload::Text("3".to_owned())));
}

#[test]
fn many_long_values_end_soon() {
    let long = "x".repeat(4096);
    let uses = "${site}".repeat(100_000);
    let text = DEFINITION.replace("\"${site}\"\nsinks", &format!("\"{uses}\"\nsinks"));
    let start = std::time::Instant::now();
    let said = only_finding(&read(&text, None, &[("site", &long)]));
    assert!(said.contains("longer than 1048576 bytes"), "{said}");
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}

proptest! {
    /// Whatever a value is, it is the value of its field and brings nothing of its own.
    #[test]
    fn a_value_brings_no_structure(value in "(\\PC|[\\n:{}\\[\\]\"'#,&*!$-]){0,40}") {
        let loaded = read(DEFINITION, None, &[("site", &value)]);
        let plan = loaded.plan().unwrap();
        let config = &plan.stages[0].steps[0].config;
        prop_assert_eq!(&config["place"], &value);
        prop_assert_eq!(config.len(), 2);
    }

    /// Any text where a value is expected is read to the end, and its findings have their places.
    #[test]
    fn any_use_is_read(text in "[${}a-z\\-A \\\\]{0,30}") {
        let quoted = text.replace('\\', "\\\\");
        let definition = DEFINITION.replace("\"${site}\"\nsinks", &format!("\"{quoted}\"\nsinks"));
        let loaded = read(&definition, None, &[]);
        prop_assert!(loaded.findings().iter().all(|finding| finding.location.is_some()));
    }
}
