//! A step as the only one of its stage, at the desk: the artifact that would be deployed, without NATS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_batch::Batch;
use millrace_compose::{Grant, Kind};
use millrace_desk::{BuildError, Engine, LogLine, Message, Outcome, RunError, Runtime, Setting};
use millrace_pipeline::{Document, Loaded};
use serde_json::json;

/// Names around the step. No step is called so.
const SOURCE: &str = "given";
const SINK: &str = "result";

/// What a pipeline would say of a step.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The kind; needed where the component can be several.
    pub kind: Option<Kind>,
    /// The arms of a branch.
    pub arms: Vec<String>,
    /// The window of an accumulate, as a pipeline has it; without it one window for all of a year.
    pub window: BTreeMap<String, String>,
    /// Values for its `init`.
    pub config: BTreeMap<String, String>,
    /// What it is granted.
    pub grants: Vec<Grant>,
    /// Its memory maximum, as a pipeline has it: `128MiB`.
    pub memory: Option<String>,
}

/// Why a step cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The component can be no step that is run.
    #[error(
        "this component exports no interface of `millrace:step` that is run; build it against a world of the contract"
    )]
    NoKind,
    /// It can be several.
    #[error("this component can be {0}; say which with --kind")]
    SeveralKinds(String),
    /// A branch without arms.
    #[error(
        "a branch needs the names of its arms: give each with --arm NAME, or write `arms` into step.yaml"
    )]
    NoArms,
    /// A setting is wrong.
    #[error("{0}")]
    Settings(String),
    /// It cannot be composed or compiled.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It does not take its configuration, or a message fits into no batch.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A step that can be tried.
#[derive(Debug)]
pub struct Trial {
    pub(crate) runtime: Runtime,
    arms: Vec<String>,
    /// The stage of the step, where it has a state.
    pub(crate) with_state: Option<String>,
    /// What it is called with.
    pub(crate) setting: Setting,
}

/// What came of a message.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// What the step made of it, each with the arm where it is a branch.
    pub outputs: Vec<(Option<String>, Message)>,
    /// That it was rejected, and why.
    pub letters: Vec<Letter>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// How long it took.
    pub took: Duration,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// `invalid-argument`, `internal`, `retry`, `trap` or `timeout`.
    pub kind: String,
    /// The reason.
    pub text: String,
}

impl Letter {
    /// Whether the step did not answer: that is never right.
    #[must_use]
    pub fn is_trap(&self) -> bool {
        matches!(self.kind.as_str(), "trap" | "timeout")
    }
}

impl Trial {
    /// Composes the stage of one step and compiles it.
    ///
    /// # Errors
    ///
    /// [`TrialError`]: the kind is open, a setting is wrong, or composition refuses the component.
    pub fn build(
        engine: &Engine,
        component: &Path,
        kinds: &[Kind],
        settings: &Settings,
    ) -> Result<Self, TrialError> {
        let kind = kind(kinds, settings.kind)?;
        let arms = if kind == Kind::Branch { settings.arms.clone() } else { Vec::new() };
        if kind == Kind::Branch && arms.is_empty() {
            return Err(TrialError::NoArms);
        }
        let loaded = definition(component, kind, &arms, settings);
        let errors = loaded
            .findings()
            .iter()
            .filter(|finding| finding.severity == millrace_pipeline::Severity::Error);
        let errors: Vec<String> = errors
            .map(|f| match &f.mend {
                Some(mend) => format!("{}: {} ({mend})", f.path, f.message),
                None => format!("{}: {}", f.path, f.message),
            })
            .collect();
        if !errors.is_empty() {
            return Err(TrialError::Settings(errors.join("\n")));
        }
        let plan = loaded.desk_plan().map_err(|error| TrialError::Settings(error.to_string()))?;
        let own = plan.stages.iter().find(|stage| !stage.steps.is_empty());
        let with_state = own.filter(|_| kind.has_state()).map(|stage| stage.name.clone());
        let setting = Setting::default();
        Ok(Self { runtime: Runtime::build(engine, plan)?, arms, with_state, setting })
    }

    /// Whether the step has a state, so that it is given messages by [`Trial::windows`].
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.with_state.is_some()
    }

    /// Gives the step one message. For one with state: [`Trial::windows`].
    ///
    /// # Errors
    ///
    /// When it does not take its configuration, or the message fits into no batch.
    pub fn give(&self, message: &Message) -> Result<Tried, TrialError> {
        let start = Instant::now();
        let mut session = self.runtime.session(&self.setting);
        session.give(SOURCE, [message])?;
        session.settle()?;
        let run = session.end();
        let took = start.elapsed();
        let mut outputs = Vec::new();
        for (sink, messages) in run.sinks {
            let arm = sink.strip_prefix("arm-").and_then(|number| number.parse::<usize>().ok());
            let arm = arm.and_then(|number| self.arms.get(number)).cloned();
            outputs.extend(messages.into_iter().map(|message| (arm.clone(), message)));
        }
        let letters = run.letters.into_iter();
        let letters = letters.map(|l| Letter { kind: l.kind, text: l.text }).collect();
        Ok(Tried { outputs, letters, log: run.log, took })
    }

    /// Gives the step messages in one call.
    ///
    /// # Errors
    ///
    /// When it does not take its configuration, or a message fits into no batch.
    pub fn call(&self, messages: &[Message]) -> Result<Outcome, TrialError> {
        let outcome = self.runtime.call(SOURCE, messages, &self.setting)?;
        if let Some(text) = outcome.answer.about_configuration() {
            let stage = self.runtime.plan().stages.first();
            let stage = stage.map(|stage| stage.name.clone()).unwrap_or_default();
            return Err(RunError::Config { stage, text: text.to_owned() }.into());
        }
        Ok(outcome)
    }

    /// How many messages of a call became dead letters.
    pub(crate) fn rejected(&self, outcome: &Outcome) -> usize {
        let dead = outcome.published.iter().filter(|(subject, _)| subject.contains(".dead."));
        dead.map(|(_, body)| Batch::open(body).map_or(0, |batch| batch.len())).sum()
    }
}

fn kind(can_be: &[Kind], wanted: Option<Kind>) -> Result<Kind, TrialError> {
    match wanted.as_ref().map_or(can_be, std::slice::from_ref) {
        [] => Err(TrialError::NoKind),
        [one] => Ok(*one),
        several => {
            let names: Vec<&str> = several.iter().map(|kind| kind.name()).collect();
            Err(TrialError::SeveralKinds(names.join(" or ")))
        }
    }
}

/// The window of an accumulate: numbers as such, and everything else as text.
fn window(settings: &BTreeMap<String, String>) -> serde_json::Value {
    if settings.is_empty() {
        return json!({ "tumbling": "365d" });
    }
    let value = |text: &str| text.parse().map_or_else(|_| json!(text), |number: u64| json!(number));
    settings.iter().map(|(name, text)| (name.clone(), value(text))).collect()
}

/// The smallest pipeline with the step in it: what it may be told is then checked as everywhere.
fn definition(component: &Path, kind: Kind, arms: &[String], settings: &Settings) -> Loaded {
    let name = component
        .file_stem()
        .and_then(|stem| stem.to_str())
        .map(|stem| stem.replace('_', "-"))
        .filter(|stem| crate::check_name(stem).is_ok())
        .filter(|stem| stem != SOURCE && stem != SINK && !stem.starts_with("arm-"))
        .unwrap_or_else(|| "step".to_owned());
    let mut step = json!({ kind.name(): name.as_str(), "from": SOURCE });
    let mut sinks = serde_json::Map::new();
    if let Some(fields) = step.as_object_mut() {
        if !settings.config.is_empty() {
            fields.insert("config".into(), json!(settings.config));
        }
        if !settings.grants.is_empty() {
            let grants: Vec<String> = settings.grants.iter().map(ToString::to_string).collect();
            fields.insert("grants".into(), json!(grants));
        }
        if let Some(memory) = &settings.memory {
            fields.insert("memory".into(), json!(memory));
        }
        if kind == Kind::Branch {
            fields.insert("arms".into(), json!(arms));
        }
        if kind == Kind::Accumulate {
            fields.insert("window".into(), window(&settings.window));
        }
    }
    for (number, arm) in arms.iter().enumerate() {
        sinks.insert(format!("arm-{number}"), json!({ "from": format!("{name}.{arm}") }));
    }
    if arms.is_empty() {
        sinks.insert(SINK.into(), json!({ "from": name.as_str() }));
    }
    let file: PathBuf = std::path::absolute(component).unwrap_or_else(|_| component.to_owned());
    let text = json!({
        "millrace": millrace_pipeline::VERSION,
        "pipeline": "trial",
        "version": "0.0.0",
        "sources": [SOURCE],
        "steps": { name.as_str(): step },
        "sinks": sinks,
        "binding": { "components": { name.as_str(): { "file": file.to_string_lossy() } } },
    })
    .to_string();
    let document = Document { file: "step", text: &text };
    millrace_pipeline::load(document, None, &millrace_pipeline::Options::default()).at_the_desk()
}
