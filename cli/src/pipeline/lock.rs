//! `millrace pipeline lock`, and how other commands hold a definition against its lock file.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_compose::{HARNESS_VERSION, harness_parts};
use millrace_pipeline::{Difference, Loaded, Lock, LockError, LockedHarness};
use serde_json::json;

use super::{Definition, build, sound};
use crate::ui::Ui;

/// Longest file that is read, in bytes: more than a lock file may have.
const READ_MAX: u64 = (1 << 20) + 1;

/// Whether there has to be a lock file.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Locked {
    /// Go on only with a lock file that fits. Without this one that is there has to fit all the same.
    #[arg(long)]
    pub(crate) locked: bool,
}

/// Writes the lock file of a definition.
pub(crate) fn run(ui: Ui, definition: &Definition, update: bool) -> anyhow::Result<()> {
    let loaded = sound(ui, definition)?;
    let place = Place::of(&definition.file, definition.binding.as_deref());
    let now = now(&loaded)?;
    let differences = match place.read()? {
        None => None,
        Some(Ok(locked)) => Some(locked.differences(&now)),
        Some(Err(_)) if update => None,
        Some(Err(error)) => anyhow::bail!(place.damaged(&error)),
    };
    if let Some(differences) = differences.as_ref().filter(|all| !all.is_empty() && !update) {
        anyhow::bail!(place.differs(differences));
    }
    let changed = differences.is_none_or(|all| !all.is_empty());
    if changed {
        build::write(&place.file, now.to_text().as_bytes())?;
    }
    if ui.json {
        return ui.json(&json!({ "file": place.file, "changed": changed, "lock": now }));
    }
    for (name, component) in &now.components {
        let version = component.version.as_deref().unwrap_or("no version");
        ui.line(format!("{name:<24} {version:<12} {}", ui.dim(&component.digest)));
    }
    for (name, pipeline) in &now.pipelines {
        ui.line(format!("{name:<24} {:<12} {}", pipeline.file, ui.dim(&pipeline.digest)));
    }
    ui.line(format!("{:<24} {:<12}", "harness", now.harness.version).trim_end());
    let done = if changed { "is written" } else { "is as it was" };
    ui.line(format!("{} {done}", place.file.display()));
    Ok(())
}

/// Refuses a definition that its lock file does not fit, and with `required` one that has none.
pub(crate) fn check(
    file: &Path,
    binding: Option<&Path>,
    loaded: &Loaded,
    required: bool,
) -> anyhow::Result<()> {
    let place = Place::of(file, binding);
    match place.read()? {
        None if required => anyhow::bail!(
            "there is no {}, and --locked asks for one: `{}` writes it",
            place.file.display(),
            place.command("")
        ),
        None => Ok(()),
        Some(Err(error)) => anyhow::bail!(place.damaged(&error)),
        Some(Ok(locked)) => {
            let differences = locked.differences(&now(loaded)?);
            anyhow::ensure!(differences.is_empty(), place.differs(&differences));
            Ok(())
        }
    }
}

/// What a definition is made of now.
fn now(loaded: &Loaded) -> anyhow::Result<Lock> {
    let digest = |digest: String| format!("sha256:{digest}");
    let parts = harness_parts().into_iter().map(|part| (part.name, digest(part.digest)));
    let harness = LockedHarness { version: HARNESS_VERSION.to_owned(), parts: parts.collect() };
    loaded.lock(harness)?.context("the definition cannot be read")
}

/// Where the lock file of a definition is: beside the file that names the components, with its name.
struct Place<'a> {
    file: PathBuf,
    definition: &'a Path,
    binding: Option<&'a Path>,
}

impl<'a> Place<'a> {
    fn of(definition: &'a Path, binding: Option<&'a Path>) -> Self {
        let file = binding.unwrap_or(definition).with_extension("lock");
        Self { file, definition, binding }
    }

    /// The lock file, if there is one.
    fn read(&self) -> anyhow::Result<Option<Result<Lock, LockError>>> {
        let failed = || format!("could not read {}", self.file.display());
        let file = match File::open(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.with_context(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(READ_MAX).read_to_end(&mut bytes).with_context(failed)?;
        Ok(Some(Lock::parse(&bytes)))
    }

    fn command(&self, option: &str) -> String {
        let binding = self.binding.map(|file| format!(" --binding {}", file.display()));
        let definition = self.definition.display();
        format!("millrace pipeline lock{option} {definition}{}", binding.unwrap_or_default())
    }

    fn damaged(&self, error: &LockError) -> String {
        let (file, mend) = (self.file.display(), self.command(" --update"));
        format!("{file} is no lock file: {error}; `{mend}` writes it anew")
    }

    fn differs(&self, differences: &[Difference]) -> String {
        let list: String = differences.iter().map(|one| format!("\n  {one}")).collect();
        let (file, mend) = (self.file.display(), self.command(" --update"));
        format!("{file} does not fit what is there:{list}\nif that is wanted: `{mend}`")
    }
}
