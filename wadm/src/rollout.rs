//! Roll-outs: what a new version takes over from, how it is judged, and what came of it.
//!
//! A roll-out is written down on the lattice before the new version is deployed, so that it goes on whoever deployed it
//! and whether they are still there. [`crate::watcher`] carries it out.
//!
//! The records of a pipeline are one value of a key-value bucket, and every change of it is a compare-and-set: of
//! several who want to act, one does.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use futures::TryStreamExt as _;
use millrace_kit::status::{Direction, ProviderStatus, State};
use millrace_kit::{ErrorKind, telemetry::now_ms};
use millrace_settings::Rollout as Settings;
use serde::{Deserialize, Serialize};

use crate::applications::WadmError;

/// Roll-outs of a pipeline that are remembered.
const REMEMBERED: usize = 20;

/// How often a change is tried again because somebody else made another one meanwhile.
const TRIES: usize = 10;

/// Fewer failed calls than that say nothing about a stage that has handed on nothing.
const FAILED_CALLS: u64 = 3;

/// How far a roll-out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Written down; nobody has taken it up.
    Stored,
    /// The new version is being started.
    Starting,
    /// The new version runs and is being judged.
    Watching,
    /// The new version has stood its watch.
    Done,
    /// The version before is being put back.
    RollingBack,
    /// The version before runs again.
    RolledBack,
    /// It did not succeed, and the version before was not put back or does not run.
    Failed,
    /// Somebody deployed or undeployed something else meanwhile.
    Superseded,
}

impl RolloutState {
    /// Whether nothing more will come.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack | Self::Failed | Self::Superseded)
    }

    /// The state in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Starting => "starting",
            Self::Watching => "watching",
            Self::Done => "done",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// One version taking over from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The version before.
    pub from: String,
    /// The new version.
    pub to: String,
    /// How far it is.
    pub state: RolloutState,
    /// Why the new version was not kept, or what else there is to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was written down, in milliseconds since the Unix epoch. No two of a pipeline have the same.
    pub started_ms: u64,
    /// When it came into its state.
    pub changed_ms: u64,
    /// How long the new version, and in a roll-back the old one, may take to run.
    pub timeout_ms: u64,
    /// How the new version is judged.
    pub settings: Settings,
    /// What the links had counted before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<LinkCount>,
    /// What the stages of the new version have counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageCount>,
}

/// What the links of one name, direction and stage have counted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCount {
    /// The stage.
    pub stage: String,
    /// Which way messages go.
    pub direction: Direction,
    /// The source, edge or sink.
    pub name: String,
    /// Messages that the stage was called with, to the end.
    pub messages: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Calls of the stage that ended without an answer, or with one that refuses.
    pub failed_calls: u64,
}

impl LinkCount {
    /// Whether this comes from counters that have counted on from `earlier`.
    fn follows(&self, earlier: &Self) -> bool {
        self.messages >= earlier.messages
            && self.dead_letters >= earlier.dead_letters
            && self.failed_calls >= earlier.failed_calls
    }

    fn key(&self) -> Key {
        (self.stage.clone(), self.direction == Direction::Source, self.name.clone())
    }
}

type Key = (String, bool, String);

/// What a stage has done with its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCount {
    /// Its name.
    pub stage: String,
    /// Messages that it was called with, to the end.
    pub messages: u64,
    /// Those that became dead letters.
    pub dead_letters: u64,
    /// Calls that ended without an answer, or with one that refuses.
    pub failed_calls: u64,
}

impl StageCount {
    /// The share of its messages that became dead letters.
    fn share(&self) -> f64 {
        if self.messages == 0 { 0.0 } else { self.dead_letters as f64 / self.messages as f64 }
    }

    /// Whether its calls fail, and nothing else comes of them.
    fn stands_still(&self) -> bool {
        self.failed_calls >= FAILED_CALLS && self.messages <= self.dead_letters
    }
}

/// What the links of a pipeline have counted so far. A link that is being drained is not looked at: its counters go with
/// it, and its successor's start from nothing.
pub(crate) fn count_links(providers: &[ProviderStatus]) -> Vec<LinkCount> {
    let mut counts: BTreeMap<Key, LinkCount> = BTreeMap::new();
    for link in providers.iter().flat_map(|p| &p.links).filter(|l| l.state != State::Draining) {
        let of = |kind: ErrorKind| link.counters.errors.get(kind.name()).copied().unwrap_or(0);
        let calls = [ErrorKind::Trap, ErrorKind::Timeout, ErrorKind::Config, ErrorKind::Retry];
        let called = link.direction == Direction::Source;
        let dead_letters = link.counters.dead_letters;
        let count = LinkCount {
            stage: link.stage.clone(),
            direction: link.direction,
            name: link.name.clone(),
            messages: if called {
                link.counters.messages_out.saturating_add(dead_letters)
            } else {
                0
            },
            dead_letters,
            failed_calls: if called { calls.into_iter().map(of).sum() } else { 0 },
        };
        let sum = counts.entry(count.key()).or_insert_with(|| LinkCount {
            messages: 0,
            dead_letters: 0,
            failed_calls: 0,
            ..count.clone()
        });
        sum.messages = sum.messages.saturating_add(count.messages);
        sum.dead_letters = sum.dead_letters.saturating_add(count.dead_letters);
        sum.failed_calls = sum.failed_calls.saturating_add(count.failed_calls);
    }
    counts.into_values().collect()
}

/// Links together, by stage. What a step refuses is counted by the link behind the stage, the rest by those before it.
fn by_stage<'a>(links: impl IntoIterator<Item = &'a LinkCount>) -> Vec<StageCount> {
    let mut stages: BTreeMap<&str, StageCount> = BTreeMap::new();
    for link in links {
        let stage = stages.entry(&link.stage).or_default();
        stage.stage.clone_from(&link.stage);
        stage.messages = stage.messages.saturating_add(link.messages);
        stage.dead_letters = stage.dead_letters.saturating_add(link.dead_letters);
        stage.failed_calls = stage.failed_calls.saturating_add(link.failed_calls);
    }
    stages.into_values().collect()
}

/// What has been counted since a beginning, whose links go on or are replaced meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    base: BTreeMap<Key, LinkCount>,
    last: BTreeMap<Key, LinkCount>,
}

impl Tally {
    /// From these counters on.
    pub(crate) fn since(before: &[LinkCount]) -> Self {
        let base: BTreeMap<_, _> = before.iter().map(|link| (link.key(), link.clone())).collect();
        Self { last: base.clone(), base }
    }

    /// Another look. Counters that have less than before are another link's, or those of a provider that was started
    /// again: they count from nothing.
    pub(crate) fn look(&mut self, now: Vec<LinkCount>) {
        for link in now {
            let key = link.key();
            if self.last.get(&key).is_some_and(|last| !link.follows(last)) {
                self.base.remove(&key);
            }
            self.last.insert(key, link);
        }
    }

    /// What the stages have counted since the beginning.
    pub(crate) fn stages(&self) -> Vec<StageCount> {
        let since = |(key, last): (&Key, &LinkCount)| {
            let base = self.base.get(key);
            let less = |now: u64, then: fn(&LinkCount) -> u64| {
                now.saturating_sub(base.map(then).unwrap_or_default())
            };
            LinkCount {
                messages: less(last.messages, |l| l.messages),
                dead_letters: less(last.dead_letters, |l| l.dead_letters),
                failed_calls: less(last.failed_calls, |l| l.failed_calls),
                ..last.clone()
            }
        };
        let links: Vec<LinkCount> = self.last.iter().map(since).collect();
        by_stage(&links)
    }
}

impl Rollout {
    /// A new one.
    #[must_use]
    pub fn new(
        from: &str,
        to: &str,
        settings: Settings,
        timeout: std::time::Duration,
        before: Vec<LinkCount>,
    ) -> Self {
        let now = now_ms();
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            state: RolloutState::Stored,
            reason: None,
            started_ms: now,
            changed_ms: now,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            settings,
            before,
            stages: Vec::new(),
        }
    }

    /// How long a version may take to run.
    #[must_use]
    pub const fn timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.timeout_ms)
    }

    /// Comes into a state.
    pub(crate) fn become_state(&mut self, state: RolloutState, reason: Option<String>) {
        self.state = state;
        self.changed_ms = now_ms();
        if reason.is_some() {
            self.reason = reason;
        }
        if state.has_ended() {
            self.before.clear();
        }
    }

    fn stage_before(&self, name: &str) -> StageCount {
        let before = by_stage(&self.before);
        before.into_iter().find(|stage| stage.stage == name).unwrap_or_default()
    }

    /// Why these counts are too bad to go on, if they are.
    pub(crate) fn too_many_failures(&self, now: &[StageCount]) -> Option<String> {
        let enough = self.settings.min_messages.get();
        now.iter().filter(|stage| stage.messages >= enough).find_map(|stage| {
            let before = self.stage_before(&stage.stage);
            let before = if before.messages >= enough { before.share() } else { 0.0 };
            (stage.share() > before + self.settings.max_failures.share()).then(|| {
                format!(
                    "{} of {} messages of stage `{}` became dead letters ({:.1}%; {:.1}% before, and at most {} more are \
                     allowed)",
                    stage.dead_letters,
                    stage.messages,
                    stage.stage,
                    stage.share() * 100.0,
                    before * 100.0,
                    self.settings.max_failures,
                )
            })
        })
    }

    /// Why these counts are too bad at the end of the watch, if they are: a stage whose calls fail may not have come to
    /// the end of a single message.
    pub(crate) fn standstill(&self, now: &[StageCount]) -> Option<String> {
        let new = |stage: &&StageCount| {
            stage.stands_still() && !self.stage_before(&stage.stage).stands_still()
        };
        now.iter().find(new).map(|stage| {
            format!(
                "stage `{}` has handed on nothing: {} calls of it trapped, were not answered in time or refused",
                stage.stage, stage.failed_calls
            )
        })
    }
}

/// The roll-outs of a lattice.
#[derive(Clone)]
pub struct Rollouts {
    jetstream: jetstream::Context,
    lattice: String,
}

impl Rollouts {
    /// Over this connection.
    #[must_use]
    pub fn new(nats: async_nats::Client, lattice: &str) -> Self {
        Self { jetstream: jetstream::new(nats), lattice: lattice.to_owned() }
    }

    fn bucket(&self) -> String {
        format!("MILLRACE_{}_rollouts", self.lattice)
    }

    /// The roll-outs of a pipeline that are remembered, the last one last.
    ///
    /// # Errors
    ///
    /// JetStream does not answer, or has what cannot be read.
    pub async fn history(&self, pipeline: &str) -> Result<Vec<Rollout>, WadmError> {
        match self.open().await? {
            Some((store, _)) => Ok(self.read(&store, pipeline).await?.0),
            None => Ok(Vec::new()),
        }
    }

    /// The last roll-out of a pipeline.
    ///
    /// # Errors
    ///
    /// As [`Self::history`].
    pub async fn last(&self, pipeline: &str) -> Result<Option<Rollout>, WadmError> {
        Ok(self.history(pipeline).await?.pop())
    }

    /// Writes a roll-out down. One that has not ended is superseded by it, and hands on the version it would have gone
    /// back to: its own was never found good. Nothing is written when that is the new version itself.
    ///
    /// # Errors
    ///
    /// As [`Self::history`], or too many others write at the same time.
    pub async fn begin(&self, pipeline: &str, new: Rollout) -> Result<Option<Rollout>, WadmError> {
        let store = self.make().await?;
        for _ in 0..TRIES {
            let (mut list, revision) = self.read(&store, pipeline).await?;
            let mut new = new.clone();
            if let Some(last) = list.last_mut().filter(|last| !last.state.has_ended()) {
                new.from.clone_from(&last.from);
                let reason = format!("version {} was deployed meanwhile", new.to);
                last.become_state(RolloutState::Superseded, Some(reason));
                // The time tells them apart.
                new.started_ms = new.started_ms.max(last.started_ms.saturating_add(1));
            }
            let begun = (new.from != new.to).then_some(new);
            list.extend(begun.clone());
            if self.write(&store, pipeline, list, revision).await? {
                return Ok(begun);
            }
        }
        Err(self.busy(pipeline))
    }

    /// Changes the last roll-out, which must be the one that was written down then and not have ended; false when it is
    /// not, or somebody else changed it first.
    pub(crate) async fn change(
        &self,
        pipeline: &str,
        started_ms: u64,
        from: RolloutState,
        change: impl FnOnce(&mut Rollout),
    ) -> Result<bool, WadmError> {
        let Some((store, _)) = self.open().await? else { return Ok(false) };
        let (mut list, revision) = self.read(&store, pipeline).await?;
        let Some(last) = list.last_mut() else { return Ok(false) };
        if last.started_ms != started_ms || last.state != from {
            return Ok(false);
        }
        change(last);
        self.write(&store, pipeline, list, revision).await
    }

    /// Ends the last roll-out of a pipeline, where it has not ended: what was to come of it does not.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub async fn end(
        &self,
        pipeline: &str,
        state: RolloutState,
        reason: &str,
    ) -> Result<(), WadmError> {
        for _ in 0..TRIES {
            let Some((store, _)) = self.open().await? else { return Ok(()) };
            let (mut list, revision) = self.read(&store, pipeline).await?;
            let Some(last) = list.last_mut().filter(|last| !last.state.has_ended()) else {
                return Ok(());
            };
            last.become_state(state, Some(reason.to_owned()));
            if self.write(&store, pipeline, list, revision).await? {
                return Ok(());
            }
        }
        Err(self.busy(pipeline))
    }

    /// Forgets the roll-outs of a pipeline.
    ///
    /// # Errors
    ///
    /// JetStream does not answer.
    pub async fn forget(&self, pipeline: &str) -> Result<(), WadmError> {
        let Some((store, _)) = self.open().await? else { return Ok(()) };
        store.purge(pipeline).await.map_err(|e| self.error("forget", pipeline, e))
    }

    /// Pipelines with a roll-out that has not ended, and when it was written down; nothing when nothing has changed since
    /// the mark, which is moved on.
    pub(crate) async fn unfinished(
        &self,
        mark: &mut Option<(i128, u64)>,
    ) -> Result<Option<Vec<(String, u64)>>, WadmError> {
        let Some((store, now)) = self.open().await? else {
            *mark = None;
            return Ok(None);
        };
        if *mark == Some(now) {
            return Ok(None);
        }
        let keys = store.keys().await.map_err(|e| self.error("list", "all", e))?;
        let keys: BTreeSet<String> =
            keys.try_collect().await.map_err(|e| self.error("list", "all", e))?;
        let mut found = Vec::new();
        for pipeline in keys {
            match self.read(&store, &pipeline).await {
                Ok((list, _)) => {
                    let last = list.last().filter(|last| !last.state.has_ended());
                    found.extend(last.map(|last| (pipeline, last.started_ms)));
                }
                // What one pipeline has must not keep the others from theirs.
                Err(error @ WadmError::Rollouts { .. }) => tracing::warn!(%error, "left alone"),
                Err(error) => return Err(error),
            }
        }
        *mark = Some(now);
        Ok(Some(found))
    }

    /// The bucket, if there is one, and a mark that tells whether it has changed: when it was made, and how far it is.
    async fn open(&self) -> Result<Option<(kv::Store, (i128, u64))>, WadmError> {
        let stream = self.jetstream.get_stream(format!("KV_{}", self.bucket())).await;
        let mark = match stream {
            Ok(stream) => {
                let info = stream.cached_info();
                (info.created.unix_timestamp_nanos(), info.state.last_sequence)
            }
            Err(e) if is_missing(&e.kind()) => return Ok(None),
            Err(e) => return Err(self.error("open", "all", e)),
        };
        let store = self.jetstream.get_key_value(self.bucket()).await;
        Ok(Some((store.map_err(|e| self.error("open", "all", e))?, mark)))
    }

    async fn make(&self) -> Result<kv::Store, WadmError> {
        if let Some((store, _)) = self.open().await? {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: self.bucket(),
            description: "Roll-outs of Millrace's pipelines".to_owned(),
            history: 1,
            ..kv::Config::default()
        };
        let made = self.jetstream.create_key_value(config).await;
        made.map_err(|e| self.error("make room for", "all", e))
    }

    /// The records of a pipeline, and the revision that a change of them is compared with.
    async fn read(
        &self,
        store: &kv::Store,
        pipeline: &str,
    ) -> Result<(Vec<Rollout>, u64), WadmError> {
        let entry = store.entry(pipeline).await.map_err(|e| self.error("read", pipeline, e))?;
        match entry {
            None => Ok((Vec::new(), 0)),
            Some(entry) if entry.operation != Operation::Put => Ok((Vec::new(), entry.revision)),
            Some(entry) => {
                let list = serde_json::from_slice(&entry.value);
                Ok((list.map_err(|e| self.error("read", pipeline, e))?, entry.revision))
            }
        }
    }

    /// Writes the records; false when they have been changed since that revision.
    async fn write(
        &self,
        store: &kv::Store,
        pipeline: &str,
        mut list: Vec<Rollout>,
        revision: u64,
    ) -> Result<bool, WadmError> {
        list.drain(..list.len().saturating_sub(REMEMBERED));
        let text = serde_json::to_vec(&list).map_err(|e| self.error("write", pipeline, e))?;
        match store.update(pipeline, text.into(), revision).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(e) => Err(self.error("write", pipeline, e)),
        }
    }

    fn busy(&self, pipeline: &str) -> WadmError {
        self.error("write", pipeline, "others change it at the same time, again and again")
    }

    fn error(
        &self,
        what: &'static str,
        pipeline: &str,
        cause: impl std::fmt::Display,
    ) -> WadmError {
        WadmError::Rollouts {
            what,
            pipeline: pipeline.to_owned(),
            lattice: self.lattice.clone(),
            cause: cause.to_string(),
        }
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(direction: Direction, name: &str, messages: u64, dead: u64, failed: u64) -> LinkCount {
        LinkCount {
            stage: "s".to_owned(),
            direction,
            name: name.to_owned(),
            messages,
            dead_letters: dead,
            failed_calls: failed,
        }
    }

    fn source(messages: u64, dead: u64, failed: u64) -> LinkCount {
        link(Direction::Source, "in", messages, dead, failed)
    }

    fn rollout(before: Vec<LinkCount>) -> Rollout {
        Rollout::new("1", "2", Settings::default(), std::time::Duration::from_secs(60), before)
    }

    #[test]
    fn a_replaced_link_counts_from_nothing_and_one_that_stays_from_where_it_was() {
        let mut tally = Tally::since(&[source(1000, 10, 3), link(Direction::Sink, "out", 0, 7, 0)]);
        tally.look(vec![source(1100, 10, 3), link(Direction::Sink, "out", 0, 7, 0)]);
        assert_eq!(tally.stages()[0].messages, 100);
        // Another link under the same name, whose counters were made anew.
        tally.look(vec![source(0, 0, 0)]);
        tally.look(vec![source(40, 30, 90), link(Direction::Sink, "out", 0, 9, 0)]);
        let stages = tally.stages();
        assert_eq!(stages.len(), 1);
        assert_eq!(
            (stages[0].messages, stages[0].dead_letters, stages[0].failed_calls),
            (40, 32, 90)
        );
        // The provider does not answer for a while: what it said last stands.
        tally.look(Vec::new());
        assert_eq!(tally.stages(), stages);
    }

    #[test]
    fn failures_count_when_there_are_enough_messages_and_more_of_them_than_before() {
        let judge = |before: Vec<LinkCount>, now: Vec<LinkCount>| {
            rollout(before).too_many_failures(&by_stage(&now))
        };
        assert_eq!(judge(vec![], vec![source(19, 19, 60)]), None, "too few messages");
        let reason = judge(vec![], vec![source(20, 20, 60)]).unwrap();
        assert!(
            reason.starts_with("20 of 20 messages of stage `s` became dead letters"),
            "{reason}"
        );
        assert_eq!(judge(vec![], vec![source(100, 5, 0)]), None, "as many as are allowed");
        assert!(judge(vec![], vec![source(100, 6, 0)]).is_some());
        // What its steps refuse is counted behind the stage.
        let refused = vec![source(100, 0, 0), link(Direction::Sink, "out", 0, 6, 0)];
        assert!(judge(vec![], refused).is_some());
        // A pipeline that always had its share may go on having it.
        assert_eq!(judge(vec![source(1000, 300, 0)], vec![source(100, 34, 0)]), None);
        assert!(judge(vec![source(1000, 300, 0)], vec![source(100, 36, 0)]).is_some());
        assert!(
            judge(vec![source(10, 3, 0)], vec![source(100, 34, 0)]).is_some(),
            "of ten says nothing"
        );
    }

    #[test]
    fn calls_that_all_fail_are_a_standstill_unless_they_did_before() {
        let judge = |before: Vec<LinkCount>, now: Vec<LinkCount>| {
            rollout(before).standstill(&by_stage(&now)).is_some()
        };
        assert!(judge(vec![], vec![source(0, 0, 3)]));
        assert!(judge(vec![source(50, 0, 0)], vec![source(2, 2, 9)]));
        assert!(!judge(vec![], vec![source(0, 0, 2)]), "twice says nothing");
        assert!(!judge(vec![], vec![source(1, 0, 40)]), "something comes through");
        assert!(!judge(vec![source(0, 0, 9)], vec![source(0, 0, 9)]), "no worse than before");
    }

    #[test]
    fn a_record_survives_json_and_an_unknown_field() {
        let mut record = rollout(vec![source(1, 2, 3)]);
        record.become_state(RolloutState::RollingBack, Some("why".to_owned()));
        let mut json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["state"], "rolling-back");
        json["later"] = 1.into();
        assert_eq!(serde_json::from_value::<Rollout>(json).unwrap(), record);
        record.become_state(RolloutState::Failed, None);
        assert!(record.before.is_empty() && record.reason.as_deref() == Some("why"));
    }
}
