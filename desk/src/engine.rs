//! The engine: set up as the host's is, as far as that makes sense for one call at a time.

use std::path::PathBuf;
use std::time::Duration;

use wasmtime::{CacheConfig, Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often running code is asked whether its time is up.
const TICK: Duration = Duration::from_millis(10);

/// Longest call unless the options say otherwise; as on the host.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Most core instances (and memories, and tables) of one stage, of which one runs at a time. More than on the host: what a
/// step does can be tested also where its stage has become too large to be deployed.
const CORE_INSTANCES: u32 = 1000;

/// Most memory of one core instance, as on the host. A step's own maximum is in its artifact.
const MEMORY: usize = 256 * 1024 * 1024;

/// Greatest size of what an instance is described by, as on the host.
const INSTANCE_BYTES: usize = 50 * 1024 * 1024;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest time of one call into a stage.
    pub call_limit: Duration,
    /// Where compiled stages are kept.
    pub cache: Cache,
}

impl Default for Options {
    fn default() -> Self {
        Self { call_limit: CALL_LIMIT, cache: Cache::Default }
    }
}

/// Where compiled stages are kept, so that they are compiled once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cache {
    /// `$XDG_CACHE_HOME/millrace/desk`, or `~/.cache/millrace/desk`.
    Default,
    /// In this folder.
    At(PathBuf),
    /// Nowhere.
    Off,
}

impl Cache {
    /// The folder, if there is one.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Default => {
                let absolute = |name| {
                    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
                };
                let cache = absolute("XDG_CACHE_HOME")
                    .or_else(|| absolute("HOME").map(|home| home.join(".cache")));
                cache.map(|cache| cache.join("millrace").join("desk"))
            }
            Self::At(folder) => Some(folder.clone()),
            Self::Off => None,
        }
    }
}

/// The engine could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine could not be set up: {0}")]
pub struct EngineError(String);

/// An engine for the stages of any number of pipelines. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) call_limit: Duration,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("call_limit", &self.call_limit).finish_non_exhaustive()
    }
}

impl Engine {
    /// Sets an engine up. A cache that cannot be used is done without.
    ///
    /// # Errors
    ///
    /// When there is no room for it, or this machine is none that code can be compiled for.
    pub fn new(options: &Options) -> Result<Self, EngineError> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.cache(options.cache.folder().and_then(cache));
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        // The pool reserves address space, which may be limited. Memory is bounded by the artifacts in any case.
        let engine = wasmtime::Engine::new(&config)
            .or_else(|_| {
                config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
                wasmtime::Engine::new(&config)
            })
            .map_err(|error| EngineError(format!("{error:#}")))?;
        tick(&engine).map_err(|error| EngineError(error.to_string()))?;
        Ok(Self { engine, call_limit: options.call_limit })
    }

    /// The limit of a call in ticks. The first may come at once.
    pub(crate) fn ticks(&self) -> u64 {
        let ticks = self.call_limit.as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
    }
}

fn cache(folder: PathBuf) -> Option<wasmtime::Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(folder);
    wasmtime::Cache::new(config).ok()
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(CORE_INSTANCES)
        .total_core_instances(CORE_INSTANCES)
        .total_memories(CORE_INSTANCES)
        .total_tables(CORE_INSTANCES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(CORE_INSTANCES)
        .max_tables_per_component(CORE_INSTANCES)
        .table_elements(15_000)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_memory_size(MEMORY)
        .linear_memory_keep_resident(10 * 1024)
        .table_keep_resident(10 * 1024);
    pool
}

/// Advances the engine's clock until the engine is gone.
fn tick(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let weak = engine.weak();
    let ticks = move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("desk-clock".to_owned()).spawn(ticks).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_shorter_than_said() {
        let options = Options { call_limit: Duration::from_millis(15), cache: Cache::Off };
        assert_eq!(Engine::new(&options).unwrap().ticks(), 3);
    }

    #[test]
    fn a_cache_that_cannot_be_used_is_done_without() {
        let options =
            Options { cache: Cache::At("/proc/no/such/place".into()), ..Options::default() };
        assert!(Engine::new(&options).is_ok());
    }
}
