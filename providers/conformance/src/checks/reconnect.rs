//! Reconnect with jittered back-off, nothing lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_kit::{Counters, Link, State};
use tokio::time::{Instant, sleep};

use crate::peer::{Note, Peer, Role};
use crate::rig::{self, PATIENCE, WRITE_LIMIT};
use crate::stage::{TestStage, counted, pack};

/// How long attempts to connect are watched, at least.
const TRYING: Duration = Duration::from_secs(5);

/// How long two links may seem to try in step. Pauses of a few hundred milliseconds come out alike by chance, the more so
/// when there are only two or three of them.
const ALIKE: Duration = Duration::from_secs(30);

/// Pauses that differ by less are alike.
const STEP: Duration = Duration::from_millis(20);

/// Most attempts in that time: more is a peer that is hammered.
const MOST_TRIES: usize = 16;

pub(super) async fn source_reconnects<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    run.takes(peer, 1).await?;
    for number in 2..4 {
        peer.stop().await?;
        run.reaches(State::Retrying).await?;
        peer.start().await?;
        run.reaches(State::Connected).await?;
        run.takes(peer, number).await?;
    }
    ensure!(run.counters().reconnects >= 2, "reconnects are not counted: {:?}", run.counters());
    run.drain().await
}

pub(super) async fn source_loses_nothing<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    // Slow, so that there is always something in its hands.
    stage.slow(Duration::from_millis(40));
    let run = rig::source_to(peer, &stage).await?;
    for round in 0..4 {
        run.reaches(State::Connected).await?;
        let (first, before) = (round * 100, run.counters().messages_in);
        peer.produce(&Note::all(first..first + 100)).await?;
        rig::until("it has messages in its hands", PATIENCE, || {
            run.counters().messages_in > before
        })
        .await?;
        sleep(Duration::from_millis(10 * round)).await;
        peer.stop().await?;
        run.reaches(State::Retrying).await?;
        peer.start().await?;
    }
    run.delivers(peer, 0..400).await?;
    run.reaches(State::Connected).await?;
    let repeats: usize = run.counts(peer).values().map(|n| n - 1).sum();
    println!("     400 messages over 4 restarts: none lost, {repeats} seen twice");
    run.drain().await
}

pub(super) async fn sink_loses_nothing<P: Peer>(peer: &mut P) -> Result<()> {
    const BATCHES: u64 = 80;
    let run = rig::sink(peer).await?;
    let mut batches = Vec::new();
    for n in 0..BATCHES {
        let numbers = (n * 5..n * 5 + 5).map(|number| Note::new(rig::state(peer, number)));
        let messages: Vec<_> = numbers.map(|note| peer.message(&note)).collect();
        batches.push(pack(&format!("batch-{n}"), &messages)?);
    }
    let sink = run.sink.clone();
    let writer = tokio::spawn(async move {
        let mut failed = 0;
        for batch in batches {
            let start = Instant::now();
            loop {
                let called = Instant::now();
                let result = sink.write(batch.clone()).await;
                ensure!(called.elapsed() < WRITE_LIMIT, "a write took {:?}", called.elapsed());
                match result {
                    Ok(()) => break,
                    Err(error) => ensure!(start.elapsed() < PATIENCE, "writes fail: {error}"),
                }
                failed += 1;
                sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(failed)
    });
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        peer.stop().await?;
        run.reaches(State::Retrying).await?;
        peer.start().await?;
        run.reaches(State::Connected).await?;
    }
    let failed = tokio::time::timeout(PATIENCE * 2, writer).await.context("writing ends")???;
    ensure!(failed > 0, "no write failed: the peer was not missed");
    ensure!(run.counters().reconnects >= 3, "reconnects are not counted: {:?}", run.counters());
    let notes = rig::outside_has(peer, 0..BATCHES * 5).await?;
    let repeats: usize =
        counted(notes.iter().map(|note| note.number)).values().map(|n| n - 1).sum();
    println!(
        "     {} messages over 3 restarts: none lost, {repeats} written twice, {failed} writes failed",
        BATCHES * 5
    );
    run.close().await
}

pub(super) async fn source_backs_off<P: Peer>(peer: &mut P) -> Result<()> {
    peer.stop().await?;
    let config = peer.config(Role::Source);
    let one = rig::start_source_as(peer, &config, &Arc::default(), "in")?;
    let other = rig::start_source_as(peer, &config, &Arc::default(), "other")?;
    look_at_tries([&one.link, &other.link]).await?;
    one.crash().await;
    other.crash().await;
    Ok(())
}

pub(super) async fn sink_backs_off<P: Peer>(peer: &mut P) -> Result<()> {
    peer.stop().await?;
    let config = peer.config(Role::Sink);
    let (one, other) = (rig::start_sink(peer, &config)?, rig::start_sink(peer, &config)?);
    look_at_tries([&one.link, &other.link]).await?;
    one.close().await?;
    other.close().await
}

/// Watches two links that cannot connect. An attempt is seen by its error.
async fn look_at_tries(links: [&Link; 2]) -> Result<()> {
    let errors =
        |counters: &Counters| counters.errors.get("connection").copied().unwrap_or_default();
    let start = Instant::now();
    let mut tries: [Vec<Duration>; 2] = Default::default();
    let mut before = [0; 2];
    let mut rated = false;
    loop {
        for ((link, before), tries) in links.iter().zip(&mut before).zip(&mut tries) {
            let now = errors(&link.telemetry.snapshot());
            if now > *before {
                *before = now;
                tries.push(start.elapsed());
            }
        }
        if start.elapsed() >= TRYING {
            let [one, other] = tries.each_ref().map(|tries| pauses(tries));
            if !rated {
                rate(&one)?;
                rate(&other)?;
                rated = true;
            }
            if one.iter().zip(&other).any(|(a, b)| a.abs_diff(*b) >= STEP) {
                return Ok(());
            }
            ensure!(start.elapsed() < ALIKE, "two links try in step: {one:?} and {other:?}");
        }
        sleep(Duration::from_millis(1)).await;
    }
}

fn pauses(tries: &[Duration]) -> Vec<Duration> {
    tries.iter().zip(tries.iter().skip(1)).map(|(a, b)| *b - *a).collect()
}

/// Whether the pauses of [`TRYING`] are neither too few nor too many, and grow.
fn rate(pauses: &[Duration]) -> Result<()> {
    ensure!(pauses.len() >= 2, "it does not try again within {TRYING:?}: {pauses:?}");
    ensure!(pauses.len() < MOST_TRIES, "too many attempts in {TRYING:?}: {pauses:?}");
    ensure!(pauses.last() > pauses.first(), "the pauses do not grow: {pauses:?}");
    Ok(())
}
