//! `millrace dead replay`: gives letters to the stage again.
//!
//! One letter is one call, so that each has an answer of its own. Its batch's id is made of the stream and its number: where
//! a replay is interrupted after the stage took a letter and before the letter was deleted, the repeat has the same id, and
//! the next durable edge drops it.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use millrace_batch::{Batch, BatchWriter, ENTER, Fields, ID, PROBE, WriteError, is_batch};
use millrace_kit::dead::DeadKind;
use millrace_kit::id::BatchIds;
use millrace_kit::packed::ATTEMPT;
use millrace_kit::status::dead_subject;
use millrace_wadm::DeployedStage;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior};

use super::call::{Caller, Fault};
use super::filter::Filter;
use super::letter::Letter;
use super::route::{NoRoute, Route, route};
use super::store::{Kept, Store};
use super::{Walk, show};
use crate::ui::Ui;

/// Problems that are told one by one.
const TOLD: usize = 20;

/// Between two words about how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Letters or batches in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(Duration);

impl Rate {
    /// Ticks at this rate. What was missed is not made up for.
    pub(crate) fn pace(self) -> Interval {
        let mut pace = tokio::time::interval(self.0);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let time = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(format!("`{text}` is no rate; write it as 50/s or 600/m")),
        };
        match number.parse::<u32>() {
            Ok(number) if number > 0 => Ok(Self(time / number)),
            _ => Err(format!("`{text}` is no rate; write it as 50/s or 600/m")),
        }
    }
}

/// What is replayed, and where to.
pub(crate) struct Replay<'a> {
    pub(crate) ui: Ui,
    pub(crate) nats: async_nats::Client,
    pub(crate) lattice: &'a str,
    pub(crate) store: &'a Store,
    pub(crate) filter: &'a Filter,
    /// The pipeline that gets the letters.
    pub(crate) pipeline: &'a str,
    pub(crate) stages: &'a [DeployedStage],
    /// The one stage of it that gets them.
    pub(crate) named: Option<&'a DeployedStage>,
    /// For a try: the letters stay.
    pub(crate) keep: bool,
    pub(crate) rate: Option<Rate>,
    pub(crate) limit: Duration,
}

/// What became of the letters.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Letters that the filter meant.
    pub(crate) matched: u64,
    /// Of them, those that a stage took.
    pub(crate) replayed: u64,
    /// Of these, those that it refused again: they are new letters.
    pub(crate) came_back: u64,
    /// Letters that stay where they are.
    pub(crate) left: u64,
    /// Why they stay, and how many.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// The first of them.
    pub(crate) problems: Vec<Problem>,
}

/// A letter that stays.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    seq: u64,
    place: usize,
    text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} stays: {}", self.seq, self.text)
    }
}

/// Why a letter stays.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("it cannot be written as a batch: {0}")]
    Batch(#[from] WriteError),
}

impl Stays {
    fn name(&self) -> &str {
        match self {
            Self::NoRoute(none) => none.name(),
            Self::Fault(Fault::Letter { kind, .. }) => kind,
            Self::Fault(Fault::Stage { .. }) => "stage-away",
            Self::Batch(_) => "unwritable",
        }
    }
}

/// A replay that is under way.
struct Run<'a> {
    replay: &'a Replay<'a>,
    callers: HashMap<&'a str, Caller>,
    /// New letters of the pipeline.
    letters: Subscriber,
    tries: BatchIds,
    pace: Option<Interval>,
    summary: Summary,
    told: Instant,
}

impl Replay<'_> {
    /// Shows what would be given where.
    pub(crate) async fn dry_run(&self) -> anyhow::Result<Summary> {
        let mut summary = Summary::default();
        let mut walk = Walk::new(self.store, self.filter);
        let mut table = show::Table::new(self.ui);
        while let Some(kept) = walk.next(self.ui).await? {
            let Some(batch) = kept.batch().ok() else { continue };
            for letter in walk.choose(&kept, &batch) {
                summary.matched += 1;
                let route = route(self.stages, self.named, &letter);
                table.planned(&letter, &route)?;
                if let Err(none) = route {
                    summary.stays(&letter, &none.into());
                }
            }
        }
        Ok(summary)
    }

    /// Gives the letters, one by one.
    pub(crate) async fn run(&self) -> anyhow::Result<Summary> {
        let subject = dead_subject(self.lattice, self.pipeline, "*");
        let letters = self.nats.subscribe(subject).await?;
        self.nats.flush().await?;
        let pace = self.rate.map(Rate::pace);
        let mut run = Run {
            replay: self,
            callers: HashMap::new(),
            letters,
            tries: BatchIds::default(),
            pace,
            summary: Summary::default(),
            told: Instant::now(),
        };
        let mut walk = Walk::new(self.store, self.filter);
        while let Some(kept) = walk.next(self.ui).await? {
            let Some(batch) = kept.batch().ok() else { continue };
            let chosen = walk.choose(&kept, &batch);
            run.batch(&kept, &batch, &chosen).await?;
        }
        Ok(run.summary)
    }
}

impl Run<'_> {
    /// Gives the chosen letters of one batch. They go when all of it has been tried: those of them that were taken, and
    /// what is left of the batch stays.
    async fn batch(
        &mut self,
        kept: &Kept,
        batch: &Batch<'_>,
        chosen: &[Letter<'_>],
    ) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        for letter in chosen {
            self.summary.matched += 1;
            match self.letter(batch, letter).await? {
                Ok(()) => {
                    self.summary.replayed += 1;
                    taken.push(letter.place);
                }
                Err(stays) => self.summary.stays(letter, &stays),
            }
            self.tell(letter.seq);
        }
        if self.replay.keep || taken.is_empty() {
            return Ok(());
        }
        self.replay.store.remove(kept, batch, &taken).await
    }

    async fn letter(
        &mut self,
        batch: &Batch<'_>,
        letter: &Letter<'_>,
    ) -> anyhow::Result<Result<(), Stays>> {
        let replay = self.replay;
        let Route { stage, enter } = match route(replay.stages, replay.named, letter) {
            Ok(route) => route,
            Err(none) => return Ok(Err(none.into())),
        };
        // A try is another message each time: what was tried before must not be dropped as its repeat.
        let id = match replay.keep {
            true => format!("try/{}", self.tries.next_id()),
            false => replay.store.letter_id(letter.seq, letter.place),
        };
        let body = match body(batch, letter, &id, enter) {
            Ok(body) => body,
            Err(error) => return Ok(Err(error.into())),
        };
        if !self.callers.contains_key(stage.id.as_str()) {
            let (nats, lattice) = (&replay.nats, replay.lattice);
            let caller = Caller::new(nats, lattice, replay.pipeline, stage, replay.limit).await?;
            self.callers.insert(&stage.id, caller);
        }
        let Some(caller) = self.callers.get_mut(stage.id.as_str()) else { return Ok(Ok(())) };
        if let Some(pace) = &mut self.pace {
            pace.tick().await;
        }
        if let Some(step) = enter
            && let Err(fault) = caller.can_enter(step).await
        {
            return Ok(Err(fault.into()));
        }
        let given = caller.give(body).await;
        // A stage writes its letters before it answers, and both come over this connection.
        let answers = format!("{id}/dead/{}", stage.name);
        while let Some(Some(message)) = self.letters.next().now_or_never() {
            let Ok(refused) = Batch::open(&message.payload) else { continue };
            if given.is_ok() && refused.header(ID).is_some_and(|id| id.starts_with(&answers)) {
                self.summary.came_back += 1;
            }
        }
        Ok(given.map_err(Stays::from))
    }

    fn tell(&mut self, seq: u64) {
        if self.told.elapsed() > PROGRESS {
            self.told = Instant::now();
            let Summary { replayed, left, .. } = &self.summary;
            self.replay.ui.step(format!("{replayed} replayed, {left} left; at number {seq}"));
        }
    }
}

impl Summary {
    fn stays(&mut self, letter: &Letter<'_>, why: &Stays) {
        self.left += 1;
        *self.reasons.entry(why.name().to_owned()).or_default() += 1;
        if self.problems.len() < TOLD {
            let text = why.to_string();
            self.problems.push(Problem { seq: letter.seq, place: letter.place, text });
        }
    }
}

/// The message as it was before it died, as a batch of one.
fn body(
    batch: &Batch<'_>,
    letter: &Letter<'_>,
    id: &str,
    enter: Option<&str>,
) -> Result<Bytes, WriteError> {
    let payload = letter.message.payload;
    // The letter of a body that was no batch anybody can read: the payload is that body.
    let unreadable = letter.step.is_none() && letter.kind == Some(DeadKind::Batch.name());
    if unreadable && is_batch(payload) {
        return Ok(Bytes::copy_from_slice(payload));
    }
    let attempt = letter.attempt.unwrap_or(1).saturating_add(1).to_string();
    let own = [ID, ATTEMPT, ENTER, PROBE];
    let carried = batch.headers().filter(|(name, _)| !own.contains(name));
    let set = [(ID, id), (ATTEMPT, attempt.as_str())].into_iter();
    let set = set.chain(enter.map(|step| (ENTER, step)));
    let mut writer = BatchWriter::with_capacity(carried.chain(set), letter.message.record().len())?;
    writer.push(&Fields::from(&letter.message), letter.headers())?;
    Ok(writer.finish().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter_of(kept: &Kept) -> (Batch<'_>, Letter<'_>) {
        let batch = kept.batch().unwrap();
        let message = batch.messages().next().unwrap();
        (batch, Letter::read(kept, 0, message))
    }

    fn kept(headers: &[(&str, &str)], fields: &Fields<'_>) -> Kept {
        let batch = [("id", "01J/dead/s"), ("attempt", "7"), ("traceparent", "00-a-b-01")];
        let mut writer = BatchWriter::new(batch).unwrap();
        writer.push(fields, headers.iter().copied()).unwrap();
        Kept::of(1, "millrace.default.p.dead.s", writer.finish().into())
    }

    #[test]
    fn the_message_is_as_it_was_before_it_died() {
        let fields = Fields {
            timestamp: 5,
            topic: "plant/a",
            content_type: Some("text/plain"),
            key: Some(&[0xFF, 0]),
            payload: &[1, 2, 0xFE],
        };
        let headers = [
            ("unit", "F"),
            ("millrace-dead-step", "s"),
            ("millrace-dead-attempt", "3"),
            ("millrace-dead-text", "no"),
            ("unit", "C"),
        ];
        let kept = kept(&headers, &fields);
        let (batch, letter) = letter_of(&kept);
        let body = body(&batch, &letter, "replay/1/0", Some("s")).unwrap();
        let given = Batch::parse(&body).unwrap();
        assert_eq!(
            given.headers().collect::<Vec<_>>(),
            [("traceparent", "00-a-b-01"), ("id", "replay/1/0"), ("attempt", "4"), ("enter", "s")]
        );
        let message = given.messages().next().unwrap();
        assert_eq!(Fields::from(&message), fields);
        assert_eq!(message.headers().collect::<Vec<_>>(), [("unit", "F"), ("unit", "C")]);
    }

    #[test]
    fn a_body_that_was_no_batch_is_given_as_it_was() {
        let damaged = [0xD6, b'M', b'R', b'B', 9];
        let fields = Fields { payload: &damaged, ..Fields::default() };
        let kept = kept(&[("millrace-dead-kind", "batch")], &fields);
        let (batch, letter) = letter_of(&kept);
        assert_eq!(body(&batch, &letter, "id", None).unwrap(), damaged.as_slice());
    }

    #[test]
    fn rates() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.0);
        assert_eq!(rate("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(rate("50"), Ok(Duration::from_millis(20)));
        assert_eq!(rate("600/m"), Ok(Duration::from_millis(100)));
        for wrong in ["", "0/s", "5/h", "-1/s", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
