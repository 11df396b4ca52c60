//! `millrace up`: a local platform in the foreground.

use std::path::PathBuf;

use anyhow::Context as _;
use millrace_access::Access;
use millrace_lattice_config::class::MIN_HOST_MEMORY_MIB;
use millrace_platform::{Host, HostOptions, LogLimits, NatsOptions, NatsServer, Sync};
use tokio::signal::unix::{SignalKind, signal};

use crate::api;
use crate::hosts;
use crate::installation::Installation;
use crate::lattice::AccessOptions;
use crate::metrics::{self, Server};
use crate::ui::Ui;

/// Options of `up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace up                          NATS on port 4222, lattice `default`
  millrace up --nats-port 4333 --lattice hall-3
  millrace up --nats-url nats://10.0.0.5:4222    a host on a NATS server that is there already
  millrace up --tenants                a platform of many customers: see `millrace tenant`
  millrace up --tenants --name plant.example    the same, and hosts on other machines can join it
  millrace up --tenants --api 127.0.0.1:4280    the same, and tenants are managed over HTTP: see docs/api.md
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
    /// Run the tenants of the data folder, each with a host and wadm of its own on its own lattice, over TLS. They are added,
    /// suspended and removed while it runs, by `millrace tenant`.
    #[arg(long, conflicts_with_all = ["nats_url", "metrics"])]
    tenants: bool,
    /// A name or address by which other machines reach this one, so that they can join; may be given several times. The NATS
    /// server then listens on all addresses of this machine.
    #[arg(long = "name", value_name = "HOST", requires = "tenants")]
    names: Vec<String>,
    /// Serve the control API here: over plain HTTP at an address of this machine alone, such as 127.0.0.1:4280, over TLS at any
    /// other, with a certificate of the platform's authority for the names that --name gives.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "tenants")]
    api: Option<String>,
    /// Do not keep the machine from tenants' hosts and their providers: for a kernel without Landlock. Then everybody who may
    /// deploy in a lattice has to be trusted with this machine.
    #[arg(long, requires = "tenants")]
    unconfined: bool,
    /// Of a server that is there already: what to show to it, and whom to trust.
    #[command(flatten)]
    access: AccessOptions,
    /// Folder for streams, logs and configuration.
    #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// When durable edges are written through to the disk.
    #[arg(long, value_enum, default_value_t = SyncChoice::Always)]
    sync: SyncChoice,
    /// Most memory of one component instance, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    max_memory_mib: u32,
    /// Most memory of a tenant's host with all that it has started, in MiB, where its class does not say: beyond it, it is ended and
    /// started again [default: half of the machine's, and not more than 2048]
    #[arg(long, value_name = "MIB", requires = "tenants", value_parser = clap::value_parser!(u32).range(i64::from(MIN_HOST_MEMORY_MIB)..))]
    max_host_memory_mib: Option<u32>,
    /// Size at which the log of a host, or of the NATS server, is put aside, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    log_mib: u64,
    /// How many files there are of each log, the one that is written among them.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=100))]
    log_files: u32,
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

impl From<SyncChoice> for Sync {
    fn from(choice: SyncChoice) -> Self {
        match choice {
            SyncChoice::Always => Self::Always,
            SyncChoice::Interval => Self::Interval,
        }
    }
}

pub(crate) async fn run(ui: Ui, args: Args) -> anyhow::Result<()> {
    if args.tenants {
        return with_tenants(ui, args).await;
    }
    let data = data_folder(args.data.clone())?;
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
            let (port, dir, sync) = (args.nats_port, data.join("nats"), args.sync.into());
            let options = NatsOptions { port, dir, sync, log: log(&args) };
            Some(NatsServer::start(&options).await?)
        }
    };
    let nats_url = match (&args.nats_url, &nats) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => server.url(),
        (None, None) => anyhow::bail!("no NATS server"),
    };
    // One of its own wants none.
    let access = match args.nats_url {
        Some(_) => args.access.access(),
        None => Access::default(),
    };
    let mut arguments = limits(&args);
    if let Some(creds) = &access.creds {
        arguments.push(format!("--creds={}", creds.display()));
    }
    ui.step("starting host and wadm");
    let mut host = Host::start(&HostOptions {
        nats_url: nats_url.clone(),
        lattice: args.lattice.clone(),
        access: access.clone(),
        dir: data.join("host"),
        arguments,
        through: Vec::new(),
        log: log(&args),
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
        error = serve(metrics, &access, &nats_url, &args.lattice) => Some(error),
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

/// A platform of many lattices: NATS in operator mode over TLS, and a host for each active tenant.
async fn with_tenants(ui: Ui, args: Args) -> anyhow::Result<()> {
    // First: otherwise each host would say so.
    if !args.unconfined {
        millrace_confine::possible().context(
            "tenants' hosts cannot be kept from this platform's keys; --unconfined goes without, for tenants who are trusted",
        )?;
    }
    let data = data_folder(args.data.clone())?;
    let Installation { mut nats, nats_url, tls_ca, tenants, certificates } =
        Installation::start(ui, &data, args.nats_port, args.sync.into(), log(&args), &args.names)
            .await?;
    let api = match &args.api {
        Some(address) => Some(api::Served::bind(address, &tenants, &certificates).await?),
        None => None,
    };
    let api_url = api.as_ref().map(api::Served::url);
    if api_url.as_ref().is_some_and(|url| url.starts_with("https:")) && args.names.is_empty() {
        ui.warn(
            "the control API's certificate names this machine alone, and nobody elsewhere can tell that it is the platform's: say \
             with --name how others reach it",
        );
    }
    let count = tenants.scan()?.0.len();
    // After a restore the server knows other accounts than the records, or none.
    match tenants.push_all().await {
        Ok(pushed) => {
            for name in pushed.tenants {
                ui.step(format!("the account of {name} is pushed"));
            }
            for (name, error) in pushed.failed {
                ui.warn(format!("the account of {name} is not pushed: {error}"));
            }
        }
        Err(error) => ui.warn(format!("accounts are not pushed: {error}")),
    }
    if args.unconfined {
        ui.warn("tenants' hosts are not confined: who deploys in a lattice can read this platform's keys");
    }
    let plan = hosts::Plan {
        nats_url: nats_url.clone(),
        tls_ca: tls_ca.clone(),
        dir: hosts::folder(&data),
        arguments: limits(&args),
        confined: !args.unconfined,
        max_memory_mib: args.max_host_memory_mib.unwrap_or_else(hosts::default_memory_mib),
        log: log(&args),
    };
    if ui.json {
        ui.json(&serde_json::json!({
            "nats_url": nats_url, "data": data, "tls_ca": tls_ca, "tenants": count, "api": api_url,
        }))?;
    } else {
        ui.line(format!("{} {count} tenants on {nats_url}, over TLS", ui.green("up:")));
        ui.line(format!("  data and logs   {}", data.display()));
        ui.line(format!("  authority       {}", tls_ca.display()));
        if let Some(url) = &api_url {
            ui.line(format!("  control API     {url}"));
        }
        ui.line("  a tenant        millrace tenant add acme");
        ui.line("  its engineers   millrace tenant creds acme --out acme.creds");
        ui.line("  Ctrl-C ends it");
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let kept = tokio::spawn(hosts::keep(ui, tenants, plan, stopped));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (pid_file, with_api) = (nats.pid_file().to_owned(), api.is_some());
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = nats.ended_by_itself() => Some(ended),
        () = answer(api) => None,
        () = certificates.keep(ui, &pid_file, with_api) => None,
    };
    ui.step("ending");
    let _ = stop.send(true);
    let _ = kept.await;
    nats.stop().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Serves the control API, where it is wanted.
async fn answer(api: Option<api::Served>) {
    match api {
        Some(api) => api.serve().await,
        None => std::future::pending().await,
    }
}

/// How much room each log may take.
const fn log(args: &Args) -> LogLimits {
    LogLimits { bytes: args.log_mib << 20, files: args.log_files }
}

/// The arguments of a host that bound its components.
fn limits(args: &Args) -> Vec<String> {
    vec![
        format!("--max-memory-mib={}", args.max_memory_mib),
        format!("--max-call-seconds={}", args.max_call_seconds),
    ]
}

/// Serves metrics, where they are wanted, until there is an error.
async fn serve(
    server: Option<Server>,
    access: &Access,
    nats_url: &str,
    lattice: &str,
) -> anyhow::Error {
    let Some(server) = server else { return std::future::pending().await };
    match metrics::connect_later(access, nats_url).await {
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

pub(crate) fn data_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
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
