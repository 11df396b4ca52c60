//! The links of a provider: put, run, deleted, drained.
//!
//! The state machine is small on purpose. A link is in one of two maps, active
//! or leaving; each runs as one task that first waits for its predecessor,
//! then opens the connector, then runs until it is drained or its time is up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millrace_kit::{
    CancellationToken, DeadLetters, Delivery, Direction, Link, LinkNames, LinkStatus, Policy, Sink,
    Writers,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use wasmcloud_provider_sdk::get_connection;

use crate::call::WrpcStage;
use crate::dead::JetStreamDead;
use crate::{Config, Connector, Platform, Sourced};

/// How long a deleted link may take. A host gives a provider 10 s to end
/// (`host/src/lattice.rs`): its sources leave at the latest after half of this,
/// and what is left is for its sinks.
pub(crate) const DRAIN: Duration = Duration::from_secs(8);

/// How long the handshake of a call may take in the transport; the call as a
/// whole is limited by the delivery.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What tells links apart: direction, component at the other end, link name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) direction: Direction,
    pub(crate) component: String,
    pub(crate) name: String,
}

/// All links of the provider.
pub(crate) struct Links<C> {
    connector: Arc<C>,
    platform: Platform,
    active: Mutex<HashMap<Key, Active>>,
    /// Links that are being drained, and the token cancelled at their end.
    leaving: Mutex<HashMap<Key, (Arc<Link>, CancellationToken)>>,
}

/// A link in use.
struct Active {
    link: Arc<Link>,
    task: JoinHandle<()>,
    /// Cancelled when the task has ended, however.
    ended: CancellationToken,
    sink: Option<Outlet>,
}

/// Where a stage's publishes go.
#[derive(Clone)]
struct Outlet {
    /// Absent until the connector has opened it.
    sink: Arc<Mutex<Option<Arc<dyn Sink>>>>,
    dead: Arc<dyn DeadLetters>,
    dead_subject: Arc<str>,
    link: Arc<Link>,
}

impl<C: Connector> Links<C> {
    pub(crate) fn new(connector: C, platform: Platform) -> Self {
        Self {
            connector: Arc::new(connector),
            platform,
            active: Mutex::default(),
            leaving: Mutex::default(),
        }
    }

    /// Takes up a link. A second put of the same link changes nothing.
    pub(crate) fn put(&self, key: Key, config: Config) {
        let mut active = self.active.lock();
        if active.contains_key(&key) {
            return;
        }
        let read = || Ok((LinkNames::from_flat(&config)?, Writers::of(&config)?));
        let started = match read() {
            Ok((names, writers)) => {
                let predecessors = self.predecessors(&key, &names, &active);
                let link = Link::new(names, key.direction).with_writers(writers);
                self.start(&key, Arc::new(link), config, predecessors)
            }
            Err(error) => failed(&key, &config, &error),
        };
        active.insert(key, started);
    }

    /// Links that this one takes over from: of the same source, edge or sink and
    /// the same stage, whether they are being drained or still to be deleted.
    /// Two of one name would fight for one client identifier, and put messages
    /// out of order.
    fn predecessors(
        &self,
        key: &Key,
        names: &LinkNames,
        active: &HashMap<Key, Active>,
    ) -> Vec<CancellationToken> {
        let leaving = self.leaving.lock();
        let leaving = leaving.iter().map(|(key, (link, ended))| (key, link, ended));
        let active = active.iter().map(|(key, active)| (key, &active.link, &active.ended));
        leaving
            .chain(active)
            .filter(|(k, link, _)| k.direction == key.direction && link.names == *names)
            .map(|(_, _, ended)| ended.clone())
            .collect()
    }

    /// Drains a link in the background.
    pub(crate) fn delete(self: &Arc<Self>, key: &Key) {
        let active = {
            // Always in one of the two, for a successor that is put meanwhile.
            let mut all = self.active.lock();
            let Some(active) = all.remove(key) else { return };
            let left = (Arc::clone(&active.link), active.ended.clone());
            self.leaving.lock().insert(key.clone(), left);
            active
        };
        let (links, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            finish(active, DRAIN).await;
            links.leaving.lock().remove(&key);
        });
    }

    /// Drains all links and returns when they have ended, or the time is up.
    ///
    /// Sources first: their stages still publish to the sinks.
    pub(crate) async fn drain_all(&self, limit: Duration) {
        let all: Vec<_> = self.active.lock().drain().collect();
        let (sources, sinks): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(key, _)| key.direction == Direction::Source);
        join_all(sources.into_iter().map(|(_, active)| finish(active, limit))).await;
        join_all(sinks.into_iter().map(|(_, active)| finish(active, limit))).await;
    }

    /// The links in use.
    pub(crate) fn keys(&self) -> HashSet<Key> {
        self.active.lock().keys().cloned().collect()
    }

    /// The status of each link with its pipeline.
    pub(crate) fn statuses(&self) -> Vec<(String, LinkStatus)> {
        let status = |link: &Arc<Link>| (link.names.pipeline.clone(), link.status());
        let mut all: Vec<_> =
            self.active.lock().values().map(|active| status(&active.link)).collect();
        all.extend(self.leaving.lock().values().map(|(link, _)| status(link)));
        all
    }

    /// Writes what a stage publishes.
    pub(crate) async fn publish(
        &self,
        component: &str,
        subject: &str,
        body: Bytes,
    ) -> Result<(), String> {
        let outlet = self
            .outlet(component)
            .ok_or_else(|| format!("no link from component {component} to this provider"))?;
        let result = if subject == &*outlet.dead_subject {
            let letters = millrace_batch::Batch::open(&body).map_or(1, |batch| batch.len());
            let kept = outlet.dead.accept(body).await;
            if kept.is_ok() {
                outlet.link.telemetry.buried(u64::try_from(letters).unwrap_or(u64::MAX));
            }
            kept
        } else {
            let sink = outlet.sink.lock().clone();
            sink.ok_or("the link is not open")?.write(body).await
        };
        result.map_err(|error| error.to_string())
    }

    /// Answers what a stage asks for.
    pub(crate) async fn ask(&self, component: &str, request: Bytes) -> Result<Bytes, String> {
        let outlet = self
            .outlet(component)
            .ok_or_else(|| format!("away: no link from component {component} to this provider"))?;
        let sink = outlet.sink.lock().clone();
        sink.ok_or("away: the link is not open")?.ask(request).await
    }

    /// A stage has one link to a provider (architecture, "Links").
    fn outlet(&self, component: &str) -> Option<Outlet> {
        let active = self.active.lock();
        let link = active
            .iter()
            .find(|(key, _)| key.direction == Direction::Sink && key.component == component);
        link.and_then(|(_, active)| active.sink.clone())
    }

    fn start(
        &self,
        key: &Key,
        link: Arc<Link>,
        config: Config,
        predecessors: Vec<CancellationToken>,
    ) -> Active {
        let dead: Arc<dyn DeadLetters> =
            Arc::new(JetStreamDead::new(&self.platform.nats, &self.platform.lattice, &link.names));
        let names = &link.names;
        let dead_subject = format!("{}.dead.{}", names.pipeline, names.stage).into();
        let ended = CancellationToken::new();
        let opening = Opening {
            connector: Arc::clone(&self.connector),
            link: Arc::clone(&link),
            config,
            predecessors,
        };
        let guard = ended.clone().drop_guard();
        let (task, sink) = match key.direction {
            Direction::Source => {
                let component = key.component.clone();
                let work = async move {
                    let _ended = guard;
                    opening.run_source(&component, dead).await;
                };
                (tokio::spawn(work), None)
            }
            Direction::Sink => {
                let link = Arc::clone(&link);
                let outlet = Outlet { sink: Arc::default(), dead, dead_subject, link };
                let (slot, taking) = (Arc::clone(&outlet.sink), Arc::clone(&outlet.dead));
                let work = async move {
                    let _ended = guard;
                    opening.run_sink(&slot, &taking).await;
                };
                (tokio::spawn(work), Some(outlet))
            }
        };
        Active { link, task, ended, sink }
    }
}

/// What a link's task starts from.
struct Opening<C> {
    connector: Arc<C>,
    link: Arc<Link>,
    config: Config,
    predecessors: Vec<CancellationToken>,
}

impl<C: Connector> Opening<C> {
    async fn run_source(self, component: &str, dead: Arc<dyn DeadLetters>) {
        if !self.predecessors_have_ended().await {
            return;
        }
        let Sourced { source, delivery } = match self.connector.source(&self.link, &self.config) {
            Ok(sourced) => sourced,
            Err(error) => return self.link.failed(error),
        };
        let Some(stage) = self.stage(component).await else { return };
        let policy = Policy::from(&delivery);
        let delivery =
            Arc::new(Delivery::new(Arc::new(stage), dead, Arc::clone(&self.link), policy));
        source.run(Arc::clone(&self.link), delivery).await;
    }

    async fn run_sink(self, slot: &Mutex<Option<Arc<dyn Sink>>>, dead: &Arc<dyn DeadLetters>) {
        if !self.predecessors_have_ended().await {
            return;
        }
        let sink = match self.connector.sink(&self.link, &self.config, dead) {
            Ok(sink) => sink,
            Err(error) => return self.link.failed(error),
        };
        *slot.lock() = Some(Arc::clone(&sink));
        self.link.drain.cancelled().await;
        sink.close().await;
    }

    /// Waits for that; false when the link is drained meanwhile.
    async fn predecessors_have_ended(&self) -> bool {
        for ended in &self.predecessors {
            tokio::select! {
                () = ended.cancelled() => {}
                () = self.link.drain.cancelled() => return false,
            }
        }
        true
    }

    /// A client for the stage, or nothing when the link is drained meanwhile.
    async fn stage(&self, component: &str) -> Option<WrpcStage> {
        let names = &self.link.names;
        let subject = format!("{}.in.{}", names.pipeline, names.name);
        let mut backoff =
            millrace_kit::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match get_connection().get_wrpc_client_custom(component, Some(HANDSHAKE)).await {
                Ok(client) => return Some(WrpcStage::new(client, subject)),
                Err(error) => self.link.retrying(format_args!("client for {component}: {error:#}")),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.link.drain.cancelled() => return None,
            }
        }
    }
}

/// Drains a link, and ends it when the time is up. What is in flight is waited
/// for the half of it: the stage it went to may be gone.
async fn finish(mut active: Active, limit: Duration) {
    active.link.start_drain();
    if tokio::time::timeout(limit / 2, &mut active.task).await.is_ok() {
        return;
    }
    active.link.leave.cancel();
    if tokio::time::timeout(limit / 2, &mut active.task).await.is_err() {
        active.link.noticed(format_args!(
            "not drained within {limit:?}; the rest was not acknowledged and comes again"
        ));
        active.task.abort();
    }
}

/// A link whose configuration does not even name it: kept for the status.
fn failed(key: &Key, config: &Config, error: &millrace_settings::FieldError) -> Active {
    let text = |name: &str| config.get(name).cloned().unwrap_or_default();
    let names = LinkNames { pipeline: text("pipeline"), name: text("name"), stage: text("stage") };
    let link = Arc::new(Link::new(names, key.direction));
    link.failed(error);
    let ended = CancellationToken::new();
    ended.cancel();
    Active { link, task: tokio::spawn(async {}), ended, sink: None }
}
