//! What `step new` writes builds, passes its samples and is not tripped by any bytes; what is wrong is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::path::Path;

use millrace_compose::Kind;
use millrace_desk::{Runtime, run_test};
use millrace_pipeline::{Document, Options as LoadOptions, Time, load};
use millrace_step::{
    BuildError, CreateError, Ended, KINDS, Language, Tools, Tried, Windowed, arbitrary, build,
    create, inspect, read_samples,
};
use support::{built, engine, project, tools, trial};

/// What came of the samples: arms or payloads, other event times, kinds of dead letters.
fn told(tried: &[Tried]) -> Vec<Vec<String>> {
    let of = |tried: &Tried| {
        let outputs = tried.outputs.iter().map(|(arm, message)| {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            let time = Time::from_nanoseconds(message.timestamp);
            let changed = Some(time).filter(|time| *time != Time::DEFAULT);
            let timed = changed.map(|time| format!("{text} at {time}"));
            arm.clone().or(timed).unwrap_or(text)
        });
        outputs.chain(tried.letters.iter().map(|letter| letter.kind.clone())).collect()
    };
    tried.iter().map(of).collect()
}

fn expected(kind: Kind) -> Vec<Vec<&'static str>> {
    match kind {
        Kind::Map => vec![vec!["HELLO"], vec![""], vec!["invalid-argument"]],
        Kind::Filter => vec![vec!["81.5"], vec![], vec!["invalid-argument"]],
        // At the end of the samples.
        Kind::Accumulate => vec![vec![], vec![], vec!["invalid-argument"], vec!["21.25"]],
        Kind::Delay => vec![
            vec!["1767225605000,81.5 at 2026-01-01T00:00:05Z"],
            vec!["invalid-argument"],
            vec!["invalid-argument"],
        ],
        Kind::FlatMap => vec![vec!["one", "two"], vec![], vec!["invalid-argument"]],
        _ => vec![vec!["high"], vec!["low"], vec!["invalid-argument"]],
    }
}

/// Builds a new project, gives it its samples and any bytes.
fn works(folder: &Path, language: Language, kind: Kind) {
    let name = format!("{language}-{kind}");
    let project = project(folder, &name, language, kind);
    let built = built(&project);
    let found = inspect(&std::fs::read(&built.file).unwrap(), &[].into(), None).unwrap();
    assert_eq!(found.kinds, [kind]);
    assert_eq!(found.version.as_deref(), Some("0.1.0"));
    assert!(found.problems.is_empty(), "{:?}", found.problems);

    let trial = trial(&built.file, &project.settings);
    let samples = read_samples(&project.samples()).unwrap();
    let tried: Vec<Tried> = if trial.has_state() {
        let Windowed { mut messages, mut ended, open, largest } = trial.windows(&samples).unwrap();
        assert_eq!((open.len(), largest), (0, 16), "{name}");
        // Ten seconds, as the project says.
        let time = Time::from_nanoseconds(ended.outputs[0].1.timestamp).to_string();
        assert_eq!(time, "2026-01-01T00:00:10Z");
        ended.outputs[0].1.timestamp = Time::DEFAULT.nanoseconds();
        messages.push(ended);
        messages
    } else {
        samples.iter().map(|m| trial.give(m).unwrap()).collect()
    };
    assert_eq!(told(&tried), expected(kind), "{name}");
    let findings = arbitrary(&trial, &samples, 1, 256).unwrap();
    assert!(findings.passed(), "{name}: {findings:?}");
    assert_eq!(findings.kept.map(|kept| kept.bytes), trial.has_state().then_some(16));
    assert!(findings.refused > 0);
    println!("{name}: {:?} a message", findings.took / 256);
}

#[test]
fn rust() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [Kind::Filter, Kind::Accumulate, Kind::Delay] {
        works(folder.path(), Language::Rust, kind);
    }
}

/// Of one kind: it is the slow one. The sample has another.
#[test]
fn python() {
    let folder = tempfile::tempdir().unwrap();
    works(folder.path(), Language::Python, Kind::Accumulate);
}

/// What a Python step raises in a window costs the message at fault, and the window goes on without it: an `Err` with the
/// text of the exception, and any other exception as the trap that it is.
#[test]
fn what_a_python_step_raises_in_a_window_costs_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), "raises", Language::Python, Kind::Accumulate);
    let logic = project.folder.join("logic.py");
    let text = std::fs::read_to_string(&logic).unwrap();
    let catches = "    return float(payload.decode())";
    assert!(text.contains(catches), "{text}");
    let raises =
        format!("    if payload == b\"raise\":\n        raise KeyError(\"sensor\")\n{catches}");
    std::fs::write(&logic, text.replace(catches, &raises)).unwrap();
    let component = built(&project).file;
    let definition = format!(
        "millrace: v1alpha1
pipeline: plant
version: 0.1.0
sources: [machine]
steps:
  mean: {{ accumulate: raises, from: machine, window: {{ tumbling: 10s }} }}
sinks:
  means: {{ from: mean }}
binding:
  components:
    raises: {{ file: \"{}\" }}
tests:
  it:
    inputs:
      machine:
        - {{ payload: 20, key: a, timestamp: \"2026-01-01T00:00:01Z\" }}
        - {{ payload: warm, key: a, timestamp: \"2026-01-01T00:00:02Z\" }}
        - {{ payload: 22, key: a, timestamp: \"2026-01-01T00:00:03Z\" }}
        - {{ payload: raise, key: a, timestamp: \"2026-01-01T00:00:04Z\" }}
        - {{ payload: 27, key: a, timestamp: \"2026-01-01T00:00:05Z\" }}
        - {{ payload: 40, key: b, timestamp: \"2026-01-01T00:00:06Z\" }}
    outputs:
      means:
        - {{ key: a, payload: \"23.0\" }}
        - {{ key: b, payload: \"40.0\" }}
    rejected:
      mean:
        - {{ payload: warm, kind: invalid-argument, text: \"could not convert string to float: 'warm'\" }}
        - {{ payload: raise, kind: trap }}
    order: any
    until: \"2026-01-01T00:01:00Z\"
",
        component.display()
    );
    let document = Document { file: "pipeline.yaml", text: &definition };
    let loaded = load(document, None, &LoadOptions::default()).at_the_desk();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let runtime = Runtime::build(engine(), loaded.desk_plan().unwrap()).unwrap();
    let [test] = loaded.tests() else { panic!("{} tests", loaded.tests().len()) };
    let report = run_test(&runtime, test);
    let lines = report.failures.iter().flat_map(|failure| failure.lines());
    let lines: Vec<_> = lines.map(|(_, line)| line).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn javascript() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        works(folder.path(), Language::Javascript, kind);
    }
}

#[test]
fn a_step_that_trips_over_some_message_is_found_with_the_smallest() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), "trips", Language::Javascript, Kind::Map);
    let app = r"
export const map = {
  init(configuration) {},
  map(message) {
    if (message.payload.includes(0xff)) null.field;
    return message;
  },
};
";
    std::fs::write(project.folder.join("app.js"), app).unwrap();
    let trial = trial(&built(&project).file, &project.settings);
    let findings = arbitrary(&trial, &[], 3, 2_000).unwrap();
    let case = findings.case.unwrap();
    assert!(matches!(case.ended, Ended::Trap(_)), "{case:?}");
    let [only] = case.messages.as_slice() else { panic!("{case:?}") };
    assert_eq!(only.payload, [0xff]);
    assert_eq!((only.topic.as_str(), only.headers.len()), ("", 0));
    // The same seed finds the same.
    let again = arbitrary(&trial, &[], 3, 2_000).unwrap();
    assert_eq!((again.cases, again.case.unwrap().messages), (findings.cases, case.messages));
}

#[test]
fn what_the_tool_says_of_an_error_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), "wrong", Language::Javascript, Kind::Map);
    std::fs::write(project.folder.join("app.js"), "export const map = {{").unwrap();
    let error = build(&project, &tools()).unwrap_err();
    assert!(matches!(error, BuildError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("componentize-qjs has failed"), "{error}");
    assert!(error.to_string().contains("Unexpected token"), "{error}");
    assert!(!project.component().exists());
}

#[test]
fn a_compiler_error_of_rust_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), "wrong-rust", Language::Rust, Kind::Map);
    std::fs::write(project.folder.join("src/lib.rs"), "fn main() { oops }").unwrap();
    let error = build(&project, &tools()).unwrap_err().to_string();
    assert!(error.contains("cannot find value `oops`"), "{error}");
}

#[test]
fn a_missing_tool_is_named_with_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let none = Tools { languages: folder.path().join("none"), path: Vec::new() };
    for (language, says) in [
        (Language::Python, "pip install componentize-py==0.25.1"),
        (Language::Javascript, "npm install --save-dev componentize-qjs@0.4.5"),
        (Language::Rust, "rustup"),
    ] {
        let project = project(folder.path(), language.name(), language, Kind::Map);
        let error = build(&project, &none).unwrap_err();
        assert!(matches!(error, BuildError::Tool(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn the_tool_of_the_project_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(".venv/bin/componentize-py");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "").unwrap();
    assert_eq!(tools().python(folder.path()).unwrap(), own);
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    create(&path, "taken", Language::Rust, Kind::Map).unwrap();
    let error = create(&path, "taken", Language::Python, Kind::Map).unwrap_err();
    assert!(matches!(error, CreateError::NotEmpty(_)), "{error}");
    assert!(!path.join("app.py").exists());
    let file = path.join("Cargo.toml");
    assert!(create(&file, "taken", Language::Rust, Kind::Map).is_err());
    // An empty folder is taken.
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    create(&empty, "empty", Language::Rust, Kind::Map).unwrap();
}

#[test]
fn names_and_kinds_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for name in ["Loud", "", "a_b", "../x"] {
        let error = create(&path, name, Language::Rust, Kind::Map).unwrap_err();
        assert!(matches!(error, CreateError::Name(_)), "{error}");
    }
    let error = create(&path, "x", Language::Rust, Kind::Throttle).unwrap_err();
    assert!(matches!(error, CreateError::Kind(Kind::Throttle)), "{error}");
    assert!(error.to_string().ends_with("branch, accumulate, delay"), "{error}");
    assert!(!path.exists());
}
