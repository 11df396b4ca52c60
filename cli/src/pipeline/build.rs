//! From a plan to what a host can load, in files or in the lattice's store, and the manifest that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use millrace_artifacts::{Reference, Store};
use millrace_pipeline::{Plan, Stage};
use millrace_platform::find;
use millrace_wadm::manifest::provider_names;
use millrace_wadm::{Applications, Artifact, Deployment, Manifest};
use serde::Serialize;

use super::{Definition, Output};
use crate::lattice;
use crate::ui::Ui;

/// Nobody deploys for longer than this, from the first artifact to the manifest.
const DEPLOYING: Duration = Duration::from_secs(3600);

/// A stage as it was built.
#[derive(Debug, Serialize)]
pub(crate) struct Built {
    pub(crate) stage: String,
    pub(crate) file: PathBuf,
    pub(crate) bytes: usize,
    pub(crate) digest: String,
    #[serde(skip)]
    pub(crate) took: Duration,
}

/// The folder for the artifacts of a pipeline, as an absolute path: wasmCloud takes no other.
pub(crate) fn folder(
    definition: &Definition,
    plan: &Plan,
    output: &Output,
) -> anyhow::Result<PathBuf> {
    let folder = match &output.out {
        Some(out) => out.clone(),
        None => {
            let beside = definition.file.parent().unwrap_or(Path::new(""));
            beside.join(".millrace").join(&plan.pipeline)
        }
    };
    std::path::absolute(&folder).with_context(|| format!("{} is no usable path", folder.display()))
}

/// Composes every stage and writes its artifact, unless one with the same content is there.
pub(crate) fn stages(plan: &Plan, folder: &Path) -> anyhow::Result<Vec<Built>> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("could not make {}", folder.display()))?;
    plan.stages.iter().map(|stage| build(plan, stage, folder)).collect()
}

fn build(plan: &Plan, stage: &Stage, folder: &Path) -> anyhow::Result<Built> {
    let start = Instant::now();
    let artifact = millrace_desk::compose(plan, stage)?;
    let short = artifact.digest.get(..12).unwrap_or(&artifact.digest);
    // A new file for new content: hosts keep what they loaded from a path, and the old version may still run.
    let file = folder.join(format!("{}-{short}.wasm", stage.name));
    if !file.is_file() {
        write(&file, &artifact.bytes)?;
    }
    Ok(Built {
        stage: stage.name.clone(),
        file,
        bytes: artifact.bytes.len(),
        digest: artifact.digest,
        took: start.elapsed(),
    })
}

/// Builds the stages into files, and writes the manifests of the pipeline and of the providers that it uses.
pub(crate) fn deployment(plan: &Plan, folder: &Path) -> anyhow::Result<Deployment> {
    let built = stages(plan, folder)?;
    let artifacts = built.into_iter().map(|b| {
        let image = image(&b.file);
        (b.stage, Artifact { image, digest: b.digest })
    });
    let pipeline = millrace_wadm::manifest(plan, &artifacts.collect())?;
    let providers =
        provider_names(plan).into_iter().map(provider_file).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Deployment { providers, pipeline })
}

/// Builds the stages and puts them into the lattice's store, from where its hosts take them.
pub(crate) async fn stored(
    nats: &async_nats::Client,
    lattice: &str,
    plan: &Plan,
) -> anyhow::Result<Deployment> {
    let store = Store::open(nats, lattice).await?;
    let mut artifacts = BTreeMap::new();
    for stage in &plan.stages {
        let composed = millrace_desk::compose(plan, stage)?;
        let (digest, _) = store
            .put(&plan.pipeline, composed.bytes.into())
            .await
            .with_context(|| format!("stage `{}`", stage.name))?;
        let image = Reference::Stage { name: stage.name.clone(), digest: digest.clone() };
        artifacts.insert(stage.name.clone(), Artifact { image: image.to_string(), digest });
    }
    let pipeline = millrace_wadm::manifest(plan, &artifacts)?;
    Ok(Deployment { providers: providers(plan)?, pipeline })
}

/// The manifests of the providers that a pipeline uses, as every installation of this release has them.
pub(crate) fn providers(plan: &Plan) -> anyhow::Result<Vec<Manifest>> {
    provider_names(plan).into_iter().map(provider).collect()
}

/// Removes from the lattice's store what no version needs that this pipeline may be taken back to. That it could not be
/// done keeps nobody from deploying.
pub(crate) async fn tidy(
    nats: &async_nats::Client,
    applications: &Applications,
    lattice: &str,
    pipeline: &str,
) {
    let tidied = async {
        let Some(store) = Store::existing(nats, lattice).await? else { return anyhow::Ok(()) };
        let images = applications.images(pipeline).await?;
        let digests = images.iter().filter_map(|image| match image.parse() {
            Ok(Reference::Stage { digest, .. }) => Some(digest),
            _ => None,
        });
        let since = SystemTime::now().checked_sub(DEPLOYING).unwrap_or(SystemTime::UNIX_EPOCH);
        store.keep(pipeline, &digests.collect(), since).await?;
        Ok(())
    };
    if let Err(error) = tidied.await {
        tracing::warn!("old artifacts were not removed: {error:#}");
    }
}

/// Removes the artifacts of a pipeline that is gone, but not those of one that was deployed since a time.
pub(crate) async fn forget(
    ui: Ui,
    nats: &async_nats::Client,
    lattice: &str,
    pipeline: &str,
    since: SystemTime,
) {
    let forgotten = async {
        if let Some(store) = Store::existing(nats, lattice).await? {
            store.keep(pipeline, &BTreeSet::new(), since).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = forgotten.await {
        ui.warn(format!("its artifacts stay until the next pipeline is deployed: {error:#}"));
    }
}

/// The manifest of a provider, as every installation of this release has it.
pub(crate) fn provider(name: &str) -> anyhow::Result<Manifest> {
    let file = find::provider(name)?;
    let archive = file
        .file_name()
        .and_then(|name| name.to_str()?.strip_suffix(".par.gz"))
        .with_context(|| format!("{} is no name of an archive", file.display()))?;
    let image = Reference::Provider { archive: archive.to_owned() };
    Ok(millrace_wadm::provider_manifest(name, &image.to_string()))
}

/// The manifest of a provider as a file of this installation, for any host of wasmCloud on this machine.
pub(crate) fn provider_file(name: &str) -> anyhow::Result<Manifest> {
    Ok(millrace_wadm::provider_manifest(name, &image(&find::provider(name)?)))
}

fn image(file: &Path) -> String {
    format!("file://{}", file.display())
}

/// Written beside and moved into place: a host must never load half a file.
pub(super) fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("could not write {}", file.display()))
}

/// Removes the streams of a pipeline, the states of its steps, and the spills that are in other JetStream domains; answers their names.
pub(crate) async fn purge(
    nats: &async_nats::Client,
    lattice: &str,
    pipeline: &str,
) -> anyhow::Result<Vec<String>> {
    use futures::TryStreamExt as _;
    let jetstream = async_nats::jetstream::new(nats.clone());
    let prefix = format!("MILLRACE_{lattice}_{pipeline}_");
    let is_own = |name: &str| name.strip_prefix("KV_").unwrap_or(name).starts_with(&prefix);
    let streams: Vec<_> =
        jetstream.streams().try_collect().await.context("could not list the streams")?;
    let mut removed = Vec::new();
    for stream in streams.into_iter().filter(|stream| is_own(&stream.config.name)) {
        // First, because only this stream tells where it is.
        if let Some((domain, spill)) = millrace_conduit::spill_elsewhere(&stream.config) {
            let there = async_nats::jetstream::with_domain(nats.clone(), domain);
            if lattice::stream(&there, &spill).await?.is_some() {
                there.delete_stream(&spill).await.with_context(|| {
                    format!("could not remove {spill} in JetStream domain {domain}")
                })?;
                removed.push(spill);
            }
        }
        let name = stream.config.name;
        jetstream.delete_stream(&name).await.with_context(|| format!("could not remove {name}"))?;
        removed.push(name);
    }
    Ok(removed)
}
