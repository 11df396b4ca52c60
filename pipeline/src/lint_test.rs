//! Checks of the tests of a model: the names they use, and the parts of
//! payloads they speak of.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use crate::finding::Issue;
use crate::lint::name_syntax;
use crate::locate::{Part, Path, quoted};
use crate::model::Pipeline;
use crate::read::{guess, list};
use crate::test::{Payload, Test, payload_path};

/// Everything wrong with tests. `graph` says whether every name of the
/// pipeline is known; `files` is the folder in which files should be, if that
/// is to be looked at.
pub(crate) fn issues(
    pipeline: &Pipeline,
    tests: &BTreeMap<String, Test>,
    graph: bool,
    files: Option<&FilePath>,
) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, test) in tests {
        let path = Path::of(["tests", name]);
        issues.extend(name_syntax(name, path.clone(), Part::Key));
        if graph {
            issues.extend(names(pipeline, test, &path));
        }
        issues.extend(paths(test, &path));
        if let Some(folder) = files {
            issues.extend(missing_files(test, folder, &path));
        }
    }
    issues
}

/// Inputs are those of sources, outputs those of sinks, and steps reject.
fn names(pipeline: &Pipeline, test: &Test, path: &Path) -> Vec<Issue> {
    let kinds = [
        ("source", keys(&pipeline.sources)),
        ("sink", keys(&pipeline.sinks)),
        ("step", keys(&pipeline.steps)),
    ];
    let used = [
        ("inputs", "source", keys(&test.inputs)),
        ("outputs", "sink", keys(&test.outputs)),
        ("rejected", "step", keys(&test.rejected)),
    ];
    let mut issues = Vec::new();
    for (field, wanted, names) in used {
        let known = kinds.iter().find(|(kind, _)| *kind == wanted).map(|(_, known)| known);
        let known = known.map(Vec::as_slice).unwrap_or_default();
        for name in names.into_iter().filter(|name| !known.contains(name)) {
            let other = kinds.iter().find(|(_, others)| others.contains(&name));
            let message = match other {
                Some((other, _)) => format!("{} is a {other}, not a {wanted}", quoted(name)),
                None => format!("there is no {wanted} called {}", quoted(name)),
            };
            let mend = match guess(name, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => match known {
                    [] => format!("the pipeline has no {wanted}"),
                    [only] => format!("the pipeline has one {wanted}: `{only}`"),
                    several => format!("the pipeline has the {wanted}s {}", list(several)),
                },
            };
            let path = path.key(field).key(name);
            issues.push(Issue::error("unknown-name", path, Part::Key, message).mend(mend));
        }
    }
    issues
}

fn keys<T>(map: &BTreeMap<String, T>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

/// `ignore` and `select` name parts of payloads.
fn paths(test: &Test, path: &Path) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (field, texts) in [("ignore", &test.ignore), ("select", &test.select)] {
        for (index, text) in texts.iter().enumerate() {
            if payload_path(text).is_none() {
                let message = format!("{} is no part of a payload", quoted(text));
                let at = path.key(field).index(index);
                let mend = "write the way to it with dots, such as `payload.at` or \
                            `payload.readings.*.at`; other fields are compared where they are given";
                issues.push(Issue::error("setting", at, Part::Value, message).mend(mend));
            }
        }
    }
    issues
}

/// A warning only: a definition is deployed without the files of its tests.
fn missing_files(test: &Test, folder: &FilePath, path: &Path) -> Vec<Issue> {
    let inputs = test.inputs.iter().map(|(name, all)| ("inputs", name, all.iter().collect()));
    let outputs = test.outputs.iter().map(|(name, all)| ("outputs", name, all.iter().collect()));
    let rejected = test.rejected.iter().map(|(name, all)| {
        ("rejected", name, all.iter().map(|one| &one.message).collect::<Vec<_>>())
    });
    let mut issues = Vec::new();
    for (field, name, messages) in inputs.chain(outputs).chain(rejected) {
        for (index, message) in messages.into_iter().enumerate() {
            let Some(Payload::File(file)) = &message.payload else { continue };
            let file = folder.join(file);
            if !file.is_file() {
                let text = format!("there is no file {}", quoted(&file.to_string_lossy()));
                let at = path.key(field).key(name).index(index).key("file");
                let mend = "correct the path: it is from the folder of this file";
                issues.push(Issue::warning("file-missing", at, Part::Value, text).mend(mend));
            }
        }
    }
    issues
}
