//! What can go wrong. Each message names the thing and, where there is one, the mend.

use crate::MAX_STEPS;
use crate::inspect::MAX_COMPONENT_BYTES;
use crate::kind::{Kind, list};
use crate::memory::{MAX_MEMORY, MIN_MEMORY};

/// Why a file is not a component that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComponentError {
    /// Beyond [`MAX_COMPONENT_BYTES`].
    #[error("the component is {bytes} bytes, at most {MAX_COMPONENT_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not WebAssembly.
    #[error("this is not a WebAssembly component: it does not start with the bytes of a wasm file")]
    NotWasm,
    /// WebAssembly, but a core module.
    #[error(
        "this is a core WebAssembly module and not a component; build it for the target wasm32-wasip2 \
         (`cargo build --target wasm32-wasip2`), or make a component of it with `wasm-tools component new`"
    )]
    CoreModule,
    /// A component that does not validate.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// A component that is built in a way whose memory cannot be counted.
    #[error("the component's memory cannot be bounded: {0}")]
    Unbounded(String),
}

/// Why a step's component cannot be part of a stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It is no usable component.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// A kind that calls a component, without one.
    #[error("{} needs a component", a_step(*.0))]
    NoComponent(Kind),
    /// A kind that calls no component, with one or with what one would need.
    #[error(
        "{} runs no component, and can have no component, no grants and no memory maximum",
        a_step(*.0)
    )]
    NeedsNone(Kind),
    /// It does not export what its kind needs.
    #[error("{} has to export `{}`, but this component exports {}{}", a_step(*kind), kind.interface().unwrap_or_default(), list(exports), suggestion(fits))]
    MissingExport {
        /// The kind the step is said to be.
        kind: Kind,
        /// What it exports.
        exports: Vec<String>,
        /// The kinds it could be.
        fits: Vec<Kind>,
    },
    /// It imports something that was not granted.
    #[error(
        "the component imports `{import}`, which is not granted; add `{grant}` to the step's grants, or build it without"
    )]
    NotGranted {
        /// The import.
        import: String,
        /// How the grant is written that would allow it.
        grant: &'static str,
    },
    /// It imports something that is never granted.
    #[error("the component imports `{import}`, which no step may use{}", why(import))]
    Refused {
        /// The import.
        import: String,
    },
    /// An interface has the right name and another shape.
    #[error(
        "`{interface}` does not have the shape the platform knows: {detail}; build the step against the platform's WIT"
    )]
    WrongShape {
        /// The interface.
        interface: String,
        /// What differs.
        detail: String,
    },
    /// The memory maximum is out of range.
    #[error(
        "the memory maximum is {asked} bytes; it has to be between {MIN_MEMORY} (64 KiB) and {MAX_MEMORY} (1 GiB)"
    )]
    MemoryRange {
        /// What was asked for, in bytes.
        asked: u64,
    },
    /// The component needs more memory to start than it may have.
    #[error(
        "the component needs {minimum} bytes of memory to start, and its maximum is {maximum} bytes; raise the step's memory maximum"
    )]
    MemoryTooSmall {
        /// What it starts with, in bytes.
        minimum: u64,
        /// What it may have, in bytes.
        maximum: u64,
    },
}

/// Why a stage could not be composed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// One of its steps cannot be part of it.
    #[error("step `{step}`: {error}")]
    Step {
        /// Name of the step.
        step: String,
        /// What is wrong with it.
        #[source]
        error: StepError,
    },
    /// More than [`MAX_STEPS`].
    #[error(
        "the stage has {steps} steps, at most {MAX_STEPS} are allowed; a durable edge starts a new stage"
    )]
    TooManySteps {
        /// Their number.
        steps: usize,
    },
    /// A step with state, or one that is a stage itself, beside others.
    #[error(
        "step `{step}` has to be the only step of its stage, because it has state or is monolithic, and the stage has \
         {steps}; a durable edge before it and behind it makes it one"
    )]
    NotAlone {
        /// Name of the step.
        step: String,
        /// Number of steps of the stage.
        steps: usize,
    },
    /// The parts do not fit together: a defect of the platform, not of a step.
    #[error("the stage could not be linked: {0}")]
    Link(String),
    /// The finished artifact is open to the host where it must not be: a defect of the platform. Nothing is handed out.
    #[error(
        "the composed stage {0}; this is a defect of the platform, and the stage must not be deployed"
    )]
    Escape(String),
}

fn a_step(kind: Kind) -> String {
    let article = if matches!(kind, Kind::Accumulate | Kind::Enrich) { "an" } else { "a" };
    format!("{article} {kind} step")
}

fn suggestion(fits: &[Kind]) -> String {
    match fits {
        [] => "; build it against a world of `millrace:step`".to_owned(),
        [kind] => format!("; it is {}: write `{kind}` in the pipeline", a_step(*kind)),
        several => format!("; it could be one of: {}", list(several)),
    }
}

fn why(import: &str) -> &'static str {
    if import.starts_with("wasi:sockets/") {
        ": sockets are never granted; what a step sends goes through the pipeline"
    } else if import.starts_with("wasi:http/") {
        ": wasi:http is never granted; import `millrace:step/http`, and grant `http:METHOD:HOST`"
    } else if import.starts_with("wasi:filesystem/") {
        ": file systems are never granted"
    } else {
        ""
    }
}
