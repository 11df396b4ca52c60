//! Durable edges: their names on NATS, and their streams.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use millrace_kit::link::is_name;
use millrace_settings::edge::EdgeSettings;

/// Name of the one durable consumer of an edge.
pub(crate) const CONSUMER: &str = "stage";

/// After this long without a sign of life JetStream delivers a batch again.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(8);

/// A durable edge of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    lattice: String,
    pipeline: String,
    from: String,
    to: String,
}

/// Why an edge cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Not `from.to`.
    #[error("{0:?} is not the name of an edge: it is <from>.<to>, each a name")]
    Name(String),
    /// The stream could not be found, made or changed.
    #[error("edge {edge}: stream {stream}: {reason}")]
    Stream {
        /// Name of the edge.
        edge: String,
        /// Name of the stream.
        stream: String,
        /// What JetStream said.
        reason: String,
    },
    /// The consumer could not be made or read from.
    #[error("edge {edge}: consumer: {reason}")]
    Consumer {
        /// Name of the edge.
        edge: String,
        /// What JetStream said.
        reason: String,
    },
}

/// What had to be done for a stream to be as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// Nothing.
    Found,
    /// Its settings were changed.
    Updated,
    /// It was made.
    Created,
}

impl Edge {
    /// The edge `name` (`from.to`) of a pipeline.
    ///
    /// # Errors
    ///
    /// When the name is not of that form.
    pub fn new(lattice: &str, pipeline: &str, name: &str) -> Result<Self, EdgeError> {
        let (from, to) = name
            .split_once('.')
            .filter(|(from, to)| is_name(from) && is_name(to))
            .ok_or_else(|| EdgeError::Name(name.to_owned()))?;
        Ok(Self {
            lattice: lattice.to_owned(),
            pipeline: pipeline.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    /// Its name, `from.to`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.from, self.to)
    }

    /// Subject its batches are published on.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("millrace.{}.{}.edge.{}.{}", self.lattice, self.pipeline, self.from, self.to)
    }

    /// Name of its stream.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("MILLRACE_{}_{}_{}_{}", self.lattice, self.pipeline, self.from, self.to)
    }

    /// The stream as the settings want it: a work queue that refuses when it
    /// is full.
    #[must_use]
    pub fn stream_config(&self, settings: &EdgeSettings) -> Config {
        Config {
            name: self.stream(),
            subjects: vec![self.subject()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            max_bytes: i64::try_from(settings.max_bytes.get()).unwrap_or(i64::MAX),
            // Zero is "for ever".
            max_age: settings.max_age.map_or(Duration::ZERO, |age| age.get()),
            duplicate_window: settings.dedup_window.get(),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            num_replicas: 1,
            description: Some(format!("edge {} of pipeline {}", self.name(), self.pipeline)),
            ..Config::default()
        }
    }

    /// The durable consumer. `in_flight` bounds what JetStream hands out
    /// before it is acknowledged ([`prefetch`]).
    #[must_use]
    pub fn consumer_config(&self, in_flight: usize) -> pull::Config {
        pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: i64::try_from(prefetch(in_flight)).unwrap_or(i64::MAX),
            max_deliver: -1,
            filter_subject: self.subject(),
            ..pull::Config::default()
        }
    }

    /// Makes the stream if it is missing, and changes it if it is not as
    /// wanted.
    ///
    /// # Errors
    ///
    /// When JetStream is away or refuses.
    pub async fn ensure_stream(
        &self,
        js: &Context,
        settings: &EdgeSettings,
    ) -> Result<(Stream, Provision), EdgeError> {
        let wanted = self.stream_config(settings);
        let stream = match js.get_stream(&wanted.name).await {
            Ok(stream) => stream,
            Err(error) if not_found(&error.kind()) => {
                let stream = js.create_stream(&wanted).await.map_err(|e| self.stream_error(e))?;
                return Ok((stream, Provision::Created));
            }
            Err(error) => return Err(self.stream_error(error)),
        };
        if same(&stream.cached_info().config, &wanted) {
            return Ok((stream, Provision::Found));
        }
        js.update_stream(&wanted).await.map_err(|e| self.stream_error(e))?;
        Ok((stream, Provision::Updated))
    }

    pub(crate) fn stream_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Stream { edge: self.name(), stream: self.stream(), reason: reason.to_string() }
    }

    pub(crate) fn consumer_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Consumer { edge: self.name(), reason: reason.to_string() }
    }
}

/// Most batches of an edge that are here and not acknowledged: twice what is in
/// flight, so that the next batch is here when one is done.
pub(crate) const fn prefetch(in_flight: usize) -> usize {
    in_flight.saturating_mul(2)
}

fn not_found(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether what we set is as we want it. The server fills in more fields.
fn same(found: &Config, wanted: &Config) -> bool {
    found.subjects == wanted.subjects
        && found.retention == wanted.retention
        && found.discard == wanted.discard
        && found.max_bytes == wanted.max_bytes
        && found.max_age == wanted.max_age
        && found.duplicate_window == wanted.duplicate_window
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let edge = Edge::new("plant", "line-1", "a.b").unwrap();
        assert_eq!(edge.subject(), "millrace.plant.line-1.edge.a.b");
        assert_eq!(edge.stream(), "MILLRACE_plant_line-1_a_b");
        assert_eq!(edge.name(), "a.b");
    }

    #[test]
    fn other_names_are_refused() {
        for wrong in ["", "a", "a.", ".b", "a.b.c", "a.*", "a.>", "A.b", "a b.c"] {
            assert!(matches!(Edge::new("l", "p", wrong), Err(EdgeError::Name(_))), "{wrong}");
        }
    }
}
