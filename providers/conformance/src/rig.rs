//! What every check does: run a source or a sink of the peer, and wait.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millrace_kit::{
    Counters, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, State,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::peer::{Flat, Note, Outside, Peer, Role};
use crate::stage::{Seen, TestDeadLetters, TestStage, counted, missing, pack};

/// How long anything may take that has to happen: longer than the longest
/// pause between two attempts to connect, and a few attempts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// How long a thing is watched that must not happen.
pub(crate) const WATCH: Duration = Duration::from_millis(800);

/// The longest that a sink's write may take while its peer is away: the stage
/// that waits for it has a limit of its own.
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// The longest that draining may take when nothing is left to be done.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A source that is told to leave returns within this time.
pub(crate) const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Waits until something is so.
///
/// # Errors
///
/// When it is not so in time; names what was waited for.
pub(crate) async fn until(
    what: impl std::fmt::Display,
    limit: Duration,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn link(name: &str, direction: Direction) -> Arc<Link> {
    let names =
        LinkNames { pipeline: "conformance".into(), name: name.into(), stage: "stage".into() };
    Arc::new(Link::new(names, direction))
}

async fn reaches(link: &Link, state: State) -> Result<()> {
    until(format_args!("state {state:?} of {}", link.names.name), PATIENCE, || {
        link.state() == state
    })
    .await
    .with_context(|| format!("status {:?}", link.status()))
}

/// A source that runs, and the stage it delivers to.
pub(crate) struct SourceRun {
    pub(crate) link: Arc<Link>,
    pub(crate) stage: Arc<TestStage>,
    task: JoinHandle<()>,
}

/// Starts a source without waiting for its connection.
pub(crate) fn start_source<P: Peer>(
    peer: &P,
    config: &Flat,
    stage: &Arc<TestStage>,
) -> Result<SourceRun> {
    start_source_as(peer, config, stage, "in")
}

/// The same, for a source of this name.
pub(crate) fn start_source_as<P: Peer>(
    peer: &P,
    config: &Flat,
    stage: &Arc<TestStage>,
    name: &str,
) -> Result<SourceRun> {
    let link = link(name, Direction::Source);
    let limits = Limits { messages: 50, bytes: 128 * 1024, linger: Duration::from_millis(5) };
    let source = peer.source(config, limits, &link)?;
    let policy = Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(600),
        attempts: 3,
        suspect_after: 3,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
    };
    let dead = Arc::new(TestDeadLetters::default());
    let delivery = Arc::new(Delivery::new(stage.clone(), dead, link.clone(), policy));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    Ok(SourceRun { link, stage: stage.clone(), task })
}

/// Starts a source of the peer's own configuration and waits until it is
/// connected.
pub(crate) async fn source<P: Peer>(peer: &P) -> Result<SourceRun> {
    source_to(peer, &Arc::default()).await
}

/// The same, delivering to this stage.
pub(crate) async fn source_to<P: Peer>(peer: &P, stage: &Arc<TestStage>) -> Result<SourceRun> {
    let run = start_source(peer, &peer.config(Role::Source), stage)?;
    run.reaches(State::Connected).await?;
    Ok(run)
}

impl SourceRun {
    pub(crate) async fn reaches(&self, state: State) -> Result<()> {
        reaches(&self.link, state).await
    }

    pub(crate) fn counters(&self) -> Counters {
        self.link.telemetry.snapshot()
    }

    /// Waits until each of these numbers has reached the stage, answered or not.
    pub(crate) async fn sees<P: Peer>(&self, peer: &P, wanted: std::ops::Range<u64>) -> Result<()> {
        self.has(peer, wanted, TestStage::seen).await
    }

    /// Waits until each of these numbers was answered with ok.
    pub(crate) async fn delivers<P: Peer>(
        &self,
        peer: &P,
        wanted: std::ops::Range<u64>,
    ) -> Result<()> {
        self.has(peer, wanted, TestStage::safe).await
    }

    async fn has<P: Peer>(
        &self,
        peer: &P,
        wanted: std::ops::Range<u64>,
        which: impl Fn(&TestStage) -> Vec<Seen>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let counts = counted(which(&self.stage).iter().filter_map(|seen| peer.number(seen)));
            let missing = missing(&counts, wanted.clone());
            if missing == "none" {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "messages {wanted:?} are not all through within {PATIENCE:?}; \
                     missing {missing}; link {:?}",
                    self.link.status()
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a message outside and waits until the stage has seen it.
    pub(crate) async fn takes<P: Peer>(&self, peer: &mut P, number: u64) -> Result<()> {
        let before = self.stage.seen().len();
        let number = state(peer, number);
        peer.produce(&[Note::new(number)]).await.context("produce outside")?;
        until(format_args!("message {number} reaches the stage"), PATIENCE, || {
            self.stage.seen().iter().skip(before).any(|seen| peer.number(seen) == Some(number))
        })
        .await
        .with_context(|| format!("link {:?}", self.link.status()))
    }

    /// How often each number was seen.
    pub(crate) fn counts<P: Peer>(&self, peer: &P) -> std::collections::BTreeMap<u64, usize> {
        counted(self.stage.seen().iter().filter_map(|seen| peer.number(seen)))
    }

    /// Ends it as a crash does, with what it has in its hands.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Drains it and waits for its end.
    pub(crate) async fn drain(self) -> Result<()> {
        self.link.start_drain();
        self.ended(DRAIN_LIMIT).await
    }

    /// Whether `run` has returned.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until `run` has returned.
    pub(crate) async fn ended(self, limit: Duration) -> Result<()> {
        let joined = timeout(limit, self.task).await;
        joined
            .with_context(|| format!("run has not returned within {limit:?} of the drain"))?
            .context("run panicked")
    }
}

/// A sink that runs.
pub(crate) struct SinkRun {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) link: Arc<Link>,
    pub(crate) dead: Arc<TestDeadLetters>,
}

/// Starts a sink without waiting for its connection.
pub(crate) fn start_sink<P: Peer>(peer: &P, config: &Flat) -> Result<SinkRun> {
    let link = link("out", Direction::Sink);
    let dead = Arc::new(TestDeadLetters::default());
    let letters: Arc<dyn DeadLetters> = dead.clone();
    let sink = peer.sink(config, &link, &letters)?;
    Ok(SinkRun { sink, link, dead })
}

/// Starts a sink of the peer's own configuration and waits until it is
/// connected.
pub(crate) async fn sink<P: Peer>(peer: &P) -> Result<SinkRun> {
    let run = start_sink(peer, &peer.config(Role::Sink))?;
    run.reaches(State::Connected).await?;
    Ok(run)
}

impl SinkRun {
    pub(crate) async fn reaches(&self, state: State) -> Result<()> {
        reaches(&self.link, state).await
    }

    pub(crate) fn counters(&self) -> Counters {
        self.link.telemetry.snapshot()
    }

    /// Writes these messages as one batch, again and again until it is ok, as
    /// the stage's caller does. Says how often it was not.
    pub(crate) async fn writes<P: Peer>(&self, peer: &P, notes: &[Note]) -> Result<usize> {
        let first = notes.first().map_or(0, |note| note.number);
        let messages: Vec<_> = notes.iter().map(|note| peer.message(note)).collect();
        let batch = pack(&format!("batch-{first}"), &messages)?;
        let start = Instant::now();
        let mut failed = 0;
        loop {
            let called = Instant::now();
            let result = self.sink.write(batch.clone()).await;
            ensure!(
                called.elapsed() < WRITE_LIMIT,
                "a write took {:?}, more than {WRITE_LIMIT:?}",
                called.elapsed()
            );
            let Err(error) = result else { return Ok(failed) };
            failed += 1;
            ensure!(start.elapsed() < PATIENCE, "writes still fail: {error}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it: drains the link and closes the sink, as a provider does.
    pub(crate) async fn close(self) -> Result<()> {
        self.link.start_drain();
        timeout(DRAIN_LIMIT, self.sink.close())
            .await
            .with_context(|| format!("close has not returned within {DRAIN_LIMIT:?}"))
    }
}

/// The number as the world outside can have it.
pub(crate) fn state<P: Peer>(peer: &P, number: u64) -> u64 {
    match peer.abilities().outside {
        Outside::Log => number,
        Outside::State { distinct } => number % distinct.max(2),
    }
}

/// Waits until everything that was written is outside (of a state: the last).
pub(crate) async fn outside_has<P: Peer>(
    peer: &mut P,
    wanted: std::ops::Range<u64>,
) -> Result<Vec<Note>> {
    let wanted = match peer.abilities().outside {
        Outside::Log => wanted,
        Outside::State { .. } => {
            let last = state(peer, wanted.end.saturating_sub(1));
            last..last + 1
        }
    };
    let start = Instant::now();
    loop {
        let notes = peer.collect().await.context("collect outside")?;
        let missing = missing(&counted(notes.iter().map(|note| note.number)), wanted.clone());
        if missing == "none" {
            return Ok(notes);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "messages {wanted:?} are not all outside within {PATIENCE:?}; missing {missing}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}
