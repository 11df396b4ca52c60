//! Acknowledge upstream only after downstream is safe.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::peer::{Note, Outside, Peer};
use crate::rig::{self, PATIENCE, WATCH};
use crate::stage::TestStage;

pub(super) async fn holds_until_safe<P: Peer>(peer: &mut P) -> Result<()> {
    let stuck = Arc::new(TestStage::default());
    stuck.hold(true);
    let run = rig::source_to(peer, &stuck).await?;
    peer.produce(&Note::all(0..20)).await?;
    run.sees(peer, 0..20).await?;
    sleep(WATCH).await;
    ensure!(run.counters().messages_out == 0, "counted as safe: {:?}", run.counters());
    run.crash().await;
    let next = rig::source(peer).await?;
    next.sees(peer, 0..20).await?;
    next.drain().await
}

pub(super) async fn acknowledges_when_safe<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    peer.produce(&Note::all(0..20)).await?;
    run.sees(peer, 0..20).await?;
    run.drain().await?;
    let next = rig::source(peer).await?;
    peer.produce(&Note::all(20..21)).await?;
    next.sees(peer, 20..21).await?;
    sleep(WATCH).await;
    let counts = next.counts(peer);
    ensure!(counts.len() == 1, "came again: {counts:?}");
    next.drain().await
}

pub(super) async fn repeats_failed_calls<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    let run = rig::source_to(peer, &stage).await?;
    run.takes(peer, 1).await?;
    stage.fail(3);
    run.takes(peer, 2).await?;
    rig::until("the failed calls have been repeated", PATIENCE, || stage.still_failing() == 0)
        .await?;
    rig::until("everything taken is safe", PATIENCE, || {
        let counters = run.counters();
        counters.messages_out >= 2 && counters.in_flight == 0
    })
    .await?;
    let attempts: Vec<String> =
        stage.calls().iter().filter_map(|call| call.headers.get("attempt").cloned()).collect();
    ensure!(attempts.iter().any(|attempt| attempt != "1"), "no second attempt: {attempts:?}");
    run.drain().await?;
    match peer.abilities().outside {
        Outside::Log => failing_acknowledges_nothing(peer).await,
        Outside::State { .. } => Ok(()),
    }
}

/// While calls fail nothing is acknowledged: after a crash it comes again.
async fn failing_acknowledges_nothing<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    stage.fail(usize::MAX);
    let run = rig::source_to(peer, &stage).await?;
    peer.produce(&Note::all(10..20)).await?;
    run.sees(peer, 10..20).await?;
    sleep(WATCH).await;
    run.crash().await;
    let next = rig::source(peer).await?;
    next.sees(peer, 10..20).await?;
    next.drain().await
}

pub(super) async fn ok_means_written<P: Peer>(peer: &mut P) -> Result<()> {
    for round in 0..3 {
        let run = rig::sink(peer).await?;
        let first = round * 200;
        let notes: Vec<Note> =
            (first..first + 200).map(|number| Note::new(rig::state(peer, number))).collect();
        run.writes(peer, &notes).await?;
        // As in a crash: nothing is closed, nothing has time to be sent.
        drop(run);
        rig::outside_has(peer, first..first + 200).await?;
    }
    Ok(())
}

pub(super) async fn buries_the_impossible<P: Peer>(peer: &mut P) -> Result<()> {
    let Some((config, impossible)) = peer.impossible() else {
        anyhow::bail!("the ability is declared, and Peer::impossible gives none");
    };
    let run = rig::start_sink(peer, &config)?;
    run.reaches(millrace_kit::State::Connected).await?;
    let good = [peer.message(&Note::new(1)), peer.message(&Note::new(rig::state(peer, 2)))];
    let messages = [good[0].clone(), impossible.clone(), good[1].clone()];
    let batch = crate::stage::pack("b", &messages)?;
    let start = tokio::time::Instant::now();
    while let Err(error) = run.sink.write(batch.clone()).await {
        ensure!(start.elapsed() < PATIENCE, "the write never ends well: {error}");
        sleep(Duration::from_millis(50)).await;
    }
    rig::outside_has(peer, 1..3).await?;
    let letters = run.dead.letters();
    ensure!(!letters.is_empty(), "nothing is in the dead letters");
    for letter in &letters {
        ensure!(letter.payload == impossible.payload, "another message is dead: {letter:?}");
        ensure!(
            letter.header("millrace-dead-kind") == Some("invalid-argument")
                && letter.header("millrace-dead-text").is_some_and(|text| !text.is_empty()),
            "the dead letter does not say why: {letter:?}"
        );
    }
    ensure!(run.counters().dead_letters >= 1, "not counted: {:?}", run.counters());
    run.close().await
}
