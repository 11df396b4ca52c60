//! Starts the host and wadm, waits for the signal to end, and ends them in order.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use millrace_kit::orphan::Parent;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use wadm::config::WadmConfig;
use wasmcloud_host::{WasmbusHost, WasmbusHostConfig};

use crate::credentials::shown;
use crate::{Args, beside_wadm, identity, nats};

/// Threads of the host beyond one a core. Components that run for long have as many as there are cores
/// (patches/README.md): these are for all others, and for the host itself.
const SPARE_THREADS: usize = 4;

/// How long providers get to drain before the host ends them.
const PROVIDER_DRAIN: Duration = Duration::from_secs(10);

/// Between two starts of a wadm that ended.
const WADM_RESTART: Duration = Duration::from_secs(2);

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Noted first: a parent that went before would not be noticed.
    let parent = args.follow_parent.then(Parent::now);
    if !args.no_host {
        args.limits.check_enforced()?;
    }
    let control = runtime("wadm", 2)?;
    control.block_on(check(args))?;

    // wadm first: it learns of a host when the host starts, or else only at its next heartbeat.
    let wadm = match args.no_wadm {
        true => None,
        false => Some(control.block_on(start_wadm(wadm_config(args)))?),
    };
    let host = if args.no_host { None } else { Some(start_host(args)?) };

    let wadm = wadm.map(|running| {
        let access = args.credentials.wadm();
        let watch = beside_wadm::watch(access, args.nats_url.clone(), args.lattice.clone());
        [control.spawn(keep_wadm(wadm_config(args), running)), control.spawn(watch)]
    });
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

fn start_host(args: &Args) -> anyhow::Result<Running> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let components = runtime("host", cores.saturating_add(SPARE_THREADS))?;
    let (host, shutdown) = components
        .block_on(WasmbusHost::new(host_config(args)?))
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

fn host_config(args: &Args) -> anyhow::Result<WasmbusHostConfig> {
    let (ctl, rpc, provider) =
        (args.credentials.ctl(), args.credentials.rpc(), args.credentials.provider());
    let url = ctl.url(&args.nats_url).parse::<wasmcloud_host::url::Url>().with_context(|| {
        format!("--nats-url {} is not a URL such as nats://127.0.0.1:4222", args.nats_url)
    })?;
    let (ctl_jwt, ctl_key) = shown(&ctl)?;
    let (rpc_jwt, rpc_key) = shown(&rpc)?;
    let (provider_jwt, provider_key) = shown(&provider)?;
    let mut config = WasmbusHostConfig {
        ctl_jwt,
        ctl_key,
        ctl_tls: ctl.tls_ca.is_some(),
        rpc_jwt,
        rpc_key,
        rpc_tls: rpc.tls_ca.is_some(),
        provider_jwt,
        provider_key,
        ctl_nats_url: url.clone(),
        rpc_nats_url: url,
        lattice: args.lattice.as_str().into(),
        host_key: args.identity.as_deref().map(identity::load_or_make).transpose()?,
        labels: args.labels.iter().cloned().collect::<HashMap<_, _>>(),
        // Artifacts are files: a plant has no registry.
        allow_file_load: true,
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
async fn check(args: &Args) -> Result<(), nats::NatsError> {
    let (url, credentials) = (&args.nats_url, &args.credentials);
    if !args.no_wadm {
        nats::check(url, &credentials.wadm()).await?;
    }
    if !args.no_host {
        nats::check(url, &credentials.ctl()).await?;
        nats::check_access(url, &credentials.rpc()).await?;
        nats::check_access(url, &credentials.provider()).await?;
    }
    Ok(())
}

fn wadm_config(args: &Args) -> WadmConfig {
    let access = args.credentials.wadm();
    WadmConfig {
        nats_server: access.url(&args.nats_url).trim_start_matches("nats://").to_owned(),
        nats_creds: access.creds,
        nats_tls_ca_file: access.tls_ca,
        cleanup_interval: args.host_gone_after,
        ..WadmConfig::default()
    }
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
