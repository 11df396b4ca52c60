//! How a new version of a pipeline is watched when it takes over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::values::{Count, Duration, Percent};

/// How long a new version is watched.
pub type Watch = Duration<0, 3_600_000>;

/// How a new version is watched when it has taken over, and when the version
/// before it is put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Rollout {
    /// How long a new version is watched once it runs, from 0s to 1h. With `0s`
    /// it only has to start.
    pub watch: Watch,
    /// How much more of its messages each stage may make dead letters of than
    /// it did in the version before, from 0% to 100% of them.
    pub max_failures: Percent,
    /// A stage is judged by `max-failures` once it has had so many messages.
    pub min_messages: Count<1, 1_000_000>,
    /// Whether the version before is deployed again when the new one does not
    /// start or fails too often. Without that the failure is only reported.
    pub rollback: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            watch: Watch::from_millis(30_000),
            max_failures: Percent::whole(5),
            min_messages: Count::clamped(20),
            rollback: true,
        }
    }
}

impl Rollout {
    /// Whether the author said nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Settings for Rollout {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_written() {
        for (text, share, shortest) in [
            ("5%", 0.05, "5%"),
            ("0%", 0.0, "0%"),
            ("100%", 1.0, "100%"),
            ("0.5%", 0.005, "0.5%"),
            ("2.50%", 0.025, "2.5%"),
            ("0.05%", 0.0005, "0.05%"),
        ] {
            let read: Percent = text.parse().unwrap();
            assert!((read.share() - share).abs() < 1e-9, "{text}");
            assert_eq!(read.to_string(), shortest);
        }
        for wrong in ["", "%", "5", "-1%", "100.01%", "101%", "1.234%", "1.%", ".5%", "five%"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
    }
}
