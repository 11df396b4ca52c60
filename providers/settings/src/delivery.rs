//! How batches are made and handed to a stage.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::flat::{self, FieldError};
use crate::values::{Bytes, Count, Duration};

/// The largest batch, in bytes. NATS refuses a payload above 1 MiB by default;
/// the rest is room for the headers and the encoding of the call.
pub const BATCH_BYTES_MAX: u64 = 900 * 1024;

/// Most batches that a source has in flight, or an edge that does not adapt,
/// where its author does not say.
pub const IN_FLIGHT: usize = 4;

/// The longest time any setting can name: one day, in milliseconds.
const DAY: u64 = 86_400_000;

/// How a source or a durable edge makes batches and hands them to its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Delivery {
    /// Most messages in one batch.
    pub batch_messages: Count<1, 10_000>,
    /// Largest batch in bytes, from 1KiB to 900KiB: NATS takes 1MiB. A single
    /// message may be larger, up to 900KiB.
    pub batch_bytes: Bytes<1024, BATCH_BYTES_MAX>,
    /// How long the first message of a batch waits for others, from 0ms to 1m.
    pub linger: Duration<0, 60_000>,
    /// Most batches handed to the stage and not yet answered. Without it 4 for a
    /// source, and for an edge as many as prove to be worth it, from 4 to 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<Count<1, 64>>,
    /// How long to wait for the stage's answer, from 100ms to 10m.
    pub call_timeout: Duration<100, 600_000>,
    /// How often a batch is tried when a step asks for a retry, before the
    /// messages at fault are looked for and dead-lettered.
    pub attempts: Count<1, 100>,
    /// How often a message alone has to trap its step, or keep it from
    /// answering, while the stage works otherwise, to be dead-lettered.
    pub suspect_after: Count<1, 100>,
    /// Longest pause before the first retry, doubled with each one, from 1ms
    /// to 1d. A pause is drawn between half of that and that.
    pub backoff_min: Duration<1, DAY>,
    /// Longest pause before a retry, from 1ms to 1d. Not below `backoff-min`.
    pub backoff_max: Duration<1, DAY>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            batch_messages: Count::clamped(500),
            batch_bytes: Bytes::from_bytes(256 * 1024),
            linger: Duration::from_millis(5),
            in_flight: None,
            call_timeout: Duration::from_millis(10_000),
            attempts: Count::clamped(5),
            suspect_after: Count::clamped(3),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_millis(10_000),
        }
    }
}

impl Settings for Delivery {
    fn check(&self) -> Result<(), FieldError> {
        if self.backoff_min.as_millis() > self.backoff_max.as_millis() {
            return Err(FieldError::invalid(
                "backoff-min",
                &self.backoff_min.to_string(),
                format!("must not be above backoff-max, which is {}", self.backoff_max),
            ));
        }
        Ok(())
    }
}

/// A source's or an edge's settings and, beside them in the same flat map, its
/// delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithDelivery<T> {
    /// The connector's or the edge's own settings.
    pub settings: T,
    /// How batches reach the stage.
    pub delivery: Delivery,
}

impl<T: Settings> WithDelivery<T> {
    /// Reads both from one flat map. Keys in `also` are not looked at.
    ///
    /// # Errors
    ///
    /// The first field that is unknown, missing or not allowed.
    pub fn from_flat<'a, I>(map: I, also: &[&str]) -> Result<Self, FieldError>
    where
        I: IntoIterator<Item = (&'a String, &'a String)>,
    {
        let names = flat::field_names::<Delivery>();
        let mut delivery = BTreeMap::new();
        let mut settings = BTreeMap::new();
        for (key, value) in map {
            let side = if names.contains(&key.as_str()) { &mut delivery } else { &mut settings };
            side.insert(key.clone(), value.clone());
        }
        Ok(Self {
            settings: flat::from_flat(&settings, also)?,
            delivery: flat::from_flat(&delivery, also)?,
        })
    }

    /// Writes both into one flat map.
    ///
    /// # Errors
    ///
    /// See [`flat::to_flat`].
    pub fn to_flat(&self) -> Result<BTreeMap<String, String>, FieldError> {
        let mut map = flat::to_flat(&self.settings)?;
        map.extend(flat::to_flat(&self.delivery)?);
        Ok(map)
    }
}
