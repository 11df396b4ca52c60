//! A partition: its batches one after another, in their order.
//!
//! A partition takes what waits for it in one pull, a **group**, joins small
//! batches ([`regroup`]), delivers the calls one by one, and acknowledges the
//! whole group at its end. So it is as fast as its batches are small when it is
//! ahead, and makes them large when it is behind.
//!
//! **Repeats.** What was made of a group is known further on by ids that depend
//! on how it was grouped. So a group that somebody had who was killed has to be
//! put together in the same way again: JetStream's consumer tells how far it had
//! handed out, and only one group is handed out at a time. Of a group that was
//! done the last batch is acknowledged first: if it is gone from the stream, the
//! others are done too.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::Message;
use async_nats::jetstream::message::AckKind;
use async_nats::jetstream::stream::Stream;
use millrace_kit::regroup::regroup;
use millrace_kit::{Backoff, Packed};
use tokio::time::Instant;

use crate::consume::{Gaps, Shared, backoff, forget, tell};
use crate::edge::{Edge, EdgeError, GROUP, own_name};
use crate::kept::Keepers;
use crate::pull::Puller;

/// Hands on the batches of one partition.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    consumer: String,
    subjects: Vec<String>,
    /// Sequence number in the stream up to which this one has delivered all.
    finished: u64,
    /// When the stream was made that `finished` is of.
    made: Option<i128>,
    first: bool,
    /// Messages in a batch, as they were of late.
    usual: f64,
    /// End when nothing is there, and not when the link is drained.
    until_empty: bool,
    /// Where the stage has a state.
    keepers: Option<Keepers>,
    /// When something last came.
    came: Instant,
}

/// How handing on a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// All of it is acknowledged.
    Done,
    /// The link is going; what was not acknowledged comes again.
    Left,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, consumer: String, subjects: Vec<String>) -> Self {
        Self {
            keepers: Keepers::of(&shared),
            came: Instant::now(),
            shared,
            consumer,
            subjects,
            finished: 0,
            made: None,
            first: true,
            usual: 1.0,
            until_empty: false,
        }
    }

    /// The lane ends when nothing is left in its subjects.
    pub(crate) fn until_empty(self) -> Self {
        Self { until_empty: true, ..self }
    }

    /// Runs until the link is drained, or the end.
    pub(crate) async fn run(mut self) {
        let mut backoff = backoff();
        let shared = Arc::clone(&self.shared);
        while !shared.link.drain.is_cancelled() {
            match self.session(&mut backoff).await {
                Ok(()) => break,
                Err(error) => shared.pause_after(error, &mut backoff).await,
            }
        }
    }

    /// Pulls until the link is drained (ok) or something is wrong with the
    /// stream, the consumer or the connection.
    async fn session(&mut self, backoff: &mut Backoff) -> Result<(), EdgeError> {
        let shared = Arc::clone(&self.shared);
        let (edge, link) = (&shared.edge, &shared.link);
        let stream = shared.ensure_stream(self.first).await?;
        self.first = false;
        self.know(&stream);
        let before = shared.before(&stream, &self.consumer).await?;
        let done = match &before {
            Some(before) if before.waiting > 0 => is_gone(edge, &stream, before.last).await?,
            _ => false,
        };
        forget(edge, &stream, &self.consumer).await?;
        let own = own_name(&self.consumer);
        let config = Edge::ordered_config(&own, &self.subjects);
        stream.create_consumer(config).await.map_err(|e| edge.consumer_error(e))?;
        let puller = Puller::new(&shared.client, None, &edge.stream(), &own);
        let mut hand_outs = HandOuts::default();
        let mut gaps = Gaps::after(Arc::clone(&shared), before.as_ref());
        if let Some(before) = before.filter(|before| before.waiting > 0) {
            let group = puller.there(before.waiting).await.map_err(|e| edge.consumer_error(e))?;
            hand_outs.check(edge, &group)?;
            let (had, more): (Vec<Message>, Vec<Message>) =
                group.into_iter().partition(|message| sequence(message) <= before.last);
            if done {
                self.finished = self.finished.max(before.last);
            }
            for group in [had, more] {
                gaps.all(&group);
                if self.settle(group).await? == Settled::Left {
                    return Ok(());
                }
            }
        }
        link.connected();
        loop {
            let group = tokio::select! {
                () = link.drain.cancelled() => return Ok(()),
                group = self.next_group(&puller) => group.map_err(|e| edge.consumer_error(e))?,
            };
            if group.is_empty() {
                self.idle().await;
            } else {
                self.came = Instant::now();
            }
            if group.is_empty() && self.until_empty {
                return Ok(());
            }
            hand_outs.check(edge, &group)?;
            gaps.all(&group);
            if !group.is_empty() {
                backoff.reset();
            }
            if self.settle(group).await? == Settled::Left {
                return Ok(());
            }
        }
    }

    /// Another stream of the same name numbers anew.
    fn know(&mut self, stream: &Stream) {
        let made = stream.cached_info().created.unix_timestamp_nanos();
        if self.made != Some(made) {
            self.finished = 0;
        }
        self.made = Some(made);
    }

    /// What is there; if nothing is, waits for one batch.
    async fn next_group(&self, puller: &Puller) -> Result<Vec<Message>, String> {
        let there = puller.there(self.most()).await?;
        if !there.is_empty() || self.until_empty {
            return Ok(there);
        }
        let most = self.idle_time().map_or(Duration::MAX, |idle| idle / 2);
        Ok(puller.one(most).await?.into_iter().collect())
    }

    fn idle_time(&self) -> Option<Duration> {
        self.shared.state.as_ref()?.idle
    }

    /// Lets time go on by the clock when nothing has come for long enough.
    async fn idle(&mut self) {
        let over = self.idle_time().is_some_and(|idle| self.came.elapsed() >= idle);
        let own = match self.subjects.as_slice() {
            [own] => self.shared.edge.partition_of_subject(own).number,
            _ => return,
        };
        if let Some(keepers) = self.keepers.as_mut().filter(|_| over) {
            keepers.tick(own).await;
        }
    }

    /// Batches for about two calls: what is begun is what comes again after a
    /// crash, and a pull for each call would cost a way to the server and back.
    fn most(&self) -> usize {
        let two_calls = 2.0 * self.shared.limits.messages as f64 / self.usual.max(1.0);
        (two_calls as usize).clamp(2, GROUP)
    }

    async fn settle(&mut self, group: Vec<Message>) -> Result<Settled, EdgeError> {
        let Some(last) = group.last() else { return Ok(Settled::Done) };
        let shared = Arc::clone(&self.shared);
        let link = &shared.link;
        let oldest = group.first().and_then(|first| first.info().ok()).map(|info| info.published);
        let new: Vec<(&Message, Packed)> = group
            .iter()
            .filter(|message| sequence(message) > self.finished)
            .map(|message| (message, Packed::read(message.payload.clone())))
            .collect();
        for (_, batch) in &new {
            self.usual += (batch.messages() as f64 - self.usual) / 8.0;
            link.telemetry.received(batch.messages() as u64, batch.bytes() as u64);
        }
        if !new.is_empty() {
            let place = tokio::select! {
                place = shared.place() => place,
                () = link.drain.cancelled() => return Ok(Settled::Left),
            };
            let Some(place) = place else { return Ok(Settled::Left) };
            if let Some(keepers) = &mut self.keepers {
                let made = self.made.and_then(|made| i64::try_from(made).ok()).unwrap_or_default();
                if !keepers.deliver(&new, made, &place).await {
                    return Ok(Settled::Left);
                }
            } else {
                let batches = new.into_iter().map(|(_, batch)| batch).collect();
                for call in regroup(batches, &shared.limits) {
                    if shared.deliver(call, &place).await.is_none() {
                        return Ok(Settled::Left);
                    }
                }
            }
        }
        self.finished = self.finished.max(sequence(last));
        if !shared.acknowledge(last).await {
            return Err(shared.edge.consumer_error("an acknowledgement was not confirmed"));
        }
        for message in group.iter().rev().skip(1) {
            tell(message, AckKind::Ack).await;
        }
        if let Some(lag) = oldest.and_then(|at| SystemTime::from(at).elapsed().ok()) {
            link.telemetry.acknowledged_after(lag);
        }
        Ok(Settled::Done)
    }
}

/// Sees that no hand-out was lost on its way: what comes after it must wait.
#[derive(Debug, Default)]
pub(crate) struct HandOuts {
    last: u64,
}

impl HandOuts {
    pub(crate) fn check(&mut self, edge: &Edge, group: &[Message]) -> Result<(), EdgeError> {
        for message in group {
            let number = message.info().map_or(0, |info| info.consumer_sequence);
            if number != self.last + 1 {
                let lost = format!("hand-out {} was lost", self.last + 1);
                return Err(edge.consumer_error(lost));
            }
            self.last = number;
        }
        Ok(())
    }
}

pub(crate) fn sequence(message: &Message) -> u64 {
    message.info().map_or(0, |info| info.stream_sequence)
}

/// Whether a message of the stream has been acknowledged, which takes it away.
async fn is_gone(edge: &Edge, stream: &Stream, sequence: u64) -> Result<bool, EdgeError> {
    use async_nats::jetstream::stream::RawMessageErrorKind;
    match stream.get_raw_message(sequence).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(true),
        Err(error) => Err(edge.stream_error(error)),
    }
}
