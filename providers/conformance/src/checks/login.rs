//! Credentials by reference.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use millrace_kit::State;
use tokio::time::sleep;

use crate::logs;
use crate::peer::{Ability, Flat, Note, Peer, Role};
use crate::rig::{self, WATCH};

const USER: &str = "conformance";
const RIGHT: &str = "s3cret-and-right";
const WRONG: &str = "s3cret-and-wrong";

pub(super) async fn login_lets_in<P: Peer>(peer: &mut P) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    // As an editor leaves it: with a final line break.
    std::fs::write(&file, format!("{RIGHT}\n"))?;
    peer.require_login(USER, RIGHT).await?;
    if peer.abilities().source == Ability::Yes {
        let config = login(peer, Role::Source, &file);
        let run = rig::start_source(peer, &config, &Arc::default())?;
        run.reaches(State::Connected).await.context("source")?;
        run.takes(peer, 1).await?;
        run.drain().await?;
    }
    if peer.abilities().sink == Ability::Yes {
        let run = rig::start_sink(peer, &login(peer, Role::Sink, &file))?;
        run.reaches(State::Connected).await.context("sink")?;
        run.writes(peer, &[Note::new(1)]).await?;
        rig::outside_has(peer, 1..2).await?;
        run.close().await?;
    }
    Ok(())
}

pub(super) async fn login_is_read_at_each_connect<P: Peer>(peer: &mut P) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    peer.require_login(USER, RIGHT).await?;
    for role in [Role::Source, Role::Sink] {
        let _ = std::fs::remove_file(&file);
        let Some(link) = start(peer, role, &file)? else { continue };
        link.reaches(State::Retrying).await.context("without the file")?;
        let error = link.link().status().error.unwrap_or_default();
        ensure!(
            error.contains("password-file") && error.contains(&*file.to_string_lossy()),
            "the status does not name password-file and the path: {error:?}"
        );
        std::fs::write(&file, WRONG)?;
        rig::until("the wrong password is refused", rig::PATIENCE, || {
            let error = link.link().status().error.unwrap_or_default();
            link.link().state() == State::Retrying && !error.contains("password-file")
        })
        .await?;
        let error = link.link().status().error.unwrap_or_default();
        println!("     a wrong password: {error}");
        sleep(WATCH).await;
        ensure!(link.link().state() == State::Retrying, "let in with a wrong password");
        std::fs::write(&file, RIGHT)?;
        link.reaches(State::Connected).await.context("after the file was corrected")?;
        link.end().await?;
    }
    Ok(())
}

pub(super) async fn no_secret_is_shown<P: Peer>(peer: &mut P) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    peer.require_login(USER, RIGHT).await?;
    let _alone = logs::alone().await;
    ensure!(logs::record(), "the test has set up logging of its own: nothing can be heard");
    let mut shown = String::new();
    for role in [Role::Source, Role::Sink] {
        std::fs::write(&file, WRONG)?;
        let Some(link) = start(peer, role, &file)? else { continue };
        link.reaches(State::Retrying).await?;
        shown += &format!("{:?}", link.link().status());
        std::fs::write(&file, RIGHT)?;
        link.reaches(State::Connected).await?;
        shown += &format!("{:?}", link.link().status());
        link.end().await?;
    }
    shown += &logs::recorded();
    for secret in [RIGHT, WRONG] {
        let line = shown.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "a password is shown: {line:?}");
    }
    Ok(())
}

fn login<P: Peer>(peer: &P, role: Role, file: &Path) -> Flat {
    let mut config = peer.login_config(role);
    config.insert("username".to_owned(), USER.to_owned());
    config.insert("password-file".to_owned(), file.to_string_lossy().into_owned());
    config
}

/// Either half, running.
enum Run {
    Source(rig::SourceRun),
    Sink(rig::SinkRun),
}

/// Starts this half, if the connector has it.
fn start<P: Peer>(peer: &P, role: Role, file: &Path) -> Result<Option<Run>> {
    let config = login(peer, role, file);
    Ok(match (role, peer.abilities()) {
        (Role::Source, abilities) if abilities.source == Ability::Yes => {
            Some(Run::Source(rig::start_source(peer, &config, &Arc::default())?))
        }
        (Role::Sink, abilities) if abilities.sink == Ability::Yes => {
            Some(Run::Sink(rig::start_sink(peer, &config)?))
        }
        _ => None,
    })
}

impl Run {
    fn link(&self) -> &millrace_kit::Link {
        match self {
            Self::Source(run) => &run.link,
            Self::Sink(run) => &run.link,
        }
    }

    async fn reaches(&self, state: State) -> Result<()> {
        match self {
            Self::Source(run) => run.reaches(state).await,
            Self::Sink(run) => run.reaches(state).await,
        }
    }

    async fn end(self) -> Result<()> {
        match self {
            Self::Source(run) => run.drain().await,
            Self::Sink(run) => run.close().await,
        }
    }
}
