//! TLS: carried, refused, renewed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use millrace_kit::{Link, State};
use tokio::time::sleep;

use crate::peer::{Ability, Note, Peer, Role, Tls};
use crate::rig::{self, WATCH};
use crate::stage::pack;

pub(super) async fn tls_carries<P: Peer>(peer: &mut P) -> Result<()> {
    carries(peer, Tls::Good).await
}

pub(super) async fn tls_refuses_untrusted<P: Peer>(peer: &mut P) -> Result<()> {
    refuses(peer, Tls::Untrusted, "certificate").await
}

pub(super) async fn tls_refuses_expired<P: Peer>(peer: &mut P) -> Result<()> {
    refuses(peer, Tls::Expired, "certificate").await
}

pub(super) async fn tls_refuses_wrong_name<P: Peer>(peer: &mut P) -> Result<()> {
    refuses(peer, Tls::WrongName, "certificate").await
}

pub(super) async fn tls_refuses_plain<P: Peer>(peer: &mut P) -> Result<()> {
    refuses(peer, Tls::Plain, "").await
}

pub(super) async fn tls_takes_a_renewed_certificate<P: Peer>(peer: &mut P) -> Result<()> {
    peer.serve_tls(Tls::Expired).await?;
    if peer.abilities().source == Ability::Yes {
        let config = peer.tls_config(Role::Source, Tls::Expired);
        let run = rig::start_source(peer, &config, &Arc::default())?;
        run.reaches(State::Retrying).await?;
        peer.serve_tls(Tls::Good).await?;
        run.reaches(State::Connected).await?;
        run.takes(peer, 1).await?;
        run.drain().await?;
    }
    peer.serve_tls(Tls::Expired).await?;
    if peer.abilities().sink == Ability::Yes {
        let run = rig::start_sink(peer, &peer.tls_config(Role::Sink, Tls::Expired))?;
        run.reaches(State::Retrying).await?;
        peer.serve_tls(Tls::Good).await?;
        run.reaches(State::Connected).await?;
        run.writes(peer, &[Note::new(1)]).await?;
        run.close().await?;
    }
    Ok(())
}

pub(super) async fn tls_shows_its_own_certificate<P: Peer>(peer: &mut P) -> Result<()> {
    refuses(peer, Tls::MutualWithout, "").await?;
    carries(peer, Tls::Mutual).await
}

/// Source and sink connect and carry messages.
pub(super) async fn carries<P: Peer>(peer: &mut P, case: Tls) -> Result<()> {
    peer.serve_tls(case).await?;
    if peer.abilities().sink == Ability::Yes {
        let run = rig::start_sink(peer, &peer.tls_config(Role::Sink, case))?;
        run.reaches(State::Connected).await.context("sink")?;
        run.writes(peer, &[Note::new(1)]).await?;
        rig::outside_has(peer, 1..2).await?;
        run.close().await?;
    }
    if peer.abilities().source == Ability::Yes {
        let config = peer.tls_config(Role::Source, case);
        let run = rig::start_source(peer, &config, &Arc::default())?;
        run.reaches(State::Connected).await.context("source")?;
        run.takes(peer, 1).await?;
        run.takes(peer, 2).await?;
        run.drain().await?;
    }
    Ok(())
}

/// Source and sink do not connect, say why, and carry nothing.
async fn refuses<P: Peer>(peer: &mut P, case: Tls, word: &str) -> Result<()> {
    peer.serve_tls(case).await?;
    if peer.abilities().source == Ability::Yes {
        let config = peer.tls_config(Role::Source, case);
        let run = rig::start_source(peer, &config, &Arc::default())?;
        run.reaches(State::Retrying).await.context("source")?;
        says(&run.link, word)?;
        peer.produce(&[Note::new(1)]).await?;
        sleep(WATCH).await;
        ensure!(run.link.state() == State::Retrying, "source: {:?}", run.link.status());
        ensure!(run.stage.seen().is_empty(), "a message was taken all the same");
        run.drain().await?;
    }
    if peer.abilities().sink == Ability::Yes {
        let before = peer.collect().await?;
        let run = rig::start_sink(peer, &peer.tls_config(Role::Sink, case))?;
        run.reaches(State::Retrying).await.context("sink")?;
        says(&run.link, word)?;
        let batch = pack("refused", &[peer.message(&Note::new(1))])?;
        ensure!(run.sink.write(batch).await.is_err(), "a message was written all the same");
        sleep(WATCH).await;
        ensure!(run.link.state() == State::Retrying, "sink: {:?}", run.link.status());
        ensure!(peer.collect().await? == before, "something was written all the same");
        run.close().await?;
    }
    Ok(())
}

fn says(link: &Link, word: &str) -> Result<()> {
    let error = link.status().error.unwrap_or_default();
    println!("     {} says: {error}", link.names.name);
    ensure!(
        !error.is_empty() && error.to_lowercase().contains(word),
        "the status does not say {word:?}: {error:?}"
    );
    Ok(())
}
