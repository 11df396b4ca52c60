//! `millrace provider`: packs a provider's executable into the archive that wasmCloud starts.

use std::path::PathBuf;

use anyhow::Context as _;
use nkeys::KeyPair;
use provider_archive::ProviderArchive;

use crate::ui::Ui;

/// Work with provider archives.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pack an executable into a provider archive for this machine's architecture.
    #[command(
        after_help = "Example:\n  millrace provider pack --name mqtt --out mqtt.par.gz target/debug/millrace-mqtt"
    )]
    Pack {
        /// Name of the provider.
        #[arg(long)]
        name: String,
        /// The archive to write (.par.gz).
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The provider's executable.
        executable: PathBuf,
    },
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    let Command::Pack { name, out, executable } = command;
    let bytes = std::fs::read(&executable)
        .with_context(|| format!("could not read {}", executable.display()))?;
    let mut archive =
        ProviderArchive::new(&name, "Millrace", None, Some(env!("CARGO_PKG_VERSION").to_owned()));
    archive
        .add_library(&format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS), &bytes)
        .map_err(|e| anyhow::anyhow!("could not add the executable: {e}"))?;
    // The archive's format wants a signature. Nothing checks it on a lattice of one tenant, and a key that is
    // thrown away can sign nothing else.
    let (issuer, subject) = (KeyPair::new_account(), KeyPair::new_service());
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
    }
    // Written beside and moved into place: a host may be reading the old one.
    let new = out.with_extension("new.gz");
    archive
        .write(&new, &issuer, &subject, true)
        .await
        .map_err(|e| anyhow::anyhow!("could not write {}: {e}", new.display()))?;
    std::fs::rename(&new, &out).with_context(|| format!("could not write {}", out.display()))?;
    let size = std::fs::metadata(&out).map(|m| m.len()).unwrap_or_default();
    if ui.json {
        return ui.json(&serde_json::json!({ "name": name, "file": out, "bytes": size }));
    }
    ui.line(format!("{}: {:.1} MB", out.display(), size as f64 / 1e6));
    Ok(())
}
