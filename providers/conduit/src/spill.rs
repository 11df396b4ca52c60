//! What an edge does that spills when it is full: further batches go to a
//! second stream, the **spill**, and a **mover** brings them back.
//!
//! **Order.** While the spill has something, everything new goes there, and the
//! mover alone publishes on the edge, oldest first, one after another. Only when
//! the spill is empty do new batches go to the edge again. Both changes are made
//! when no publish of this process is under way, so that none is overtaken on
//! its way into the spill. One whose answer was lost may still come later: its
//! stage publishes it again, before what comes after it, and the edge knows it by
//! its id.
//!
//! **After a crash** the edge's stream says by a mark in its metadata whether
//! the spill has something. The mark is with the edge and not with the spill,
//! which may be out of reach: an edge that has room then goes on without it.
//!
//! **Nothing is lost.** The mover acknowledges a batch to the spill when the edge
//! has acknowledged it. What it moves a second time after a crash has the same
//! id, and is dropped within the edge's `dedup-window`.
//!
//! The mover is with the publishers and not with the consumer, because they have
//! to know of each other at every batch. The publishers of one edge (of two
//! versions of a stage, while one takes over from the other) share a spill in a
//! process ([`Spills`]). Another process that publishes to the same edge, as happens
//! while a host stands still and its providers run twice, notices the mark or what
//! is in the spill within [`LOOK`]; until then it can overtake.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::context::Publish;
use async_nats::jetstream::message::AckKind;
use async_nats::jetstream::stream::Stream;
use millrace_kit::write::WRITE_TIMEOUT;
use millrace_kit::{Backoff, CancellationToken, ErrorKind, Link, WriteError};
use millrace_settings::edge::EdgeSettings;
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};
use tokio::time::{Instant, sleep, timeout};

use crate::consume::{backoff, forget, tell};
use crate::edge::{Edge, EdgeError, GROUP, MOVER, own_name, spilling_to};
use crate::lane::{HandOuts, sequence};
use crate::pull::Puller;
use crate::store::{Part, Refusal, Store};

/// How often is looked for what others put into the spill.
const LOOK: Duration = Duration::from_secs(1);

/// How long acknowledgements may be on their way until those that are missing
/// are taken for lost.
const ACKNOWLEDGED: Duration = Duration::from_secs(2);

/// The spills of a process, one for each edge.
#[derive(Debug, Clone, Default)]
pub struct Spills(Arc<Mutex<HashMap<String, Weak<Spill>>>>);

impl Spills {
    /// The spill of an edge, with the settings and the link of whoever asked
    /// last.
    pub(crate) fn of(
        &self,
        client: &async_nats::Client,
        edge: &Edge,
        settings: &EdgeSettings,
        link: &Arc<Link>,
    ) -> Arc<Spill> {
        let mut all = self.0.lock();
        all.retain(|_, spill| spill.strong_count() > 0);
        let known = all.get(&edge.stream()).and_then(Weak::upgrade);
        let stores = Stores::new(client, edge, settings, link);
        if let Some(spill) = known {
            *spill.core.stores.lock() = Arc::new(stores);
            return spill;
        }
        let spill = Arc::new(Spill::open(client.clone(), stores));
        all.insert(edge.stream(), Arc::downgrade(&spill));
        spill
    }
}

/// The spill of an edge, and its mover for as long as this lives.
#[derive(Debug)]
pub(crate) struct Spill {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    client: async_nats::Client,
    stores: Mutex<Arc<Stores>>,
    /// Held for reading by each publish, and for writing by whoever changes it.
    way: RwLock<Way>,
    /// The way has come to be the spill.
    turned: Notify,
    /// The last publisher has gone.
    gone: CancellationToken,
}

#[derive(Debug)]
struct Stores {
    edge: Store,
    spill: Store,
    link: Arc<Link>,
}

/// Where new batches go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Unknown,
    Edge,
    Spill,
}

/// How far the mover has come.
#[derive(Debug, Default)]
struct Moved {
    /// When the spill was made that `last` is of.
    made: i128,
    /// Sequence number of the last batch that is on the edge.
    last: u64,
}

impl Stores {
    fn new(
        client: &async_nats::Client,
        edge: &Edge,
        settings: &EdgeSettings,
        link: &Arc<Link>,
    ) -> Self {
        let store = |part| Store::new(client, edge.clone(), settings.clone(), part);
        Self { edge: store(Part::Edge), spill: store(Part::Spill), link: Arc::clone(link) }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.core.gone.cancel();
    }
}

impl Spill {
    fn open(client: async_nats::Client, stores: Stores) -> Self {
        let core = Arc::new(Core {
            client,
            stores: Mutex::new(Arc::new(stores)),
            way: RwLock::new(Way::Unknown),
            turned: Notify::new(),
            gone: CancellationToken::new(),
        });
        let mover = Arc::clone(&core);
        tokio::spawn(async move {
            tokio::select! {
                () = mover.run() => {}
                () = mover.gone.cancelled() => {}
            }
        });
        Self { core }
    }

    /// Finds out where batches go, at the start.
    pub(crate) async fn learn(&self) -> Result<(), EdgeError> {
        self.core.learn().await
    }

    /// Whether batches can be published where they go now.
    pub(crate) async fn probe(&self) -> Result<(), EdgeError> {
        self.core.learn().await?;
        let stores = self.core.stores();
        let way = *self.core.way.read().await;
        match way {
            Way::Spill => stores.spill.ensure().await.map(drop),
            Way::Edge | Way::Unknown => stores.edge.ensure().await.map(drop),
        }
    }

    /// Publishes where it is its turn, `subject` being that on the edge.
    pub(crate) async fn publish(
        &self,
        link: &Link,
        subject: String,
        what: Publish,
    ) -> Result<(), WriteError> {
        let stores = self.core.stores();
        timeout(WRITE_TIMEOUT, self.core.publish(&stores, link, subject, what))
            .await
            .unwrap_or_else(|_| {
                let target = stores.edge.target();
                Err(WriteError::Timeout { target, after: WRITE_TIMEOUT })
            })
    }
}

impl Core {
    fn stores(&self) -> Arc<Stores> {
        Arc::clone(&self.stores.lock())
    }

    async fn learn(&self) -> Result<(), EdgeError> {
        if *self.way.read().await != Way::Unknown {
            return Ok(());
        }
        let stores = self.stores();
        let mut way = self.way.write().await;
        let (stream, _) = stores.edge.ensure().await?;
        if *way == Way::Unknown {
            let spilling = spilling_to(&stream.cached_info().config);
            let domain = stores.spill.settings.spill_domain.as_deref().unwrap_or_default();
            if let Some(other) = spilling.filter(|spilling| *spilling != domain) {
                stores.link.noticed(format_args!(
                    "{}: batches are left in its spill in JetStream domain {other:?}, which come when \
                     `spill-domain` is that again",
                    stores.edge.target()
                ));
            }
            *way = if spilling.is_some() { Way::Spill } else { Way::Edge };
            self.turned.notify_one();
        }
        Ok(())
    }

    async fn publish(
        &self,
        stores: &Stores,
        link: &Link,
        subject: String,
        what: Publish,
    ) -> Result<(), WriteError> {
        self.learn().await.map_err(|error| stores.edge.refused(error))?;
        let full = {
            let way = self.way.read().await;
            if *way == Way::Spill {
                let subject = stores.spill.edge.spill_subject(&subject);
                return Ok(stores.spill.publish(link, subject, what).await?);
            }
            match stores.edge.publish(link, subject.clone(), what.clone()).await {
                Err(Refusal::Full(full)) => full,
                Err(Refusal::Other(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        };
        self.turn(stores, link, subject, what).await.map_err(|error| match error {
            WriteError::Refused { target, reason } => {
                WriteError::Refused { target, reason: format!("{reason}; and {full}") }
            }
            other => other,
        })
    }

    /// Puts the first batch into the spill. The way is only changed when it is
    /// there: a spill out of reach must not hold back an edge that has room
    /// again.
    async fn turn(
        &self,
        stores: &Stores,
        link: &Link,
        subject: String,
        what: Publish,
    ) -> Result<(), WriteError> {
        let mut way = self.way.write().await;
        let Stores { edge, spill, .. } = stores;
        let subject = spill.edge.spill_subject(&subject);
        // Somebody else has.
        if *way == Way::Spill {
            return Ok(spill.publish(link, subject, what).await?);
        }
        spill.ensure().await.map_err(|error| spill.refused(error))?;
        self.mark(edge, true).await.map_err(|error| edge.refused(error))?;
        if let Err(error) = spill.publish(link, subject, what).await {
            // Left behind, it would only have the next process look for nothing.
            let _ = self.mark(edge, false).await;
            return Err(error.into());
        }
        *way = Way::Spill;
        self.turned.notify_one();
        tracing::info!(edge = edge.edge.name(), "is full and spills");
        Ok(())
    }

    async fn mark(&self, edge: &Store, spilling: bool) -> Result<(), EdgeError> {
        edge.edge.mark(&edge.js, &edge.settings, spilling).await
    }

    async fn run(&self) {
        let mut backoff = backoff();
        let mut moved = Moved::default();
        let mut failed = false;
        loop {
            if let Err(error) = self.session(&mut moved, &mut backoff, &mut failed).await {
                failed = true;
                self.stores().link.retrying(error);
                backoff.wait().await;
            }
        }
    }

    /// Waits until the spill has something, and moves it.
    async fn session(
        &self,
        moved: &mut Moved,
        backoff: &mut Backoff,
        failed: &mut bool,
    ) -> Result<(), EdgeError> {
        self.learn().await?;
        let mut reached = true;
        while *self.way.read().await != Way::Spill {
            tokio::select! {
                () = self.turned.notified() => {}
                () = sleep(LOOK) => {
                    self.look(&mut reached).await?;
                    // Where nothing is published nobody else would say so.
                    if std::mem::take(failed) {
                        backoff.reset();
                        self.stores().link.connected();
                    }
                }
            }
        }
        self.move_all(moved, backoff).await
    }

    /// Whether the spill has something that this process did not put there: what
    /// another one spills, or a publish of ours that came late.
    async fn look(&self, reached: &mut bool) -> Result<(), EdgeError> {
        let stores = self.stores();
        let (stream, _) = stores.edge.ensure().await?;
        let marked = spilling_to(&stream.cached_info().config).is_some();
        let left = match stores.spill.ensure().await {
            Ok((stream, _)) => {
                *reached = true;
                stream.cached_info().state.messages > 0
            }
            // Not needed now, but worth knowing before it is.
            Err(error) => {
                if std::mem::replace(reached, false) {
                    stores.link.noticed(error);
                }
                false
            }
        };
        if !(marked || left) {
            return Ok(());
        }
        let mut way = self.way.write().await;
        self.mark(&stores.edge, true).await?;
        *way = Way::Spill;
        Ok(())
    }

    /// Moves until the spill is empty and new batches go to the edge again.
    async fn move_all(&self, moved: &mut Moved, backoff: &mut Backoff) -> Result<(), EdgeError> {
        let stores = self.stores();
        let Stores { edge: to, spill, link } = &*stores;
        let edge = &spill.edge;
        let (stream, _) = spill.ensure().await?;
        let made = stream.cached_info().created.unix_timestamp_nanos();
        if moved.made != made {
            // Another stream of the same name numbers anew.
            *moved = Moved { made, last: 0 };
        }
        edge.spill_answers(forget(edge, &stream, MOVER)).await?;
        let mover = own_name(MOVER);
        let config = Edge::ordered_config(&mover, &[]);
        let created = async {
            stream.create_consumer(config).await.map_err(|e| edge.consumer_error(e)).map(drop)
        };
        edge.spill_answers(created).await?;
        let domain = spill.settings.spill_domain.as_deref();
        let puller = Puller::new(&self.client, domain, &edge.spill_stream(), &mover);
        let mut hand_outs = HandOuts::default();
        let mut nothing_since: Option<Instant> = None;
        link.connected();
        loop {
            let group = puller.there(GROUP).await.map_err(|e| edge.spill_error(e))?;
            hand_outs.check(edge, &group)?;
            let Some(last) = group.last() else {
                if self.turn_back(&stores, &stream).await? {
                    return Ok(());
                }
                // Acknowledgements are on their way, or lost.
                if nothing_since.get_or_insert_with(Instant::now).elapsed() > ACKNOWLEDGED {
                    return Err(edge.spill_error("an acknowledgement was lost"));
                }
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            nothing_since = None;
            backoff.reset();
            for message in &group {
                if sequence(message) > moved.last {
                    self.move_one(to, link, message).await;
                    moved.last = sequence(message);
                }
                if sequence(message) != sequence(last) {
                    tell(message, AckKind::Ack).await;
                }
            }
            // Those before it are acknowledged on the same way.
            edge.spill_answers(async { last.double_ack().await.map_err(|e| edge.spill_error(e)) })
                .await?;
        }
    }

    /// Publishes one batch on the edge, for as long as it takes.
    async fn move_one(&self, to: &Store, link: &Link, message: &Message) {
        let subject = to.edge.subject_of_spilled(&message.subject);
        let mut what = Publish::build().payload(message.payload.clone());
        if let Some(headers) = &message.headers {
            what = what.headers(headers.clone());
        }
        let mut full = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        let mut away = backoff();
        loop {
            match to.publish(link, subject.clone(), what.clone()).await {
                Ok(()) => return,
                Err(Refusal::Full(_)) => full.wait().await,
                Err(Refusal::Other(error)) => {
                    link.telemetry.error(ErrorKind::Downstream, error);
                    away.wait().await;
                }
            }
        }
    }

    /// Lets new batches go to the edge again if nothing is in the spill.
    async fn turn_back(&self, stores: &Stores, stream: &Stream) -> Result<bool, EdgeError> {
        let edge = &stores.spill.edge;
        let mut way = self.way.write().await;
        // Nothing is on its way into the spill from here.
        let mut stream = stream.clone();
        let asked =
            async { Ok(stream.info().await.map_err(|e| edge.spill_error(e))?.state.messages) };
        if edge.spill_answers(asked).await? > 0 {
            return Ok(false);
        }
        self.mark(&stores.edge, false).await?;
        *way = Way::Edge;
        tracing::info!(edge = edge.name(), "its spill is empty");
        Ok(true)
    }
}
