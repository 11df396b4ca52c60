//! Composes customers' components and the trusted harness into one stage artifact.
//!
//! This is where a customer is confined. Plugging components together leaves whatever they import open to the host, so
//! composition decides about every import: granted and left open, satisfied by the `deny` component inside the artifact, or
//! refused by name. Afterwards the artifact's imports are compared with what may be left, and anything else is an error.
//!
//! The layers, each a module:
//!
//! 1. `inspect`: what a component exports, imports, and how much memory it wants
//! 2. `policy`: what becomes of each import
//! 3. `memory`: the memory maximum, written into the component
//! 4. `link`: the harness and the steps as one chain
//! 5. `artifact`: metadata, digest, and reading them back

mod artifact;
mod error;
mod harness;
mod inspect;
mod kind;
mod link;
mod memory;
mod policy;

use std::collections::BTreeSet;

pub use artifact::{Artifact, InspectError, Part, StageMetadata, StepMetadata, digest, inspect};
pub use error::{ComponentError, ComposeError, StepError};
pub use harness::{HARNESS_VERSION, harness_parts};
pub use inspect::{ComponentInfo, MAX_COMPONENT_BYTES, MemoryInfo, Producer, inspect_component};
pub use kind::{Kind, UnknownKind};
pub use memory::{DEFAULT_MEMORY, MAX_MEMORY, MIN_MEMORY, PAGE};
pub use millrace_grants::{Grant, UnknownGrant};
pub use policy::{Decision, check, decide, decide_for, grant_for, is_granted};

/// Most steps in one stage.
pub const MAX_STEPS: usize = 64;

/// What a stage is made of.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// Name of the stage.
    pub name: String,
    /// Version of the stage, for people.
    pub version: String,
    /// The steps, in the order in which messages pass them. None makes an egress stage: what comes in goes out.
    pub steps: Vec<StepSpec>,
}

/// One step of a stage.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// Name of the step.
    pub name: String,
    /// Which interface of `millrace:step` is driven.
    pub kind: Kind,
    /// The customer's component; `None` for a kind that calls none.
    pub component: Option<Vec<u8>>,
    /// What it may use beyond its own memory.
    pub grants: BTreeSet<Grant>,
    /// Greatest memory in bytes, [`MIN_MEMORY`] to [`MAX_MEMORY`]; [`DEFAULT_MEMORY`] when absent. Rounded down to whole
    /// pages.
    pub memory_max: Option<u64>,
}

/// Makes the artifact of a stage. The same spec gives the same bytes.
///
/// # Errors
///
/// [`ComposeError`]: each names the step and says what would mend it.
pub fn compose(stage: &StageSpec) -> Result<Artifact, ComposeError> {
    if stage.steps.len() > MAX_STEPS {
        return Err(ComposeError::TooManySteps { steps: stage.steps.len() });
    }
    let alone = stage.steps.iter().find(|step| step.kind.stands_alone());
    if let (Some(step), 2..) = (alone, stage.steps.len()) {
        return Err(ComposeError::NotAlone { step: step.name.clone(), steps: stage.steps.len() });
    }
    let steps = stage
        .steps
        .iter()
        .map(|step| {
            prepare(step).map_err(|error| ComposeError::Step { step: step.name.clone(), error })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let linked = link::link(&steps)?;
    artifact::finish(stage, &linked)
}

/// A step that may run: checked, with its memory bounded.
struct Prepared {
    name: String,
    kind: Kind,
    grants: BTreeSet<Grant>,
    customer: Option<Customer>,
}

/// The customer's component of a step.
struct Customer {
    /// The interface that the platform calls.
    interface: &'static str,
    info: ComponentInfo,
    bytes: Vec<u8>,
}

fn prepare(step: &StepSpec) -> Result<Prepared, StepError> {
    let customer = match (step.kind.interface(), &step.component) {
        (Some(interface), Some(component)) => {
            let info = inspect_component(component)?;
            check(&info, step.kind, &step.grants)?;
            let bytes = memory::limit(component, step.memory_max.unwrap_or(DEFAULT_MEMORY))?;
            Some(Customer { interface, info, bytes })
        }
        (Some(_), None) => return Err(StepError::NoComponent(step.kind)),
        // What an enrich looks up in is its grant.
        (None, None)
            if (step.grants.is_empty() || step.kind == Kind::Enrich)
                && step.memory_max.is_none() =>
        {
            None
        }
        (None, _) => return Err(StepError::NeedsNone(step.kind)),
    };
    Ok(Prepared { name: step.name.clone(), kind: step.kind, grants: step.grants.clone(), customer })
}
