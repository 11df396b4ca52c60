//! Composed stages, run in the host's engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use millrace_batch::{ARM, Batch, BatchWriter, ENTER, Fields};
use millrace_compose::{Grant, Kind, compose};
use support::{Level, Stage, batch, every_grant, granted, stage, step};

const OUT: &str = "plant.out.convert";
const DEAD: &str = "plant.dead.convert";

fn misbehaving_map() -> Stage {
    Stage::of(vec![step("bad", Kind::Map, "misbehaves")])
}

#[test]
fn a_map_changes_payloads_and_nothing_else() {
    let stage = Stage::of(vec![step("celsius", Kind::Map, "fahrenheit-to-celsius")]);
    let input = batch(&["212", r#"{"fahrenheit":181.4,"machine":"press-1"}"#]);
    let outcome = stage.call(&input);
    outcome.ok();
    assert_eq!(outcome.payloads(OUT), ["100.0", r#"{"celsius":83.0,"machine":"press-1"}"#]);
    assert_eq!(outcome.published.len(), 1);

    let (input, output) = (Batch::parse(&input).unwrap(), outcome.on(OUT)[0]);
    assert!(output.headers().eq(input.headers()), "batch headers are carried on");
    for (before, after) in input.messages().zip(output.messages()) {
        assert_eq!(
            Fields { payload: b"", ..Fields::from(&before) },
            Fields { payload: b"", ..Fields::from(&after) }
        );
        assert!(before.headers().eq(after.headers()));
    }
}

#[test]
fn a_filter_keeps_records_byte_for_byte() {
    let stage =
        Stage::of(vec![step("hot", Kind::Filter, "above-limit")]).with("step.0.config.limit", "80");
    let input = batch(&["81", "79", "80.5"]);
    let outcome = stage.call(&input);
    outcome.ok();
    let kept: Vec<_> = outcome.on(OUT)[0].messages().map(|message| message.record()).collect();
    let all: Vec<_> =
        Batch::parse(&input).unwrap().messages().map(|message| message.record()).collect();
    assert_eq!(kept, [all[0], all[2]]);
}

fn by_range(arms: &str) -> Stage {
    Stage::of(vec![step("sort", Kind::Branch, "by-range")])
        .with("step.0.config.low", "30")
        .with("step.0.config.high", "70")
        .with("step.0.arms", arms)
}

#[test]
fn a_branch_says_which_arm_a_message_takes_and_changes_nothing() {
    let mut writer = BatchWriter::new([("id", "b1")]).unwrap();
    for (number, value) in [(0, 20), (1, 50), (2, 90), (3, 25)] {
        let payload = format!("{{\"value\":{value}}}");
        let fields = Fields { timestamp: number, payload: payload.as_bytes(), ..Fields::default() };
        // Where a message comes from, somebody may call a header by our name.
        writer.push(&fields, [("unit", "percent"), (ARM, "high")]).unwrap();
    }
    let input = writer.finish();
    let outcome = by_range("low,normal,high").call(&input);
    outcome.ok();
    let output = outcome.on(OUT)[0];
    let arms: Vec<_> = output.messages().map(|message| message.header(ARM).unwrap()).collect();
    assert_eq!(arms, ["low", "normal", "high", "low"]);
    for (before, after) in Batch::parse(&input).unwrap().messages().zip(output.messages()) {
        assert_eq!(Fields::from(&before), Fields::from(&after));
        assert_eq!(after.headers().count(), 2);
        assert_eq!(after.header("unit"), Some("percent"));
    }

    // What an edge of an arm takes of it is what came in.
    let arms = output.by_arm().unwrap().unwrap();
    let low = Batch::parse(&arms["low"]).unwrap();
    assert_eq!(low.header("id"), Some("b1"));
    let numbers: Vec<_> = low.messages().map(|message| message.timestamp).collect();
    assert_eq!(numbers, [0, 3]);
    assert!(low.messages().all(|message| message.headers().eq([("unit", "percent")])));
    assert_eq!(arms.get("broken"), None);
}

#[test]
fn a_branch_whose_arms_are_not_configured_has_none() {
    let outcome = by_range("").call(&batch(&[r#"{"value":50}"#]));
    outcome.ok();
    assert!(outcome.on(OUT).is_empty());
    assert_eq!(outcome.on(DEAD)[0].len(), 1);
}

#[test]
fn an_arm_that_the_step_does_not_have_is_its_internal_error() {
    let outcome = by_range("low,high").call(&batch(&[r#"{"value":50}"#, r#"{"value":80}"#]));
    outcome.ok();
    assert_eq!(outcome.payloads(OUT), [r#"{"value":80}"#]);
    let letters = outcome.on(DEAD)[0];
    let letter = letters.messages().next().unwrap();
    assert_eq!(letter.header("millrace-dead-kind"), Some("internal"));
    assert_eq!(
        letter.header("millrace-dead-text"),
        Some("the step has no arm `normal`; its arms are low, high")
    );
    assert_eq!(letter.header(ARM), None);
}

#[test]
fn a_filter_that_drops_everything_publishes_nothing() {
    let stage =
        Stage::of(vec![step("hot", Kind::Filter, "above-limit")]).with("step.0.config.limit", "80");
    let outcome = stage.call(&batch(&["1", "2"]));
    assert!(outcome.ok().published.is_empty());
}

#[test]
fn a_flat_map_makes_none_or_many() {
    let stage = Stage::of(vec![step("lines", Kind::FlatMap, "split-lines")]);
    let outcome = stage.call(&batch(&["a\nb", "", "c"]));
    assert_eq!(outcome.ok().payloads(OUT), ["a", "b", "c"]);
}

#[test]
fn a_chain_of_three_passes_batches_on() {
    let stage = Stage::of(vec![
        step("lines", Kind::FlatMap, "split-lines"),
        step("celsius", Kind::Map, "fahrenheit-to-celsius"),
        step("hot", Kind::Filter, "above-limit"),
    ])
    .with("step.2.config.limit", "80");
    let outcome = stage.call(&batch(&["212\n100", "fault\n500"]));
    outcome.ok();
    assert_eq!(outcome.payloads(OUT), ["100.0", "260.0"]);
    assert_eq!(outcome.payloads(DEAD), ["fault"]);
    let dead = outcome.on(DEAD)[0];
    assert_eq!(dead.messages().next().unwrap().header("millrace-dead-step"), Some("celsius"));
}

#[test]
fn rejects_of_several_steps_are_one_batch_with_one_id() {
    let stage = Stage::of(vec![
        step("first", Kind::Map, "misbehaves"),
        step("second", Kind::Map, "fahrenheit-to-celsius"),
    ]);
    let outcome = stage.call(&batch(&["invalid", "not a number", "32"]));
    outcome.ok();
    assert_eq!(outcome.on(DEAD).len(), 1);
    let steps: Vec<_> = outcome.on(DEAD)[0]
        .messages()
        .map(|message| message.header("millrace-dead-step").unwrap())
        .collect();
    assert_eq!(steps, ["first", "second"]);
    assert_eq!(outcome.on(DEAD)[0].header("id"), Some("01J/dead/convert"));
    assert_eq!(outcome.payloads(OUT), ["0.0"]);
}

#[test]
fn a_stage_without_steps_passes_everything() {
    let stage = Stage::of(vec![]);
    let input = batch(&["a", "b"]);
    let outcome = stage.call(&input);
    assert_eq!(outcome.ok().published[0].body, input);
}

#[test]
fn a_dead_letter_is_the_message_with_headers_that_say_why() {
    let outcome = misbehaving_map().call(&batch(&["fine", "invalid one", "internal two"]));
    outcome.ok();
    assert_eq!(outcome.payloads(OUT), ["fine"]);
    assert_eq!(outcome.payloads(DEAD), ["invalid one", "internal two"]);

    let dead = outcome.on(DEAD)[0];
    assert_eq!(dead.header("id"), Some("01J/dead/convert"));
    assert_eq!(dead.header("traceparent"), Some("00-ab-cd-01"));
    assert_eq!(dead.header("unknown"), Some("carried"));
    let letters: Vec<_> = dead.messages().collect();
    for (letter, kind, text, timestamp) in [
        (letters[0], "invalid-argument", "told so by: invalid one", 1),
        (letters[1], "internal", "told so by: internal two", 2),
    ] {
        let expected = [
            ("unit", "F"),
            ("millrace-dead-pipeline", "plant"),
            ("millrace-dead-stage", "convert"),
            ("millrace-dead-step", "bad"),
            ("millrace-dead-kind", kind),
            ("millrace-dead-attempt", "3"),
            ("millrace-dead-text", text),
        ];
        assert_eq!(letter.headers().collect::<Vec<_>>(), expected);
        assert_eq!(
            (letter.topic, letter.key, letter.timestamp),
            ("plant/press-1", Some(&b"press-1"[..]), timestamp)
        );
    }
    let said = "step bad: 2 messages rejected, the first because: invalid-argument: told so by: invalid one";
    assert_eq!(outcome.logged, [(Level::Warn, said.to_owned())], "one line a call");
}

#[test]
fn a_second_death_replaces_the_headers_of_the_first() {
    let mut writer = BatchWriter::new([("id", "x")]).unwrap();
    let headers = [("millrace-dead-step", "earlier"), ("own", "kept")];
    writer.push(&Fields { payload: b"invalid", ..Fields::default() }, headers).unwrap();
    let outcome = misbehaving_map().call(&writer.finish());
    let letter = outcome.on(DEAD)[0].messages().next().unwrap();
    let steps: Vec<_> =
        letter.headers().filter(|(name, _)| *name == "millrace-dead-step").collect();
    assert_eq!(steps, [("millrace-dead-step", "bad")]);
    assert_eq!(letter.header("own"), Some("kept"));
    assert_eq!(
        letter.header("millrace-dead-attempt"),
        Some("1"),
        "without the header it is the first attempt"
    );
}

/// The batch with the header that says where to begin.
fn entering(batch: &[u8], step: &str) -> Vec<u8> {
    Batch::parse(batch).unwrap().with_headers(&[(ENTER, step)]).unwrap()
}

#[test]
fn a_batch_enters_at_the_step_that_it_names() {
    let stage = Stage::of(vec![
        step("first", Kind::Map, "fahrenheit-to-celsius"),
        step("second", Kind::Map, "fahrenheit-to-celsius"),
        step("third", Kind::Map, "fahrenheit-to-celsius"),
    ]);
    for (name, expected) in [("third", "100.0"), ("second", "37.778"), ("first", "3.21")] {
        let outcome = stage.call(&entering(&batch(&["212", "none"]), name));
        assert_eq!(outcome.ok().payloads(OUT), [expected], "from {name} on");
        assert_eq!(outcome.payloads(DEAD), ["none"]);
        let letter = outcome.on(DEAD)[0].messages().next().unwrap();
        assert_eq!(letter.header("millrace-dead-step"), Some(name));
        // What comes behind the stage, and the letters that come back, begin at the beginning.
        for went_on in [outcome.on(OUT)[0], outcome.on(DEAD)[0]] {
            assert_eq!(went_on.header(ENTER), None);
            assert_eq!(went_on.header("unknown"), Some("carried"));
        }
    }
}

#[test]
fn a_batch_that_names_no_step_of_the_stage_is_refused() {
    let steps = vec![step("only", Kind::Map, "fahrenheit-to-celsius")];
    let empty = BatchWriter::new([("probe", "1")]).unwrap().finish();
    for stage in [Stage::of(steps), Stage::of(vec![])] {
        for (input, enters) in [(batch(&["1"]), "other"), (empty.clone(), "only")] {
            let outcome = stage.call(&entering(&input, enters));
            let expected = format!("batch: this stage has no step `{enters}` to enter at");
            assert_eq!(outcome.refused(), expected, "an empty batch enters nowhere");
            assert!(outcome.published.is_empty());
        }
    }
}

#[test]
fn retry_fails_the_call_and_publishes_nothing() {
    let outcome = misbehaving_map().call(&batch(&["fine", "invalid", "retry please"]));
    assert_eq!(outcome.refused(), "retry: told so by: retry please");
    assert!(outcome.published.is_empty());
}

#[test]
fn a_long_error_text_is_cut_between_characters() {
    let outcome = misbehaving_map().call(&batch(&[&format!("invalid {}", "ä".repeat(2000))]));
    let letter = outcome.on(DEAD)[0].messages().next().unwrap();
    let text = letter.header("millrace-dead-text").unwrap();
    assert!((1020..=1024).contains(&text.len()) && text.ends_with('ä'), "{} bytes", text.len());
}

#[test]
fn output_that_cannot_be_sent_on_is_the_steps_internal_error() {
    let outcome = misbehaving_map().call(&batch(&["long-topic", "fine", "huge"]));
    assert_eq!(outcome.ok().payloads(OUT), ["fine"]);
    let dead: Vec<_> = outcome.on(DEAD)[0].messages().collect();
    let texts: Vec<_> =
        dead.iter().map(|letter| letter.header("millrace-dead-text").unwrap()).collect();
    assert!(texts[0].contains("the topic is 70000 bytes, at most 65534"), "{texts:?}");
    assert!(texts[1].contains("message of 2097"), "{texts:?}");
    assert!(dead.iter().all(|letter| letter.header("millrace-dead-kind") == Some("internal")));
}

#[test]
fn half_of_a_flat_maps_output_is_never_sent_on() {
    let stage = Stage::of(vec![step("bad", Kind::FlatMap, "misbehaves")]);
    let outcome = stage.call(&batch(&["long-topic", "fine", "invalid"]));
    assert_eq!(outcome.ok().payloads(OUT), ["fine", "fine"]);
    assert_eq!(outcome.payloads(DEAD), ["long-topic", "invalid"]);
}

#[test]
fn a_body_too_large_for_the_lattice_goes_in_parts() {
    let stage = Stage::of(vec![]).with("max-body-bytes", "500");
    let payload = "x".repeat(100);
    let outcome = stage.call(&batch(&[payload.as_str(); 10]));
    outcome.ok();
    let parts = outcome.on(OUT);
    assert!(parts.len() > 2 && parts.iter().all(|part| part.bytes().len() <= 500));
    let ids: Vec<_> = parts.iter().map(|part| part.header("id").unwrap().to_owned()).collect();
    assert_eq!(ids, (0..parts.len()).map(|part| format!("01J/part/{part}")).collect::<Vec<_>>());
    let times: Vec<_> =
        parts.iter().flat_map(Batch::messages).map(|message| message.timestamp).collect();
    assert_eq!(times, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_trap_ends_the_call_and_publishes_nothing() {
    let outcome = misbehaving_map().call(&batch(&["fine", "invalid", "trap"]));
    assert!(outcome.answer.is_err() && outcome.published.is_empty(), "{outcome:?}");
}

#[test]
fn an_endless_loop_is_ended_by_the_clock() {
    let outcome = misbehaving_map().call(&batch(&["spin"]));
    assert!(outcome.answer.unwrap_err().contains("interrupt"));
}

#[test]
fn memory_stops_at_the_maximum() {
    const MIB: usize = 1024 * 1024;
    for maximum in [4 * MIB, 16 * MIB] {
        let mut bounded = step("bad", Kind::Map, "misbehaves");
        bounded.memory_max = Some(maximum as u64);
        let outcome = Stage::of(vec![bounded]).call(&batch(&["grow"]));
        assert!(outcome.answer.is_err() && outcome.published.is_empty());
        let reached = outcome.largest_memory;
        assert!((maximum / 2..=maximum).contains(&reached), "{reached} of {maximum}");
    }
}

#[test]
fn an_empty_batch_is_answered_without_a_step() {
    let stage =
        Stage::of(vec![step("bad", Kind::Map, "misbehaves")]).with("step.0.config.init", "invalid");
    let outcome = stage.call(&BatchWriter::new([("id", "probe")]).unwrap().finish());
    assert!(outcome.ok().published.is_empty());
}

/// Each part is bounded by itself; together they may have more than one component may.
#[test]
fn the_memories_of_a_stage_are_those_of_all_its_parts() {
    let steps = (0..8).map(|n| step(&format!("step-{n}"), Kind::Map, "pass-map")).collect();
    assert_eq!(compose(&stage(steps)).unwrap().metadata.steps.len(), 8);
}

#[test]
fn a_body_that_is_no_batch_is_one_message() {
    let stage = Stage::of(vec![step("celsius", Kind::Map, "fahrenheit-to-celsius")]);
    let outcome = stage.call(b"212");
    outcome.ok();
    let message = outcome.on(OUT)[0].messages().next().unwrap();
    assert_eq!(
        (message.topic, message.payload, message.timestamp),
        ("raw/topic", &b"100.0"[..], 0)
    );
}

#[test]
fn a_damaged_batch_is_refused_with_the_place() {
    let stage = Stage::of(vec![]);
    let mut body = batch(&["a"]);
    body.pop();
    let outcome = stage.call(&body);
    assert!(outcome.refused().starts_with("batch: byte 12, total length:"), "{outcome:?}");
    assert!(outcome.published.is_empty());
}

#[test]
fn a_refused_publish_is_downstream() {
    let mut stage = misbehaving_map();
    stage.refuse_after = Some(0);
    assert_eq!(stage.call(&batch(&["fine"])).refused(), "downstream: full");
    // The output was taken, the dead letters were not: the call fails, and a retry is dropped by its id.
    stage.refuse_after = Some(1);
    let outcome = stage.call(&batch(&["fine", "invalid"]));
    assert_eq!(outcome.refused(), "downstream: full");
    assert_eq!(outcome.published.len(), 1);
}

#[test]
fn missing_configuration_and_a_failed_init_are_config() {
    let mut stage = misbehaving_map();
    stage.config.remove("out-subject");
    assert_eq!(stage.call(&batch(&["fine"])).refused(), "config: `out-subject` is not set");
    stage.config.remove("step.0.name");
    assert_eq!(stage.call(&batch(&["fine"])).refused(), "config: `step.0.name` is not set");
    let stage = misbehaving_map().with("step.0.config.init", "invalid");
    assert_eq!(
        stage.call(&batch(&["fine"])).refused(),
        "config: init of step bad: init was told to fail"
    );
}

#[test]
fn each_step_sees_its_own_configuration() {
    let stage = Stage::of(vec![
        step("first", Kind::Map, "misbehaves"),
        step("hot", Kind::Filter, "above-limit"),
        step("cold", Kind::Filter, "above-limit"),
    ])
    .with("step.1.config.limit", "80")
    .with("step.2.config.limit", "90");
    assert_eq!(stage.call(&batch(&["79", "85", "95"])).ok().payloads(OUT), ["95"]);
}

#[test]
fn the_standard_library_works_with_nothing_granted() {
    let stage = Stage::of(vec![step("std", Kind::Map, "asks-around")]);
    let outcome = stage.call(&batch(&["hash", "print", "env", "stdin"]));
    let expected = ["100 entries", "printed", "0 variables, 0 arguments", "Some(0)"];
    assert_eq!(outcome.ok().payloads(OUT), expected);
}

#[test]
fn files_are_never_there() {
    let stage = Stage::of(vec![granted(step("std", Kind::Map, "asks-around"), &every_grant())]);
    assert_eq!(stage.call(&batch(&["files"])).ok().payloads(OUT), ["no files"]);
}

#[test]
fn clocks_and_random_trap_until_they_are_granted() {
    let denied = Stage::of(vec![step("std", Kind::Map, "asks-around")]);
    for thing in ["clocks", "random", "sleep"] {
        assert!(denied.call(&batch(&[thing])).answer.is_err(), "{thing}");
    }
    let allowed = granted(step("std", Kind::Map, "asks-around"), &[Grant::Clocks, Grant::Random]);
    let allowed = Stage::of(vec![allowed]);
    assert_eq!(
        allowed.call(&batch(&["clocks", "random"])).ok().payloads(OUT),
        ["after 2020: true", "different: true"]
    );
    assert!(
        allowed.call(&batch(&["sleep"])).answer.is_err(),
        "waiting is not granted with the clocks"
    );
}

#[test]
fn grants_of_one_step_are_not_those_of_another() {
    let with = granted(step("with", Kind::Map, "asks-around"), &[Grant::Clocks]);
    let without = step("without", Kind::Map, "asks-around");
    let artifact = compose(&stage(vec![with, without])).unwrap();
    // The first step answers, the second is asked for something unknown and rejects it.
    let outcome = Stage::new(&artifact).call(&batch(&["clocks"]));
    assert_eq!(outcome.ok().payloads(DEAD), ["after 2020: true"]);
    let only_second = stage(vec![
        granted(step("with", Kind::Filter, "pass-filter"), &[Grant::Clocks]),
        step("without", Kind::Map, "asks-around"),
    ]);
    assert!(Stage::new(&compose(&only_second).unwrap()).call(&batch(&["clocks"])).answer.is_err());
}
