//! Handing batches to a stage until each is safe.
//!
//! This is where the at-least-once promise is kept. Read it from the outside
//! in; every layer is one function:
//!
//! 1. [`Delivery::deliver`]: every message of the batch ends exactly once as
//!    delivered or as a dead letter. Batches found guilty are bisected.
//! 2. `settle`: tries one piece until it is delivered or found guilty. What is
//!    nobody's fault (the stage is away, the next hop refuses) is retried for
//!    ever, with back-off.
//! 3. `attempt`: one call, limited in time and counted.
//! 4. `way_is_open`: the probe, an empty batch through the whole stage.
//! 5. `bury`: writes a dead letter, for as long as it takes.
//!
//! **When is a message guilty?** A call that traps or is not answered says
//! nothing about whose fault it was: the host may have been killed, or what
//! the stage publishes to may be gone, which a guest sees as a trap too. So
//! after such a call the stage is probed. A probe that is not answered
//! acquits: the stage is away, and the piece waits. A failure counts against
//! the piece only when the probes before *and* after it were answered. One
//! such failure is enough to bisect, which harms nobody; a message alone is
//! buried only after `suspect_after` of them. To bury a healthy message, an
//! outage would have to begin and end between two probes, that many times in a
//! row, each time during that message's call.
//!
//! While nothing but the piece can be at fault there is no reason to wait: a
//! step that traps now and then would hold up all that comes behind. So a
//! batch is tried again at once when a probe has been answered. Only a message
//! alone is given time between its tries, for a cause that goes away.
//!
//! **Order.** Pieces of one batch are delivered in order. Several batches in
//! flight overtake one another: with a window of 1 order is kept.
//!
//! **Duplicates** arise when a call's answer is lost after the stage has
//! handed on its output: the call is made again. The batch's `id` is the same,
//! so the conduit drops the repeat; after bisecting, the halves have ids of
//! their own and are not recognised.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_settings::Delivery as Settings;
use millrace_settings::delivery::IN_FLIGHT;
use tokio::time::Instant;

use crate::adaptive::{Ended, Watch};
use crate::answer::CallError;
use crate::backoff::Backoff;
use crate::dead::{self, DeadKind};
use crate::link::Link;
use crate::packed::{self, Packed};
use crate::stage::{DeadLetters, Stage};

/// How calls are made and repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Most batches in flight at once.
    pub in_flight: usize,
    /// Time limit of one call.
    pub call_timeout: Duration,
    /// How often a batch is tried when a step asks for a retry.
    pub attempts: u32,
    /// How often a message alone has to fail, between two answered probes, to
    /// be buried.
    pub suspect_after: u32,
    /// Longest first pause before a retry; it doubles with each further one.
    pub backoff_min: Duration,
    /// Longest pause before a retry.
    pub backoff_max: Duration,
}

impl From<&Settings> for Policy {
    fn from(settings: &Settings) -> Self {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            in_flight: settings.in_flight.map_or(IN_FLIGHT, |count| count.as_usize()),
            call_timeout: settings.call_timeout.get(),
            attempts: number(settings.attempts.get()),
            suspect_after: number(settings.suspect_after.get()),
            backoff_min: settings.backoff_min.get(),
            backoff_max: settings.backoff_max.get(),
        }
    }
}

/// What became of a batch's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Handed on by the stage.
    pub delivered: usize,
    /// Written to the dead letters.
    pub dead: usize,
}

/// Delivers batches to one stage.
pub struct Delivery {
    stage: Arc<dyn Stage>,
    dead: Arc<dyn DeadLetters>,
    link: Arc<Link>,
    policy: Policy,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("names", &self.link.names)
            .field("policy", &self.policy)
            .finish()
    }
}

/// A piece of a batch and what is known about it.
struct Piece {
    batch: Packed,
    /// Calls made with this piece or one that contained it.
    attempts: u32,
    /// Set when the piece comes from a batch found guilty: the stage has just
    /// been seen to live, and patience has been shown already.
    suspect: Option<Fault>,
}

/// Why a piece was found guilty.
#[derive(Clone)]
struct Fault {
    kind: DeadKind,
    text: String,
}

/// How trying a piece ended.
enum Verdict {
    Delivered,
    Guilty(Fault),
}

/// What is held against a piece while it is tried.
struct Trial {
    /// Calls in a row that ended without an answer, with an answered probe before and after.
    proven: u32,
    /// Retries a step has asked for.
    asked: u32,
    /// The last thing known about the stage is an answered probe.
    vouched: bool,
}

impl Delivery {
    /// A delivery to `stage`, counted on `link`.
    #[must_use]
    pub fn new(
        stage: Arc<dyn Stage>,
        dead: Arc<dyn DeadLetters>,
        link: Arc<Link>,
        policy: Policy,
    ) -> Self {
        Self { stage, dead, link, policy }
    }

    /// The stage that is called.
    #[must_use]
    pub fn stage(&self) -> Arc<dyn Stage> {
        Arc::clone(&self.stage)
    }

    /// The same to another stage.
    #[must_use]
    pub fn to(&self, stage: Arc<dyn Stage>) -> Self {
        Self {
            stage,
            dead: Arc::clone(&self.dead),
            link: Arc::clone(&self.link),
            policy: self.policy.clone(),
        }
    }

    /// How calls are made.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Delivers a batch. Returns when every message is safe, however long that
    /// takes; a caller that must stop drops the future, and then has to deliver
    /// the batch again.
    pub async fn deliver(&self, batch: Packed) -> Outcome {
        self.deliver_watched(batch, &()).await
    }

    /// [`Delivery::deliver`], with somebody who hears how each call ends.
    pub async fn deliver_watched(&self, batch: Packed, watch: &dyn Watch) -> Outcome {
        let mut outcome = Outcome::default();
        // Depth is bounded: halves of halves, the first half always next.
        let mut waiting = vec![Piece { batch, attempts: 0, suspect: None }];
        while let Some(mut piece) = waiting.pop() {
            match self.settle(&mut piece, watch).await {
                Verdict::Delivered => {
                    let messages = piece.batch.messages();
                    self.link.telemetry.delivered(messages as u64, piece.batch.bytes() as u64);
                    outcome.delivered += messages;
                }
                Verdict::Guilty(fault) => match halves(&piece, &fault) {
                    Some((first, second)) => waiting.extend([second, first]),
                    None => {
                        self.bury(&piece, &fault).await;
                        outcome.dead += piece.batch.messages();
                    }
                },
            }
        }
        outcome
    }

    /// Tries a piece until it is delivered or found guilty.
    async fn settle(&self, piece: &mut Piece, watch: &dyn Watch) -> Verdict {
        let mut backoff = Backoff::new(self.policy.backoff_min, self.policy.backoff_max);
        let mut trial = Trial::of(piece, &self.policy);
        loop {
            piece.attempts = piece.attempts.saturating_add(1);
            let Err(error) = self.attempt(piece, watch).await else { return Verdict::Delivered };
            let fault = match error {
                CallError::Batch(text) => {
                    return Verdict::Guilty(Fault { kind: DeadKind::Batch, text });
                }
                CallError::Retry(text) => {
                    trial.asked += 1;
                    trial.answered();
                    let fault = Fault { kind: DeadKind::Retry, text };
                    (trial.asked >= self.policy.attempts).then_some(fault)
                }
                // Not the messages' fault, however often it happens.
                CallError::Downstream(_) | CallError::Config(_) | CallError::Away(_) => {
                    trial.answered();
                    None
                }
                CallError::Trap(text) => self.weigh(&mut trial, piece, DeadKind::Trap, text).await,
                CallError::Timeout(after) => {
                    let text = format!("no answer within {after:?}");
                    self.weigh(&mut trial, piece, DeadKind::Timeout, text).await
                }
            };
            if let Some(fault) = fault {
                return Verdict::Guilty(fault);
            }
            if !(trial.vouched && piece.batch.messages() > 1) {
                backoff.wait().await;
            }
        }
    }

    /// Weighs a call that ended without an answer.
    async fn weigh(
        &self,
        trial: &mut Trial,
        piece: &Piece,
        kind: DeadKind,
        text: String,
    ) -> Option<Fault> {
        let before = trial.vouched;
        self.wait_until_open(trial).await;
        // An unanswered probe in between leaves `vouched` to the new state of
        // affairs only: the failure was the outage's.
        if !(before && trial.vouched) {
            trial.vouched = true;
            return None;
        }
        trial.proven += 1;
        let needed = if piece.batch.messages() > 1 { 1 } else { self.policy.suspect_after };
        (trial.proven >= needed).then_some(Fault { kind, text })
    }

    /// Probes until the way is open. If it was not at once, nothing that
    /// happened before counts.
    async fn wait_until_open(&self, trial: &mut Trial) {
        if self.way_is_open().await {
            return;
        }
        trial.proven = 0;
        trial.vouched = false;
        let mut backoff = Backoff::new(self.policy.backoff_min, self.policy.backoff_max);
        loop {
            backoff.wait().await;
            if self.way_is_open().await {
                return;
            }
        }
    }

    /// One call, limited in time and counted.
    async fn attempt(&self, piece: &Piece, watch: &dyn Watch) -> Result<(), CallError> {
        let body = piece.batch.for_attempt(piece.attempts);
        let began = Instant::now();
        let result = self.call(body, piece.batch.traceparent()).await;
        let took = began.elapsed();
        self.link.telemetry.called(took);
        watch.ended(match &result {
            Ok(()) => Ended::Answered(took),
            Err(
                CallError::Timeout(_)
                | CallError::Away(_)
                | CallError::Downstream(_)
                | CallError::Retry(_),
            ) => Ended::Refused,
            Err(CallError::Trap(_) | CallError::Batch(_) | CallError::Config(_)) => Ended::Void,
        });
        if let Err(error) = &result {
            self.link.telemetry.error(error.kind(), error);
        }
        result
    }

    /// Whether an empty batch goes through the stage and is accepted behind it.
    async fn way_is_open(&self) -> bool {
        match self.call(packed::probe(), None).await {
            // The last two are answers of components that are not ours and
            // know nothing of probes: they live.
            Ok(()) | Err(CallError::Retry(_) | CallError::Batch(_)) => true,
            Err(error) => {
                self.link.telemetry.error(error.kind(), format_args!("probe: {error}"));
                false
            }
        }
    }

    async fn call(&self, body: Bytes, traceparent: Option<&str>) -> Result<(), CallError> {
        let _in_flight = self.link.telemetry.in_flight();
        let limit = self.policy.call_timeout;
        match tokio::time::timeout(limit, self.stage.call(body, traceparent)).await {
            Ok(Err(error @ CallError::Away(_))) => {
                // The stage has been taken away, and the link with it or soon
                // after: there is nothing that would be worth waiting for.
                if self.link.drain.is_cancelled() {
                    self.link.leave.cancel();
                }
                Err(error)
            }
            Ok(answer) => answer,
            Err(_) => Err(CallError::Timeout(limit)),
        }
    }

    /// Writes a dead letter. Not giving up here is what "never lost" rests on.
    async fn bury(&self, piece: &Piece, fault: &Fault) {
        let names = &self.link.names;
        let letter = dead::letter(&piece.batch, names, fault.kind, piece.attempts, &fault.text)
            // The message does not fit with its new headers: keep it without.
            .unwrap_or_else(|_| piece.batch.body().clone());
        self.keep(letter, piece.batch.messages() as u64).await;
    }

    /// Writes dead letters, for as long as it takes: for a source that has a
    /// message which no batch can carry. `messages` are counted.
    pub async fn keep(&self, letters: Bytes, messages: u64) {
        let mut backoff = Backoff::new(self.policy.backoff_min, self.policy.backoff_max);
        while let Err(error) = self.dead.accept(letters.clone()).await {
            self.link
                .telemetry
                .error(crate::answer::ErrorKind::Downstream, format_args!("dead letter: {error}"));
            backoff.wait().await;
        }
        self.link.telemetry.buried(messages);
    }
}

impl Trial {
    /// A fresh piece starts with nothing against it. A half of a guilty batch
    /// is suspected from its first call on: what its fault was has been waited
    /// out already, and every level of bisecting would wait again.
    fn of(piece: &Piece, policy: &Policy) -> Self {
        let fresh = Self { proven: 0, asked: 0, vouched: false };
        match piece.suspect.as_ref().map(|fault| fault.kind) {
            Some(DeadKind::Trap | DeadKind::Timeout) => Self { vouched: true, ..fresh },
            Some(DeadKind::Retry) => Self { asked: policy.attempts.saturating_sub(1), ..fresh },
            Some(DeadKind::Batch | DeadKind::InvalidArgument | DeadKind::Refused) | None => fresh,
        }
    }

    /// The stage answered, if with an error, or is known to be away.
    fn answered(&mut self) {
        self.proven = 0;
        self.vouched = false;
    }
}

/// The halves of a guilty piece. An unreadable batch cannot be halved.
fn halves(piece: &Piece, fault: &Fault) -> Option<(Piece, Piece)> {
    if fault.kind == DeadKind::Batch {
        return None;
    }
    let (first, second) = piece.batch.split()?;
    let half = |batch| Piece { batch, attempts: piece.attempts, suspect: Some(fault.clone()) };
    Some((half(first), half(second)))
}
