//! Windows of a step with state, and how a link tells the conduit of one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::flat::{FieldError, FieldErrorKind};
use crate::values::{Count, Duration};

/// Most windows of one message: a hopping window's length over its pace.
const OVERLAP_MAX: u64 = 100;

/// Partitions of an edge before a step with state where the author says
/// nothing.
pub const PARTITIONS_DEFAULT: u64 = 8;

/// Key of a link from the conduit: name of the step whose state goes with each
/// batch.
pub const STATE: &str = "state";

/// Key beside it: after how many milliseconds without messages time goes on.
pub const STATE_IDLE: &str = "state-idle";

/// Length of a window, from 1ms to 365d.
pub type Length = Duration<1, 31_536_000_000>;

/// Which messages of a key belong together. Exactly one of tumbling, hopping,
/// session and count. The first three go by event time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Window {
    /// Windows one after another, from 1ms to 365d long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tumbling: Option<Length>,
    /// Windows that overlap, from 1ms to 365d long; `every` says how often one
    /// begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hopping: Option<Length>,
    /// How often a hopping window begins. Not above its length, and not below a
    /// hundredth of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Length>,
    /// A window for as long as messages come, which ends when none has come for
    /// so long, from 1ms to 365d.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Length>,
    /// A window for so many messages, from 1 to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Count<1, 1_000_000>>,
    /// How much later than the newest one a message may come, from 0s to 1d: a
    /// window ends so much after its time. 0s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Duration<0, 86_400_000>>,
    /// When no message has come for so long, from 1s to 1d, time goes on by the
    /// clock, so that windows end. Not below `lateness`. Without it they wait for a
    /// newer message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration<1_000, 86_400_000>>,
}

impl Window {
    /// As the harness of a stage reads it: the kind and its numbers, times in
    /// nanoseconds. `None` when it is no window.
    #[must_use]
    pub fn harness(&self) -> Option<String> {
        let ns = |length: Length| length.as_millis().saturating_mul(1_000_000);
        match (self.tumbling, self.hopping, self.session, self.count) {
            (Some(length), None, None, None) => Some(format!("tumbling {}", ns(length))),
            (None, Some(length), None, None) => {
                Some(format!("hopping {} {}", ns(length), ns(self.every?)))
            }
            (None, None, Some(gap), None) => Some(format!("session {}", ns(gap))),
            (None, None, None, Some(count)) => Some(format!("count {}", count.get())),
            _ => None,
        }
    }

    /// How much later a message may come, in nanoseconds.
    #[must_use]
    pub fn lateness_ns(&self) -> u64 {
        self.lateness.map_or(0, |lateness| lateness.as_millis().saturating_mul(1_000_000))
    }

    fn kinds(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: Option<String>| value.map(|value| (name, value));
        [
            text("tumbling", self.tumbling.map(|v| v.to_string())),
            text("hopping", self.hopping.map(|v| v.to_string())),
            text("session", self.session.map(|v| v.to_string())),
            text("count", self.count.map(|v| v.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn check_hopping(&self) -> Result<(), FieldError> {
        let wrong = |value: &dyn ToString, message: &str| {
            Err(FieldError::invalid("every", &value.to_string(), message))
        };
        match (self.hopping, self.every) {
            (None, None) => Ok(()),
            (None, Some(every)) => wrong(&every, "is allowed only with hopping"),
            (Some(length), None) => Err(FieldError::invalid(
                "hopping",
                &length.to_string(),
                "needs every, how often a window begins",
            )),
            (Some(length), Some(every)) => {
                let (length, pace) = (length.as_millis(), every.as_millis());
                if pace > length {
                    return wrong(&every, "must not be above hopping: messages would be in none");
                }
                if length.div_ceil(pace) > OVERLAP_MAX {
                    return wrong(&every, "must not be below a hundredth of hopping");
                }
                Ok(())
            }
        }
    }
}

impl Settings for Window {
    fn check(&self) -> Result<(), FieldError> {
        let kinds = self.kinds();
        let [_one] = kinds.as_slice() else {
            return Err(match kinds.get(1) {
                Some((field, value)) => FieldError::invalid(
                    field,
                    value,
                    "is one too many: a step has one of tumbling, hopping, session and count",
                ),
                None => FieldError {
                    field: "tumbling".to_owned(),
                    value: None,
                    message: "is missing, or one of hopping, session and count".to_owned(),
                    kind: FieldErrorKind::Missing,
                },
            });
        };
        self.check_hopping()?;
        let by_time = [
            ("lateness", self.lateness.map(|v| v.to_string())),
            ("idle", self.idle.map(|v| v.to_string())),
        ];
        for (field, value) in by_time {
            if let (Some(value), true) = (value, self.count.is_some()) {
                return Err(FieldError::invalid(
                    field,
                    &value,
                    "cannot be combined with count, which does not go by time",
                ));
            }
        }
        if let (Some(idle), Some(lateness)) = (self.idle, self.lateness)
            && idle.as_millis() < lateness.as_millis()
        {
            return Err(FieldError::invalid(
                "idle",
                &idle.to_string(),
                format!("must not be below lateness, which is {lateness}"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<Window, FieldError> {
        let map: BTreeMap<String, String> =
            fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        crate::from_flat(&map, &[])
    }

    #[test]
    fn each_kind_is_read_and_told_to_the_harness() {
        for (fields, text) in [
            (&[("tumbling", "10s")][..], "tumbling 10000000000"),
            (&[("hopping", "1m"), ("every", "10s")], "hopping 60000000000 10000000000"),
            (&[("session", "30s"), ("lateness", "2s"), ("idle", "1m")], "session 30000000000"),
            (&[("count", "100")], "count 100"),
        ] {
            assert_eq!(read(fields).unwrap().harness().unwrap(), text);
        }
        assert_eq!(
            read(&[("session", "30s"), ("lateness", "2s")]).unwrap().lateness_ns(),
            2_000_000_000
        );
    }

    #[test]
    fn what_is_no_window_is_refused_with_its_field() {
        for (fields, field) in [
            (&[][..], "tumbling"),
            (&[("tumbling", "1s"), ("count", "3")], "count"),
            (&[("hopping", "1s")], "hopping"),
            (&[("hopping", "1s"), ("every", "2s")], "every"),
            (&[("hopping", "1h"), ("every", "1s")], "every"),
            (&[("tumbling", "1s"), ("every", "1s")], "every"),
            (&[("count", "3"), ("lateness", "1s")], "lateness"),
            (&[("count", "3"), ("idle", "1s")], "idle"),
            (&[("tumbling", "0s")], "tumbling"),
            (&[("tumbling", "1s"), ("lateness", "3s"), ("idle", "2s")], "idle"),
        ] {
            let error = read(fields).unwrap_err();
            assert_eq!(error.field, field, "{fields:?}: {error}");
        }
    }
}
