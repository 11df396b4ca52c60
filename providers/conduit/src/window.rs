//! An edge without partitions: several batches in flight, which overtake one
//! another.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::MessagesErrorKind;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::AckKind;
use futures::{FutureExt, StreamExt};
use millrace_kit::regroup::regroup;
use millrace_kit::{Backoff, ErrorKind, Packed};
use tokio::task::JoinSet;

use crate::consume::{Gaps, Shared, backoff, forget, tell};
use crate::edge::{ACK_WAIT, CONSUMER, EdgeError, prefetch};
use crate::places::Turn;

/// How often JetStream is told that a batch is still being worked on. Three
/// times within the wait, so that one that is lost does no harm.
const PROGRESS: Duration = Duration::from_secs(ACK_WAIT.as_secs() / 3);

/// How often JetStream says that a pull is there. After twice this in silence
/// it is made anew: a server that was started again knows nothing of it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a pull lasts.
const PULL: Duration = Duration::from_secs(30);

/// Hands on the batches of an edge until its link is drained.
pub(crate) async fn run(shared: Arc<Shared>) {
    let window = Window { shared };
    // Outlives a lost connection: what is being delivered goes on.
    let mut tasks = JoinSet::new();
    let mut backoff = backoff();
    let mut first = true;
    while !window.shared.link.drain.is_cancelled() {
        match window.session(&mut tasks, &mut first, &mut backoff).await {
            Ok(()) => break,
            Err(error) => window.shared.pause_after(error, &mut backoff).await,
        }
    }
    while tasks.join_next().await.is_some() {}
}

struct Window {
    shared: Arc<Shared>,
}

impl Window {
    /// Pulls until the link is drained (ok) or something is wrong with the
    /// stream, the consumer or the connection.
    async fn session(
        &self,
        tasks: &mut JoinSet<()>,
        first: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<(), EdgeError> {
        let Shared { link, edge, .. } = &*self.shared;
        let (consumer, mut gaps) = self.ensure(tasks, first).await?;
        let mut messages = self.pull(&consumer).await?;
        link.connected();
        loop {
            tokio::select! {
                () = link.drain.cancelled() => {
                    give_back(&mut messages).await;
                    return Ok(());
                }
                next = messages.next() => match next {
                    Some(Ok(message)) => {
                        backoff.reset();
                        gaps.seen(&message);
                        // Not more than `max_ack_pending` of these exist.
                        let turn = self.shared.place();
                        tasks.spawn(handle(Arc::clone(&self.shared), message, turn));
                    }
                    Some(Err(error)) if error.kind() == MessagesErrorKind::Pull => {
                        link.telemetry.error(ErrorKind::Connection, error);
                    }
                    Some(Err(error)) => return Err(edge.consumer_error(error)),
                    None => return Err(edge.consumer_error("the pull has ended")),
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    async fn ensure(
        &self,
        tasks: &mut JoinSet<()>,
        first: &mut bool,
    ) -> Result<(PullConsumer, Gaps), EdgeError> {
        let Shared { edge, .. } = &*self.shared;
        let stream = self.shared.ensure_stream(*first).await?;
        let before = self.shared.before(&stream, CONSUMER).await?;
        if *first {
            // What is in work here is acknowledged to the one that handed it out.
            while tasks.join_next().await.is_some() {}
            forget(edge, &stream, CONSUMER).await?;
        }
        *first = false;
        let config = edge.consumer_config(self.shared.places.most());
        let consumer = stream.create_consumer(config).await.map_err(|e| edge.consumer_error(e))?;
        Ok((consumer, Gaps::after(Arc::clone(&self.shared), before.as_ref())))
    }

    async fn pull(&self, consumer: &PullConsumer) -> Result<pull::Stream, EdgeError> {
        consumer
            .stream()
            .max_messages_per_batch(prefetch(self.shared.places.most()))
            .heartbeat(HEARTBEAT)
            .expires(PULL)
            .messages()
            .await
            .map_err(|e| self.shared.edge.consumer_error(e))
    }
}

/// Delivers one batch and acknowledges it. Starts as soon as the batch is
/// here, before there is room in the window, because JetStream's clock
/// runs from the hand-out.
async fn handle(shared: Arc<Shared>, message: Message, turn: Turn) {
    let published = message.info().ok().map(|info| SystemTime::from(info.published));
    let batch = Packed::read(message.payload.clone());
    let link = &shared.link;
    link.telemetry.received(batch.messages() as u64, batch.bytes() as u64);
    let deliver = async {
        let place = tokio::select! {
            place = turn => place?,
            () = link.drain.cancelled() => return None,
        };
        for call in regroup(vec![batch], &shared.limits) {
            shared.deliver(call, &place).await?;
        }
        Some(())
    };
    tokio::pin!(deliver);
    let mut progress = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
    let safe = loop {
        tokio::select! {
            outcome = &mut deliver => break outcome.is_some(),
            _ = progress.tick() => tell(&message, AckKind::Progress).await,
        }
    };
    if !safe {
        return tell(&message, AckKind::Nak(None)).await;
    }
    // Without confirmation the batch comes again, and the stage's output is
    // dropped as a duplicate further on.
    shared.acknowledge(&message).await;
    if let Some(lag) = published.and_then(|at| at.elapsed().ok()) {
        link.telemetry.acknowledged_after(lag);
    }
}

/// Gives back what was pulled and not begun, so that the next consumer has it
/// at once and not after the wait.
async fn give_back(messages: &mut pull::Stream) {
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        tell(&message, AckKind::Nak(None)).await;
    }
}
