//! The life of applications on a lattice, through wadm's API.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use wadm_client::error::ClientError;
use wadm_types::Manifest;
use wadm_types::api::{ModelSummary, StatusType, VersionInfo};
use wasmcloud_control_interface::{Client as Control, ClientBuilder};

use crate::manifest::{provider_application, shared_applications};
use crate::rollout::{Rollout, RolloutState, Rollouts, count_links};
use crate::stages::{self, DeployedStage};
use crate::status::{self, PipelineStatus};

/// Hosts answer an auction within this time, or not at all as far as a command is concerned.
const AUCTION: Duration = Duration::from_millis(600);

/// A deployment of which nothing runs after this time is asked for again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(4);

/// A stage that runs for so long after wadm was told to undeploy its pipeline, wadm does not know of.
const LATE: Duration = Duration::from_secs(10);

/// So many versions of a pipeline are read at once.
const READING: usize = 8;

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
    /// No version is deployed.
    #[error(
        "no version of pipeline `{name}` is deployed on lattice `{lattice}`; deploy it with `millrace pipeline deploy`"
    )]
    NotDeployed {
        /// The application.
        name: String,
        /// The lattice.
        lattice: String,
    },
    /// No such provider.
    #[error("provider `{provider}` is not on lattice `{lattice}`")]
    NoProvider {
        /// The provider.
        provider: String,
        /// The lattice.
        lattice: String,
    },
    /// A provider that pipelines need.
    #[error("provider `{provider}` is used by {}; undeploy these first", used_by.join(", "))]
    InUse {
        /// The provider.
        provider: String,
        /// The pipelines.
        used_by: Vec<String>,
    },
    /// The record of roll-outs.
    #[error(
        "could not {what} the record of roll-outs ({pipeline}) on lattice `{lattice}`: {cause}"
    )]
    Rollouts {
        /// The attempt.
        what: &'static str,
        /// The pipeline.
        pipeline: String,
        /// The lattice.
        lattice: String,
        /// JetStream's words.
        cause: String,
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

impl WadmError {
    /// Whether there may be another answer when nats-server or wadm has started again.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Refused { .. } | Self::Rollouts { .. })
    }
}

/// Whoever waits for something bears for so long with a platform that does not answer.
const AWAY: Duration = Duration::from_secs(30);

/// Asks until there is an answer, as one that waits does: nats-server may start again meanwhile.
///
/// # Errors
///
/// The last error, when nothing else has come for 30 seconds.
pub async fn until_answered<T>(
    ask: impl AsyncFn() -> Result<T, WadmError>,
) -> Result<T, WadmError> {
    let start = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.may_pass() && start.elapsed() < AWAY => {
                tracing::debug!(%error, "asking again");
                tokio::time::sleep(POLL).await;
            }
            answer => return answer,
        }
    }
}

/// What a deployment came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The version that runs now.
    pub version: String,
    /// True when that version was deployed already and nothing was done.
    pub unchanged: bool,
}

/// What a pipeline is on a lattice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// The providers that it uses, which it shares with other pipelines.
    pub providers: Vec<Manifest>,
    /// Its own stages and links.
    pub pipeline: Manifest,
}

/// An application whose deployed version does not run in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incomplete {
    /// Its name.
    pub(crate) name: String,
    /// The version that is deployed.
    pub(crate) version: String,
    /// What does not run of it.
    pub(crate) missing: Vec<String>,
}

/// By the names of applications: the version that is deployed, and its manifest. A version of ours stays what it is.
pub(crate) type Manifests = HashMap<String, (String, Manifest)>;

/// A provider on a lattice.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProviderOnLattice {
    /// Its name.
    pub provider: String,
    /// The version that is deployed, if one is.
    pub version: Option<String>,
    /// The hosts that run it.
    pub hosts: Vec<String>,
    /// Deployed pipelines that use it.
    pub used_by: Vec<String>,
}

/// The applications of one lattice.
#[derive(Clone)]
pub struct Applications {
    wadm: wadm_client::Client,
    control: Control,
    nats: async_nats::Client,
    lattice: String,
    rollouts: Rollouts,
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
            rollouts: Rollouts::new(nats.clone(), lattice),
            nats,
            lattice: lattice.to_owned(),
        }
    }

    /// Deploys the pipeline, and its providers first, where the lattice does not have them in this version. The same
    /// deployment twice changes nothing.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or refuses a manifest.
    pub async fn deploy(&self, deployment: &Deployment) -> Result<Deployed, WadmError> {
        for provider in &deployment.providers {
            self.deploy_application(provider).await?;
        }
        self.deploy_application(&deployment.pipeline).await
    }

    /// Stores the manifest of one application and deploys it.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or refuses the manifest.
    pub async fn deploy_application(&self, manifest: &Manifest) -> Result<Deployed, WadmError> {
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
        self.ask_to_deploy(name, &version).await?;
        Ok(Deployed { version, unchanged: false })
    }

    /// Whether this very version of an application is the deployed one.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub async fn is_deployed(&self, manifest: &Manifest) -> Result<bool, WadmError> {
        let known = self.versions(&manifest.metadata.name).await?;
        Ok(known.iter().any(|known| known.deployed && known.version == manifest.version()))
    }

    /// Deploys another version of a pipeline beside the one that runs, as a roll-out: what it is to go back to, and when,
    /// is written down first. Nothing is written where no version is deployed, or this one.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or refuses the manifest.
    pub async fn roll_out(
        &self,
        manifest: &Manifest,
        settings: millrace_settings::Rollout,
        timeout: Duration,
    ) -> Result<(Deployed, Option<Rollout>), WadmError> {
        let name = manifest.metadata.name.as_str();
        let version = manifest.version().to_owned();
        let known = self.versions(name).await?;
        let deployed = known.iter().find(|v| v.deployed).map(|v| v.version.as_str());
        if deployed == Some(version.as_str()) {
            let last = self.rollouts.last(name).await?;
            let under_way = last.filter(|last| !last.state.has_ended() && last.to == version);
            return Ok((Deployed { version, unchanged: true }, under_way));
        }
        if !known.iter().any(|v| v.version == version) {
            let put = self.wadm.put_manifest(manifest.clone()).await;
            put.map_err(|e| self.error("store", name, e))?;
        }
        let begun = match deployed {
            Some(old) => {
                let links = status::ask_providers(&self.nats, &self.lattice, name).await;
                let new = Rollout::new(old, &version, settings, timeout, count_links(&links));
                self.rollouts.begin(name, new).await?
            }
            None => {
                let reason = format!("version {version} was deployed meanwhile");
                self.rollouts.end(name, RolloutState::Superseded, &reason).await?;
                None
            }
        };
        if let Err(error) = self.ask_to_deploy(name, &version).await {
            self.rollouts.end(name, RolloutState::Failed, &error.to_string()).await?;
            return Err(error);
        }
        Ok((Deployed { version, unchanged: false }, begun))
    }

    /// The roll-outs of this lattice.
    #[must_use]
    pub const fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    pub(crate) async fn ask_to_deploy(&self, name: &str, version: &str) -> Result<(), WadmError> {
        let asked = self.wadm.deploy_manifest(name, Some(version)).await;
        asked.map(|_| ()).map_err(|e| self.error("deploy", name, e))
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
        let wadm = self.status_of(name).await?;
        let deployed = versions.into_iter().find(|v| v.deployed).map(|v| v.version);
        let wanted = match &deployed {
            Some(version) => self.wadm.get_manifest(name, Some(version)).await.ok(),
            None => None,
        };
        let inventories = self.inventories().await;
        let providers = status::ask_providers(&self.nats, &self.lattice, name).await;
        let mut status =
            status::combine(name, deployed, &wadm, wanted.as_ref(), &inventories, providers);
        for provider in status.providers.iter_mut().filter(|p| p.running < p.wanted) {
            let its = self.status_of(&provider_application(&provider.name)).await?;
            provider.problem = status::provider_problem(&its);
        }
        status.rollout = self.rollouts.last(name).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the status is without its roll-out");
            None
        });
        Ok(status)
    }

    /// The images of all components and providers of an application in the version that is deployed, and in those that its
    /// history of roll-outs names: what runs, and what it may be taken back to.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub async fn images(&self, name: &str) -> Result<BTreeSet<String>, WadmError> {
        let known = self.versions(name).await?;
        let history = self.rollouts.history(name).await?;
        let is_named = |version: &str| history.iter().any(|r| r.from == version || r.to == version);
        let wanted = known.iter().filter(|v| v.deployed || is_named(&v.version));
        let read = wanted.map(|version| async move {
            let manifest = self.wadm.get_manifest(name, Some(&version.version)).await;
            manifest.map_err(|e| self.error("read a version of", name, e))
        });
        let mut manifests = futures::stream::iter(read).buffer_unordered(READING);
        let mut images = BTreeSet::new();
        while let Some(manifest) = manifests.try_next().await? {
            images.extend(stages::images(&manifest).map(str::to_owned));
        }
        Ok(images)
    }

    /// The stages of the version of a pipeline that is deployed.
    ///
    /// # Errors
    ///
    /// wadm does not answer, knows no such application, or has no version of it deployed.
    pub async fn stages(&self, name: &str) -> Result<Vec<DeployedStage>, WadmError> {
        let versions = self.versions(name).await?;
        if versions.is_empty() {
            return Err(self.not_found(name));
        }
        let Some(deployed) = versions.into_iter().find(|v| v.deployed) else {
            let (name, lattice) = (name.to_owned(), self.lattice.clone());
            return Err(WadmError::NotDeployed { name, lattice });
        };
        let manifest = self.wadm.get_manifest(name, Some(&deployed.version)).await;
        Ok(stages::stages(&manifest.map_err(|e| self.error("read", name, e))?))
    }

    async fn status_of(&self, application: &str) -> Result<wadm_types::api::Status, WadmError> {
        let status = self.wadm.get_manifest_status(application).await;
        status.map_err(|e| self.error("tell the status of", application, e))
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
            let status = until_answered(|| self.status(name)).await?;
            look(&status);
            // wadm can miss a deployment that it accepted while it was starting; asked again it acts.
            if asked.elapsed() > ASK_AGAIN {
                asked = Instant::now();
                until_answered(|| self.ask_again(&status)).await?;
            }
            if status.running() {
                self.have_providers_looked_after(&status).await?;
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

    /// Has wadm look after the providers from now on. When it has started one for the first time it waits for a minute for
    /// word from a host it drew anew, which on a lattice of several need not be the one it told to start it, and until
    /// then starts the provider nowhere else. Asked to deploy what it knows to run it waits for nothing.
    async fn have_providers_looked_after(&self, status: &PipelineStatus) -> Result<(), WadmError> {
        for provider in &status.providers {
            let application = provider_application(&provider.name);
            if self.status_of(&application).await?.info.status_type != StatusType::Deployed {
                continue;
            }
            self.ask_for_deployed(&application, None).await?;
        }
        Ok(())
    }

    pub(crate) async fn ask_again(&self, status: &PipelineStatus) -> Result<(), WadmError> {
        for provider in status.providers_missing() {
            self.ask_for_deployed(&provider_application(&provider.name), None).await?;
        }
        match &status.version {
            Some(version) if status.no_stage_runs() => {
                self.ask_to_deploy(&status.pipeline, version).await
            }
            _ => Ok(()),
        }
    }

    /// Takes the pipeline down, waits until nothing of it runs and its links are closed, and forgets its versions. Its
    /// providers stay, for others.
    ///
    /// # Errors
    ///
    /// wadm does not answer, knows no such application, or something still runs after `patience`.
    pub async fn undeploy(&self, name: &str, patience: Duration) -> Result<(), WadmError> {
        if self.versions(name).await?.is_empty() {
            return Err(self.not_found(name));
        }
        self.rollouts.end(name, RolloutState::Superseded, "the pipeline was undeployed").await?;
        self.wadm.undeploy_manifest(name).await.map_err(|e| self.error("undeploy", name, e))?;
        let (start, mut stopped) = (Instant::now(), None::<Instant>);
        loop {
            let remains = status::remains(name, &self.inventories().await);
            if start.elapsed() > LATE && stopped.is_none_or(|last| last.elapsed() > LATE) {
                stopped = Some(Instant::now());
                self.stop(&remains).await;
            }
            let mut left: Vec<String> = remains.into_iter().map(|remain| remain.id).collect();
            // A link that is being drained is one that a new deployment would wait for.
            let links = status::ask_providers(&self.nats, &self.lattice, name).await;
            for provider in &links {
                left.extend(
                    provider.links.iter().map(|l| format!("{} `{}`", provider.provider, l.name)),
                );
            }
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

    /// The providers that are on the lattice, by name.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub async fn providers(&self) -> Result<Vec<ProviderOnLattice>, WadmError> {
        let listed = self.listed().await?;
        let prefix = provider_application("");
        let mut providers = Vec::new();
        let mut uses = Vec::new();
        for application in listed {
            if let Some(provider) = application.name.strip_prefix(&prefix) {
                providers.push((provider.to_owned(), application.deployed_version));
                continue;
            }
            let Some((_, manifest)) = self.deployed(&application).await? else { continue };
            uses.extend(
                shared_applications(&manifest)
                    .map(|used| (used.to_owned(), application.name.clone())),
            );
        }
        let inventories = self.inventories().await;
        let on_lattice = |(provider, version): (String, Option<String>)| {
            let application = provider_application(&provider);
            let users = uses.iter().filter(|(used, _)| *used == application);
            let mut used_by: Vec<String> = users.map(|(_, pipeline)| pipeline.clone()).collect();
            used_by.sort();
            let hosts = status::hosts_of(&provider, &inventories);
            ProviderOnLattice { provider, version, hosts, used_by }
        };
        let mut providers: Vec<_> = providers.into_iter().map(on_lattice).collect();
        providers.sort_by(|a, b| a.provider.cmp(&b.provider));
        Ok(providers)
    }

    /// Takes a provider off the lattice, which no deployed pipeline uses, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// wadm does not answer, a pipeline uses the provider, it is not on the lattice, or still runs after `patience`.
    pub async fn undeploy_provider(&self, name: &str, patience: Duration) -> Result<(), WadmError> {
        let found = self.providers().await?.into_iter().find(|p| p.provider == name);
        let Some(found) = found else {
            let (provider, lattice) = (name.to_owned(), self.lattice.clone());
            return Err(WadmError::NoProvider { provider, lattice });
        };
        let application = provider_application(name);
        if !found.used_by.is_empty() {
            return Err(WadmError::InUse { provider: found.provider, used_by: found.used_by });
        }
        let undeployed = self.wadm.undeploy_manifest(&application).await;
        undeployed.map_err(|e| self.error("undeploy", &application, e))?;
        let start = Instant::now();
        loop {
            let hosts = status::hosts_of(name, &self.inventories().await);
            if hosts.is_empty() {
                break;
            }
            if start.elapsed() > patience {
                let found = format!("it runs on {}", hosts.join(", "));
                return Err(WadmError::TimedOut {
                    name: name.to_owned(),
                    wanted: "undeployed",
                    after: patience,
                    found,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        let forgotten = self.wadm.delete_manifest(&application, None).await;
        forgotten.map(|_| ()).map_err(|e| self.error("forget", &application, e))
    }

    /// The pipelines and providers whose deployed version does not run in full on the hosts that there are. wadm is asked
    /// only for manifests that are not among the known ones, which are those of all deployed versions afterwards.
    ///
    /// # Errors
    ///
    /// wadm does not answer.
    pub(crate) async fn incomplete(
        &self,
        known: &mut Manifests,
    ) -> Result<Vec<Incomplete>, WadmError> {
        let mut incomplete = Vec::new();
        let listed = self.listed().await?;
        let inventories = self.inventories().await;
        let mut before = std::mem::take(known);
        for application in listed {
            let is_deployed =
                |known: &(String, _)| application.deployed_version.as_ref() == Some(&known.0);
            let deployed = match before.remove(&application.name).filter(is_deployed) {
                Some(same) => Some(same),
                None => self.deployed(&application).await?,
            };
            let Some((version, manifest)) = deployed else { continue };
            let missing = status::not_running(&manifest, &inventories);
            if !missing.is_empty() {
                let (name, version) = (application.name.clone(), version.clone());
                incomplete.push(Incomplete { name, version, missing });
            }
            known.insert(application.name, (version, manifest));
        }
        Ok(incomplete)
    }

    /// Asks for the version of an application that is deployed once more, if it still is and no roll-out is under way,
    /// which looks after itself; whether it was asked for.
    ///
    /// # Errors
    ///
    /// wadm does not answer, or refuses.
    pub(crate) async fn deploy_again(&self, name: &str, version: &str) -> Result<bool, WadmError> {
        if self.rollouts.last(name).await?.is_some_and(|last| !last.state.has_ended()) {
            return Ok(false);
        }
        self.ask_for_deployed(name, Some(version)).await
    }

    /// Asks for the version of an application that is deployed once more, where there is one, or only where it is this one;
    /// whether it was asked for.
    async fn ask_for_deployed(&self, name: &str, only: Option<&str>) -> Result<bool, WadmError> {
        let known = self.versions(name).await?;
        let deployed = known.iter().find(|v| v.deployed);
        match deployed.filter(|v| only.is_none_or(|only| only == v.version)) {
            Some(deployed) => self.ask_to_deploy(name, &deployed.version).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn listed(&self) -> Result<Vec<ModelSummary>, WadmError> {
        let listed = self.wadm.list_manifests().await;
        listed.map_err(|e| self.error("list", "applications", e))
    }

    /// The version of an application that is deployed, and its manifest.
    async fn deployed(
        &self,
        application: &ModelSummary,
    ) -> Result<Option<(String, Manifest)>, WadmError> {
        let Some(version) = &application.deployed_version else { return Ok(None) };
        match self.wadm.get_manifest(&application.name, Some(version)).await {
            Ok(manifest) => Ok(Some((version.clone(), manifest))),
            // Gone since it was listed.
            Err(ClientError::NotFound(_)) => Ok(None),
            Err(e) => Err(self.error("read", &application.name, e)),
        }
    }

    /// Has their hosts stop stages. wadm stops what it knows to run when it is told; what it has told a host to start before,
    /// and the host starts after that, it never stops.
    async fn stop(&self, remains: &[status::Remain]) {
        for status::Remain { host, id, image, annotations } in remains {
            tracing::debug!(host, id, "it still runs: the host is told to stop it");
            let annotations = annotations.clone();
            let told =
                self.control.scale_component(host, image, id, 0, annotations, Vec::new(), false);
            if let Err(error) = told.await {
                tracing::debug!(host, id, %error, "the host could not be told to stop it");
            }
        }
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
