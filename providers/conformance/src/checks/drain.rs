//! Drain on shutdown.

use std::sync::Arc;

use anyhow::{Result, ensure};
use millrace_kit::State;
use tokio::time::{Instant, sleep};

use crate::peer::{Note, Outside, Peer, Role};
use crate::rig::{self, DRAIN_LIMIT, LEAVE_LIMIT, PATIENCE, WATCH};
use crate::stage::TestStage;

pub(super) async fn source_drains<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    let run = rig::source_to(peer, &stage).await?;
    match peer.abilities().outside {
        Outside::Log => {
            stage.hold(true);
            peer.produce(&Note::all(0..20)).await?;
            run.sees(peer, 0..20).await?;
        }
        // Samples of before may be all that a stuck stage is given: any will do.
        // Each number is another state than the one before, also of two.
        Outside::State { .. } => {
            run.takes(peer, 1).await?;
            stage.hold(true);
            let before = stage.calls().len();
            peer.produce(&[Note::new(rig::state(peer, 2))]).await?;
            rig::until("a call is stuck", PATIENCE, || stage.calls().len() > before).await?;
        }
    }
    run.link.start_drain();
    sleep(WATCH).await;
    ensure!(!run.has_ended(), "run has returned with messages that are not safe");
    let taken = run.counters().messages_in;
    peer.produce(&[Note::new(rig::state(peer, 21))]).await?;
    sleep(WATCH).await;
    ensure!(run.counters().messages_in == taken, "a drained source takes messages");
    stage.hold(false);
    let link = run.link.clone();
    run.ended(DRAIN_LIMIT).await?;
    ensure!(link.state() == State::Draining, "the state after the drain is {:?}", link.state());
    let counters = link.telemetry.snapshot();
    ensure!(counters.messages_out == taken && counters.in_flight == 0, "not safe: {counters:?}");
    if peer.abilities().outside == Outside::Log {
        // What came after the drain waits; what was safe does not come again.
        let next = rig::source(peer).await?;
        next.sees(peer, 21..22).await?;
        sleep(WATCH).await;
        let counts = next.counts(peer);
        ensure!(counts.len() == 1, "safe, and came again: {counts:?}");
        next.drain().await?;
    }
    Ok(())
}

pub(super) async fn source_leaves<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    let run = rig::source_to(peer, &stage).await?;
    stage.hold(true);
    let before = stage.calls().len();
    // Each number is another state than the one before, also of two.
    peer.produce(&[Note::new(rig::state(peer, 1))]).await?;
    rig::until("a call is stuck", PATIENCE, || stage.calls().len() > before).await?;
    run.link.start_drain();
    sleep(WATCH).await;
    ensure!(!run.has_ended(), "run has returned with messages that are not safe");
    run.link.leave.cancel();
    run.ended(LEAVE_LIMIT).await?;
    if peer.abilities().outside == Outside::Log {
        let next = rig::source(peer).await?;
        next.sees(peer, 1..2).await?;
        next.drain().await?;
    }
    Ok(())
}

pub(super) async fn source_drains_while_away<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    peer.stop().await?;
    run.reaches(State::Retrying).await?;
    run.drain().await?;
    // And one that has never been connected.
    let run = rig::start_source(peer, &peer.config(Role::Source), &Arc::default())?;
    run.reaches(State::Retrying).await?;
    run.drain().await
}

pub(super) async fn sink_closes<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    let notes: Vec<Note> = (0..50).map(|number| Note::new(rig::state(peer, number))).collect();
    run.writes(peer, &notes).await?;
    run.close().await?;
    rig::outside_has(peer, 0..50).await?;
    Ok(())
}

pub(super) async fn sink_closes_while_away<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    peer.stop().await?;
    run.reaches(State::Retrying).await?;
    let start = Instant::now();
    run.close().await?;
    ensure!(start.elapsed() < DRAIN_LIMIT, "closing took {:?}", start.elapsed());
    Ok(())
}
