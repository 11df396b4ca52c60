//! The delivery specification names its proofs, and each of them is a test that exists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of the functions in Rust files below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["build", "target", ".git"].contains(&name.as_str()) {
                functions(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for after in text.split("fn ").skip(1) {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                found.insert(after[..end.unwrap_or(after.len())].to_owned());
            }
        }
    }
}

/// The numbered sentences of a page, each with its lines joined.
fn sentences(page: &str) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        let number = line.split_once(". ").and_then(|(number, _)| number.parse::<usize>().ok());
        if number.is_some() {
            sentences.push(line.to_owned());
            inside = true;
        } else if inside && line.starts_with("  ") {
            let last = sentences.last_mut().unwrap();
            last.push(' ');
            last.push_str(line.trim());
        } else {
            inside = false;
        }
    }
    sentences
}

#[test]
fn every_promise_of_delivery_has_a_test() {
    let page = std::fs::read_to_string(root().join("docs/delivery.md")).unwrap();
    let mut known = BTreeSet::new();
    functions(&root(), &mut known);
    let sentences = sentences(&page);
    assert!(sentences.len() > 20, "{sentences:?}");
    for (place, sentence) in sentences.iter().enumerate() {
        let (number, _) = sentence.split_once(". ").unwrap();
        assert_eq!(number, (place + 1).to_string(), "numbered in a row: {sentence}");
        let (_, proofs) =
            sentence.rsplit_once('(').unwrap_or_else(|| panic!("no test: {sentence}"));
        let names: Vec<&str> = proofs.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {sentence}");
        for name in names {
            assert!(known.contains(name), "no test is called {name}: {sentence}");
        }
    }
}
