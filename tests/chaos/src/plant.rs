//! The servers and the pipeline, and what is done to them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;
use millrace_batch::Batch;
use millrace_kit::status::dead_stream;
use millrace_peers::{Kafka, NatsServer};
use millrace_platform::{Host, HostOptions, find};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::message;
use crate::schedule::Fault;

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

/// A provider that was killed is there again within this time.
const PROVIDER: Duration = Duration::from_secs(30);

/// One batch at a time everywhere: several overtake one another, and with them the messages of a key.
const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: chaos
version: 0.{version}.0
sources: [in]
steps:
  pass: { map: pass-map, from: in }
  behave:
    map: misbehaves
    from: { name: pass, durable: { delivery: { in-flight: 1 } } }
    config: { version: "{version}" }
sinks:
  out: { from: behave }
binding:
  sources:
    in: { kafka: { brokers: "{brokers}", topics: in }, delivery: { in-flight: 1, linger: 100ms } }
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
    host: Option<Host>,
    folder: TempDir,
    /// Of the pipeline.
    version: u32,
}

impl Plant {
    /// Starts the servers and deploys the pipeline.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        crate::progress("starting Kafka, nats-server and a host");
        let folder = tempfile::Builder::new().prefix("millrace-chaos-").tempdir()?;
        let mut plant = Self {
            kafka: tokio::task::block_in_place(Kafka::start)?,
            nats: tokio::task::block_in_place(NatsServer::start)?,
            host: None,
            folder,
            version: 1,
        };
        plant.topics().await?;
        plant.start_host().await?;
        crate::progress("deploying the pipeline");
        plant.deploy().await?;
        Ok(plant)
    }

    pub(crate) const fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// What the host and its providers logged last.
    pub(crate) fn log(&self) -> String {
        let log = self.folder.path().join("host/host.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }

    /// Ends everything in order.
    pub(crate) async fn stop(mut self) {
        if let Some(host) = self.host.take() {
            host.stop().await;
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

    async fn start_host(&mut self) -> anyhow::Result<()> {
        let options = HostOptions {
            nats_url: self.nats.url(),
            lattice: LATTICE.to_owned(),
            dir: self.folder.path().join("host"),
            arguments: Vec::new(),
        };
        self.host = Some(Host::start(&options).await?);
        Ok(())
    }

    /// Deploys the pipeline's present version, and waits until it runs.
    async fn deploy(&self) -> anyhow::Result<()> {
        let file = self.folder.path().join("chaos.yaml");
        let components = find::home().join("components");
        let text = DEFINITION
            .replace("{version}", &self.version.to_string())
            .replace("{brokers}", &self.kafka.brokers())
            .replace("{components}", &components.to_string_lossy());
        std::fs::write(&file, text)?;
        self.millrace(&["deploy", &file.to_string_lossy(), "--timeout", "90s"]).await
    }

    async fn millrace(&self, arguments: &[&str]) -> anyhow::Result<()> {
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
        Ok(())
    }

    /// Does it, and comes back when what can be made good from outside is.
    pub(crate) async fn inflict(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Host => {
                self.host.take().context("no host runs")?.kill().await;
                self.start_host().await
            }
            Fault::Conduit => self.kill_provider("conduit").await,
            Fault::Connector => self.kill_provider("kafka").await,
            Fault::Nats => {
                self.nats.kill()?;
                tokio::time::sleep(AWAY).await;
                Ok(tokio::task::block_in_place(|| self.nats.restart())?)
            }
            Fault::Broker => {
                tokio::task::block_in_place(|| self.kafka.kill())?;
                tokio::time::sleep(AWAY).await;
                Ok(tokio::task::block_in_place(|| self.kafka.restart())?)
            }
            Fault::FreezeHost => {
                let host = self.host.as_ref().and_then(Host::id).context("no host runs")?;
                let host =
                    i32::try_from(host).ok().and_then(Pid::from_raw).context("no such id")?;
                kill_process(host, Signal::STOP)?;
                tokio::time::sleep(FROZEN).await;
                Ok(kill_process(host, Signal::CONT)?)
            }
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
            Fault::Redeploy => {
                self.version += 1;
                self.deploy().await
            }
            Fault::Undeploy => {
                self.millrace(&["undeploy", PIPELINE]).await?;
                self.deploy().await
            }
        }
    }

    /// Kills a provider as a crash would. Its host starts it again.
    async fn kill_provider(&self, name: &str) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        let host = self.host.as_ref().context("no host runs")?;
        // After a fault before this one it may be about to start.
        loop {
            match host.providers(name).as_slice() {
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
        let consumer = stream.create_consumer(pull::Config::default()).await?;
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
