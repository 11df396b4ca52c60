//! What a host of a tenant, and the providers that it starts, may do on their machine ([`millrace_confine`]).

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use millrace_confine::Confinement;
use millrace_platform::find;

use crate::{Args, credentials};

/// How much of the machine is kept from this process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfineOptions {
    /// Keep all files of this machine, other processes and privileges from this process and its providers, but for what they
    /// need: the system's libraries, certificates and names, this installation's providers, and
    /// below TMPDIR a folder of their own. Linux 5.13 or newer.
    #[arg(long)]
    confine: bool,
    /// Confined, this file or folder can be read all the same; may be given several times.
    #[arg(long, value_name = "PATH", requires = "confine")]
    allow_read: Vec<PathBuf>,
    /// Confined, this device can be used; may be given several times.
    #[arg(long = "device", value_name = "PATH", requires = "confine")]
    devices: Vec<PathBuf>,
}

/// Variables that a confined host has of its environment, and those that begin with [`TRACES`], but for headers, which have
/// keys in them. What else was there was for somebody else, and may be a secret.
const KEPT: [&str; 13] = [
    "LANG",
    "MILLRACE_CREDS",
    "MILLRACE_HOME",
    "MILLRACE_LATTICE",
    "MILLRACE_NATS_URL",
    "MILLRACE_TLS_CA",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_DIR",
    "TMPDIR",
    "TZ",
];
const TRACES: &str = "OTEL_";

fn is_kept(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        let of_traces = name.starts_with(TRACES) && !name.contains("HEADERS");
        KEPT.contains(&name) || name == credentials::TRUST || of_traces
    })
}

impl ConfineOptions {
    /// The environment to go on with, where it has to be another one than this.
    pub(crate) fn environment(&self) -> Option<Vec<(OsString, OsString)>> {
        let all: Vec<_> = std::env::vars_os().collect();
        let other = self.confine && !all.iter().all(|(name, _)| is_kept(name));
        other.then(|| all.into_iter().filter(|(name, _)| is_kept(name)).collect())
    }
}

/// Confines this process, if that is wanted. It has one thread still.
pub(crate) fn enforce(args: &Args) -> anyhow::Result<()> {
    let ConfineOptions { confine: true, allow_read, devices } = &args.confine else {
        return Ok(());
    };
    let mut confinement = Confinement::new();
    confinement.work(folder()?);
    if let Some(folder) = args.artifacts.folder() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        confinement.work(folder);
    }
    confinement.run(std::env::current_exe().context("this executable's path is not known")?);
    let providers = Some(find::home().join("providers")).filter(|folder| folder.is_dir());
    let trusted = [credentials::TRUST, "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os);
    let named = trusted.map(PathBuf::from).filter(|path| path.exists());
    for path in args
        .credentials
        .tls_ca()
        .cloned()
        .into_iter()
        .chain(allow_read.iter().cloned())
        .chain(providers)
        .chain(named)
    {
        confinement.read(path);
    }
    for device in devices {
        match device.exists() {
            true => confinement.device(device),
            false => tracing::warn!(
                "there is no device {}; when it comes, start this host anew",
                device.display()
            ),
        }
    }
    let enforced = confinement.enforce().context("refusing to start")?;
    tracing::info!(landlock = enforced.abi, "confined");
    for what in enforced.lacking() {
        tracing::warn!("this kernel does not keep providers from {what}");
    }
    Ok(())
}

/// The folder for temporary files, where providers are unpacked: nobody else's.
fn folder() -> anyhow::Result<PathBuf> {
    const MEND: &str = "--confine needs a folder that is this host's alone: TMPDIR=/var/lib/millrace/host-1/tmp, with mode 0700";
    let folder = PathBuf::from(std::env::var_os("TMPDIR").context(MEND)?);
    let about =
        std::fs::metadata(&folder).with_context(|| folder.display().to_string()).context(MEND)?;
    let own = about.uid() == rustix::process::getuid().as_raw() && about.mode() & 0o022 == 0;
    anyhow::ensure!(about.is_dir() && own, "{}: others may write there. {MEND}", folder.display());
    Ok(folder)
}
