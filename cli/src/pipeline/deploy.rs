//! `millrace pipeline deploy`: another version takes over, and is watched until it has proved itself.
//!
//! The platform carries a roll-out out; here it is only shown. Where no process of the platform takes it up (wadm runs
//! without Millrace's host) it is carried out from here.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use millrace_pipeline::Plan;
use millrace_settings::rollout::Watch;
use millrace_settings::{Percent, Rollout as Settings};
use millrace_wadm::applications::until_answered;
use millrace_wadm::{Applications, Rollout, RolloutState, Watcher};

use super::{build, show};
use crate::ui::Ui;
use crate::{RolledBack, audit, lattice, provider};

/// The platform takes up a roll-out within this time, or does not.
const TAKEN_UP: Duration = Duration::from_secs(4);

/// Beyond all time limits of a roll-out.
const GRACE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(200);

/// How a new version is judged.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Judging {
    /// Watch a new version for so long once it runs [default: as the definition says, or 30s].
    #[arg(long, value_name = "TIME")]
    watch: Option<Watch>,
    /// Roll back when a stage makes dead letters of so much more of its messages than before [default: as the definition
    /// says, or 5%].
    #[arg(long, value_name = "SHARE")]
    max_failures: Option<Percent>,
    /// Leave a new version that fails where it is, and only say so.
    #[arg(long)]
    no_rollback: bool,
    /// A version that does not run after this time is rolled back. The first version of a pipeline is only given up
    /// waiting for.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = millrace_platform::parse_time)]
    timeout: Duration,
    /// Deploy and do not wait. The platform watches the new version all the same.
    #[arg(long)]
    no_wait: bool,
}

impl Judging {
    fn settings(&self, mut settings: Settings) -> Settings {
        settings.watch = self.watch.unwrap_or(settings.watch);
        settings.max_failures = self.max_failures.unwrap_or(settings.max_failures);
        settings.rollback &= !self.no_rollback;
        settings
    }
}

pub(crate) async fn run(
    ui: Ui,
    plan: &Plan,
    lattice: &lattice::Options,
    judging: &Judging,
) -> anyhow::Result<()> {
    let nats = lattice.connect().await?;
    let applications = Applications::new(nats.clone(), lattice.name());
    let providers = build::providers(plan)?;
    provider::can_run(ui, &nats, &applications, lattice.name(), &providers).await?;
    // Before anything is put: it may be what makes room for the new ones.
    build::tidy(&nats, &applications, lattice.name(), &plan.pipeline).await;
    ui.step(format!("composing {} stages", plan.stages.len()));
    let deployment = build::stored(&nats, lattice.name(), plan).await?;
    for provider in &deployment.providers {
        provider::deploy(ui, &applications, provider).await?;
    }
    let settings = judging.settings(plan.rollout.clone());
    let (deployed, rollout) =
        applications.roll_out(&deployment.pipeline, settings, judging.timeout).await?;
    if !deployed.unchanged {
        let images: Vec<&str> = millrace_wadm::images(&deployment.pipeline).collect();
        let subject = format!("{} {}: {}", plan.pipeline, deployed.version, images.join(", "));
        audit::note(ui, lattice, &nats, "pipeline.deploy", &subject).await;
    }
    match (&rollout, deployed.unchanged) {
        (None, true) => ui.step(format!("version {} is deployed already", deployed.version)),
        (Some(_), true) => ui.step(format!("version {} is taking over already", deployed.version)),
        (None, false) => ui.step(format!("deploying version {}", deployed.version)),
        (Some(rollout), false) => {
            ui.step(format!("deploying version {} beside {}", deployed.version, rollout.from))
        }
    }
    if judging.no_wait {
        let result = serde_json::json!({ "pipeline": plan.pipeline, "version": deployed.version,
            "unchanged": deployed.unchanged });
        return if ui.json { ui.json(&result) } else { Ok(()) };
    }
    let ended = match rollout {
        Some(rollout) => {
            let watcher = Watcher::new(nats, lattice.name());
            Some(follow(ui, &applications, watcher, &plan.pipeline, &rollout).await?)
        }
        None => None,
    };
    // Where there was nothing to roll back to, the first version only has to run.
    let status = match &ended {
        Some(_) => until_answered(|| applications.status(&plan.pipeline)).await?,
        None => {
            let mut waiting = Waiting::default();
            let status = applications
                .wait_running(&plan.pipeline, judging.timeout, |s| waiting.tell(ui, s.missing()))
                .await?;
            // What runs may be what somebody else has deployed at the same time.
            let is_own = until_answered(|| applications.is_deployed(&deployment.pipeline)).await?;
            anyhow::ensure!(
                is_own,
                "another version of {} was deployed meanwhile, and has replaced version {}; `millrace pipeline status {0}` shows it",
                plan.pipeline,
                deployed.version
            );
            status
        }
    };
    if ui.json {
        ui.json(&status)?;
    } else {
        show::status(ui, &status);
    }
    ended.map_or(Ok(()), |rollout| judge(&plan.pipeline, &rollout))
}

/// What a roll-out came to, as the command's result.
fn judge(pipeline: &str, rollout: &Rollout) -> anyhow::Result<()> {
    let Rollout { from, to, .. } = rollout;
    let reason = rollout.reason.as_deref().unwrap_or("no reason is known");
    let letters = match rollout.stages.iter().any(|stage| stage.dead_letters > 0) {
        true => format!(
            ". Its dead letters are kept: `millrace dead list {pipeline}` shows them, `millrace dead replay {pipeline}` \
             gives them to the version that runs"
        ),
        false => String::new(),
    };
    match rollout.state {
        RolloutState::RolledBack => Err(RolledBack(format!(
            "version {to} was rolled back, and {from} runs again: {reason}{letters}"
        ))
        .into()),
        RolloutState::Failed => anyhow::bail!("version {to} failed: {reason}{letters}"),
        RolloutState::Superseded => anyhow::bail!("version {to} was not looked after: {reason}"),
        _ => Ok(()),
    }
}

/// Says once what is waited for.
#[derive(Default)]
struct Waiting(String);

impl Waiting {
    fn tell(&mut self, ui: Ui, missing: Vec<String>) {
        let missing = missing.join("; ");
        if missing != self.0 && !missing.is_empty() {
            ui.step(format!("waiting: {missing}"));
            self.0 = missing;
        }
    }
}

/// Shows a roll-out until it has ended.
async fn follow(
    ui: Ui,
    applications: &Applications,
    watcher: Watcher,
    pipeline: &str,
    begun: &Rollout,
) -> anyhow::Result<Rollout> {
    let start = Instant::now();
    let limit = begun.timeout() * 2 + begun.settings.watch.get() + GRACE;
    let mut watcher = Some(watcher);
    let mut waiting = Waiting::default();
    let mut told = RolloutState::Stored;
    loop {
        let history = until_answered(|| applications.rollouts().history(pipeline)).await?;
        let rollout = history.into_iter().rfind(|r| r.started_ms == begun.started_ms);
        let rollout = rollout.context("the record of this roll-out was removed meanwhile")?;
        if rollout.state != told {
            tell(ui, &rollout);
            told = rollout.state;
        }
        if told.has_ended() {
            return Ok(rollout);
        }
        match told {
            RolloutState::Starting | RolloutState::RollingBack => {
                let status = until_answered(|| applications.status(pipeline)).await?;
                waiting.tell(ui, status.missing());
            }
            RolloutState::Stored if start.elapsed() > TAKEN_UP => {
                if let Some(watcher) = watcher.take() {
                    ui.warn(
                        "no process of the platform looks after roll-outs on this lattice: this one does until it ends",
                    );
                    let (pipeline, started_ms) = (pipeline.to_owned(), begun.started_ms);
                    tokio::spawn(async move { watcher.follow(&pipeline, started_ms).await });
                }
            }
            _ => {}
        }
        anyhow::ensure!(
            start.elapsed() < limit,
            "the roll-out of version {} is {} after {} s, and nothing comes of it; is a platform running?",
            begun.to,
            told.as_str(),
            limit.as_secs()
        );
        tokio::time::sleep(POLL).await;
    }
}

fn tell(ui: Ui, rollout: &Rollout) {
    let reason = rollout.reason.as_deref().unwrap_or_default();
    match rollout.state {
        RolloutState::Watching => ui.step(format!(
            "version {} runs; watching it for {}",
            rollout.to, rollout.settings.watch
        )),
        RolloutState::Done => ui.step(format!("version {} has taken over", rollout.to)),
        RolloutState::RollingBack => {
            ui.warn(format!("rolling back to version {}: {reason}", rollout.from));
        }
        _ => {}
    }
}
