//! Back-pressure to the protocol, with bounded memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use crate::peer::{LARGE, Note, Peer};
use crate::rig::{self, PATIENCE, SourceRun, WATCH};
use crate::stage::{TestStage, pack};

pub(super) async fn holds_back<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    stage.hold(true);
    let run = rig::source_to(peer, &stage).await?;
    let window = peer.window().messages;
    let all = window * 2 + 300;
    peer.produce(&Note::all(0..all)).await?;
    let taken = settles(&run).await?;
    ensure!(taken > 0, "nothing was taken");
    ensure!(taken <= window, "took {taken} messages with a stuck stage; the window is {window}");
    stage.hold(false);
    run.delivers(peer, 0..all).await?;
    run.drain().await
}

pub(super) async fn holds_back_large<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    stage.hold(true);
    let run = rig::source_to(peer, &stage).await?;
    let window = peer.window();
    let fit = (window.bytes / LARGE as u64).min(window.messages);
    let all = fit + 40;
    let notes: Vec<Note> =
        Note::all(0..all).into_iter().map(|note| Note { size: LARGE, ..note }).collect();
    peer.produce(&notes).await?;
    settles(&run).await?;
    let taken = run.counters().bytes_in;
    ensure!(
        taken > 0 && taken <= window.bytes,
        "took {taken} bytes with a stuck stage; the window is {}",
        window.bytes
    );
    stage.hold(false);
    run.delivers(peer, 0..all).await?;
    run.drain().await
}

pub(super) async fn samples_are_bounded<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    let run = rig::source_to(peer, &stage).await?;
    run.takes(peer, 1).await?;
    stage.hold(true);
    let before = run.counters().messages_out;
    let window = peer.window();
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(3) {
        number += 1;
        peer.produce(&[Note::new(rig::state(peer, number))]).await?;
        sleep(Duration::from_millis(5)).await;
    }
    let counters = run.counters();
    let held = counters.messages_in - before.min(counters.messages_in);
    ensure!(
        held <= window.messages,
        "holds {held} messages with a stuck stage; the window is {}",
        window.messages
    );
    stage.hold(false);
    run.takes(peer, number + 1).await?;
    run.takes(peer, number + 2).await?;
    run.drain().await
}

pub(super) async fn writes_large_batches<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    let messages: Vec<_> = Note::all(0..5_000).iter().map(|note| peer.message(note)).collect();
    let batch = pack("large", &messages)?;
    let start = Instant::now();
    while let Err(error) = run.sink.write(batch.clone()).await {
        ensure!(start.elapsed() < PATIENCE, "never written: {error}");
    }
    rig::outside_has(peer, 0..5_000).await?;
    run.close().await
}

/// The number of messages taken, when it no longer changes.
async fn settles(run: &SourceRun) -> Result<u64> {
    let start = Instant::now();
    let (mut taken, mut since) = (0, Instant::now());
    while since.elapsed() < WATCH || taken == 0 {
        ensure!(start.elapsed() < PATIENCE, "goes on taking: {taken} messages");
        let now = run.counters().messages_in;
        if now != taken {
            (taken, since) = (now, Instant::now());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(taken)
}
