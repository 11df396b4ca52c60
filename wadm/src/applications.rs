//! The life of applications on a lattice, through wadm's API.

use std::time::{Duration, Instant};

use wadm_client::error::ClientError;
use wadm_types::Manifest;
use wadm_types::api::{StatusType, VersionInfo};
use wasmcloud_control_interface::{Client as Control, ClientBuilder};

use crate::status::{self, PipelineStatus};

/// Hosts answer an auction within this time, or not at all as far as a command is concerned.
const AUCTION: Duration = Duration::from_millis(600);

/// A deployment of which nothing runs after this time is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(4);

/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(150);

/// Why an application is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum WadmError {
    /// wadm does not answer on this lattice.
    #[error(
        "wadm does not answer on lattice `{lattice}`: {cause}. Is a platform running? Start one with `millrace up`"
    )]
    NoAnswer {
        /// The lattice.
        lattice: String,
        /// What the request came to.
        cause: String,
    },
    /// wadm refused.
    #[error("wadm refused to {what} `{name}`: {cause}")]
    Refused {
        /// The attempt.
        what: &'static str,
        /// The application.
        name: String,
        /// wadm's words.
        cause: String,
    },
    /// No such application.
    #[error("no pipeline `{name}` on lattice `{lattice}`")]
    NotFound {
        /// The application.
        name: String,
        /// The lattice.
        lattice: String,
    },
    /// The wait was long enough.
    #[error("`{name}` is not {wanted} after {} s: {found}", after.as_secs())]
    TimedOut {
        /// The application.
        name: String,
        /// The state waited for.
        wanted: &'static str,
        /// The time waited.
        after: Duration,
        /// What is missing.
        found: String,
    },
}

/// What a deployment came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The version that runs now.
    pub version: String,
    /// True when that version was deployed already and nothing was done.
    pub unchanged: bool,
}

/// The applications of one lattice.
#[derive(Clone)]
pub struct Applications {
    wadm: wadm_client::Client,
    control: Control,
    nats: async_nats::Client,
    lattice: String,
}

impl Applications {
    /// Speaks to the lattice over this connection.
    #[must_use]
    pub fn new(nats: async_nats::Client, lattice: &str) -> Self {
        Self {
            wadm: wadm_client::Client::from_nats_client(lattice, None, nats.clone()),
            control: ClientBuilder::new(nats.clone())
                .lattice(lattice)
                .auction_timeout(AUCTION)
                .build(),
            nats,
            lattice: lattice.to_owned(),
        }
    }

    /// Stores the manifest and deploys it. The same manifest twice changes nothing.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or refuses the manifest.
    pub async fn deploy(&self, manifest: &Manifest) -> Result<Deployed, WadmError> {
        let name = manifest.metadata.name.as_str();
        let version = manifest.version().to_owned();
        let known = self.versions(name).await?;
        match known.iter().find(|v| v.version == version) {
            Some(v) if v.deployed => return Ok(Deployed { version, unchanged: true }),
            Some(_) => {}
            None => {
                let put = self.wadm.put_manifest(manifest.clone()).await;
                put.map_err(|e| self.error("store", name, e))?;
            }
        }
        self.wadm
            .deploy_manifest(name, Some(&version))
            .await
            .map_err(|e| self.error("deploy", name, e))?;
        Ok(Deployed { version, unchanged: false })
    }

    /// Stored versions of an application, empty when it is unknown.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub async fn versions(&self, name: &str) -> Result<Vec<VersionInfo>, WadmError> {
        match self.wadm.list_versions(name).await {
            Ok(versions) => Ok(versions),
            Err(ClientError::NotFound(_)) => Ok(Vec::new()),
            Err(e) => Err(self.error("list the versions of", name, e)),
        }
    }

    /// The application's status, seen from wadm, the hosts and the providers.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or knows no such application.
    pub async fn status(&self, name: &str) -> Result<PipelineStatus, WadmError> {
        // wadm answers "undeployed" for any name at all; its list of versions alone says whether it knows one.
        let versions = self.versions(name).await?;
        if versions.is_empty() {
            return Err(self.not_found(name));
        }
        let wadm = self
            .wadm
            .get_manifest_status(name)
            .await
            .map_err(|e| self.error("tell the status of", name, e))?;
        let deployed = versions.into_iter().find(|v| v.deployed).map(|v| v.version);
        let wanted = match &deployed {
            Some(version) => self.wadm.get_manifest(name, Some(version)).await.ok(),
            None => None,
        };
        let inventories = self.inventories().await;
        let providers = status::ask_providers(&self.nats, &self.lattice, name).await;
        Ok(status::combine(name, deployed, &wadm, wanted.as_ref(), &inventories, providers))
    }

    /// Waits until every stage and provider runs and every link is up; the closure sees each look.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or the time is up: the error says what is missing.
    pub async fn wait_running(
        &self,
        name: &str,
        patience: Duration,
        mut look: impl FnMut(&PipelineStatus),
    ) -> Result<PipelineStatus, WadmError> {
        let start = Instant::now();
        let mut asked = start;
        loop {
            let status = self.status(name).await?;
            look(&status);
            // wadm can miss a deployment that it accepted while it was starting; asked again it acts.
            if asked.elapsed() > ASK_AGAIN && status.nothing_runs() {
                asked = Instant::now();
                let version = status.version.as_deref();
                self.wadm
                    .deploy_manifest(name, version)
                    .await
                    .map_err(|e| self.error("deploy", name, e))?;
            }
            if status.running() {
                return Ok(status);
            }
            if start.elapsed() > patience {
                let found = status.missing().join("; ");
                return Err(WadmError::TimedOut {
                    name: name.to_owned(),
                    wanted: "running",
                    after: patience,
                    found,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the application down, waits until nothing of it runs, and forgets its versions.
    ///
    /// # Errors
    ///
    /// wadm does not answer, knows no such application, or something still runs after `patience`.
    pub async fn undeploy(&self, name: &str, patience: Duration) -> Result<(), WadmError> {
        if self.versions(name).await?.is_empty() {
            return Err(self.not_found(name));
        }
        self.wadm.undeploy_manifest(name).await.map_err(|e| self.error("undeploy", name, e))?;
        let start = Instant::now();
        loop {
            let left = status::remains(name, &self.inventories().await);
            if left.is_empty() {
                break;
            }
            if start.elapsed() > patience {
                let found = format!("still running: {}", left.join(", "));
                return Err(WadmError::TimedOut {
                    name: name.to_owned(),
                    wanted: "undeployed",
                    after: patience,
                    found,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        self.wadm.delete_manifest(name, None).await.map_err(|e| self.error("forget", name, e))?;
        Ok(())
    }

    /// True when wadm says that the application is deployed, whatever hosts and providers say.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub async fn settled(&self, name: &str) -> Result<bool, WadmError> {
        let status = self
            .wadm
            .get_manifest_status(name)
            .await
            .map_err(|e| self.error("tell the status of", name, e))?;
        Ok(status.info.status_type == StatusType::Deployed)
    }

    async fn inventories(&self) -> Vec<status::Inventory> {
        let hosts = self.control.get_hosts().await.unwrap_or_default();
        let ids = hosts.into_iter().filter_map(|h| h.into_data()).map(|h| h.id().to_owned());
        let asked = ids.map(|id| async move { self.control.get_host_inventory(&id).await });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().filter_map(|a| a.into_data()).collect()
    }

    fn not_found(&self, name: &str) -> WadmError {
        WadmError::NotFound { name: name.to_owned(), lattice: self.lattice.clone() }
    }

    fn error(&self, what: &'static str, name: &str, error: ClientError) -> WadmError {
        match error {
            ClientError::NotFound(_) => self.not_found(name),
            ClientError::NatsError(e) => {
                WadmError::NoAnswer { lattice: self.lattice.clone(), cause: e.to_string() }
            }
            other => WadmError::Refused { what, name: name.to_owned(), cause: other.to_string() },
        }
    }
}
