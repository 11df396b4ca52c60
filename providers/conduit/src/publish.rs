//! The sink half: batches of a stage onto its edges.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_nats::jetstream::context::Publish;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use millrace_batch::Batch;
use millrace_kit::packed::TRACEPARENT;
use millrace_kit::regroup::{by_arm, partition};
use millrace_kit::{Backoff, Link, Packed, Sink, WriteError};
use millrace_settings::edge::{EdgeSettings, WhenFull};
use millrace_window::{Commit, commit};

use crate::edge::{Edge, EdgeError, partitions, spilling_to};
use crate::spill::{Spill, Spills};
use crate::state::{Bucket, StateError, States};
use crate::store::{Part, Store};

/// How long the streams may take when the way is probed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes the batches of one stage to all its edges.
#[derive(Debug)]
pub struct Publisher {
    edges: Vec<Outlet>,
    link: Arc<Link>,
    /// Where the stage's state is kept, if it has one.
    bucket: Option<Bucket>,
}

/// One edge, and what it has for when it is full.
#[derive(Debug)]
struct Outlet {
    store: Store,
    spill: Option<Arc<Spill>>,
}

impl Publisher {
    /// A publisher to `edges`. The streams are made in the background, with
    /// retries, until the link is drained. `spills` and `states` are those of the
    /// process.
    #[must_use]
    pub fn open(
        client: &async_nats::Client,
        edges: Vec<(Edge, EdgeSettings)>,
        link: Arc<Link>,
        spills: &Spills,
        states: &States,
    ) -> Arc<Self> {
        let of =
            |(edge, _): &(Edge, EdgeSettings)| states.of(client, edge.lattice(), edge.pipeline());
        let bucket = edges.first().map(of);
        let outlet = |(edge, settings): (Edge, EdgeSettings)| Outlet {
            spill: (settings.when_full == WhenFull::Spill)
                .then(|| spills.of(client, &edge, &settings, &link)),
            store: Store::new(client, edge, settings, Part::Edge),
        };
        let edges = edges.into_iter().map(outlet).collect();
        let publisher = Arc::new(Self { edges, link, bucket });
        // Not kept by what it does in the background: its spills end with it.
        let (making, link) = (Arc::downgrade(&publisher), Arc::clone(&publisher.link));
        tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            while let Some(publisher) = making.upgrade() {
                let made = tokio::select! {
                    made = publisher.ensure_all() => made,
                    () = link.drain.cancelled() => return,
                };
                drop(publisher);
                let Err(error) = made else { return link.connected() };
                link.retrying(error);
                tokio::select! {
                    () = backoff.wait() => {}
                    () = link.drain.cancelled() => return,
                }
            }
        });
        publisher
    }

    async fn ensure_all(&self) -> Result<(), EdgeError> {
        for Outlet { store, spill } in &self.edges {
            if let Some(spill) = spill {
                spill.learn().await?;
                continue;
            }
            let (stream, _) = store.ensure().await?;
            if spilling_to(&stream.cached_info().config).is_some() {
                self.link.noticed(format_args!(
                    "{}: batches are left in its spill, which come when it has `when-full: spill` again",
                    store.target()
                ));
            }
        }
        Ok(())
    }

    async fn publish_to_all(&self, batch: &Packed) -> Result<(), WriteError> {
        // Parted once, and only behind a branch.
        let arms = LazyLock::new(|| by_arm(batch));
        let publishes = self.edges.iter().map(|outlet| {
            let taken = match outlet.store.edge.arm() {
                None => Ok(Some(batch)),
                Some(arm) => match &*arms {
                    Ok(arms) => Ok(arms.get(arm)),
                    Err(error) => Err(outlet.store.refused(error)),
                },
            };
            async move {
                match taken? {
                    Some(batch) => self.publish_to_edge(outlet, batch).await,
                    None => Ok(()),
                }
            }
        });
        // All of them to the end, also after an error: the repeat finds what
        // went through already there and is dropped.
        join_all(publishes).await.into_iter().collect()
    }

    async fn publish_to_edge(&self, outlet: &Outlet, batch: &Packed) -> Result<(), WriteError> {
        let edge = &outlet.store.edge;
        let Some(count) = partitions(&outlet.store.settings) else {
            return self.publish_to(outlet, edge.subject(), batch).await;
        };
        let parts = partition(batch, count);
        let publishes = parts.iter().map(|(number, part)| {
            self.publish_to(outlet, edge.partition_subject(*number, count), part)
        });
        join_all(publishes).await.into_iter().collect()
    }

    async fn publish_to(
        &self,
        outlet: &Outlet,
        subject: String,
        batch: &Packed,
    ) -> Result<(), WriteError> {
        let mut publish = Publish::build().payload(batch.body().clone());
        if let Some(id) = batch.id() {
            publish = publish.message_id(id);
        }
        if let Some(trace) = batch.traceparent() {
            publish = publish.header(TRACEPARENT, trace);
        }
        match &outlet.spill {
            Some(spill) => spill.publish(&self.link, subject, publish).await,
            None => Ok(outlet.store.publish(&self.link, subject, publish).await?),
        }
    }

    async fn probe(&self) -> Result<(), WriteError> {
        for Outlet { store, spill } in &self.edges {
            let open = async {
                match spill {
                    Some(spill) => spill.probe().await,
                    None => store.ensure().await.map(drop),
                }
            };
            match tokio::time::timeout(PROBE_TIMEOUT, open).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(store.refused(error)),
                Err(_) => {
                    let target = store.target();
                    return Err(WriteError::Timeout { target, after: PROBE_TIMEOUT });
                }
            }
        }
        Ok(())
    }

    /// Keeps what a stage with state gives back after its output.
    async fn keep(&self, commit: Commit<'_>) -> Result<(), WriteError> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let kept = bucket.commit(&self.link.names.stage, commit.state, commit.document).await;
        kept.map_err(|error| {
            // That of a call that was overtaken is as it should be.
            if !matches!(error, StateError::Changed { .. }) {
                self.link.noticed(&error);
            }
            let target = format!("state of {}", self.link.names.stage);
            WriteError::Refused { target, reason: error.to_string() }
        })
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        if let Some(commit) = Batch::open(&body).ok().as_ref().and_then(commit) {
            return self.keep(commit).await;
        }
        let batch = Packed::read(body);
        batch.check().map_err(|reason| WriteError::Unreadable(format!("batch: {reason}")))?;
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
