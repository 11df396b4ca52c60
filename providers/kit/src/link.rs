//! One link: its names, state and counters, shared by all that work on it.

use std::collections::BTreeMap;

use millrace_settings::FieldError;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::answer::{ErrorKind, bounded};
use crate::status::{Direction, LinkStatus, State};
use crate::telemetry::Telemetry;
use crate::writers::Writers;

/// Keys of a link's flat configuration that are not settings: the names, and what [`crate::Writers`] reads.
pub const NAME_KEYS: [&str; 4] = ["pipeline", "name", "stage", millrace_grants::WRITERS_KEY];

/// The longest name of a pipeline or part, in bytes; an edge has two and a dot.
const NAME_MAX: usize = 40;

/// Who a link connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkNames {
    /// The pipeline.
    pub pipeline: String,
    /// The source, edge or sink; `a.b` for an edge, `a_arm.b` behind a branch,
    /// comma-separated edges for a stage's link to the conduit.
    pub name: String,
    /// The stage at the other end.
    pub stage: String,
}

impl LinkNames {
    /// Reads the names from a link's flat configuration.
    ///
    /// # Errors
    ///
    /// Names the key that is missing or not a name: names become parts of NATS
    /// subjects, in which a dot or a wildcard would reach other pipelines.
    pub fn from_flat(config: &BTreeMap<String, String>) -> Result<Self, FieldError> {
        let take = |key: &str, check: fn(&str) -> bool| {
            let value = config.get(key).map(String::as_str).unwrap_or_default();
            if check(value) {
                Ok(value.to_owned())
            } else {
                Err(FieldError::invalid(
                    key,
                    value,
                    "must be a name of lower-case letters, digits and hyphens",
                ))
            }
        };
        Ok(Self {
            pipeline: take("pipeline", is_name)?,
            name: take("name", |name| name.split(['.', ',', '_']).all(is_name))?,
            stage: take("stage", is_name)?,
        })
    }

    /// A name by which a broker knows this link for good: of a client, a
    /// session, a group. The same after every restart, or what the broker keeps
    /// under it would not be found again.
    #[must_use]
    pub fn client_id(&self, lattice: &str) -> String {
        format!("millrace-{lattice}-{}-{}-{}", self.pipeline, self.name, self.stage)
    }
}

/// Whether `text` is a name: `[a-z][a-z0-9-]{0,39}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// One link while it lives.
#[derive(Debug)]
pub struct Link {
    /// Who it connects.
    pub names: LinkNames,
    /// Which way messages go.
    pub direction: Direction,
    /// Which steps its messages come from, at a sink, and where they may be written.
    pub writers: Writers,
    /// What it counts.
    pub telemetry: Telemetry,
    /// Cancelled when the link is to take nothing more and finish.
    pub drain: CancellationToken,
    /// Cancelled, some time after `drain`, when what is in flight is not waited
    /// for any longer: its stage may be gone already. What is left is the
    /// farewell to the outside, without which a broker may take the connection
    /// for one that will come back.
    pub leave: CancellationToken,
    state: Mutex<(State, Option<String>)>,
}

impl Link {
    /// A link that is connecting.
    #[must_use]
    pub fn new(names: LinkNames, direction: Direction) -> Self {
        Self {
            names,
            direction,
            writers: Writers::default(),
            telemetry: Telemetry::default(),
            drain: CancellationToken::new(),
            leave: CancellationToken::new(),
            state: Mutex::new((State::Connecting, None)),
        }
    }

    /// The same, with messages that are held to what their steps may have written.
    #[must_use]
    pub fn with_writers(self, writers: Writers) -> Self {
        // From 0 on: of a counter that appears the first step is not seen.
        writers.steps().for_each(|step| self.telemetry.uses(step));
        Self { writers, ..self }
    }

    /// The connection is up. Draining and failed are final: a late event of
    /// the connection does not take them back.
    pub fn connected(&self) {
        self.set(State::Connected, None);
    }

    /// The connection failed or was lost and is tried again.
    pub fn retrying(&self, error: impl std::fmt::Display) {
        let text = error.to_string();
        self.telemetry.error(ErrorKind::Connection, &text);
        self.set(State::Retrying, Some(text));
    }

    /// Something worth knowing that did not stop the link.
    pub fn noticed(&self, what: impl std::fmt::Display) {
        let text = bounded(&what.to_string());
        tracing::warn!(pipeline = self.names.pipeline, link = self.names.name, "{text}");
        self.telemetry.error(ErrorKind::Connection, &text);
    }

    /// The settings cannot be used.
    pub fn failed(&self, error: impl std::fmt::Display) {
        let text = error.to_string();
        self.telemetry.error(ErrorKind::Config, &text);
        self.set(State::Failed, Some(text));
    }

    /// Takes nothing more from now on and finishes what is in flight.
    pub fn start_drain(&self) {
        self.set(State::Draining, None);
        self.drain.cancel();
    }

    /// What the link is doing now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().0
    }

    /// The link's line in the status.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let (state, error) = self.state.lock().clone();
        LinkStatus {
            name: self.names.name.clone(),
            direction: self.direction,
            stage: self.names.stage.clone(),
            state,
            error,
            counters: self.telemetry.snapshot(),
        }
    }

    fn set(&self, next: State, error: Option<String>) {
        let mut state = self.state.lock();
        if matches!(state.0, State::Draining | State::Failed) && next != State::Draining {
            return;
        }
        if state.0 != next || error.is_some() {
            let text = error.as_deref().unwrap_or("");
            tracing::info!(pipeline = self.names.pipeline, link = self.names.name, state = ?next, "{text}");
        }
        *state = (next, error.map(|text| bounded(&text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> LinkNames {
        LinkNames { pipeline: "p".into(), name: "in".into(), stage: "s".into() }
    }

    #[test]
    fn names_are_checked_before_they_become_subjects() {
        let config = |pipeline: &str, name: &str| {
            BTreeMap::from([
                ("pipeline".to_owned(), pipeline.to_owned()),
                ("name".to_owned(), name.to_owned()),
                ("stage".to_owned(), "s-1".to_owned()),
                ("url".to_owned(), "whatever".to_owned()),
            ])
        };
        assert!(LinkNames::from_flat(&config("line-1", "in")).is_ok());
        assert!(LinkNames::from_flat(&config("line-1", "a.b,a.c")).is_ok());
        assert!(LinkNames::from_flat(&config("line-1", "sort_high.a,sort_low.a")).is_ok());
        for wrong in ["", ">", "*", "a.b", "A", "1a", "a b", &"a".repeat(41)] {
            assert_eq!(
                LinkNames::from_flat(&config(wrong, "in")).unwrap_err().field,
                "pipeline",
                "{wrong}"
            );
        }
        assert_eq!(LinkNames::from_flat(&config("p", "a..b")).unwrap_err().field, "name");
    }

    #[test]
    fn state_goes_its_way_and_ends_in_draining() {
        let link = Link::new(names(), Direction::Source);
        assert_eq!(link.state(), State::Connecting);
        link.retrying("refused");
        assert_eq!(
            (link.state(), link.status().error.as_deref()),
            (State::Retrying, Some("refused"))
        );
        link.connected();
        assert_eq!((link.state(), link.status().error), (State::Connected, None));
        assert_eq!(
            link.status().counters.last_error.unwrap().text,
            "refused",
            "the last error is kept"
        );
        link.start_drain();
        link.connected();
        assert_eq!(link.state(), State::Draining);
        assert!(link.drain.is_cancelled());
    }

    #[test]
    fn a_failed_link_stays_failed() {
        let link = Link::new(names(), Direction::Sink);
        link.failed("url: must be mqtt://host:port");
        link.connected();
        assert_eq!(link.state(), State::Failed);
    }
}
