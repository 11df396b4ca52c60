//! A stream that batches are published to: an edge's, or its spill's.

use std::time::Duration;

use async_nats::jetstream::context::{Publish, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context, ErrorCode};
use millrace_kit::write::WRITE_TIMEOUT;
use millrace_kit::{Link, WriteError};
use millrace_settings::edge::EdgeSettings;

use crate::edge::{Edge, EdgeError, Provision};

/// How long a stream is looked for after a publish that nobody answered.
const MAKE_AFTER_SILENCE: Duration = Duration::from_millis(300);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Edge,
    Spill,
}

/// One of the two streams of an edge.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) js: Context,
    pub(crate) edge: Edge,
    pub(crate) settings: EdgeSettings,
    part: Part,
}

/// Why a batch was not stored.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The stream has as many bytes as it may.
    Full(WriteError),
    /// Anything else.
    Other(WriteError),
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(error) | Refusal::Other(error) => error,
        }
    }
}

impl Store {
    pub(crate) fn new(
        client: &async_nats::Client,
        edge: Edge,
        settings: EdgeSettings,
        part: Part,
    ) -> Self {
        let mut js = match part {
            Part::Edge => jetstream::new(client.clone()),
            Part::Spill => Edge::spill_context(client.clone(), &settings),
        };
        js.set_timeout(WRITE_TIMEOUT);
        Self { js, edge, settings, part }
    }

    /// Its name for people.
    pub(crate) fn target(&self) -> String {
        match self.part {
            Part::Edge => format!("edge {}", self.edge.name()),
            Part::Spill => format!("edge {}: spill", self.edge.name()),
        }
    }

    /// Makes the stream, or changes it, where it is not as wanted.
    pub(crate) async fn ensure(&self) -> Result<(Stream, Provision), EdgeError> {
        match self.part {
            Part::Edge => self.edge.ensure_stream(&self.js, &self.settings).await,
            Part::Spill => self.edge.ensure_spill(&self.js, &self.settings).await,
        }
    }

    /// Publishes and waits until it is stored. A stream that is gone is made
    /// again.
    pub(crate) async fn publish(
        &self,
        link: &Link,
        subject: String,
        what: Publish,
    ) -> Result<(), Refusal> {
        let result = match self.publish_once(link, subject.clone(), what.clone()).await {
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                self.make_again(link).await.map_err(Refusal::Other)?;
                self.publish_once(link, subject, what).await
            }
            // Where somebody listens to the edge (a tap), a stream that is gone
            // shows as silence. The stage asks again, and finds it made.
            Err(error) if error.kind() == PublishErrorKind::TimedOut => {
                let made = self.make_again(link);
                let _ = tokio::time::timeout(MAKE_AFTER_SILENCE, made).await;
                Err(error)
            }
            result => result,
        };
        result.map_err(|error| self.refusal(&error))
    }

    async fn publish_once(
        &self,
        link: &Link,
        subject: String,
        what: Publish,
    ) -> Result<(), PublishError> {
        let acknowledged = self.js.send_publish(subject, what).await?.await?;
        if acknowledged.duplicate {
            link.telemetry.duplicate();
        }
        Ok(())
    }

    /// The stream is gone: somebody deleted it, or the store was emptied.
    async fn make_again(&self, link: &Link) -> Result<(), WriteError> {
        let (stream, done) = self.ensure().await.map_err(|error| self.refused(error))?;
        if done == Provision::Created {
            link.noticed(format_args!(
                "edge {}: stream {} was missing and has been made",
                self.edge.name(),
                stream.cached_info().config.name
            ));
        }
        Ok(())
    }

    pub(crate) fn refused(&self, error: impl std::fmt::Display) -> WriteError {
        WriteError::Refused { target: self.target(), reason: error.to_string() }
    }

    fn refusal(&self, error: &PublishError) -> Refusal {
        let target = self.target();
        match error.kind() {
            PublishErrorKind::TimedOut => {
                Refusal::Other(WriteError::Timeout { target, after: WRITE_TIMEOUT })
            }
            PublishErrorKind::BrokenPipe => {
                Refusal::Other(WriteError::Unreachable { target, reason: error.to_string() })
            }
            _ if is_full(error) => Refusal::Full(self.refused(error)),
            _ => Refusal::Other(self.refused(error)),
        }
    }
}

/// JetStream has one code for everything that its store refuses. A disk that is
/// full is not an edge that is.
fn is_full(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<jetstream::Error>()).is_some_and(|error| {
        error.error_code() == ErrorCode::STREAM_STORE_FAILED
            && error.to_string().contains("maximum bytes")
    })
}
