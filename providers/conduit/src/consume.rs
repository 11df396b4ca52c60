//! The source half: batches of an edge into its stage.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::pull::MessagesErrorKind;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::AckKind;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode, Message};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use millrace_kit::{Backoff, Delivery, ErrorKind, Link, Packed, Source};
use millrace_settings::edge::EdgeSettings;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::edge::{ACK_WAIT, CONSUMER, Edge, EdgeError, Provision, prefetch};

/// How often JetStream is told that a batch is still being worked on. Three
/// times within the wait, so that one that is lost does no harm.
const PROGRESS: Duration = Duration::from_secs(ACK_WAIT.as_secs() / 3);

/// How long one confirmation of an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an acknowledgement is sent before JetStream is left to deliver
/// the batch again.
const ACK_TRIES: usize = 5;

/// How often JetStream says that a pull is there. After twice this in silence
/// it is made anew: a server that was started again knows nothing of it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a pull lasts.
const PULL: Duration = Duration::from_secs(30);

/// Reads the batches of one edge and has them delivered.
#[derive(Debug)]
pub struct Consumer {
    client: async_nats::Client,
    js: Context,
    edge: Edge,
    settings: EdgeSettings,
}

/// What all batches in work share.
struct Work {
    client: async_nats::Client,
    delivery: Arc<Delivery>,
    link: Arc<Link>,
    window: Arc<Semaphore>,
}

impl Consumer {
    /// A consumer of `edge`.
    #[must_use]
    pub fn new(client: async_nats::Client, edge: Edge, settings: EdgeSettings) -> Self {
        let js = async_nats::jetstream::new(client.clone());
        Self { client, js, edge, settings }
    }

    async fn run_until_drained(self, link: Arc<Link>, delivery: Arc<Delivery>) {
        let window = delivery.policy().in_flight;
        let work = Arc::new(Work {
            client: self.client.clone(),
            delivery,
            link: Arc::clone(&link),
            window: Arc::new(Semaphore::new(window)),
        });
        // Outlives a lost connection: what is being delivered goes on.
        let mut tasks = JoinSet::new();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut first = true;
        while !link.drain.is_cancelled() {
            match self.session(&work, &mut tasks, &mut first, &mut backoff).await {
                Ok(()) => break,
                Err(error) => {
                    link.retrying(error);
                    tokio::select! {
                        () = backoff.wait() => {}
                        () = link.drain.cancelled() => {}
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Pulls until the link is drained (ok) or something is wrong with the
    /// stream, the consumer or the connection.
    async fn session(
        &self,
        work: &Arc<Work>,
        tasks: &mut JoinSet<()>,
        first: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<(), EdgeError> {
        let in_flight = work.delivery.policy().in_flight;
        let ordered = in_flight == 1;
        let consumer = self.ensure(&work.link, tasks, first, in_flight).await?;
        let mut last = 0;
        let mut messages = self.pull(&consumer, in_flight).await?;
        work.link.connected();
        loop {
            tokio::select! {
                () = work.link.drain.cancelled() => {
                    give_back(&mut messages).await;
                    return Ok(());
                }
                next = messages.next() => match next {
                    Some(Ok(message)) => {
                        let number = message.info().map_or(0, |info| info.consumer_sequence);
                        if ordered && number != last + 1 {
                            let lost = format!("hand-out {} was lost", last + 1);
                            return Err(self.edge.consumer_error(lost));
                        }
                        last = number;
                        backoff.reset();
                        // Not more than `max_ack_pending` of these exist.
                        tasks.spawn(Arc::clone(work).handle(message, work.place()));
                    }
                    Some(Err(error)) if error.kind() == MessagesErrorKind::Pull => {
                        work.link.telemetry.error(ErrorKind::Connection, error);
                    }
                    Some(Err(error)) => return Err(self.edge.consumer_error(error)),
                    None => return Err(self.edge.consumer_error("the pull has ended")),
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    async fn ensure(
        &self,
        link: &Link,
        tasks: &mut JoinSet<()>,
        first: &mut bool,
        in_flight: usize,
    ) -> Result<PullConsumer, EdgeError> {
        let (stream, done) = self.edge.ensure_stream(&self.js, &self.settings).await?;
        if done == Provision::Created && !*first {
            link.noticed(format_args!(
                "edge {}: stream {} was missing and has been made",
                self.edge.name(),
                self.edge.stream()
            ));
        }
        if !*first {
            link.telemetry.reconnected();
        }
        if *first || in_flight == 1 {
            // What is in work here is acknowledged to the one that handed it out.
            while tasks.join_next().await.is_some() {}
            self.forget(&stream).await?;
        }
        *first = false;
        let config = self.edge.consumer_config(in_flight);
        stream.create_consumer(config).await.map_err(|e| self.edge.consumer_error(e))
    }

    /// Removes the durable consumer, so that the one made after it hands out all
    /// that the work queue has, in its order. What somebody had in work who has
    /// been killed would else come when its time is up, each batch at its own:
    /// late, and one before the other.
    async fn forget(&self, stream: &Stream) -> Result<(), EdgeError> {
        match stream.delete_consumer(CONSUMER).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(self.edge.consumer_error(error)),
        }
    }

    async fn pull(
        &self,
        consumer: &PullConsumer,
        in_flight: usize,
    ) -> Result<pull::Stream, EdgeError> {
        consumer
            .stream()
            .max_messages_per_batch(prefetch(in_flight))
            .heartbeat(HEARTBEAT)
            .expires(PULL)
            .messages()
            .await
            .map_err(|e| self.edge.consumer_error(e))
    }
}

impl Source for Consumer {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(self.run_until_drained(link, delivery))
    }
}

/// A place in the window, when it is one's turn.
type Place = BoxFuture<'static, Option<OwnedSemaphorePermit>>;

impl Work {
    /// Stands in line for a place in the window. The line is formed by asking,
    /// so it is asked here, in the order of the edge, and not in tasks that run
    /// in any order.
    fn place(&self) -> Place {
        let mut place = Box::pin(Arc::clone(&self.window).acquire_owned());
        match (&mut place).now_or_never() {
            Some(place) => std::future::ready(place.ok()).boxed(),
            // Fails only when the semaphore is closed, which nobody does.
            None => place.map(Result::ok).boxed(),
        }
    }

    /// Delivers one batch and acknowledges it. Starts as soon as the batch is
    /// here, before there is room in the window, because JetStream's clock
    /// runs from the hand-out.
    async fn handle(self: Arc<Self>, message: Message, place: Place) {
        let published = message.info().ok().map(|info| SystemTime::from(info.published));
        let batch = Packed::read(message.payload.clone());
        self.link.telemetry.received(batch.messages() as u64, batch.bytes() as u64);
        let deliver = async {
            let _place = tokio::select! {
                place = place => place?,
                () = self.link.drain.cancelled() => return None,
            };
            tokio::select! {
                outcome = self.delivery.deliver(batch) => Some(outcome),
                // Given back at once, and not when JetStream has waited for it.
                () = self.link.leave.cancelled() => None,
            }
        };
        tokio::pin!(deliver);
        let mut progress =
            tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
        let safe = loop {
            tokio::select! {
                outcome = &mut deliver => break outcome.is_some(),
                _ = progress.tick() => tell(&message, AckKind::Progress).await,
            }
        };
        if !safe {
            return tell(&message, AckKind::Nak(None)).await;
        }
        self.acknowledge(&message).await;
        if let Some(lag) = published.and_then(|at| at.elapsed().ok()) {
            self.link.telemetry.acknowledged_after(lag);
        }
    }

    /// Acknowledges and has it confirmed. Without confirmation the batch comes
    /// again, and the stage's output is dropped as a duplicate further on.
    async fn acknowledge(&self, message: &Message) {
        let Some(reply) = message.reply.clone() else { return };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..ACK_TRIES {
            let confirmed = self.client.request(reply.clone(), AckKind::Ack.into());
            match tokio::time::timeout(ACK_TIMEOUT, confirmed).await {
                Ok(Ok(_)) => return,
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
    }
}

fn is_missing(error: &ConsumerError) -> bool {
    let ConsumerErrorKind::JetStream(error) = error.kind() else { return false };
    error.error_code() == ErrorCode::CONSUMER_NOT_FOUND
}

/// Gives back what was pulled and not begun, so that the next consumer has it
/// at once and not after the wait.
async fn give_back(messages: &mut pull::Stream) {
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        tell(&message, AckKind::Nak(None)).await;
    }
}

/// Tells JetStream something it may as well not hear: if it is lost, the batch
/// only comes again.
async fn tell(message: &Message, what: AckKind) {
    if let Err(error) = message.ack_with(what).await {
        tracing::debug!(%error, "could not tell JetStream {what:?}");
    }
}
