//! Starts the host and wadm, waits for the signal to end, and ends them in order.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use millrace_kit::orphan::Parent;
use nkeys::KeyPair;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use wadm::config::WadmConfig;
use wasmcloud_host::{WasmbusHost, WasmbusHostConfig};

use crate::credentials::{Part, Parts};
use crate::{Args, artifacts, beside_wadm, nats};

/// Threads of the host beyond one a core. Components that run for long have as many as there are cores
/// (patches/README.md): these are for all others, and for the host itself.
const SPARE_THREADS: usize = 4;

/// How long providers get to drain before the host ends them.
const PROVIDER_DRAIN: Duration = Duration::from_secs(10);

/// Between two starts of a wadm that ended.
const WADM_RESTART: Duration = Duration::from_secs(2);

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(args: &Args, key: Option<Arc<KeyPair>>, parts: &Parts) -> anyhow::Result<()> {
    // Noted first: a parent that went before would not be noticed.
    let parent = args.follow_parent.then(Parent::now);
    if !args.no_host {
        args.limits.check_enforced()?;
    }
    let control = runtime("wadm", 2)?;
    control.block_on(check(args, parts))?;

    // wadm first: it learns of a host when the host starts, or else only at its next heartbeat.
    let wadm = match args.no_wadm {
        true => None,
        false => Some(control.block_on(start_wadm(wadm_config(args, &parts.wadm)?))?),
    };
    let host = match args.no_host {
        true => None,
        false => {
            let key = key.unwrap_or_else(|| Arc::new(KeyPair::new_server()));
            let (url, lattice) = (args.nats_url.clone(), args.lattice.clone());
            let id = key.public_key();
            control.spawn(artifacts::tell(parts.ctl.clone(), url, lattice, id));
            Some(start_host(args, key, parts)?)
        }
    };

    let wadm = match wadm {
        None => None,
        Some(running) => {
            let (url, lattice) = (args.nats_url.clone(), args.lattice.clone());
            let watch = beside_wadm::watch(parts.wadm.clone(), url, lattice);
            let keep = keep_wadm(wadm_config(args, &parts.wadm)?, running);
            Some([control.spawn(keep), control.spawn(watch)])
        }
    };
    control.block_on(until_told(parent))?;

    tracing::info!("ending");
    for task in wadm.iter().flatten() {
        task.abort();
    }
    if let Some((components, shutdown)) = host {
        components.block_on(shutdown).context("the wasmCloud host did not end cleanly")?;
        // What still runs on its threads is not waited for.
        components.shutdown_background();
    }
    control.shutdown_background();
    Ok(())
}

/// A running host: its threads, and what ends it in order.
type Running = (Runtime, Pin<Box<dyn Future<Output = anyhow::Result<()>>>>);

fn start_host(args: &Args, key: Arc<KeyPair>, parts: &Parts) -> anyhow::Result<Running> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let components = runtime("host", cores.saturating_add(SPARE_THREADS))?;
    let (host, shutdown) = components
        .block_on(WasmbusHost::new(host_config(args, key, parts)?))
        .context("the wasmCloud host did not start")?;
    tracing::info!(lattice = %args.lattice, nats = %args.nats_url, "host is up");
    let end = async move {
        let ended = shutdown.await;
        drop(host);
        ended
    };
    Ok((components, Box::pin(end)))
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("could not start the threads of {name}"))
}

fn host_config(
    args: &Args,
    key: Arc<KeyPair>,
    Parts { ctl, rpc, provider, .. }: &Parts,
) -> anyhow::Result<WasmbusHostConfig> {
    let url = ctl.url(&args.nats_url).parse::<wasmcloud_host::url::Url>().with_context(|| {
        format!("--nats-url {} is not a URL such as nats://127.0.0.1:4222", args.nats_url)
    })?;
    let (ctl_jwt, ctl_key) = ctl.shown();
    let (rpc_jwt, rpc_key) = rpc.shown();
    let (provider_jwt, provider_key) = provider.shown();
    let mut config = WasmbusHostConfig {
        ctl_jwt,
        ctl_key,
        ctl_tls: ctl.tls_ca().is_some(),
        rpc_jwt,
        rpc_key,
        rpc_tls: rpc.tls_ca().is_some(),
        provider_jwt,
        provider_key,
        ctl_nats_url: url.clone(),
        rpc_nats_url: url,
        lattice: args.lattice.as_str().into(),
        host_key: Some(key),
        labels: args.labels.iter().cloned().collect::<HashMap<_, _>>(),
        // What is not in the lattice's store are files: a plant has no registry.
        allow_file_load: true,
        artifacts: Some(artifacts::source(
            &args.artifacts,
            &args.nats_url,
            &args.lattice,
            ctl.clone(),
        )),
        // A stage's publish waits this long for the conduit or the sink, whose own waits are shorter.
        rpc_timeout: Duration::from_secs(30),
        provider_shutdown_delay: Some(PROVIDER_DRAIN),
        // wadm puts right at each heartbeat what it finds amiss.
        heartbeat_interval: Some(Duration::from_secs(5)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..WasmbusHostConfig::default()
    };
    args.limits.apply(&mut config);
    Ok(config)
}

type Wadm = JoinSet<anyhow::Result<()>>;

/// Tries the credentials of every part that runs here, and that JetStream is there for those that need it.
async fn check(args: &Args, parts: &Parts) -> Result<(), nats::NatsError> {
    let url = &args.nats_url;
    if !args.no_wadm {
        nats::check(url, &parts.wadm).await?;
    }
    if !args.no_host {
        nats::check(url, &parts.ctl).await?;
        nats::check_access(url, &parts.rpc).await?;
        nats::check_access(url, &parts.provider).await?;
    }
    Ok(())
}

fn wadm_config(args: &Args, part: &Part) -> anyhow::Result<WadmConfig> {
    let (nats_jwt, key) = part.shown();
    let seed = key.map(|key| key.seed()).transpose().context("wadm's credentials have no seed")?;
    Ok(WadmConfig {
        nats_server: part.url(&args.nats_url).trim_start_matches("nats://").to_owned(),
        nats_jwt,
        nats_seed: seed,
        nats_tls_ca_file: part.tls_ca().cloned(),
        cleanup_interval: args.host_gone_after,
        ..WadmConfig::default()
    })
}

async fn start_wadm(config: WadmConfig) -> anyhow::Result<Wadm> {
    let running = wadm::start_wadm(config).await.context("wadm did not start")?;
    tracing::info!("wadm is up");
    Ok(running)
}

/// Starts wadm again whenever it ends: it gives up when JetStream is away for long.
async fn keep_wadm(config: WadmConfig, mut running: Wadm) {
    loop {
        let ended = running.join_next().await;
        tracing::warn!(?ended, "wadm ended; starting it again");
        running = loop {
            tokio::time::sleep(WADM_RESTART).await;
            match start_wadm(config.clone()).await {
                Ok(running) => break running,
                Err(e) => tracing::warn!("{e:#}; trying again"),
            }
        };
    }
}

async fn until_told(parent: Option<Parent>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = gone(parent) => tracing::warn!("the parent process is gone"),
    }
    Ok(())
}

async fn gone(parent: Option<Parent>) {
    match parent {
        Some(parent) => parent.gone().await,
        None => std::future::pending().await,
    }
}
