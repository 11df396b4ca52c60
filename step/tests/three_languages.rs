//! The sample of three languages: built and tested as its README says, and the pages that show code show what is written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::path::Path;

use millrace_desk::{Runtime, run_test};
use millrace_step::{Language, Project, WIT, arbitrary, files, read_samples};
use support::{built, engine, root, trial};

const STEPS: [&str; 3] = ["above", "convert", "route"];

/// Copies what is not built.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name();
        let skipped = ["build", "target", "node_modules", ".venv", "__pycache__"];
        if skipped.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let to = to.join(&name);
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_pipeline_of_three_languages() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("samples/three-languages"), folder.path());
    for name in STEPS {
        let project = Project::read(&folder.path().join(name)).unwrap();
        let built = built(&project);
        let samples = read_samples(&project.samples()).unwrap();
        let trial = trial(&built.file, &project.settings);
        let findings = arbitrary(&trial, &samples, 1, 128).unwrap();
        assert!(findings.case.is_none(), "{name}: {:?}", findings.case);
    }
    let file = folder.path().join("pipeline.yaml");
    let options = millrace_pipeline::Options { check_files: true, ..Default::default() };
    let loaded = millrace_pipeline::load_files(&file, None, &options).unwrap();
    assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
    let runtime = Runtime::build(engine(), loaded.desk_plan().unwrap()).unwrap();
    assert_eq!(loaded.tests().len(), 2);
    for case in loaded.tests() {
        let report = run_test(&runtime, case);
        assert!(report.passed(), "{report:#?}");
    }
}

#[test]
fn the_contract_is_the_same_everywhere() {
    let mut names: Vec<String> = std::fs::read_dir(root().join("wit/step"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, WIT.map(|(name, _)| name), "a file of the contract is not embedded");
    for step in STEPS {
        for (name, text) in WIT {
            let copy = root().join("samples/three-languages").join(step).join("wit").join(name);
            assert_eq!(std::fs::read_to_string(&copy).unwrap(), text, "{}", copy.display());
        }
    }
}

/// A block of code is marked with what it is: `<!-- LANGUAGE KIND NAME FILE -->`, of a new project, or `<!-- PATH -->`.
#[test]
fn the_pages_show_what_is_written() {
    let page = std::fs::read_to_string(root().join("docs/languages.md")).unwrap();
    let mut shown = 0;
    for part in page.split("<!-- ").skip(1) {
        let (mark, rest) = part.split_once(" -->\n").unwrap();
        let block = rest.trim_start().strip_prefix("```").unwrap_or_else(|| panic!("{mark}"));
        let (_, code) = block.split_once('\n').unwrap();
        let (code, _) = code.split_once("\n```\n").unwrap();
        let words: Vec<&str> = mark.split(' ').collect();
        let expected = match words.as_slice() {
            [path] => std::fs::read_to_string(root().join(path)).unwrap(),
            [language, kind, name, file] => {
                let language: Language = language.parse().unwrap();
                let files = files(name, language, kind.parse().unwrap()).unwrap();
                let found = files.into_iter().find(|(path, _)| path == Path::new(file));
                found.unwrap_or_else(|| panic!("{mark}")).1
            }
            _ => panic!("{mark}"),
        };
        assert_eq!(code, expected.trim_end(), "{mark}");
        shown += 1;
    }
    assert!(shown >= 6, "{shown}");
}
