//! The source half: batches of an edge into its stage.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::message::AckKind;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode, Message};
use futures::StreamExt;
use futures::future::BoxFuture;
use millrace_kit::writers::Told;
use millrace_kit::{
    Adaptive, Backoff, Delivery, ErrorKind, Limits, Link, Outcome, Packed, Queue, Source, Watch,
};
use millrace_settings::delivery::IN_FLIGHT;
use millrace_settings::edge::{EdgeSettings, WhenFull};
use millrace_window::MAX_BYTES;
use tokio::task::JoinSet;

use crate::edge::{
    CONSUMER, Edge, EdgeError, LEFT_CONSUMER, ORDERED_CONSUMER, Provision, is_of, partitions,
};
use crate::hold::{Held, Hold};
use crate::lane::Lane;
use crate::places::{Places, Turn};
use crate::rate::Rate;
use crate::state::{Bucket, States};
use crate::window;

/// How long one confirmation of an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an acknowledgement is sent before JetStream is left to deliver
/// the batch again.
const ACK_TRIES: usize = 5;

/// How often is looked at what waits.
const LOOK: Duration = Duration::from_secs(2);

/// How often is looked for what other partitions left.
const LOOK_FOR_LEFT: Duration = Duration::from_secs(30);

/// Most bytes of a call: a message of the lattice.
const CALL_BYTES: usize = 960 << 10;

/// A link that has waited so long for its edge waits behind another conduit.
const BEHIND_ANOTHER: Duration = Duration::from_secs(2);

/// Fewest and most batches in flight where their number adapts. Not fewer than
/// a fixed number is by default: partitions that do not get on keep their places,
/// and others need some too.
const ADAPTS: (usize, usize) = (IN_FLIGHT, 32);

/// Reads the batches of one edge and has them delivered.
#[derive(Debug)]
pub struct Consumer {
    client: async_nats::Client,
    edge: Edge,
    settings: EdgeSettings,
    limits: Limits,
    adaptive: bool,
    state: Option<StateOf>,
    /// The source or step that the stage is told its batches are of.
    from: Option<String>,
}

/// The step behind an edge whose state goes with each batch.
#[derive(Debug, Clone)]
pub(crate) struct StateOf {
    pub(crate) step: String,
    pub(crate) bucket: Bucket,
    /// When nothing has come for so long, time goes on by the clock.
    pub(crate) idle: Option<Duration>,
}

/// What all batches in work share.
pub(crate) struct Shared {
    pub(crate) client: async_nats::Client,
    js: Context,
    pub(crate) edge: Edge,
    settings: EdgeSettings,
    pub(crate) limits: Limits,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) link: Arc<Link>,
    pub(crate) places: Arc<Places>,
    rate: Rate,
    pub(crate) state: Option<StateOf>,
}

impl Consumer {
    /// A consumer of `edge` that joins and splits batches to `limits`.
    #[must_use]
    pub const fn new(
        client: async_nats::Client,
        edge: Edge,
        settings: EdgeSettings,
        limits: Limits,
    ) -> Self {
        Self { client, edge, settings, limits, adaptive: false, state: None, from: None }
    }

    /// The state of `step`, which is behind the edge, goes with each batch. The edge
    /// needs partitions. When nothing has come for `idle`, windows end by the clock.
    #[must_use]
    pub fn with_state(self, step: &str, states: &States, idle: Option<Duration>) -> Self {
        let bucket = states.of(&self.client, self.edge.lattice(), self.edge.pipeline());
        // A call carries batch and document.
        let bytes = self.limits.bytes.min(CALL_BYTES - MAX_BYTES);
        let state = Some(StateOf { step: step.to_owned(), bucket, idle });
        Self { state, limits: Limits { bytes, ..self.limits }, ..self }
    }

    /// The stage is told with each batch that it is of this source or step: behind it is a sink that holds it to what that was
    /// granted.
    #[must_use]
    pub fn telling(self, from: &str) -> Self {
        Self { from: Some(from.to_owned()), ..self }
    }

    /// How many batches are in flight adapts to how quickly they are answered,
    /// and is not what the delivery's policy says. For an edge whose order
    /// that does not change: one that has none, or partitions.
    #[must_use]
    pub fn adaptive(self) -> Self {
        Self { adaptive: true, ..self }
    }

    fn places(&self, delivery: &Delivery, link: &Arc<Link>) -> Places {
        let link = Arc::clone(link);
        if !self.adaptive {
            return Places::fixed(delivery.policy().in_flight, link);
        }
        let (least, most) = ADAPTS;
        // More than one of each partition never is.
        let most = partitions(&self.settings).map_or(most, |count| most.min(count.into()));
        Places::adaptive(Adaptive::new(least.min(most), most), link)
    }

    async fn run_until_drained(self, link: Arc<Link>, delivery: Arc<Delivery>) {
        let places = Arc::new(self.places(&delivery, &link));
        let shared = Arc::new(Shared {
            js: async_nats::jetstream::new(self.client.clone()),
            client: self.client,
            edge: self.edge,
            limits: self.limits,
            places,
            rate: Rate::new(self.settings.max_rate.map(|rate| rate.get())),
            settings: self.settings,
            state: self.state,
            delivery,
            link,
        });
        let hold = Hold::new(shared.client.clone(), shared.edge.hold_subject());
        loop {
            let held = tokio::select! {
                held = take_hold(&hold, &shared.link) => held,
                () = shared.link.drain.cancelled() => return,
            };
            let watched = async {
                arrange(&shared).await;
                // What waits of other partitions comes before what is new.
                take_left(&shared, Shared::pause_after).await;
                tokio::join!(hand_on(&shared), keep_taking_left(&shared));
            };
            tokio::select! {
                () = watched => return,
                () = watch_queue(&shared) => return,
                // What is in work here comes again there.
                () = held.lost() => {
                    shared.rate.forget();
                    shared.link.noticed(format_args!(
                        "edge {}: another conduit of the lattice hands it on",
                        shared.edge.name()
                    ));
                }
            }
        }
    }
}

impl Source for Consumer {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        let delivery = match &self.from {
            Some(from) => Arc::new(delivery.to(Arc::new(Told::new(delivery.stage(), from)))),
            None => delivery,
        };
        Box::pin(self.run_until_drained(link, delivery))
    }
}

/// Waits until no other conduit hands the edge on. That another one does is as it should be.
async fn take_hold(hold: &Hold, link: &Link) -> Held {
    let mut take = std::pin::pin!(hold.take());
    match tokio::time::timeout(BEHIND_ANOTHER, &mut take).await {
        Ok(held) => held,
        Err(_) => {
            link.connected();
            take.await
        }
    }
}

/// Hands on what comes, until the link is drained.
async fn hand_on(shared: &Arc<Shared>) {
    if !shared.in_order() {
        return window::run(Arc::clone(shared)).await;
    }
    let mut lanes = JoinSet::new();
    for (consumer, subjects) in shared.consumers() {
        lanes.spawn(Lane::new(Arc::clone(shared), consumer, subjects).run());
    }
    while lanes.join_next().await.is_some() {}
}

/// Sees that the states behind the edge are those of its partitions.
async fn arrange(shared: &Shared) {
    let Some(state) = &shared.state else { return };
    let mut backoff = backoff();
    while !shared.link.drain.is_cancelled() {
        let count = partitions(&shared.settings).unwrap_or(1);
        match state.bucket.arrange(&state.step, count).await {
            Ok(()) => return,
            Err(error) => shared.pause_after(shared.edge.state_error(error), &mut backoff).await,
        }
    }
}

/// Has delivered what waits in partitions that are no more, in the order of
/// the edge. `pause` is what is done about an error.
async fn take_left(shared: &Arc<Shared>, pause: impl AsyncFn(&Shared, EdgeError, &mut Backoff)) {
    let mut backoff = backoff();
    while !shared.link.drain.is_cancelled() {
        match shared.left().await {
            Ok(left) if left.is_empty() => return,
            Ok(left) => {
                Lane::new(Arc::clone(shared), LEFT_CONSUMER.to_owned(), left)
                    .until_empty()
                    .run()
                    .await;
            }
            Err(error) => pause(shared, error, &mut backoff).await,
        }
    }
}

/// Pauses between tries to work with the edge.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}

/// Whoever published with other settings may have done so after we looked.
async fn keep_taking_left(shared: &Arc<Shared>) {
    loop {
        tokio::select! {
            // The link is as connected as those are that hand on what is new: nobody else would say so after an error.
            () = tokio::time::sleep(LOOK_FOR_LEFT) => take_left(shared, Shared::notice).await,
            () = shared.link.drain.cancelled() => return,
        }
    }
}

/// Keeps the numbers of the queue. Never ends.
async fn watch_queue(shared: &Arc<Shared>) {
    let max_bytes = shared.settings.max_bytes.get();
    let mut spilled = (0, 0);
    loop {
        if shared.settings.when_full == WhenFull::Spill
            && let Some(state) = shared.edge.spilled(&shared.client, &shared.settings).await
        {
            spilled = (state.messages, state.bytes);
        }
        if let Ok(stream) = shared.js.get_stream(shared.edge.stream()).await {
            let state = &stream.cached_info().state;
            let oldest = SystemTime::from(state.first_timestamp).elapsed().unwrap_or_default();
            shared.link.telemetry.queued(Queue {
                batches: state.messages,
                bytes: state.bytes,
                max_bytes,
                oldest_ms: match state.messages {
                    0 => 0,
                    _ => u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
                },
                spilled_batches: spilled.0,
                spilled_bytes: spilled.1,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Shared {
    fn in_order(&self) -> bool {
        partitions(&self.settings).is_some() || self.delivery.policy().in_flight == 1
    }

    /// The consumers of the edge with these settings, and their subjects.
    fn consumers(&self) -> Vec<(String, Vec<String>)> {
        let subjects = self.edge.subjects(&self.settings);
        match partitions(&self.settings) {
            None if self.in_order() => vec![(ORDERED_CONSUMER.to_owned(), subjects)],
            None => vec![(CONSUMER.to_owned(), subjects)],
            Some(count) => (0..count)
                .zip(subjects)
                .map(|(number, subject)| (format!("{CONSUMER}-{count}-{number}"), vec![subject]))
                .collect(),
        }
    }

    /// Subjects with batches that no consumer of these settings takes. Removes
    /// the consumers that did: two of a work queue must not want the same.
    async fn left(&self) -> Result<Vec<String>, EdgeError> {
        let (stream, _) = self.edge.ensure_stream(&self.js, &self.settings).await?;
        let ours = self.consumers();
        let mut names = stream.consumer_names();
        while let Some(name) = names.next().await {
            let name = name.map_err(|e| self.edge.stream_error(e))?;
            if !ours.iter().any(|(ours, _)| is_of(&name, ours)) {
                remove(&self.edge, &stream, &name).await?;
            }
        }
        let mut subjects =
            stream.info_with_subjects(">").await.map_err(|e| self.edge.stream_error(e))?;
        let mut left = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|e| self.edge.stream_error(e))?;
            if !ours.iter().any(|(_, subjects)| subjects.contains(&subject)) {
                left.push(subject);
            }
        }
        Ok(left)
    }

    /// Says that the link does not work and why, and pauses, but not when the
    /// link is drained.
    pub(crate) async fn pause_after(&self, error: EdgeError, backoff: &mut Backoff) {
        self.link.retrying(error);
        self.pause(backoff).await;
    }

    /// The same for what goes wrong beside a link that works.
    async fn notice(&self, error: EdgeError, backoff: &mut Backoff) {
        self.link.noticed(error);
        self.pause(backoff).await;
    }

    async fn pause(&self, backoff: &mut Backoff) {
        tokio::select! {
            () = backoff.wait() => {}
            () = self.link.drain.cancelled() => {}
        }
    }

    pub(crate) async fn ensure_stream(&self, first: bool) -> Result<Stream, EdgeError> {
        let (stream, done) = self.edge.ensure_stream(&self.js, &self.settings).await?;
        if done == Provision::Created && !first {
            self.link.noticed(format_args!(
                "edge {}: stream {} was missing and has been made",
                self.edge.name(),
                self.edge.stream()
            ));
        }
        if !first {
            self.link.telemetry.reconnected();
        }
        Ok(stream)
    }

    /// What this consumer has come to, whoever had it.
    pub(crate) async fn before(
        &self,
        stream: &Stream,
        consumer: &str,
    ) -> Result<Option<Before>, EdgeError> {
        let mut before: Option<Before> = None;
        let mut infos = stream.consumers();
        while let Some(info) = infos.next().await {
            let info = info.map_err(|e| self.edge.stream_error(e))?;
            let last = info.delivered.stream_sequence;
            if is_of(&info.name, consumer) && before.as_ref().is_none_or(|b| b.last <= last) {
                before = Some(Before { waiting: info.num_ack_pending, last });
            }
        }
        Ok(before)
    }

    pub(crate) const fn settings(&self) -> &EdgeSettings {
        &self.settings
    }

    /// Stands in line for a place in the window.
    pub(crate) fn place(&self) -> Turn {
        Places::stand_in_line(&self.places)
    }

    /// Has one batch delivered by somebody with a place, no faster than the
    /// edge's rate. `None` when the link is going before it is done.
    pub(crate) async fn deliver(&self, batch: Packed, place: &dyn Watch) -> Option<Outcome> {
        self.deliver_by(&self.delivery, batch, place).await
    }

    /// The same by another delivery.
    pub(crate) async fn deliver_by(
        &self,
        delivery: &Delivery,
        batch: Packed,
        place: &dyn Watch,
    ) -> Option<Outcome> {
        tokio::select! {
            () = self.rate.wait(batch.messages()) => {}
            () = self.link.drain.cancelled(), if self.settings.max_rate.is_some() => return None,
        }
        tokio::select! {
            outcome = delivery.deliver_watched(batch, place) => Some(outcome),
            // Given back at once, and not when JetStream has waited for it.
            () = self.link.leave.cancelled() => None,
        }
    }

    /// Acknowledges, and says whether that was confirmed.
    pub(crate) async fn acknowledge(&self, message: &Message) -> bool {
        let Some(reply) = message.reply.clone() else { return true };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..ACK_TRIES {
            let confirmed = self.client.request(reply.clone(), AckKind::Ack.into());
            match tokio::time::timeout(ACK_TIMEOUT, confirmed).await {
                Ok(Ok(_)) => return true,
                Ok(Err(error)) => self
                    .link
                    .telemetry
                    .error(ErrorKind::Connection, format_args!("acknowledgement: {error}")),
                Err(_) => self
                    .link
                    .telemetry
                    .error(ErrorKind::Connection, "acknowledgement: not confirmed in time"),
            }
            backoff.wait().await;
        }
        false
    }
}

/// What a consumer had come to before somebody began with it anew.
#[derive(Debug)]
pub(crate) struct Before {
    /// Batches that were handed out and not acknowledged.
    pub(crate) waiting: usize,
    /// Sequence number in the stream of the last one that was handed out.
    pub(crate) last: u64,
}

/// Counts what an edge drops: sequence numbers that are missing between two
/// hand-outs of an edge with one subject were in the stream and are gone.
pub(crate) struct Gaps {
    shared: Arc<Shared>,
    next: Option<u64>,
}

impl Gaps {
    pub(crate) fn after(shared: Arc<Shared>, before: Option<&Before>) -> Self {
        // What was handed out and not acknowledged comes first.
        let next = before.filter(|before| before.waiting == 0).map(|before| before.last + 1);
        Self { shared, next }
    }

    pub(crate) fn all(&mut self, messages: &[Message]) {
        for message in messages {
            self.seen(message);
        }
    }

    pub(crate) fn seen(&mut self, message: &Message) {
        let settings = &self.shared.settings;
        let drops = settings.when_full == WhenFull::DropOldest || settings.max_age.is_some();
        let Ok(info) = message.info() else { return };
        if !drops || info.delivered > 1 || partitions(settings).is_some() {
            return;
        }
        let missing = self.next.map_or(0, |next| info.stream_sequence.saturating_sub(next));
        self.next = Some(info.stream_sequence + 1);
        if missing > 0 {
            self.shared.link.telemetry.dropped_batches(missing);
            tracing::warn!(
                edge = self.shared.edge.name(),
                batches = missing,
                "dropped the oldest, as its settings want it"
            );
        }
    }
}

/// Removes a durable consumer, whoever had it, so that the one made after it
/// hands out all that the work queue has, in its order. What somebody had in work
/// who has been killed would else come when its time is up, each batch at its own:
/// late, and one before the other.
pub(crate) async fn forget(edge: &Edge, stream: &Stream, consumer: &str) -> Result<(), EdgeError> {
    let mut names = stream.consumer_names();
    while let Some(name) = names.next().await {
        let name = name.map_err(|e| edge.stream_error(e))?;
        if is_of(&name, consumer) {
            remove(edge, stream, &name).await?;
        }
    }
    Ok(())
}

async fn remove(edge: &Edge, stream: &Stream, name: &str) -> Result<(), EdgeError> {
    match stream.delete_consumer(name).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(edge.consumer_error(error)),
    }
}

fn is_missing(error: &ConsumerError) -> bool {
    let ConsumerErrorKind::JetStream(error) = error.kind() else { return false };
    error.error_code() == ErrorCode::CONSUMER_NOT_FOUND
}

/// Tells JetStream something it may as well not hear: if it is lost, the batch
/// only comes again.
pub(crate) async fn tell(message: &Message, what: AckKind) {
    if let Err(error) = message.ack_with(what).await {
        tracing::debug!(%error, "could not tell JetStream {what:?}");
    }
}
