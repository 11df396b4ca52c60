//! The sink half: batches of a stage onto its edges.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{Publish, PublishError, PublishErrorKind};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use millrace_kit::packed::TRACEPARENT;
use millrace_kit::regroup::partition;
use millrace_kit::write::WRITE_TIMEOUT;
use millrace_kit::{Backoff, Link, Packed, Sink, WriteError};
use millrace_settings::edge::EdgeSettings;

use crate::edge::{Edge, EdgeError, Provision, partitions};

/// How long the streams may take when the way is probed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes the batches of one stage to all its edges.
#[derive(Debug)]
pub struct Publisher {
    js: Context,
    edges: Vec<(Edge, EdgeSettings)>,
    link: Arc<Link>,
}

/// How long a stream is looked for after a publish that nobody answered.
const MAKE_AFTER_SILENCE: Duration = Duration::from_millis(300);

impl Publisher {
    /// A publisher to `edges`. The streams are made in the background, with
    /// retries, until the link is drained.
    #[must_use]
    pub fn open(mut js: Context, edges: Vec<(Edge, EdgeSettings)>, link: Arc<Link>) -> Arc<Self> {
        js.set_timeout(WRITE_TIMEOUT);
        let publisher = Arc::new(Self { js, edges, link });
        let making = Arc::clone(&publisher);
        tokio::spawn(async move {
            tokio::select! {
                () = making.make_streams() => {}
                () = making.link.drain.cancelled() => {}
            }
        });
        publisher
    }

    async fn make_streams(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while let Err(error) = self.ensure_all().await {
            self.link.retrying(error);
            backoff.wait().await;
        }
        self.link.connected();
    }

    async fn ensure_all(&self) -> Result<(), EdgeError> {
        for (edge, settings) in &self.edges {
            edge.ensure_stream(&self.js, settings).await?;
        }
        Ok(())
    }

    async fn publish_to_all(&self, batch: &Packed) -> Result<(), WriteError> {
        let publishes =
            self.edges.iter().map(|(edge, settings)| self.publish_to_edge(edge, settings, batch));
        // All of them to the end, also after an error: the repeat finds what
        // went through already there and is dropped.
        join_all(publishes).await.into_iter().collect()
    }

    async fn publish_to_edge(
        &self,
        edge: &Edge,
        settings: &EdgeSettings,
        batch: &Packed,
    ) -> Result<(), WriteError> {
        let Some(count) = partitions(settings) else {
            return self.publish_to(edge, settings, edge.subject(), batch).await;
        };
        let parts = partition(batch, count);
        let publishes = parts.iter().map(|(number, part)| {
            self.publish_to(edge, settings, edge.partition_subject(*number, count), part)
        });
        join_all(publishes).await.into_iter().collect()
    }

    async fn publish_to(
        &self,
        edge: &Edge,
        settings: &EdgeSettings,
        subject: String,
        batch: &Packed,
    ) -> Result<(), WriteError> {
        let result = match self.publish_once(subject.clone(), batch).await {
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                self.make_again(edge, settings).await?;
                self.publish_once(subject, batch).await
            }
            // Where somebody listens to the edge (a tap), a stream that is gone
            // shows as silence. The stage asks again, and finds it made.
            Err(error) if error.kind() == PublishErrorKind::TimedOut => {
                let made = self.make_again(edge, settings);
                let _ = tokio::time::timeout(MAKE_AFTER_SILENCE, made).await;
                Err(error)
            }
            result => result,
        };
        result.map_err(|error| write_error(edge, &error))
    }

    async fn publish_once(&self, subject: String, batch: &Packed) -> Result<(), PublishError> {
        let mut publish = Publish::build().payload(batch.body().clone());
        if let Some(id) = batch.id() {
            publish = publish.message_id(id);
        }
        if let Some(trace) = batch.traceparent() {
            publish = publish.header(TRACEPARENT, trace);
        }
        let acknowledged = self.js.send_publish(subject, publish).await?.await?;
        if acknowledged.duplicate {
            self.link.telemetry.duplicate();
        }
        Ok(())
    }

    /// The stream is gone: somebody deleted it, or the store was emptied.
    async fn make_again(&self, edge: &Edge, settings: &EdgeSettings) -> Result<(), WriteError> {
        let refused =
            |e: EdgeError| WriteError::Refused { target: target(edge), reason: e.to_string() };
        let (_, done) = edge.ensure_stream(&self.js, settings).await.map_err(refused)?;
        if done == Provision::Created {
            self.link.noticed(format_args!(
                "edge {}: stream {} was missing and has been made",
                edge.name(),
                edge.stream()
            ));
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), WriteError> {
        for (edge, settings) in &self.edges {
            let found =
                tokio::time::timeout(PROBE_TIMEOUT, edge.ensure_stream(&self.js, settings)).await;
            match found {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    return Err(WriteError::Refused {
                        target: target(edge),
                        reason: error.to_string(),
                    });
                }
                Err(_) => {
                    return Err(WriteError::Timeout { target: target(edge), after: PROBE_TIMEOUT });
                }
            }
        }
        Ok(())
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let batch = Packed::read(body);
        if batch.messages() == 0 {
            return if batch.is_probe() { self.probe().await } else { Ok(()) };
        }
        let telemetry = &self.link.telemetry;
        let started = tokio::time::Instant::now();
        let in_flight = telemetry.in_flight();
        telemetry.received(batch.messages() as u64, batch.bytes() as u64);
        let result = self.publish_to_all(&batch).await;
        drop(in_flight);
        match &result {
            Ok(()) => {
                telemetry.delivered(batch.messages() as u64, batch.bytes() as u64);
                telemetry.acknowledged_after(started.elapsed());
                self.link.connected();
            }
            Err(error) => self.link.retrying(error),
        }
        result
    }
}

impl Sink for Publisher {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Every write waits for its acknowledgement: nothing is left behind.
        Box::pin(std::future::ready(()))
    }
}

fn target(edge: &Edge) -> String {
    format!("edge {}", edge.name())
}

fn write_error(edge: &Edge, error: &PublishError) -> WriteError {
    let target = target(edge);
    match error.kind() {
        PublishErrorKind::TimedOut => WriteError::Timeout { target, after: WRITE_TIMEOUT },
        PublishErrorKind::BrokenPipe => {
            WriteError::Unreachable { target, reason: error.to_string() }
        }
        _ => WriteError::Refused { target, reason: error.to_string() },
    }
}
