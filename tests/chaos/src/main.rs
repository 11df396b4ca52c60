//! Faults under load: a pipeline on a real lattice carries numbered, checksummed messages while its parts are killed,
//! frozen and replaced, and the proof that every message arrived, intact, and in the order of its key.
//!
//! - [`schedule`]: which fault comes when; the same for the same seed;
//! - [`plant`]: Kafka, nats-server, wadm, hosts and pipeline, and what is done to them;
//! - [`sandbox`]: mounts and a network that only this program sees;
//! - [`disk`], [`network`], [`memory`], [`clock`]: what the plant stands on, and what is taken from it;
//! - [`traffic`]: the machine that sends, and the reader of what comes out;
//! - [`message`]: a message that shows whether it is whole;
//! - [`ledger`]: what was sent, what came, and what that proves;
//! - [`hops`]: where on its way a message was repeated;
//! - [`usage`]: how much memory the platform had;
//! - [`report`]: the table.
//!
//! Kafka stands at both ends, because it keeps what it has acknowledged when it is killed: a loss is ours.

mod clock;
mod disk;
mod hops;
mod ledger;
mod memory;
mod message;
mod network;
mod plant;
mod report;
mod sandbox;
mod schedule;
mod traffic;
mod usage;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use parking_lot::Mutex;

use crate::hops::Repeats;
use crate::ledger::Ledger;
use crate::plant::Plant;
use crate::report::{Event, Findings, Report};
use crate::schedule::{Fault, Schedule};
use crate::traffic::{Machine, Reader};
use crate::usage::Usage;

/// After the last fault, until everything is through.
const PATIENCE: Duration = Duration::from_secs(180);

/// A message that was sent after a fault comes through within this time.
const RECOVERY: Duration = Duration::from_secs(120);

/// How often the memory of a run without faults is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Faults under load, and the proof that nothing is lost.
///
/// Starts Kafka, nats-server, wadm and a host of its own, deploys a pipeline of two stages with a durable edge between
/// them, and kills, freezes and replaces its parts, each in turn and then at random, while numbered messages go through.
/// Every thousandth message traps its step and has to end as a dead letter.
///
/// With two hosts the stages run on both. One of the two is killed, or stands still, for 5 to 40 seconds, while the other
/// carries on with what it has, and takes over the providers when wadm has noticed.
///
/// Filling JetStream's disk, cutting links and taking memory need a file system, a network and a control group of this
/// program's own, which root may make; the clock needs libfaketime. What cannot be had is said and left out.
#[derive(Debug, Parser)]
#[command(
    name = "millrace chaos",
    version,
    after_help = "\
Examples:
  millrace chaos                             a minute, each fault once or so
  millrace chaos --for 30m --seed 7          the faults of seed 7
  millrace chaos --hosts 2 --for 10m         two hosts, either of which may be gone
  millrace chaos --only nats,broker --json
  millrace chaos --no-faults --for 1h --rate 2000    load alone, to see what memory it takes

Exits with 1 when a message was lost or damaged, or one overtook another of its key."
)]
struct Args {
    /// How long faults are begun, as 90s or 30m.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = millrace_platform::parse_time)]
    time: Duration,
    /// Which faults come when [default: chosen anew, and printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Hosts of the lattice.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    hosts: u8,
    /// Messages a second.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Only these faults, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<Fault>,
    /// No fault at all: load alone.
    #[arg(long, conflicts_with = "only")]
    no_faults: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn hosts(&self) -> usize {
        usize::from(self.hosts)
    }

    fn wants_sandbox(&self) -> bool {
        let needs = [Fault::Disk, Fault::Network, Fault::SlowLink];
        !self.no_faults && (self.only.is_empty() || needs.iter().any(|f| self.only.contains(f)))
    }
}

fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_env_filter("off").with_writer(std::io::stderr).init();
    let args = Args::parse();
    if args.wants_sandbox()
        && let Err(error) = sandbox::enter()
    {
        progress(format_args!("left out are `disk`, `network` and `slow-link`: {error:#}"));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(&args) => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    });
    // After an error the machine and the reader still have their threads, which go on until the process ends.
    runtime.shutdown_background();
    let report = report?;
    report.print(args.json)?;
    Ok(if report.kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress(text: impl std::fmt::Display) {
    eprintln!("> {text}");
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    progress(format_args!("seed {seed}"));
    let mut plant = Plant::start(args.hosts(), args.no_faults).await?;
    match measure(args, seed, &mut plant).await {
        Ok(report) => {
            plant.stop().await;
            Ok(report)
        }
        Err(error) => {
            let logs = plant.keep_logs().await;
            Err(error.context(format!("the logs are in {}", logs.display())))
        }
    }
}

async fn measure(args: &Args, seed: u64, plant: &mut Plant) -> anyhow::Result<Report> {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let [first, second] = plant.hops()?;
    let reader = Reader::start(plant.kafka(), Arc::clone(&ledger))?;
    let machine = Machine::start(plant.kafka(), args.rate, Arc::clone(&ledger))?;
    wait(&ledger, 0, RECOVERY).await.context("no message came through before the first fault")?;

    let start = Instant::now();
    let mut usage = Usage::default();
    let events = match args.no_faults {
        true => {
            load(args, start, plant, &mut usage).await;
            Vec::new()
        }
        false => faults(args, seed, start, plant, &ledger, &mut usage).await?,
    };
    progress("the time is over; waiting until all is through");
    machine.stop().await?;
    let dead = settle(&ledger, plant, PATIENCE).await?;
    reader.stop().await;
    let repeats = Repeats::count(&first, &second, ledger.lock().came());
    let memory = usage.report();
    let findings = Findings { events, dead, repeats, memory };
    let report = Report::new(seed, args, start.elapsed(), findings, &ledger.lock());
    Ok(report)
}

/// Nothing but load.
async fn load(args: &Args, start: Instant, plant: &Plant, usage: &mut Usage) {
    while start.elapsed() < args.time {
        tokio::time::sleep(LOOK.min(args.time.saturating_sub(start.elapsed()))).await;
        usage.look(plant.processes());
    }
}

/// One fault after the other, each when the one before is made good.
async fn faults(
    args: &Args,
    seed: u64,
    start: Instant,
    plant: &mut Plant,
    ledger: &Mutex<Ledger>,
    usage: &mut Usage,
) -> anyhow::Result<Vec<Event>> {
    let faults = plant.possible(&args.only);
    anyhow::ensure!(!faults.is_empty(), "none of these faults can be made here");
    let mut schedule = Schedule::new(seed, &faults, args.hosts());
    let mut events = Vec::new();
    while start.elapsed() < args.time {
        let turn = schedule.next();
        let fault = turn.fault;
        tokio::time::sleep(turn.pause).await;
        usage.look(plant.processes());
        let at = Instant::now();
        ledger.lock().watch(at);
        progress(format_args!("{:>5.1} s  {fault}", start.elapsed().as_secs_f64()));
        let loss = plant.inflict(&turn).await.with_context(|| format!("fault {fault}"))?;
        let sent = ledger.lock().sent();
        wait(ledger, sent, RECOVERY)
            .await
            .with_context(|| format!("after fault {fault}\nlogs:\n{}", plant.log()))?;
        let recovery = ledger.lock().silence();
        events.push(Event { fault, after: at.duration_since(start), recovery, loss });
    }
    Ok(events)
}

/// Waits until a message has come that was sent after so many others.
async fn wait(ledger: &Mutex<Ledger>, sent: u64, patience: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    while !ledger.lock().arrived_from(sent) {
        anyhow::ensure!(start.elapsed() < patience, "nothing came through for {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Waits until all that is to arrive has, and all that is to be a dead letter is; the dead letters that were found.
async fn settle(
    ledger: &Mutex<Ledger>,
    plant: &Plant,
    patience: Duration,
) -> anyhow::Result<Vec<u64>> {
    let start = Instant::now();
    loop {
        let dead = plant.dead_letters().await?;
        let missing = ledger.lock().missing(&dead).len();
        if missing == 0 || start.elapsed() > patience {
            return Ok(dead);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
