//! Definitions over the example components, and their tests run at the desk.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use millrace_desk::{Cache, Engine, Options, Report, Runtime, run_test};
use millrace_pipeline::{Document, Loaded, load};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One engine for all tests of a file: each reserves address space. Calls are short here, so that those without end are too.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let limit = Duration::from_secs(2);
        // What was compiled is kept for the next run.
        let cache = Cache::At(Path::new(env!("CARGO_TARGET_TMPDIR")).join("desk"));
        Engine::new(&Options { call_limit: limit, cache }).unwrap()
    })
}

pub const COMPONENTS: [&str; 15] = [
    "above-limit",
    "above-own-limit",
    "aggregate",
    "asks-around",
    "fahrenheit-to-celsius",
    "json-schema",
    "misbehaves",
    "on-off-control",
    "pass-accumulate",
    "pass-delay",
    "pass-filter",
    "pass-map",
    "reaches-out",
    "sort-by-time",
    "split-lines",
];

/// A whole definition of a graph and tests, with the components that it uses bound.
pub fn definition(graph: &str) -> String {
    let folder = root().join("build/components");
    let used = COMPONENTS.iter().filter(|name| graph.contains(&format!(": {name},")));
    let bound: String = used
        .map(|name| {
            let file = folder.join(name).with_extension("wasm");
            assert!(file.is_file(), "{}: run `make guests`", file.display());
            format!("    {name}: {{ file: \"{}\" }}\n", file.display())
        })
        .collect();
    let bound = if bound.is_empty() { " {}\n".to_owned() } else { format!("\n{bound}") };
    format!(
        "millrace: v1alpha1\npipeline: plant\nversion: 0.1.0\n{graph}\nbinding:\n  components:{bound}"
    )
}

pub fn loaded(graph: &str) -> Loaded {
    let text = definition(graph);
    let loaded = load(Document { file: "pipeline.yaml", text: &text }, None, &Default::default());
    let loaded = loaded.at_the_desk();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    loaded
}

pub fn runtime(loaded: &Loaded) -> Runtime {
    let plan = loaded.desk_plan().unwrap_or_else(|error| panic!("{error}"));
    Runtime::build(engine(), plan).unwrap_or_else(|error| panic!("{error}"))
}

/// Every test of a definition.
pub fn reports(graph: &str) -> Vec<Report> {
    let loaded = loaded(graph);
    let runtime = runtime(&loaded);
    loaded.tests().iter().map(|case| run_test(&runtime, case)).collect()
}

/// What its one test says, in lines; nothing when it passes.
pub fn said(graph: &str) -> String {
    let reports = reports(graph);
    let [report] = reports.as_slice() else { panic!("{} tests", reports.len()) };
    let lines = report.failures.iter().flat_map(|failure| failure.lines());
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// The same of a test over one step, written as the fields of the test.
pub fn of_step(step: &str, test: &str) -> String {
    said(&one_step(step, test))
}

pub fn one_step(step: &str, test: &str) -> String {
    let indented: String = test.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "sources: [machine]\nsteps:\n  only: {{ {step}, from: machine }}\nsinks:\n  result: {{ from: only }}\ntests:\n  it:\n{indented}"
    )
}
