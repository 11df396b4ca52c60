//! Sub-pipelines: definitions whose steps are put into the one that calls them.
//!
//! A sub-pipeline is a definition as any other. A step of another definition names it, says what its sources stand for and
//! what values its parameters have, and others take messages from that step. Here the file is read and checked, with the
//! values of the call, and its steps take the place of the step: whatever comes after, from the plan to the deployment, sees
//! steps and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component as Segment, Path as FilePath, PathBuf};
use std::sync::Arc;

use crate::component;
use crate::finding::{Finding, Issue, Severity};
use crate::lint::{self, Checks, NAME_MAX};
use crate::lint_call::{Outline, Outlines};
use crate::load::{self, Document, Library, Place, Source, counted, folder_of};
use crate::locate::{Part, Path, quoted};
use crate::lock::LockedPipeline;
use crate::model::{Binding, Call, Component, Input, Pipeline, SubPipeline};
use crate::parameters::{self, ValueOrigin};
use crate::plan;
use crate::read::{ISSUES_MAX, Reader};
use crate::tree::TEXT_MAX;

/// Most definitions that are called one by another, without the first.
const DEPTH_MAX: usize = 4;

/// Most calls of one definition and all that it calls.
const CALLS_MAX: usize = 100;

/// Most text of all these calls, in bytes.
const BYTES_MAX: usize = 4 * TEXT_MAX;

/// Most steps of a definition with those of its sub-pipelines.
const STEPS_MAX: usize = 500;

/// Most inputs of all of them.
const INPUTS_MAX: usize = 20_000;

/// What has no rule of its own.
const RULE: &str = "sub-pipeline";

/// The definitions that are being read, each called by the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    file: &'a str,
    before: Option<&'a Chain<'a>>,
}

impl<'a> Chain<'a> {
    pub(crate) const fn of(file: &'a str) -> Self {
        Self { file, before: None }
    }

    /// The files, the first definition's first.
    fn files(&self) -> Vec<&'a str> {
        let back = std::iter::successors(Some(self), |chain| chain.before);
        let mut files: Vec<&str> = back.map(|one| one.file).collect();
        files.reverse();
        files
    }
}

/// A definition that is called, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Called {
    outline: Option<Outline>,
    /// With the steps of what it calls itself; absent when it has errors.
    model: Option<Pipeline>,
    /// The folder of its file, from the folder that the caller's paths are from.
    folder: PathBuf,
    /// Its file, under no name, and those that it calls.
    files: BTreeMap<String, LockedPipeline>,
}

/// The definitions that are called, by the names of the steps that call.
pub(crate) type AllCalled = BTreeMap<String, Called>;

/// What a caller sees of them.
pub(crate) fn outlines(called: &AllCalled) -> Outlines {
    let outline = |(name, one): (&String, &Called)| Some((name.clone(), one.outline.clone()?));
    called.iter().filter_map(outline).collect()
}

/// The files of them, by the names of the calls that lead there.
pub(crate) fn files(called: &AllCalled) -> BTreeMap<String, LockedPipeline> {
    let mut files = BTreeMap::new();
    for (call, one) in called {
        for (inner, file) in &one.files {
            let name = if inner.is_empty() { call.clone() } else { format!("{call}/{inner}") };
            files.insert(name, file.clone());
        }
    }
    files
}

/// The file of a sub-pipeline with its text.
struct Bound<'a> {
    binding: &'a SubPipeline,
    /// As findings show it.
    file: String,
    text: Arc<str>,
    digest: String,
}

/// Reads what definitions call, and keeps what was found there.
pub(crate) struct SubReader<'a> {
    library: Option<Library<'a>>,
    check_files: bool,
    /// The texts that were read, or why one was not.
    texts: BTreeMap<String, Result<Arc<str>, String>>,
    findings: Vec<Finding>,
    calls: usize,
    bytes: usize,
}

impl<'a> SubReader<'a> {
    pub(crate) const fn new(library: Option<Library<'a>>, check_files: bool) -> Self {
        Self {
            library,
            check_files,
            texts: BTreeMap::new(),
            findings: Vec::new(),
            calls: 0,
            bytes: 0,
        }
    }

    /// What was found in the files, and their texts.
    pub(crate) fn done(self) -> (Vec<Finding>, Vec<(String, String)>) {
        let text = |(file, text): (String, Result<Arc<str>, String>)| {
            Some((file, text.ok()?.as_ref().to_owned()))
        };
        (self.findings, self.texts.into_iter().filter_map(text).collect())
    }

    /// Reads everything that a model calls, and says what is wrong with the calls. Files are from `folder`; `open` says
    /// whether a value is not known.
    pub(crate) fn read(
        &mut self,
        model: &Pipeline,
        folder: &FilePath,
        open: &dyn Fn(&Path) -> bool,
        chain: &Chain<'_>,
    ) -> (AllCalled, Vec<Issue>) {
        let mut all = AllCalled::new();
        let mut issues = Vec::new();
        let Some(binding) = &model.binding else { return (all, issues) };
        let used: BTreeSet<&str> =
            model.calls.values().map(|call| call.pipeline.as_str()).collect();
        let mut files = BTreeMap::new();
        for name in used {
            let Some(bound) = binding.pipelines.get(name) else { continue };
            let path = Path::of(["binding", "pipelines", name]);
            if open(&path.key("file")) || open(&path.key("digest")) {
                continue;
            }
            match self.bound(bound, folder, &path, chain) {
                Ok(file) => drop(files.insert(name, file)),
                Err(issue) => issues.push(*issue),
            }
        }
        for (name, call) in &model.calls {
            let path = Path::of(["steps", name]);
            let Some(bound) = files.get(call.pipeline.as_str()) else { continue };
            self.calls += 1;
            self.bytes = self.bytes.saturating_add(bound.text.len());
            let limit = if self.calls > CALLS_MAX {
                format!("with this one there are more than {CALLS_MAX} calls of sub-pipelines")
            } else if self.bytes > BYTES_MAX {
                format!("with this one the sub-pipelines are more than {BYTES_MAX} bytes of text")
            } else {
                let parameters = path.key("parameters");
                if !call.parameters.keys().any(|name| open(&parameters.key(name))) {
                    let (called, found) = self.call(name, call, bound, chain);
                    issues.extend(found);
                    all.insert(name.clone(), called);
                }
                continue;
            };
            let issue = Issue::error(RULE, path.key("pipeline"), Part::Value, limit);
            issues.push(issue.mend("call fewer, or make two pipelines of this one"));
            break;
        }
        (all, issues)
    }

    /// The file that a binding names for a sub-pipeline.
    fn bound<'b>(
        &mut self,
        binding: &'b SubPipeline,
        folder: &FilePath,
        path: &Path,
        chain: &Chain<'_>,
    ) -> Result<Bound<'b>, Box<Issue>> {
        let at = path.key("file");
        let error = |rule, message| Issue::error(rule, at.clone(), Part::Value, message);
        if binding.file.is_empty() {
            let message = "the sub-pipeline has no file".to_owned();
            let issue = error("missing-field", message).mend("add the path of its definition");
            return Err(issue.into());
        }
        if let Some(issue) = component::digest_form(binding.digest.as_deref(), path) {
            return Err(issue.into());
        }
        let file = folder.join(without_dot(&binding.file)).to_string_lossy().into_owned();
        let callers = chain.files();
        let way =
            || callers.iter().copied().chain([file.as_str()]).collect::<Vec<_>>().join(" -> ");
        let here = normal(&file);
        if let Some(first) = callers.iter().position(|caller| normal(caller) == here) {
            let circle: Vec<&str> =
                callers.iter().skip(first).copied().chain([file.as_str()]).collect();
            let message =
                format!("the pipelines call each other in a circle: {}", circle.join(" -> "));
            let mend = "a pipeline cannot be put into itself: take out one of these calls";
            return Err(error(RULE, message).mend(mend).into());
        }
        if callers.len() > DEPTH_MAX {
            let message =
                format!("sub-pipelines call each other at most {DEPTH_MAX} deep: {}", way());
            let mend = "call it from a definition further up";
            return Err(error(RULE, message).mend(mend).into());
        }
        let text = self.text(&file).map_err(|why| {
            let mend = "correct the path: it is from the folder of this file";
            Box::new(error("file-missing", why).mend(mend))
        })?;
        let digest = component::digest(text.as_bytes());
        if let Some(wanted) = binding.digest.as_ref().filter(|wanted| **wanted != digest) {
            let message = format!("{file} has the digest {digest}, and {wanted} is wanted");
            let issue =
                Issue::error("sub-pipeline-digest", path.key("digest"), Part::Value, message);
            return Err(issue.mend("bind the file that is meant, or write its digest").into());
        }
        Ok(Bound { binding, file, text, digest })
    }

    fn text(&mut self, file: &str) -> Result<Arc<str>, String> {
        if let Some(text) = self.texts.get(file) {
            return text.clone();
        }
        let text = match self.library {
            Some(library) => library(FilePath::new(file)).map_err(|error| error.to_string()),
            None => Err(format!("{file} cannot be read here, where a definition is only a text")),
        };
        let text = text.map(Arc::from);
        self.texts.insert(file.to_owned(), text.clone());
        text
    }

    /// Reads a definition with the values of a call. What is wrong with it is kept, and that something is, is said of the
    /// call.
    fn call(
        &mut self,
        name: &str,
        call: &Call,
        bound: &Bound<'_>,
        chain: &Chain<'_>,
    ) -> (Called, Vec<Issue>) {
        let path = Path::of(["steps", name]);
        let before = self.findings.len();
        let mut main = Source::parse(Document { file: &bound.file, text: &bound.text });
        let mut reader = Reader::default();
        let mut issues = Vec::new();
        let mut model = None;
        if let Some(tree) = &main.tree {
            let declared = reader.parameters(tree);
            main.take(&mut reader);
            let sources = parameters::Sources {
                definition: &bound.file,
                binding: &parameters::given_by_call(&call.parameters),
                at: path.key("parameters"),
                origin: ValueOrigin::Call,
                given: &BTreeMap::new(),
                bound: true,
            };
            let (values, _, of_call) = parameters::resolve(&declared, &sources);
            issues.extend(of_call);
            main.expand(&values);
            model = main.tree.as_ref().and_then(|tree| reader.pipeline(tree));
            reader.inputs_unread |= main.expanded.inputs_unread;
            main.take(&mut reader);
        }
        let mut files = BTreeMap::new();
        let mut outline = None;
        if let Some(model) = &mut model {
            only_what_is_called(model);
            outline = (!reader.graph_unread).then(|| Outline {
                file: bound.file.clone(),
                sources: model.sources.keys().cloned().collect(),
                sinks: model.sinks.keys().cloned().collect(),
            });
            let folder = folder_of(&bound.file);
            let place = Place {
                folder: &folder,
                tests_folder: &folder,
                check_files: self.check_files,
                chain: Chain { file: &bound.file, before: Some(chain) },
            };
            files = load::check(model, &mut main, &mut None, &reader, &place, self).pipelines;
        }
        let mut findings = main.findings();
        findings.retain(|finding| !plan::only_in_a_lattice(finding));
        let errors = findings.iter().filter(|one| one.severity == Severity::Error).count();
        if errors > 0 {
            let message = format!(
                "the sub-pipeline {} has {}",
                quoted(&bound.file),
                counted(errors, "error")
            );
            let issue = Issue::error(RULE, path.key("pipeline"), Part::Value, message);
            issues.push(issue.mend("mend that file: what is wrong with it is said too"));
            model = None;
        }
        // Another call of the same file says the same; what it calls itself has been said already, and comes behind.
        findings.retain(|one| !self.findings.contains(one));
        if self.findings.len() < ISSUES_MAX {
            self.findings.splice(before..before, findings);
        }
        let (file, digest) = (bound.binding.file.clone(), bound.digest.clone());
        files.insert(String::new(), LockedPipeline { file, digest });
        let folder = folder_of(without_dot(&bound.binding.file));
        (Called { outline, model, folder, files }, issues)
    }
}

/// Leaves out what a definition says for itself alone.
fn only_what_is_called(model: &mut Pipeline) {
    model.tests.clear();
    model.rollout.clear();
    let of_it = model.binding.take().unwrap_or_default();
    let Binding { components, pipelines, .. } = of_it;
    model.binding = Some(Binding { components, pipelines, ..Binding::default() });
}

fn without_dot(file: &str) -> &str {
    file.strip_prefix("./").unwrap_or(file)
}

/// A path without `.` and `..`, as far as it says by itself.
fn normal(file: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for segment in FilePath::new(file).components() {
        match segment {
            Segment::CurDir => {}
            Segment::ParentDir
                if matches!(path.components().next_back(), Some(Segment::Normal(_))) =>
            {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path
}

/// The call that each step comes from.
type Origins = BTreeMap<String, String>;

/// Puts the steps of all sub-pipelines in, and says what is wrong only then. The model has no errors otherwise, and each
/// call a model.
pub(crate) fn expand(model: &mut Pipeline, called: &AllCalled) -> Vec<Issue> {
    let mut inner = BTreeMap::new();
    for (name, call) in &model.calls {
        let Some(one) = called.get(name) else { return Vec::new() };
        let Some(model) = &one.model else { return Vec::new() };
        inner.insert(name.as_str(), Inner { call, model, folder: &one.folder });
    }
    let (origins, issues) = names(model, &inner);
    if !issues.is_empty() {
        return issues;
    }
    let mut wiring = Wiring { inner: &inner, made: 0 };
    let mut steps = model.steps.clone();
    let mut sinks = model.sinks.clone();
    let mut components = BTreeMap::new();
    for from in steps
        .values_mut()
        .map(|step| &mut step.from)
        .chain(sinks.values_mut().map(|sink| &mut sink.from))
    {
        *from = wiring.outside(from);
    }
    for (name, one) in &inner {
        for (step_name, step) in &one.model.steps {
            let mut step = step.clone();
            step.from = wiring.inside(name, one, &step.from);
            if !step.component.is_empty() {
                step.component = format!("{name}/{}", step.component);
            }
            steps.insert(inner_name(name, step_name), step);
        }
        let bound = one.model.binding.iter().flat_map(|binding| &binding.components);
        components.extend(bound.map(|(component_name, component)| {
            let file = one.folder.join(without_dot(&component.file));
            let file = file.to_string_lossy().into_owned();
            (format!("{name}/{component_name}"), Component { file, ..component.clone() })
        }));
    }
    if wiring.made > INPUTS_MAX {
        let message =
            format!("with its sub-pipelines the pipeline has more than {INPUTS_MAX} inputs");
        let issue = Issue::error(RULE, Path::of(["steps"]), Part::Key, message);
        return vec![issue.mend("make two pipelines of this one")];
    }
    model.steps = steps;
    model.sinks = sinks;
    model.calls.clear();
    if let Some(binding) = &mut model.binding {
        binding.components.extend(components);
        binding.pipelines.clear();
    }
    let outlines = Outlines::new();
    let mut issues = lint::issues(model, &Checks::all(&outlines));
    // That sources and sinks are not bound was said, and may be right.
    issues.retain(|issue| issue.severity == Severity::Error && issue.rule != "unbound");
    issues.into_iter().map(|issue| from_outside(issue, &origins)).collect()
}

/// A call with what is put in its place.
struct Inner<'a> {
    call: &'a Call,
    model: &'a Pipeline,
    folder: &'a FilePath,
}

/// What a step of a sub-pipeline, or an arm of one, is called where it is put in.
fn inner_name(call: &str, step: &str) -> String {
    format!("{call}-{step}")
}

/// The names of all steps that are put in: short enough, and nobody else's.
fn names(model: &Pipeline, inner: &BTreeMap<&str, Inner<'_>>) -> (Origins, Vec<Issue>) {
    let mut origins = Origins::new();
    let mut issues = Vec::new();
    for (call, one) in inner {
        let path = Path::of(["steps", call]);
        for step in one.model.steps.keys() {
            let name = inner_name(call, step);
            let is = format!("its step {} is {} here", quoted(step), quoted(&name));
            let others = model.steps.contains_key(&name)
                || model.calls.contains_key(&name)
                || model.sources.contains_key(&name)
                || model.sinks.contains_key(&name)
                || origins.contains_key(&name);
            if name.len() > NAME_MAX {
                let message = format!("{is}, and a name has at most {NAME_MAX} characters");
                let issue = Issue::error("name-syntax", path.clone(), Part::Key, message);
                issues.push(issue.mend("give this step, or that one, a shorter name"));
            } else if others {
                let message = format!("{is}, and so is something else");
                let issue = Issue::error("duplicate", path.clone(), Part::Key, message);
                issues.push(issue.mend("give this step, or the other one, another name"));
            }
            origins.insert(name, (*call).to_owned());
            if model.steps.len() + origins.len() > STEPS_MAX {
                let message = format!("with its steps the pipeline has more than {STEPS_MAX}");
                let issue = Issue::error(RULE, path.key("pipeline"), Part::Value, message);
                return (origins, vec![issue.mend("make two pipelines of this one")]);
            }
        }
    }
    (origins, issues)
}

/// Finds where messages come from, past the calls.
struct Wiring<'a> {
    inner: &'a BTreeMap<&'a str, Inner<'a>>,
    /// How many inputs were made.
    made: usize,
}

impl Wiring<'_> {
    /// What inputs are that may name calls. Where an edge is durable on both sides, the settings of the taker count.
    fn outside(&mut self, inputs: &[Input]) -> Vec<Input> {
        let mut all = Vec::new();
        for input in inputs {
            let Some(one) = self.inner.get(input.node()) else {
                self.made += 1;
                all.push(input.clone());
                continue;
            };
            let sinks = &one.model.sinks;
            let sink = input.arm().map_or_else(|| sinks.values().next(), |name| sinks.get(name));
            let from = sink.map(|sink| sink.from.as_slice()).unwrap_or_default();
            for mut origin in self.inside(input.node(), one, from) {
                origin.durable = input.durable.clone().or(origin.durable);
                all.push(origin);
            }
        }
        all
    }

    /// What the inputs of a step or sink of a sub-pipeline are.
    fn inside(&mut self, name: &str, one: &Inner<'_>, inputs: &[Input]) -> Vec<Input> {
        let mut all = Vec::new();
        for input in inputs {
            // What is too much already is refused.
            if self.made > INPUTS_MAX {
                break;
            }
            if !one.model.sources.contains_key(input.node()) {
                self.made += 1;
                all.push(Input {
                    name: inner_name(name, &input.name),
                    durable: input.durable.clone(),
                });
                continue;
            }
            for mut origin in self.outside(one.call.input(input.node())) {
                origin.durable = origin.durable.or_else(|| input.durable.clone());
                all.push(origin);
            }
        }
        all
    }
}

/// What is wrong with steps that were put in, said of what the author wrote.
fn from_outside(issue: Issue, origins: &Origins) -> Issue {
    let names: Vec<&str> = issue.path.names().collect();
    let (path, step) = match names.as_slice() {
        ["steps", step, ..] => match origins.get(*step) {
            Some(call) => (Path::of(["steps", call]), Some((*step).to_owned())),
            None => (Path::of(names.iter().take(3).copied()), None),
        },
        ["sinks", ..] => (Path::of(names.iter().take(3).copied()), None),
        ["binding", "components", component, ..] => match component.split_once('/') {
            Some((call, _)) => (Path::of(["steps", call]), None),
            None => (issue.path.clone(), None),
        },
        _ => (issue.path.clone(), None),
    };
    let message = match step {
        Some(step) => format!("{} (in its step {})", issue.message, quoted(&step)),
        None => format!("with the sub-pipelines put in, {}", issue.message),
    };
    let mend = match issue.rule {
        "duplicate" => Some("let the same messages come on one way only".to_owned()),
        _ => issue.mend,
    };
    Issue { path, message, mend, part: Part::Key, span: None, ..issue }
}
