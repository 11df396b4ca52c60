//! The provider's process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use millrace_kit::orphan::Parent;
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;
use wasmcloud_provider_sdk::{get_connection, load_host_data, run_provider};

use crate::handler::{Handler, identity};
use crate::links::Links;
use crate::status::{self, Identity};
use crate::{Connector, Platform, bindings, calls, catch_up, connect, trial};

/// How long an orphan drains. Short: a restarted host starts this provider again,
/// and two of one client id put each other out of the broker.
const ORPHAN_DRAIN: Duration = Duration::from_millis(500);

/// What is logged when `RUST_LOG` says nothing.
const LOG: &str =
    "info,async_nats=warn,wasmcloud_provider_sdk=warn,wrpc_transport=warn,wrpc_transport_nats=warn";

/// Runs connector `C` as a capability provider until the host ends it or is
/// gone. Call it first thing in `main`. With the argument `try` it tries a
/// connection instead ([`trial`]).
///
/// # Errors
///
/// When the host's data cannot be read, or the lattice cannot be reached at
/// the start; the host then starts the process again.
pub fn run<C: Connector>(version: &'static str) -> anyhow::Result<()> {
    if trial::is_asked() {
        return trial::run::<C>();
    }
    let parent = Parent::now();
    // Before the first call: without a subscriber the transport formats every
    // payload into span fields nobody reads, which is nine times slower.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve::<C>(version, parent));
    // The SDK reads standard input on a blocking thread; do not wait for it.
    runtime.shutdown_background();
    result
}

async fn serve<C: Connector>(version: &'static str, parent: Parent) -> anyhow::Result<()> {
    let host = load_host_data().context("reading the host's data")?;
    let nats = connect::connect(host, C::NAME).await?;
    let platform = Platform { nats: nats.clone(), lattice: host.lattice_rpc_prefix.clone() };
    let links = Arc::new(Links::new(C::new(platform.clone()), platform));
    let handler = Handler(Arc::clone(&links));
    let shutdown = run_provider(handler.clone(), C::NAME).await.context("joining the lattice")?;

    let connection = get_connection();
    let (id, host_id) = identity(connection);
    tokio::spawn(catch_up::run(
        nats.clone(),
        host.lattice_rpc_prefix.clone(),
        id.clone(),
        Arc::clone(&links),
    ));
    let identity = Identity { id, host: host_id, version, started: Instant::now() };
    tokio::spawn(status::answer(
        nats.clone(),
        host.lattice_rpc_prefix.clone(),
        Arc::clone(&links),
        identity,
    ));

    let client = connection
        .get_wrpc_client(connection.provider_key())
        .await
        .context("serving the lattice")?;
    let calls = bindings::serve(&client, handler).await.context("serving the lattice")?;
    tokio::select! {
        () = calls::answer(calls, shutdown) => {}
        () = orphaned(parent, &links) => {}
    }
    // What was acknowledged last may still be on its way.
    let _ = tokio::time::timeout(Duration::from_secs(1), nats.flush()).await;
    Ok(())
}

async fn orphaned<C: Connector>(parent: Parent, links: &Links<C>) {
    parent.gone().await;
    tracing::warn!("the host is gone: draining and ending");
    links.drain_all(ORPHAN_DRAIN).await;
}
