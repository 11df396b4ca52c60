//! What a component is, and whether composition would take it.

use std::collections::BTreeSet;

use millrace_compose::{
    ComponentError, ComposeError, Decision, Grant, Kind, PAGE, Producer, StageSpec, StepSpec,
    compose, decide_for, grant_for, inspect_component, is_granted,
};
use millrace_pipeline::component_version;
use serde::Serialize;

/// What a component is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// The version that it says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
    /// Size in bytes.
    pub bytes: usize,
    /// Kinds of steps it can be.
    pub kinds: Vec<Kind>,
    /// What it exports beside: nobody calls it.
    pub other_exports: Vec<String>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// Its memories.
    pub memories: Vec<Memory>,
    /// Memory that all of them have at the start, in bytes.
    pub initial_memory: u64,
    /// What it was made with, if it says so.
    pub producers: Vec<Producer>,
    /// Why composition would refuse it, each with the mend. None when it is taken.
    pub problems: Vec<String>,
}

/// A memory, in pages of 64 KiB.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// Pages at the start.
    pub initial_pages: u64,
    /// Most pages, if the component says so itself.
    pub maximum_pages: Option<u64>,
}

/// An import, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Import {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of an import.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub enum Fate {
    /// Types of the contract, without a function.
    Types,
    /// Open to the host without a grant: the lattice, for a component that is a stage itself.
    Lattice,
    /// Granted, and open to the host.
    Granted {
        /// The grant.
        grant: &'static str,
    },
    /// Satisfied inside the artifact by denial.
    Denied {
        /// The grant that would open it.
        #[serde(skip_serializing_if = "Option::is_none")]
        grant: Option<&'static str>,
    },
    /// Refused as long as it is not granted.
    Needs {
        /// The grant.
        grant: &'static str,
    },
    /// Refused whatever is granted.
    Refused {
        /// Why.
        why: String,
    },
}

/// Looks at a component. `grants` and `memory` are what the pipeline would give the step.
///
/// # Errors
///
/// When it is no component.
pub fn inspect(
    component: &[u8],
    grants: &BTreeSet<Grant>,
    memory: Option<u64>,
) -> Result<Inspection, ComponentError> {
    let info = inspect_component(component)?;
    let is_step = |name: &str| {
        info.kinds.iter().filter_map(|kind| info.export(kind.interface()?)).any(|own| own == name)
    };
    let problems = problems(component, &info.kinds, grants, memory);
    let pages = info.memories.iter().fold(0u64, |sum, m| sum.saturating_add(m.minimum_pages));
    Ok(Inspection {
        version: component_version(component),
        other_exports: info.exports.iter().filter(|name| !is_step(name)).cloned().collect(),
        imports: info.imports.iter().map(|name| import(&info.kinds, name, grants)).collect(),
        memories: info
            .memories
            .iter()
            .map(|m| Memory { initial_pages: m.minimum_pages, maximum_pages: m.maximum_pages })
            .collect(),
        initial_memory: pages.saturating_mul(PAGE),
        digest: info.digest,
        bytes: info.bytes,
        kinds: info.kinds,
        producers: info.producers,
        problems,
    })
}

fn import(kinds: &[Kind], name: &str, grants: &BTreeSet<Grant>) -> Import {
    let grant = grant_for(name);
    let kind = kinds.first().copied().unwrap_or(Kind::Map);
    let granted = is_granted(name, grants);
    let fate = match (decide_for(kind, name, grants), grant) {
        (Ok(Decision::Open), _) if !granted => Fate::Lattice,
        (Ok(Decision::Types), _) => Fate::Types,
        (Ok(_), Some(grant)) if granted => Fate::Granted { grant },
        (Ok(_), grant) => Fate::Denied { grant },
        (Err(_), Some(grant)) => Fate::Needs { grant },
        (Err(error), None) => Fate::Refused { why: error.to_string() },
    };
    Import { name: name.to_owned(), fate }
}

/// Composition itself says whether it would take the component, as each kind that it can be.
fn problems(
    component: &[u8],
    kinds: &[Kind],
    grants: &BTreeSet<Grant>,
    memory: Option<u64>,
) -> Vec<String> {
    if kinds.is_empty() {
        return vec![
            "it exports no interface of `millrace:step`; build it against a world of the contract, such as `map-step` \
             (`millrace step new` makes a project that is)"
                .to_owned(),
        ];
    }
    // What one kind is refused for beside its export, the others are too.
    let mut problems = Vec::new();
    for kind in kinds {
        let step = StepSpec {
            name: "step".to_owned(),
            kind: *kind,
            component: Some(component.to_vec()),
            grants: grants.clone(),
            memory_max: memory,
        };
        let stage =
            StageSpec { name: "step".to_owned(), version: String::new(), steps: vec![step] };
        if let Err(error) = compose(&stage) {
            let text = match error {
                ComposeError::Step { error, .. } => error.to_string(),
                other => other.to_string(),
            };
            if !problems.contains(&text) {
                problems.push(text);
            }
        }
    }
    problems
}
