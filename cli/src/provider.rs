//! `millrace provider`: the archives that wasmCloud starts, and the providers of a lattice, which its pipelines share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use millrace_artifacts::Reference;
use millrace_artifacts::installed::{self, LatticeHost};
use millrace_wadm::{Applications, Manifest, ProviderOnLattice};
use nkeys::KeyPair;
use provider_archive::ProviderArchive;
use sha2::{Digest as _, Sha256};

use crate::pipeline::{build, show};
use crate::ui::{Ui, human_size};
use crate::{audit, lattice};

/// Work with providers: what talks to brokers and machines, for all pipelines of a lattice.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the providers of a lattice, and the pipelines that use them.
    #[command(after_help = "Examples:\n  millrace provider list\n  millrace --json provider list")]
    List {
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Put providers of this installation on a lattice, or replace them. Deploying a pipeline does so by itself.
    #[command(
        after_help = "Example:\n  millrace provider deploy mqtt kafka\n\nA provider in another version is replaced \
                      under the pipelines that use it: its links drain, and go on in the new one. Every host of the lattice must \
                      have that version in its own installation."
    )]
    Deploy {
        /// The providers: conduit, gpio, http, kafka, modbus, mqtt.
        #[arg(required = true)]
        providers: Vec<String>,
        /// Also when a host does not have it. The provider ends where it runs, and comes back when wadm tries a host that has it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Print the wadm manifest of a provider of this installation.
    #[command(
        after_help = "Examples:\n  millrace provider manifest mqtt > mqtt.yaml && wash app deploy mqtt.yaml\n  millrace provider manifest mqtt --installed          for hosts on other machines, or of tenants"
    )]
    Manifest {
        /// The provider.
        provider: String,
        /// Name it as every Millrace host of this release has it, and not as a file of this machine.
        #[arg(long)]
        installed: bool,
    },
    /// Take a provider off a lattice. It must not be in use.
    #[command(after_help = "Example:\n  millrace provider undeploy kafka")]
    Undeploy {
        /// The provider.
        provider: String,
        #[command(flatten)]
        lattice: lattice::Options,
        /// Give up waiting after this time.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = millrace_platform::parse_time)]
        timeout: Duration,
    },
    /// Pack an executable into a provider archive for this machine's architecture.
    #[command(
        after_help = "Example:\n  millrace provider pack --name mqtt --out mqtt.par.gz target/debug/millrace-mqtt\n\nThe \
                      archive is written beside FILE under a name of its content (mqtt-1a2b3c4d.par.gz), and FILE is a \
                      link to it: a host that runs the old one can start it again."
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
    match command {
        Command::List { lattice } => {
            let applications = Applications::new(lattice.connect().await?, lattice.name());
            let providers = applications.providers().await?;
            if ui.json {
                return ui.json(&providers);
            }
            if providers.is_empty() {
                ui.step(format!("no provider on lattice `{}`", lattice.name()));
            }
            providers.iter().for_each(|provider| line(ui, provider));
            Ok(())
        }
        Command::Deploy { providers, force, lattice } => {
            let manifests =
                providers.iter().map(|p| build::provider(p)).collect::<anyhow::Result<Vec<_>>>()?;
            let nats = lattice.connect().await?;
            let applications = Applications::new(nats.clone(), lattice.name());
            match can_run(ui, &nats, &applications, lattice.name(), &manifests).await {
                Err(error) if force => ui.warn(format!("{error:#}")),
                asked => asked?,
            }
            let mut versions = serde_json::Map::new();
            for (provider, manifest) in providers.iter().zip(&manifests) {
                deploy(ui, &applications, manifest).await?;
                let subject = format!("{provider} {}", manifest.version());
                audit::note(ui, &lattice, &nats, "provider.deploy", &subject).await;
                versions.insert(provider.clone(), manifest.version().into());
            }
            if ui.json { ui.json(&versions) } else { Ok(()) }
        }
        Command::Manifest { provider, installed } => {
            let manifest = match installed {
                true => build::provider(&provider)?,
                false => build::provider_file(&provider)?,
            };
            if ui.json {
                return ui.json(&manifest);
            }
            ui.line(show::yaml(&manifest)?);
            Ok(())
        }
        Command::Undeploy { provider, lattice, timeout } => {
            let nats = lattice.connect().await?;
            let applications = Applications::new(nats.clone(), lattice.name());
            applications.undeploy_provider(&provider, timeout).await?;
            audit::note(ui, &lattice, &nats, "provider.undeploy", &provider).await;
            if ui.json {
                return ui.json(&serde_json::json!({ "provider": provider }));
            }
            ui.line(format!("{provider} is undeployed"));
            Ok(())
        }
        Command::Pack { name, out, executable } => pack(ui, &name, &out, &executable).await,
    }
}

/// Refuses providers that a host of the lattice could not start, because its installation has no such build: the one that
/// runs would be taken away, and the new one not come. What is deployed already is not asked for.
pub(crate) async fn can_run(
    ui: Ui,
    nats: &async_nats::Client,
    applications: &Applications,
    lattice: &str,
    manifests: &[Manifest],
) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for manifest in manifests {
        let archives = millrace_wadm::images(manifest).filter_map(|image| match image.parse() {
            Ok(Reference::Provider { archive }) => Some(archive),
            _ => None,
        });
        let archives: Vec<String> = archives.collect();
        if !applications.is_deployed(manifest).await? {
            wanted.extend(archives);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let hosts = installed::hosts(nats, lattice).await?;
    if hosts.is_empty() {
        ui.warn(format!(
            "no host of lattice `{lattice}` answers, so nobody says whether it has {}",
            wanted.join(", ")
        ));
    }
    let lacking: Vec<String> = hosts.iter().filter_map(|host| lacks(host, &wanted)).collect();
    anyhow::ensure!(
        lacking.is_empty(),
        "{}. A host starts providers from its own installation: install this release there, as well as the one it has, or deploy \
         from an installation as the hosts have it. Nothing was changed; `millrace provider deploy NAME --force` replaces a \
         provider all the same, and it then runs on no host that lacks it",
        lacking.join("; ")
    );
    Ok(())
}

/// What a host lacks of these archives, in words; nothing where it has all.
fn lacks(host: &LatticeHost, wanted: &[String]) -> Option<String> {
    let who = match host.name.as_str() {
        "" => format!("host {}", host.id),
        name => format!("host {name} ({})", host.id),
    };
    let Some(has) = &host.providers else {
        return Some(format!(
            "{who} does not say which providers it has: it is of an older release, or none of Millrace's"
        ));
    };
    let lacking: Vec<&str> =
        wanted.iter().filter(|one| !has.contains(*one)).map(String::as_str).collect();
    if lacking.is_empty() {
        return None;
    }
    // Of the same providers, which is what helps to find the release.
    let kinds: Vec<&str> =
        lacking.iter().map(|one| one.rsplit_once('-').map_or(*one, |(kind, _)| kind)).collect();
    let own = has
        .iter()
        .filter(|one| one.rsplit_once('-').is_some_and(|(kind, _)| kinds.contains(&kind)));
    let own: Vec<&str> = own.map(String::as_str).collect();
    let own = if own.is_empty() { "none of that name".to_owned() } else { own.join(", ") };
    Some(format!("{who} has no {}; it has {own}", lacking.join(", ")))
}

/// Deploys a provider, and says so where that does something.
pub(crate) async fn deploy(
    ui: Ui,
    applications: &Applications,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    let deployed = applications.deploy_application(manifest).await?;
    if !deployed.unchanged {
        ui.step(format!("deploying {}, version {}", manifest.metadata.name, deployed.version));
    }
    Ok(())
}

fn line(ui: Ui, provider: &ProviderOnLattice) {
    let running = match provider.hosts.len() {
        0 => ui.red("not running"),
        _ => ui.green("running"),
    };
    let version = provider.version.as_deref().unwrap_or("none deployed");
    let users = match provider.used_by.as_slice() {
        [] => "used by none".to_owned(),
        users => format!("used by {}", users.join(", ")),
    };
    ui.line(format!("{:<10} {running}  version {version}  {users}", provider.provider));
}

async fn pack(ui: Ui, name: &str, out: &Path, executable: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(executable)
        .with_context(|| format!("could not read {}", executable.display()))?;
    let mut archive =
        ProviderArchive::new(name, "Millrace", None, Some(env!("CARGO_PKG_VERSION").to_owned()));
    archive
        .add_library(&format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS), &bytes)
        .map_err(|e| anyhow::anyhow!("could not add the executable: {e}"))?;
    // The archive's format wants a signature. Nothing checks it on a lattice of one tenant, and a key that is
    // thrown away can sign nothing else.
    let (issuer, subject) = (KeyPair::new_account(), KeyPair::new_service());
    let folder = out.parent().unwrap_or(Path::new(""));
    if folder != Path::new("") {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
    }
    let hash: String = Sha256::digest(&bytes).iter().take(4).map(|b| format!("{b:02x}")).collect();
    let file = folder.join(format!("{name}-{hash}.par.gz"));
    // Written beside and moved into place: a host may be reading the old one.
    let new = folder.join(format!("{name}-{hash}.new.gz"));
    archive
        .write(&new, &issuer, &subject, true)
        .await
        .map_err(|e| anyhow::anyhow!("could not write {}: {e}", new.display()))?;
    std::fs::rename(&new, &file).with_context(|| format!("could not write {}", file.display()))?;
    point(out, &file).with_context(|| format!("could not write {}", out.display()))?;
    let size = std::fs::metadata(&file).map(|m| m.len()).unwrap_or_default();
    if ui.json {
        return ui.json(&serde_json::json!({ "name": name, "file": file, "bytes": size }));
    }
    ui.line(format!("{}: {}", file.display(), human_size(size)));
    Ok(())
}

/// Makes `link` name the file beside it, at once for whoever reads it.
fn point(link: &Path, file: &Path) -> std::io::Result<()> {
    let new = link.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(file.file_name().unwrap_or_default(), &new)?;
    std::fs::rename(&new, link)
}
