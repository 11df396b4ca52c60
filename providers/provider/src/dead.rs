//! Dead letters over JetStream: one stream a pipeline, a subject a stage.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{Publish, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use futures::future::BoxFuture;
use millrace_kit::dead::TIME;
use millrace_kit::packed::TRACEPARENT;
use millrace_kit::status::{dead_stream, dead_subject};
use millrace_kit::write::WRITE_TIMEOUT;
use millrace_kit::{DeadLetters, LinkNames, Packed, WriteError};
use tokio::sync::OnceCell;

/// Most bytes of dead letters kept for a pipeline; the oldest go first.
pub const KEPT_BYTES: i64 = 256 << 20;

/// How long dead letters are kept.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How long the stream is looked for after a publish that nobody answered.
const MAKE_AFTER_SILENCE: Duration = Duration::from_millis(300);

/// The dead letters of one stage.
#[derive(Debug, Clone)]
pub struct JetStreamDead {
    js: Context,
    stream: String,
    subjects: String,
    subject: String,
    made: Arc<OnceCell<()>>,
}

impl JetStreamDead {
    /// The dead letters of the stage that a link leads to or from.
    #[must_use]
    pub fn new(client: &async_nats::Client, lattice: &str, names: &LinkNames) -> Self {
        let mut js = async_nats::jetstream::new(client.clone());
        js.set_timeout(WRITE_TIMEOUT);
        Self {
            js,
            stream: dead_stream(lattice, &names.pipeline),
            subjects: dead_subject(lattice, &names.pipeline, "*"),
            subject: dead_subject(lattice, &names.pipeline, &names.stage),
            made: Arc::default(),
        }
    }

    async fn keep(&self, letters: Bytes) -> Result<(), WriteError> {
        let letters = Packed::read(letters);
        letters.check().map_err(|reason| WriteError::Unreadable(format!("batch: {reason}")))?;
        let letters = with_time(&letters).map_err(|e| self.refused(&e))?;
        // Made before the first publish, because one into nothing may only show as silence.
        self.made.get_or_try_init(|| self.make_stream()).await?;
        match self.publish(&letters).await {
            // Somebody deleted it.
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                self.make_stream().await?;
                self.publish(&letters).await
            }
            // Where somebody listens (a tap), a stream that is gone shows as silence. The stage asks again, and finds
            // it made.
            Err(error) if error.kind() == PublishErrorKind::TimedOut => {
                let _ = tokio::time::timeout(MAKE_AFTER_SILENCE, self.make_stream()).await;
                Err(error)
            }
            result => result,
        }
        .map_err(|error| match error.kind() {
            PublishErrorKind::TimedOut => {
                WriteError::Timeout { target: self.subject.clone(), after: WRITE_TIMEOUT }
            }
            _ => self.refused(&error),
        })
    }

    async fn make_stream(&self) -> Result<(), WriteError> {
        self.js.get_or_create_stream(self.config()).await.map(drop).map_err(|e| self.refused(&e))
    }

    async fn publish(&self, letters: &Packed) -> Result<(), PublishError> {
        let mut publish = Publish::build().payload(letters.body().clone());
        if let Some(id) = letters.id() {
            publish = publish.message_id(id);
        }
        if let Some(trace) = letters.traceparent() {
            publish = publish.header(TRACEPARENT, trace);
        }
        self.js.send_publish(self.subject.clone(), publish).await?.await.map(drop)
    }

    fn config(&self) -> Config {
        Config {
            name: self.stream.clone(),
            subjects: vec![self.subjects.clone()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_bytes: KEPT_BYTES,
            max_age: KEPT_FOR,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            num_replicas: 1,
            ..Config::default()
        }
    }

    fn refused(&self, error: &dyn std::fmt::Display) -> WriteError {
        WriteError::Refused { target: self.subject.clone(), reason: error.to_string() }
    }
}

impl DeadLetters for JetStreamDead {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.keep(letters))
    }
}

/// The letters with the time of writing, which a stage does not know.
fn with_time(letters: &Packed) -> Result<Packed, millrace_batch::WriteError> {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let batch = millrace_batch::Batch::open(letters.body()).ok();
    let set: Vec<_> = batch.iter().flat_map(millrace_batch::Batch::headers).collect();
    letters.annotated(&set, &[(TIME, &now)]).map(Packed::read)
}
