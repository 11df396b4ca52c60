//! What the harness costs: a composed stage in this process, with the engine set up as the host does it, over a
//! component that does nothing with the same body.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use millrace_batch::Batch;
use millrace_compose::Kind;
use wasmtime::component::{Component, ComponentType, InstancePre, Lift, Linker, Lower};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use crate::load::median;
use crate::parts::{self, BATCH, Template};
use crate::progress;
use crate::report::{Aim, Row};

/// Payload sizes, in bytes.
const SIZES: [usize; 3] = [64, 200, 1000];

/// Map at 200 B costs at most this, in microseconds a message.
const AIM_US: f64 = 0.7;

/// The host's limit for one linear memory unless told otherwise.
const MAX_MEMORY: usize = 256 << 20;

/// The host's limit for the core instances of one stage, and so for its memories and tables.
const MAX_CORE_INSTANCES: u32 = 160;

/// How often each is called.
#[derive(Debug)]
pub(crate) struct Effort {
    /// Rounds, of which the median is taken; all take turns in each.
    pub(crate) rounds: usize,
    /// Calls of each in a round.
    pub(crate) calls: usize,
}

impl From<crate::Effort> for Effort {
    fn from(effort: crate::Effort) -> Self {
        Self {
            rounds: if effort.quick { 5 } else { 25 },
            calls: if effort.quick { 20 } else { 40 },
        }
    }
}

/// Measures every kind of step at all sizes.
///
/// # Errors
///
/// The example components are not there, or a call goes wrong.
pub(crate) async fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    progress(format!("harness: {} rounds in this process", effort.rounds));
    let engine = engine()?;
    let nothing = Subject::nothing(&engine)?;
    let subjects = [Kind::Map, Kind::Filter, Kind::FlatMap, Kind::Branch, Kind::Delay]
        .into_iter()
        .map(|kind| Subject::stage(&engine, kind))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let bodies = SIZES
        .iter()
        .map(|size| Ok((*size, Template::new(BATCH, *size)?.body())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for subject in &subjects {
        for (_, body) in &bodies {
            subject.passes_everything(body).await?;
        }
    }
    let mut taken: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for (size, body) in &bodies {
            for subject in std::iter::once(&nothing).chain(&subjects) {
                let us = subject.time(body, effort.calls).await?;
                taken.entry((*size, subject.name)).or_default().push(us);
            }
        }
    }
    let mut of = |size, name| median(taken.remove(&(size, name)).unwrap_or_default());
    let mut rows = Vec::new();
    for size in SIZES {
        let bare = of(size, nothing.name);
        for Subject { name, .. } in &subjects {
            rows.push(row(name, size, of(size, name), bare));
        }
    }
    Ok(rows)
}

fn row(name: &str, size: usize, call_us: f64, bare_us: f64) -> Row {
    let per_message = BATCH as f64;
    let what = format!("{name}, {size} B, above a call that does nothing");
    let mut row = Row::new("harness", what, (call_us - bare_us) / per_message, "us/message")
        .over(bare_us / per_message)
        .detail("us/call", call_us)
        .detail("us/bare call", bare_us);
    if name == "map" && size == parts::PAYLOAD {
        row = row.aim(Aim::AtMost(AIM_US));
    }
    row
}

/// As the host does it (wasmcloud-runtime 0.12 as mended in patches/, `RuntimeBuilder::build`).
pub(crate) fn engine() -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config.async_support(true).epoch_interruption(true).wasm_component_model(true);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(200)
        .total_core_instances(200)
        .total_stacks(200)
        .total_memories(200)
        .total_tables(200)
        .max_component_instance_size(50 << 20)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_CORE_INSTANCES)
        .max_tables_per_component(MAX_CORE_INSTANCES)
        .table_elements(15_000)
        .max_memory_size(MAX_MEMORY)
        .linear_memory_keep_resident(10 * 1024)
        .table_keep_resident(10 * 1024);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).map_err(|e| anyhow!("the engine could not be made: {e:#}"))
}

#[derive(ComponentType, Lift, Lower, Debug, Clone)]
#[component(record)]
pub(crate) struct BrokerMessage {
    subject: String,
    pub(crate) body: Vec<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by the component")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

#[derive(ComponentType, Lift, Lower, Debug, Clone)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

impl BrokerMessage {
    /// Where it goes.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }
}

/// What a stage asks of what lies outside of it, and the answer: made beforehand, so that it costs the stage nothing.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

/// What a call sees of the host.
struct World {
    config: Arc<BTreeMap<String, String>>,
    exchange: Arc<Exchange>,
    published: Vec<BrokerMessage>,
}

/// Something with the interface of a stage.
pub(crate) struct Subject {
    name: &'static str,
    engine: Engine,
    instance: InstancePre<World>,
    config: Arc<BTreeMap<String, String>>,
    exchange: Arc<Exchange>,
}

impl Subject {
    /// A component with the export of a stage that takes the body and answers ok.
    pub(crate) fn nothing(engine: &Engine) -> anyhow::Result<Self> {
        let bytes = wat::parse_str(include_str!("nothing.wat"))?;
        Self::new("nothing", engine, &bytes, BTreeMap::new())
    }

    fn stage(engine: &Engine, kind: Kind) -> anyhow::Result<Self> {
        let name = kind.name();
        let artifact = parts::pass_stage(name, kind)?;
        let config = parts::stage_config("bench", name).into_iter().collect();
        Self::new(name, engine, &artifact.bytes, config)
    }

    pub(crate) fn new(
        name: &'static str,
        engine: &Engine,
        bytes: &[u8],
        config: BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let component = Component::new(engine, bytes)?;
        let instance = linker(engine)?.instantiate_pre(&component)?;
        let (config, exchange) = (Arc::new(config), Arc::default());
        Ok(Self { name, engine: engine.clone(), instance, config, exchange })
    }

    /// The same with the one request that it is answered; any other ends the call.
    pub(crate) fn asks(self, exchange: Exchange) -> Self {
        Self { exchange: Arc::new(exchange), ..self }
    }

    /// One call as the host makes it: a new store and a new instance.
    pub(crate) async fn call(&self, body: &Bytes) -> anyhow::Result<Vec<BrokerMessage>> {
        let world = World {
            config: Arc::clone(&self.config),
            exchange: Arc::clone(&self.exchange),
            published: Vec::new(),
        };
        let mut store = Store::new(&self.engine, world);
        // No clock ticks here, so nothing runs out.
        store.set_epoch_deadline(1);
        let instance = self.instance.instantiate_async(&mut store).await?;
        let handler = instance
            .get_export_index(&mut store, None, "wasmcloud:messaging/handler@0.2.0")
            .context("no handler")?;
        let handle = instance
            .get_export_index(&mut store, Some(&handler), "handle-message")
            .context("no handle-message")?;
        let handle = instance
            .get_typed_func::<(BrokerMessage,), (Result<(), String>,)>(&mut store, handle)?;
        let message = BrokerMessage {
            subject: "bench.in.machine".to_owned(),
            body: body.to_vec(),
            reply_to: None,
        };
        let (answer,) = handle.call_async(&mut store, (message,)).await?;
        handle.post_return_async(&mut store).await?;
        answer.map_err(|text| anyhow!("{} answered {text}", self.name))?;
        Ok(store.into_data().published)
    }

    /// Checks once that the stage does its work; otherwise its times would be worth nothing.
    async fn passes_everything(&self, body: &Bytes) -> anyhow::Result<()> {
        let published = self.call(body).await?;
        let [message] = published.as_slice() else {
            anyhow::bail!("{} published {} batches instead of one", self.name, published.len());
        };
        let (before, after) = (Batch::parse(body)?, Batch::parse(&message.body)?);
        ensure!(before.messages().eq_by_payload(after), "{} changed the messages", self.name);
        Ok(())
    }

    /// Microseconds a call.
    async fn time(&self, body: &Bytes, calls: usize) -> anyhow::Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            self.call(body).await?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
    }
}

/// Compares what a step could have changed.
trait SamePayloads {
    fn eq_by_payload(self, other: Batch<'_>) -> bool;
}

impl SamePayloads for millrace_batch::Messages<'_> {
    fn eq_by_payload(self, other: Batch<'_>) -> bool {
        self.map(|message| message.payload).eq(other.messages().map(|message| message.payload))
    }
}

type Got<T> = wasmtime::Result<(Result<T, ConfigError>,)>;
type Answered = wasmtime::Result<(Result<BrokerMessage, String>,)>;

/// The interfaces of the host that a stage imports.
fn linker(engine: &Engine) -> anyhow::Result<Linker<World>> {
    let mut linker = Linker::<World>::new(engine);
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.2.0")?;
    consumer.func_wrap(
        "publish",
        |mut store, (message,): (BrokerMessage,)| -> wasmtime::Result<(Result<(), String>,)> {
            let world: &mut World = store.data_mut();
            world.published.push(message);
            Ok((Ok(()),))
        },
    )?;
    type Asked = (String, Vec<u8>, u32);
    consumer.func_wrap("request", |store, (subject, body, _): Asked| -> Answered {
        let world: &World = store.data();
        if body != world.exchange.request {
            return Err(wasmtime::Error::msg("the stage made another request than was expected"));
        }
        Ok((Ok(BrokerMessage { subject, body: world.exchange.answer.clone(), reply_to: None }),))
    })?;
    let mut config = linker.instance("wasi:config/store@0.2.0-draft")?;
    config.func_wrap("get", |store, (key,): (String,)| -> Got<Option<String>> {
        let world: &World = store.data();
        Ok((Ok(world.config.get(&key).cloned()),))
    })?;
    config.func_wrap("get-all", |store, (): ()| -> Got<Vec<(String, String)>> {
        let world: &World = store.data();
        Ok((Ok(world.config.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),))
    })?;
    linker
        .instance("wasi:logging/logging@0.1.0-draft")?
        .func_wrap("log", |_, (_, _, _): (Level, String, String)| Ok(()))?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_figure_is_there() {
        let rows = measure(&Effort { rounds: 3, calls: 5 }).await.unwrap();
        let whats: Vec<&str> = rows.iter().map(|row| row.what.as_str()).collect();
        assert_eq!(rows.len(), 15, "{whats:?}");
        for row in &rows {
            let bare = row.bare.as_ref().unwrap();
            // Above a bare call is a difference of two measured times: beside other tests it may come out below nothing.
            assert!(bare.value.is_finite() && bare.value > 0.0, "{}: {}", row.what, bare.value);
            assert!(row.value.is_finite() && bare.ratio.is_finite(), "{}: {}", row.what, row.value);
        }
        let with_aim: Vec<_> = rows.iter().filter(|row| row.aim.is_some()).collect();
        assert_eq!(with_aim.len(), 1);
        assert!(with_aim[0].what.starts_with("map, 200 B"), "{whats:?}");
    }

    #[tokio::test]
    async fn a_stage_that_fails_is_not_measured() {
        let engine = engine().unwrap();
        let artifact = parts::pass_stage("map", Kind::Map).unwrap();
        let unconfigured = Subject::new("map", &engine, &artifact.bytes, BTreeMap::new()).unwrap();
        let body = Template::new(1, 10).unwrap().body();
        let error = unconfigured.time(&body, 1).await.unwrap_err().to_string();
        assert!(error.contains("config"), "{error}");
    }
}
