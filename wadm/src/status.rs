//! One picture of a pipeline, from three who know a part: wadm what is wanted, the hosts what runs, the providers how
//! their links are.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use millrace_kit::status::{ProviderStatus, State, pipeline_status_subject};
use serde::{Deserialize, Serialize};
use wadm_types::api::{Status, StatusType};
use wadm_types::{DAEMONSCALER_TRAIT, Manifest, Properties, TraitProperty};

use crate::manifest::{is_ours, provider_of};
use crate::rollout::Rollout;

/// What one host runs.
pub(crate) type Inventory = wasmcloud_control_interface::HostInventory;

/// Providers answer within this time, or are taken as away.
const PROVIDERS_ANSWER: Duration = Duration::from_millis(300);

/// A pipeline on a lattice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub pipeline: String,
    /// The version that is deployed, if one is.
    pub version: Option<String>,
    /// wadm's word: waiting, undeployed, reconciling, deployed, failed, unhealthy.
    pub state: String,
    /// wadm's reason, where it gives one.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Its stages.
    pub stages: Vec<StageStatus>,
    /// Its providers: running and wanted, as for stages.
    pub providers: Vec<StageStatus>,
    /// What the providers say of their links.
    pub links: Vec<ProviderStatus>,
    /// Links that the manifest has.
    pub links_wanted: usize,
    /// How the last change of the version went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rollout: Option<Rollout>,
}

/// A stage, or a provider, and how many of it there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Its name.
    pub name: String,
    /// Instances at once that are wanted (calls handled at the same time, for a stage).
    pub wanted: u64,
    /// Instances that hosts have room for now.
    pub running: u64,
    /// The hosts it is on.
    pub hosts: Vec<String>,
    /// Why it is not as wanted, where somebody said.
    pub problem: Option<String>,
}

impl PipelineStatus {
    /// True when everything wanted runs and every link is up.
    #[must_use]
    pub fn running(&self) -> bool {
        self.version.is_some() && self.missing().is_empty()
    }

    /// True when no host runs a stage of it. Its providers may run for other pipelines.
    #[must_use]
    pub fn no_stage_runs(&self) -> bool {
        self.stages.iter().all(|stage| stage.running == 0)
    }

    /// Providers that do not run.
    pub(crate) fn providers_missing(&self) -> impl Iterator<Item = &StageStatus> {
        self.providers.iter().filter(|p| p.running < p.wanted)
    }

    /// What is not as wanted, a phrase each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (kind, parts) in [("stage", &self.stages), ("provider", &self.providers)] {
            for part in parts.iter().filter(|p| p.running < p.wanted) {
                let why = part.problem.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
                missing.push(format!(
                    "{kind} `{}`: {} of {} running{why}",
                    part.name, part.running, part.wanted
                ));
            }
        }
        let links: Vec<_> =
            self.links.iter().flat_map(|p| p.links.iter().map(move |l| (p, l))).collect();
        for (provider, link) in links.iter().filter(|(_, l)| l.state != State::Connected) {
            let state = format!("{:?}", link.state).to_lowercase();
            let why = link.error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
            missing.push(format!("{} `{}`: {state}{why}", provider.provider, link.name));
        }
        if missing.is_empty() && links.len() < self.links_wanted {
            missing.push(format!("{} of {} links up", links.len(), self.links_wanted));
        }
        missing
    }
}

/// Asks every provider of the pipeline, and takes what is answered in time.
pub(crate) async fn ask_providers(
    nats: &async_nats::Client,
    lattice: &str,
    pipeline: &str,
) -> Vec<ProviderStatus> {
    let inbox = nats.new_inbox();
    let Ok(mut answers) = nats.subscribe(inbox.clone()).await else { return Vec::new() };
    let subject = pipeline_status_subject(lattice, pipeline);
    if nats.publish_with_reply(subject, inbox, Default::default()).await.is_err() {
        return Vec::new();
    }
    let mut found: Vec<ProviderStatus> = Vec::new();
    let until = tokio::time::Instant::now() + PROVIDERS_ANSWER;
    while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
        // Nobody listens: NATS says so at once.
        if answer.status.is_some() {
            break;
        }
        if let Ok(status) = serde_json::from_slice(&answer.payload) {
            found.push(status);
        }
    }
    found.sort_by(|a, b| (&a.provider, &a.id).cmp(&(&b.provider, &b.id)));
    found
}

/// A stage that runs on a host although it should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remain {
    /// The host.
    pub(crate) host: String,
    /// Identity in the lattice.
    pub(crate) id: String,
    /// Its artifact.
    pub(crate) image: String,
    /// By these the host tells what wadm started from what others did.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The stages of a pipeline that run.
pub(crate) fn remains(pipeline: &str, inventories: &[Inventory]) -> Vec<Remain> {
    let prefix = format!("{pipeline}-");
    let of_host = |inventory: &Inventory| -> Vec<Remain> {
        let components = inventory.components().iter().filter(|component| {
            let app = component.annotations().and_then(|a| a.get("wasmcloud.dev/appspec"));
            component.id().starts_with(&prefix) && app.is_some_and(|app| app == pipeline)
        });
        let remain = components.map(|component| Remain {
            host: inventory.host_id().to_owned(),
            id: component.id().to_owned(),
            image: component.image_ref().to_owned(),
            annotations: component.annotations().cloned(),
        });
        remain.collect()
    };
    inventories.iter().flat_map(of_host).collect()
}

/// The hosts that run a provider.
pub(crate) fn hosts_of(provider: &str, inventories: &[Inventory]) -> Vec<String> {
    let id = crate::manifest::provider_id(provider);
    inventories
        .iter()
        .filter(|i| i.providers().iter().any(|p| p.id() == id))
        .map(|i| i.host_id().to_owned())
        .collect()
}

/// Puts the three views together.
pub(crate) fn combine(
    pipeline: &str,
    version: Option<String>,
    wadm: &Status,
    wanted: Option<&Manifest>,
    inventories: &[Inventory],
    links: Vec<ProviderStatus>,
) -> PipelineStatus {
    let (mut stages, mut providers) = (Vec::new(), Vec::new());
    for component in wanted.iter().flat_map(|m| m.components()) {
        match &component.properties {
            Properties::Component { properties } => {
                let id = properties.id.as_deref().unwrap_or_default();
                let problem = problem(wadm, &component.name, id)
                    .map(|text| with_image(text, properties.image.as_deref()));
                stages.push(StageStatus { problem, ..stage(component, id, inventories) });
            }
            Properties::Capability { .. } => {
                let name = component.name.clone();
                let hosts = hosts_of(&name, inventories);
                let running = hosts.len() as u64;
                providers.push(StageStatus { name, wanted: 1, running, hosts, problem: None });
            }
        }
    }
    PipelineStatus {
        pipeline: pipeline.to_owned(),
        version,
        state: format!("{:?}", wadm.info.status_type).to_lowercase(),
        message: wadm.info.message.clone(),
        stages,
        providers,
        links,
        links_wanted: wanted.map_or(0, |m| m.links().count()),
        rollout: None,
    }
}

/// The stages, or the provider, of one of our applications that do not run as wanted, in words. Of other applications,
/// and where there is no host, nothing.
pub(crate) fn not_running(wanted: &Manifest, inventories: &[Inventory]) -> Vec<String> {
    if inventories.is_empty() || !is_ours(wanted) {
        return Vec::new();
    }
    if let Some(provider) = provider_of(wanted) {
        let runs = !hosts_of(provider, inventories).is_empty();
        return if runs { Vec::new() } else { vec![format!("provider `{provider}`")] };
    }
    let stages = wanted.components().filter_map(|component| match &component.properties {
        Properties::Component { properties } => {
            let id = properties.id.as_deref().unwrap_or_default();
            Some(stage(component, id, inventories))
        }
        Properties::Capability { .. } => None,
    });
    let missing = stages.filter(|stage| stage.running < stage.wanted);
    missing.map(|stage| format!("stage `{}`", stage.name)).collect()
}

/// A stage as it is wanted, and as the hosts run it.
fn stage(component: &wadm_types::Component, id: &str, inventories: &[Inventory]) -> StageStatus {
    let (running, hosts) = running_instances(id, inventories);
    StageStatus {
        name: component.name.clone(),
        wanted: instances(component, inventories.len()),
        running,
        hosts,
        problem: None,
    }
}

fn running_instances(id: &str, inventories: &[Inventory]) -> (u64, Vec<String>) {
    let found = inventories.iter().flat_map(|i| {
        i.components()
            .iter()
            .filter(|c| c.id() == id)
            .map(|c| (u64::from(c.max_instances()), i.host_id().to_owned()))
    });
    found.fold((0, Vec::new()), |(sum, mut hosts), (instances, host)| {
        hosts.push(host);
        (sum.saturating_add(instances), hosts)
    })
}

/// Instances that are wanted on a lattice of so many hosts. A daemon scaler wants its number on each of them.
fn instances(component: &wadm_types::Component, hosts: usize) -> u64 {
    let scaled = component.traits.iter().flatten().find_map(|t| match &t.properties {
        TraitProperty::SpreadScaler(s) if t.trait_type == DAEMONSCALER_TRAIT => {
            Some((s.instances * hosts.max(1)) as u64)
        }
        TraitProperty::SpreadScaler(s) => Some(s.instances as u64),
        _ => None,
    });
    scaled.unwrap_or(1)
}

/// What wadm says of the scaler of this component when that is not content.
fn problem(wadm: &Status, name: &str, id: &str) -> Option<String> {
    let concerns = |text: &str| text.contains(id) || text.contains(name);
    discontent(wadm)
        .find(|s| concerns(&s.name) || concerns(&s.info.message))
        .map(|s| s.info.message.clone())
}

/// What the host says of an artifact that it cannot get does not name it.
fn with_image(problem: String, image: Option<&str>) -> String {
    match image {
        Some(image) if problem.contains("fetch") && !problem.contains(image) => {
            format!("{problem} ({image})")
        }
        _ => problem,
    }
}

/// What wadm says of a provider, by the status of its application, when it is not content.
pub(crate) fn provider_problem(wadm: &Status) -> Option<String> {
    if wadm.info.status_type == StatusType::Undeployed {
        return Some("it is not deployed on this lattice".to_owned());
    }
    discontent(wadm).map(|s| s.info.message.clone()).next()
}

fn discontent(wadm: &Status) -> impl Iterator<Item = &wadm_types::api::ScalerStatus> {
    wadm.scalers
        .iter()
        .filter(|s| s.info.status_type != StatusType::Deployed && !s.info.message.is_empty())
}

#[cfg(test)]
mod tests {
    use wadm_types::{Component, ComponentProperties, SpreadScalerProperty, Trait};

    use super::*;

    #[test]
    fn every_host_has_its_own_instances() {
        let scale = SpreadScalerProperty { instances: 100, spread: Vec::new() };
        let component = |scaler: Trait| Component {
            name: "s".to_owned(),
            properties: Properties::Component {
                properties: ComponentProperties {
                    application: None,
                    image: Some("file:///s.wasm".to_owned()),
                    id: None,
                    config: Vec::new(),
                    secrets: Vec::new(),
                },
            },
            traits: Some(vec![scaler]),
        };
        let one = component(Trait::new_spreadscaler(scale.clone()));
        let every = component(Trait::new_daemonscaler(scale));
        assert_eq!(
            (instances(&one, 2), instances(&every, 2), instances(&every, 0)),
            (100, 200, 100)
        );
    }
}
