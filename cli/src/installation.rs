//! An installation of many tenants: its keys, and a NATS server in operator mode over TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use millrace_access::Access;
use millrace_lattice_config::Home;
use millrace_lattice_config::ca::Authority;
use millrace_lattice_config::resolver::Address;
use millrace_lattice_config::server::{LogFile, ServerOptions, TlsFiles};
use millrace_lattice_config::tenants::Tenants;
use millrace_platform::{Configured, LogLimits, NatsServer, Sync};

use crate::tenant;
use crate::ui::Ui;

/// Names of certificates.
const NATS: &str = "nats";
const API: &str = "api";

/// Between looks at how long certificates still count.
const LOOK: Duration = Duration::from_secs(30);

/// One whose server runs.
pub(crate) struct Installation {
    pub(crate) nats: NatsServer,
    pub(crate) nats_url: String,
    /// The authority of the server's certificate.
    pub(crate) tls_ca: PathBuf,
    pub(crate) tenants: Tenants,
    pub(crate) certificates: Certificates,
}

/// Certificates of this installation's servers, by its own authority.
pub(crate) struct Certificates {
    folder: PathBuf,
    names: Vec<String>,
}

impl Certificates {
    /// Those of servers that others know by these names; this machine's own always count.
    fn new(home: &Home, known_as: &[String]) -> Self {
        let own = ["127.0.0.1", "localhost"].map(str::to_owned);
        let names = own.iter().chain(known_as).cloned().collect();
        Self { folder: home.tls_folder(), names }
    }

    /// The certificate of a server, made or renewed where it has to be.
    pub(crate) fn of(&self, server: &str) -> anyhow::Result<TlsFiles> {
        Ok(Authority::create(&self.folder)?.server(server, &self.names)?)
    }

    /// That of the control API.
    pub(crate) fn of_api(&self) -> anyhow::Result<TlsFiles> {
        Ok(Authority::create(&self.folder)?.web_server(API, &self.names)?)
    }

    /// Looks every half a minute whether certificates come to their end, and renews them long before. nats-server is told; the
    /// control API looks by itself.
    pub(crate) async fn keep(&self, ui: Ui, nats: &Path, api: bool) {
        let mut failed = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew(api) {
                Ok(false) => {}
                Ok(true) => {
                    ui.step("the server's certificate is renewed");
                    NatsServer::reload(nats);
                }
                Err(error) if format!("{error:#}") == failed => {}
                Err(error) => {
                    failed = format!("{error:#}");
                    ui.warn(format!("certificates cannot be renewed: {failed}"));
                }
            }
        }
    }

    /// Whether that of nats-server is another one now.
    fn renew(&self, api: bool) -> anyhow::Result<bool> {
        let is = || std::fs::read(self.folder.join(format!("{NATS}.pem"))).ok();
        let was = is();
        self.of(NATS)?;
        if api {
            self.of_api()?;
        }
        Ok(is() != was)
    }
}

impl Installation {
    /// Makes what is missing in the data folder, and starts the server on a port of this machine: for this machine alone, or,
    /// with the names by which others know it, on all its addresses.
    pub(crate) async fn start(
        ui: Ui,
        data: &Path,
        port: u16,
        sync: Sync,
        log: LogLimits,
        known_as: &[String],
    ) -> anyhow::Result<Self> {
        let home = Home::create(&tenant::root(data), tenant::passphrase().as_deref())?;
        let certificates = Certificates::new(&home, known_as);
        let address = if known_as.is_empty() { "127.0.0.1" } else { "0.0.0.0" };
        let dir = home.root().join("nats");
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("could not make {}", dir.display()))?;
        let (config, pid_file) = (dir.join("nats.conf"), dir.join("nats.pid"));
        let mut options = ServerOptions::new(&home, &format!("{address}:{port}"));
        options.name = Some(format!("millrace-{port}"));
        options.pid_file = Some(pid_file.clone());
        options.log =
            Some(LogFile { path: dir.join("nats.log"), bytes: log.bytes, files: log.files });
        let tls = certificates.of(NATS)?;
        let tls_ca = tls.authority.clone();
        options.tls = Some(tls);
        if matches!(sync, Sync::Always) {
            "always".clone_into(&mut options.sync_interval);
        }
        options.write(&home, &config)?;
        ui.step(format!("starting nats-server on port {port}"));
        let access = Access { creds: Some(home.system_creds()), tls_ca: Some(tls_ca.clone()) };
        let configured = Configured { port, dir, config, pid_file, access };
        let nats = NatsServer::start_configured(&configured).await?;
        let nats_url = nats.url();
        let address = Address { url: nats_url.clone(), authority: Some(tls_ca.clone()) };
        let tenants = Tenants::new(home, address, &tenant::who());
        Ok(Self { nats, nats_url, tls_ca, tenants, certificates })
    }
}
