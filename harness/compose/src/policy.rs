//! What becomes of each import of a customer's component. What is not named here is refused.

use std::collections::BTreeSet;

use wac_graph::types::are_semver_compatible;

use crate::error::StepError;
use crate::inspect::ComponentInfo;
use crate::kind::{Grant, Kind};

/// Types of the contract: no function, so nothing to confine.
const STEP_TYPES: &str = "millrace:step/types@0.1.0";

/// Imports that a grant leaves open to the host. What `clocks` grants is not among them: the `deny-clocks` component stands
/// between, because waiting is not part of the grant.
const OPEN: [(&str, Grant); 3] = [
    ("wasi:random/random@0.2.0", Grant::Random),
    ("wasi:logging/logging@0.1.0-draft", Grant::Log),
    ("wasi:config/store@0.2.0-draft", Grant::Config),
];

/// Imports that the deny component satisfies: what a program for wasm32-wasip2 imports as a matter of course.
const DENIED: [&str; 20] = [
    "wasi:cli/environment@0.2.0",
    "wasi:cli/exit@0.2.0",
    "wasi:cli/stdin@0.2.0",
    "wasi:cli/stdout@0.2.0",
    "wasi:cli/stderr@0.2.0",
    "wasi:cli/terminal-input@0.2.0",
    "wasi:cli/terminal-output@0.2.0",
    "wasi:cli/terminal-stdin@0.2.0",
    "wasi:cli/terminal-stdout@0.2.0",
    "wasi:cli/terminal-stderr@0.2.0",
    "wasi:clocks/monotonic-clock@0.2.0",
    "wasi:clocks/wall-clock@0.2.0",
    "wasi:filesystem/types@0.2.0",
    "wasi:filesystem/preopens@0.2.0",
    "wasi:io/error@0.2.0",
    "wasi:io/poll@0.2.0",
    "wasi:io/streams@0.2.0",
    "wasi:random/random@0.2.0",
    "wasi:random/insecure@0.2.0",
    "wasi:random/insecure-seed@0.2.0",
];

/// What the grant of clocks is about.
const CLOCKS: [&str; 2] = ["wasi:clocks/monotonic-clock@0.2.0", "wasi:clocks/wall-clock@0.2.0"];

/// What becomes of an import that a step may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It holds types only.
    Types,
    /// It stays open to the host.
    Open,
    /// The deny component satisfies it.
    Deny,
}

/// The grant that opens an import to the host, if one does.
#[must_use]
pub fn grant_for(import: &str) -> Option<Grant> {
    let is = |known: &str| are_semver_compatible(import, known);
    let open = OPEN.iter().find(|(known, _)| is(known)).map(|(_, grant)| *grant);
    open.or_else(|| CLOCKS.into_iter().any(is).then_some(Grant::Clocks))
}

/// Decides about one import.
///
/// # Errors
///
/// It is not granted, or never is.
pub fn decide(import: &str, grants: &BTreeSet<Grant>) -> Result<Decision, StepError> {
    let is = |known: &str| are_semver_compatible(import, known);
    if is(STEP_TYPES) {
        return Ok(Decision::Types);
    }
    let grant = OPEN.iter().find(|(known, _)| is(known)).map(|(_, grant)| *grant);
    if grant.is_some_and(|grant| grants.contains(&grant)) {
        return Ok(Decision::Open);
    }
    if DENIED.iter().any(|known| is(known)) {
        return Ok(Decision::Deny);
    }
    Err(match grant {
        Some(grant) => StepError::NotGranted { import: import.to_owned(), grant },
        None => StepError::Refused { import: import.to_owned() },
    })
}

/// What a component that is a stage itself imports of the lattice, without a grant: where it publishes is the matter of the
/// stage's link, and not of what it says.
const LATTICE: [&str; 3] = [
    "wasmcloud:messaging/types@0.2.0",
    "wasmcloud:messaging/consumer@0.2.0",
    "wasi:config/store@0.2.0-draft",
];

/// Decides about one import of a step of a kind.
///
/// # Errors
///
/// As [`decide`].
pub fn decide_for(
    kind: Kind,
    import: &str,
    grants: &BTreeSet<Grant>,
) -> Result<Decision, StepError> {
    let is = |known: &&str| are_semver_compatible(import, known);
    if kind == Kind::Monolithic && LATTICE.iter().any(is) {
        return Ok(Decision::Open);
    }
    decide(import, grants)
}

/// Checks that a component can be a step of this kind with these grants, as [`crate::compose`] does.
///
/// # Errors
///
/// The export is missing, or an import is not granted or refused.
pub fn check(info: &ComponentInfo, kind: Kind, grants: &BTreeSet<Grant>) -> Result<(), StepError> {
    if kind.interface().and_then(|interface| info.export(interface)).is_none() {
        return Err(StepError::MissingExport {
            kind,
            exports: info.exports.clone(),
            fits: info.kinds.clone(),
        });
    }
    info.imports.iter().try_for_each(|import| decide_for(kind, import, grants).map(drop))
}
