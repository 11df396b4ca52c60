//! The servers and the pipeline, and what is done to them.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt as _;
use millrace_batch::Batch;
use millrace_conduit::Edge;
use millrace_kit::status::dead_stream;
use millrace_peers::{Kafka, KafkaOptions, NatsOptions, NatsServer};
use millrace_platform::{Host, HostOptions, find};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::hops::Hop;
use crate::memory::Group;
use crate::message;
use crate::network::Network;
use crate::sandbox;
use crate::schedule::{Fault, Turn};

const LATTICE: &str = "chaos";
const PIPELINE: &str = "chaos";

/// Topics of the broker.
pub(crate) const IN: &str = "in";
pub(crate) const OUT: &str = "out";

/// Partitions of each.
pub(crate) const PARTITIONS: i32 = 4;

/// How long something is frozen.
const FROZEN: Duration = Duration::from_secs(3);

/// How long a server is away that was killed.
const AWAY: Duration = Duration::from_secs(1);

/// How long the status may take that is kept with the logs, and the time between two.
const STATUS: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_secs(5);

/// How long wadm is away. Nothing waits for it, so it may be a while.
const WADM_AWAY: Duration = Duration::from_secs(5);

/// How long the disk is full.
const FULL: Duration = Duration::from_secs(5);

/// How long the only host is cut off, a link is slow, and memory is short.
const CUT: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(5);

/// The stages are on both hosts within this time.
const SPREAD: Duration = Duration::from_secs(60);

/// The providers of the pipeline.
const PROVIDERS: [&str; 2] = ["conduit", "kafka"];

/// A provider that was killed is there again within this time.
const PROVIDER: Duration = Duration::from_secs(30);

/// The durable edges.
const EDGES: [&str; 2] = ["pass.behave", "behave.hand-on"];

/// The source takes one batch at a time and the edges keep the order of each key.
const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: chaos
version: 0.{version}.0
sources: [in]
steps:
  pass: { map: pass-map, from: in }
  behave:
    map: misbehaves
    from: { name: pass, durable: { partitions: 4, history: 2m } }
    config: { version: "{version}" }
  hand-on:
    map: pass-map
    from: { name: behave, durable: { partitions: 4, history: 2m } }
sinks:
  out: { from: hand-on }
binding:
  hosts: {hosts}
  sources:
    in: { kafka: { brokers: "{brokers}", topics: in }, delivery: { in-flight: 1, linger: {linger} } }
  sinks:
    out: { kafka: { brokers: "{brokers}", topic: out } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
    misbehaves: { file: "{components}/misbehaves.wasm" }
"#;

/// Everything that runs, and ends with it.
pub(crate) struct Plant {
    kafka: Kafka,
    nats: NatsServer,
    /// JetStream's, where it may have one. Goes after nats-server, which writes to it, and before the folder it is in.
    disk: Option<Disk>,
    wadm: Option<Host>,
    hosts: Vec<Option<Host>>,
    network: Option<Network>,
    clock: Option<Clock>,
    /// Of hosts and providers. Goes after them.
    memory: Option<Group>,
    folder: TempDir,
    /// How long the source waits for a batch to fill.
    linger: &'static str,
    /// Of the pipeline.
    version: u32,
}

/// A host that was killed while another ran.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Loss {
    /// Which, from 1.
    host: usize,
    /// The providers that ran on it.
    providers: Vec<&'static str>,
    /// How long it was away.
    #[serde(serialize_with = "crate::report::seconds")]
    away: Duration,
    /// When all of them ran on the other, counted from the kill: if they did before it was back.
    #[serde(serialize_with = "crate::report::some_seconds")]
    taken_over: Option<Duration>,
}

impl Loss {
    /// Nothing where there was nothing to take over.
    pub(crate) fn take_over(&self) -> Option<Option<Duration>> {
        (!self.providers.is_empty()).then_some(self.taken_over)
    }
}

impl Plant {
    /// Starts the servers and deploys the pipeline. Says what cannot be done to it here. Batches are small, so that there are many
    /// for faults to hit, or `full`, as where a day's load is carried.
    pub(crate) async fn start(hosts: usize, full: bool) -> anyhow::Result<Self> {
        crate::progress(format_args!("starting Kafka, nats-server, wadm, and hosts: {hosts}"));
        let folder = tempfile::Builder::new().prefix("millrace-chaos-").tempdir()?;
        let (mut disk, mut network) = (None, None);
        if sandbox::is_entered() {
            network = or_left_out("network` and `slow-link", Network::start(hosts));
            disk = or_left_out("disk", Disk::mount(&folder.path().join("disk")));
        }
        let clock = or_left_out("clock", Clock::new(folder.path()));
        let memory = or_left_out("memory", Group::make());
        let address = network.as_ref().map(|_| Network::servers());
        let kafka = KafkaOptions { address, ..KafkaOptions::default() };
        let nats = NatsOptions {
            store: disk.as_ref().map(|disk| disk.folder().to_owned()),
            address,
            ..NatsOptions::default()
        };
        let mut plant = Self {
            kafka: tokio::task::block_in_place(|| Kafka::start_with(kafka))?,
            nats: tokio::task::block_in_place(|| NatsServer::start_with(&nats))?,
            disk,
            wadm: None,
            hosts: (0..hosts).map(|_| None).collect(),
            network,
            clock,
            memory,
            folder,
            linger: if full { "500ms" } else { "5ms" },
            version: 1,
        };
        plant.topics().await?;
        plant.start_wadm().await?;
        for host in 0..hosts {
            plant.start_host(host).await?;
        }
        crate::progress("deploying the pipeline");
        plant.deploy().await?;
        plant.spread().await?;
        Ok(plant)
    }

    /// What passes the two durable edges, from now on.
    pub(crate) fn hops(&self) -> anyhow::Result<[Hop; 2]> {
        let hop = |edge| {
            let edge = Edge::new(LATTICE, PIPELINE, edge)?;
            anyhow::Ok(Hop::start(self.nats.url(), edge.history_stream()))
        };
        let [first, second] = EDGES;
        Ok([hop(first)?, hop(second)?])
    }

    /// The processes of the platform and of NATS, by name.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let mut all = Vec::new();
        let mut add =
            |name: &str, pid: Option<u32>| all.extend(pid.map(|pid| (name.to_owned(), pid)));
        add("nats-server", self.nats.pid());
        add("wadm", self.wadm.as_ref().and_then(Host::id));
        for host in self.hosts.iter().flatten() {
            add("host", host.id());
        }
        for name in PROVIDERS {
            for pid in self.running(name) {
                add(name, u32::try_from(pid.as_raw_nonzero().get()).ok());
            }
        }
        all
    }

    pub(crate) const fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// What wadm, the hosts and their providers logged last.
    pub(crate) fn log(&self) -> String {
        let names = std::iter::once("wadm".to_owned()).chain((0..self.hosts.len()).map(host_name));
        let last = |name: String| {
            let log = self.folder.path().join(&name).join("host.log");
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            format!("{name}:\n{}\n", last.join("\n"))
        };
        names.map(last).collect()
    }

    /// Has the logs stay when it ends: the folder they are in. There are also those of the servers, and the status, twice, in
    /// which one sees what moves.
    pub(crate) async fn keep_logs(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        let folder = self.folder.path();
        let mut files = vec![("nats.log", self.nats.log()), ("kafka.log", self.kafka.log())];
        for name in ["status-1.json", "status-2.json"] {
            let status = self.millrace(&["status", PIPELINE, "--json"]);
            let status = match tokio::time::timeout(STATUS, status).await {
                Ok(Ok(status)) => String::from_utf8_lossy(&status).into_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no status within {STATUS:?}"),
            };
            files.push((name, status));
            tokio::time::sleep(BETWEEN).await;
        }
        for (name, text) in files {
            // Without it there are the others.
            let _ = std::fs::write(folder.join(name), text);
        }
        folder.to_owned()
    }

    /// Ends everything in order.
    pub(crate) async fn stop(mut self) {
        for host in self.hosts.drain(..).flatten() {
            host.stop().await;
        }
        if let Some(wadm) = self.wadm.take() {
            wadm.stop().await;
        }
    }

    async fn topics(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.kafka.brokers()).create()?;
        let topics =
            [IN, OUT].map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
        for made in admin.create_topics(&topics, &AdminOptions::new()).await? {
            made.map_err(|(name, error)| anyhow::anyhow!("topic {name}: {error}"))?;
        }
        Ok(())
    }

    /// wadm and each host are a process of their own, so that either can end alone.
    async fn start_process(
        &self,
        name: &str,
        without: &str,
        through: Vec<OsString>,
    ) -> anyhow::Result<Host> {
        let options = HostOptions {
            nats_url: self.nats.url(),
            lattice: LATTICE.to_owned(),
            access: Default::default(),
            dir: self.folder.path().join(name),
            arguments: vec![without.to_owned()],
            through,
            log: Default::default(),
        };
        Ok(Host::start(&options).await?)
    }

    async fn start_wadm(&mut self) -> anyhow::Result<()> {
        let through = self.clock.iter().flat_map(Clock::way).collect();
        self.wadm = Some(self.start_process("wadm", "--no-host", through).await?);
        Ok(())
    }

    async fn start_host(&mut self, which: usize) -> anyhow::Result<()> {
        let memory = self.memory.iter().flat_map(Group::way);
        let clock = self.clock.iter().flat_map(Clock::way);
        let network = self.network.iter().flat_map(|_| Network::way(which));
        let through = memory.chain(network).chain(clock).collect();
        let host = self.start_process(&host_name(which), "--no-wadm", through).await?;
        *self.hosts.get_mut(which).context("there is no such host")? = Some(host);
        Ok(())
    }

    /// Waits until each stage is on every host.
    async fn spread(&self) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        loop {
            let said = self.millrace(&["status", PIPELINE, "--json"]).await?;
            let status: serde_json::Value = serde_json::from_slice(&said)?;
            let stages = status.get("stages").and_then(|stages| stages.as_array());
            let hosts = |stage: &serde_json::Value| {
                stage.get("hosts").and_then(|hosts| hosts.as_array()).map_or(0, Vec::len)
            };
            if stages.is_some_and(|all| all.iter().all(|stage| hosts(stage) >= self.hosts.len())) {
                return Ok(());
            }
            ensure!(start.elapsed() < SPREAD, "the stages are not on every host: {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Deploys the pipeline's present version, and waits until it runs.
    async fn deploy(&self) -> anyhow::Result<()> {
        let file = self.folder.path().join("chaos.yaml");
        let components = find::home().join("components");
        let text = DEFINITION
            .replace("{version}", &self.version.to_string())
            .replace("{hosts}", if self.hosts.len() > 1 { "every" } else { "one" })
            .replace("{brokers}", &self.kafka.brokers())
            .replace("{linger}", self.linger)
            .replace("{components}", &components.to_string_lossy());
        std::fs::write(&file, text)?;
        self.millrace(&["deploy", &file.to_string_lossy(), "--timeout", "90s", "--watch", "0s"])
            .await?;
        Ok(())
    }

    /// Runs `millrace pipeline` with these arguments; what it says.
    async fn millrace(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let program = find::program("millrace")?;
        let output = Command::new(&program)
            .arg("pipeline")
            .args(arguments)
            .env("MILLRACE_NATS_URL", self.nats.url())
            .env("MILLRACE_LATTICE", LATTICE)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("could not start {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "millrace pipeline {}: {said}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// The faults that can be made here, of those that are asked for: of all where none are.
    pub(crate) fn possible(&self, only: &[Fault]) -> Vec<Fault> {
        let asked = if only.is_empty() { &Fault::ALL } else { only };
        let possible = |fault: &Fault| match fault {
            Fault::Disk => self.disk.is_some(),
            Fault::Network => self.network.is_some(),
            Fault::SlowLink => self.network.as_ref().is_some_and(Network::can_slow),
            Fault::Clock => self.clock.is_some(),
            Fault::Memory => self.memory.is_some(),
            _ => true,
        };
        asked.iter().copied().filter(possible).collect()
    }

    /// Does it, and comes back when what can be made good from outside is. Tells of a host that another could take over
    /// from.
    pub(crate) async fn inflict(&mut self, turn: &Turn) -> anyhow::Result<Option<Loss>> {
        match turn.fault {
            Fault::Host if self.hosts.len() > 1 => {
                return self.kill_one_host(self.nth(turn.host), turn.away).await.map(Some);
            }
            Fault::Host => self.kill_only_host().await,
            Fault::Wadm => {
                self.wadm.take().context("no wadm runs")?.kill().await;
                tokio::time::sleep(WADM_AWAY).await;
                self.start_wadm().await
            }
            Fault::Conduit => self.kill_provider("conduit").await,
            Fault::Connector => self.kill_provider("kafka").await,
            Fault::Nats => self.restart_nats().await,
            Fault::Broker => {
                tokio::task::block_in_place(|| self.kafka.kill())?;
                tokio::time::sleep(AWAY).await;
                Ok(tokio::task::block_in_place(|| self.kafka.restart())?)
            }
            Fault::FreezeHost => self.freeze_host(turn).await,
            Fault::FreezeNats => {
                self.nats.freeze(true)?;
                tokio::time::sleep(FROZEN).await;
                Ok(self.nats.freeze(false)?)
            }
            Fault::FreezeBroker => {
                self.kafka.freeze(true)?;
                tokio::time::sleep(FROZEN).await;
                Ok(self.kafka.freeze(false)?)
            }
            Fault::Disk => self.fill_disk().await,
            Fault::Network => {
                let network = self.network.as_ref().context("there are no links")?;
                let which = self.nth(turn.host);
                network.cut(which, true)?;
                tokio::time::sleep(if self.hosts.len() > 1 { turn.away } else { CUT }).await;
                network.cut(which, false)
            }
            Fault::SlowLink => {
                let network = self.network.as_ref().context("there are no links")?;
                let which = self.nth(turn.host);
                network.slow(which, true)?;
                tokio::time::sleep(SLOW).await;
                network.slow(which, false)
            }
            Fault::Clock => self.clock.as_ref().context("there is no clock")?.set(turn.ahead),
            Fault::Memory => self.squeeze_memory().await,
            Fault::Redeploy => {
                self.version += 1;
                self.deploy().await
            }
            Fault::Undeploy => {
                self.millrace(&["undeploy", PIPELINE]).await?;
                self.deploy().await
            }
        }?;
        Ok(None)
    }

    async fn restart_nats(&mut self) -> anyhow::Result<()> {
        self.nats.kill()?;
        tokio::time::sleep(AWAY).await;
        Ok(tokio::task::block_in_place(|| self.nats.restart())?)
    }

    /// Host and wadm at once, as if they were one process.
    async fn kill_only_host(&mut self) -> anyhow::Result<()> {
        let host = self.hosts.first_mut().and_then(Option::take).context("no host runs")?;
        let wadm = self.wadm.take().context("no wadm runs")?;
        tokio::join!(host.kill(), wadm.kill());
        self.start_wadm().await?;
        self.start_host(0).await
    }

    /// A host by how many providers it runs, those with the most first. wadm draws where it starts one, and a seed is to
    /// do the same each time.
    fn nth(&self, n: usize) -> usize {
        let mut hosts: Vec<(Reverse<usize>, usize)> = Vec::new();
        for (which, host) in self.hosts.iter().enumerate() {
            let Some(host) = host else { continue };
            let runs = PROVIDERS.iter().filter(|name| !host.providers(name).is_empty()).count();
            hosts.push((Reverse(runs), which));
        }
        hosts.sort_unstable();
        hosts.get(n).map_or(n, |(_, which)| *which)
    }

    /// One of several, while wadm and the others go on.
    async fn kill_one_host(&mut self, which: usize, away: Duration) -> anyhow::Result<Loss> {
        let host = self.hosts.get_mut(which).and_then(Option::take).context("no host runs")?;
        let mut providers = PROVIDERS.to_vec();
        providers.retain(|name| !host.providers(name).is_empty());
        host.kill().await;
        let start = tokio::time::Instant::now();
        let mut taken_over = None;
        while start.elapsed() < away {
            let all = || providers.iter().all(|name| !self.running(name).is_empty());
            if taken_over.is_none() && !providers.is_empty() && all() {
                taken_over = Some(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.start_host(which).await?;
        Ok(Loss { host: which + 1, providers, away, taken_over })
    }

    /// A host, and with the only one wadm, as if they were one process. One of several for so long that wadm may have
    /// started its providers on another, while they go on: a frozen host is there for them.
    async fn freeze_host(&self, turn: &Turn) -> anyhow::Result<()> {
        let which = self.nth(turn.host);
        let time = if self.hosts.len() > 1 { turn.away } else { FROZEN };
        let host = self.hosts.get(which).and_then(Option::as_ref).context("no host runs")?;
        let wadm = self.wadm.as_ref().filter(|_| self.hosts.len() == 1);
        let pids: Vec<Pid> = [Some(host), wadm]
            .into_iter()
            .flatten()
            .filter_map(|process| i32::try_from(process.id()?).ok().and_then(Pid::from_raw))
            .collect();
        for pid in &pids {
            kill_process(*pid, Signal::STOP)?;
        }
        tokio::time::sleep(time).await;
        for pid in &pids {
            kill_process(*pid, Signal::CONT)?;
        }
        Ok(())
    }

    async fn fill_disk(&mut self) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("JetStream has no disk of its own")?;
        let start = tokio::time::Instant::now();
        while start.elapsed() < FULL {
            tokio::task::block_in_place(|| disk.fill())?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        disk.empty()?;
        self.restart_nats().await
    }

    async fn squeeze_memory(&mut self) -> anyhow::Result<()> {
        let memory = self.memory.as_ref().context("hosts have no memory of their own")?;
        let start = tokio::time::Instant::now();
        while start.elapsed() < SHORT {
            // What can be dropped is dropped at once, and what cannot comes to be.
            tokio::task::block_in_place(|| memory.squeeze())?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        memory.release()?;
        // As a machine's service manager would.
        for which in 0..self.hosts.len() {
            let host = self.hosts.get_mut(which).and_then(Option::as_mut);
            let host = host.context("there is no such host")?;
            if tokio::time::timeout(Duration::ZERO, host.ended_by_itself()).await.is_ok() {
                crate::progress(format_args!("{} was killed for its memory", host_name(which)));
                self.start_host(which).await?;
            }
        }
        Ok(())
    }

    /// The processes of a provider, on whichever host.
    fn running(&self, name: &str) -> Vec<Pid> {
        self.hosts.iter().flatten().flat_map(|host| host.providers(name)).collect()
    }

    /// Kills a provider as a crash would. Its host starts it again.
    async fn kill_provider(&self, name: &str) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        // After a fault before this one it may be about to start.
        loop {
            match self.running(name).as_slice() {
                [] if start.elapsed() < PROVIDER => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                [] => bail!("no provider {name} runs"),
                all => {
                    for pid in all {
                        kill_process(*pid, Signal::KILL)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The numbers of the messages among the dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Vec<u64>> {
        let client = async_nats::connect(self.nats.url()).await?;
        let js = async_nats::jetstream::new(client);
        let Ok(stream) = js.get_stream(dead_stream(LATTICE, PIPELINE)).await else {
            return Ok(Vec::new());
        };
        // Without acknowledgements: JetStream would stop at a thousand that are missing.
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await?;
        let mut numbers = Vec::new();
        loop {
            let fetch = consumer.fetch().max_messages(500).expires(Duration::from_millis(500));
            let mut letters = fetch.messages().await?;
            let before = numbers.len();
            while let Some(letter) = letters.next().await {
                let letter = letter.map_err(|e| anyhow::anyhow!("dead letters: {e}"))?;
                for message in Batch::parse(&letter.payload)?.messages() {
                    let number = message::read(message.payload);
                    numbers.push(number.context("a dead letter is not as it was sent")?);
                }
            }
            if numbers.len() == before {
                return Ok(numbers);
            }
        }
    }
}

/// The name of a host, of its folder and of its network namespace.
pub(crate) fn host_name(which: usize) -> String {
    format!("host-{}", which + 1)
}

/// What can be had here; what cannot is said.
fn or_left_out<T>(faults: &str, result: anyhow::Result<T>) -> Option<T> {
    if let Err(error) = &result {
        crate::progress(format_args!("left out is `{faults}`: {error:#}"));
    }
    result.ok()
}
