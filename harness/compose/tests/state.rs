//! Composed stages whose step has state, and delays, run in the host's engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::cell::RefCell;

use millrace_batch::{ARM, Batch, BatchWriter, ENTER, Fields};
use millrace_compose::Kind;
use millrace_window::{Document, attach, commit};
use support::{Outcome, Stage, batch, step};

const OUT: &str = "plant.out.convert";
const DEAD: &str = "plant.dead.convert";
const STATE: &str = "plant.state.convert";

/// A stage with state and its caller, who keeps the document.
struct Kept {
    stage: Stage,
    document: RefCell<Vec<u8>>,
}

impl Kept {
    fn of(component: &str, window: &str) -> Self {
        let stage = Stage::of(vec![step("counts", Kind::Accumulate, component)])
            .with("state-subject", STATE)
            .with("step.0.window", window);
        Self { stage, document: RefCell::default() }
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.stage = self.stage.with(key, value);
        self
    }

    /// Calls with a batch, and keeps what is committed.
    fn give(&self, batch: &[u8], idle: Option<u64>) -> Outcome {
        let batch = Batch::parse(batch).unwrap();
        let body =
            attach(&batch, &self.document.borrow(), "kv/7", idle.unwrap_or(1), idle.is_some());
        let outcome = self.stage.call(&body.unwrap());
        if outcome.answer == Ok(Ok(())) {
            let commits = outcome.on(STATE);
            let [commit] = commits.as_slice() else { panic!("{outcome:?}") };
            let commit = millrace_window::commit(commit).unwrap();
            assert_eq!(commit.state, "kv/7", "copied back as it was");
            assert_eq!(outcome.published.last().unwrap().subject, STATE, "published last");
            self.document.replace(commit.document.to_vec());
        }
        outcome
    }

    /// Messages: key, time, payload.
    fn call(&self, messages: &[(&str, u64, &str)]) -> Outcome {
        self.give(&of(messages, &[("id", "b1"), ("attempt", "2")]), None)
    }

    fn idle(&self, now: u64) -> Outcome {
        self.give(&of(&[], &[("id", "idle")]), Some(now))
    }

    fn windows(&self) -> Vec<(Vec<u8>, u64, u64)> {
        let document = Document::read(&self.document.borrow()).unwrap();
        let entries = document.entries();
        entries.map(|e| (e.group.key().unwrap_or(b"-").to_vec(), e.end, e.count)).collect()
    }
}

fn of(messages: &[(&str, u64, &str)], headers: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = BatchWriter::new(headers.iter().copied()).unwrap();
    for (key, timestamp, payload) in messages {
        let fields = Fields {
            timestamp: *timestamp,
            topic: "plant/level",
            key: Some(key.as_bytes()).filter(|key| !key.is_empty()),
            content_type: Some("text/plain"),
            payload: payload.as_bytes(),
        };
        // Somebody may call a header by our name.
        writer.push(&fields, [("unit", "C"), (ARM, "low")]).unwrap();
    }
    writer.finish()
}

fn letter(outcome: &Outcome, number: usize) -> (String, String, String) {
    let letters = outcome.on(DEAD)[0];
    let letter = letters.messages().nth(number).unwrap();
    let header = |name: &str| letter.header(name).unwrap().to_owned();
    let payload = String::from_utf8_lossy(letter.payload).into_owned();
    (payload, header("millrace-dead-kind"), header("millrace-dead-text"))
}

#[test]
fn the_first_call_folds_and_the_second_closes() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    let first = stage.call(&[("a", 1, "x"), ("b", 2, "x"), ("a", 3, "x"), ("", 4, "x")]);
    assert!(first.ok().on(OUT).is_empty(), "no window has ended");
    assert_eq!(
        stage.windows(),
        [(b"a".to_vec(), 10, 2), (b"b".to_vec(), 10, 1), (b"-".to_vec(), 10, 1)]
    );

    let second = stage.call(&[("b", 12, "x")]);
    assert_eq!(second.ok().payloads(OUT), ["2", "1", "1"]);
    let output = second.on(OUT)[0];
    // The batch headers of the input, and none about the state.
    assert!(output.headers().eq([("id", "b1"), ("attempt", "2")]));
    let fields: Vec<_> = output.messages().map(|m| (m.topic, m.key, m.timestamp)).collect();
    assert_eq!(
        fields,
        [("", Some(&b"a"[..]), 10), ("", Some(b"b"), 10), ("plant/level", None, 10)]
    );
    assert!(output.messages().all(|message| message.headers().eq([(ARM, "result")])));
    assert_eq!(stage.windows(), [(b"b".to_vec(), 20, 1)]);

    // The same call with the same document gives the same.
    let again = Kept::of("pass-accumulate", "tumbling 10");
    again.call(&[("a", 1, "x"), ("b", 2, "x"), ("a", 3, "x"), ("", 4, "x")]);
    assert_eq!(again.call(&[("b", 12, "x")]).published, second.published);
}

#[test]
fn a_step_that_is_idle_is_called_with_the_document_alone() {
    let stage = Kept::of("pass-accumulate", "tumbling 10").with("step.0.lateness", "5");
    stage.call(&[("a", 1, "x")]).ok();
    assert!(stage.idle(9).ok().on(OUT).is_empty());
    assert_eq!(stage.idle(10).ok().payloads(OUT), ["1"]);
    assert!(stage.windows().is_empty());
}

#[test]
fn windows_of_every_kind() {
    for (window, expected) in [
        ("tumbling 10", &["2", "2"][..]),
        ("hopping 10 5", &["2", "1", "2", "2"]),
        ("session 7", &["2", "2"]),
        ("count 2", &["2", "2"]),
    ] {
        let stage = Kept::of("pass-accumulate", window);
        let mut results = stage
            .call(&[("a", 3, "x"), ("a", 9, "x"), ("a", 17, "x"), ("a", 19, "x")])
            .payloads(OUT);
        results.extend(stage.idle(1_000).ok().payloads(OUT));
        assert_eq!(results, expected, "{window}");
    }
}

#[test]
fn what_comes_too_late_is_a_dead_letter_that_says_the_mend() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    stage.call(&[("a", 1_000_000_000, "x")]).ok();
    let outcome = stage.call(&[("a", 7, "late"), ("a", 1_000_000_001, "x")]);
    let expected = "the message is of 1970-01-01T00:00:00.000000007Z, and its windows had ended: all up to \
                    1970-01-01T00:00:01Z have. A greater lateness waits longer; an edge from the arm `late` takes what \
                    comes too late";
    outcome.ok();
    assert_eq!(letter(&outcome, 0), ("late".into(), "late".into(), expected.into()));
    let letters = outcome.on(DEAD)[0];
    assert!(letters.headers().eq([("attempt", "2"), ("id", "b1/dead/convert")]));
    let names: Vec<_> =
        letters.messages().next().unwrap().headers().map(|(name, _)| name).collect();
    assert_eq!(names[..2], ["unit", ARM], "as the step saw it");
}

#[test]
fn what_comes_too_late_takes_the_arm_that_is_there_for_it() {
    let stage = Kept::of("pass-accumulate", "tumbling 10").with("step.0.arms", "result,late");
    stage.call(&[("a", 100, "x")]).ok();
    let outcome = stage.call(&[("a", 7, "late"), ("a", 110, "x")]);
    assert_eq!(outcome.ok().payloads(OUT), ["late", "1"]);
    assert!(outcome.on(DEAD).is_empty());
    let output = outcome.on(OUT)[0];
    let late = output.messages().next().unwrap();
    assert_eq!((late.timestamp, late.topic, late.key), (7, "plant/level", Some(&b"a"[..])));
    assert!(late.headers().eq([("unit", "C"), (ARM, "late")]));
    let arms = output.by_arm().unwrap().unwrap();
    assert_eq!(arms.keys().collect::<Vec<_>>(), [&"late", &"result"]);
}

#[test]
fn a_call_without_its_state_is_refused_and_publishes_nothing() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    let expected = "config: the stage has state and was called without it";
    for headers in [&[][..], &[("state", "x")], &[("now", "1")]] {
        let outcome = stage.stage.call(&of(&[("a", 1, "x")], headers));
        assert_eq!(outcome.refused(), expected);
        assert!(outcome.published.is_empty());
    }
}

#[test]
fn a_document_that_cannot_be_read_is_refused_and_stays() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    stage.document.replace(b"something else".to_vec());
    let outcome = stage.call(&[("a", 1, "x")]);
    assert_eq!(outcome.refused(), "config: these bytes are not a state document");
    let mut newer = Document::default().write();
    newer[4] = 7;
    stage.document.replace(newer);
    let expected = "config: the state document has version 7, and this version of the platform reads version 1";
    assert_eq!(stage.call(&[("a", 1, "x")]).refused(), expected);
}

#[test]
fn configuration_that_is_missing_or_wrong() {
    for (key, value, expected) in [
        ("step.0.window", None, "config: `step.0.window` is not set"),
        (
            "step.0.window",
            Some("tumbling 0"),
            "config: `step.0.window`: the window `tumbling 0` has a 0",
        ),
        (
            "step.0.lateness",
            Some("1s"),
            "config: `step.0.lateness`: `1s` is not a number of nanoseconds",
        ),
        ("state-subject", None, "config: `state-subject` is not set"),
    ] {
        let mut stage = Kept::of("pass-accumulate", "count 1");
        match value {
            Some(value) => stage = stage.with(key, value),
            None => drop(stage.stage.config.remove(key)),
        }
        let outcome = stage.call(&[("a", 1, "x")]);
        assert!(outcome.refused().starts_with(expected), "{outcome:?}");
        assert!(outcome.published.is_empty(), "nothing before all is known to be there");
    }
    let stage = Kept::of("breaks-windows", "count 1").with("step.0.config.init", "invalid");
    assert_eq!(
        stage.call(&[("a", 1, "x")]).refused(),
        "config: init of step counts: init was told to fail"
    );
}

#[test]
fn a_probe_goes_through_without_state() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    let outcome = stage.stage.call(&of(&[], &[("probe", "1")]));
    assert!(outcome.ok().on(STATE).is_empty());
    assert_eq!(outcome.on(OUT)[0].len(), 0);
}

#[test]
fn only_those_at_fault_are_rejected() {
    let stage = Kept::of("breaks-windows", "tumbling 10");
    let outcome =
        stage.call(&[("a", 1, "one"), ("a", 2, "invalid"), ("a", 3, "internal"), ("a", 4, "four")]);
    outcome.ok();
    let told =
        |payload: &str, kind: &str| (payload.into(), kind.into(), format!("told so by: {payload}"));
    assert_eq!(letter(&outcome, 0), told("invalid", "invalid-argument"));
    assert_eq!(letter(&outcome, 1), told("internal", "internal"));
    assert_eq!(stage.windows(), [(b"a".to_vec(), 10, 2)]);
    assert_eq!(stage.idle(10).payloads(OUT), ["one,four,"]);
}

#[test]
fn retry_and_a_trap_fail_the_call_and_change_nothing() {
    let stage = Kept::of("breaks-windows", "tumbling 10");
    stage.call(&[("a", 1, "one")]).ok();
    let before = stage.windows();
    let outcome = stage.call(&[("a", 2, "two"), ("a", 3, "retry")]);
    assert_eq!(outcome.refused(), "retry: told so by: retry");
    assert!(outcome.published.is_empty());
    let outcome = stage.call(&[("a", 2, "two"), ("a", 3, "trap")]);
    assert!(outcome.answer.is_err() && outcome.published.is_empty());
    assert_eq!(stage.windows(), before);
    // Also at the end of a window.
    stage.call(&[("b", 1, "end-retry")]).ok();
    let outcome = stage.idle(10);
    assert_eq!(outcome.refused(), "retry: told to end later");
    assert_eq!(stage.windows().len(), 2);
}

#[test]
fn a_refused_publish_is_downstream_and_the_state_stays() {
    let mut stage = Kept::of("breaks-windows", "count 1");
    // The output and the letter are taken, the state is not.
    for (after, published) in [(0, 0), (1, 1), (2, 2)] {
        stage.stage.refuse_after = Some(after);
        let outcome = stage.call(&[("a", 1, "one"), ("a", 2, "invalid"), ("b", 3, "three")]);
        assert_eq!(outcome.refused(), "downstream: full");
        assert_eq!(outcome.published.len(), published);
        assert!(stage.document.borrow().is_empty());
    }
    stage.stage.refuse_after = None;
    let outcome = stage.call(&[("a", 1, "one")]);
    let subjects: Vec<_> = outcome.ok().published.iter().map(|m| m.subject.as_str()).collect();
    assert_eq!(subjects, [OUT, STATE]);
}

#[test]
fn a_window_whose_end_is_rejected_is_a_dead_letter_and_ends_again_when_given_again() {
    let stage = Kept::of("breaks-windows", "tumbling 10");
    stage.call(&[("a", 1, "end-internal"), ("a", 2, "two"), ("b", 3, "three")]).ok();
    let outcome = stage.idle(10);
    assert_eq!(outcome.ok().payloads(OUT), ["three,"]);
    let expected = ("end-internal,two,".into(), "internal".into(), "told not to end".into());
    assert_eq!(letter(&outcome, 0), expected);
    let letters = outcome.on(DEAD)[0];
    let lost = letters.messages().next().unwrap();
    assert_eq!((lost.topic, lost.key, lost.timestamp), ("", Some(&b"a"[..]), 10));
    assert_eq!(lost.header("millrace-window"), Some("0 10 2"));
    assert!(stage.windows().is_empty());

    // Replayed, beside an ordinary letter: the step is told so by the header `enter`. One is rejected again, and another,
    // mended by hand, comes to its end.
    let mut writer = BatchWriter::new([("id", "r1"), (ENTER, "counts")]).unwrap();
    writer.push_record(&lost).unwrap();
    let mended = Fields { payload: b"mended,", ..Fields::from(&lost) };
    writer.push(&mended, lost.headers()).unwrap();
    writer.push(&Fields { timestamp: 25, payload: b"plain", ..Fields::default() }, []).unwrap();
    let outcome = stage.give(&writer.finish(), None);
    assert_eq!(outcome.ok().payloads(OUT), ["mended,"]);
    assert_eq!(outcome.on(OUT)[0].messages().next().unwrap().timestamp, 10);
    assert_eq!(outcome.payloads(DEAD), ["end-internal,two,"]);
    assert_eq!(stage.windows(), [(b"-".to_vec(), 30, 1)]);

    // From elsewhere it is an ordinary message.
    let mut writer = BatchWriter::new([("id", "r2")]).unwrap();
    writer
        .push(
            &Fields { timestamp: 26, payload: b"plain", ..Fields::default() },
            [("millrace-window", "0 10 2")],
        )
        .unwrap();
    assert!(stage.give(&writer.finish(), None).ok().on(OUT).is_empty());
    assert_eq!(stage.windows(), [(b"-".to_vec(), 30, 2)]);
}

#[test]
fn half_of_a_windows_output_is_never_sent_on() {
    let stage = Kept::of("breaks-windows", "count 1");
    let outcome =
        stage.call(&[("a", 1, "end-long-topic"), ("b", 2, "end-timed"), ("c", 3, "plain")]);
    assert_eq!(outcome.ok().payloads(OUT), ["end-timed,", "plain,"]);
    assert_eq!(outcome.payloads(DEAD), ["end-long-topic,"]);
    let output = outcome.on(OUT)[0];
    let times: Vec<_> = output.messages().map(|message| message.timestamp).collect();
    assert_eq!(
        times,
        [42, 3],
        "a time of its own; without one, that of the message that filled it"
    );
    let timed = output.messages().next().unwrap();
    assert!(
        timed.headers().eq([("own", "1"), (ARM, "result")]),
        "the arm is not the step's to say"
    );
}

#[test]
fn a_batch_enters_at_the_step_with_state_or_nowhere() {
    let stage = Kept::of("pass-accumulate", "count 1");
    let given = of(&[("a", 1, "x")], &[("id", "r"), (ENTER, "counts")]);
    let outcome = stage.give(&given, None);
    assert_eq!(outcome.ok().payloads(OUT), ["1"]);
    assert_eq!(outcome.on(OUT)[0].header(ENTER), None);
    let outcome = stage.give(&of(&[("a", 1, "x")], &[(ENTER, "other")]), None);
    assert_eq!(outcome.refused(), "batch: this stage has no step `other` to enter at");
    assert!(outcome.published.is_empty());
}

#[test]
fn a_document_that_is_full_rejects_what_would_make_it_larger() {
    let stage = Kept::of("breaks-windows", "tumbling 1000");
    let payload = "x".repeat(100_000);
    let messages: Vec<_> = ["a", "b", "c", "d", "e"].map(|key| (key, 1, payload.as_str())).into();
    let outcome = stage.call(&messages);
    outcome.ok();
    assert_eq!(stage.windows().len(), 3);
    let (_, kind, text) = letter(&outcome, 1);
    assert_eq!((kind.as_str(), outcome.on(DEAD)[0].len()), ("full", 2));
    assert!(text.contains("at most 393216 (384 KiB) are kept; more partitions"), "{text}");
}

#[test]
fn the_ready_made_aggregate() {
    let stage = Kept::of("aggregate", "tumbling 60000000000")
        .with("step.0.config.value", "level")
        .with("step.0.config.functions", "count,mean,max,p50");
    let minute = 60_000_000_000;
    let first = stage.call(&[
        ("press-1", 1, r#"{"level":1}"#),
        ("press-1", 2, r#"{"level":"high"}"#),
        ("press-1", 3, r#"{"level":4}"#),
    ]);
    first.ok();
    let expected = "`level` is not a finite number: \"high\"";
    assert_eq!(letter(&first, 0).2, expected);
    let second = stage.call(&[("press-1", minute, r#"{"level":2.5}"#)]);
    let results = second.ok().payloads(OUT);
    let head = r#"{"window_start":"1970-01-01T00:00:00Z","window_end":"1970-01-01T00:01:00Z","key":"press-1","count":2,"mean":2.5,"max":4.0,"p50":"#;
    assert!(results[0].starts_with(head), "{results:?}");
    assert_eq!(second.on(OUT)[0].messages().next().unwrap().timestamp, minute);
}

#[test]
fn a_delay_changes_the_time_and_nothing_else() {
    let stage = Stage::of(vec![step("later", Kind::Delay, "pass-delay")]);
    let input = batch(&["one", "two"]);
    assert_eq!(
        stage.call(&input).ok().published[0].body,
        input,
        "without its setting it does nothing"
    );

    let stage = stage.with("step.0.config.seconds", "3");
    let outcome = stage.call(&input);
    let (input, output) = (Batch::parse(&input).unwrap(), outcome.ok().on(OUT)[0]);
    assert!(output.headers().eq(input.headers()));
    for (before, after) in input.messages().zip(output.messages()) {
        let timestamp = before.timestamp + 3_000_000_000;
        assert_eq!(Fields { timestamp, ..Fields::from(&before) }, Fields::from(&after));
        assert!(before.headers().eq(after.headers()));
    }

    let mut writer = BatchWriter::new([]).unwrap();
    writer.push(&Fields { timestamp: u64::MAX, payload: b"x", ..Fields::default() }, []).unwrap();
    let outcome = stage.call(&writer.finish());
    assert_eq!(outcome.ok().payloads(DEAD), ["x"]);
    let stage = stage.with("step.0.config.seconds", "soon");
    assert_eq!(
        stage.call(&batch(&["x"])).refused(),
        "config: init of step later: no number of seconds: `soon`"
    );
}

#[test]
fn a_delay_is_a_step_among_others() {
    let stage = Stage::of(vec![
        step("celsius", Kind::Map, "fahrenheit-to-celsius"),
        step("later", Kind::Delay, "pass-delay"),
        step("hot", Kind::Filter, "above-limit"),
    ])
    .with("step.1.config.seconds", "1")
    .with("step.2.config.limit", "50");
    let outcome = stage.call(&batch(&["212", "32"]));
    assert_eq!(outcome.ok().payloads(OUT), ["100.0"]);
    assert_eq!(outcome.on(OUT)[0].messages().next().unwrap().timestamp, 1_000_000_000);
}

#[test]
fn commits_are_read_by_who_keeps_them() {
    let stage = Kept::of("pass-accumulate", "tumbling 10");
    let outcome = stage.call(&[("a", 1, "x")]);
    let body = outcome.on(STATE)[0];
    assert_eq!(Document::read(commit(&body).unwrap().document).unwrap().next_end(), Some(10));
}
