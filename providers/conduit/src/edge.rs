//! Durable edges: their names on NATS, and their streams.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use millrace_kit::link::is_name;
use millrace_settings::edge::{EdgeSettings, WhenFull};

/// Name of the durable consumer of an edge whose batches overtake one another.
/// An edge in order has other names: what is left of one kind must not be taken
/// for what the other leaves.
pub(crate) const CONSUMER: &str = "stage";

/// Name of the one that keeps the order of the whole edge.
pub(crate) const ORDERED_CONSUMER: &str = "stage-ordered";

/// Name of the one that takes what partitions left that are no more.
pub(crate) const LEFT_CONSUMER: &str = "stage-left";

/// Most batches that one pull of a partition brings.
pub(crate) const GROUP: usize = 256;

/// Most bytes that one pull brings. More than one message can have.
pub(crate) const GROUP_BYTES: usize = 2 << 20;

/// A consumer of a partition is made anew whenever somebody begins with it,
/// which is how what its predecessor had comes again. JetStream's own clock
/// would only put one batch before another.
const NEVER: Duration = Duration::from_secs(24 * 3_600);

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
        format!("{}.edge.{}.{}", self.base(), self.from, self.to)
    }

    /// The subjects that batches are on with these settings, in the order of
    /// partitions. The number of partitions is in them: with another number a
    /// key is in another partition, so that what waits has to be done first.
    #[must_use]
    pub fn subjects(&self, settings: &EdgeSettings) -> Vec<String> {
        match partitions(settings) {
            None => vec![self.subject()],
            Some(count) => (0..count).map(|n| self.partition_subject(n, count)).collect(),
        }
    }

    pub(crate) fn partition_subject(&self, number: u16, count: u16) -> String {
        format!("{}.{count}.{number}", self.subject())
    }

    /// Name of its stream.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("MILLRACE_{}_{}_{}_{}", self.lattice, self.pipeline, self.from, self.to)
    }

    /// Name of the stream with what was published on it, also after it was handed
    /// on.
    #[must_use]
    pub fn history_stream(&self) -> String {
        format!("{}_history", self.stream())
    }

    fn base(&self) -> String {
        format!("millrace.{}.{}", self.lattice, self.pipeline)
    }

    /// The stream of the history. What it takes is sent there by JetStream
    /// itself when it has stored it on the edge.
    #[must_use]
    pub fn history_config(&self, settings: &EdgeSettings) -> Option<Config> {
        let subject = format!("{}.history.{}.{}", self.base(), self.from, self.to);
        Some(Config {
            name: self.history_stream(),
            subjects: vec![subject.clone(), format!("{subject}.*.*")],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_age: settings.history?.get(),
            max_bytes: i64::try_from(settings.max_bytes.get()).unwrap_or(i64::MAX),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            num_replicas: 1,
            allow_direct: true,
            description: Some(format!(
                "history of edge {} of pipeline {}",
                self.name(),
                self.pipeline
            )),
            ..Config::default()
        })
    }

    /// The stream as the settings want it: a work queue that refuses when it
    /// is full, or drops what is oldest.
    #[must_use]
    pub fn stream_config(&self, settings: &EdgeSettings) -> Config {
        Config {
            name: self.stream(),
            subjects: vec![self.subject(), format!("{}.*.*", self.subject())],
            retention: RetentionPolicy::WorkQueue,
            discard: match settings.when_full {
                WhenFull::Block => DiscardPolicy::New,
                WhenFull::DropOldest => DiscardPolicy::Old,
            },
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
            republish: settings.history.map(|_| Republish {
                source: format!("{}.edge.>", self.base()),
                destination: format!("{}.history.>", self.base()),
                headers_only: false,
            }),
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

    /// The durable consumer of one partition: it hands out in order what it is
    /// asked for, and nothing a second time.
    pub(crate) fn ordered_config(name: &str, subjects: &[String]) -> pull::Config {
        let (filter_subject, filter_subjects) = match subjects {
            [one] => (one.clone(), Vec::new()),
            several => (String::new(), several.to_vec()),
        };
        pull::Config {
            durable_name: Some(name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: NEVER,
            // Twice, for acknowledgements that are still on their way.
            max_ack_pending: i64::try_from(GROUP * 2).unwrap_or(i64::MAX),
            max_deliver: -1,
            filter_subject,
            filter_subjects,
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
        // The history first: what is sent to a stream that is not there is gone.
        // One that is no longer wanted ends by its own age.
        if let Some(history) = self.history_config(settings) {
            self.ensure(js, &history).await?;
        }
        self.ensure(js, &self.stream_config(settings)).await
    }

    async fn ensure(
        &self,
        js: &Context,
        wanted: &Config,
    ) -> Result<(Stream, Provision), EdgeError> {
        let stream = match js.get_stream(&wanted.name).await {
            Ok(stream) => stream,
            Err(error) if not_found(&error.kind()) => {
                let stream = js.create_stream(wanted).await.map_err(|e| self.stream_error(e))?;
                return Ok((stream, Provision::Created));
            }
            Err(error) => return Err(self.stream_error(error)),
        };
        if same(&stream.cached_info().config, wanted) {
            return Ok((stream, Provision::Found));
        }
        js.update_stream(wanted).await.map_err(|e| self.stream_error(e))?;
        Ok((stream, Provision::Updated))
    }

    pub(crate) fn stream_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Stream { edge: self.name(), stream: self.stream(), reason: reason.to_string() }
    }

    pub(crate) fn consumer_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Consumer { edge: self.name(), reason: reason.to_string() }
    }
}

/// How many partitions, if there are any.
pub(crate) fn partitions(settings: &EdgeSettings) -> Option<u16> {
    settings.partitions.map(|count| u16::try_from(count.get()).unwrap_or(u16::MAX))
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
        && found.republish == wanted.republish
        // A history has none of its own and is given one.
        && (found.duplicate_window == wanted.duplicate_window || wanted.duplicate_window.is_zero())
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
        let two =
            EdgeSettings { partitions: Some("2".parse().unwrap()), ..EdgeSettings::default() };
        assert_eq!(edge.subjects(&EdgeSettings::default()), ["millrace.plant.line-1.edge.a.b"]);
        assert_eq!(
            edge.subjects(&two),
            ["millrace.plant.line-1.edge.a.b.2.0", "millrace.plant.line-1.edge.a.b.2.1"]
        );
    }

    #[test]
    fn other_names_are_refused() {
        for wrong in ["", "a", "a.", ".b", "a.b.c", "a.*", "a.>", "A.b", "a b.c"] {
            assert!(matches!(Edge::new("l", "p", wrong), Err(EdgeError::Name(_))), "{wrong}");
        }
    }
}
