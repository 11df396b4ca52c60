//! Carries roll-outs out: starts the new version, judges it, and puts the one before back where it has to.
//!
//! It runs beside wadm in the host's process, one for a lattice, and takes up what it finds written down
//! ([`crate::rollout`]), also after it was killed in the middle. Several on a lattice do no harm: each change of a record
//! is a compare-and-set, and what follows from a state (a version is deployed) may be asked for twice.
//!
//! What it remembers itself are times only, and what counters have shown. So a watch that is taken up by another begins
//! anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use crate::applications::{ASK_AGAIN, Applications, WadmError};
use crate::rollout::{Rollout, RolloutState, Rollouts, Tally, count_links};
use crate::status::PipelineStatus;

/// Between two looks for roll-outs.
const LOOK: Duration = Duration::from_millis(500);

/// Between two looks at a roll-out.
const POLL: Duration = Duration::from_millis(300);

/// After a look that failed: wadm or NATS is away.
const PAUSE: Duration = Duration::from_secs(1);

/// The new version has taken over when everything runs for this long: a link that is to be replaced is connected until
/// its provider hears of that.
const SETTLED: Duration = Duration::from_secs(2);

/// Whoever wrote a roll-out down gets this long to deploy the version.
const DEPLOYED: Duration = Duration::from_secs(2);

/// Looks after the roll-outs of a lattice, for as long as it is polled.
pub async fn watch(nats: async_nats::Client, lattice: &str) {
    let watcher = Watcher::new(nats, lattice);
    let mut mark = None;
    let mut tasks = JoinSet::new();
    let mut followed: HashMap<(String, u64), AbortHandle> = HashMap::new();
    loop {
        match watcher.rollouts.unfinished(&mut mark).await {
            Ok(Some(found)) => {
                followed.retain(|_, task| !task.is_finished());
                for key in found {
                    followed.entry(key.clone()).or_insert_with(|| {
                        let (own, (pipeline, started_ms)) = (watcher.clone(), key);
                        tasks.spawn(async move { own.follow(&pipeline, started_ms).await })
                    });
                }
            }
            Ok(None) => while tasks.try_join_next().is_some() {},
            Err(error) => {
                tracing::debug!(%error, "cannot look for roll-outs");
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Carries out roll-outs of one lattice.
#[derive(Clone)]
pub struct Watcher {
    applications: Applications,
    rollouts: Rollouts,
}

/// What is known of a roll-out beside its record.
struct Memory {
    tally: Tally,
    /// Since when it is in its state, as far as was seen here.
    since: Instant,
    /// Since when everything runs, or not everything.
    running: Option<(bool, Instant)>,
    /// How long not everything ran in the meantime.
    away: Duration,
    /// When wadm was asked last.
    asked: Option<Instant>,
}

/// What is to be done about a roll-out.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait,
    /// wadm has to be asked for this version.
    Deploy(String),
    /// wadm has to be asked for what is missing.
    AskAgain,
    Become(RolloutState, Option<String>),
}

impl Watcher {
    /// Over this connection.
    #[must_use]
    pub fn new(nats: async_nats::Client, lattice: &str) -> Self {
        Self {
            applications: Applications::new(nats.clone(), lattice),
            rollouts: Rollouts::new(nats, lattice),
        }
    }

    /// Carries out the roll-out of a pipeline that was written down then, until it has ended.
    pub async fn follow(&self, pipeline: &str, started_ms: u64) {
        let mut memory: Option<(RolloutState, Memory)> = None;
        loop {
            let pause = match self.look(pipeline, started_ms, &mut memory).await {
                Ok(true) => return,
                Ok(false) => POLL,
                Err(error) => {
                    tracing::debug!(pipeline, %error, "cannot look at a roll-out");
                    // While nobody can be asked no time runs out.
                    if let Some((_, memory)) = &mut memory {
                        memory.start_times();
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks once, and does what follows; true when there is nothing more to do.
    async fn look(
        &self,
        pipeline: &str,
        started_ms: u64,
        memory: &mut Option<(RolloutState, Memory)>,
    ) -> Result<bool, WadmError> {
        let Some(rollout) = self.rollouts.last(pipeline).await? else { return Ok(true) };
        if rollout.started_ms != started_ms || rollout.state.has_ended() {
            return Ok(true);
        }
        let status = match self.applications.status(pipeline).await {
            Ok(status) => status,
            Err(WadmError::NotFound { .. }) => {
                self.set(pipeline, &rollout, RolloutState::Superseded, Some(undeployed()), None)
                    .await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let memory = match memory {
            Some((state, memory)) => {
                if *state != rollout.state {
                    *state = rollout.state;
                    memory.start_times();
                }
                memory
            }
            None => {
                let fresh = Memory::new(Tally::since(&rollout.before));
                &mut memory.insert((rollout.state, fresh)).1
            }
        };
        memory.see(&status);
        match decide(&rollout, &status, memory) {
            Next::Wait => {}
            Next::Deploy(version) => {
                memory.asked = Some(Instant::now());
                self.applications.ask_to_deploy(pipeline, &version).await?;
            }
            Next::AskAgain => {
                memory.asked = Some(Instant::now());
                self.applications.ask_again(&status).await?;
            }
            Next::Become(state, reason) => {
                self.set(pipeline, &rollout, state, reason, Some(&memory.tally)).await?;
            }
        }
        Ok(false)
    }

    async fn set(
        &self,
        pipeline: &str,
        rollout: &Rollout,
        state: RolloutState,
        reason: Option<String>,
        tally: Option<&Tally>,
    ) -> Result<(), WadmError> {
        let why = reason.clone().unwrap_or_default();
        let stages = tally.filter(|_| rollout.state == RolloutState::Watching).map(Tally::stages);
        let change = |record: &mut Rollout| {
            record.become_state(state, reason);
            record.stages = stages.unwrap_or_else(|| std::mem::take(&mut record.stages));
        };
        let mine =
            self.rollouts.change(pipeline, rollout.started_ms, rollout.state, change).await?;
        let (from, to) = (rollout.from.as_str(), rollout.to.as_str());
        match state {
            _ if !mine => {}
            RolloutState::RollingBack | RolloutState::RolledBack | RolloutState::Failed => {
                tracing::warn!(pipeline, from, to, "roll-out: {}: {why}", state.as_str());
            }
            _ => tracing::info!(pipeline, from, to, "roll-out: {}", state.as_str()),
        }
        Ok(())
    }
}

impl Memory {
    fn new(tally: Tally) -> Self {
        Self { tally, since: Instant::now(), running: None, away: Duration::ZERO, asked: None }
    }

    fn start_times(&mut self) {
        self.since = Instant::now();
        self.running = None;
        self.away = Duration::ZERO;
        self.asked = None;
    }

    fn see(&mut self, status: &PipelineStatus) {
        self.tally.look(count_links(&status.links));
        let running = status.running();
        if self.running.is_none_or(|(then, _)| then != running) {
            if running {
                self.away += self.for_how_long();
            }
            self.running = Some((running, Instant::now()));
        }
    }

    /// How long everything has been running, or not everything.
    fn for_how_long(&self) -> Duration {
        self.running.map(|(_, since)| since.elapsed()).unwrap_or_default()
    }

    /// How long everything has been running since it is in its state.
    fn ran(&self) -> Duration {
        self.since.elapsed().saturating_sub(self.away)
    }

    fn may_ask(&self) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN)
    }
}

fn undeployed() -> String {
    "the pipeline was undeployed".to_owned()
}

fn decide(rollout: &Rollout, status: &PipelineStatus, memory: &Memory) -> Next {
    let Rollout { from, to, .. } = rollout;
    let Some(deployed) = &status.version else {
        return Next::Become(RolloutState::Superseded, Some(undeployed()));
    };
    let (is_old, is_new) = (deployed == from, deployed == to);
    match rollout.state {
        RolloutState::Stored => Next::Become(RolloutState::Starting, None),
        RolloutState::Starting if is_new => starting(rollout, status, memory),
        RolloutState::Starting if is_old => not_yet_deployed(rollout, to, DEPLOYED, memory),
        RolloutState::Watching if is_new => watching(rollout, status, memory),
        RolloutState::RollingBack if is_old => rolling_back(rollout, status, memory),
        RolloutState::RollingBack if is_new => {
            not_yet_deployed(rollout, from, Duration::ZERO, memory)
        }
        _ => {
            let reason = format!("version {deployed} was deployed by other means");
            Next::Become(RolloutState::Superseded, Some(reason))
        }
    }
}

fn not_yet_deployed(rollout: &Rollout, version: &str, grace: Duration, memory: &Memory) -> Next {
    if memory.since.elapsed() > rollout.timeout() {
        let also = rollout.reason.as_ref().map(|r| format!("{r}; and ")).unwrap_or_default();
        let reason = format!("{also}wadm has not taken up version {version}");
        Next::Become(RolloutState::Failed, Some(reason))
    } else if memory.since.elapsed() >= grace && memory.may_ask() {
        Next::Deploy(version.to_owned())
    } else {
        Next::Wait
    }
}

fn starting(rollout: &Rollout, status: &PipelineStatus, memory: &Memory) -> Next {
    let running = status.running();
    if running && memory.for_how_long() >= SETTLED {
        Next::Become(RolloutState::Watching, None)
    } else if !running && memory.since.elapsed() > rollout.timeout() {
        violated(rollout, does_not_run(rollout, status))
    } else {
        nudge(running, memory)
    }
}

fn watching(rollout: &Rollout, status: &PipelineStatus, memory: &Memory) -> Next {
    let stages = memory.tally.stages();
    let running = status.running();
    let watch = rollout.settings.watch.get();
    if watch.is_zero() {
        Next::Become(RolloutState::Done, None)
    } else if let Some(reason) = rollout.too_many_failures(&stages) {
        violated(rollout, reason)
    } else if !running && memory.for_how_long() > rollout.timeout() {
        violated(rollout, does_not_run(rollout, status))
    } else if running && memory.ran() >= watch {
        match rollout.standstill(&stages) {
            Some(reason) => violated(rollout, reason),
            None => Next::Become(RolloutState::Done, None),
        }
    } else {
        nudge(running, memory)
    }
}

fn rolling_back(rollout: &Rollout, status: &PipelineStatus, memory: &Memory) -> Next {
    let running = status.running();
    if running && memory.for_how_long() >= SETTLED {
        Next::Become(RolloutState::RolledBack, None)
    } else if !running && memory.since.elapsed() > rollout.timeout() {
        let reason = format!(
            "{}; version {} was deployed again and does not run: {}",
            rollout.reason.as_deref().unwrap_or("it failed"),
            rollout.from,
            status.missing().join("; "),
        );
        Next::Become(RolloutState::Failed, Some(reason))
    } else {
        nudge(running, memory)
    }
}

/// wadm can miss a deployment that it accepted; asked again it acts.
fn nudge(running: bool, memory: &Memory) -> Next {
    let late = memory.since.elapsed() > ASK_AGAIN;
    if !running && late && memory.may_ask() { Next::AskAgain } else { Next::Wait }
}

fn does_not_run(rollout: &Rollout, status: &PipelineStatus) -> String {
    let missing = status.missing().join("; ");
    format!("not everything runs after {} s: {missing}", rollout.timeout().as_secs())
}

fn violated(rollout: &Rollout, reason: String) -> Next {
    let state = match rollout.settings.rollback {
        true => RolloutState::RollingBack,
        false => RolloutState::Failed,
    };
    Next::Become(state, Some(reason))
}

#[cfg(test)]
mod tests {
    use millrace_settings::Rollout as Settings;

    use super::*;
    use crate::rollout::LinkCount;
    use crate::status::StageStatus;

    fn rollout(state: RolloutState) -> Rollout {
        let mut rollout =
            Rollout::new("1", "2", Settings::default(), Duration::from_secs(60), Vec::new());
        rollout.state = state;
        rollout
    }

    fn status(version: Option<&str>, running: u64) -> PipelineStatus {
        let stage = StageStatus {
            name: "s".to_owned(),
            wanted: 1,
            running,
            hosts: Vec::new(),
            problem: None,
        };
        PipelineStatus {
            pipeline: "p".to_owned(),
            version: version.map(str::to_owned),
            state: String::new(),
            message: String::new(),
            stages: vec![stage],
            providers: Vec::new(),
            links: Vec::new(),
            links_wanted: 0,
            rollout: None,
        }
    }

    /// Everything has been as it is for so many seconds.
    fn memory(running: bool, seconds: u64) -> Memory {
        let then = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        Memory {
            tally: Tally::default(),
            since: then,
            running: Some((running, then)),
            away: Duration::ZERO,
            asked: Some(Instant::now()),
        }
    }

    fn after(state: RolloutState, version: &str, running: bool, seconds: u64) -> Next {
        let status = status(Some(version), u64::from(running));
        decide(&rollout(state), &status, &memory(running, seconds))
    }

    #[test]
    fn a_good_version_goes_through_all_states() {
        use RolloutState::{Done, Starting, Stored, Watching};
        assert_eq!(after(Stored, "1", true, 0), Next::Become(Starting, None));
        assert_eq!(after(Starting, "1", true, 1), Next::Wait);
        assert_eq!(after(Starting, "2", false, 10), Next::Wait);
        assert_eq!(after(Starting, "2", true, 1), Next::Wait, "links may be replaced yet");
        assert_eq!(after(Starting, "2", true, 3), Next::Become(Watching, None));
        assert_eq!(after(Watching, "2", true, 29), Next::Wait);
        assert_eq!(after(Watching, "2", true, 31), Next::Become(Done, None));
    }

    #[test]
    fn what_nobody_deployed_is_deployed() {
        let mut memory = memory(true, 3);
        memory.asked = None;
        let (old, new) = (status(Some("1"), 1), status(Some("2"), 1));
        let next = decide(&rollout(RolloutState::Starting), &old, &memory);
        assert_eq!(next, Next::Deploy("2".to_owned()));
        let next = decide(&rollout(RolloutState::RollingBack), &new, &memory);
        assert_eq!(next, Next::Deploy("1".to_owned()));
    }

    fn rolls_back(next: &Next, words: &str) -> bool {
        matches!(next, Next::Become(RolloutState::RollingBack, Some(why)) if why.contains(words))
    }

    #[test]
    fn what_does_not_run_in_time_is_rolled_back() {
        use RolloutState::{Failed, RolledBack, RollingBack, Starting, Watching};
        assert!(rolls_back(&after(Starting, "2", false, 61), "stage `s`: 0 of 1"));
        assert_eq!(after(Watching, "2", false, 59), Next::Wait, "it may come back");
        assert!(rolls_back(&after(Watching, "2", false, 61), "stage `s`: 0 of 1"));
        assert_eq!(after(RollingBack, "1", true, 1), Next::Wait);
        assert_eq!(after(RollingBack, "1", true, 3), Next::Become(RolledBack, None));
        assert!(matches!(after(RollingBack, "1", false, 61), Next::Become(Failed, Some(_))));
        assert!(matches!(after(Starting, "1", true, 61), Next::Become(Failed, Some(_))));
    }

    #[test]
    fn what_fails_too_often_is_rolled_back_unless_that_is_turned_off() {
        let count = |messages, dead_letters, failed_calls| LinkCount {
            stage: "s".to_owned(),
            direction: millrace_kit::Direction::Source,
            name: "in".to_owned(),
            messages,
            dead_letters,
            failed_calls,
        };
        let mut bad = memory(true, 5);
        bad.tally.look(vec![count(100, 50, 300)]);
        let mut rollout = rollout(RolloutState::Watching);
        let status = status(Some("2"), 1);
        assert!(rolls_back(&decide(&rollout, &status, &bad), "50 of 100"));
        rollout.settings.rollback = false;
        let next = decide(&rollout, &status, &bad);
        assert!(matches!(next, Next::Become(RolloutState::Failed, Some(_))), "{next:?}");

        rollout.settings.watch = millrace_settings::rollout::Watch::from_millis(0);
        assert_eq!(decide(&rollout, &status, &bad), Next::Become(RolloutState::Done, None));

        rollout.settings = Settings::default();
        let mut stuck = memory(true, 31);
        stuck.tally.look(vec![count(0, 0, 5)]);
        assert!(rolls_back(&decide(&rollout, &status, &stuck), "has handed on nothing"));
    }

    #[test]
    fn time_in_which_not_everything_runs_is_no_watch() {
        let status = status(Some("2"), 1);
        let mut memory = memory(true, 31);
        let done = Next::Become(RolloutState::Done, None);
        assert_eq!(decide(&rollout(RolloutState::Watching), &status, &memory), done);
        // It was away for twenty seconds of them.
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        memory.running = Some((false, ago(20)));
        memory.see(&status);
        assert_eq!(decide(&rollout(RolloutState::Watching), &status, &memory), Next::Wait);
        memory.since = ago(52);
        assert_eq!(decide(&rollout(RolloutState::Watching), &status, &memory), done);
    }

    #[test]
    fn another_deployment_ends_it() {
        for state in [RolloutState::Starting, RolloutState::Watching, RolloutState::RollingBack] {
            for version in [None, Some("3")] {
                let next = decide(&rollout(state), &status(version, 1), &memory(true, 1));
                assert!(
                    matches!(next, Next::Become(RolloutState::Superseded, Some(_))),
                    "{state:?} {version:?}: {next:?}"
                );
            }
        }
    }
}
