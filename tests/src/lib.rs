//! What the end-to-end tests share: a plant on this machine (Mosquitto, nats-server, a host), a machine that numbers its
//! messages, and a collector that knows which arrived.
//!
//! The tests use the installation in `build/dist` through its command line, as a user does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod neighbour;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millrace_batch::Batch;
use millrace_peers::{MachineOptions, Mosquitto, NatsMachine, NatsServer};
use millrace_platform::{Host, HostOptions, find};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{MutexGuard, watch};

/// Lattice of the tests.
pub const LATTICE: &str = "test";

/// One plant at a time: the tests kill things and measure nothing, but two of them on two cores wait for each other's
/// time limits.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Everyone is let in; more in flight than the twenty of its default.
const MOSQUITTO: &str = "allow_anonymous true\nmax_inflight_messages 100\n";

/// Where the NATS server of a plant runs.
pub trait Nats {
    /// Address for clients.
    fn url(&self) -> String;
}

impl Nats for NatsServer {
    fn url(&self) -> String {
        Self::url(self)
    }
}

impl Nats for NatsMachine {
    fn url(&self) -> String {
        Self::url(self)
    }
}

/// A broker, a NATS server and a host.
pub struct Plant<N = NatsServer> {
    /// The broker.
    pub mosquitto: Mosquitto,
    /// The server of the lattice.
    pub nats: N,
    host: Option<Host>,
    host_arguments: Vec<String>,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Plant {
    /// Starts all three.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further arguments of the host.
    pub async fn start_with(host_arguments: &[&str]) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let nats = NatsServer::start().expect("nats-server");
        Self::start_on(nats, host_arguments, turn).await
    }

    /// Starts all three, and deploys [`ALERTS`]: with what collects its alerts, and the machine before it.
    pub async fn start_with_alerts() -> (Self, Collector, Machine) {
        let plant = Self::start().await;
        plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
        let alerts = plant.collect("plant/alerts").await;
        let machine = Machine::connect(&plant);
        (plant, alerts, machine)
    }
}

impl Plant<NatsMachine> {
    /// Starts all three, with the NATS server on a machine of its own.
    pub async fn start_on_machine(options: &MachineOptions) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let nats = NatsMachine::start(options).expect("a machine with nats-server");
        Self::start_on(nats, &[], turn).await
    }
}

impl<N: Nats> Plant<N> {
    async fn start_on(nats: N, host_arguments: &[&str], turn: MutexGuard<'static, ()>) -> Self {
        let mut plant = Self {
            mosquitto: Mosquitto::start_with(MOSQUITTO).expect("mosquitto"),
            nats,
            host: None,
            host_arguments: host_arguments.iter().map(|a| (*a).to_owned()).collect(),
            folder: TempDir::new().unwrap(),
            _turn: turn,
        };
        plant.start_host().await;
        plant
    }

    /// Starts the host (again).
    pub async fn start_host(&mut self) {
        let options = HostOptions {
            nats_url: self.nats.url(),
            lattice: LATTICE.to_owned(),
            access: Default::default(),
            dir: self.folder.path().join("host"),
            arguments: self.host_arguments.clone(),
            through: Vec::new(),
            log: Default::default(),
        };
        self.host = Some(Host::start(&options).await.expect("host"));
    }

    /// Kills the host as a crash would.
    pub async fn kill_host(&mut self) {
        self.host.take().expect("a host runs").kill().await;
    }

    /// Ends the host in order.
    pub async fn stop(mut self) {
        if let Some(host) = self.host.take() {
            host.stop().await;
        }
    }

    /// The processes of a provider.
    pub fn providers(&self, name: &str) -> Vec<rustix::process::Pid> {
        self.host.as_ref().expect("a host runs").providers(name)
    }

    /// Kills the processes of a provider as a crash would; its host starts it again. Gives how many there were.
    pub fn kill_provider(&self, name: &str) -> usize {
        let pids = self.providers(name);
        for pid in &pids {
            rustix::process::kill_process(*pid, rustix::process::Signal::KILL).unwrap();
        }
        pids.len()
    }

    /// Kills the one process of a provider, also of one that has just been started again.
    pub async fn kill_running_provider(&self, name: &str) {
        let patience = Duration::from_secs(90);
        until("the provider runs", patience, async || self.providers(name).len() == 1).await;
        assert_eq!(self.kill_provider(name), 1);
    }

    /// Where the NATS server is.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// A client of the NATS server.
    pub async fn nats_client(&self) -> async_nats::Client {
        async_nats::connect(self.nats.url()).await.unwrap()
    }

    /// Gives wadm, as nats-server does, the word that an application was deleted.
    pub async fn notify_of_deletion(&self, application: &str) {
        let deletion = serde_json::json!({ "DeleteScalers": application }).to_string();
        let jetstream = async_nats::jetstream::new(self.nats_client().await);
        let subject = format!("wadm.notify.{LATTICE}");
        jetstream.publish(subject, deletion.into()).await.unwrap().await.unwrap();
    }

    /// A folder of this plant.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the host and its providers logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("host/host.log")).unwrap_or_default()
    }

    /// Writes a definition of the plant: `graph`, with `{url}` and `{components}` put in.
    pub fn define(&self, name: &str, text: &str) -> PathBuf {
        let components = find::home().join("components");
        let text = text
            .replace("{url}", &self.mosquitto.url())
            .replace("{components}", components.to_str().unwrap());
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Runs `millrace` with these arguments and `--json`.
    pub async fn millrace(&self, arguments: &[&str]) -> Answer {
        millrace(&self.nats.url(), arguments).await
    }

    /// Deploys a definition and waits until it runs; answers the status.
    pub async fn deploy(&self, file: &Path) -> serde_json::Value {
        self.deploy_with(file, &[]).await
    }

    /// The same of a version that need not prove itself.
    pub async fn deploy_unwatched(&self, file: &Path) -> serde_json::Value {
        self.deploy_with(file, &["--watch", "0s"]).await
    }

    async fn deploy_with(&self, file: &Path, arguments: &[&str]) -> serde_json::Value {
        let deploy = ["pipeline", "deploy", file.to_str().unwrap()];
        let answer = self.millrace(&[&deploy, arguments].concat()).await;
        assert!(answer.code == 0, "deploy: {}\nhost log:\n{}", answer.stderr, self.log());
        answer.json()
    }

    /// A client of the broker, with its events.
    pub fn mqtt(&self, id: &str) -> (AsyncClient, rumqttc::EventLoop) {
        mqtt(self.mosquitto.port(), id)
    }

    /// Collects what is published to a topic from now on.
    pub async fn collect(&self, topic: &str) -> Collector {
        let collector = Collector::default();
        let own = collector.clone();
        let id = format!("collector-{}", topic.replace('/', "-"));
        subscribe(self.mqtt(&id), topic, move |payload| own.take(payload)).await;
        collector
    }

    /// Collects dead letters of a pipeline from now on.
    pub async fn dead_letters(&self, pipeline: &str) -> DeadLetters {
        let nats = self.nats_client().await;
        let mut bodies =
            nats.subscribe(format!("millrace.{LATTICE}.{pipeline}.dead.>")).await.unwrap();
        nats.flush().await.unwrap();
        let letters = DeadLetters::default();
        let own = Arc::clone(&letters.0);
        tokio::spawn(async move {
            while let Some(body) = bodies.next().await {
                let batch = Batch::parse(&body.payload).expect("dead letters are a batch");
                for m in batch.messages() {
                    let headers = m.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                    own.lock().unwrap().push((m.payload.to_vec(), headers));
                }
            }
        });
        letters
    }
}

/// Runs the installed `millrace` against a NATS server.
pub async fn millrace(nats_url: &str, arguments: &[&str]) -> Answer {
    let output = Command::new(find::home().join("bin/millrace"))
        .args(arguments)
        .arg("--json")
        .env("MILLRACE_NATS_URL", nats_url)
        .env("MILLRACE_LATTICE", LATTICE)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("millrace is installed: `make build`");
    output.into()
}

/// Looks until it is so; fails with what was waited for.
pub async fn until(what: &str, patience: Duration, is_so: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < patience, "not after {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a command came to.
#[derive(Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<std::process::Output> for Answer {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// A client of a broker, with a session that outlives its connections.
pub fn mqtt(port: u16, id: &str) -> (AsyncClient, rumqttc::EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(10)).set_inflight(100).set_clean_session(false);
    options.set_max_packet_size(1 << 20, 1 << 20);
    AsyncClient::new(options, 1000)
}

/// Takes every message of a topic, until the end of the test; also what comes when the broker has just returned. Answers
/// when the broker knows of it.
pub async fn subscribe(
    (client, mut events): (AsyncClient, rumqttc::EventLoop),
    topic: &str,
    take: impl Fn(&[u8]) + Send + 'static,
) {
    client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
    let (ready, mut subscribed) = watch::channel(false);
    tokio::spawn(async move {
        let _client = client;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.send(true)),
                Ok(Event::Incoming(Packet::Publish(p))) => take(&p.payload),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    subscribed.wait_for(|s| *s).await.unwrap();
}

/// The number of a result.
pub fn seq(payload: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(payload).expect("results are JSON");
    value["seq"].as_u64().expect("results are numbered")
}

/// Number of each message that arrived, and how often.
#[derive(Debug, Clone, Default)]
pub struct Collector(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Collector {
    /// Takes one result.
    pub fn take(&self, payload: &[u8]) {
        *self.0.lock().unwrap().entry(seq(payload)).or_default() += 1;
    }

    /// Numbers that arrived.
    pub fn seqs(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }

    /// Messages that arrived more than once, counted without the first.
    pub fn duplicates(&self) -> u64 {
        self.0.lock().unwrap().values().map(|n| n - 1).sum()
    }

    /// Waits until every expected number is there; fails with what is missing.
    pub async fn wait_for(&self, expected: &BTreeSet<u64>, patience: Duration) {
        let start = Instant::now();
        loop {
            let missing: Vec<u64> = expected.difference(&self.seqs()).copied().collect();
            if missing.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < patience,
                "{} of {} missing after {patience:?}, the first {:?}",
                missing.len(),
                expected.len(),
                &missing[..missing.len().min(10)]
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

type Letter = (Vec<u8>, BTreeMap<String, String>);

/// Dead letters that arrived: payload and headers.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters(Arc<Mutex<Vec<Letter>>>);

impl DeadLetters {
    /// All so far.
    pub fn all(&self) -> Vec<Letter> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until a letter's payload contains the text; answers its headers.
    pub async fn wait_for(&self, text: &str, patience: Duration) -> BTreeMap<String, String> {
        let start = Instant::now();
        loop {
            let found = self
                .all()
                .into_iter()
                .find(|(payload, _)| String::from_utf8_lossy(payload).contains(text));
            if let Some((_, headers)) = found {
                return headers;
            }
            assert!(
                start.elapsed() < patience,
                "no dead letter with {text:?} after {patience:?}: {:?}",
                self.all()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A machine that publishes numbered readings at QoS 1.
pub struct Machine {
    client: AsyncClient,
    acknowledged: watch::Receiver<u64>,
    sent: u64,
}

impl Machine {
    /// Connects to the plant's broker.
    pub fn connect<N: Nats>(plant: &Plant<N>) -> Self {
        Self::connect_as(plant, "machine")
    }

    /// The same under a name of its own, beside another.
    pub fn connect_as<N: Nats>(plant: &Plant<N>, name: &str) -> Self {
        Self::on(plant.mqtt(name))
    }

    /// The same of any broker.
    pub fn on((client, mut events): (AsyncClient, rumqttc::EventLoop)) -> Self {
        let (count, acknowledged) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_))) => count.send_modify(|n| *n += 1),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Self { client, acknowledged, sent: 0 }
    }

    /// Publishes one payload.
    pub async fn publish(&mut self, topic: &str, payload: String) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        self.sent += 1;
    }

    /// Publishes readings of these numbers at so many a second: odd ones at 212 F, even ones at 32 F.
    pub async fn readings(&mut self, seqs: std::ops::Range<u64>, rate: u32) {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for seq in seqs {
            tick.tick().await;
            self.publish("plant/m1/temperature", reading(seq)).await;
        }
    }

    /// Waits until the broker has acknowledged everything.
    pub async fn acknowledged(&mut self) {
        let sent = self.sent;
        let all = self.acknowledged.wait_for(|n| *n >= sent);
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("the broker acknowledges")
            .unwrap();
    }
}

/// A reading in Fahrenheit: odd numbers are hot (100 C), even ones cold (0 C).
pub fn reading(seq: u64) -> String {
    let fahrenheit = if seq % 2 == 1 { 212.0 } else { 32.0 };
    format!("{{\"machine\":\"m1\",\"seq\":{seq},\"fahrenheit\":{fahrenheit:.1}}}")
}

/// The hot ones of a range.
pub fn hot(seqs: std::ops::Range<u64>) -> BTreeSet<u64> {
    seqs.filter(|seq| seq % 2 == 1).collect()
}

/// The pipeline of two stages that most tests run: to Celsius, durable edge, above 85.
pub const ALERTS: &str = r#"
millrace: v1alpha1
pipeline: alerts
version: 0.1.0
sources: [machine]
steps:
  celsius: { map: fahrenheit-to-celsius, from: machine, config: { field: fahrenheit } }
  too-hot: { filter: above-limit, from: { name: celsius, durable: true }, config: { limit: 85 } }
sinks:
  alerts: { from: too-hot }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/+/temperature, qos: 1 } }
  sinks:
    alerts: { mqtt: { url: "{url}", topic: plant/alerts, qos: 1 } }
  components:
    fahrenheit-to-celsius: { file: "{components}/fahrenheit-to-celsius.wasm" }
    above-limit: { file: "{components}/above-limit.wasm" }
"#;
