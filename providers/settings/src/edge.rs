//! Settings of durable edges, and how a stage's link to the conduit carries
//! those of several.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::flat::{self, FieldError};
use crate::values::{Bytes, Count, Duration};

/// Key of the comma-separated names of the edges a stage publishes to.
pub const EDGES: &str = "edges";

/// Between a branch and its arm in the name of an edge: no name has it, so the two are told apart wherever it goes.
const ARM: char = '_';

/// Name of the edge between two: `from.to`, or `from_arm.to` for an arm of a branch.
#[must_use]
pub fn name(from: &str, arm: Option<&str>, to: &str) -> String {
    match arm {
        None => format!("{from}.{to}"),
        Some(arm) => format!("{from}{ARM}{arm}.{to}"),
    }
}

/// The arm in the name of an edge, or in the first half of it; `None` for an edge that takes all messages.
#[must_use]
pub fn arm(name: &str) -> Option<&str> {
    name.split('.').next()?.split_once(ARM).map(|(_, arm)| arm)
}

/// The source or step in the name of an edge that its messages are of.
#[must_use]
pub fn from(name: &str) -> &str {
    name.split(['.', ARM]).next().unwrap_or_default()
}

/// What an edge does when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WhenFull {
    /// Refuses, and so holds back the stage before it and at last the source.
    #[default]
    Block,
    /// Drops the oldest batches and counts them in the status: where new
    /// readings are worth more than old ones.
    DropOldest,
    /// Puts further batches into a second stream, the spill, and brings them
    /// back in order. Refuses when that is full too.
    Spill,
}

/// What a durable edge keeps. The stage at its far end gets its batches as
/// `delivery` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct EdgeSettings {
    /// Most bytes waiting on the edge, from 1MiB to 1024GiB.
    pub max_bytes: Bytes<1_048_576, 1_099_511_627_776>,
    /// What happens when it is full: it refuses (`block`), drops its oldest
    /// batches (`drop-oldest`), or puts further ones into a second stream and
    /// brings them back in order (`spill`).
    pub when_full: WhenFull,
    /// Messages older than this are dropped, from 1s to 365d. Without it they
    /// wait for as long as it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration<1_000, 31_536_000_000>>,
    /// How long a repeated publish of the same batch is recognised and
    /// dropped, from 100ms to 1d. Not above `max-age`.
    pub dedup_window: Duration<100, 86_400_000>,
    /// Partitions by key, or by topic for messages without one. Each has one
    /// batch in flight, so that the order of a key is kept; `in-flight` is how
    /// many of them deliver at the same time. Without it batches overtake one
    /// another, except with `in-flight: 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Count<1, 64>>,
    /// Most messages a second that are handed on, for a far end that a backlog
    /// after an outage would swamp. Without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Count<1, 10_000_000>>,
    /// How long batches are kept for a replay after they were handed on, from
    /// 1m to 365d, in as many bytes again as `max-bytes`, the newest. Without
    /// it nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Duration<60_000, 31_536_000_000>>,
    /// Most bytes waiting in the spill, from 1MiB to 1024GiB; with `when-full:
    /// spill`, which needs it. Not in `max-bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill_bytes: Option<Bytes<1_048_576, 1_099_511_627_776>>,
    /// JetStream domain that the spill is in, of a server that the lattice's is
    /// a leaf node of, for example. Without it the spill is where the edge is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,40}$"))]
    pub spill_domain: Option<String>,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            max_bytes: Bytes::from_bytes(64 << 20),
            when_full: WhenFull::Block,
            max_age: None,
            dedup_window: Duration::from_millis(120_000),
            partitions: None,
            max_rate: None,
            history: None,
            spill_bytes: None,
            spill_domain: None,
        }
    }
}

impl Settings for EdgeSettings {
    fn check(&self) -> Result<(), FieldError> {
        // JetStream refuses a stream whose duplicate window is above its age.
        if let Some(age) = self.max_age
            && self.dedup_window.as_millis() > age.as_millis()
        {
            return Err(FieldError::invalid(
                "dedup-window",
                &self.dedup_window.to_string(),
                format!("must not be above max-age, which is {age}"),
            ));
        }
        self.check_spill()?;
        // What is dropped is counted by gaps in the order of the one consumer.
        if let (WhenFull::DropOldest, Some(partitions)) = (self.when_full, self.partitions) {
            return Err(FieldError::invalid(
                "partitions",
                &partitions.to_string(),
                "cannot be combined with when-full: drop-oldest, which could not tell what it dropped",
            ));
        }
        Ok(())
    }
}

/// Longest name of a JetStream domain here.
const DOMAIN_MAX: usize = 40;

impl EdgeSettings {
    fn check_spill(&self) -> Result<(), FieldError> {
        if let Some(domain) = self.spill_domain.as_deref().filter(|domain| !is_domain(domain)) {
            return Err(FieldError::invalid(
                "spill-domain",
                domain,
                format!("must have letters, digits, hyphens and underscores, at most {DOMAIN_MAX}"),
            ));
        }
        if self.when_full == WhenFull::Spill {
            if self.spill_bytes.is_none() {
                return Err(FieldError::invalid(
                    "when-full",
                    "spill",
                    "needs spill-bytes, the most bytes that the spill takes",
                ));
            }
            // Of what is dropped for its age in the spill nobody would tell.
            return match self.max_age {
                Some(age) => Err(FieldError::invalid(
                    "max-age",
                    &age.to_string(),
                    "cannot be combined with when-full: spill, which keeps everything",
                )),
                None => Ok(()),
            };
        }
        let bytes = self.spill_bytes.map(|bytes| ("spill-bytes", bytes.to_string()));
        let domain = self.spill_domain.clone().map(|domain| ("spill-domain", domain));
        match bytes.or(domain) {
            Some((field, value)) => {
                Err(FieldError::invalid(field, &value, "is allowed only with when-full: spill"))
            }
            None => Ok(()),
        }
    }
}

/// Whether this can be the name of a JetStream domain, which becomes a part of
/// subjects.
fn is_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=DOMAIN_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Writes the edges of one stage as its link to the conduit carries them:
/// `edges`, and `<edge>.<field>` for each edge.
///
/// # Errors
///
/// See [`flat::to_flat`].
pub fn to_link<'a, I>(edges: I) -> Result<BTreeMap<String, String>, FieldError>
where
    I: IntoIterator<Item = (&'a str, &'a EdgeSettings)>,
{
    let mut map = BTreeMap::new();
    let mut names = Vec::new();
    for (name, settings) in edges {
        names.push(name);
        for (field, value) in flat::to_flat(settings)? {
            map.insert(format!("{name}.{field}"), value);
        }
    }
    map.insert(EDGES.to_owned(), names.join(","));
    Ok(map)
}

/// Reads what [`to_link`] wrote, in the order of `edges`. Keys in `also` are
/// not looked at.
///
/// # Errors
///
/// When `edges` is missing or empty, or the first field that is unknown or not
/// allowed; the field carries the edge's name.
pub fn from_link<'a, I>(map: I, also: &[&str]) -> Result<Vec<(String, EdgeSettings)>, FieldError>
where
    I: IntoIterator<Item = (&'a String, &'a String)>,
{
    let mut rest: BTreeMap<String, String> = map
        .into_iter()
        .filter(|(key, _)| !also.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let names = rest.remove(EDGES).unwrap_or_default();
    if names.split(',').any(str::is_empty) {
        return Err(FieldError::invalid(
            EDGES,
            &names,
            "must be the names of the edges, separated by commas",
        ));
    }
    let mut edges = Vec::new();
    for name in names.split(',') {
        let prefix = format!("{name}.");
        let own = flat::under(&rest, &prefix);
        rest.retain(|key, _| !key.starts_with(&prefix));
        let settings = flat::from_flat(&own, &[]).map_err(|error| error.prefixed(&prefix))?;
        edges.push((name.to_owned(), settings));
    }
    match rest.keys().next() {
        Some(unknown) => Err(FieldError {
            field: unknown.clone(),
            value: None,
            message: "belongs to no edge of this link".to_owned(),
            kind: flat::FieldErrorKind::Unknown,
        }),
        None => Ok(edges),
    }
}
