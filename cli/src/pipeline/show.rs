//! Plans, artifacts, manifests and status, for people.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use millrace_kit::status::{LinkStatus, State};
use millrace_kit::{Queue, Uses};
use millrace_pipeline::{Hosts, Output, ParameterValue, Plan, StageInput};
use millrace_wadm::{Manifest, PipelineStatus, Rollout, RolloutState, StageStatus};

use super::build::Built;
use crate::ui::{Ui, human_time};

/// A plan as a list of stages, each with what calls it, its steps and where it publishes; before it the values of parameters.
pub(crate) fn plan<'a>(
    ui: Ui,
    plan: &Plan,
    parameters: impl Iterator<Item = (&'a str, &'a ParameterValue)>,
) {
    ui.line(format!("{} {}", ui.bold(&plan.pipeline), plan.version));
    for (name, value) in parameters {
        ui.line(format!("parameter {name}: {}  {}", value.shown(), ui.dim(value.origin.as_str())));
    }
    for stage in &plan.stages {
        let place = if plan.hosts == Hosts::Every { " on every host" } else { "" };
        ui.line(format!("stage {}  ({} at once{place})", ui.bold(&stage.name), stage.instances));
        for input in &stage.inputs {
            ui.line(match input {
                StageInput::Source(name) => {
                    format!("  from source {name}{}", connector_of_source(plan, name))
                }
                StageInput::Edge(name) => format!("  from edge {name}"),
            });
        }
        for step in &stage.steps {
            let grants = if step.grants.is_empty() {
                String::new()
            } else {
                format!("  grants {}", step.grants.join(", "))
            };
            ui.line(format!(
                "  {} {}  {}{grants}",
                step.kind,
                step.name,
                ui.dim(step.component.as_deref().unwrap_or(Path::new("")).display())
            ));
        }
        match &stage.output {
            Output::Sink(name) => {
                ui.line(format!("  to sink {name}{}", connector_of_sink(plan, name)))
            }
            Output::Edges(names) => {
                names.iter().for_each(|name| ui.line(format!("  to edge {name}")))
            }
        }
    }
    for edge in &plan.edges {
        let spill = edge.settings.spill_bytes;
        let spill = spill.map(|bytes| format!(" and spills at most {bytes}")).unwrap_or_default();
        ui.line(format!(
            "durable edge {}: {}; keeps at most {}{spill}",
            ui.bold(&edge.name),
            edge.reason,
            edge.settings.max_bytes
        ));
    }
}

/// A plan as a picture in a file.
pub(crate) fn picture(ui: Ui, plan: &Plan, file: &Path) -> anyhow::Result<()> {
    let picture = millrace_pipeline::svg(plan);
    if file == Path::new("-") {
        ui.line(picture.trim_end());
        return Ok(());
    }
    std::fs::write(file, picture).with_context(|| format!("could not write {}", file.display()))?;
    ui.step(format!("the plan as a picture is in {}", file.display()));
    Ok(())
}

fn connector_of_source(plan: &Plan, name: &str) -> String {
    let found = plan.sources.iter().find(|s| s.name == name);
    found.map(|s| format!(" ({})", s.connector)).unwrap_or_default()
}

fn connector_of_sink(plan: &Plan, name: &str) -> String {
    let found = plan.sinks.iter().find(|s| s.name == name);
    found.map(|s| format!(" ({})", s.connector)).unwrap_or_default()
}

/// The artifacts that were built.
pub(crate) fn built(ui: Ui, built: &[Built]) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(&built);
    }
    for b in built {
        let size = b.bytes as f64 / 1e3;
        ui.line(format!(
            "{:<20} {size:>8.1} kB  {:>8}  {}",
            b.stage,
            human_time(b.took),
            b.file.display()
        ));
    }
    Ok(())
}

/// A manifest as YAML.
pub(crate) fn yaml(manifest: &Manifest) -> anyhow::Result<String> {
    // By way of a value, whose maps are sorted: the same manifest is the same text.
    Ok(serde_saphyr::to_string(&serde_json::to_value(manifest)?)?)
}

/// The status of a pipeline.
pub(crate) fn status(ui: Ui, status: &PipelineStatus) {
    let state = if status.running() { ui.green("running") } else { ui.yellow(&status.state) };
    let version = status.version.as_deref().unwrap_or("none deployed");
    ui.line(format!("{}  {state}  version {version}", ui.bold(&status.pipeline)));
    if !status.running() && !status.message.is_empty() {
        ui.line(format!("  {}", status.message));
    }
    status.rollout.iter().for_each(|last| rollout(ui, last));
    status.stages.iter().for_each(|stage| part(ui, "stage", stage));
    status.providers.iter().for_each(|provider| part(ui, "provider", provider));
    for provider in &status.links {
        provider.links.iter().for_each(|l| link(ui, &provider.provider, l));
    }
}

/// The roll-outs of a pipeline, the last one last.
pub(crate) fn history(ui: Ui, rollouts: &[Rollout]) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(&rollouts);
    }
    if rollouts.is_empty() {
        ui.step("no version has taken over from another");
    }
    rollouts.iter().for_each(|one| rollout(ui, one));
    Ok(())
}

fn rollout(ui: Ui, rollout: &Rollout) {
    let state = rollout.state.as_str();
    let state = match rollout.state {
        RolloutState::Done => ui.green(state),
        RolloutState::RolledBack | RolloutState::Failed => ui.red(state),
        _ => ui.yellow(state),
    };
    let ago = ago(rollout.changed_ms);
    ui.line(format!("  roll-out  {} -> {}  {state} {ago}", rollout.from, rollout.to));
    if let Some(reason) = &rollout.reason {
        ui.line(format!("            {reason}"));
    }
}

/// `12 s ago`, `3 h ago`.
fn ago(then_ms: u64) -> String {
    let seconds = millrace_kit::telemetry::now_ms().saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn part(ui: Ui, kind: &str, part: &StageStatus) {
    let count = format!("{} of {}", part.running, part.wanted);
    let count = if part.running >= part.wanted { ui.green(count) } else { ui.red(count) };
    let why = part.problem.as_ref().map(|p| format!("  {}", ui.red(p))).unwrap_or_default();
    ui.line(format!("  {kind:<9} {:<20} running {count}{why}", part.name));
}

/// What waits on an edge.
fn waiting(queue: &Queue) -> String {
    let most = millrace_settings::Bytes::<0, { u64::MAX }>::from_bytes(queue.max_bytes);
    let full = queue.bytes.saturating_mul(100) / queue.max_bytes.max(1);
    let oldest = match queue.batches {
        0 => String::new(),
        _ => format!(", the oldest for {}", human_time(Duration::from_millis(queue.oldest_ms))),
    };
    let spilled = match queue.spilled_batches {
        0 => String::new(),
        batches => {
            format!(", and {batches} in its spill, {:.1} MB", queue.spilled_bytes as f64 / 1e6)
        }
    };
    format!("waiting {} batches, {full} % of {most}{oldest}{spilled}", queue.batches)
}

fn link(ui: Ui, provider: &str, link: &LinkStatus) {
    let state = format!("{:?}", link.state).to_lowercase();
    let state = if link.state == State::Connected { ui.green(state) } else { ui.red(state) };
    let counters = &link.counters;
    let name = format!("{provider} {}", link.name);
    let window = counters.window.map(|most| format!(" of {most}")).unwrap_or_default();
    ui.line(format!(
        "  link      {name:<20} {state}  in {}  out {}  dead letters {}  in flight {}{window}",
        counters.messages_in, counters.messages_out, counters.dead_letters, counters.in_flight,
    ));
    if let Some(queue) = &counters.queue {
        ui.line(format!("            {}", waiting(queue)));
    }
    if counters.dropped_batches > 0 {
        let dropped = format!("dropped {} batches, the oldest", counters.dropped_batches);
        ui.line(format!("            {}", ui.yellow(dropped)));
    }
    for (step, uses) in &counters.uses {
        ui.line(format!("            {step}: {}", used(ui, uses)));
    }
    if let Some(error) = &link.error {
        ui.line(format!("            {}", ui.red(error)));
    }
}

/// What a step has used of what lies outside.
fn used(ui: Ui, uses: &Uses) -> String {
    let mut text = format!("{} requests answered", uses.done);
    if uses.failed > 0 {
        let last = uses.last_failure.as_deref().unwrap_or_default();
        text += &ui.yellow(format!(", {} failed, the last: {last}", uses.failed)).to_string();
    }
    if uses.refused > 0 {
        let last = uses.last_refusal.as_deref().unwrap_or_default();
        text += &ui.red(format!(", {} refused, the last: {last}", uses.refused)).to_string();
    }
    text
}
