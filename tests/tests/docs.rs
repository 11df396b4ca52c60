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

/// A dashboard asks for nothing that is not there: what is is on the page of metrics, which another test compares with what is served.
#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `millrace_"));
    let mut known = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        if cells[2] == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        } else {
            known.insert(name);
        }
    }
    assert!(known.len() > 30, "{known:?}");
    let text = std::fs::read_to_string(root().join("docs/grafana/millrace.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let asked: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(asked.len() > 15, "{asked:?}");
    for expression in asked {
        let names: Vec<&str> = expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("millrace_"))
            .collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(known.contains(name), "{name} of {expression} is not on the page");
        }
    }
    // No two panels in one place, and none beside the board.
    let mut places = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|at| panel["gridPos"][at].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(places.insert(place), "{} lies on another", panel["title"]);
        }
    }
}
