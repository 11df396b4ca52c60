//! An installation with a server, for tests.
#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use millrace_lattice_config::jwt::read_credentials;
use millrace_lattice_config::resolver::Address;
use millrace_lattice_config::server::ServerOptions;
use millrace_lattice_config::tenants::{Limits, Record, Step, TenantError, Tenants};
use millrace_lattice_config::{Home, Role};
use millrace_peers::{NatsServer, free_port};
use tempfile::TempDir;

pub(crate) struct Bed {
    pub(crate) folder: TempDir,
    pub(crate) home: Home,
    pub(crate) server: NatsServer,
    pub(crate) tenants: Tenants,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("lattice"), None).unwrap();
        let port = free_port().unwrap();
        let options = ServerOptions::new(&home, &format!("127.0.0.1:{port}"));
        options.write(&home, &folder.path().join("nats.conf")).unwrap();
        let config = options.configuration(&home);
        let server = NatsServer::start_configured(&config, port).unwrap();
        let tenants = Tenants::new(home.clone(), Address::plain(&server.url()), "tester");
        Self { folder, home, server, tenants }
    }

    pub(crate) async fn add(&self, name: &str) -> Record {
        add(&self.tenants, name).await.unwrap()
    }

    /// As one of the platform's users of a tenant.
    pub(crate) async fn connect(&self, name: &str, role: Role) -> Client {
        connect(&self.server.url(), &self.tenants.creds_file(name, role).unwrap()).await.unwrap()
    }
}

pub(crate) async fn add(tenants: &Tenants, name: &str) -> Result<Record, TenantError> {
    tenants
        .add(name, &Limits::default(), &BTreeMap::new(), &mut |_| ControlFlow::Continue(()))
        .await
}

/// Stopped after a step.
pub(crate) async fn add_until(
    tenants: &Tenants,
    name: &str,
    last: Step,
) -> Result<Record, TenantError> {
    let mut stop =
        |step| if step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    tenants.add(name, &Limits::default(), &BTreeMap::new(), &mut stop).await
}

pub(crate) async fn connect(url: &str, creds: &Path) -> Result<Client, String> {
    connect_text(url, &std::fs::read_to_string(creds).unwrap()).await
}

pub(crate) async fn connect_text(url: &str, creds: &str) -> Result<Client, String> {
    let options = ConnectOptions::with_credentials(creds)
        .map_err(|e| e.to_string())?
        .request_timeout(Some(Duration::from_secs(2)));
    // As this platform's clients do: where answers go stands in the token.
    let tags = read_credentials(creds).map(|(claims, ..)| claims.nats.tags).unwrap_or_default();
    let options = match tags.iter().find_map(|tag| tag.strip_prefix("inbox:")) {
        Some(inbox) => options.custom_inbox_prefix(inbox),
        None => options,
    };
    options.connect(url).await.map_err(|e| e.to_string())
}

/// Waits for something to become true.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not in five seconds: {what}");
}
