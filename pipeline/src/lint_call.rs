//! Checks of what a definition says of the sub-pipelines that it calls, before their steps are put in: they have the sources
//! that are given something, and the sinks that something is taken from.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Issue;
use crate::lint::{Checks, all_inputs, name_syntax};
use crate::locate::{Part, Path, quoted};
use crate::model::{Input, Pipeline};
use crate::read::{guess, list};

/// What a caller sees of a sub-pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Outline {
    /// Its file, as findings show it.
    pub(crate) file: String,
    /// The names of its sources, in order.
    pub(crate) sources: Vec<String>,
    /// The names of its sinks, in order.
    pub(crate) sinks: Vec<String>,
}

/// What is known, by the names of the steps that call. One that could not be read is not there.
pub(crate) type Outlines = BTreeMap<String, Outline>;

fn names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Each call gives every source of its sub-pipeline something, and nothing else.
pub(crate) fn issues(pipeline: &Pipeline, checks: &Checks<'_>) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, call) in &pipeline.calls {
        let path = Path::of(["steps", name]);
        if checks.expanded {
            let message = format!("the steps of {} are not in their place", quoted(&call.pipeline));
            let issue = Issue::error("sub-pipeline", path, Part::Key, message);
            issues.push(issue.mend("read the definition from its file: that puts them in"));
            continue;
        }
        match call.pipeline.as_str() {
            "" => {
                let issue = Issue::error(
                    "missing-field",
                    path.key("pipeline"),
                    Part::Value,
                    "`pipeline` names no pipeline",
                );
                issues.push(issue.mend("add a name, and its file to `binding.pipelines`"));
            }
            other => issues.extend(name_syntax(other, path.key("pipeline"), Part::Value)),
        }
        if let Some(outline) = checks.calls.get(name) {
            match call.inputs.is_empty() {
                true => issues.extend(only_source(outline, !call.from.is_empty(), &path)),
                false => issues.extend(sources(outline, &call.inputs, &path)),
            }
        }
    }
    issues
}

/// `from` is for a sub-pipeline with one source.
fn only_source(outline: &Outline, from: bool, path: &Path) -> Option<Issue> {
    if outline.sources.len() < 2 || !from {
        return None;
    }
    let all = names(&outline.sources);
    let message = format!("{} has the sources {}, and `from` is for one", outline.file, list(&all));
    let each: Vec<String> = all.iter().map(|name| format!("{name}: ...")).collect();
    let issue = Issue::error("sub-pipeline-input", path.key("from"), Part::Key, message);
    Some(issue.mend(format!("write `inputs: {{ {} }}` in its place", each.join(", "))))
}

/// `inputs` has the names of the sources.
fn sources(outline: &Outline, inputs: &BTreeMap<String, Vec<Input>>, path: &Path) -> Vec<Issue> {
    let known = names(&outline.sources);
    let path = path.key("inputs");
    let mut issues = Vec::new();
    let mut meant = BTreeSet::new();
    for name in inputs.keys().filter(|name| !known.contains(&name.as_str())) {
        let open = known.iter().copied().filter(|source| !inputs.contains_key(*source));
        let close = guess(name, open);
        meant.extend(close);
        let message = format!("{} has no source {}", outline.file, quoted(name));
        let issue = Issue::error("sub-pipeline-input", path.key(name), Part::Key, message);
        issues.push(issue.mend(match close {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("it has {}", list(&known)),
        }));
    }
    for source in known.iter().filter(|name| !inputs.contains_key(**name)) {
        if meant.contains(source) {
            continue;
        }
        let message = format!("the source {} of {} is given nothing", quoted(source), outline.file);
        let issue = Issue::error("sub-pipeline-input", path.key(source), Part::Missing, message);
        issues.push(issue.mend(format!("add `{source}: ` and the name of a source or step")));
    }
    issues
}

/// What is taken from a sub-pipeline is taken from one of its sinks.
pub(crate) fn wrong_output(outline: Option<&Outline>, input: &Input, path: Path) -> Option<Issue> {
    let Outline { file, sinks, .. } = outline?;
    let sinks = names(sinks);
    let name = input.node();
    let of = |sink: &str| format!("{name}.{sink}");
    let first = of(sinks.first()?);
    let (message, mend) = match input.arm() {
        Some(sink) if sinks.contains(&sink) => return None,
        None if sinks.len() == 1 => return None,
        Some(sink) => {
            let mend = guess(sink, sinks.iter().copied()).map_or_else(
                || format!("it has {}", list(&sinks)),
                |meant| format!("did you mean `{}`?", of(meant)),
            );
            (format!("{file} has no sink {}", quoted(sink)), mend)
        }
        None => (
            format!("{file} has several sinks: what comes to one is taken by its name"),
            format!("write `{first}`, or a list of those wanted; it has {}", list(&sinks)),
        ),
    };
    Some(Issue::error("unknown-arm", path, Part::Value, message).mend(mend))
}

/// What comes to the sinks of a sub-pipeline is taken. The ones in `meant` are taken under a wrong name.
pub(crate) fn ends(pipeline: &Pipeline, outlines: &Outlines, meant: &BTreeSet<&str>) -> Vec<Issue> {
    let inputs = || all_inputs(pipeline).flat_map(|(_, from, _)| from);
    let nodes: BTreeSet<&str> = inputs().map(Input::node).collect();
    let taken: BTreeSet<&str> = inputs().map(|input| input.name.as_str()).collect();
    let mut issues = Vec::new();
    for name in pipeline.calls.keys().filter(|name| !meant.contains(name.as_str())) {
        let path = Path::of(["steps", name]);
        let sinks = outlines.get(name).map(|outline| names(&outline.sinks)).unwrap_or_default();
        if !nodes.contains(name.as_str()) {
            let message = format!("what the sub-pipeline {} makes goes nowhere", quoted(name));
            let from = match sinks.as_slice() {
                [first, _, ..] => format!("{name}.{first}"),
                _ => name.clone(),
            };
            let issue = Issue::error("dead-end", path, Part::Key, message);
            issues.push(issue.mend(format!("add `from: {from}` to a step or sink, or remove it")));
            continue;
        }
        // One that takes from it without naming a sink, or under a wrong name, was told that already.
        let right = |input: &&Input| {
            input.node() != name || input.arm().is_some_and(|sink| sinks.contains(&sink))
        };
        if sinks.len() < 2 || !inputs().all(|input| right(&input)) {
            continue;
        }
        for sink in sinks {
            let from = format!("{name}.{sink}");
            if taken.contains(from.as_str()) {
                continue;
            }
            let message = format!(
                "nothing takes what comes to the sink {} of the sub-pipeline {}",
                quoted(sink),
                quoted(name)
            );
            let issue = Issue::error("dead-end", path.clone(), Part::Key, message);
            let mend = format!(
                "add `from: {from}` to a step or sink; what is not wanted is dropped by a filter"
            );
            issues.push(issue.mend(mend));
        }
    }
    issues
}
