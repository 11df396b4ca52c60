//! The model of a pipeline definition, and the source of its JSON Schema: the
//! comments on the fields are what an editor shows.
//!
//! Names and settings are kept as the author wrote them, wrong ones too, so
//! that lint can speak of them. What is out of range for a type of its own
//! (memory, instances) was reported while reading and has its default here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use millrace_settings::{Bytes, Count, registry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parameters::Parameter;
use crate::schema;
use crate::test::Test;

/// The version of the language this crate reads.
pub const VERSION: &str = "v1alpha1";

/// Arm of a step with windows: its results.
pub const RESULT: &str = "result";

/// Arm of a step with windows: messages that came too late for theirs.
pub const LATE: &str = "late";

/// Arm of a de-duplicate: messages that have come before.
pub const DUPLICATE: &str = "duplicate";

/// Arm of a throttle: messages that are too many.
pub const EXCESS: &str = "excess";

/// Calls of one stage at once when the author says nothing.
pub const INSTANCES_DEFAULT: u64 = 100;

/// Memory maximum of one step: 1MiB to the host's bound of 256MiB.
pub type Memory = Bytes<1_048_576, 268_435_456>;

/// Calls of one stage at once.
pub type Instances = Count<1, 1_000>;

/// A pipeline: sources, steps and sinks, and what their names mean here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields, title = "Millrace pipeline")]
pub struct Pipeline {
    /// Version of the pipeline language: v1alpha1.
    #[schemars(schema_with = "schema::language_version")]
    pub millrace: String,
    /// Name of the pipeline: lower-case letters, digits and hyphens, at most 40.
    #[schemars(with = "schema::Name")]
    pub pipeline: String,
    /// Version of this definition, as in semantic versioning: 0.1.0.
    #[schemars(schema_with = "schema::semantic_version")]
    pub version: String,
    /// What the pipeline is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the definition leaves open, by name: a default value, or what its
    /// values may be. `${name}` in a value stands for it. The values come from
    /// the binding or the command line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<schema::Name, Parameter>")]
    pub parameters: BTreeMap<String, Parameter>,
    /// Where messages come from, by name: a list of names, or names with
    /// options.
    #[schemars(schema_with = "schema::sources")]
    pub sources: BTreeMap<String, Source>,
    /// What is done with them, by name: steps, and calls of other pipelines.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::steps")]
    pub steps: BTreeMap<String, Step>,
    /// The steps that stand for the steps of another pipeline. Reading a definition puts those in their place, so that
    /// there are none in one without errors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(skip)]
    pub calls: BTreeMap<String, Call>,
    /// Where results go, by name.
    #[schemars(with = "BTreeMap<schema::Name, Sink>")]
    pub sinks: BTreeMap<String, Sink>,
    /// How a new version is watched when it has taken over, and when the version before
    /// it is put back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::rollout")]
    pub rollout: BTreeMap<String, String>,
    /// What each name means in this environment. Without it the pipeline can
    /// be checked and not deployed; it may also be in a file of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// What has to come of which messages, by name: for `millrace pipeline
    /// test`, which runs the pipeline without a lattice. No part of what is
    /// deployed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<schema::Name, Test>")]
    pub tests: BTreeMap<String, Test>,
}

impl Pipeline {
    /// The fields of a definition, in the order in which people write them.
    pub const FIELDS: [&'static str; 11] = [
        "millrace",
        "pipeline",
        "version",
        "description",
        "parameters",
        "sources",
        "steps",
        "sinks",
        "rollout",
        "binding",
        "tests",
    ];
}

/// Options of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Source {
    /// What the source is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What is done with messages. Exactly one of map, filter, flat-map, branch, accumulate, delay and monolithic names a
/// component that does it, or one of de-duplicate, throttle, concatenate and enrich has the settings of what needs no component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields, transform = schema::add_kinds)]
pub struct Step {
    /// What the step does with a message.
    #[schemars(skip)]
    pub kind: Kind,
    /// Name of the component; empty for a kind that needs none.
    #[schemars(skip)]
    pub component: String,
    /// Settings of a kind that needs no component, as the author wrote them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(skip)]
    pub settings: BTreeMap<String, String>,
    /// What the step is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The arms of a branch: the names that its component gives. Messages of the
    /// arm `high` of a step `sort` are taken with `from: sort.high`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::arms")]
    pub arms: Vec<String>,
    /// The sources and steps this one takes messages from: a name, a name with
    /// options, or a list of either.
    #[schemars(schema_with = "schema::inputs")]
    pub from: Vec<Input>,
    /// Which messages of a key belong together: of an accumulate, which has one
    /// result for each window of each key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::window")]
    pub window: BTreeMap<String, String>,
    /// Values for the component's init: strings, numbers, true or false as they
    /// are written, mappings and lists as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::config")]
    pub config: BTreeMap<String, String>,
    /// What the component may use beside computing: clocks, random, log,
    /// config, kv:BUCKET, kv:read:BUCKET, http:METHOD:HOST. Nothing by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::grants")]
    pub grants: Vec<String>,
    /// Most memory one call may use, from 1MiB to 256MiB. Without it the
    /// 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Most calls at once, 100 by default. A step with another number than the
    /// one before it becomes a stage of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<Instances>,
}

/// What a step does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One message in, one out.
    Map,
    /// Keeps or drops.
    Filter,
    /// One message in, any number out.
    FlatMap,
    /// Sends each message to one of several named arms.
    Branch,
    /// Gathers the messages of a window into a state, and ends with a result.
    Accumulate,
    /// Gives a message another event time.
    Delay,
    /// Whole batches: a component that is a stage itself.
    Monolithic,
    /// Drops what has come before.
    DeDuplicate,
    /// Lets so many messages of a key through in a time.
    Throttle,
    /// Passes on what comes from several.
    Concatenate,
    /// Adds what a key-value bucket has for a message.
    Enrich,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::Map,
        Self::Filter,
        Self::FlatMap,
        Self::Branch,
        Self::Accumulate,
        Self::Delay,
        Self::Monolithic,
        Self::DeDuplicate,
        Self::Throttle,
        Self::Concatenate,
        Self::Enrich,
    ];

    /// The field that names a component of this kind, or has the settings of one without.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Filter => "filter",
            Self::FlatMap => "flat-map",
            Self::Branch => "branch",
            Self::Accumulate => "accumulate",
            Self::Delay => "delay",
            Self::Monolithic => "monolithic",
            Self::DeDuplicate => "de-duplicate",
            Self::Throttle => "throttle",
            Self::Concatenate => "concatenate",
            Self::Enrich => "enrich",
        }
    }

    /// Whether a step of this kind has a state for each key.
    #[must_use]
    pub const fn has_state(self) -> bool {
        matches!(self, Self::Accumulate | Self::DeDuplicate | Self::Throttle)
    }

    /// Whether a step of this kind has windows.
    #[must_use]
    pub const fn has_windows(self) -> bool {
        matches!(self, Self::Accumulate)
    }

    /// The settings of a kind that needs no component.
    #[must_use]
    pub const fn settings(self) -> Option<&'static registry::Kind> {
        match self {
            Self::DeDuplicate => Some(&registry::DE_DUPLICATE),
            Self::Throttle => Some(&registry::THROTTLE),
            Self::Concatenate => Some(&registry::CONCATENATE),
            Self::Enrich => Some(&registry::ENRICH),
            _ => None,
        }
    }

    /// The arm of what a step with state does not take, beside its results.
    #[must_use]
    pub const fn side_arm(self) -> Option<&'static str> {
        match self {
            Self::Accumulate => Some(LATE),
            Self::DeDuplicate => Some(DUPLICATE),
            Self::Throttle => Some(EXCESS),
            _ => None,
        }
    }

    /// What it does, in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Map => "Name of the component that turns each message into another.",
            Self::Filter => "Name of the component that keeps or drops each message.",
            Self::FlatMap => "Name of the component that turns each message into any number.",
            Self::Branch => {
                "Name of the component that sends each message to one of the step's arms."
            }
            Self::Accumulate => {
                "Name of the component that gathers the messages of a window into a result."
            }
            Self::Delay => "Name of the component that gives each message another event time.",
            Self::Monolithic => {
                "Name of the component that exports the lattice's interface itself and takes whole batches."
            }
            Self::DeDuplicate => "Drops what has come before; needs no component.",
            Self::Throttle => {
                "Lets so many messages of a key through in a time; needs no component."
            }
            Self::Concatenate => "Passes on what comes from several; needs no component, write {}.",
            Self::Enrich => {
                "Adds to each message what a key-value bucket has for it; needs no component."
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing a step or sink takes messages from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Input {
    /// Name of a source or step, or `step.arm` for an arm of a branch or a sink of a sub-pipeline.
    #[schemars(schema_with = "schema::origin")]
    pub name: String,
    /// Keep messages on disk between the two: true, or settings. What was
    /// accepted then survives a restart, and the two run as stages of their
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::durable")]
    pub durable: Option<Durable>,
}

impl Input {
    /// The source or step.
    #[must_use]
    pub fn node(&self) -> &str {
        self.name.split_once('.').map_or(self.name.as_str(), |(node, _)| node)
    }

    /// The arm of the branch, where it names one.
    #[must_use]
    pub fn arm(&self) -> Option<&str> {
        self.name.split_once('.').map(|(_, arm)| arm)
    }
}

/// Settings of a durable edge, as the author wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Durable {
    /// Fields of [`millrace_settings::edge::EdgeSettings`].
    #[serde(flatten)]
    pub settings: BTreeMap<String, String>,
    /// Fields of [`millrace_settings::Delivery`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub delivery: BTreeMap<String, String>,
}

/// The steps of another pipeline, put in here. What its sources give comes from here, and what comes to its sinks is taken
/// from here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = schema::add_call_inputs)]
pub struct Call {
    /// Name of the other pipeline; the binding says which file it is.
    #[schemars(with = "schema::Name")]
    pub pipeline: String,
    /// What it is there for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What its only source stands for: the sources and steps to take messages from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::inputs")]
    pub from: Vec<Input>,
    /// What each of its sources stands for, where it has several, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::call_inputs")]
    pub inputs: BTreeMap<String, Vec<Input>>,
    /// Values of its parameters, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::parameter_values")]
    pub parameters: BTreeMap<String, String>,
}

impl Call {
    /// What a source of the other pipeline stands for.
    #[must_use]
    pub fn input(&self, source: &str) -> &[Input] {
        if self.inputs.is_empty() {
            return &self.from;
        }
        self.inputs.get(source).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Sink {
    /// The sources and steps it takes messages from.
    #[schemars(schema_with = "schema::inputs")]
    pub from: Vec<Input>,
    /// What the sink is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What the names of a pipeline mean in one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Binding {
    /// Values of the definition's parameters, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::parameter_values")]
    pub parameters: BTreeMap<String, String>,
    /// The connector and settings of each source.
    #[serde(default)]
    #[schemars(with = "BTreeMap<schema::Name, SourceBinding>")]
    pub sources: BTreeMap<String, SourceBinding>,
    /// The connector and settings of each sink.
    #[serde(default)]
    #[schemars(with = "BTreeMap<schema::Name, SinkBinding>")]
    pub sinks: BTreeMap<String, SinkBinding>,
    /// The file of each component.
    #[serde(default)]
    #[schemars(with = "BTreeMap<schema::Name, Component>")]
    pub components: BTreeMap<String, Component>,
    /// The file of each sub-pipeline.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<schema::Name, SubPipeline>")]
    pub pipelines: BTreeMap<String, SubPipeline>,
    /// What is known of the servers that steps are granted requests to, by host,
    /// or host and port, as the grants name them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::servers")]
    pub servers: BTreeMap<String, BTreeMap<String, String>>,
    /// The hosts of the lattice that run the stages: one of them, which is the
    /// default, or every one.
    #[serde(default, skip_serializing_if = "Hosts::is_one")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Hosts,
    /// Labels that a host has to have to run the stages; any host without.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::placement")]
    pub placement: BTreeMap<String, String>,
}

/// The most characters of a label's name and value.
pub(crate) const LABEL_MAX: usize = 63;

/// Whether a text can be a label's name or value: letters, digits, dots, hyphens and underscores, at most [`LABEL_MAX`].
pub(crate) fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.len() <= LABEL_MAX && text.chars().all(plain)
}

/// The hosts of a lattice that run the stages of a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hosts {
    /// Each stage runs on one host, and on another when that one is gone.
    #[default]
    One,
    /// Each stage runs on every host, and calls go to any of them.
    Every,
}

impl Hosts {
    /// Whether it is the default.
    #[must_use]
    pub const fn is_one(&self) -> bool {
        matches!(self, Self::One)
    }
}

impl FromStr for Hosts {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "one" => Ok(Self::One),
            "every" => Ok(Self::Every),
            _ => Err("must be `one` or `every`"),
        }
    }
}

/// A source's connector with its settings, and how batches are delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceBinding {
    /// Name of the connector; empty when the author named none or several.
    pub connector: String,
    /// The connector's settings, as the author wrote them.
    pub settings: BTreeMap<String, String>,
    /// Fields of [`millrace_settings::Delivery`].
    pub delivery: BTreeMap<String, String>,
}

/// A sink's connector with its settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SinkBinding {
    /// Name of the connector; empty when the author named none or several.
    pub connector: String,
    /// The connector's settings, as the author wrote them.
    pub settings: BTreeMap<String, String>,
}

/// Where a sub-pipeline is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SubPipeline {
    /// Path of its definition, from the folder of this file.
    #[schemars(length(min = 1))]
    pub file: String,
    /// The digest that the file has to have: sha256: and 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::component_digest")]
    pub digest: Option<String>,
}

/// Where a component is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Component {
    /// Path of the WebAssembly component, from the folder of this file.
    #[schemars(length(min = 1))]
    pub file: String,
    /// The versions that it may be, as Cargo writes them: 1.2, ^1.2.3 or >=1, <3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::version_requirement")]
    pub version: Option<String>,
    /// The digest that it has to have: sha256: and 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::component_digest")]
    pub digest: Option<String>,
}
