//! An installation of many tenants: its keys, and a NATS server in operator mode over TLS.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_access::Access;
use millrace_lattice_config::Home;
use millrace_lattice_config::ca::Authority;
use millrace_lattice_config::resolver::Address;
use millrace_lattice_config::server::ServerOptions;
use millrace_lattice_config::tenants::Tenants;
use millrace_platform::{Configured, NatsServer, Sync};

use crate::tenant;
use crate::ui::Ui;

/// One whose server runs.
pub(crate) struct Installation {
    pub(crate) nats: NatsServer,
    pub(crate) nats_url: String,
    /// The authority of the server's certificate.
    pub(crate) tls_ca: PathBuf,
    pub(crate) tenants: Tenants,
}

impl Installation {
    /// Makes what is missing in the data folder, and starts the server on a port of this machine: for this machine alone, or,
    /// with the names by which others know it, on all its addresses.
    pub(crate) async fn start(
        ui: Ui,
        data: &Path,
        port: u16,
        sync: Sync,
        known_as: &[String],
    ) -> anyhow::Result<Self> {
        let home = Home::create(&tenant::root(data), tenant::passphrase().as_deref())?;
        let authority = Authority::create(&home.tls_folder())?;
        let own = ["127.0.0.1", "localhost"].map(str::to_owned);
        let names: Vec<String> = own.iter().chain(known_as).cloned().collect();
        let address = if known_as.is_empty() { "127.0.0.1" } else { "0.0.0.0" };
        let dir = home.root().join("nats");
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("could not make {}", dir.display()))?;
        let (config, pid_file) = (dir.join("nats.conf"), dir.join("nats.pid"));
        let mut options = ServerOptions::new(&home, &format!("{address}:{port}"));
        options.name = Some(format!("millrace-{port}"));
        options.pid_file = Some(pid_file.clone());
        options.tls = Some(authority.server("nats", &names)?);
        if matches!(sync, Sync::Always) {
            "always".clone_into(&mut options.sync_interval);
        }
        options.write(&home, &config)?;
        ui.step(format!("starting nats-server on port {port}"));
        let tls_ca = authority.file();
        let access = Access { creds: Some(home.system_creds()), tls_ca: Some(tls_ca.clone()) };
        let configured = Configured { port, dir, config, pid_file, access };
        let nats = NatsServer::start_configured(&configured).await?;
        let nats_url = nats.url();
        let address = Address { url: nats_url.clone(), authority: Some(tls_ca.clone()) };
        let tenants = Tenants::new(home, address, &tenant::who());
        Ok(Self { nats, nats_url, tls_ca, tenants })
    }
}
