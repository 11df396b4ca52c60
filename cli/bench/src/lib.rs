//! The benchmarks behind `millrace bench`.
//!
//! A figure alone says little: the machine may be slow, or busy. So each is measured in turns with its bare cost, which is
//! what the same bytes cost on the same servers without Millrace, and both are printed with their ratio.
//!
//! - [`harness`]: a composed stage in this process, over a component that does nothing;
//! - [`chains`]: stages of several steps, over the same steps as stages of their own;
//! - [`operators`]: a stage of each operator, over a component that does nothing;
//! - [`languages`]: the same steps in Rust, Python and JavaScript;
//! - [`desk`]: a definition checked, and its test run;
//! - [`stage`]: a stage on a real host, over bare NATS request and reply;
//! - [`edge`]: two stages with a durable edge between them, over bare JetStream;
//! - [`backlog`]: what waited on an edge, over its steady rate;
//! - [`latency`]: one message from source to sink;
//! - [`calls`]: a million calls, none lost;
//! - [`footprint`]: memory, and the time from deploying to the first message;
//! - [`tenants`]: how long one takes to come and to go, and what one costs that does nothing;
//! - [`connectors`]: each beside the plain client library, on its real peer.
//!
//! What they share: [`load`] makes calls and takes times, [`lab`] starts the servers and ends them, [`lattice`] puts
//! stages and links there, [`deploy`] puts a definition there, [`mqtt`] is a whole pipeline between MQTT topics,
//! [`report`] is the table.

mod backlog;
mod calls;
mod chains;
mod connectors;
pub mod deploy;
mod desk;
mod edge;
mod footprint;
mod harness;
pub mod lab;
mod languages;
mod latency;
mod lattice;
mod load;
mod mqtt;
mod operators;
mod parts;
pub mod report;
mod stage;
mod tenants;
mod windows;

use std::path::PathBuf;

use anyhow::Context as _;
use report::{Environment, Report, Row};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A composed stage in this process, of one step and of several.
    Harness,
    /// A stage of each operator, in this process.
    Operators,
    /// The same steps in Rust, Python and JavaScript, in this process.
    Languages,
    /// A definition checked, and its test run.
    Desk,
    /// A step with windows and its state, in this process.
    Windows,
    /// One stage over the lattice.
    Stage,
    /// Two stages with a durable edge between them.
    Edge,
    /// Ten million messages that wait on an edge.
    Backlog,
    /// One message from source to sink.
    Latency,
    /// A million calls, none lost.
    Calls,
    /// Memory, and the time to the first message.
    Footprint,
    /// Two hundred tenants: added, in use, idle, suspended.
    Tenants,
    /// MQTT source and sink, beside the plain client library.
    Mqtt,
    /// The same for Kafka, and from topic to stage to topic.
    Kafka,
    /// The same for Modbus.
    Modbus,
}

impl Part {
    const ALL: [Self; 15] = [
        Self::Harness,
        Self::Operators,
        Self::Languages,
        Self::Desk,
        Self::Windows,
        Self::Stage,
        Self::Edge,
        Self::Backlog,
        Self::Latency,
        Self::Calls,
        Self::Footprint,
        Self::Tenants,
        Self::Mqtt,
        Self::Kafka,
        Self::Modbus,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Harness => "harness",
            Self::Operators => "operators",
            Self::Languages => "languages",
            Self::Desk => "desk",
            Self::Windows => "windows",
            Self::Stage => "stage",
            Self::Edge => "edge",
            Self::Backlog => "backlog",
            Self::Latency => "latency",
            Self::Calls => "calls",
            Self::Footprint => "footprint",
            Self::Tenants => "tenants",
            Self::Mqtt => "mqtt",
            Self::Kafka => "kafka",
            Self::Modbus => "modbus",
        }
    }
}

/// Options of `bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  millrace bench                        everything; takes a few minutes on two cores
  millrace bench --only harness,stage
  millrace bench --only mqtt,kafka,modbus   the connectors, on real peers (scripts/setup installs them)
  millrace bench --quick                a tenth of the work, for a first look
  millrace bench --json --out bench.json

Nothing else should run on the machine meanwhile. docs/performance.md says what each row means.")]
pub struct Args {
    /// Measure only these, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Part>,
    /// A tenth of the work.
    #[arg(long)]
    quick: bool,
    /// Also write the result as JSON to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How much work a figure is made from.
#[derive(Debug, Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// So many, or a tenth of it.
    const fn of(self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }

    /// Rounds of which the median is taken.
    const fn rounds(self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}

/// Runs the benchmarks and prints their table, or one JSON document. What it starts has ended when it returns.
///
/// # Errors
///
/// When a part of the platform does not start, a call is not answered (the figures of the other parts have been printed
/// then), or the result cannot be written.
pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(measure(args))?;
    if let Some(file) = &args.out {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    report.print(json)?;
    anyhow::ensure!(report.failures.is_empty(), "{}", report.failures.join("; "));
    Ok(())
}

async fn measure(args: &Args) -> anyhow::Result<Report> {
    let effort = Effort { quick: args.quick };
    // Read first: afterwards it would show our own work.
    let environment = Environment::here(args.quick);
    let (mut rows, mut failures): (Vec<Row>, Vec<String>) = Default::default();
    for part in Part::ALL {
        if args.only.is_empty() || args.only.contains(&part) {
            match measure_part(part, effort).await {
                Ok(measured) => rows.extend(measured),
                Err(e) if e.is::<lab::Interrupted>() => return Err(e),
                // The other parts are worth their minutes all the same.
                Err(e) => failures.push(format!("{}: {e:#}", part.name())),
            }
        }
    }
    Ok(Report { environment, rows, failures })
}

async fn measure_part(part: Part, effort: Effort) -> anyhow::Result<Vec<Row>> {
    match part {
        Part::Harness => {
            let mut rows = harness::measure(&harness::Effort::from(effort)).await?;
            rows.extend(chains::measure(effort).await?);
            Ok(rows)
        }
        Part::Operators => operators::measure(effort).await,
        Part::Languages => languages::measure(effort).await,
        Part::Desk => desk::measure(effort).await,
        Part::Windows => windows::measure(effort).await,
        Part::Stage => stage::measure(effort).await,
        Part::Edge => edge::measure(effort).await,
        Part::Backlog => backlog::measure(effort).await,
        Part::Latency => latency::measure(effort).await,
        Part::Calls => calls::measure(effort).await,
        Part::Footprint => footprint::measure().await,
        Part::Tenants => tenants::measure(effort).await,
        Part::Mqtt | Part::Kafka | Part::Modbus => connectors::measure(part.name(), effort).await,
    }
}

/// Says on standard error what is being done.
pub fn progress(text: impl std::fmt::Display) {
    eprintln!("> {text}");
}
