//! `millrace metrics`: what the links of a lattice count, for Prometheus.

mod look;
mod serve;
mod text;

use anyhow::Context as _;
use millrace_access::Access;
use tokio::signal::unix::{SignalKind, signal};

use crate::lattice;
use crate::ui::Ui;

pub(crate) use serve::Server;

/// Where metrics are served when nothing else is said.
pub(crate) const ADDRESS: &str = "127.0.0.1:9464";

/// Options of `metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace metrics                              once, on standard output
  millrace metrics --listen                     at http://127.0.0.1:9464/metrics, until Ctrl-C
  millrace metrics --listen 0.0.0.0:9100 --nats-url nats://10.0.0.5:4222 --lattice hall-3
  millrace up --metrics                         the same in the process of a local platform

docs/metrics.md says what each metric means. Whoever reaches the address can read them; there is no password. Without
--listen it exits with 1 when the lattice does not answer, and prints `millrace_up 0`.")]
pub(crate) struct Args {
    #[command(flatten)]
    lattice: lattice::Options,
    /// Serve them over HTTP at /metrics, and look at the lattice at each request.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = ADDRESS)]
    listen: Option<String>,
}

pub(crate) async fn run(ui: Ui, args: Args) -> anyhow::Result<()> {
    let Args { lattice, listen } = args;
    match listen {
        Some(address) => listen_at(ui, &lattice, &address).await,
        None => once(ui, &lattice).await,
    }
}

async fn once(ui: Ui, options: &lattice::Options) -> anyhow::Result<()> {
    let (seen, why) = match options.connect().await {
        Ok(nats) => (look::look(&nats, options.name()).await, None),
        Err(error) => (look::Seen::default(), Some(error)),
    };
    if ui.json {
        ui.json(&seen)?;
    } else {
        ui.line(text::encode(options.name(), &seen)?.trim_end());
    }
    if let Some(error) = why {
        return Err(error);
    }
    anyhow::ensure!(
        seen.hosts > 0,
        "no host answers on lattice `{}` at {}. Start a local platform with `millrace up`, or name the lattice with \
         --lattice",
        options.name(),
        options.nats_url
    );
    Ok(())
}

async fn listen_at(ui: Ui, options: &lattice::Options, address: &str) -> anyhow::Result<()> {
    let server = Server::bind(address, "--listen").await?;
    let url = server.url();
    if ui.json {
        ui.json(&serde_json::json!({ "metrics": url, "lattice": options.name() }))?;
    } else {
        ui.line(format!("{} {url}, lattice `{}`", ui.green("metrics:"), options.name()));
        ui.line("  Ctrl-C ends it");
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = server
        .serve(connect_later(&options.access.access(), &options.nats_url).await?, options.name());
    tokio::select! {
        () = serving => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A connection that need not be there yet: until it is, `millrace_up` is 0.
pub(crate) async fn connect_later(
    access: &Access,
    nats_url: &str,
) -> anyhow::Result<async_nats::Client> {
    access
        .options()?
        .name("millrace metrics")
        .retry_on_initial_connect()
        .connect(nats_url)
        .await
        .with_context(|| format!("{nats_url} is no address of a NATS server"))
}
