//! Durable edges: their names on NATS, and their streams.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, State, StorageType, Stream,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use millrace_kit::id::BatchIds;
use millrace_kit::link::is_name;
use millrace_settings::edge::{EdgeSettings, WhenFull};
use tokio::time::timeout;

use crate::state::Partition;

/// Name of the durable consumer of an edge whose batches overtake one another.
/// An edge in order has other names: what is left of one kind must not be taken
/// for what the other leaves.
pub(crate) const CONSUMER: &str = "stage";

/// Name of the one that keeps the order of the whole edge.
pub(crate) const ORDERED_CONSUMER: &str = "stage-ordered";

/// Name of the one that takes what partitions left that are no more.
pub(crate) const LEFT_CONSUMER: &str = "stage-left";

/// Name of the durable consumer of a spill.
pub(crate) const MOVER: &str = "mover";

/// Key in the metadata of an edge's stream with the JetStream domain of its
/// spill, for whoever takes the pipeline away.
const SPILL_DOMAIN: &str = "millrace-spill-domain";

/// Key that is there while the spill of an edge is not empty, with the domain. It
/// is kept with the edge, so that it can be read when the spill is out of reach.
const SPILLING: &str = "millrace-spilling";

/// How long a server of another domain may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

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
    #[error(
        "{0:?} is not the name of an edge: it is <from>.<to> or <from>_<arm>.<to>, each a name"
    )]
    Name(String),
    /// The states of the step behind it cannot be had.
    #[error("edge {edge}: {reason}")]
    State {
        /// Name of the edge.
        edge: String,
        /// Why.
        reason: crate::StateError,
    },
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
    /// The edge `name` of a pipeline: `from.to`, or `from_arm.to` for an arm of a branch.
    ///
    /// # Errors
    ///
    /// When the name is not of that form.
    pub fn new(lattice: &str, pipeline: &str, name: &str) -> Result<Self, EdgeError> {
        let (from, to) = name
            .split_once('.')
            .filter(|(from, to)| {
                let (step, arm) = from.split_once('_').unwrap_or((from, to));
                is_name(step) && is_name(arm) && is_name(to)
            })
            .ok_or_else(|| EdgeError::Name(name.to_owned()))?;
        Ok(Self {
            lattice: lattice.to_owned(),
            pipeline: pipeline.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    /// The arm of the branch before it whose messages it takes; `None` for an edge that takes all.
    #[must_use]
    pub fn arm(&self) -> Option<&str> {
        millrace_settings::edge::arm(&self.from)
    }

    pub(crate) fn lattice(&self) -> &str {
        &self.lattice
    }

    pub(crate) fn pipeline(&self) -> &str {
        &self.pipeline
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

    /// Where a message of the edge's stream lies: its partition, or 0 of 0 where it
    /// was published without any.
    pub(crate) fn partition_of_subject(&self, subject: &str) -> Partition {
        let tail = subject.strip_prefix(&self.subject()).and_then(|tail| tail.strip_prefix('.'));
        tail.and_then(|tail| tail.parse().ok()).unwrap_or_default()
    }

    pub(crate) fn partition_subject(&self, number: u16, count: u16) -> String {
        format!("{}.{count}.{number}", self.subject())
    }

    /// Subject on which its conduits agree on which of them hands it on.
    pub(crate) fn hold_subject(&self) -> String {
        format!("{}.hold.{}.{}", self.base(), self.from, self.to)
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

    /// Name of the stream with what came when the edge was full.
    #[must_use]
    pub fn spill_stream(&self) -> String {
        format!("{}_spill", self.stream())
    }

    /// Subject in the spill of what is on `subject` of the edge.
    pub(crate) fn spill_subject(&self, subject: &str) -> String {
        let partition = subject.strip_prefix(&self.subject()).unwrap_or_default();
        format!("{}.spill.{}.{}{partition}", self.base(), self.from, self.to)
    }

    /// Subject on the edge of what is on `subject` of the spill.
    pub(crate) fn subject_of_spilled(&self, subject: &str) -> String {
        let partition = subject.strip_prefix(&self.spill_subject("")).unwrap_or_default();
        format!("{}{partition}", self.subject())
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
                WhenFull::Block | WhenFull::Spill => DiscardPolicy::New,
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
            metadata: settings
                .spill_domain
                .iter()
                .map(|domain| (SPILL_DOMAIN.to_owned(), domain.clone()))
                .collect(),
            ..Config::default()
        }
    }

    /// The stream of the spill, where the settings want one.
    fn spill_config(&self, settings: &EdgeSettings) -> Option<Config> {
        let bytes = settings.spill_bytes?;
        let subject = self.spill_subject("");
        Some(Config {
            name: self.spill_stream(),
            subjects: vec![subject.clone(), format!("{subject}.*.*")],
            discard: DiscardPolicy::New,
            max_bytes: i64::try_from(bytes.get()).unwrap_or(i64::MAX),
            republish: None,
            description: Some(format!(
                "spill of edge {} of pipeline {}",
                self.name(),
                self.pipeline
            )),
            metadata: HashMap::new(),
            ..self.stream_config(settings)
        })
    }

    /// The streams that it has with these settings: their names, the most bytes
    /// of each, and the JetStream domain of one that is elsewhere. For whoever
    /// wants to know before they are made.
    #[must_use]
    pub fn streams(&self, settings: &EdgeSettings) -> Vec<(String, u64, Option<String>)> {
        let sized = |config: Config, domain| {
            (config.name, u64::try_from(config.max_bytes).unwrap_or_default(), domain)
        };
        let own = sized(self.stream_config(settings), None);
        let history = self.history_config(settings).map(|config| sized(config, None));
        let spill = self.spill_config(settings);
        let spill = spill.map(|config| sized(config, settings.spill_domain.clone()));
        std::iter::once(own).chain(history).chain(spill).collect()
    }

    /// JetStream where the spill is.
    pub(crate) fn spill_context(client: async_nats::Client, settings: &EdgeSettings) -> Context {
        match &settings.spill_domain {
            Some(domain) => jetstream::with_domain(client, domain),
            None => jetstream::new(client),
        }
    }

    /// What the spill has; `None` when nobody tells.
    pub(crate) async fn spilled(
        &self,
        client: &async_nats::Client,
        settings: &EdgeSettings,
    ) -> Option<State> {
        let js = Self::spill_context(client.clone(), settings);
        let stream = timeout(ANSWER, js.get_stream(self.spill_stream())).await.ok()?.ok()?;
        Some(stream.cached_info().state.clone())
    }

    /// Makes the stream of the spill, as [`Edge::ensure_stream`] that of the
    /// edge.
    pub(crate) async fn ensure_spill(
        &self,
        js: &Context,
        settings: &EdgeSettings,
    ) -> Result<(Stream, Provision), EdgeError> {
        let config = self.spill_config(settings).ok_or_else(|| self.spill_error("not wanted"))?;
        self.spill_answers(self.ensure(js, &config)).await
    }

    /// What the server of the spill answers, or that it does not.
    pub(crate) async fn spill_answers<T>(
        &self,
        answer: impl Future<Output = Result<T, EdgeError>>,
    ) -> Result<T, EdgeError> {
        let answer = timeout(ANSWER, answer).await;
        answer
            .unwrap_or_else(|_| Err(self.spill_error(format_args!("no answer within {ANSWER:?}"))))
    }

    /// Notes on the edge's stream whether its spill has something.
    pub(crate) async fn mark(
        &self,
        js: &Context,
        settings: &EdgeSettings,
        spilling: bool,
    ) -> Result<(), EdgeError> {
        let (stream, _) = self.ensure_stream(js, settings).await?;
        if spilling_to(&stream.cached_info().config).is_some() == spilling {
            return Ok(());
        }
        let mut wanted = self.stream_config(settings);
        if spilling {
            let domain = settings.spill_domain.clone().unwrap_or_default();
            wanted.metadata.insert(SPILLING.to_owned(), domain);
        }
        js.update_stream(&wanted).await.map_err(|e| self.stream_error(e))?;
        Ok(())
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
                let stream =
                    js.create_stream(wanted).await.map_err(|e| self.error_of(&wanted.name, e))?;
                return Ok((stream, Provision::Created));
            }
            Err(error) => return Err(self.error_of(&wanted.name, error)),
        };
        if same(&stream.cached_info().config, wanted) {
            return Ok((stream, Provision::Found));
        }
        let mut wanted = wanted.clone();
        let found = &stream.cached_info().config.metadata;
        let mark = found.get_key_value(SPILLING).map(|(key, value)| (key.clone(), value.clone()));
        wanted.metadata.extend(mark);
        js.update_stream(&wanted).await.map_err(|e| self.error_of(&wanted.name, e))?;
        Ok((stream, Provision::Updated))
    }

    pub(crate) fn stream_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        self.error_of(&self.stream(), reason)
    }

    pub(crate) fn spill_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        self.error_of(&self.spill_stream(), reason)
    }

    fn error_of(&self, stream: &str, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Stream {
            edge: self.name(),
            stream: stream.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn state_error(&self, reason: crate::StateError) -> EdgeError {
        EdgeError::State { edge: self.name(), reason }
    }

    pub(crate) fn consumer_error(&self, reason: impl std::fmt::Display) -> EdgeError {
        EdgeError::Consumer { edge: self.name(), reason: reason.to_string() }
    }
}

/// The consumer of an edge in order has another name for everybody who begins
/// with it. Two of one name, as there are while a host stands still and its
/// providers run twice, would take turns at one that either has made anew, and
/// each miss what the other was given. So the one whose consumer is gone hears
/// so.
pub(crate) fn own_name(consumer: &str) -> String {
    format!("{consumer}_{}", BatchIds::default().next_id())
}

/// Whether `name` is the consumer `consumer` of anybody.
pub(crate) fn is_of(name: &str, consumer: &str) -> bool {
    let rest = name.strip_prefix(consumer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
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

/// The JetStream domain of a spill that has something, or had when it was last
/// looked at; empty where that is the edge's own.
pub(crate) fn spilling_to(stream: &Config) -> Option<&str> {
    stream.metadata.get(SPILLING).map(String::as_str)
}

/// The JetStream domain and the name of the spill of an edge's stream, where it
/// is not where the stream is.
#[must_use]
pub fn spill_elsewhere(stream: &Config) -> Option<(&str, String)> {
    let domain = stream.metadata.get(SPILL_DOMAIN)?;
    Some((domain, format!("{}_spill", stream.name)))
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
        && found.metadata.get(SPILL_DOMAIN) == wanted.metadata.get(SPILL_DOMAIN)
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
        assert_eq!(edge.spill_stream(), "MILLRACE_plant_line-1_a_b_spill");
        assert_eq!(edge.spill_subject(&edge.subject()), "millrace.plant.line-1.spill.a.b");
        for subject in edge.subjects(&two) {
            assert_eq!(edge.subject_of_spilled(&edge.spill_subject(&subject)), subject);
        }
    }

    #[test]
    fn a_consumer_is_known_whoever_has_it() {
        let own = own_name("stage-4-1");
        assert_ne!(own, own_name("stage-4-1"));
        assert!(is_of(&own, "stage-4-1") && is_of("stage-4-1", "stage-4-1"));
        for other in ["stage", "stage-4", "stage-4-10", "stage-4-0", "stage-ordered"] {
            assert!(!is_of(&own, other), "{other}");
            assert!(!is_of(&own_name(other), "stage-4-1"), "{other}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for wrong in ["", "a", "a.", ".b", "a.b.c", "a.*", "a.>", "A.b", "a b.c"] {
            assert!(matches!(Edge::new("l", "p", wrong), Err(EdgeError::Name(_))), "{wrong}");
        }
    }
}
