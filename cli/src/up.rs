//! `millrace up`: a local platform in the foreground.

use std::path::PathBuf;

use anyhow::Context as _;
use millrace_platform::{Host, HostOptions, NatsOptions, NatsServer, Sync};
use tokio::signal::unix::{SignalKind, signal};

use crate::metrics::{self, Server};
use crate::ui::Ui;

/// Options of `up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace up                          NATS on port 4222, lattice `default`
  millrace up --nats-port 4333 --lattice hall-3
  millrace up --nats-url nats://10.0.0.5:4222    a host on a NATS server that is there already
  millrace up --metrics                metrics at http://127.0.0.1:9464/metrics

Ctrl-C ends what was started. Pipelines and data stay in the data folder and go on at the next start.")]
pub(crate) struct Args {
    /// Port of the NATS server on 127.0.0.1.
    #[arg(long, default_value_t = 4222, value_name = "PORT")]
    nats_port: u16,
    /// Use this NATS server and start none.
    #[arg(long, value_name = "URL", conflicts_with = "nats_port")]
    nats_url: Option<String>,
    /// Name of the lattice.
    #[arg(long, env = "MILLRACE_LATTICE", default_value = "default", value_name = "NAME")]
    lattice: String,
    /// Folder for streams, logs and configuration.
    #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// When durable edges are written through to the disk.
    #[arg(long, value_enum, default_value_t = SyncChoice::Always)]
    sync: SyncChoice,
    /// Most memory of one component instance, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    max_memory_mib: u32,
    /// Longest time of one call into a component, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    max_call_seconds: u64,
    /// Serve the lattice's metrics over HTTP, as `millrace metrics --listen` does.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = metrics::ADDRESS)]
    metrics: Option<String>,
}

/// When JetStream writes through.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SyncChoice {
    /// Before each acknowledgement: a power cut loses nothing.
    Always,
    /// Every two minutes: faster, and a power cut can lose what came since.
    Interval,
}

pub(crate) async fn run(ui: Ui, args: Args) -> anyhow::Result<()> {
    let data = data_folder(args.data)?;
    // First: an address that cannot be had ends nothing that has begun.
    let metrics = match &args.metrics {
        Some(address) => Some(Server::bind(address, "--metrics").await?),
        None => None,
    };
    let metrics_url = metrics.as_ref().map(Server::url);
    let mut nats = match &args.nats_url {
        Some(_) => None,
        None => {
            ui.step(format!("starting nats-server on port {}", args.nats_port));
            let sync = match args.sync {
                SyncChoice::Always => Sync::Always,
                SyncChoice::Interval => Sync::Interval,
            };
            let options = NatsOptions { port: args.nats_port, dir: data.join("nats"), sync };
            Some(NatsServer::start(&options).await?)
        }
    };
    let nats_url = match (&args.nats_url, &nats) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => server.url(),
        (None, None) => anyhow::bail!("no NATS server"),
    };
    ui.step("starting host and wadm");
    let mut host = Host::start(&HostOptions {
        nats_url: nats_url.clone(),
        lattice: args.lattice.clone(),
        dir: data.join("host"),
        arguments: vec![
            format!("--max-memory-mib={}", args.max_memory_mib),
            format!("--max-call-seconds={}", args.max_call_seconds),
        ],
        through: Vec::new(),
    })
    .await?;
    if ui.json {
        ui.json(&serde_json::json!({
            "nats_url": nats_url, "lattice": args.lattice, "data": data, "metrics": metrics_url,
        }))?;
    } else {
        ui.line(format!("{} lattice `{}` on {nats_url}", ui.green("up:"), args.lattice));
        ui.line(format!("  data and logs   {}", data.display()));
        if let Some(url) = &metrics_url {
            ui.line(format!("  metrics         {url}"));
        }
        ui.line("  deploy with     millrace pipeline deploy pipeline.yaml");
        ui.line("  Ctrl-C ends it");
    }

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = host.ended_by_itself() => Some(ended.into()),
        ended = ended(nats.as_mut()) => Some(ended.into()),
        error = serve(metrics, &nats_url, &args.lattice) => Some(error),
    };
    ui.step("ending");
    host.stop().await;
    if let Some(nats) = nats {
        nats.stop().await;
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Serves metrics, where they are wanted, until there is an error.
async fn serve(server: Option<Server>, nats_url: &str, lattice: &str) -> anyhow::Error {
    let Some(server) = server else { return std::future::pending().await };
    match metrics::connect_later(nats_url).await {
        Ok(nats) => {
            server.serve(nats, lattice).await;
            anyhow::anyhow!("metrics are no longer served")
        }
        Err(error) => error,
    }
}

async fn ended(nats: Option<&mut NatsServer>) -> millrace_platform::PlatformError {
    match nats {
        Some(nats) => nats.ended_by_itself().await,
        None => std::future::pending().await,
    }
}

fn data_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return std::path::absolute(&given)
            .with_context(|| format!("{} is no usable path", given.display()));
    }
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    base.map(|base| base.join("millrace"))
        .context("neither HOME nor XDG_DATA_HOME is set; name a folder with --data")
}
