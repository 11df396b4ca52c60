//! Sub-pipelines: what their values are, where their files are found, what bounds them, and what a lock says of them. What is
//! said of wrong ones is in the golden folder, and that they are planned as their steps in `properties.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use millrace_pipeline::{
    Document, LoadError, Loaded, Lock, LockedHarness, Options, load, load_files, load_with,
    with_component_version,
};

/// The least component there is.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

const CLEANING: &str = r#"
millrace: v1alpha1
pipeline: cleaning
version: 0.1.0
parameters: { limit: 80, file: hot }
sources: [raw]
steps:
  hot: { filter: above-limit, from: raw, config: { limit: "${limit}" } }
sinks:
  out: { from: hot }
binding:
  parameters: { limit: 99 }
  components:
    above-limit: { file: "${file}.wasm", version: "1" }
"#;

const HALL: &str = r#"
millrace: v1alpha1
pipeline: hall
version: 0.1.0
sources: [machine]
steps:
  clean: { pipeline: cleaning, from: machine }
  strict: { pipeline: cleaning, from: clean, parameters: { limit: 60, file: hotter } }
sinks:
  alerts: { from: strict }
binding:
  sources:
    machine: { mqtt: { url: "mqtt://localhost", topic: a } }
  sinks:
    alerts: { mqtt: { url: "mqtt://localhost", topic: b } }
  pipelines:
    cleaning: { file: parts/cleaning.yaml }
"#;

/// Reads a definition whose sub-pipelines are these texts.
fn read(definition: &str, texts: &[(&str, &str)]) -> Loaded {
    let library = |file: &Path| {
        let text = texts.iter().find(|(name, _)| Path::new(name) == file);
        text.map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| LoadError::NotText { path: file.to_owned() })
    };
    let document = Document { file: "hall.yaml", text: definition };
    load_with(document, None, &Options::default(), &library)
}

fn said(loaded: &Loaded) -> String {
    loaded.findings().iter().map(|finding| format!("{finding}\n")).collect()
}

/// One that passes its only source on to several sinks.
fn passing(sinks: usize) -> String {
    let sinks: String = (0..sinks).map(|i| format!("  out-{i}: {{ from: raw }}\n")).collect();
    format!(
        "millrace: v1alpha1\npipeline: passing\nversion: 0.1.0\nsources: [raw]\nsinks:\n{sinks}"
    )
}

/// A definition that calls `part.yaml` in a row, each call taking the outputs `out` of the one before.
fn row(calls: usize, out: &[&str]) -> String {
    let names = |call: String| -> String {
        let all = out.iter().map(|out| format!("{call}{out}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let mut steps = String::from("  call-0: { pipeline: part, from: machine }\n");
    for call in 1..calls {
        let from = names(format!("call-{}", call - 1));
        steps += &format!("  call-{call}: {{ pipeline: part, from: [{from}] }}\n");
    }
    let last = names(format!("call-{}", calls - 1));
    let (head, rest) = HALL.split_once("  clean:").unwrap();
    let (_, rest) = rest.split_once("sinks:\n").unwrap();
    let rest = rest.replace("from: strict", &format!("from: [{last}]"));
    format!("{head}{steps}sinks:\n{rest}")
        .replace("cleaning: { file: parts/cleaning.yaml", "part: { file: part.yaml")
}

#[test]
fn a_parameter_has_the_value_of_the_call_or_its_default() {
    let loaded = read(HALL, &[("parts/cleaning.yaml", CLEANING)]);
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let plan = loaded.plan().unwrap();
    let [stage] = plan.stages.as_slice() else { panic!("{plan:#?}") };
    let steps: Vec<_> = stage
        .steps
        .iter()
        .map(|step| {
            (
                step.name.as_str(),
                step.config["limit"].as_str(),
                step.component.as_deref().unwrap().to_str().unwrap(),
            )
        })
        .collect();
    // Not the 99 of its own binding.
    assert_eq!(
        steps,
        [("clean-hot", "80", "parts/hot.wasm"), ("strict-hot", "60", "parts/hotter.wasm")]
    );
    // The values of the caller stay its own.
    assert_eq!(loaded.parameters().count(), 0);
}

#[test]
fn a_finding_in_a_sub_pipeline_says_where_and_what_the_call_gave() {
    let sized = CLEANING
        .replace("limit: 80", "limit: 80, memory: 1MiB")
        .replace("config:", "memory: \"${memory}\", config:");
    let hall = HALL.replace("limit: 60", "limit: 60, memory: 1GiB");
    let loaded = read(&hall, &[("parts/cleaning.yaml", &sized)]);
    let said = said(&loaded);
    assert_eq!(loaded.findings().len(), 2, "{said}");
    assert!(
        said.contains("hall.yaml:8:23: error: the sub-pipeline `parts/cleaning.yaml` has 1 error"),
        "{said}"
    );
    assert!(said.contains("parts/cleaning.yaml:8:50: error: `memory` cannot be `1GiB` (`${memory}` is `1GiB`, given by the call)"), "{said}");
    assert!(loaded.plan().is_err());
}

#[test]
fn each_file_is_read_once() {
    let asked = RefCell::new(Vec::new());
    let library = |file: &Path| {
        asked.borrow_mut().push(file.to_owned());
        Ok(CLEANING.to_owned())
    };
    let document = Document { file: "hall.yaml", text: HALL };
    let loaded = load_with(document, None, &Options::default(), &library);
    assert!(!loaded.has_errors());
    assert_eq!(*asked.borrow(), [Path::new("parts/cleaning.yaml")]);
}

#[test]
fn without_files_there_are_no_sub_pipelines() {
    let loaded = load(Document { file: "hall.yaml", text: HALL }, None, &Options::default());
    let said = said(&loaded);
    assert_eq!(loaded.findings().len(), 1, "{said}");
    assert!(said.contains("parts/cleaning.yaml cannot be read here"), "{said}");
    assert!(loaded.plan().is_err() && loaded.desk_plan().is_err());
}

#[test]
fn at_the_desk_sources_and_sinks_need_no_binding() {
    let (graph, binding) = HALL.split_once("binding:").unwrap();
    let (_, pipelines) = binding.split_once("  pipelines:").unwrap();
    let loaded = read(
        &format!("{graph}binding:\n  pipelines:{pipelines}"),
        &[("parts/cleaning.yaml", CLEANING)],
    );
    let plan = loaded.clone().at_the_desk().desk_plan().unwrap();
    assert_eq!(plan.stages[0].steps.len(), 2);
    assert!(loaded.plan().is_err());
    // What has no binding at all cannot be run, and is no error by itself.
    let loaded = read(graph, &[]);
    assert!(!loaded.has_errors());
    assert!(loaded.plan().is_err() && loaded.desk_plan().is_err());
}

#[test]
fn a_binding_of_its_own_names_files_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("plant");
    fs::create_dir_all(place.join("parts")).unwrap();
    let (graph, binding) = HALL.split_once("binding:").unwrap();
    let (file, beside) = (folder.path().join("hall.yaml"), place.join("binding.yaml"));
    fs::write(&file, graph).unwrap();
    fs::write(&beside, format!("millrace: v1alpha1\nbinding:{binding}")).unwrap();
    let options = Options { check_files: true, ..Options::default() };
    let read = || load_files(&file, Some(&beside), &options).unwrap();

    let loaded = read();
    let at = loaded.findings()[0].location.clone().unwrap();
    assert_eq!((at.file.as_str(), loaded.findings().len()), (beside.to_str().unwrap(), 1));
    assert_eq!(loaded.findings()[0].rule, "file-missing");

    // The components of a sub-pipeline are from the folder of its file, and wanted as it says.
    let cleaning = place.join("parts/cleaning.yaml");
    fs::write(&cleaning, CLEANING).unwrap();
    let version = |name: &str, version: &str| {
        let component = with_component_version(EMPTY.to_vec(), &version.parse().unwrap());
        fs::write(place.join("parts").join(name), component).unwrap();
    };
    version("hot.wasm", "1.2.3");
    version("hotter.wasm", "2.0.0");
    let loaded = read();
    let wrong =
        loaded.findings().iter().find(|finding| finding.rule == "component-version").unwrap();
    assert_eq!(wrong.location.as_ref().unwrap().file, cleaning.to_str().unwrap());
    assert!(wrong.message.contains("is version 2.0.0, and 1 is wanted"), "{wrong}");

    version("hotter.wasm", "1.0.0");
    let loaded = read();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let plan = loaded.plan().unwrap();
    assert_eq!(plan.stages[0].steps[1].component, Some(place.join("parts/hotter.wasm")));
}

#[test]
fn tests_speak_of_the_steps_that_are_put_in() {
    let mut loaded = read(HALL, &[("parts/cleaning.yaml", CLEANING)]);
    let tests = "millrace: v1alpha1\ntests:\n  one:\n    inputs: { machine: [] }\n    rejected: { clean-hot: [{}] }\n";
    loaded.add_tests(Document { file: "tests.yaml", text: tests }, &Options::default());
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let tests = tests.replace("one:", "two:").replace("clean-hot", "clean-hut");
    loaded.add_tests(Document { file: "tests.yaml", text: &tests }, &Options::default());
    assert!(said(&loaded).contains("did you mean `clean-hot`?"), "{}", said(&loaded));
}

#[test]
fn a_lock_has_the_files_of_sub_pipelines() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("parts")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let outer = CLEANING
        .replace(
            "{ filter: above-limit, from: raw, config: { limit: \"${limit}\" } }",
            "{ pipeline: inner, from: raw }",
        )
        .replace("parameters: { limit: 80, file: hot }\n", "")
        .replace("  parameters: { limit: 99 }\n", "")
        .replace(
            "  components:\n    above-limit: { file: \"${file}.wasm\", version: \"1\" }",
            "  pipelines:\n    inner: { file: ./inner.yaml }",
        );
    let hall = HALL.replace(", parameters: { limit: 60, file: hotter }", "");
    write("hall.yaml", &hall);
    write("parts/cleaning.yaml", &outer);
    write("parts/inner.yaml", CLEANING);
    fs::write(
        folder.path().join("parts/hot.wasm"),
        with_component_version(EMPTY.to_vec(), &"1.0.0".parse().unwrap()),
    )
    .unwrap();
    let lock = || {
        let options = Options { check_files: true, ..Options::default() };
        let loaded = load_files(&folder.path().join("hall.yaml"), None, &options).unwrap();
        assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
        let harness = LockedHarness { version: "0.1.0".to_owned(), parts: BTreeMap::new() };
        loaded.lock(harness).unwrap().unwrap()
    };
    let first = lock();
    let names = |lock: &Lock| lock.pipelines.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&first), ["clean", "clean/hot", "strict", "strict/hot"]);
    assert_eq!(first.pipelines["clean/hot"].file, "./inner.yaml");
    let components: Vec<_> =
        first.components.iter().map(|(name, one)| (name.as_str(), one.file.as_str())).collect();
    assert_eq!(
        components,
        [("clean/hot/above-limit", "parts/hot.wasm"), ("strict/hot/above-limit", "parts/hot.wasm")]
    );
    let text = first.to_text();
    assert_eq!(Lock::parse(text.as_bytes()).unwrap(), first);
    let damaged = text.replacen(&first.pipelines["clean"].digest, "sha256:0", 1);
    assert!(Lock::parse(damaged.as_bytes()).unwrap_err().to_string().contains("`clean`"));

    write("parts/inner.yaml", &CLEANING.replace("limit: 80", "limit: 81"));
    let differences: Vec<String> =
        first.differences(&lock()).iter().map(ToString::to_string).collect();
    assert_eq!(differences.len(), 2, "{differences:?}");
    assert!(
        differences[0].starts_with("the sub-pipeline of `clean/hot` (./inner.yaml) is sha256:"),
        "{differences:?}"
    );
    write("parts/inner.yaml", CLEANING);

    write(
        "hall.yaml",
        &hall.replace(
            "strict: { pipeline: cleaning, from: clean }",
            "strict: { concatenate: {}, from: clean }",
        ),
    );
    let fewer = lock();
    let differences: Vec<String> =
        first.differences(&fewer).iter().map(ToString::to_string).collect();
    assert!(
        differences
            .contains(&"the lock has a sub-pipeline of `strict`, which calls none".to_owned()),
        "{differences:?}"
    );
    let differences: Vec<String> =
        fewer.differences(&first).iter().map(ToString::to_string).collect();
    assert!(
        differences.contains(
            &"the sub-pipeline of `strict` (parts/cleaning.yaml) is not in the lock".to_owned()
        ),
        "{differences:?}"
    );
    assert!(fewer.to_text().contains("\"pipelines\""));

    // The digest of the lock is the one that a binding may want.
    let wanted =
        format!("file: parts/cleaning.yaml, digest: \"{}\"", first.pipelines["clean"].digest);
    write("hall.yaml", &hall.replace("file: parts/cleaning.yaml", &wanted));
    assert_eq!(lock(), first);
}

#[test]
fn calls_steps_and_inputs_are_bounded() {
    let one = passing(1);
    let right = read(&row(100, &[""]), &[("part.yaml", &one)]);
    assert!(right.findings().is_empty(), "{}", right.render(false));
    assert_eq!(right.pipeline().unwrap().sinks["alerts"].from[0].name, "machine");
    let said_of = |loaded: &Loaded| {
        assert!(loaded.has_errors());
        said(loaded)
    };
    let many = said_of(&read(&row(101, &[""]), &[("part.yaml", &one)]));
    assert!(many.contains("more than 100 calls"), "{many}");

    // Each takes twice what the one before gives: without a bound that is two to the hundredth.
    let start = Instant::now();
    let doubled = said_of(&read(&row(100, &[".out-0", ".out-1"]), &[("part.yaml", &passing(2))]));
    assert!(doubled.contains("more than 20000 inputs"), "{doubled}");
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());

    let steps = |count: usize| {
        let steps: String = (0..count)
            .map(|i| {
                let from = if i == 0 { "raw".to_owned() } else { format!("s{}", i - 1) };
                format!("  s{i}: {{ concatenate: {{}}, from: {from} }}\n")
            })
            .collect();
        one.replace("sinks:", &format!("steps:\n{steps}sinks:"))
            .replace("{ from: raw }\n", &format!("{{ from: s{} }}\n", count - 1))
    };
    let fits = read(&row(5, &[""]), &[("part.yaml", &steps(100))]);
    assert!(fits.findings().is_empty(), "{}", fits.render(false));
    assert_eq!(
        fits.plan().unwrap().stages.iter().map(|stage| stage.steps.len()).sum::<usize>(),
        500
    );
    let over = said_of(&read(&row(3, &[""]), &[("part.yaml", &steps(167))]));
    assert!(over.contains("more than 500"), "{over}");

    let long = format!("{one}# {}\n", "x".repeat(500_000));
    let bytes = said_of(&read(&row(9, &[""]), &[("part.yaml", &long)]));
    assert!(bytes.contains("bytes of text"), "{bytes}");
}

/// A file that calls itself under ever other names ends too.
#[test]
fn what_calls_without_end_is_refused() {
    let calls = RefCell::new(0);
    let library = |_: &Path| {
        *calls.borrow_mut() += 1;
        let again = HALL.replace("parts/cleaning.yaml", &format!("other-{}.yaml", calls.borrow()));
        Ok(again.replace("strict: {", "more: { pipeline: cleaning, from: machine }\n  strict: {"))
    };
    let document = Document { file: "hall.yaml", text: HALL };
    let loaded = load_with(document, None, &Options::default(), &library);
    assert!(said(&loaded).contains("at most 4 deep"), "{}", said(&loaded));
    assert!(*calls.borrow() <= 100);
}
