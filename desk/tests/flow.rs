//! Messages through whole graphs: fan-out, fan-in, fused or not, counted, and how fast.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use millrace_desk::{Cache, Engine, Message, Options, Run, Runtime, Setting, coverage, run_test};
use proptest::prelude::*;
use support::{loaded, runtime};

const CHAIN: &str = "sources: [machine]
steps:
  lines: { flat-map: split-lines, from: machine }
  celsius: { map: fahrenheit-to-celsius, from: lines }
  bad: { map: misbehaves, from: celsius }
  hot: { filter: above-limit, from: bad, config: { limit: 80 } }
  pass: { map: pass-map, from: hot }
sinks:
  alerts: { from: pass }
";

fn text(payload: impl Into<String>) -> Message {
    Message { payload: payload.into().into_bytes(), topic: "t".into(), ..Message::default() }
}

fn run(runtime: &Runtime, messages: &[Message]) -> Run {
    let mut session = runtime.session(&Setting::default());
    session.give("machine", messages).unwrap();
    session.settle().unwrap();
    session.end()
}

fn payloads(run: &Run, sink: &str) -> Vec<String> {
    let got = run.sinks.get(sink).into_iter().flatten();
    got.map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

#[test]
fn everyone_gets_all_and_sources_meet() {
    let graph = "sources: [machine, other]
steps:
  one: { map: pass-map, from: machine }
  both: { filter: pass-filter, from: [one, other] }
sinks:
  raw: { from: machine }
  all: { from: both }
  again: { from: [both, other] }
";
    let runtime = runtime(&loaded(graph));
    let mut session = runtime.session(&Setting::default());
    session.give("machine", &[text("a"), text("b")]).unwrap();
    session.give("other", &[text("c")]).unwrap();
    session.settle().unwrap();
    let run = session.end();
    assert_eq!(payloads(&run, "raw"), ["a", "b"]);
    for sink in ["all", "again"] {
        let mut got = payloads(&run, sink);
        got.sort();
        let expected: &[&str] =
            if sink == "all" { &["a", "b", "c"] } else { &["a", "b", "c", "c"] };
        assert_eq!(got, expected, "{sink}");
    }
    assert!(runtime.session(&Setting::default()).give("nobody", &[]).is_err());
}

#[test]
fn a_session_goes_on_with_more_messages() {
    let runtime = runtime(&loaded(CHAIN));
    let mut session = runtime.session(&Setting::default());
    for payload in ["212", "500"] {
        session.give("machine", &[text(payload)]).unwrap();
        session.settle().unwrap();
    }
    assert_eq!(payloads(session.so_far(), "alerts"), ["100.0", "260.0"]);
}

#[test]
fn coverage_says_what_each_step_did() {
    let graph = format!(
        "{CHAIN}  raw: {{ from: never }}\ntests:\n  it:\n    inputs:\n      machine: [ {{ payload: \"212\\n100\\nfault\" }}, {{ payload: \"\" }} ]\n"
    )
    .replace("steps:\n", "steps:\n  never: { map: pass-map, from: other }\n")
    .replace("[machine]", "[machine, other]");
    let loaded = loaded(&graph);
    let runtime = runtime(&loaded);
    let cases: Vec<_> = loaded.tests().iter().collect();
    let steps = coverage(&runtime, &cases).unwrap().steps;
    let found = |name: &str| steps.iter().find(|step| step.step == name).unwrap();
    let counts = |name: &str| {
        let step = found(name);
        (step.received, step.passed, step.dropped, step.rejected, step.made)
    };
    assert_eq!(counts("lines"), (2, 1, 1, 0, 3));
    assert_eq!(counts("celsius"), (3, 2, 0, 1, 2));
    assert_eq!(counts("hot"), (2, 1, 1, 0, 1));
    assert_eq!(counts("pass"), (1, 1, 0, 0, 1));
    assert_eq!(counts("never"), (0, 0, 0, 0, 0));
    assert!(!found("never").reached && found("pass").reached);
    assert_eq!(found("hot").never(), ["rejected"]);
    assert_eq!(found("pass").never(), ["rejected"], "a map drops nothing");
    let json = serde_json::to_value(found("lines")).unwrap();
    assert_eq!(json["kind"], "flat-map");
    assert_eq!((&json["reached"], &json["made"]), (&true.into(), &3.into()));
}

/// One runtime for all cases: only the messages are random.
fn chain() -> &'static Runtime {
    static CHAINED: OnceLock<Runtime> = OnceLock::new();
    CHAINED.get_or_init(|| runtime(&loaded(CHAIN)))
}

fn payload() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        8 => (-100i32..1000).prop_map(|n| n.to_string()),
        2 => "[a-z]{1,6}",
        1 => Just("{\"fahrenheit\":500,\"note\":\"trap\"}".to_owned()),
        1 => Just("{\"fahrenheit\":500,\"note\":\"retry\"}".to_owned()),
        1 => Just("{\"fahrenheit\":500,\"note\":\"invalid\"}".to_owned()),
        1 => Just("{\"fahrenheit\":500}".to_owned()),
    ];
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Fusing changes nothing about what comes out and what is rejected. What a stage does not answer is rejected as it came
    /// to its stage, which is another message where the stages are others: so one line a message, where it matters.
    #[test]
    fn fused_or_apart_the_results_are_the_same(messages in prop::collection::vec(payload(), 0..30)) {
        let fails = |line: &str| line.contains("trap") || line.contains("retry");
        let messages: Vec<Message> = messages
            .iter()
            .flat_map(|payload| match payload.lines().any(fails) {
                true => payload.lines().map(text).collect::<Vec<_>>(),
                false => vec![text(payload.clone())],
            })
            .collect();
        let apart = chain().apart().unwrap();
        prop_assert_eq!(chain().plan().stages.len(), 1);
        prop_assert_eq!(apart.plan().stages.len(), 5);
        let (fused, apart) = (run(chain(), &messages), run(apart, &messages));
        prop_assert_eq!(&fused.sinks, &apart.sinks);
        let letters = |run: &Run| {
            let mut all: Vec<_> = run
                .letters
                .iter()
                .map(|letter| {
                    let seen = !matches!(letter.kind.as_str(), "trap" | "retry");
                    let message = seen.then(|| letter.message.clone().payload);
                    (letter.step.clone(), letter.kind.clone(), letter.text.clone(), message)
                })
                .collect();
            all.sort();
            all
        };
        prop_assert_eq!(letters(&fused), letters(&apart));
    }
}

#[test]
fn a_second_engine_takes_compiled_stages_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { cache: Cache::At(folder.path().to_owned()), ..Options::default() };
    let plan = || loaded(CHAIN).desk_plan().unwrap();
    let times = [(); 2].map(|()| {
        let engine = Engine::new(&options).unwrap();
        let start = Instant::now();
        Runtime::build(&engine, plan()).unwrap();
        start.elapsed()
    });
    println!("first build {:?}, second {:?}", times[0], times[1]);
    assert!(times[1] < times[0], "{times:?}");
}

#[test]
fn a_thousand_messages_through_five_steps_take_no_time() {
    let graph = "sources: [machine]
steps:
  a: { map: pass-map, from: machine }
  b: { filter: pass-filter, from: a }
  c: { map: fahrenheit-to-celsius, from: b }
  d: { filter: above-limit, from: c, config: { limit: 0 } }
  e: { map: pass-map, from: d }
sinks:
  alerts: { from: e }
";
    let lines: String = (0..1000)
        .map(|n| format!("        - {{ payload: {{ fahrenheit: {}, n: {n} }} }}\n", 33 + n % 100))
        .collect();
    let wanted: String =
        (0..1000).map(|n| format!("        - {{ payload: {{ n: {n} }} }}\n")).collect();
    let loaded = loaded(&format!(
        "{graph}tests:\n  many:\n    select: [payload.n]\n    inputs:\n      machine:\n{lines}    outputs:\n      alerts:\n{wanted}"
    ));
    let runtime = runtime(&loaded);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let report = run_test(&runtime, &loaded.tests()[0]);
        assert!(report.passed(), "{:?}", report.failures.first());
        best = best.min(report.took);
    }
    println!("1,000 messages through 5 steps, run and judged: {best:?}");
    assert!(best < Duration::from_millis(500), "{best:?}");
}
