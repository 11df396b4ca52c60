//! What a finished artifact carries beside its code: who it is and what it is made of, as JSON in a custom section.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasm_encoder::ComponentSection;
use wasmparser::{Encoding, Parser, Payload};

use crate::Grant;
use crate::error::ComposeError;
use crate::harness::HARNESS_VERSION;
use crate::kind::Kind;
use crate::link::Linked;
use crate::memory::DEFAULT_MEMORY;
use crate::{StageSpec, StepSpec};

/// Name of the custom section.
const SECTION: &str = "millrace:stage";

/// Greatest size of the metadata that is read, in bytes.
const MAX_METADATA: usize = 1024 * 1024;

/// A composed stage.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The component.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, in hexadecimal.
    pub digest: String,
    /// What the artifact says about itself.
    pub metadata: StageMetadata,
}

/// What an artifact says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageMetadata {
    /// Version of this structure: 1.
    pub format: u32,
    /// Name of the stage.
    pub name: String,
    /// Version of the stage.
    pub version: String,
    /// Version of the harness in it.
    pub harness: String,
    /// Its steps, in order.
    pub steps: Vec<StepMetadata>,
    /// The components it was made of.
    pub parts: Vec<Part>,
}

/// A step of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepMetadata {
    /// Name of the step.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// What it was granted.
    pub grants: Vec<Grant>,
    /// Its memory maximum in bytes; absent where it has no component.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_max: Option<u64>,
    /// SHA-256 of the customer's component as it was given, in hexadecimal; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
}

/// A component that an artifact was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name of a part of the harness; `step-` and the digest for a customer's component.
    pub name: String,
    /// SHA-256 of the bytes that are in the artifact: a customer's with its memory bounded. In hexadecimal.
    pub digest: String,
}

/// Why an artifact's metadata could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Not a component.
    #[error("this is not a component: {0}")]
    NotAComponent(String),
    /// A component, but not one that [`crate::compose`] made.
    #[error(
        "this component is not a composed stage: it has no section `{SECTION}`; `millrace pipeline build` makes stages"
    )]
    NotAStage,
    /// The metadata is damaged or of a later version.
    #[error("the stage's metadata cannot be read: {0}")]
    Metadata(String),
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what an artifact says about itself. It says what it was told: trust it as far as you trust its digest.
///
/// # Errors
///
/// [`InspectError`].
pub fn inspect(bytes: &[u8]) -> Result<StageMetadata, InspectError> {
    if !Parser::is_component(bytes) {
        return Err(InspectError::NotAComponent(
            "it does not start with the bytes of one".to_owned(),
        ));
    }
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| InspectError::NotAComponent(error.to_string()))? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 1 && section.name() == SECTION => {
                return read(section.data());
            }
            _ => {}
        }
    }
    Err(InspectError::NotAStage)
}

fn read(data: &[u8]) -> Result<StageMetadata, InspectError> {
    if data.len() > MAX_METADATA {
        return Err(InspectError::Metadata(format!(
            "{} bytes, at most {MAX_METADATA} are read",
            data.len()
        )));
    }
    let metadata: StageMetadata =
        serde_json::from_slice(data).map_err(|error| InspectError::Metadata(error.to_string()))?;
    if metadata.format != 1 {
        return Err(InspectError::Metadata(format!(
            "its format is {}, and this version reads 1",
            metadata.format
        )));
    }
    Ok(metadata)
}

/// Adds the metadata to a linked stage.
pub(crate) fn finish(stage: &StageSpec, linked: &Linked) -> Result<Artifact, ComposeError> {
    let metadata = StageMetadata {
        format: 1,
        name: stage.name.clone(),
        version: stage.version.clone(),
        harness: HARNESS_VERSION.to_owned(),
        steps: stage.steps.iter().map(describe).collect(),
        parts: linked.parts.clone(),
    };
    let json =
        serde_json::to_vec(&metadata).map_err(|error| ComposeError::Link(error.to_string()))?;
    let mut bytes = linked.bytes.clone();
    wasm_encoder::CustomSection { name: SECTION.into(), data: json.into() }
        .append_to_component(&mut bytes);
    Ok(Artifact { digest: digest(&bytes), bytes, metadata })
}

fn describe(step: &StepSpec) -> StepMetadata {
    let component = step.component.as_deref();
    StepMetadata {
        name: step.name.clone(),
        kind: step.kind,
        grants: step.grants.iter().cloned().collect(),
        memory_max: component.map(|_| step.memory_max.unwrap_or(DEFAULT_MEMORY)),
        digest: component.map(digest),
    }
}
