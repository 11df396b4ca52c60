//! Kinds of steps, and what can be granted to one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Kind of operator a step is: which interface of `millrace:step` it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One message in, one out.
    Map,
    /// Keep or drop.
    Filter,
    /// One message in, any number out.
    FlatMap,
    /// To a named arm.
    Branch,
    /// Messages into a state.
    Accumulate,
    /// A new event time.
    Delay,
}

impl Kind {
    /// All kinds of the contract.
    pub const ALL: [Self; 6] =
        [Self::Map, Self::Filter, Self::FlatMap, Self::Branch, Self::Accumulate, Self::Delay];

    /// Name in a pipeline definition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Filter => "filter",
            Self::FlatMap => "flat-map",
            Self::Branch => "branch",
            Self::Accumulate => "accumulate",
            Self::Delay => "delay",
        }
    }

    /// The interface that a component of this kind exports.
    #[must_use]
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Map => "millrace:step/map@0.1.0",
            Self::Filter => "millrace:step/filter@0.1.0",
            Self::FlatMap => "millrace:step/flat-map@0.1.0",
            Self::Branch => "millrace:step/branch@0.1.0",
            Self::Accumulate => "millrace:step/accumulate@0.1.0",
            Self::Delay => "millrace:step/delay@0.1.0",
        }
    }

    /// Whether steps of this kind have a state, which their caller keeps. Such a step is the only one of its stage.
    #[must_use]
    pub const fn has_state(self) -> bool {
        matches!(self, Self::Accumulate)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such kind of step: `{0}`; the kinds are {kinds}", kinds = list(&Kind::ALL))]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// What a step may be granted. There is no grant for file systems or sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// Reading the time (wasi:clocks). Waiting is not part of it.
    Clocks,
    /// Random numbers (wasi:random/random).
    Random,
    /// Log lines (wasi:logging).
    Log,
    /// The configuration of the whole stage (wasi:config). A step's own configuration needs no grant: `init` is given it.
    Config,
}

impl Grant {
    /// All grants.
    pub const ALL: [Self; 4] = [Self::Clocks, Self::Random, Self::Log, Self::Config];

    /// Name in a pipeline definition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clocks => "clocks",
            Self::Random => "random",
            Self::Log => "log",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such grant: `{0}`; what can be granted is {grants}", grants = list(&Grant::ALL))]
pub struct UnknownGrant(pub String);

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|grant| grant.name() == text)
            .ok_or_else(|| UnknownGrant(text.to_owned()))
    }
}

/// Names in a row, for messages.
pub(crate) fn list(items: &[impl ToString]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
