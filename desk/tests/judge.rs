//! What a test asks for, over the real example components: what passes, and what is said of what does not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::fs;

use millrace_desk::{Failure, Place, Suite, junit, run_test};
use millrace_pipeline::{Document, Options, load_files};
use support::{loaded, of_step, one_step, reports, root, runtime, said};

const CELSIUS: &str = "map: fahrenheit-to-celsius, config: { result: celsius }";
const PASS: &str = "map: pass-map, config: {}";
const ASKS: &str = "map: asks-around, grants: [clocks, random]";

#[test]
fn json_is_compared_as_json() {
    let passes = "inputs: { machine: [ { payload: { fahrenheit: 212, machine: \"1\" } } ] }\n\
                  outputs: { result: [ { payload: { machine: \"1\", celsius: 100 } } ] }";
    assert_eq!(of_step(CELSIUS, passes), "");
    let differs = "inputs: { machine: [ { payload: { fahrenheit: 212, machine: \"1\" } } ] }\n\
                   outputs: { result: [ { payload: { machine: 1, celsius: 101 } } ] }";
    let said = of_step(CELSIUS, differs);
    assert!(said.starts_with("sink result: message 1 differs\n"), "{said}");
    for part in [
        "- payload.machine: 1\n+ payload.machine: \"1\"\n",
        "- payload.celsius: 101\n+ payload.celsius: 100.0\n",
        "the message: {\"celsius\":100.0,\"machine\":\"1\"}",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn tolerance_ignore_and_select_say_what_counts() {
    let test = |more: &str| {
        format!(
            "inputs: {{ machine: [ {{ payload: {{ fahrenheit: 100, at: 1 }} }} ] }}\n\
             outputs: {{ result: [ {{ payload: {{ celsius: 37.8, at: 2 }} }} ] }}\n{more}"
        )
    };
    let said = of_step(CELSIUS, &test("tolerance: 0.05"));
    assert!(said.contains("payload.at") && !said.contains("payload.celsius"), "{said}");
    let said = of_step(CELSIUS, &test("ignore: [payload.at]"));
    assert!(said.contains("payload.celsius") && !said.contains("payload.at"), "{said}");
    assert_eq!(of_step(CELSIUS, &test("tolerance: 0.05\nignore: [payload.at]")), "");
    assert_eq!(of_step(CELSIUS, &test("tolerance: 0.05\nselect: [payload.celsius]")), "");
}

#[test]
fn every_field_of_a_message_is_carried_and_compared() {
    let given = "inputs: { machine: [ { payload: hello, topic: plant/1, key: k, headers: { a: b, c: d }, \
                 content-type: text/plain, timestamp: 2026-02-03T04:05:06.7Z } ] }\n";
    let same = "outputs: { result: [ { payload: hello, topic: plant/1, key: k, headers: { c: d }, \
                content-type: text/plain, timestamp: 2026-02-03T05:05:06.7+01:00 } ] }";
    assert_eq!(of_step(PASS, &format!("{given}{same}")), "");
    let other = "outputs: { result: [ { payload: hallo, topic: plant/2, key: l, headers: { a: c, e: f }, \
                 content-type: text/html, timestamp: 2026-02-03T04:05:06Z } ] }";
    assert_eq!(
        of_step(PASS, &format!("{given}{other}")),
        "sink result: message 1 differs\n\
         - payload: \"hallo\"\n+ payload: \"hello\"\n\
         - topic: plant/2\n+ topic: plant/1\n\
         - key: l\n+ key: k\n\
         - content-type: text/html\n+ content-type: text/plain\n\
         - timestamp: 2026-02-03T04:05:06Z\n+ timestamp: 2026-02-03T04:05:06.700Z\n\
         - headers.a: c\n+ headers.a: b\n\
         - headers.e: f\n+ headers.e: nothing\n\
         the message: hello  (topic plant/1, key k, content-type text/plain, a: b, c: d)"
    );
    // Nothing is compared that is not given.
    assert_eq!(of_step(PASS, &format!("{given}outputs: {{ result: [ {{}} ] }}")), "");
}

#[test]
fn text_is_compared_by_line_and_bytes_by_place() {
    let text = "inputs: { machine: [ { payload: \"one\\ntwo\\nthree\" } ] }\n\
                outputs: { result: [ { payload: \"one\\n2\\nthree\" } ] }";
    let said = of_step(PASS, text);
    assert!(said.contains("- payload, line 2: \"2\"\n+ payload, line 2: \"two\""), "{said}");
    let bytes =
        "inputs: { machine: [ { hex: \"ff 00 01\" } ] }\noutputs: { result: [ { hex: ff00 } ] }";
    let said = of_step(PASS, bytes);
    assert!(said.contains("payload, byte 2 (from 0 on): hex ff00\n"), "{said}");
    assert!(said.contains("the message: hex ff0001"), "{said}");
    assert_eq!(of_step(PASS, &bytes.replace("ff00 }", "FF0001 }")), "");
    let not_json = "inputs: { machine: [ { payload: hello } ] }\noutputs: { result: [ { payload: { a: 1 } } ] }";
    assert!(of_step(PASS, not_json).contains("hello, which is not JSON"));
}

#[test]
fn what_is_missing_or_too_much_is_told() {
    let inputs = "inputs: { machine: [ { payload: a }, { payload: b }, { payload: c } ] }\n";
    let test = |outputs: &str| of_step(PASS, &format!("{inputs}outputs: {{ result: {outputs} }}"));
    assert_eq!(
        test("[ { payload: a }, { payload: c } ]"),
        "sink result: message 2 was not expected\n+ b"
    );
    assert_eq!(
        test("[ { payload: a }, { payload: b }, { payload: x, topic: t }, { payload: c } ]"),
        "sink result: message 3 did not come\n- x  (topic t)"
    );
    assert!(test("[]").contains("message 3 was not expected"));
    assert!(
        test("[ { payload: b }, { payload: a }, { payload: c } ]").contains("in another order")
    );
    let any = "outputs: { result: [ { payload: b }, { payload: a }, { payload: c } ] }\norder: any";
    assert_eq!(of_step(PASS, &format!("{inputs}{any}")), "");
    // Nothing is asked of a sink that is not named.
    assert_eq!(of_step(PASS, inputs), "");
}

#[test]
fn an_unexpected_reject_fails_and_an_expected_one_has_to_come() {
    let inputs =
        "inputs: { machine: [ { payload: { fahrenheit: 212 } }, { payload: fault, topic: t } ] }\n";
    let said = of_step(CELSIUS, inputs);
    assert!(said.starts_with("step only: a message was rejected that should not be\n"), "{said}");
    assert!(said.contains("+ invalid-argument: the payload is not JSON"), "{said}");
    assert!(said.ends_with("fault  (topic t)"), "{said}");
    let rejected =
        |what: &str| of_step(CELSIUS, &format!("{inputs}rejected: {{ only: [ {{ {what} }} ] }}"));
    assert_eq!(rejected("kind: invalid-argument, text: not JSON, payload: fault, topic: t"), "");
    assert_eq!(rejected(""), "");
    let said = rejected("kind: internal, text: hot, payload: default");
    assert!(
        said.starts_with("step only: rejected message 1 is not the expected one (1)"),
        "{said}"
    );
    for part in
        ["- kind: internal\n+ kind: invalid-argument", "- text: a text with \"hot\"", "- payload"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let none = "inputs: { machine: [ { payload: 32 } ] }\nrejected: { only: [ { kind: trap } ] }";
    assert_eq!(
        of_step(CELSIUS, none),
        "step only: message 1 was not rejected\n- trap: any message"
    );
}

#[test]
fn traps_timeouts_and_retries_are_the_messages_alone() {
    let test = "inputs:\n  machine: [ { payload: one }, { payload: trap }, { payload: two }, { payload: spin }, \
                { payload: retry }, { payload: grow }, { payload: three } ]\n\
                outputs:\n  result: [ { payload: one }, { payload: two }, { payload: three } ]\n\
                rejected:\n  only:\n    - { kind: trap, payload: trap, text: unreachable }\n    \
                - { kind: timeout, payload: spin, text: no answer within 2s }\n    \
                - { kind: retry, payload: retry, text: \"told so by: retry\" }\n    - { kind: trap, payload: grow }";
    assert_eq!(of_step("map: misbehaves, config: {}", test), "");
}

#[test]
fn the_step_at_fault_is_found_in_a_stage_of_several() {
    let graph = "sources: [machine]\nsteps:\n  lines: { flat-map: split-lines, from: machine }\n  \
                 middle: { map: misbehaves, from: lines }\n  last: { map: pass-map, from: middle }\n\
                 sinks:\n  result: { from: last }\ntests:\n  it:\n    \
                 inputs: { machine: [ { payload: \"a\\nb\" }, { payload: \"c\\ntrap\" }, { payload: d } ] }\n    \
                 outputs: { result: [ { payload: a }, { payload: b }, { payload: d } ] }\n    \
                 rejected: { middle: [ { kind: trap, payload: \"c\\ntrap\" } ] }\n";
    assert_eq!(loaded(graph).desk_plan().unwrap().stages.len(), 1);
    assert_eq!(said(graph), "");
}

#[test]
fn a_configuration_that_a_step_refuses_is_an_error() {
    let test = "inputs: { machine: [ { payload: 1 } ] }";
    assert_eq!(
        of_step("filter: above-limit, config: { limit: none }", test).lines().next().unwrap(),
        "stage `only` does not take its configuration: init of step only: `limit` is not a number: `none`"
    );
}

#[test]
fn clocks_say_what_the_test_says_and_random_is_the_same_each_time() {
    let test = "inputs: { machine: [ { payload: clocks }, { payload: random } ] }\n\
                outputs: { result: [ { payload: \"after 2020: true\" }, { payload: \"different: true\" } ] }";
    assert_eq!(of_step(ASKS, test), "");
    let early = test.replace("2020: true", "2020: false");
    assert_eq!(of_step(ASKS, &format!("time: 2019-12-31T23:59:59Z\n{early}")), "");
    // What is not granted traps, as on a host; waiting is never granted.
    let denied = "inputs: { machine: [ { payload: clocks }, { payload: print } ] }\n\
                  outputs: { result: [ { payload: printed } ] }\nrejected: { only: [ { kind: trap } ] }";
    assert_eq!(of_step("map: asks-around, config: {}", denied), "");
    let sleep =
        "inputs: { machine: [ { payload: sleep } ] }\nrejected: { only: [ { kind: trap } ] }";
    assert_eq!(of_step(ASKS, sleep), "");
}

#[test]
fn messages_come_out_of_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), "{\"fahrenheit\":32}\n\n{\"fahrenheit\":212}\n")
        .unwrap();
    fs::write(folder.path().join("out.jsonl"), "{\"celsius\":0}\n{\"celsius\":100}\n").unwrap();
    fs::write(folder.path().join("whole.json"), "{\"fahrenheit\":\n  50}").unwrap();
    let graph = one_step(
        CELSIUS,
        "inputs: { machine: [ { file: in.jsonl, topic: t }, { file: whole.json } ] }\n\
         outputs: { result: [ { file: out.jsonl, topic: t }, { payload: { celsius: 10 } } ] }",
    );
    let file = folder.path().join("pipeline.yaml");
    fs::write(&file, support::definition(&graph)).unwrap();
    let options = Options { check_files: true, ..Options::default() };
    let loaded = load_files(&file, None, &options).unwrap().at_the_desk();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let runtime = runtime(&loaded);
    let report = run_test(&runtime, &loaded.tests()[0]);
    assert!(report.passed(), "{:?}", report.failures);

    fs::remove_file(folder.path().join("whole.json")).unwrap();
    let missing = load_files(&file, None, &options).unwrap().at_the_desk();
    assert!(!missing.has_errors(), "deployed without the files of its tests");
    assert_eq!(missing.findings()[0].rule, "file-missing");
    let report = run_test(&runtime, &missing.tests()[0]);
    let [Failure::Error { text }] = report.failures.as_slice() else { panic!("{report:?}") };
    assert!(text.starts_with("could not read") && text.contains("whole.json"), "{text}");
}

#[test]
fn tests_may_be_in_a_file_of_their_own() {
    let mut loaded = loaded(&one_step(PASS, "inputs: { machine: [ { payload: a } ] }"));
    let more = "millrace: v1alpha1\npipeline: plant\ntests:\n  more:\n    inputs: { machine: [ { payload: b } ] }\n    \
                outputs: { result: [ { payload: c } ] }\n";
    loaded.add_tests(Document { file: "more.yaml", text: more }, &Options::default());
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let runtime = runtime(&loaded);
    let reports: Vec<_> = loaded.tests().iter().map(|case| run_test(&runtime, case)).collect();
    let found: Vec<_> =
        reports.iter().map(|r| (r.name.as_str(), r.file.as_str(), r.line, r.passed())).collect();
    assert_eq!(found, [("it", "pipeline.yaml", 10, true), ("more", "more.yaml", 4, false)]);

    let wrong = more
        .replace("pipeline: plant", "pipeline: hall")
        .replace("more:", "it:")
        .replace("result", "resutl");
    loaded.add_tests(Document { file: "wrong.yaml", text: &wrong }, &Options::default());
    let said = loaded.render(false);
    for part in [
        "these tests are for the pipeline `hall`, not for `plant`",
        "give the tests of this pipeline",
        "another test is called `it`",
        "wrong.yaml:4:3",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn reports_are_read_by_programs() {
    let graph = one_step(
        CELSIUS,
        "description: Told & <done>.\ninputs: { machine: [ { payload: 32 }, { payload: \"a<b>\" } ] }\noutputs: { result: [ { payload: 1 } ] }",
    );
    let reports = reports(&graph);
    let json = serde_json::to_value(&reports[0]).unwrap();
    assert_eq!(json["name"], "it");
    assert_eq!(json["description"], "Told & <done>.");
    assert_eq!((&json["file"], &json["line"]), (&"pipeline.yaml".into(), &10.into()));
    assert!(json["took-us"].as_u64().is_some());
    let failures = json["failures"].as_array().unwrap();
    assert_eq!(failures[0]["problem"], "differs");
    assert_eq!(failures[0]["place"]["sink"], "result");
    assert_eq!(failures[0]["differences"][0]["path"], "payload");
    assert_eq!(failures[1]["problem"], "unexpected");
    assert_eq!(failures[1]["place"]["step"], "only");
    assert!(matches!(
        &reports[0].failures[1],
        Failure::Unexpected { place: Place::Step(_), got: 1, .. }
    ));
    assert!(json["log"][0]["text"].as_str().unwrap().contains("1 messages rejected"));

    let xml = junit(&[Suite { name: "plant", reports: &reports }]);
    well_formed(&xml);
    for part in [
        "<testsuites name=\"millrace\" tests=\"1\" failures=\"1\"",
        "<testcase name=\"it\" classname=\"plant\" file=\"pipeline.yaml\" line=\"10\"",
        "<failure message=\"sink result: message 1 differs\">",
        "a&lt;b&gt;",
        "<system-out>warn only",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
}

/// Tags that open are closed, and nothing that belongs to XML stands in texts.
fn well_formed(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap();
    while let Some((text, after)) = rest.split_once('<') {
        assert!(!text.contains('>'), "{text}");
        let (tag, after) = after.split_once('>').unwrap();
        rest = after;
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => {
                assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
                open.push(tag.split(' ').next().unwrap());
            }
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty());
    for entity in xml.split('&').skip(1) {
        let name = entity.split(';').next().unwrap();
        assert!(["lt", "gt", "amp", "quot"].contains(&name), "{name}");
    }
}

#[test]
fn the_samples_pass_their_tests() {
    let samples = fs::read_dir(root().join("samples")).unwrap();
    let mut tests = 0;
    for sample in samples {
        let sample = sample.unwrap().path();
        // Its steps are built first, by `step/tests/three_languages.rs`.
        if sample.ends_with("three-languages") {
            continue;
        }
        for file in fs::read_dir(&sample).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let loaded =
                load_files(&file, None, &Options { check_files: true, ..Options::default() })
                    .unwrap();
            assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
            if loaded.tests().is_empty() {
                continue;
            }
            let runtime = runtime(&loaded);
            for case in loaded.tests() {
                let report = run_test(&runtime, case);
                let failures = &report.failures;
                assert!(report.passed(), "{}: {}: {failures:#?}", file.display(), report.name);
                tests += 1;
            }
        }
    }
    assert!(tests >= 20, "{tests}");
}
