//! Connect and status.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use millrace_kit::{LinkStatus, State};
use tokio::time::{Instant, sleep};

use crate::peer::{Note, Peer, Role};
use crate::rig::{self, WRITE_LIMIT};
use crate::stage::pack;

pub(super) async fn source_connects<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    run.takes(peer, 1).await?;
    run.takes(peer, 2).await?;
    run.drain().await
}

pub(super) async fn sink_connects<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    for number in 0..2 {
        run.writes(peer, &[Note::new(rig::state(peer, number))]).await?;
        rig::outside_has(peer, number..number + 1).await?;
    }
    run.close().await
}

pub(super) async fn source_waits_for_its_peer<P: Peer>(peer: &mut P) -> Result<()> {
    peer.stop().await?;
    let run = rig::start_source(peer, &peer.config(Role::Source), &std::sync::Arc::default())?;
    run.reaches(State::Retrying).await?;
    says_why(peer, &run.link.status())?;
    // Longer than one attempt: it goes on trying.
    sleep(Duration::from_secs(1)).await;
    ensure!(!run.has_ended(), "run has returned; it must go on trying");
    peer.start().await?;
    run.reaches(State::Connected).await?;
    run.takes(peer, 1).await?;
    run.drain().await
}

pub(super) async fn sink_waits_for_its_peer<P: Peer>(peer: &mut P) -> Result<()> {
    peer.stop().await?;
    let run = rig::start_sink(peer, &peer.config(Role::Sink))?;
    run.reaches(State::Retrying).await?;
    says_why(peer, &run.link.status())?;
    peer.start().await?;
    run.reaches(State::Connected).await?;
    run.writes(peer, &[Note::new(1)]).await?;
    rig::outside_has(peer, 1..2).await?;
    run.close().await
}

pub(super) async fn write_answers_while_away<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    peer.stop().await?;
    let batch = pack("away", &[peer.message(&Note::new(1))])?;
    for _ in 0..2 {
        let start = Instant::now();
        let result = run.sink.write(batch.clone()).await;
        ensure!(
            start.elapsed() < WRITE_LIMIT,
            "the answer took {:?}, more than {WRITE_LIMIT:?}",
            start.elapsed()
        );
        let Err(error) = result else { bail!("ok, and the peer is away") };
        ensure!(error.to_string().contains("out"), "the error does not name the sink: {error}");
    }
    peer.start().await?;
    run.writes(peer, &[Note::new(1)]).await?;
    run.close().await
}

/// The status names where it was connected to and why that failed.
fn says_why<P: Peer>(peer: &P, status: &LinkStatus) -> Result<()> {
    let error = status.error.clone().unwrap_or_default();
    ensure!(
        error.contains(&peer.address()) && error.len() > peer.address().len() + 3,
        "the status does not say {} and a reason: {error:?}",
        peer.address()
    );
    let counted = status.counters.errors.get("connection").copied().unwrap_or_default();
    ensure!(counted >= 1, "no error of kind connection is counted: {:?}", status.counters);
    Ok(())
}
