//! Where components and providers come from: stages from the store of the lattice, providers from this installation.
//!
//! What a manifest names otherwise (a file, a registry) is loaded as wasmCloud does it, unless this host takes nothing else:
//! whoever may deploy on a lattice could have it run native code of his own as a provider.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use millrace_artifacts::{Reference, Store};
use wasmcloud_host::Artifacts;

use crate::credentials::Part;

/// Options of where artifacts come from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ArtifactOptions {
    /// Folder that keeps the stages taken from the lattice over restarts; made when missing [default: in TMPDIR].
    #[arg(long, value_name = "FOLDER")]
    artifacts: Option<PathBuf>,
    /// Take components only from the lattice's store, and providers only from this installation: no other files, and
    /// nothing from registries. For a host whose lattice is somebody else's.
    #[arg(long)]
    only_known: bool,
}

impl ArtifactOptions {
    /// The folder that keeps stages over restarts.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.artifacts.as_deref()
    }
}

/// Stages that are kept: the newest of them up to so many bytes.
const KEPT_BYTES: u64 = 512 * 1024 * 1024;

/// Between two tries to be there for questions.
const AGAIN: Duration = Duration::from_secs(2);

struct Source {
    nats_url: String,
    lattice: String,
    part: Part,
    folder: PathBuf,
    only_known: bool,
    /// One at a time: two that load the same stage would write the same file.
    turn: tokio::sync::Mutex<()>,
}

/// What the host asks for artifacts.
pub(crate) fn source(
    options: &ArtifactOptions,
    nats_url: &str,
    lattice: &str,
    part: Part,
) -> Artifacts {
    let own = || std::env::temp_dir().join(format!("millrace-artifacts-{}", std::process::id()));
    let source = Arc::new(Source {
        nats_url: nats_url.to_owned(),
        lattice: lattice.to_owned(),
        part,
        folder: options.artifacts.clone().unwrap_or_else(own),
        only_known: options.only_known,
        turn: tokio::sync::Mutex::default(),
    });
    Artifacts(Arc::new(move |reference| {
        let source = source.clone();
        Box::pin(async move { source.file(&reference).await })
    }))
}

impl Source {
    async fn file(&self, reference: &str) -> anyhow::Result<Option<PathBuf>> {
        if !Reference::is_meant(reference) {
            ensure!(
                !self.only_known,
                "this host takes stages from the lattice's store and providers of its installation, and nothing else. Deploy \
                 with `millrace pipeline deploy`, or have the manifest written with `millrace pipeline manifest --store`"
            );
            return Ok(None);
        }
        match reference.parse()? {
            Reference::Stage { digest, .. } => self.stage(&digest).await.map(Some),
            Reference::Provider { archive } => installed(&archive).map(Some),
        }
    }

    /// A stage's file: the one that is kept, when it is still what its name says, or a new one from the lattice.
    async fn stage(&self, digest: &str) -> anyhow::Result<PathBuf> {
        let _turn = self.turn.lock().await;
        let file = self.folder.join(format!("{digest}.wasm"));
        if let Ok(bytes) = tokio::fs::read(&file).await
            && millrace_artifacts::digest(&bytes) == digest
        {
            // So that those that are used are the newest.
            if let Ok(open) = std::fs::File::options().append(true).open(&file) {
                let _ = open.set_modified(SystemTime::now());
            }
            return Ok(file);
        }
        // A connection for this one time: a host takes a stage seldom, and there may be many hosts.
        let nats = self.part.connect("millrace-host artifacts", &self.nats_url).await?;
        let Some(store) = Store::existing(&nats, &self.lattice).await? else {
            bail!(
                "lattice `{}` has no store of artifacts; `millrace pipeline deploy` makes it",
                self.lattice
            );
        };
        let bytes = store.get(digest).await?;
        keep(&self.folder, &file, &bytes)
            .with_context(|| format!("could not write {}", file.display()))?;
        Ok(file)
    }
}

/// Writes a file beside its place and moves it there: nobody reads half of one.
fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let new = file.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, file)?;
    forget(folder, file);
    Ok(())
}

/// Removes the oldest files beyond [`KEPT_BYTES`], but not this one. What cannot be removed stays.
fn forget(folder: &Path, newest: &Path) {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(about) = entry.metadata()
            && about.is_file()
            && let Ok(modified) = about.modified()
        {
            files.push((modified, about.len(), entry.path()));
        }
    }
    files.sort_unstable_by_key(|(modified, _, _)| std::cmp::Reverse(*modified));
    let mut sum = 0_u64;
    for (_, bytes, path) in files {
        sum = sum.saturating_add(bytes);
        if sum > KEPT_BYTES && path != newest {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The archive of a provider that came with this installation.
fn installed(archive: &str) -> anyhow::Result<PathBuf> {
    let folder = archives_folder();
    let file = folder.join(format!("{archive}.par.gz"));
    if file.is_file() {
        return Ok(file);
    }
    let there: Vec<String> = archives().into_iter().collect();
    bail!(
        "this host's installation has no provider `{archive}`; in {} there are {}. Install the release that deployed it, or \
         deploy the provider of this one: `millrace provider deploy`",
        folder.display(),
        if there.is_empty() { "none".to_owned() } else { there.join(", ") }
    )
}

fn archives_folder() -> PathBuf {
    millrace_platform::find::home().join("providers")
}

/// Names of all providers' archives that this installation has, in every build. What has no build in its name is a link to one.
fn archives() -> BTreeSet<String> {
    let all = std::fs::read_dir(archives_folder()).into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".par.gz").map(str::to_owned))
        .filter(|name| name.contains('-'))
        .collect()
}

/// Says which providers this installation has to whoever asks, so that nobody deploys one that this host could not start.
/// For as long as it is polled.
pub(crate) async fn tell(part: Part, nats_url: String, lattice: String, host: String) {
    loop {
        let told = match part.connect("millrace-host providers", &nats_url).await {
            Ok(nats) => millrace_artifacts::installed::answer(&nats, &lattice, &host, archives)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        tracing::debug!(?told, "cannot say which providers are here; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        for (n, age) in [(0, 30), (1, 20), (2, 10)] {
            let file = std::fs::File::create(folder.path().join(format!("{n}.wasm"))).unwrap();
            file.set_len(KEPT_BYTES / 3).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        let new = folder.path().join("new.wasm");
        keep(folder.path(), &new, &[0; 1024]).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["1.wasm", "2.wasm", "new.wasm"]);
    }
}
