//! Servers for one measurement: started for it, ended after it whatever happens.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
pub use millrace_platform::Sync;
use millrace_platform::{Host, HostOptions, LogLimits, NatsOptions, NatsServer};
use tempfile::TempDir;

/// The lattice of every measurement.
pub(crate) const LATTICE: &str = "bench";

/// Ctrl-C: what was started has been ended.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A nats-server, and a host with wadm where one was asked for.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
    url: String,
    host_id: Option<u32>,
}

/// What runs.
#[derive(Debug, Default)]
struct Servers {
    host: Option<Host>,
    nats: Option<NatsServer>,
}

impl Servers {
    async fn stop(self) {
        if let Some(host) = self.host {
            host.stop().await;
        }
        if let Some(nats) = self.nats {
            nats.stop().await;
        }
    }
}

impl Lab {
    /// Measures with a nats-server alone.
    pub(crate) async fn nats<T>(
        sync: Sync,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Self::with(sync, false, work).await
    }

    /// Measures with a nats-server and a host.
    ///
    /// # Errors
    ///
    /// When a server does not start, when `work` fails, or at Ctrl-C.
    pub async fn host<T>(
        sync: Sync,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Self::with(sync, true, work).await
    }

    async fn with<T>(
        sync: Sync,
        host: bool,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut servers = Servers::default();
        let all = async {
            let lab = Self::start(&mut servers, sync, host).await?;
            work(&lab).await
        };
        let result = tokio::select! {
            result = all => result,
            _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
        };
        servers.stop().await;
        result
    }

    async fn start(servers: &mut Servers, sync: Sync, host: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("millrace-bench-")
            .tempdir()
            .context("no temporary folder")?;
        let log = LogLimits::default();
        let options = NatsOptions { port: 0, dir: folder.path().join("nats"), sync, log };
        let url = servers.nats.insert(NatsServer::start(&options).await?).url();
        let mut lab = Self { folder, url, host_id: None };
        if host {
            let options = HostOptions {
                nats_url: lab.url.clone(),
                lattice: LATTICE.to_owned(),
                access: Default::default(),
                dir: lab.folder.path().join("host"),
                arguments: Vec::new(),
                through: Vec::new(),
                log: Default::default(),
            };
            lab.host_id = servers.host.insert(Host::start(&options).await?).id();
        }
        Ok(lab)
    }

    /// A new connection to the nats-server.
    pub(crate) async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::connect(&self.url)
            .await
            .context("could not connect to the nats-server just started")
    }

    /// A folder that is removed afterwards.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes an artifact to where the host can load it; answers its reference.
    pub(crate) fn artifact(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let file = self.folder().join(name).with_extension("wasm");
        std::fs::write(&file, bytes)
            .with_context(|| format!("could not write {}", file.display()))?;
        Ok(reference(&file))
    }

    /// The archive of a provider, under a path for this one use: a host unpacks to a place named after the path, and
    /// two providers of one path would write over each other's running executable.
    pub(crate) fn provider(&self, name: &str, instance: &str) -> anyhow::Result<String> {
        let installed = millrace_platform::find::provider(name)?;
        let own = self.folder().join(format!("{instance}.par.gz"));
        std::fs::copy(&installed, &own).with_context(|| {
            format!("could not copy {} to {}", installed.display(), own.display())
        })?;
        Ok(reference(&own))
    }

    /// Process id of the host.
    pub(crate) fn host_id(&self) -> anyhow::Result<u32> {
        self.host_id.context("no host runs")
    }

    /// Process id of the nats-server.
    pub(crate) fn nats_id(&self) -> anyhow::Result<u32> {
        let file: PathBuf = self.folder().join("nats/nats.pid");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("could not read {}", file.display()))?;
        match text.trim().parse() {
            Ok(id) => Ok(id),
            Err(_) => bail!("{} holds no process id", file.display()),
        }
    }
}

/// A file as a host takes it.
pub(crate) fn reference(file: &Path) -> String {
    format!("file://{}", file.display())
}
