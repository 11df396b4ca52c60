//! The language, specified by examples: what each valid definition is planned
//! as, and every word said about each invalid one.
//!
//! `MILLRACE_BLESS=1 cargo test -p millrace-pipeline` writes the expected
//! files anew; read the difference before it is committed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use millrace_pipeline::{Document, LoadError, Loaded, Options, load, load_files, load_with};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn definitions(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(golden().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn blessing() -> bool {
    std::env::var_os("MILLRACE_BLESS").is_some()
}

/// Compares with the file of what is expected, or writes it.
fn expect_file(path: &Path, actual: &str, wrong: &mut Vec<String>) {
    if blessing() {
        fs::write(path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != actual {
        wrong.push(format!("{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display()));
    }
}

fn read(path: &Path, check_files: bool) -> Loaded {
    let text = fs::read_to_string(path).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    let folder = path.parent().unwrap();
    let library = |file: &Path| {
        let error = |source| LoadError::Read { path: file.to_owned(), source };
        fs::read_to_string(folder.join(file)).map_err(error)
    };
    if check_files {
        component();
    }
    let options = Options { check_files, ..Options::default() };
    load_with(Document { file, text: &text }, None, &options, &library)
}

#[test]
fn valid_definitions_have_their_plans() {
    let mut wrong = Vec::new();
    let files = definitions("valid");
    assert!(files.len() >= 10);
    for path in files {
        let loaded = read(&path, false);
        assert!(loaded.findings().is_empty(), "{}\n{}", path.display(), loaded.render(false));
        let plan = serde_json::to_string_pretty(&loaded.plan().unwrap()).unwrap() + "\n";
        expect_file(&path.with_extension("json"), &plan, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn plans_have_their_pictures() {
    let mut wrong = Vec::new();
    for name in ["branch", "fan-out", "long"] {
        let path = golden().join("valid").join(name).with_extension("yaml");
        let picture = millrace_pipeline::svg(&read(&path, false).plan().unwrap());
        expect_file(&path.with_extension("svg"), &picture, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plan_survives_json() {
    for path in definitions("valid") {
        let plan = read(&path, false).plan().unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        let back: millrace_pipeline::Plan = serde_json::from_str(&json).unwrap();
        assert_eq!(plan, back);
    }
}

/// A component that uses what it has to be granted, made before it is looked at. Files of components are from the folder in
/// which tests run.
fn component() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let imports = [
            "millrace:step/types@0.1.0",
            "wasi:clocks/wall-clock@0.2.0",
            "wasi:logging/logging@0.1.0-draft",
            "millrace:step/key-value@0.1.0",
        ];
        let imports = imports.map(|name| format!("(import \"{name}\" (instance))"));
        let bytes = wat::parse_str(format!("(component {})", imports.concat())).unwrap();
        let folder = Path::new("../build/golden");
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("uses-log-and-kv.wasm"), bytes).unwrap();
    });
}

fn looks_at_files(definition: &Path) -> bool {
    let name = definition.file_stem().unwrap().to_string_lossy();
    name.contains("file-missing") || name.ends_with("-of-file")
}

#[test]
fn invalid_definitions_have_their_findings() {
    let mut wrong = Vec::new();
    let files = definitions("invalid");
    assert!(files.len() >= 30);
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let loaded = read(&path, looks_at_files(&path));
        assert!(!loaded.findings().is_empty(), "{name} has no findings");
        expect_file(&path.with_extension("txt"), &loaded.render(false), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_has_errors_has_no_plan() {
    for path in definitions("invalid") {
        let loaded = read(&path, looks_at_files(&path));
        let unbound = loaded.pipeline().is_some_and(|pipeline| pipeline.binding.is_none());
        assert_eq!(loaded.plan().is_err(), loaded.has_errors() || unbound, "{}", path.display());
    }
}

#[test]
fn every_finding_has_its_place_and_rule() {
    for path in definitions("invalid") {
        for finding in read(&path, false).findings() {
            let at = finding.location.as_ref().expect("a place");
            // Of the definition itself, or of a sub-pipeline.
            let text = fs::read_to_string(path.with_file_name(&at.file)).unwrap();
            assert!(at.line >= 1 && at.column >= 1, "{finding}");
            assert!(at.line <= text.lines().count().max(1) + 1, "{finding}");
            assert!((at.end_line, at.end_column) >= (at.line, at.column), "{finding}");
            assert!(!finding.rule.is_empty() && !finding.message.is_empty());
        }
    }
}

#[test]
fn passwords_are_not_repeated() {
    let loaded = read(&golden().join("invalid/mqtt-url-password.yaml"), false);
    assert!(loaded.has_errors());
    assert!(!loaded.render(false).contains("s3cret"));
    assert!(!serde_json::to_string(loaded.findings()).unwrap().contains("s3cret"));
}

#[test]
fn a_binding_may_have_a_file_of_its_own() {
    let mut wrong = Vec::new();
    let graph = fs::read_to_string(golden().join("binding/pipeline.yaml")).unwrap();
    for path in definitions("binding") {
        let file = path.file_name().unwrap().to_str().unwrap();
        if file == "pipeline.yaml" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let beside = Document { file, text: &text };
        let loaded = load(
            Document { file: "pipeline.yaml", text: &graph },
            Some(beside),
            &Options::default(),
        );
        if file == "good.yaml" {
            assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
            assert_eq!(loaded.plan().unwrap().stages.len(), 1);
        } else {
            assert!(loaded.has_errors(), "{file}");
            expect_file(&path.with_extension("txt"), &loaded.render(false), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn components_are_found_from_the_file_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("here");
    fs::create_dir(&here).unwrap();
    fs::copy(golden().join("binding/pipeline.yaml"), folder.path().join("pipeline.yaml")).unwrap();
    fs::copy(golden().join("binding/good.yaml"), here.join("binding.yaml")).unwrap();
    let load = || {
        let (graph, binding) = (folder.path().join("pipeline.yaml"), here.join("binding.yaml"));
        load_files(&graph, Some(&binding), &Options { check_files: true, ..Options::default() })
            .unwrap()
    };
    let missing = load();
    assert_eq!(missing.findings().len(), 2, "{}", missing.render(false));
    assert!(missing.findings().iter().all(|finding| finding.rule == "file-missing"));

    fs::write(here.join("to-celsius.wasm"), "").unwrap();
    fs::write(here.join("above-limit.wasm"), "").unwrap();
    let plan = load().plan().unwrap();
    assert_eq!(plan.stages[0].steps[0].component, Some(here.join("to-celsius.wasm")));
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default();
    let missing = load_files(&folder.path().join("no.yaml"), None, &options).unwrap_err();
    assert!(missing.to_string().contains("no.yaml"), "{missing}");

    let binary = folder.path().join("binary.yaml");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load_files(&binary, None, &options).unwrap_err().to_string().contains("UTF-8"));

    let long = folder.path().join("long.yaml");
    fs::write(&long, "a: ä\n".repeat(400_000)).unwrap();
    let loaded = load_files(&long, None, &options).unwrap();
    assert!(loaded.findings()[0].message.contains("at most"), "{}", loaded.findings()[0]);
}

#[test]
fn the_samples_are_right() {
    let sample =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/temperature-alerts/pipeline.yaml");
    let loaded = load_files(&sample, None, &Options::default()).unwrap();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let plan = loaded.plan().unwrap();
    assert_eq!(
        plan.stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>(),
        ["celsius", "too-hot"]
    );
    assert_eq!(plan.edges.len(), 1);
}
