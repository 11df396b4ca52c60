//! A definition on a lab's lattice: planned, composed, deployed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use millrace_pipeline::{Document, Plan, Stage};
use millrace_platform::find;
use millrace_wadm::manifest::provider_names;
use millrace_wadm::{Applications, Artifact, Deployment, provider_manifest};

use crate::lab::{LATTICE, Lab, reference};

/// From deploying until all of it runs.
pub(crate) const RUNNING: Duration = Duration::from_secs(45);

/// Where an example component of the installation is.
#[must_use]
pub fn component(name: &str) -> PathBuf {
    find::home().join("components").join(name).with_extension("wasm")
}

/// The plan of a definition with a binding.
///
/// # Errors
///
/// What is wrong with them.
pub fn plan(definition: &str, binding: &str) -> anyhow::Result<Plan> {
    let loaded = millrace_pipeline::load(
        Document { file: "bench", text: definition },
        Some(Document { file: "the bench's binding", text: binding }),
        &Default::default(),
    );
    ensure!(!loaded.has_errors(), "{}", loaded.render(false));
    Ok(loaded.plan()?)
}

/// Deploys a plan and waits until all of it runs.
///
/// # Errors
///
/// When a component cannot be read or composed, or something does not run in time.
pub async fn deploy(lab: &Lab, plan: &Plan) -> anyhow::Result<()> {
    let deployment = build(lab, plan)?;
    let applications = Applications::new(lab.connect().await?, LATTICE);
    applications.deploy(&deployment).await?;
    applications.wait_running(&plan.pipeline, RUNNING, |_| {}).await?;
    Ok(())
}

/// Composes the stages and writes the manifests.
pub(crate) fn build(lab: &Lab, plan: &Plan) -> anyhow::Result<Deployment> {
    let artifacts = plan
        .stages
        .iter()
        .map(|stage| Ok((stage.name.clone(), artifact(lab, plan, stage)?)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let pipeline = millrace_wadm::manifest(plan, &artifacts)?;
    let provider = |name| Ok(provider_manifest(name, &reference(&find::provider(name)?)));
    let providers =
        provider_names(plan).into_iter().map(provider).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Deployment { providers, pipeline })
}

fn artifact(lab: &Lab, plan: &Plan, stage: &Stage) -> anyhow::Result<Artifact> {
    let composed = millrace_desk::compose(plan, stage)?;
    let image = lab.artifact(&format!("{}-{}", plan.pipeline, stage.name), &composed.bytes)?;
    Ok(Artifact { image, digest: composed.digest })
}
