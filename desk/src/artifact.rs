//! A planned stage as the component that is deployed: the same for the desk and for a lattice.

use std::path::PathBuf;

use millrace_compose::{Artifact, ComposeError, StageSpec, StepSpec, UnknownGrant, UnknownKind};
use millrace_pipeline::{Plan, PlannedStep, Stage};

/// Why a stage of a plan has no artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The component of a step could not be read.
    #[error("step `{step}`: could not read {file}: {source}", file = file.display())]
    Read {
        /// The step.
        step: String,
        /// The component's file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A plan that was not made by this version.
    #[error("step `{step}`: {source}")]
    Kind {
        /// The step.
        step: String,
        /// The kind nobody knows.
        source: UnknownKind,
    },
    /// The same of a grant.
    #[error("step `{step}`: {source}")]
    Grant {
        /// The step.
        step: String,
        /// The grant nobody knows.
        source: UnknownGrant,
    },
    /// The parts do not go together.
    #[error("stage `{stage}` cannot be composed: {source}")]
    Compose {
        /// The stage.
        stage: String,
        /// Why not.
        source: ComposeError,
    },
}

/// Composes a stage of a plan.
///
/// # Errors
///
/// When a component cannot be read or used.
pub fn compose(plan: &Plan, stage: &Stage) -> Result<Artifact, ArtifactError> {
    millrace_compose::compose(&spec(plan, stage)?)
        .map_err(|source| ArtifactError::Compose { stage: stage.name.clone(), source })
}

/// What a stage of a plan is composed of.
///
/// # Errors
///
/// When a component cannot be read.
pub fn spec(plan: &Plan, stage: &Stage) -> Result<StageSpec, ArtifactError> {
    let steps = stage.steps.iter().map(step).collect::<Result<_, _>>()?;
    Ok(StageSpec { name: stage.name.clone(), version: plan.version.clone(), steps })
}

fn step(step: &PlannedStep) -> Result<StepSpec, ArtifactError> {
    let name = || step.name.clone();
    let read = |file: &PathBuf| {
        std::fs::read(file).map_err(|source| ArtifactError::Read {
            step: name(),
            file: file.clone(),
            source,
        })
    };
    let component = step.component.as_ref().map(read).transpose()?;
    let kind = step.kind.as_str().parse();
    let grants = step.grants.iter().map(|grant| grant.parse()).collect::<Result<_, _>>();
    Ok(StepSpec {
        name: name(),
        kind: kind.map_err(|source| ArtifactError::Kind { step: name(), source })?,
        component,
        grants: grants.map_err(|source| ArtifactError::Grant { step: name(), source })?,
        memory_max: step.memory_max,
    })
}
