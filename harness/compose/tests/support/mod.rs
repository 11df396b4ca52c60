//! Runs composed stages in the engine that the host uses, with the interfaces of the host written by hand.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::Path;

use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_compose::{Artifact, Grant, Kind, StageSpec, StepSpec, compose};
use wasmtime::component::{Component, ComponentType, InstancePre, Lift, Linker, Lower};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourceLimiter, Store,
};

/// Reads a component that scripts/build-guests built.
pub fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../build/components")
        .join(name)
        .with_extension("wasm");
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `make guests`", path.display()))
}

pub fn step(name: &str, kind: Kind, component_name: &str) -> StepSpec {
    StepSpec {
        name: name.into(),
        kind,
        component: Some(component(component_name)),
        grants: [].into(),
        memory_max: None,
    }
}

/// Everything that can be granted.
pub fn every_grant() -> Vec<Grant> {
    let all = ["clocks", "random", "log", "config", "kv:b", "kv:read:c", "http:get:a.example"];
    all.map(|grant| grant.parse().unwrap()).to_vec()
}

pub fn granted(mut step: StepSpec, grants: &[Grant]) -> StepSpec {
    step.grants = grants.iter().cloned().collect();
    step
}

pub fn stage(steps: Vec<StepSpec>) -> StageSpec {
    StageSpec { name: "convert".into(), version: "1.2.3".into(), steps }
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, PartialEq)]
#[component(record)]
pub struct BrokerMessage {
    pub subject: String,
    pub body: Vec<u8>,
    #[component(name = "reply-to")]
    pub reply_to: Option<String>,
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy, PartialEq)]
#[component(enum)]
#[repr(u8)]
pub enum Level {
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
pub enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy)]
#[component(record)]
pub struct Datetime {
    pub seconds: u64,
    pub nanoseconds: u32,
}

/// What a call did outside.
#[derive(Default)]
pub struct World {
    pub config: BTreeMap<String, String>,
    pub published: Vec<BrokerMessage>,
    pub logged: Vec<(Level, String)>,
    /// Refuses every publish from this one on.
    pub refuse_after: Option<usize>,
    /// The largest memory that any part of the stage had when it asked for more, in bytes.
    pub largest_memory: usize,
}

/// Watches, and limits nothing: what stops a memory is in the component.
impl ResourceLimiter for World {
    fn memory_growing(
        &mut self,
        current: usize,
        _: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.largest_memory = self.largest_memory.max(current);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

pub struct Stage {
    engine: Engine,
    instance: InstancePre<World>,
    pub config: BTreeMap<String, String>,
    pub refuse_after: Option<usize>,
}

/// How a call ended, and what it did.
#[derive(Debug)]
pub struct Outcome {
    /// The stage's answer; a trap is the outer error.
    pub answer: Result<Result<(), String>, String>,
    pub published: Vec<BrokerMessage>,
    pub logged: Vec<(Level, String)>,
    pub largest_memory: usize,
}

impl Outcome {
    pub fn ok(&self) -> &Self {
        assert_eq!(self.answer, Ok(Ok(())));
        self
    }

    pub fn refused(&self) -> &str {
        match &self.answer {
            Ok(Err(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    /// The bodies published on a subject.
    pub fn on(&self, subject: &str) -> Vec<Batch<'_>> {
        let of = self.published.iter().filter(|message| message.subject == subject);
        of.map(|message| Batch::parse(&message.body).unwrap()).collect()
    }

    /// The payloads published on a subject.
    pub fn payloads(&self, subject: &str) -> Vec<String> {
        let messages = self.on(subject).into_iter().flat_map(|batch| batch.messages());
        messages.map(|message| String::from_utf8_lossy(message.payload).into_owned()).collect()
    }
}

/// What a call came to: the stage's answer, or a trap.
pub type Answer = wasmtime::Result<Result<(), String>>;

type Got<T> = wasmtime::Result<(Result<T, ConfigError>,)>;

impl Stage {
    pub fn new(artifact: &Artifact) -> Self {
        let mut config = Config::new();
        config.epoch_interruption(true);
        // As the host does it.
        let mut pool = PoolingAllocationConfig::default();
        pool.total_memories(100)
            .linear_memory_keep_resident(10 * 1024)
            .table_keep_resident(10 * 1024);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).unwrap();
        let component = Component::new(&engine, &artifact.bytes).unwrap();
        let mut linker = Linker::<World>::new(&engine);

        let mut messaging = linker.instance("wasmcloud:messaging/consumer@0.2.0").unwrap();
        messaging
            .func_wrap(
                "publish",
                |mut store,
                 (message,): (BrokerMessage,)|
                 -> wasmtime::Result<(Result<(), String>,)> {
                    let world: &mut World = store.data_mut();
                    if world.refuse_after.is_some_and(|after| world.published.len() >= after) {
                        return Ok((Err("full".to_owned()),));
                    }
                    world.published.push(message);
                    Ok((Ok(()),))
                },
            )
            .unwrap();
        let mut config = linker.instance("wasi:config/store@0.2.0-draft").unwrap();
        config
            .func_wrap("get", |store, (key,): (String,)| -> Got<Option<String>> {
                Ok((Ok(store.data().config.get(&key).cloned()),))
            })
            .unwrap();
        config
            .func_wrap("get-all", |store, (): ()| -> Got<Vec<(String, String)>> {
                let all: &World = store.data();
                Ok((Ok(all.config.clone().into_iter().collect()),))
            })
            .unwrap();
        linker
            .instance("wasi:logging/logging@0.1.0-draft")
            .unwrap()
            .func_wrap("log", |mut store, (level, _, text): (Level, String, String)| {
                store.data_mut().logged.push((level, text));
                Ok(())
            })
            .unwrap();
        // The host offers 0.2.6; a step may be built against any 0.2.
        let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.6").unwrap();
        for name in ["now", "resolution"] {
            wall.func_wrap(name, |_, (): ()| {
                Ok((Datetime { seconds: 1_700_000_000, nanoseconds: 0 },))
            })
            .unwrap();
        }
        let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.6").unwrap();
        for name in ["now", "resolution"] {
            monotonic.func_wrap(name, |_, (): ()| Ok((1_000u64,))).unwrap();
        }
        let random = std::sync::atomic::AtomicU64::new(1);
        let mut wasi_random = linker.instance("wasi:random/random@0.2.6").unwrap();
        wasi_random
            .func_wrap("get-random-u64", move |_, (): ()| {
                Ok((random.fetch_add(1, std::sync::atomic::Ordering::Relaxed),))
            })
            .unwrap();

        let instance = linker.instantiate_pre(&component).unwrap();
        let steps = artifact.metadata.steps.iter().enumerate();
        let mut config: BTreeMap<String, String> = steps
            .map(|(position, step)| (format!("step.{position}.name"), step.name.clone()))
            .collect();
        for (key, value) in [
            ("pipeline", "plant"),
            ("stage", "convert"),
            ("out-subject", "plant.out.convert"),
            ("dead-subject", "plant.dead.convert"),
        ] {
            config.insert(key.into(), value.into());
        }
        Self { engine, instance, config, refuse_after: None }
    }

    pub fn of(steps: Vec<StepSpec>) -> Self {
        Self::new(&compose(&stage(steps)).unwrap_or_else(|error| panic!("{error}")))
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    pub fn call(&self, body: &[u8]) -> Outcome {
        let mut store = self.store();
        // Runs out after a second, as the host's clock would make it.
        store.set_epoch_deadline(1);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let engine = self.engine.clone();
        let clock = std::thread::spawn(move || {
            if stopped.recv_timeout(std::time::Duration::from_secs(1)).is_err() {
                engine.increment_epoch();
            }
        });
        let answer = self.call_in(&mut store, body).map_err(|error| format!("{error:?}"));
        stop.send(()).ok();
        clock.join().unwrap();
        let world = store.into_data();
        Outcome {
            answer,
            published: world.published,
            logged: world.logged,
            largest_memory: world.largest_memory,
        }
    }

    pub fn store(&self) -> Store<World> {
        let world = World {
            config: self.config.clone(),
            refuse_after: self.refuse_after,
            ..World::default()
        };
        let mut store = Store::new(&self.engine, world);
        store.limiter(|world| world);
        store.set_epoch_deadline(u64::MAX / 2);
        store
    }

    pub fn call_in(
        &self,
        store: &mut Store<World>,
        body: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        self.handle(store)?(store, body)
    }

    /// A new instance's handler.
    pub fn handle(
        &self,
        store: &mut Store<World>,
    ) -> wasmtime::Result<impl Fn(&mut Store<World>, &[u8]) -> Answer + use<>> {
        let instance = self.instance.instantiate(&mut *store)?;
        let handler = instance
            .get_export_index(&mut *store, None, "wasmcloud:messaging/handler@0.2.0")
            .unwrap();
        let handle =
            instance.get_export_index(&mut *store, Some(&handler), "handle-message").unwrap();
        let handle = instance
            .get_typed_func::<(BrokerMessage,), (Result<(), String>,)>(&mut *store, handle)?;
        Ok(move |store: &mut Store<World>, body: &[u8]| {
            let message =
                BrokerMessage { subject: "raw/topic".into(), body: body.to_vec(), reply_to: None };
            let (answer,) = handle.call(&mut *store, (message,))?;
            handle.post_return(&mut *store)?;
            Ok(answer)
        })
    }
}

/// A batch of these payloads, numbered by timestamp.
pub fn batch(payloads: &[&str]) -> Vec<u8> {
    let headers =
        [("id", "01J"), ("attempt", "3"), ("traceparent", "00-ab-cd-01"), ("unknown", "carried")];
    let mut writer = BatchWriter::new(headers).unwrap();
    for (number, payload) in payloads.iter().enumerate() {
        let fields = Fields {
            timestamp: number as u64,
            topic: "plant/press-1",
            content_type: Some("text/plain"),
            key: Some(b"press-1"),
            payload: payload.as_bytes(),
        };
        writer.push(&fields, [("unit", "F")]).unwrap();
    }
    writer.finish()
}
