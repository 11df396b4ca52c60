//! Kinds of steps.

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
    /// Whole batches, by a component that is the stage itself.
    Monolithic,
    /// Drops what has come before; without a component.
    DeDuplicate,
    /// Lets so many messages of a key through in a time; without a component.
    Throttle,
    /// Passes on what comes from several; without a component.
    Concatenate,
    /// Adds what a key-value bucket has for a message; without a component.
    Enrich,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Map,
        Self::Filter,
        Self::FlatMap,
        Self::Branch,
        Self::Accumulate,
        Self::Delay,
        Self::Monolithic,
        Self::DeDuplicate,
        Self::Throttle,
        Self::Concatenate,
        Self::Enrich,
    ];

    /// Those that a component can be.
    pub const OF_COMPONENTS: [Self; 7] = [
        Self::Map,
        Self::Filter,
        Self::FlatMap,
        Self::Branch,
        Self::Accumulate,
        Self::Delay,
        Self::Monolithic,
    ];

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
            Self::Monolithic => "monolithic",
            Self::DeDuplicate => "de-duplicate",
            Self::Throttle => "throttle",
            Self::Concatenate => "concatenate",
            Self::Enrich => "enrich",
        }
    }

    /// The interface that a component of this kind exports. `None` for a kind that needs no component.
    #[must_use]
    pub const fn interface(self) -> Option<&'static str> {
        match self {
            Self::Map => Some("millrace:step/map@0.1.0"),
            Self::Filter => Some("millrace:step/filter@0.1.0"),
            Self::FlatMap => Some("millrace:step/flat-map@0.1.0"),
            Self::Branch => Some("millrace:step/branch@0.1.0"),
            Self::Accumulate => Some("millrace:step/accumulate@0.1.0"),
            Self::Delay => Some("millrace:step/delay@0.1.0"),
            Self::Monolithic => Some("wasmcloud:messaging/handler@0.2.0"),
            Self::DeDuplicate | Self::Throttle | Self::Concatenate | Self::Enrich => None,
        }
    }

    /// Whether a step of this kind is the only one of its stage: its state document comes in front of the batch and goes back
    /// with what came of it, so no other step may see it; or it is the stage.
    #[must_use]
    pub const fn stands_alone(self) -> bool {
        self.has_state() || matches!(self, Self::Monolithic)
    }

    /// Whether steps of this kind have a state, which their caller keeps.
    #[must_use]
    pub const fn has_state(self) -> bool {
        matches!(self, Self::Accumulate | Self::DeDuplicate | Self::Throttle)
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

/// Names in a row, for messages.
pub(crate) fn list(items: &[impl ToString]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
