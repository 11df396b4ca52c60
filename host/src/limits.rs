//! Limits of every component on this host, and the check that they are enforced.
//!
//! Wasmtime's pooling allocator is what enforces the memory limit. When it cannot reserve its address space the
//! wasmCloud host warns and goes on with the on-demand allocator, which enforces nothing; so the same allocator is
//! built here first, and the host is not started when that fails.

use std::time::Duration;

use wasmcloud_host::WasmbusHostConfig;

/// Limits of this host.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Limits {
    /// Most memory of one component instance, in MiB. A step's own maximum, written into its artifact, may be lower.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4095))]
    max_memory_mib: u32,
    /// Longest time of one call into a component, in seconds; then it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    max_call_seconds: u64,
    /// Most core instances (and memories) in use at once. A stage takes 4 to 15 for each call in flight, and each
    /// reserves 4 GiB of address space.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    max_core_instances: u32,
}

/// Most core instances, memories and tables of one artifact: a stage of eight steps built for WASI, the most that are planned
/// as one, has about 103 instances and 52 tables.
const MAX_CORE_INSTANCES_PER_COMPONENT: u32 = 160;

/// Largest artifact. Python components are large.
const MAX_COMPONENT_BYTES: u64 = 50 * 1024 * 1024;

/// The memory limit would not be enforced.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing to start: the memory limit of components would not be enforced, because {instances} instances of up to \
     4 GiB address space could not be reserved ({cause}). Raise the address-space limit (`ulimit -v unlimited`, \
     vm.overcommit_memory=0 or 1), or lower --max-core-instances"
)]
pub(crate) struct NotEnforced {
    instances: u32,
    cause: String,
}

impl Limits {
    fn max_memory(&self) -> u32 {
        self.max_memory_mib.saturating_mul(1024 * 1024)
    }

    fn max_call(&self) -> Duration {
        Duration::from_secs(self.max_call_seconds)
    }

    /// Writes the limits into the host's configuration.
    pub(crate) fn apply(&self, config: &mut WasmbusHostConfig) {
        config.max_execution_time = self.max_call();
        config.max_linear_memory = self.max_memory();
        config.max_components = self.max_core_instances;
        config.max_core_instances_per_component = MAX_CORE_INSTANCES_PER_COMPONENT;
        config.max_component_size = MAX_COMPONENT_BYTES;
    }

    /// Builds the allocator that the host will build, and gives it up again.
    pub(crate) fn check_enforced(&self) -> Result<(), NotEnforced> {
        wasmcloud_runtime::Runtime::builder()
            .max_execution_time(self.max_call())
            .max_linear_memory(self.max_memory())
            .max_components(self.max_core_instances)
            .max_core_instances_per_component(MAX_CORE_INSTANCES_PER_COMPONENT)
            .max_component_size(MAX_COMPONENT_BYTES)
            .force_pooling_allocator()
            .build()
            .map(drop)
            .map_err(|e| NotEnforced {
                instances: self.max_core_instances,
                cause: format!("{e:#}"),
            })
    }
}
