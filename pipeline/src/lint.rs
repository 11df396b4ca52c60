//! Checks of a model as a whole: names, graph, settings.
//!
//! What cannot even be read is found in `read`; everything here holds for a
//! model from anywhere. Each rule is a function, and [`issues`] is the list of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;

use millrace_grants::{Authority, Grant, UnknownGrant};
use millrace_settings::flat::{FieldError, FieldErrorKind};
use millrace_settings::registry::{self, Connector, Kind as SettingsKind};
use millrace_settings::window::PARTITIONS_DEFAULT;
use millrace_settings::{from_flat, http};

use crate::component;
use crate::finding::{Finding, Issue};
use crate::lint_call::{self, Outlines};
use crate::lint_grant;
use crate::lint_test;
use crate::locate::{Part, Path, quoted};
use crate::model::{Binding, Input, Kind, LABEL_MAX, Pipeline, Step, VERSION, is_label};
use crate::read::{ISSUES_MAX, guess, list};

/// Longest name, in characters: names become parts of NATS subjects, streams
/// and the names of deployed components.
pub(crate) const NAME_MAX: usize = 40;

/// Most names compared in looking for those that unknown ones meant.
const COMPARISONS_MAX: usize = 200_000;

/// What to check.
pub(crate) struct Checks<'a> {
    /// The folder in which components' files must be, if they must be.
    pub(crate) files: Option<&'a FilePath>,
    /// The folder in which files of the tests must be, if they must be.
    pub(crate) test_files: Option<&'a FilePath>,
    /// Whether every name of the graph could be read.
    pub(crate) graph: bool,
    /// Whether every input could be read.
    pub(crate) inputs: bool,
    /// Whether every name of the binding could be read.
    pub(crate) binding: bool,
    /// What is known of the sub-pipelines that are called.
    pub(crate) calls: &'a Outlines,
    /// Whether sub-pipelines are in their places already.
    pub(crate) expanded: bool,
}

impl Checks<'_> {
    /// Of a model that is complete: everything but files.
    pub(crate) const fn all(calls: &Outlines) -> Checks<'_> {
        Checks {
            files: None,
            test_files: None,
            graph: true,
            inputs: true,
            binding: true,
            calls,
            expanded: true,
        }
    }
}

/// Checks a model that did not come from a text. [`crate::load`] does the same
/// with places.
#[must_use]
pub fn lint(pipeline: &Pipeline) -> Vec<Finding> {
    let calls = Outlines::new();
    issues(pipeline, &Checks::all(&calls)).into_iter().map(Issue::unplaced).collect()
}

/// Everything wrong with a model.
pub(crate) fn issues(pipeline: &Pipeline, checks: &Checks<'_>) -> Vec<Issue> {
    let mut issues = Vec::new();
    issues.extend(language_version(&pipeline.millrace));
    issues.extend(versions(pipeline));
    issues.extend(names(pipeline, checks.expanded));
    issues.extend(steps(pipeline));
    issues.extend(lint_call::issues(pipeline, checks));
    issues.extend(inputs(pipeline));
    issues.extend(rollout(pipeline));
    if checks.graph {
        let (unknown, meant) = unknown_inputs(pipeline, checks.calls);
        issues.extend(unknown);
        issues.extend(sections(pipeline));
        if checks.inputs {
            issues.extend(ends(pipeline, &meant));
            issues.extend(lint_call::ends(pipeline, checks.calls, &meant));
        }
        issues.extend(cycles(pipeline));
        if checks.binding {
            issues.extend(bound(pipeline));
        }
    }
    if let Some(binding) = &pipeline.binding {
        issues.extend(settings(binding));
        // Before sub-pipelines are in their places nobody knows what their steps are granted.
        let all = checks.expanded || pipeline.calls.is_empty();
        issues.extend(servers(pipeline, binding, all));
        issues.extend(placement(binding));
        issues.extend(clients(pipeline, binding));
        if all && checks.graph {
            issues.extend(lint_grant::of_sinks(pipeline, binding));
        }
        issues.extend(files(binding, checks.files));
        issues.extend(component::issues(binding, checks.files));
        if let Some(folder) = checks.files {
            issues.extend(lint_grant::issues(pipeline, binding, folder));
        }
    }
    issues.extend(lint_test::issues(pipeline, &pipeline.tests, checks.graph, checks.test_files));
    issues.truncate(ISSUES_MAX);
    issues
}

pub(crate) fn language_version(version: &str) -> Option<Issue> {
    let path = Path::of(["millrace"]);
    (version != VERSION).then(|| {
        let message =
            format!("this reads version `{VERSION}` of the language, not {}", quoted(version));
        Issue::error("version", path, Part::Value, message)
            .mend(format!("write `millrace: {VERSION}`"))
    })
}

fn versions(pipeline: &Pipeline) -> Option<Issue> {
    let why = semver::Version::parse(&pipeline.version).err()?;
    let message = format!("{} is not a semantic version: {why}", quoted(&pipeline.version));
    let issue = Issue::error("version", Path::of(["version"]), Part::Value, message);
    Some(issue.mend("write three numbers, such as `version: 0.1.0`"))
}

/// Every name with what it names and where it stands.
fn all_names(pipeline: &Pipeline) -> impl Iterator<Item = (&'static str, &str, Path)> {
    fn section<'a, T>(
        what: &'static str,
        key: &'static str,
        names: &'a BTreeMap<String, T>,
    ) -> impl Iterator<Item = (&'static str, &'a str, Path)> {
        names.keys().map(move |name| (what, name.as_str(), Path::of([key, name])))
    }
    section("source", "sources", &pipeline.sources)
        .chain(section("step", "steps", &pipeline.steps))
        .chain(section("step", "steps", &pipeline.calls))
        .chain(section("sink", "sinks", &pipeline.sinks))
}

/// Names are well formed, and mean one thing. A component of a sub-pipeline that is in its place already is called after it.
fn names(pipeline: &Pipeline, expanded: bool) -> Vec<Issue> {
    let mut issues = Vec::new();
    issues.extend(name_syntax(&pipeline.pipeline, Path::of(["pipeline"]), Part::Value));
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (what, name, path) in all_names(pipeline) {
        issues.extend(name_syntax(name, path.clone(), Part::Key));
        if let Some(first) = seen.insert(name, what) {
            let message = format!("{} is the name of a {first} and of a {what}", quoted(name));
            let issue = Issue::error("duplicate", path, Part::Key, message);
            issues.push(issue.mend("give one of them another name: `from` could mean either"));
        }
    }
    for (name, step) in &pipeline.steps {
        let path = Path::of(["steps", name, step.kind.as_str()]);
        if step.kind.settings().is_some() {
            continue;
        }
        if step.component.is_empty() {
            let message = format!("`{}` names no component", step.kind);
            issues.push(
                Issue::error("missing-field", path, Part::Value, message)
                    .mend("add the component's name"),
            );
        } else if expanded {
            let mut parts = step.component.split('/');
            issues.extend(parts.find_map(|part| name_syntax(part, path.clone(), Part::Value)));
        } else {
            issues.extend(name_syntax(&step.component, path, Part::Value));
        }
    }
    issues
}

pub(crate) fn name_syntax(name: &str, path: Path, part: Part) -> Option<Issue> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first && rest && name.len() <= NAME_MAX {
        return None;
    }
    let message = format!("{} cannot be a name", quoted(name));
    let rule =
        format!("lower-case letters, digits and hyphens, a letter first, at most {NAME_MAX}");
    let mend = match suggested_name(name) {
        Some(better) => format!("a name has {rule}: `{better}`"),
        None => format!("a name has {rule}"),
    };
    Some(Issue::error("name-syntax", path, part, message).mend(mend))
}

/// The nearest right name, if there is an obvious one.
fn suggested_name(name: &str) -> Option<String> {
    let mut better = String::new();
    for c in name.chars().take(NAME_MAX) {
        match c {
            'A'..='Z' => better.push(c.to_ascii_lowercase()),
            'a'..='z' | '0'..='9' | '-' => better.push(c),
            '_' | ' ' | '.' | '/' => better.push('-'),
            _ => return None,
        }
    }
    better.starts_with(|c: char| c.is_ascii_lowercase()).then_some(better)
}

/// Arms, windows and grants that exist.
fn steps(pipeline: &Pipeline) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, step) in &pipeline.steps {
        let path = Path::of(["steps", name]);
        issues.extend(arms(step, &path));
        issues.extend(window(step, &path));
        issues.extend(state(step, &path));
        issues.extend(without_component(step, &path));
        let mut seen = BTreeSet::new();
        for (index, grant) in step.grants.iter().enumerate() {
            issues.extend(check_grant(grant, path.key("grants").index(index), seen.insert(grant)));
        }
    }
    issues
}

/// A branch has arms, each once, and nothing else has.
fn arms(step: &Step, path: &Path) -> Vec<Issue> {
    let at = path.key("arms");
    if step.kind != Kind::Branch {
        if step.arms.is_empty() {
            return Vec::new();
        }
        let message = format!("a `{}` has no arms", step.kind);
        let issue = Issue::error("arms", at, Part::Key, message);
        return vec![issue.mend("remove them, or make it a `branch`")];
    }
    if step.arms.is_empty() {
        let issue = Issue::error("arms", at, Part::Missing, "the branch has no arms");
        return vec![issue.mend("add `arms: [` and the names that its component gives `]`")];
    }
    let mut issues = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, arm) in step.arms.iter().enumerate() {
        let at = at.index(index);
        issues.extend(name_syntax(arm, at.clone(), Part::Value));
        if !seen.insert(arm) {
            let message = format!("the arm {} is named twice", quoted(arm));
            issues.push(Issue::error("duplicate", at, Part::Value, message).mend("name it once"));
        }
    }
    issues
}

/// A step with state has a window and takes messages from one; nothing else has a window.
fn window(step: &Step, path: &Path) -> Vec<Issue> {
    let at = path.key("window");
    if !step.kind.has_windows() {
        if step.window.is_empty() {
            return Vec::new();
        }
        let message = format!("a `{}` has no window", step.kind);
        let issue = Issue::error("window", at, Part::Key, message);
        return vec![issue.mend("remove it, or make it an `accumulate`")];
    }
    let mut issues = Vec::new();
    if step.window.is_empty() {
        let message = format!("the `{}` has no window", step.kind);
        let issue = Issue::error("window", at, Part::Missing, message);
        issues.push(
            issue.mend("add `window: { tumbling: 10s }`, or one of hopping, session and count"),
        );
    } else {
        let kind = &registry::WINDOW;
        issues.extend(check_settings(kind, &step.window, &at, (kind.fields)()));
    }
    issues
}

/// The state of a step has one writer.
fn state(step: &Step, path: &Path) -> Option<Issue> {
    if !step.kind.has_state() || step.from.len() < 2 {
        return None;
    }
    let message =
        format!("{} write the state of this step, which can have one writer", step.from.len());
    let issue = Issue::error("two-writers", path.key("from"), Part::Key, message);
    Some(issue.mend(
        "put a step before it that takes from all of them, such as a `concatenate: {}`, and take from that",
    ))
}

/// A step that needs no component has settings, and nothing that is for a component.
fn without_component(step: &Step, path: &Path) -> Vec<Issue> {
    let Some(kind) = step.kind.settings() else { return Vec::new() };
    let at = path.key(step.kind.as_str());
    let mut issues = check_settings(kind, &step.settings, &at, (kind.fields)());
    for (field, there) in [
        ("config", !step.config.is_empty()),
        ("grants", !step.grants.is_empty()),
        ("memory", step.memory.is_some()),
    ] {
        if there {
            let message = format!("`{}` runs no component, and has no `{field}`", step.kind);
            let issue = Issue::error("no-component", path.key(field), Part::Key, message);
            issues.push(issue.mend("remove it"));
        }
    }
    issues
}

fn check_grant(grant: &str, path: Path, first: bool) -> Option<Issue> {
    let (message, mend) = match grant.parse::<Grant>() {
        Ok(_) => {
            return (!first).then(|| {
                Issue::warning("duplicate", path, Part::Value, "granted already").mend("remove it")
            });
        }
        Err(UnknownGrant::NoSuch(_)) => {
            let words = ["clocks", "random", "log", "config"];
            let mend = match guess(grant, words) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    let forms = list(&Grant::FORMS);
                    format!("one can grant {forms}; files and sockets are never granted")
                }
            };
            (format!("there is nothing called {} to grant", quoted(grant)), mend)
        }
        Err(error) => (format!("{} is no grant", quoted(grant)), error.mend()),
    };
    Some(Issue::error("unknown-grant", path, Part::Value, message).mend(mend))
}

/// Every step and sink with its inputs and the path of its `from`. A sub-pipeline is there for each of its sources that
/// are named.
pub(crate) fn all_inputs(pipeline: &Pipeline) -> impl Iterator<Item = (&str, &[Input], Path)> {
    let steps =
        pipeline.steps.iter().map(|(name, step)| (name.as_str(), step.from.as_slice(), "steps"));
    let sinks =
        pipeline.sinks.iter().map(|(name, sink)| (name.as_str(), sink.from.as_slice(), "sinks"));
    let own = steps
        .chain(sinks)
        .map(|(name, from, section)| (name, from, Path::of([section, name, "from"])));
    own.chain(pipeline.calls.iter().flat_map(|(name, call)| {
        let path = Path::of(["steps", name]);
        let from = call.inputs.is_empty().then(|| (call.from.as_slice(), path.key("from")));
        let named = call.inputs.iter().map(move |(source, from)| {
            (from.as_slice(), Path::of(["steps", name, "inputs", source]))
        });
        from.into_iter().chain(named).map(move |(from, path)| (name.as_str(), from, path))
    }))
}

/// Inputs are there, each once, with right settings.
fn inputs(pipeline: &Pipeline) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, from, path) in all_inputs(pipeline) {
        let has_state = pipeline.steps.get(name).is_some_and(|step| step.kind.has_state());
        if from.is_empty() {
            let message = format!("{} takes messages from nothing", quoted(name));
            issues.push(
                Issue::error("missing-field", path.clone(), Part::Missing, message)
                    .mend("add `from`"),
            );
        }
        let mut seen = BTreeSet::new();
        for (index, input) in from.iter().enumerate() {
            let path = path.index(index);
            if !seen.insert(input.name.as_str()) {
                let message =
                    format!("{} takes messages from {} already", quoted(name), quoted(&input.name));
                let issue = Issue::error("duplicate", path.key("name"), Part::Value, message);
                issues.push(issue.mend("name it once"));
            }
            if let Some(durable) = &input.durable {
                let at = path.key("durable");
                let names: Vec<&str> = (registry::EDGE.fields)()
                    .iter()
                    .copied()
                    .chain(std::iter::once("delivery"))
                    .collect();
                let mut settings = durable.settings.clone();
                if has_state {
                    partitioned(&mut settings);
                }
                issues.extend(check_settings(&registry::EDGE, &settings, &at, &names));
                issues.extend(check_delivery(&durable.delivery, &at));
            }
        }
    }
    issues
}

/// The edge before a step with state has partitions by key: each has its own state.
pub(crate) fn partitioned(settings: &mut BTreeMap<String, String>) {
    settings.entry("partitions".to_owned()).or_insert_with(|| PARTITIONS_DEFAULT.to_string());
}

/// Inputs name sources and steps. Gives also the names that unknown ones seem
/// to have meant.
fn unknown_inputs<'a>(
    pipeline: &'a Pipeline,
    outlines: &Outlines,
) -> (Vec<Issue>, BTreeSet<&'a str>) {
    let known = || {
        let steps = pipeline.steps.keys().chain(pipeline.calls.keys());
        pipeline.sources.keys().chain(steps).map(String::as_str)
    };
    let mut issues = Vec::new();
    let mut all_meant = BTreeSet::new();
    for (taker, from, path) in all_inputs(pipeline) {
        for (index, input) in from.iter().enumerate() {
            let name = input.node();
            let step = pipeline.steps.get(name);
            let path = path.index(index).key("name");
            if step.is_some() || pipeline.sources.contains_key(name) {
                issues.extend(wrong_arm(step, input, path));
                continue;
            }
            if pipeline.calls.contains_key(name) {
                issues.extend(lint_call::wrong_output(outlines.get(name), input, path));
                continue;
            }
            let issue = if pipeline.sinks.contains_key(name) {
                let message = format!("{} is a sink: nothing comes out of it", quoted(name));
                Issue::error("unknown-name", path, Part::Value, message)
                    .mend("take the messages from the step before it")
            } else {
                let others = known().filter(|other| *other != taker);
                let compared = issues.len().saturating_mul(pipeline.steps.len());
                let meant = if compared < COMPARISONS_MAX { guess(name, others) } else { None };
                all_meant.extend(meant);
                let message = format!("there is no source or step called {}", quoted(name));
                Issue::error("unknown-name", path, Part::Value, message).mend(match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "add it to `sources` or `steps`, or name one that is there".to_owned(),
                })
            };
            issues.push(issue);
        }
    }
    (issues, all_meant)
}

/// Messages are taken from an arm of a branch, and from no arm of anything else, but for those that come too late for a
/// window.
fn wrong_arm(step: Option<&Step>, input: &Input, path: Path) -> Option<Issue> {
    let (name, arm) = (input.node(), input.arm());
    if let Some((kind, side)) = step.and_then(|step| Some((step.kind, step.kind.side_arm()?))) {
        let arm = arm.filter(|arm| *arm != side)?;
        let message = format!("{} has no arm {}", quoted(name), quoted(arm));
        let issue = Issue::error("unknown-arm", path, Part::Value, message);
        let (main, rest) = match kind {
            Kind::DeDuplicate => ("what comes for the first time", "what has come before"),
            Kind::Throttle => ("what goes on", "what is too much"),
            _ => ("the results of its windows", "messages that came too late for one"),
        };
        return Some(
            issue.mend(format!("write `{name}` for {main}, or `{name}.{side}` for {rest}")),
        );
    }
    let Some(branch) = step.filter(|step| step.kind == Kind::Branch) else {
        arm?;
        let message = format!("{} is no branch: it has no arms", quoted(name));
        let issue = Issue::error("unknown-arm", path, Part::Value, message);
        return Some(issue.mend(format!("write `{name}`")));
    };
    let arms: Vec<&str> = branch.arms.iter().map(String::as_str).collect();
    let of = |arm: &str| format!("{name}.{arm}");
    // Without any it was said already.
    let first = of(arms.first()?);
    let (message, mend) = match arm {
        Some(arm) if arms.contains(&arm) => return None,
        Some(arm) => {
            let mend = guess(arm, arms.iter().copied()).map_or_else(
                || format!("it has {}", list(&arms)),
                |meant| format!("did you mean `{}`?", of(meant)),
            );
            (format!("the branch {} has no arm {}", quoted(name), quoted(arm)), mend)
        }
        None => (
            format!("{} is a branch: its messages are taken from its arms", quoted(name)),
            format!("write `{first}`, or a list of the arms wanted; it has {}", list(&arms)),
        ),
    };
    Some(Issue::error("unknown-arm", path, Part::Value, message).mend(mend))
}

/// There is a source and a sink.
fn sections(pipeline: &Pipeline) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (empty, section, what) in [
        (pipeline.sources.is_empty(), "sources", "source"),
        (pipeline.sinks.is_empty(), "sinks", "sink"),
    ] {
        if empty {
            let message = format!("a pipeline has at least one {what}");
            issues.push(
                Issue::error("missing-field", Path::of([section]), Part::Missing, message)
                    .mend("add one"),
            );
        }
    }
    issues
}

/// No source or step gives messages that nobody takes. The ones in `meant` are
/// taken under a wrong name.
fn ends(pipeline: &Pipeline, meant: &BTreeSet<&str>) -> Vec<Issue> {
    let mut issues = Vec::new();
    let taken: BTreeSet<&str> =
        all_inputs(pipeline).flat_map(|(_, from, _)| from.iter().map(Input::node)).collect();
    let left = |name: &String| !taken.contains(name.as_str()) && !meant.contains(name.as_str());
    for name in pipeline.sources.keys().filter(|name| left(name)) {
        let message = format!("nothing takes messages from the source {}", quoted(name));
        let issue = Issue::error("unused-source", Path::of(["sources", name]), Part::Key, message);
        issues.push(
            issue.mend(format!("add `from: {name}` to a step or sink, or remove the source")),
        );
    }
    for (name, step) in pipeline.steps.iter().filter(|(name, _)| left(name)) {
        let message = format!("what the step {} makes goes nowhere", quoted(name));
        let issue = Issue::error("dead-end", Path::of(["steps", name]), Part::Key, message);
        let from = step.arms.first().map_or_else(|| name.clone(), |arm| format!("{name}.{arm}"));
        issues
            .push(issue.mend(format!("add `from: {from}` to a step or sink, or remove the step")));
    }
    let all: BTreeSet<&str> = all_inputs(pipeline)
        .flat_map(|(_, from, _)| from.iter().map(|input| input.name.as_str()))
        .collect();
    let windows = pipeline.steps.iter().filter(|(_, step)| step.kind.has_state());
    for (name, _) in
        windows.filter(|(name, _)| taken.contains(name.as_str()) && !all.contains(name.as_str()))
    {
        let message = format!("nothing takes the results of the step {}", quoted(name));
        let issue = Issue::error("dead-end", Path::of(["steps", name]), Part::Key, message);
        issues.push(issue.mend(format!("add `from: {name}` to a step or sink")));
    }
    // One that takes from the branch without naming an arm was told that already.
    let branches = pipeline
        .steps
        .iter()
        .filter(|(name, _)| taken.contains(name.as_str()) && !all.contains(name.as_str()));
    for (name, branch) in branches.filter(|(_, step)| step.kind == Kind::Branch) {
        for (index, arm) in branch.arms.iter().enumerate() {
            if all.contains(format!("{name}.{arm}").as_str()) {
                continue;
            }
            let message = format!("nothing takes the messages of the arm {}", quoted(arm));
            let path = Path::of(["steps", name, "arms"]).index(index);
            let issue = Issue::error("dead-end", path, Part::Value, message);
            issues.push(issue.mend(format!("add `from: {name}.{arm}` to a step or sink; what is not wanted is dropped by a filter")));
        }
    }
    issues
}

/// No step feeds itself, and every step is fed by a source.
fn cycles(pipeline: &Pipeline) -> Vec<Issue> {
    let fed = fed(pipeline);
    let feeding = |name: &str| fed.get(name).into_iter().flatten().copied();
    let ordered: BTreeSet<&str> = topological(pipeline).into_iter().collect();
    let rest: BTreeSet<&str> = fed.keys().copied().filter(|name| !ordered.contains(name)).collect();
    let mut issues = Vec::new();
    let mut visited = BTreeSet::new();
    let mut on_cycle = BTreeSet::new();
    for start in &rest {
        // Each step of the rest is fed by one of the rest, so walking back
        // ends in a cycle, or in a walk made before.
        let mut walk = Vec::new();
        let mut at = Some(*start);
        while let Some(name) = at
            && visited.insert(name)
        {
            walk.push(name);
            at = feeding(name).find(|from| rest.contains(from));
        }
        let Some(begin) = at.and_then(|name| walk.iter().position(|other| *other == name)) else {
            continue;
        };
        let cycle = turned(walk.into_iter().skip(begin).collect());
        if let Some(first) = cycle.first().copied() {
            let way: Vec<&str> = cycle.iter().copied().chain(std::iter::once(first)).collect();
            let message = format!("the steps feed each other in a circle: {}", way.join(" -> "));
            let issue =
                Issue::error("cycle", Path::of(["steps", first, "from"]), Part::Value, message);
            issues
                .push(issue.mend("take one of the steps' `from` from a source or an earlier step"));
        }
        on_cycle.extend(cycle);
    }
    let reached = reached(pipeline);
    for name in rest.iter().filter(|name| !on_cycle.contains(*name) && !reached.contains(*name)) {
        let message = format!("no message reaches the step {}", quoted(name));
        let issue =
            Issue::error("unreachable", Path::of(["steps", name, "from"]), Part::Value, message);
        issues.push(issue.mend("feed it from a source, or from a step that a source feeds"));
    }
    issues
}

/// A cycle found walking backwards, in the direction of the messages and from
/// its alphabetically first step.
fn turned(mut cycle: Vec<&str>) -> Vec<&str> {
    cycle.reverse();
    let first = cycle.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(at, _)| at);
    cycle.rotate_left(first);
    cycle
}

/// Who takes messages from each source and step, in the order of the names.
pub(crate) fn consumers(pipeline: &Pipeline) -> BTreeMap<&str, Vec<&str>> {
    let mut consumers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, from, _) in all_inputs(pipeline) {
        for input in from {
            consumers.entry(input.node()).or_default().push(name);
        }
    }
    consumers
}

/// The steps and sub-pipelines, each with what feeds it.
fn fed(pipeline: &Pipeline) -> BTreeMap<&str, Vec<&str>> {
    let mut fed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, step) in &pipeline.steps {
        fed.insert(name, step.from.iter().map(Input::node).collect());
    }
    for (name, call) in &pipeline.calls {
        let inputs = call.from.iter().chain(call.inputs.values().flatten());
        fed.insert(name, inputs.map(Input::node).collect());
    }
    fed
}

/// The steps that no cycle holds up, each after all that feed it, otherwise in
/// the order of their names.
pub(crate) fn topological(pipeline: &Pipeline) -> Vec<&str> {
    // Steps only: a sink could wrongly have a step's name.
    let mut consumers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    let fed = fed(pipeline);
    for (name, from) in &fed {
        let before = from.iter().filter(|from| fed.contains_key(**from));
        waiting.insert(name, before.clone().count());
        for from in before {
            consumers.entry(from).or_default().push(name);
        }
    }
    let mut ready: BTreeSet<&str> =
        waiting.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while let Some(name) = ready.pop_first() {
        ordered.push(name);
        for next in consumers.get(name).into_iter().flatten() {
            let Some(left) = waiting.get_mut(next) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.insert(next);
            }
        }
    }
    ordered
}

/// The steps that something other than a cycle feeds. A name nobody knows
/// counts: it was reported, and may be a source.
fn reached(pipeline: &Pipeline) -> BTreeSet<&str> {
    let consumers = consumers(pipeline);
    let mut reached = BTreeSet::new();
    let outside =
        |name: &&&str| !pipeline.steps.contains_key(**name) && !pipeline.calls.contains_key(**name);
    let mut next: Vec<&str> = consumers.keys().filter(outside).copied().collect();
    while let Some(name) = next.pop() {
        if reached.insert(name) {
            next.extend(consumers.get(name).into_iter().flatten());
        }
    }
    reached
}

/// Every name in use is bound, and every bound name in use.
fn bound(pipeline: &Pipeline) -> Vec<Issue> {
    let Some(binding) = &pipeline.binding else {
        let message = "the pipeline has no binding: it can be checked, and not deployed";
        let issue = Issue::warning("no-binding", Path::of(["binding"]), Part::Missing, message);
        return vec![issue.mend("add `binding` here, or give a file with one")];
    };
    let mut issues = Vec::new();
    let components: BTreeMap<&str, Path> = pipeline
        .steps
        .iter()
        .filter(|(_, step)| !step.component.is_empty())
        .map(|(name, step)| {
            (step.component.as_str(), Path::of(["steps", name, step.kind.as_str()]))
        })
        .collect();
    let sources =
        pipeline.sources.keys().map(|name| (name.as_str(), Path::of(["sources", name]))).collect();
    let sinks =
        pipeline.sinks.keys().map(|name| (name.as_str(), Path::of(["sinks", name]))).collect();
    // A component whose name could not be read may be any of those bound.
    let unread = pipeline
        .steps
        .values()
        .any(|step| step.component.is_empty() && step.kind.settings().is_none());
    bound_section("sources", "source", &sources, &binding.sources, &mut issues);
    bound_section("sinks", "sink", &sinks, &binding.sinks, &mut issues);
    bound_section("components", "component", &components, &binding.components, &mut issues);
    let pipelines: BTreeMap<&str, Path> = pipeline
        .calls
        .iter()
        .filter(|(_, call)| !call.pipeline.is_empty())
        .map(|(name, call)| (call.pipeline.as_str(), Path::of(["steps", name, "pipeline"])))
        .collect();
    bound_section("pipelines", "sub-pipeline", &pipelines, &binding.pipelines, &mut issues);
    issues.retain(|issue| {
        !(unread && issue.rule == "unused-binding" && issue.path.is_within(&components_path()))
    });
    issues
}

fn components_path() -> Path {
    Path::of(["binding", "components"])
}

fn bound_section<T>(
    section: &str,
    what: &str,
    used: &BTreeMap<&str, Path>,
    bound: &BTreeMap<String, T>,
    issues: &mut Vec<Issue>,
) {
    let mut meant = BTreeSet::new();
    for (name, path) in used.iter().filter(|(name, _)| !bound.contains_key(**name)) {
        let unused = bound.keys().map(String::as_str).filter(|other| !used.contains_key(other));
        let close = if issues.len() < ISSUES_MAX / 5 { guess(name, unused) } else { None };
        meant.extend(close);
        let part =
            if matches!(what, "component" | "sub-pipeline") { Part::Value } else { Part::Key };
        let message = format!("the {what} {} is not bound", quoted(name));
        let issue = Issue::error("unbound", path.clone(), part, message);
        issues.push(issue.mend(match close {
            Some(close) => format!("the binding has `{close}`: is it that one?"),
            None => format!("add `{name}` to `binding.{section}`"),
        }));
    }
    for name in bound
        .keys()
        .filter(|name| !used.contains_key(name.as_str()) && !meant.contains(name.as_str()))
    {
        let message = format!("nothing in the pipeline uses the {what} {}", quoted(name));
        let path = Path::of(["binding", section, name]);
        issues.push(Issue::warning("unused-binding", path, Part::Key, message).mend("remove it"));
    }
}

/// The settings of connectors and delivery.
fn settings(binding: &Binding) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, source) in &binding.sources {
        let path = Path::of(["binding", "sources", name]);
        issues.extend(check_connector(
            &source.connector,
            &source.settings,
            |c| Some(&c.source),
            &path,
        ));
        issues.extend(open_door(&source.connector, &source.settings, &path));
        issues.extend(check_delivery(&source.delivery, &path));
    }
    issues.extend(paths(binding));
    for (name, sink) in &binding.sinks {
        let path = Path::of(["binding", "sinks", name]);
        issues.extend(check_connector(&sink.connector, &sink.settings, |c| c.sink.as_ref(), &path));
    }
    issues
}

/// No two sources of a server have one path.
fn paths(binding: &Binding) -> Vec<Issue> {
    let mut seen: Vec<(&str, http::SourceSettings)> = Vec::new();
    let mut issues = Vec::new();
    for (name, source) in binding.sources.iter().filter(|(_, source)| source.connector == "http") {
        // What cannot be read is reported as that.
        let Ok(settings) = from_flat::<http::SourceSettings, _>(&source.settings, &[]) else {
            continue;
        };
        let same = |other: &http::SourceSettings| {
            other.listen == settings.listen
                && other.path.is_same(&settings.path)
                && other.methods.iter().any(|method| settings.methods.iter().any(|m| m == method))
        };
        if let Some((other, _)) = seen.iter().find(|(_, other)| same(other)) {
            let path = Path::of(["binding", "sources", name, "http", "path"]);
            let message = format!("{} takes the requests of this path already", quoted(other));
            let issue = Issue::error("shared-path", path, Part::Value, message);
            issues.push(issue.mend("choose another path, or other `methods`"));
        }
        seen.push((name, settings));
    }
    issues
}

/// Labels that hosts can have.
fn placement(binding: &Binding) -> Vec<Issue> {
    let path = |name: &String| Path::of(["binding", "placement", name]);
    let wrong = |name: &String, part, text: &str| {
        let message = format!("{} cannot stand in a label", quoted(text));
        Issue::error("value", path(name), part, message).mend(format!(
            "write letters, digits, dots, hyphens and underscores, at most {LABEL_MAX}, such as `site: hall-3`"
        ))
    };
    let mut issues = Vec::new();
    for (name, value) in &binding.placement {
        if !is_label(name) {
            issues.push(wrong(name, Part::Key, name));
        } else if !is_label(value) {
            issues.push(wrong(name, Part::Value, value));
        }
    }
    issues
}

/// Servers that a step was granted requests to, and their settings.
fn servers(pipeline: &Pipeline, binding: &Binding, all: bool) -> Vec<Issue> {
    let mut issues = Vec::new();
    let grants = || pipeline.steps.values().flat_map(|step| &step.grants);
    for (name, settings) in &binding.servers {
        let path = Path::of(["binding", "servers", name]);
        let kind = &registry::SERVER;
        issues.extend(check_settings(kind, settings, &path, (kind.fields)()));
        let named = match name.parse::<Authority>() {
            Ok(named) => named,
            Err(error) => {
                let message = format!("{} names no server: {error}", quoted(name));
                let issue = Issue::error("setting", path, Part::Key, message);
                issues.push(issue.mend("write host, or host and port, as a grant names it"));
                continue;
            }
        };
        let asks = |grant: &String| matches!(grant.parse(), Ok(Grant::Http { server, .. }) if server == named);
        if all && !grants().any(asks) {
            let message = format!("no step is granted requests to {}", quoted(name));
            let issue = Issue::warning("unused-binding", path, Part::Key, message);
            issues.push(
                issue.mend("remove it, or write it as the grant does, with the port or without"),
            );
        }
    }
    issues
}

fn check_connector(
    name: &str,
    settings: &BTreeMap<String, String>,
    side: fn(&Connector) -> Option<&SettingsKind>,
    path: &Path,
) -> Vec<Issue> {
    let known = registry::connector(name);
    if let Some(kind) = known.and_then(side) {
        return check_settings(kind, settings, &path.key(name), (kind.fields)());
    }
    let fitting = registry::CONNECTORS.iter().filter(|connector| side(connector).is_some());
    let fitting: Vec<&str> = fitting.map(|connector| connector.name).collect();
    let (rule, at, message) = match (name, known) {
        ("", _) => ("missing-field", path.clone(), "the binding names no connector".to_owned()),
        // Every connector is a source.
        (name, Some(_)) => ("no-sink", path.key(name), format!("{name} cannot be a sink")),
        (name, None) => {
            ("missing-field", path.clone(), format!("there is no connector {}", quoted(name)))
        }
    };
    let issue = Issue::error(rule, at, Part::Key, message);
    vec![issue.mend(match known {
        Some(_) => format!("it only reads; write to one of {}", list(&fitting)),
        None => format!("add one of {} with its settings", list(&fitting)),
    })]
}

/// A source that lets everybody in: right on a machine of its own, and nothing to overlook.
fn open_door(connector: &str, settings: &BTreeMap<String, String>, path: &Path) -> Option<Issue> {
    let open = connector == "http" && settings.get("auth").is_some_and(|auth| auth == "none");
    open.then(|| {
        let message = "everybody who reaches the address may send to this source";
        Issue::warning("no-auth", path.key(connector).key("auth"), Part::Value, message)
            .mend("ask for `bearer`, `basic` or `hmac` with a `token-file`, or leave it where nobody else comes")
    })
}

fn check_delivery(delivery: &BTreeMap<String, String>, path: &Path) -> Vec<Issue> {
    check_settings(
        &registry::DELIVERY,
        delivery,
        &path.key("delivery"),
        (registry::DELIVERY.fields)(),
    )
}

fn rollout(pipeline: &Pipeline) -> Vec<Issue> {
    let kind = &registry::ROLLOUT;
    check_settings(kind, &pipeline.rollout, &Path::of(["rollout"]), (kind.fields)())
}

/// What a settings struct has to say, as issues. `names` are the fields an
/// unknown one may have meant.
fn check_settings(
    kind: &SettingsKind,
    settings: &BTreeMap<String, String>,
    path: &Path,
    names: &[&str],
) -> Vec<Issue> {
    let errors = (kind.check)(settings);
    let meant: BTreeSet<&str> = errors
        .iter()
        .filter(|error| error.kind == FieldErrorKind::Unknown)
        .filter_map(|error| guess(&error.field, names.iter().copied()))
        .collect();
    errors
        .iter()
        .filter(|error| {
            error.kind != FieldErrorKind::Missing || !meant.contains(error.field.as_str())
        })
        .map(|error| setting_issue(error, path, names))
        .collect()
}

fn setting_issue(error: &FieldError, path: &Path, names: &[&str]) -> Issue {
    let at = path.way(&error.field);
    match error.kind {
        FieldErrorKind::Missing => {
            let message = format!("`{}` is missing", error.field);
            Issue::error("missing-field", at, Part::Missing, message)
                .mend(format!("add `{}`", error.field))
        }
        FieldErrorKind::Unknown => {
            let message = format!("there is no setting {} here", quoted(&error.field));
            let inside = error.field.contains('.');
            let mend = match guess(&error.field, names.iter().copied()) {
                _ if inside => format!("it {}", error.message),
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", list(names)),
            };
            Issue::error("unknown-field", at, Part::Key, message).mend(mend)
        }
        FieldErrorKind::Invalid => {
            let value = error.value.as_deref().map(quoted).unwrap_or_default();
            let message = format!("`{}` cannot be {value}", error.field);
            Issue::error("setting", at, Part::Value, message).mend(format!("it {}", error.message))
        }
    }
}

/// Two clients never call themselves the same at the same place: a broker
/// disconnects the first when the second comes, for ever in turn.
fn clients(pipeline: &Pipeline, binding: &Binding) -> Vec<Issue> {
    let sources = binding
        .sources
        .iter()
        .map(|(name, source)| ("sources", name, &source.connector, &source.settings));
    let sinks =
        binding.sinks.iter().map(|(name, sink)| ("sinks", name, &sink.connector, &sink.settings));
    let mut seen: BTreeMap<(&str, &str, &str), &str> = BTreeMap::new();
    let mut issues = Vec::new();
    for (section, name, connector, settings) in sources.chain(sinks) {
        let Some(connector) = registry::connector(connector) else { continue };
        let Some(identity) = settings.get(connector.identity) else { continue };
        let scope = settings.get(connector.identity_scope).map(String::as_str).unwrap_or_default();
        let path = Path::of(["binding", section, name, connector.name, connector.identity]);
        let leave = format!("leave `{}` out: one is made from the names", connector.identity);
        if let Some(other) = seen.insert((connector.name, scope, identity), name) {
            let message = format!(
                "`{}` {} is taken by {} already",
                connector.identity,
                quoted(identity),
                quoted(other)
            );
            issues.push(
                Issue::error("shared-client", path.clone(), Part::Value, message)
                    .mend(leave.clone()),
            );
        }
        let writers = pipeline
            .sinks
            .get(name)
            .filter(|_| section == "sinks")
            .map_or(1, |sink| sink.from.len());
        if writers > 1 {
            let message = format!(
                "{} may be written by {writers} stages, which cannot share a `{}`",
                quoted(name),
                connector.identity
            );
            issues.push(Issue::error("shared-client", path, Part::Key, message).mend(leave));
        }
    }
    issues
}

/// Components have files, and these are there.
fn files(binding: &Binding, folder: Option<&FilePath>) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, component) in &binding.components {
        let path = Path::of(["binding", "components", name, "file"]);
        if component.file.is_empty() {
            let message = format!("the component {} has no file", quoted(name));
            issues.push(
                Issue::error("missing-field", path, Part::Value, message).mend("add its path"),
            );
            continue;
        }
        let Some(folder) = folder else { continue };
        let file = folder.join(&component.file);
        if !file.is_file() {
            let message = format!("there is no file {}", quoted(&file.to_string_lossy()));
            let mend =
                "build the component, or correct the path: it is from the folder of this file";
            issues.push(Issue::error("file-missing", path, Part::Value, message).mend(mend));
        }
    }
    issues
}
