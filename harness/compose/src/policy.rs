//! What becomes of each import of a customer's component. What is not named here is refused.

use std::collections::BTreeSet;

use wac_graph::types::are_semver_compatible;

use crate::Grant;
use crate::error::StepError;
use crate::inspect::ComponentInfo;
use crate::kind::Kind;

/// Types of the contract: no function, so nothing to confine.
const STEP_TYPES: &str = "millrace:step/types@0.1.0";

/// Imports that a grant leaves open to the host. What `clocks` grants is not among them: the `deny-clocks` component stands
/// between, because waiting is not part of the grant.
const OPEN: [(&str, Grant, &str); 3] = [
    ("wasi:random/random@0.2.0", Grant::Random, "random"),
    ("wasi:logging/logging@0.1.0-draft", Grant::Log, "log"),
    ("wasi:config/store@0.2.0-draft", Grant::Config, "config"),
];

/// Imports for what lies outside of the host, with the form of the grants for them. The harness is in between, and the provider
/// behind it holds each request against what was granted.
const OUTSIDE: [(&str, &str); 2] = [
    ("millrace:step/key-value@0.1.0", "kv:BUCKET"),
    ("millrace:step/http@0.1.0", "http:METHOD:HOST"),
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
    /// The part of the harness satisfies it that asks the provider in the name of the step.
    Ask,
}

/// How a grant for an import is written, if there is one.
#[must_use]
pub fn grant_for(import: &str) -> Option<&'static str> {
    let is = |known: &str| are_semver_compatible(import, known);
    let open = OPEN.iter().find(|(known, ..)| is(known)).map(|(_, _, form)| *form);
    let outside = || OUTSIDE.iter().find(|(known, _)| is(known)).map(|(_, form)| *form);
    open.or_else(outside).or_else(|| CLOCKS.into_iter().any(is).then_some("clocks"))
}

/// Whether one of the grants is for an import.
#[must_use]
pub fn is_granted(import: &str, grants: &BTreeSet<Grant>) -> bool {
    let is = |known: &str| are_semver_compatible(import, known);
    grants.iter().any(|grant| match grant {
        Grant::KeyValue { .. } => is("millrace:step/key-value@0.1.0"),
        Grant::Http { .. } => is("millrace:step/http@0.1.0"),
        Grant::Clocks => CLOCKS.into_iter().any(is),
        _ => OPEN.iter().any(|(known, own, _)| own == grant && is(known)),
    })
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
    let granted = is_granted(import, grants);
    if granted && OUTSIDE.iter().any(|(known, _)| is(known)) {
        return Ok(Decision::Ask);
    }
    if granted && OPEN.iter().any(|(known, ..)| is(known)) {
        return Ok(Decision::Open);
    }
    if DENIED.iter().any(|known| is(known)) {
        return Ok(Decision::Deny);
    }
    Err(match grant_for(import) {
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
