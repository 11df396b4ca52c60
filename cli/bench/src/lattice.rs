//! Stages, providers and links on a lattice through its control interface, with this process as the provider on both
//! sides: it calls stages as a source does, and takes what they publish as a sink does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt as _;
use millrace_batch::Batch;
use millrace_provider::bindings::exports::wasmcloud::messaging::consumer;
use millrace_provider::bindings::wasmcloud::messaging::handler;
use millrace_provider::bindings::wasmcloud::messaging::types::BrokerMessage;
use millrace_settings::edge::EdgeSettings;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wasmcloud_control_interface::{Client, ClientBuilder, CtlResponse, Link};
use wrpc_transport_nats::Client as Wrpc;

use crate::lab::{LATTICE, Lab};
use crate::parts::now_ns;

/// Identity of this process as a sink.
pub(crate) const SINK: &str = "bench-sink";

/// The host answers questions about itself within this time.
const AUCTION: Duration = Duration::from_millis(600);

/// From putting a stage and its links to the first call that goes through.
const READY: Duration = Duration::from_secs(30);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls that a host lets into one stage at once. More than are ever in flight here.
const INSTANCES: u32 = 200;

/// The control interface of the lattice and its one host.
pub(crate) struct Control {
    client: Client,
    host: String,
}

impl Control {
    pub(crate) async fn new(nats: &async_nats::Client) -> anyhow::Result<Self> {
        let client =
            ClientBuilder::new(nats.clone()).lattice(LATTICE).auction_timeout(AUCTION).build();
        let hosts = client.get_hosts().await.map_err(|e| anyhow!("no host answers: {e}"))?;
        let host = hosts.into_iter().find_map(CtlResponse::into_data).context("no host answers")?;
        Ok(Self { client, host: host.id().to_owned() })
    }

    pub(crate) async fn config(
        &self,
        name: &str,
        values: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<()> {
        let values: HashMap<String, String> = values.into_iter().collect();
        accepted("put a configuration", self.client.put_config(name, values).await)
    }

    pub(crate) async fn stage(
        &self,
        id: &str,
        reference: &str,
        config: &str,
    ) -> anyhow::Result<()> {
        let config = vec![config.to_owned()];
        let scaled =
            self.client.scale_component(&self.host, reference, id, INSTANCES, None, config, true);
        accepted("start a stage", scaled.await)
    }

    pub(crate) async fn provider(&self, id: &str, reference: &str) -> anyhow::Result<()> {
        let started = self.client.start_provider(&self.host, reference, id, None, Vec::new());
        accepted("start a provider", started.await)
    }

    /// A link with the configurations of these names at its source or at its target.
    pub(crate) async fn link(
        &self,
        source: &str,
        target: &str,
        name: &str,
        interface: &str,
        at_source: Option<&str>,
        at_target: Option<&str>,
    ) -> anyhow::Result<()> {
        let names = |name: Option<&str>| name.map(str::to_owned).into_iter().collect();
        let link = Link::builder()
            .source_id(source)
            .target(target)
            .name(name)
            .wit_namespace("wasmcloud")
            .wit_package("messaging")
            .interfaces(vec![interface.to_owned()])
            .source_config(names(at_source))
            .target_config(names(at_target))
            .build()
            .map_err(|e| anyhow!("the link from {source} to {target} is wrong: {e}"))?;
        accepted("put a link", self.client.put_link(link).await)
    }
}

fn accepted<E: std::fmt::Display>(
    what: &str,
    answer: Result<CtlResponse<()>, E>,
) -> anyhow::Result<()> {
    match answer {
        Ok(answer) if answer.succeeded() => Ok(()),
        Ok(answer) => bail!("the host refused to {what}: {}", answer.message()),
        Err(e) => bail!("the host did not answer to {what}: {e}"),
    }
}

/// Calls one stage, as a source does.
#[derive(Clone)]
pub(crate) struct Source {
    client: Arc<Wrpc>,
}

impl Source {
    /// A caller of the component, over a connection of its own.
    pub(crate) async fn new(lab: &Lab, component: &str) -> anyhow::Result<Self> {
        let nats = Arc::new(lab.connect().await?);
        let client = Wrpc::new(nats, format!("{LATTICE}.{component}"), None).await?;
        Ok(Self { client: Arc::new(client) })
    }

    /// One call.
    pub(crate) async fn call(&self, body: Bytes) -> anyhow::Result<()> {
        let message =
            BrokerMessage { subject: "bench.in.machine".to_owned(), body, reply_to: None };
        let answer = handler::handle_message(&*self.client, None, &message).await?;
        answer.map_err(|text| anyhow!("the stage answered {text}"))
    }

    /// Calls again while the edge behind the stage is full, as a source does.
    pub(crate) async fn call_until_taken(&self, body: Bytes) -> anyhow::Result<()> {
        loop {
            match self.call(body.clone()).await {
                Err(e) if e.to_string().contains("answered downstream:") => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Calls until one goes through: stages and links take a moment to become known.
    pub(crate) async fn ready(&self, body: &Bytes) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let called =
                tokio::time::timeout(Duration::from_secs(5), self.call(body.clone())).await;
            let error = match called {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "no answer in 5 s".to_owned(),
            };
            ensure!(start.elapsed() < READY, "the stage is not ready after {READY:?}: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a sink has seen.
#[derive(Clone)]
struct Seen {
    messages: Arc<AtomicU64>,
    probes: mpsc::UnboundedSender<Duration>,
}

impl consumer::Handler<Option<HeaderMap>> for Seen {
    async fn request(
        &self,
        _: Option<HeaderMap>,
        _: String,
        _: Bytes,
        _: u32,
    ) -> anyhow::Result<Result<BrokerMessage, String>> {
        Ok(Err("request is not supported".to_owned()))
    }

    async fn publish(
        &self,
        _: Option<HeaderMap>,
        message: BrokerMessage,
    ) -> anyhow::Result<Result<(), String>> {
        let batch = match Batch::open(&message.body) {
            Ok(batch) => batch,
            Err(e) => return Ok(Err(format!("not a batch: {e}"))),
        };
        if message.subject.contains(".dead.") {
            return Ok(Err("a message was rejected".to_owned()));
        }
        if batch.len() == 1
            && let Some(probe) = batch.messages().next()
        {
            let taken = now_ns().saturating_sub(probe.timestamp);
            // Nobody may be waiting for it.
            let _ = self.probes.send(Duration::from_nanos(taken));
        }
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(Ok(()))
    }
}

/// Takes what stages publish, as a sink does, and counts it.
pub(crate) struct Sink {
    messages: Arc<AtomicU64>,
    /// Time since a message that came alone was made.
    pub(crate) probes: mpsc::UnboundedReceiver<Duration>,
    // Ends its task when it is dropped.
    _task: JoinSet<()>,
    _client: Arc<Wrpc>,
}

impl Sink {
    /// Serves as [`SINK`], over a connection of its own.
    pub(crate) async fn serve(lab: &Lab) -> anyhow::Result<Self> {
        let nats = Arc::new(lab.connect().await?);
        let name = format!("{LATTICE}.{SINK}");
        let client = Arc::new(Wrpc::new(nats, name.clone(), Some(name.into())).await?);
        let (send, probes) = mpsc::unbounded_channel();
        let messages = Arc::new(AtomicU64::new(0));
        let seen = Seen { messages: Arc::clone(&messages), probes: send };
        let invocations = millrace_provider::bindings::serve(&*client, seen).await?;
        let mut invocations =
            futures::stream::select_all(invocations.into_iter().map(|(_, _, stream)| stream));
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(invocation) = invocations.next().await {
                if let Ok(work) = invocation {
                    tokio::spawn(work);
                }
            }
        });
        Ok(Self { messages, probes, _task: task, _client: client })
    }

    /// Messages taken so far.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Waits until so many have been taken.
    pub(crate) async fn reaches(&self, messages: u64, patience: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.messages() < messages {
            let seen = self.messages();
            ensure!(
                start.elapsed() < patience,
                "{seen} of {messages} messages arrived in {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// A stage between this process and itself.
pub(crate) async fn one_stage(lab: &Lab) -> anyhow::Result<(Source, Sink)> {
    let control = Control::new(&lab.connect().await?).await?;
    let sink = Sink::serve(lab).await?;
    let source = put_stage(lab, &control, "stage").await?;
    control.link("bench-stage", SINK, "default", "consumer", None, None).await?;
    source.ready(&crate::parts::probe(0)?).await?;
    Ok((source, sink))
}

/// Starts a stage of one map as component `bench-<name>` and waits until it runs.
pub(crate) async fn put_stage(lab: &Lab, control: &Control, name: &str) -> anyhow::Result<Source> {
    let artifact = crate::parts::pass_stage(name, millrace_compose::Kind::Map)?;
    let reference = lab.artifact(name, &artifact.bytes)?;
    let config = format!("stage-{name}");
    control.config(&config, crate::parts::stage_config("bench", name)).await?;
    let id = format!("bench-{name}");
    control.stage(&id, &reference, &config).await?;
    // A stage answers an empty batch by itself. Its links are put when it does: a link put while a host starts the
    // component is lost, because the start writes back what it read before.
    let empty = millrace_batch::BatchWriter::new([])?.finish();
    let source = Source::new(lab, &id).await?;
    source.ready(&Bytes::from(empty)).await?;
    Ok(source)
}

/// Two stages, a durable edge between them, and this process at both ends. The window is the conduit's.
pub(crate) async fn durable_edge(
    lab: &Lab,
    settings: &EdgeSettings,
    in_flight: u64,
) -> anyhow::Result<(Source, Sink)> {
    let edge = half_an_edge(lab, settings).await?;
    edge.hand_on(settings, in_flight).await?;
    edge.source.ready(&crate::parts::probe(0)?).await?;
    edge.sink.reaches(1, READY).await?;
    Ok((edge.source, edge.sink))
}

/// Two stages and a durable edge that takes what the first publishes and hands on nothing yet.
pub(crate) struct HalfAnEdge {
    control: Control,
    pub(crate) source: Source,
    pub(crate) sink: Sink,
}

pub(crate) async fn half_an_edge(lab: &Lab, settings: &EdgeSettings) -> anyhow::Result<HalfAnEdge> {
    let control = Control::new(&lab.connect().await?).await?;
    let sink = Sink::serve(lab).await?;
    let source = put_stage(lab, &control, "first").await?;
    put_stage(lab, &control, "second").await?;
    let mut out = millrace_settings::edge::to_link([("first.second", settings)])?;
    out.extend(names("out", "first"));
    control.config("edge-out", out).await?;
    control.provider("bench-conduit", &lab.provider("conduit", "conduit")?).await?;
    control
        .link("bench-first", "bench-conduit", "default", "consumer", None, Some("edge-out"))
        .await?;
    control.link("bench-second", SINK, "default", "consumer", None, None).await?;
    Ok(HalfAnEdge { control, source, sink })
}

impl HalfAnEdge {
    /// Has the edge hand on what it has.
    pub(crate) async fn hand_on(
        &self,
        settings: &EdgeSettings,
        in_flight: u64,
    ) -> anyhow::Result<()> {
        let delivery = millrace_settings::Delivery {
            in_flight: Some(millrace_settings::Count::clamped(in_flight)),
            ..Default::default()
        };
        let mut into = millrace_settings::to_flat(settings)?;
        into.extend(millrace_settings::to_flat(&delivery)?);
        into.extend(names("first.second", "second"));
        self.control.config("edge-in", into).await?;
        self.control
            .link("bench-conduit", "bench-second", "first_second", "handler", Some("edge-in"), None)
            .await
    }
}

fn names(name: &str, stage: &str) -> BTreeMap<String, String> {
    [("pipeline", "bench"), ("name", name), ("stage", stage)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
