//! One process that runs components and keeps applications as they were declared: the wasmCloud host and wadm.
//!
//! The two are libraries; this binary gives them what they do not give themselves:
//!
//! - [`limits`]: limits that hold, and a refusal to start where the memory limit would not be enforced;
//! - [`confine`]: what it and its providers may do on their machine;
//! - [`share`]: what they may take of it beside others;
//! - [`nats`]: a check of the server first, with an error that says what to do;
//! - [`credentials`]: what each of its connections shows, and whom they trust;
//! - [`artifacts`]: stages from the lattice's store, providers from the installation, and if wanted nothing else;
//! - [`lattice`]: the host on a runtime of its own, on which components take turns, wadm on another, so that the one cannot
//!   starve the other; wadm is started again when it ends;
//! - [`beside_wadm`]: new versions are judged, and rolled back, and what wadm lost sight of is asked for again.

mod artifacts;
mod beside_wadm;
mod confine;
mod credentials;
mod identity;
mod lattice;
mod limits;
mod nats;
mod share;

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Runs a wasmCloud host and wadm, for one lattice.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// NATS server with JetStream, 2.10 or newer.
    #[arg(long, env = "MILLRACE_NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// The lattice to join.
    #[arg(long, env = "MILLRACE_LATTICE", default_value = "default")]
    lattice: String,
    /// A label of this host, for placement; may be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// File that keeps this host's key over restarts; made when missing. Without it each start is a new host.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Run no wadm here (another host of the lattice does).
    #[arg(long, conflicts_with = "no_host")]
    no_wadm: bool,
    /// Run wadm alone here, and no host: what ends the one then leaves the other.
    #[arg(long)]
    no_host: bool,
    /// wadm takes a host for gone after this time without a heartbeat, in seconds, or up to half of it later, and starts
    /// elsewhere what ran there. There is a heartbeat every 5 seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 16, value_parser = clap::value_parser!(u64).range(12..=3600))]
    host_gone_after: u64,
    /// End when the process that started this one is gone.
    #[arg(long)]
    follow_parent: bool,
    #[command(flatten)]
    credentials: credentials::Options,
    #[command(flatten)]
    artifacts: artifacts::ArtifactOptions,
    #[command(flatten)]
    limits: limits::Limits,
    #[command(flatten)]
    confine: confine::ConfineOptions,
    #[command(flatten)]
    share: share::Share,
}

/// Log lines that are shown unless `RUST_LOG` says otherwise. wadm warns at each list that it is asked for over the subject
/// that its own client uses.
const LOGGED: &str = "warn,wadm::server=error,millrace_host=info";

const EXAMPLES: &str = "\
Examples:
  millrace-host                                      # lattice `default` on the local NATS server
  millrace-host --lattice acme --label site=hall-3
  millrace-host --no-wadm                            # a second host of a lattice
  millrace-host --no-host                            # wadm alone, in a process of its own
  millrace-host --lattice acme --creds acme.creds --nats-url nats://10.0.0.5:4222 --tls-ca ca.pem
  millrace-host --max-memory-mib 64 --max-call-seconds 5
  TMPDIR=/var/lib/acme/tmp millrace-host --confine --device /dev/gpiochip0

Log lines go to standard error; RUST_LOG chooses them (default: warn,wadm::server=error,millrace_host=info).";

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE, as in site=hall-3")),
    }
}

/// Starts this process anew where its environment has to be another one: without backtraces in errors, where they are asked
/// for, with the certificates that `--tls-ca` adds to those that are trusted ([`credentials::trust`]), and confined without
/// what is for others ([`confine::ConfineOptions::environment`]).
///
/// Every trap of a customer's step is an error of the host's libraries. With `RUST_BACKTRACE` each would carry the host's
/// own backtrace, which tells nobody anything (the component's is in the message) and takes seconds of a core to put into
/// words: a step that traps now and then would stop everything beside it. `RUST_LIB_BACKTRACE=1` asks for them all the
/// same, and panics keep theirs.
fn anew(args: &Args) -> anyhow::Result<()> {
    let asked = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let backtraces = asked && std::env::var_os("RUST_LIB_BACKTRACE").is_none();
    let trust = credentials::trust(&args.credentials)?;
    let environment = args.confine.environment();
    if !backtraces && trust.is_none() && environment.is_none() {
        return Ok(());
    }
    let mut again = std::process::Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1));
    if let Some(environment) = environment {
        again.env_clear().envs(environment);
    }
    if backtraces {
        again.env("RUST_LIB_BACKTRACE", "0");
    }
    if let Some(file) = trust {
        again.env(credentials::TRUST, file).env_remove("SSL_CERT_DIR");
    }
    Err(again.exec()).context("could not start anew")
}

fn start(args: &Args) -> anyhow::Result<()> {
    // Read before: confined, neither this process nor its providers have it.
    let key = args.identity.as_deref().filter(|_| !args.no_host).map(identity::load_or_make);
    let key = key.transpose()?;
    let parts = args.credentials.read()?;
    confine::enforce(args)?;
    lattice::run(args, key, &parts)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.share.take().and_then(|()| anew(&args)) {
        eprintln!("millrace-host: {error:#}");
        return ExitCode::FAILURE;
    }
    // Installed before anything else: without a subscriber wRPC renders whole payloads as text that nobody reads.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED)),
        )
        .init();
    let ended = start(&args);
    credentials::forget();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("millrace-host: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
