//! From a definition to what is deployed: which steps run together in one
//! stage, and what lies between stages.
//!
//! Steps are fused by default: a call inside a stage costs well under a
//! microsecond, a durable hop tens of them. A hop is made where the author asks
//! for one, and where the graph needs one, because a stage has one output.
//! Every edge says which it was. The plan depends on the definition alone, so
//! the same definition always gives the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use millrace_grants::{Access, Grant};
use millrace_settings::edge::{self, EdgeSettings};
use millrace_settings::operators::{DeDuplicate, Enrich, Throttle};
use millrace_settings::window::Window;
use millrace_settings::{Delivery, FieldError, Rollout, Server, from_flat, registry};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Severity};
use crate::lint;
use crate::lint_grant;
use crate::model::{
    Binding, Hosts, INSTANCES_DEFAULT, Input, Kind, Pipeline, RESULT, SinkBinding, SourceBinding,
    Step,
};

/// Most steps of one stage. A host has a bound for the parts of a component, of which each step adds a dozen.
const STEPS_MAX: usize = 8;

/// Longest name of a stage, as of everything that becomes part of a subject.
const NAME_MAX: usize = 40;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The definition has errors; they are among the findings.
    #[error("the definition has errors: {}", summary(.0))]
    Errors(Vec<Finding>),
    /// The definition has no binding.
    #[error(
        "the pipeline has no binding: add `binding` to the definition, or give a file with one"
    )]
    Unbound,
    /// The definition does not say where its components are.
    #[error(
        "the pipeline has no binding: `binding.components` says where its components are; add it to the definition, or give a file with one"
    )]
    NoComponents,
    /// Settings could not be read although lint found nothing wrong.
    #[error("the settings of {name}: {source}")]
    Settings {
        /// The source, sink or edge.
        name: String,
        /// What is wrong.
        source: FieldError,
    },
}

fn summary(findings: &[Finding]) -> String {
    let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let first = errors.next().map(ToString::to_string).unwrap_or_default();
    match errors.count() {
        0 => first,
        more => format!("{first}, and {more} more"),
    }
}

/// What is to be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Version of the definition.
    pub version: String,
    /// The stages, each after those before it in the flow.
    pub stages: Vec<Stage>,
    /// The durable edges between them.
    pub edges: Vec<Edge>,
    /// The sources with their settings.
    pub sources: Vec<PlannedSource>,
    /// The sinks with their settings.
    pub sinks: Vec<PlannedSink>,
    /// How a new version is watched, and when the one before it is put back.
    #[serde(skip_serializing_if = "Rollout::is_default", default)]
    pub rollout: Rollout,
    /// What is known of the servers that steps were granted requests to, as the grants name them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub servers: BTreeMap<String, Server>,
    /// The hosts that run the stages.
    #[serde(skip_serializing_if = "Hosts::is_one", default)]
    pub hosts: Hosts,
    /// Labels that these hosts have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub placement: BTreeMap<String, String>,
}

/// One deployable component: steps fused in order, or none for a stage that
/// only passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stage {
    /// Name, unique in the pipeline: of the first step, or `from-<source>` or
    /// `to-<sink>` for a stage without steps.
    pub name: String,
    /// The steps in the order of the flow.
    pub steps: Vec<PlannedStep>,
    /// What calls the stage.
    pub inputs: Vec<StageInput>,
    /// What the stage publishes to.
    pub output: Output,
    /// Most calls at once.
    pub instances: u64,
    /// What the sink behind the stage is to hold its messages to.
    #[serde(skip_serializing_if = "Writers::is_empty", default)]
    pub writers: Writers,
}

/// What steps may have a sink write, where any of them was granted some of it and is held to that: by the source or step before the
/// sink, and by the step that answers for what comes from there.
pub type Writers = BTreeMap<String, BTreeMap<String, BTreeSet<Grant>>>;

impl Stage {
    /// What the steps were granted of what lies outside, by step: each request is held against it.
    #[must_use]
    pub fn outside(&self) -> BTreeMap<String, BTreeSet<Grant>> {
        let of = |step: &PlannedStep| {
            let grants = step.grants.iter().filter_map(|grant| grant.parse::<Grant>().ok());
            let grants: BTreeSet<Grant> = grants.filter(Grant::is_outside).collect();
            (!grants.is_empty()).then(|| (step.name.clone(), grants))
        };
        self.steps.iter().filter_map(of).collect()
    }

    /// What the harness in a stage reads through wasi:config
    /// (docs/architecture.md, "Configuration of a stage").
    #[must_use]
    pub fn config(&self, pipeline: &str) -> BTreeMap<String, String> {
        let mut config = BTreeMap::from([
            ("pipeline".to_owned(), pipeline.to_owned()),
            ("stage".to_owned(), self.name.clone()),
            ("out-subject".to_owned(), format!("{pipeline}.out.{}", self.name)),
            ("dead-subject".to_owned(), format!("{pipeline}.dead.{}", self.name)),
        ]);
        for (position, step) in self.steps.iter().enumerate() {
            config.insert(format!("step.{position}.name"), step.name.clone());
            if !step.arms.is_empty() {
                config.insert(format!("step.{position}.arms"), step.arms.join(","));
            }
            for (key, value) in &step.config {
                config.insert(format!("step.{position}.config.{key}"), value.clone());
            }
            for (key, value) in &step.settings {
                config.insert(format!("step.{position}.{key}"), value.clone());
            }
            if step.kind.has_state() {
                config
                    .insert("state-subject".to_owned(), format!("{pipeline}.state.{}", self.name));
            }
            if let Some(window) = &step.window {
                config
                    .extend(window.harness().map(|text| (format!("step.{position}.window"), text)));
                let lateness = window.lateness_ns().to_string();
                config.insert(format!("step.{position}.lateness"), lateness);
            }
        }
        config
    }
}

/// A step inside a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedStep {
    /// Name of the step.
    pub name: String,
    /// What it does with a message.
    pub kind: Kind,
    /// File of the component: the binding's path, joined to the folder of the
    /// file it is in. Absent for a kind that needs none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub component: Option<PathBuf>,
    /// The arms of a branch, and those of a step with windows.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub arms: Vec<String>,
    /// Which messages of a key belong together; of a step with state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
    /// What the harness is told about a kind that needs no component.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub settings: BTreeMap<String, String>,
    /// Values for the component's init.
    pub config: BTreeMap<String, String>,
    /// What it may use beside computing, sorted.
    pub grants: Vec<String>,
    /// Most memory in bytes; absent for 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_max: Option<u64>,
}

/// What calls a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageInput {
    /// The provider of this source.
    Source(String),
    /// The conduit, from this edge.
    Edge(String),
}

impl StageInput {
    /// The source or step that what comes in is of.
    #[must_use]
    pub fn from(&self) -> &str {
        match self {
            Self::Source(name) => name,
            Self::Edge(name) => edge::from(name),
        }
    }
}

/// What a stage publishes to: one kind only, because the choice between links
/// at run time leaks between calls in this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// The provider of this sink.
    Sink(String),
    /// The conduit, to these edges; never empty.
    Edges(Vec<String>),
}

/// A durable edge between two stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Edge {
    /// `from.to`, the names in the definition at either end, or `from_arm.to` for an arm of a branch.
    pub name: String,
    /// The stage that publishes to it.
    pub from: String,
    /// The stage that is called from it.
    pub to: String,
    /// Why there is an edge and not a call.
    pub reason: Reason,
    /// The step behind it whose state goes with each batch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<KeyedState>,
    /// What it keeps.
    pub settings: EdgeSettings,
    /// How batches reach the stage behind it.
    pub delivery: Delivery,
}

impl Edge {
    /// The arm of the branch before it whose messages it takes; `None` for an edge that takes all.
    #[must_use]
    pub fn arm(&self) -> Option<&str> {
        edge::arm(&self.name)
    }
}

/// The state that goes with the batches of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyedState {
    /// The step whose state it is.
    pub step: String,
    /// After how many milliseconds without messages time goes on by the clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle_ms: Option<u64>,
}

/// Why two neighbours are not one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The author asked for a durable edge.
    Durable,
    /// The one before is a branch: each arm has its messages.
    Arm,
    /// The one before has a state: its results and what it does not take are apart.
    #[serde(alias = "window")]
    Results,
    /// The one behind has a state for each key.
    State,
    /// One of the two is a stage by itself.
    Monolithic,
    /// The one before uses what lies outside: its stage is linked to the conduit, which it asks.
    Outside,
    /// Several take messages from the one before.
    FanOut,
    /// The one behind takes messages from several.
    FanIn,
    /// The two have different numbers of instances.
    Instances,
    /// A stage has no more steps than a host takes.
    Size,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "the definition asks for a durable edge",
            Self::Arm => "the one before is a branch",
            Self::Results => "the one before has a state for each key",
            Self::State => "the one behind has a state for each key",
            Self::Monolithic => "one of the two is monolithic, a stage by itself",
            Self::Outside => "the stage before asks the conduit for what its steps were granted",
            Self::FanOut => "several take messages from the one before",
            Self::FanIn => "the one behind takes messages from several",
            Self::Instances => "the two have different numbers of instances",
            Self::Size => "a stage has eight steps at most",
        })
    }
}

/// A source with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedSource {
    /// Name of the source.
    pub name: String,
    /// Name of the connector.
    pub connector: String,
    /// The connector's settings, flat, with every default.
    pub settings: BTreeMap<String, String>,
    /// How batches reach the stage.
    pub delivery: Delivery,
    /// The one stage it calls.
    pub stage: String,
}

/// A sink with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedSink {
    /// Name of the sink.
    pub name: String,
    /// Name of the connector.
    pub connector: String,
    /// The connector's settings, flat, with every default.
    pub settings: BTreeMap<String, String>,
    /// The stages that publish to it.
    pub stages: Vec<String>,
}

/// Plans a pipeline. Component paths are joined to `folder`.
///
/// # Errors
///
/// When the pipeline has errors or no binding.
pub fn plan(pipeline: &Pipeline, folder: &Path) -> Result<Plan, PlanError> {
    let findings = lint::lint(pipeline);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(PlanError::Errors(findings));
    }
    let binding = pipeline.binding.as_ref().ok_or(PlanError::Unbound)?;
    of(pipeline, binding, folder)
}

/// Plans a pipeline for running it without a lattice: as [`plan`] does, but
/// sources and sinks need no binding, and have no connector without one.
///
/// # Errors
///
/// When the pipeline has other errors, or components are not bound.
pub fn desk_plan(pipeline: &Pipeline, folder: &Path) -> Result<Plan, PlanError> {
    let mut findings = lint::lint(pipeline);
    findings.retain(|f| f.severity == Severity::Error && !only_in_a_lattice(f));
    if !findings.is_empty() {
        return Err(PlanError::Errors(findings));
    }
    match &pipeline.binding {
        Some(binding) => of(pipeline, binding, folder),
        None if pipeline.calls.is_empty()
            && pipeline.steps.values().all(|step| step.kind.settings().is_some()) =>
        {
            of(pipeline, &Binding::default(), folder)
        }
        None => Err(PlanError::NoComponents),
    }
}

/// Whether a finding says no more than that a source or sink is not bound.
pub(crate) fn only_in_a_lattice(finding: &Finding) -> bool {
    let end = finding.path.starts_with("sources") || finding.path.starts_with("sinks");
    finding.rule == "no-binding" || finding.rule == "unbound" && end
}

fn of(pipeline: &Pipeline, binding: &Binding, folder: &Path) -> Result<Plan, PlanError> {
    let graph = Graph::new(pipeline);
    let mut builder = Builder::new(&graph, binding, folder);
    builder.ingress();
    builder.steps();
    builder.egress();
    builder.writers();
    Ok(Plan {
        pipeline: pipeline.pipeline.clone(),
        version: pipeline.version.clone(),
        edges: builder.edges()?,
        sources: builder.sources()?,
        sinks: builder.sinks()?,
        rollout: read("rollout", from_flat(&pipeline.rollout, &[]))?,
        stages: builder.stages,
        servers: servers(binding)?,
        hosts: binding.hosts,
        placement: binding.placement.clone(),
    })
}

/// The graph, and the one question planning asks of it.
struct Graph<'a> {
    pipeline: &'a Pipeline,
    consumers: BTreeMap<&'a str, Vec<&'a str>>,
    /// Steps that would be one too many in the stage of the step before.
    cut: BTreeSet<&'a str>,
}

impl<'a> Graph<'a> {
    fn new(pipeline: &'a Pipeline) -> Self {
        let mut graph =
            Self { pipeline, consumers: lint::consumers(pipeline), cut: BTreeSet::new() };
        // How many steps the stage of each has up to it.
        let mut place: BTreeMap<&str, usize> = BTreeMap::new();
        for step in lint::topological(pipeline) {
            let before = graph.calls(step).and_then(|before| place.get(before).copied());
            if before == Some(STEPS_MAX) {
                graph.cut.insert(step);
            }
            place.insert(step, before.filter(|before| *before < STEPS_MAX).unwrap_or(0) + 1);
        }
        graph
    }

    fn consumers(&self, name: &str) -> &[&'a str] {
        self.consumers.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn inputs(&self, name: &str) -> &'a [Input] {
        let step = self.pipeline.steps.get(name).map(|step| &step.from);
        step.or_else(|| self.pipeline.sinks.get(name).map(|sink| &sink.from))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn is_source(&self, name: &str) -> bool {
        self.pipeline.sources.contains_key(name)
    }

    fn instances(&self, step: &str) -> u64 {
        self.pipeline
            .steps
            .get(step)
            .and_then(|step| step.instances)
            .map_or(INSTANCES_DEFAULT, |n| n.get())
    }

    fn is_monolithic(&self, step: &str) -> bool {
        self.pipeline.steps.get(step).is_some_and(|step| step.kind == Kind::Monolithic)
    }

    /// Whether the stage of a step asks the provider it is linked to for what its steps were granted.
    fn asks(&self, step: &str) -> bool {
        let Some(found) = self.pipeline.steps.get(step) else { return false };
        let outside = |grant: &String| grant.parse().is_ok_and(|grant: Grant| grant.is_outside());
        found.kind == Kind::Enrich
            || found.grants.iter().any(outside)
            || self.calls(step).is_some_and(|before| self.asks(before))
    }

    /// Whether a sink holds messages of some step to what that was granted.
    fn is_held(&self, sink: &str) -> bool {
        let granted = |name: &str| {
            let step = self.pipeline.steps.get(name);
            let place = |grant: &String| matches!(grant.parse(), Ok(Grant::Write(_)));
            step.is_some_and(|step| step.grants.iter().any(place))
        };
        self.pipeline.sinks.contains_key(sink)
            && self.inputs(sink).iter().any(|input| {
                lint_grant::writers(self.pipeline, input.node()).into_iter().any(granted)
            })
    }

    fn has_state(&self, step: &str) -> bool {
        self.pipeline.steps.get(step).is_some_and(|step| step.kind.has_state())
    }

    /// The arms of a step: what it says itself, or those of its windows that somebody wants.
    fn arms(&self, name: &str) -> Vec<String> {
        let Some(step) = self.pipeline.steps.get(name) else { return Vec::new() };
        let Some(side) = step.kind.side_arm() else {
            return step.arms.clone();
        };
        let takes_it = |to: &&str| {
            self.inputs(to).iter().any(|input| input.node() == name && input.arm() == Some(side))
        };
        let taken = self.consumers(name).iter().any(takes_it);
        [RESULT].into_iter().chain(taken.then_some(side)).map(str::to_owned).collect()
    }

    fn edge_name(&self, input: &Input, to: &str) -> String {
        let result = self.has_state(input.node()).then_some(RESULT);
        edge::name(input.node(), input.arm().or(result), to)
    }

    /// The source or step that alone calls a step directly, if one does.
    fn calls(&self, step: &str) -> Option<&'a str> {
        match self.inputs(step) {
            [only] if self.edge(only, step).is_none() => Some(only.node()),
            _ => None,
        }
    }

    /// Why there must be a durable edge between a node and what comes before
    /// it; nothing if one calls the other directly.
    fn edge(&self, input: &Input, to: &str) -> Option<Reason> {
        let from = input.node();
        if input.durable.is_some() {
            return Some(Reason::Durable);
        }
        if self.has_state(from) {
            return Some(Reason::Results);
        }
        if input.arm().is_some() {
            return Some(Reason::Arm);
        }
        if self.has_state(to) {
            return Some(Reason::State);
        }
        if self.consumers(from).len() > 1 {
            return Some(Reason::FanOut);
        }
        if self.pipeline.sinks.contains_key(to) && self.asks(from) {
            return Some(Reason::Outside);
        }
        // The sink has to tell what is the source's from what is of a step that is held to its grants: only what comes from
        // edges is marked.
        if self.is_source(from) && self.inputs(to).len() > 1 && self.is_held(to) {
            return Some(Reason::FanIn);
        }
        // A source calls its stage and a stage its sink's provider, whatever
        // else does.
        if self.is_source(from) || self.pipeline.sinks.contains_key(to) {
            return None;
        }
        if self.is_monolithic(from) || self.is_monolithic(to) {
            return Some(Reason::Monolithic);
        }
        if self.inputs(to).len() > 1 {
            return Some(Reason::FanIn);
        }
        if self.instances(from) != self.instances(to) {
            return Some(Reason::Instances);
        }
        self.cut.contains(to).then_some(Reason::Size)
    }
}

struct Builder<'a> {
    graph: &'a Graph<'a>,
    binding: &'a Binding,
    folder: &'a Path,
    stages: Vec<Stage>,
    taken: BTreeSet<String>,
    /// The stage that publishes what a source or step gives: its index.
    tail: BTreeMap<&'a str, usize>,
    /// The stage that takes what is for a step or sink: its index.
    head: BTreeMap<&'a str, usize>,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph<'a>, binding: &'a Binding, folder: &'a Path) -> Self {
        // Steps give their names to stages; the others find names beside them.
        let taken = graph.pipeline.steps.keys().cloned().collect();
        Self {
            graph,
            binding,
            folder,
            stages: Vec::new(),
            taken,
            tail: BTreeMap::new(),
            head: BTreeMap::new(),
        }
    }

    /// A source whose messages must lie on an edge first gets a stage of its
    /// own, so that it is one client of the outside and not several.
    fn ingress(&mut self) {
        for source in self.graph.pipeline.sources.keys() {
            let consumers = self.graph.consumers(source);
            let direct = consumers.iter().all(|to| self.calls_directly(source, to));
            if !direct {
                let name = self.free_name("from", source);
                self.tail.insert(source, self.stages.len());
                self.stages.push(Stage {
                    name,
                    steps: Vec::new(),
                    inputs: vec![StageInput::Source(source.clone())],
                    output: self.edges_from(source),
                    instances: INSTANCES_DEFAULT,
                    writers: Writers::new(),
                });
            }
        }
    }

    fn calls_directly(&self, from: &str, to: &str) -> bool {
        let input = self.graph.inputs(to).iter().find(|input| input.node() == from);
        input.is_some_and(|input| self.graph.edge(input, to).is_none())
    }

    fn steps(&mut self) {
        for name in lint::topological(self.graph.pipeline) {
            let Some(step) = self.planned_step(name) else { continue };
            let inputs = self.graph.inputs(name);
            let fused = self.graph.calls(name).and_then(|before| self.tail.get(before).copied());
            let output = self.output_of(name);
            let index = match fused.and_then(|index| Some((index, self.stages.get_mut(index)?))) {
                Some((index, stage)) => {
                    stage.steps.push(step);
                    stage.output = output;
                    index
                }
                None => {
                    let inputs = self.stage_inputs(inputs, name);
                    let instances = self.graph.instances(name);
                    self.stages.push(Stage {
                        name: name.to_owned(),
                        steps: vec![step],
                        inputs,
                        output,
                        instances,
                        writers: Writers::new(),
                    });
                    self.stages.len() - 1
                }
            };
            self.tail.insert(name, index);
            self.head.insert(name, index);
        }
    }

    fn planned_step(&self, name: &str) -> Option<PlannedStep> {
        let step = self.graph.pipeline.steps.get(name)?;
        let component = match step.kind.settings() {
            Some(_) => None,
            None => {
                let file = &self.binding.components.get(&step.component)?.file;
                Some(self.folder.join(file.strip_prefix("./").unwrap_or(file)))
            }
        };
        let settings = harness(name, step).unwrap_or_default();
        // What an enrich looks up in is granted to it by saying so.
        let bucket = settings.get("bucket").filter(|_| step.kind == Kind::Enrich);
        let lookup = bucket.map(|bucket| {
            Grant::KeyValue { access: Access::Read, bucket: bucket.clone() }.to_string()
        });
        let grants: BTreeSet<String> = step.grants.iter().cloned().chain(lookup).collect();
        Some(PlannedStep {
            name: name.to_owned(),
            kind: step.kind,
            component,
            arms: self.graph.arms(name),
            // What lint found nothing wrong with can be read.
            window: window(name, step).ok().flatten(),
            settings,
            config: step.config.clone(),
            grants: grants.into_iter().collect(),
            memory_max: step.memory.map(|memory| memory.get()),
        })
    }

    fn stage_inputs(&self, inputs: &[Input], to: &str) -> Vec<StageInput> {
        inputs
            .iter()
            .map(|input| match self.graph.edge(input, to) {
                None => StageInput::Source(input.name.clone()),
                Some(_) => StageInput::Edge(self.graph.edge_name(input, to)),
            })
            .collect()
    }

    /// The output of a stage that ends with this step. If a step follows that
    /// joins the stage, it sets the output anew.
    fn output_of(&self, step: &str) -> Output {
        match self.graph.consumers(step) {
            [only]
                if self.graph.pipeline.sinks.contains_key(*only)
                    && self.calls_directly(step, only) =>
            {
                Output::Sink((*only).to_owned())
            }
            _ => self.edges_from(step),
        }
    }

    fn edges_from(&self, name: &str) -> Output {
        // One that takes several arms is there several times.
        let mut consumers = self.graph.consumers(name).to_vec();
        consumers.dedup();
        let edges = consumers.into_iter().flat_map(|to| {
            let from_here = self.graph.inputs(to).iter().filter(|input| input.node() == name);
            from_here.map(move |input| self.graph.edge_name(input, to))
        });
        Output::Edges(edges.collect())
    }

    /// A sink that not only stages write to directly gets a stage that takes
    /// the rest.
    fn egress(&mut self) {
        for sink in self.graph.pipeline.sinks.keys() {
            let rest: Vec<Input> = self
                .graph
                .inputs(sink)
                .iter()
                .filter(|input| {
                    self.graph.is_source(input.node()) || self.graph.edge(input, sink).is_some()
                })
                .cloned()
                .collect();
            if !rest.is_empty() {
                let name = self.free_name("to", sink);
                self.head.insert(sink, self.stages.len());
                self.stages.push(Stage {
                    name,
                    steps: Vec::new(),
                    inputs: self.stage_inputs(&rest, sink),
                    output: Output::Sink(sink.clone()),
                    instances: INSTANCES_DEFAULT,
                    writers: Writers::new(),
                });
            }
        }
    }

    /// What the sink behind each stage holds its messages to.
    fn writers(&mut self) {
        let pipeline = self.graph.pipeline;
        for stage in &mut self.stages {
            let Output::Sink(sink) = &stage.output else { continue };
            let Some(bound) = self.binding.sinks.get(sink) else { continue };
            // A stage that only passes on is behind several; one with steps ends with the one before the sink.
            let before: Vec<&str> = match stage.steps.last() {
                Some(last) => vec![&last.name],
                None => stage.inputs.iter().map(StageInput::from).collect(),
            };
            let held = |from: &str| {
                let steps = lint_grant::writers(pipeline, from).into_iter();
                let granted = steps.filter_map(|name| {
                    let step = pipeline.steps.get(name)?;
                    let places = lint_grant::places(&step.grants, &bound.connector);
                    let grants: BTreeSet<Grant> =
                        places.map(|(_, place)| Grant::Write(place)).collect();
                    (!grants.is_empty()).then(|| (name.to_owned(), grants))
                });
                (from.to_owned(), granted.collect())
            };
            let writers: Writers = before.into_iter().map(held).collect();
            if writers.values().any(|steps| !steps.is_empty()) {
                stage.writers = writers;
            }
        }
    }

    /// `<prefix>-<name>`, cut to length and numbered if that is taken.
    fn free_name(&mut self, prefix: &str, name: &str) -> String {
        let wanted: String = format!("{prefix}-{name}").chars().take(NAME_MAX).collect();
        let mut free = wanted.clone();
        let mut number = 1;
        while !self.taken.insert(free.clone()) {
            number += 1;
            let suffix = format!("-{number}");
            let kept: String = wanted.chars().take(NAME_MAX - suffix.len()).collect();
            free = kept + &suffix;
        }
        free
    }

    fn stage_name(&self, index: Option<&usize>) -> String {
        index
            .and_then(|index| self.stages.get(*index))
            .map(|stage| stage.name.clone())
            .unwrap_or_default()
    }

    fn edges(&self) -> Result<Vec<Edge>, PlanError> {
        let pipeline = self.graph.pipeline;
        let mut edges = Vec::new();
        for to in pipeline.steps.keys().chain(pipeline.sinks.keys()) {
            let state = self.state(to)?;
            for input in self.graph.inputs(to) {
                let Some(reason) = self.graph.edge(input, to) else { continue };
                let name = self.graph.edge_name(input, to);
                let mut durable = input.durable.clone().unwrap_or_default();
                if state.is_some() {
                    lint::partitioned(&mut durable.settings);
                }
                edges.push(Edge {
                    from: self.stage_name(self.tail.get(input.node())),
                    to: self.stage_name(self.head.get(to.as_str())),
                    reason,
                    state: state.clone(),
                    settings: read(&name, from_flat(&durable.settings, &[]))?,
                    delivery: read(&name, from_flat(&durable.delivery, &[]))?,
                    name,
                });
            }
        }
        edges.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(edges)
    }

    fn state(&self, step: &str) -> Result<Option<KeyedState>, PlanError> {
        let Some(planned) = self.graph.pipeline.steps.get(step).filter(|s| s.kind.has_state())
        else {
            return Ok(None);
        };
        let idle = window(step, planned)?.and_then(|window| window.idle);
        Ok(Some(KeyedState { step: step.to_owned(), idle_ms: idle.map(|idle| idle.as_millis()) }))
    }

    fn sources(&self) -> Result<Vec<PlannedSource>, PlanError> {
        let mut sources = Vec::new();
        // Unbound ones are only there at the desk.
        let unbound = SourceBinding::default();
        for name in self.graph.pipeline.sources.keys() {
            let source = self.binding.sources.get(name).unwrap_or(&unbound);
            let input = StageInput::Source(name.clone());
            let stage = self.stages.iter().find(|stage| stage.inputs.contains(&input));
            sources.push(PlannedSource {
                name: name.clone(),
                connector: source.connector.clone(),
                settings: complete(name, &source.connector, &source.settings, |connector| {
                    Some(&connector.source)
                })?,
                delivery: read(name, from_flat(&source.delivery, &[]))?,
                stage: stage.map(|stage| stage.name.clone()).unwrap_or_default(),
            });
        }
        Ok(sources)
    }

    fn sinks(&self) -> Result<Vec<PlannedSink>, PlanError> {
        let mut sinks = Vec::new();
        let unbound = SinkBinding::default();
        for name in self.graph.pipeline.sinks.keys() {
            let sink = self.binding.sinks.get(name).unwrap_or(&unbound);
            let output = Output::Sink(name.clone());
            let writers = self.stages.iter().filter(|stage| stage.output == output);
            sinks.push(PlannedSink {
                name: name.clone(),
                connector: sink.connector.clone(),
                settings: complete(name, &sink.connector, &sink.settings, |connector| {
                    connector.sink.as_ref()
                })?,
                stages: writers.map(|stage| stage.name.clone()).collect(),
            });
        }
        Ok(sinks)
    }
}

fn servers(binding: &Binding) -> Result<BTreeMap<String, Server>, PlanError> {
    let read = |(name, settings): (&String, &BTreeMap<String, String>)| {
        Ok((name.clone(), read(name, from_flat(settings, &[]))?))
    };
    binding.servers.iter().map(read).collect()
}

/// The windows of a step with state.
fn window(name: &str, step: &Step) -> Result<Option<Window>, PlanError> {
    let has_windows = step.kind.has_windows();
    has_windows.then(|| read(name, from_flat(&step.window, &[]))).transpose()
}

/// What the harness is told about a step that needs no component.
fn harness(name: &str, step: &Step) -> Result<BTreeMap<String, String>, PlanError> {
    let settings = &step.settings;
    Ok(match step.kind {
        Kind::DeDuplicate => read(name, from_flat::<DeDuplicate, _>(settings, &[]))?.harness(),
        Kind::Throttle => read(name, from_flat::<Throttle, _>(settings, &[]))?.harness(),
        Kind::Enrich => read(name, from_flat::<Enrich, _>(settings, &[]))?.harness(),
        _ => BTreeMap::new(),
    })
}

fn read<T>(name: &str, result: Result<T, FieldError>) -> Result<T, PlanError> {
    result.map_err(|source| PlanError::Settings { name: name.to_owned(), source })
}

/// A connector's settings with every default.
fn complete(
    name: &str,
    connector: &str,
    settings: &BTreeMap<String, String>,
    side: fn(&registry::Connector) -> Option<&registry::Kind>,
) -> Result<BTreeMap<String, String>, PlanError> {
    if connector.is_empty() {
        return Ok(BTreeMap::new());
    }
    match registry::connector(connector).and_then(side) {
        Some(kind) => read(name, (kind.complete)(settings)),
        None => read(name, Err(FieldError::invalid("connector", connector, "is not known"))),
    }
}
