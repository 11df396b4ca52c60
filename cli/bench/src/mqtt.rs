//! A whole pipeline as a user would deploy it, between two MQTT topics: source, map, durable edge, filter, sink. The
//! broker is in this process, and so are the machine and the reader.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use millrace_pipeline::Plan;
use millrace_wadm::Applications;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::deploy::{self, component};
use crate::lab::{LATTICE, Lab};
use crate::parts::{PAYLOAD, now_ns};

/// The broker is up and takes a subscription within this time.
const BROKER: Duration = Duration::from_secs(5);

/// From deploying to the first message at the other end.
const FIRST: Duration = Duration::from_secs(60);

const PIPELINE: &str = "bench";
const IN: &str = "bench/in";
const OUT: &str = "bench/out";

const DEFINITION: &str = r#"
millrace: v1alpha1
pipeline: bench
version: 0.1.0
sources: [machine]
steps:
  first: { map: pass-map, from: machine }
  second: { filter: pass-filter, from: { name: first, durable: true } }
sinks:
  reader: { from: second }
"#;

/// A broker, a machine that publishes to it and a reader of what comes out.
pub(crate) struct Ends {
    pub(crate) port: u16,
    machine: AsyncClient,
    /// From the machine to the reader, for each message.
    arrivals: mpsc::UnboundedReceiver<Duration>,
    // End their tasks when they are dropped.
    _tasks: JoinSet<()>,
}

impl Ends {
    /// Starts all three.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let port = start_broker()?;
        let mut tasks = JoinSet::new();
        let arrivals = read(port, &mut tasks).await?;
        let (machine, events) = connect("bench-machine", port);
        tasks.spawn(keep(events, None));
        Ok(Self { port, machine, arrivals, _tasks: tasks })
    }

    /// Publishes until the first message comes out of a pipeline between the two. Sent before its source listens they are
    /// lost.
    pub(crate) async fn first(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            send(&self.machine).await?;
            let arrival = tokio::time::timeout(Duration::from_millis(10), self.arrivals.recv());
            if let Ok(Some(_)) = arrival.await {
                return Ok(());
            }
            ensure!(start.elapsed() < FIRST, "no message came out in {FIRST:?}");
        }
    }
}

/// A pipeline that runs between two ends.
pub(crate) struct Pipeline {
    ends: Ends,
    pub(crate) times: DeployTimes,
}

/// How long it took until the first message came out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeployTimes {
    /// Reading the definition, composing the stages, writing the manifest.
    pub(crate) build: Duration,
    /// From there until wadm, host and providers say that all of it runs.
    pub(crate) running: Duration,
    /// From the very beginning to the first message at the reader.
    pub(crate) first_message: Duration,
}

impl Pipeline {
    /// Deploys the pipeline and waits for a first message to come out.
    pub(crate) async fn deploy(lab: &Lab) -> anyhow::Result<Self> {
        let mut ends = Ends::start().await?;
        let start = Instant::now();
        let deployment = deploy::build(lab, &plan(ends.port)?)?;
        let build = start.elapsed();
        let applications = Applications::new(lab.connect().await?, LATTICE);
        applications.deploy(&deployment).await?;
        let first = async {
            ends.first().await?;
            anyhow::Ok(start.elapsed())
        };
        let running = async {
            applications.wait_running(PIPELINE, deploy::RUNNING, |_| {}).await?;
            anyhow::Ok(start.elapsed().saturating_sub(build))
        };
        let (first_message, running) = tokio::try_join!(first, running)?;
        let times = DeployTimes { build, running, first_message };
        let mut pipeline = Self { ends, times };
        pipeline.settle().await;
        Ok(pipeline)
    }

    /// Publishes one message, which carries its time.
    pub(crate) async fn send(&self) -> anyhow::Result<()> {
        send(&self.ends.machine).await
    }

    /// Another hand on the machine.
    pub(crate) fn machine(&self) -> Machine {
        Machine(self.ends.machine.clone())
    }

    /// The next message's time from machine to reader.
    pub(crate) async fn arrival(&mut self) -> anyhow::Result<Duration> {
        let arrival = tokio::time::timeout(FIRST, self.ends.arrivals.recv()).await;
        arrival.context("a message did not arrive")?.context("the reader has ended")
    }

    /// Waits until nothing more comes.
    async fn settle(&mut self) {
        while let Ok(Some(_)) =
            tokio::time::timeout(Duration::from_millis(500), self.ends.arrivals.recv()).await
        {
        }
    }
}

/// Publishes messages.
pub(crate) struct Machine(AsyncClient);

impl Machine {
    pub(crate) async fn send(&self) -> anyhow::Result<()> {
        send(&self.0).await
    }
}

async fn send(machine: &AsyncClient) -> anyhow::Result<()> {
    let mut payload = vec![b'.'; PAYLOAD];
    if let Some(place) = payload.first_chunk_mut::<8>() {
        *place = now_ns().to_le_bytes();
    }
    Ok(machine.publish(IN, QoS::AtLeastOnce, false, payload).await?)
}

fn connect(name: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(true).set_inflight(500);
    AsyncClient::new(options, 1000)
}

/// Subscribes to the pipeline's output.
async fn read(
    port: u16,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<mpsc::UnboundedReceiver<Duration>> {
    let (client, mut events) = connect("bench-reader", port);
    client.subscribe(OUT, QoS::AtLeastOnce).await?;
    let subscribed = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => return,
                Ok(_) => {}
                // The broker's thread has not come so far.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(BROKER, subscribed)
        .await
        .context("the MQTT broker took no subscription")?;
    let (send, receive) = mpsc::unbounded_channel();
    tasks.spawn(async move {
        // Kept here: the connection ends with its last client.
        let _client = client;
        keep(events, Some(send)).await;
    });
    Ok(receive)
}

/// Keeps a connection going, and tells when messages arrive. Ends with the connection: the broker is in this process.
async fn keep(mut events: EventLoop, arrivals: Option<mpsc::UnboundedSender<Duration>>) {
    while let Ok(event) = events.poll().await {
        if let (Event::Incoming(Packet::Publish(message)), Some(arrivals)) = (event, &arrivals)
            && let Some(sent) = message.payload.first_chunk::<8>()
        {
            let taken = now_ns().saturating_sub(u64::from_le_bytes(*sent));
            // Nobody may be waiting for it.
            let _ = arrivals.send(Duration::from_nanos(taken));
        }
    }
}

fn plan(port: u16) -> anyhow::Result<Plan> {
    let (definition, binding) = texts(port, PIPELINE);
    deploy::plan(&definition, &binding)
}

/// The definition of a pipeline of this name, and its binding to the broker on this port.
pub(crate) fn texts(port: u16, name: &str) -> (String, String) {
    let url = format!("mqtt://127.0.0.1:{port}");
    let binding = format!(
        r#"millrace: v1alpha1
binding:
  sources:
    machine: {{ mqtt: {{ url: "{url}", topic: {IN}, version: "3.1.1" }} }}
  sinks:
    reader: {{ mqtt: {{ url: "{url}", topic: {OUT}, version: "3.1.1" }} }}
  components:
    pass-map: {{ file: {:?} }}
    pass-filter: {{ file: {:?} }}
"#,
        component("pass-map"),
        component("pass-filter"),
    );
    (DEFINITION.replace("pipeline: bench", &format!("pipeline: {name}")), binding)
}

/// Starts a broker on a free port of the loopback interface; it ends with the process.
fn start_broker() -> anyhow::Result<u16> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free port for the MQTT broker")?;
    let mut broker = Broker::new(broker_config(address));
    std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            if let Err(e) = broker.start() {
                eprintln!("the MQTT broker ended: {e}");
            }
        })
        .context("could not start the MQTT broker's thread")?;
    Ok(address.port())
}

fn broker_config(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "bench".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 500,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 500,
            max_segment_size: 8 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("bench".to_owned(), server)])),
        ..Config::default()
    }
}
