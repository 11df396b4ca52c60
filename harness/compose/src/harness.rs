//! The trusted parts, embedded.

use crate::artifact::{Part, digest};
use crate::kind::Kind;

/// Version of the embedded harness.
pub const HARNESS_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A part of the harness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) bytes: &'static [u8],
}

macro_rules! guest {
    ($name:literal) => {
        Guest {
            name: $name,
            bytes: include_bytes!(concat!(env!("MILLRACE_GUESTS"), "/", $name, ".wasm")),
        }
    };
}

pub(crate) const INTAKE: Guest = guest!("intake");
pub(crate) const OUTLET: Guest = guest!("outlet");
pub(crate) const DENY: Guest = guest!("deny");
pub(crate) const OUTSIDE: Guest = guest!("outside");
pub(crate) const DENY_CLOCKS: Guest = guest!("deny-clocks");

/// The part that drives steps of a kind. `None` for one that is a stage itself.
pub(crate) const fn drive(kind: Kind) -> Option<Guest> {
    Some(match kind {
        Kind::Map => guest!("drive-map"),
        Kind::Filter => guest!("drive-filter"),
        Kind::FlatMap => guest!("drive-flat-map"),
        Kind::Branch => guest!("drive-branch"),
        Kind::Accumulate => guest!("drive-accumulate"),
        Kind::Delay => guest!("drive-delay"),
        Kind::DeDuplicate => guest!("drive-de-duplicate"),
        Kind::Throttle => guest!("drive-throttle"),
        Kind::Concatenate => guest!("drive-concatenate"),
        Kind::Enrich => guest!("drive-enrich"),
        Kind::Monolithic => return None,
    })
}

/// Where the name of its step is written in the part that asks for what lies outside (`harness/guests/outside`).
const STEP_PLACE: &[u8; 64] = b"millrace: the name of the step is written here when composed....";

/// The part that asks for what lies outside, in the name of this step. `None` where the name does not fit, or the part has not
/// exactly one place for it.
pub(crate) fn outside(step: &str) -> Option<Vec<u8>> {
    let mut place = [0; STEP_PLACE.len()];
    // One zero stays behind it.
    let (name, rest) = place.split_at_mut_checked(step.len())?;
    if rest.is_empty() {
        return None;
    }
    name.copy_from_slice(step.as_bytes());
    let mut bytes = OUTSIDE.bytes.to_vec();
    let mut found =
        bytes.windows(STEP_PLACE.len()).enumerate().filter(|(_, window)| window == STEP_PLACE);
    let (at, _) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    bytes.get_mut(at..at + place.len())?.copy_from_slice(&place);
    Some(bytes)
}

/// Every part of the harness with its digest: of two with the same ones, a stage gets the same bytes.
#[must_use]
pub fn harness_parts() -> Vec<Part> {
    let drives = Kind::ALL.into_iter().filter_map(drive);
    [INTAKE, OUTLET, OUTSIDE, DENY, DENY_CLOCKS]
        .into_iter()
        .chain(drives)
        .map(|part| Part { name: part.name.to_owned(), digest: digest(part.bytes) })
        .collect()
}
