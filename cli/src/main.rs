//! The command line of Millrace. Thin: each command is a few calls into the crates that do the work.

mod api;
mod audit;
mod chaos;
mod class;
mod completion;
mod dead;
mod demo;
mod doctor;
mod hosts;
mod installation;
mod join;
mod kv;
mod lattice;
mod metrics;
mod pipeline;
mod provider;
mod step;
mod tenant;
mod ui;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use ui::{ColorChoice, Ui};

/// Pipelines at the industrial edge: from machines, through WebAssembly steps, to where the data is wanted.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    /// Results as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  millrace demo                              a whole platform on this machine, with a machine and a pipeline
  millrace up                                a local platform for your own pipelines
  millrace step new hot --language python --kind filter
                                             a project for a step of your own
  millrace pipeline lint pipeline.yaml       what is wrong with a definition, and the mend
  millrace pipeline test pipeline.yaml       its tests, in this process
  millrace pipeline deploy pipeline.yaml     build, deploy, and wait until it runs
  millrace doctor                            what is missing on this machine

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the definition has errors; 4 dead letters stay;
5 a new version was rolled back.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on this machine: lattice, broker, simulated machine, pipeline, live alerts.
    Demo(demo::Args),
    /// A local platform: NATS, host and wadm, until Ctrl-C.
    Up(up::Args),
    /// Lint, test, plan, build, deploy and watch pipelines.
    #[command(subcommand)]
    Pipeline(pipeline::Command),
    /// Make, build, try and inspect steps, in Rust, Python and JavaScript.
    #[command(subcommand)]
    Step(step::Command),
    /// The providers that pipelines of a lattice share, and their archives.
    #[command(subcommand)]
    Provider(provider::Command),
    /// Customers of a platform, each with an account, a lattice and limits of its own.
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Print the audit log of a tenant's lattice, or keep it in a file.
    Audit(audit::Args),
    /// Who may use the control API of `millrace up --tenants --api`.
    #[command(subcommand)]
    Api(api::Command),
    /// Make this machine a host of a tenant's lattice, with a token.
    #[command(subcommand)]
    Host(join::Command),
    /// Dead letters: look at them, replay them into a mended step, delete them.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Values by key that steps read and write, in buckets of a lattice.
    #[command(subcommand)]
    Kv(kv::Command),
    /// What the links of all pipelines of a lattice count, for Prometheus.
    Metrics(metrics::Args),
    /// Measure speed and size on this machine.
    Bench(millrace_bench::Args),
    /// Faults under load, and the proof that nothing is lost.
    Chaos(chaos::Args),
    /// What is missing on this machine, and the command that mends it.
    Doctor,
    /// Print the completion script of a shell.
    #[command(
        after_help = "Example:\n  millrace completion bash > /etc/bash_completion.d/millrace"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The definition has errors; they have been shown.
#[derive(Debug, thiserror::Error)]
#[error("the definition has errors")]
struct DefinitionErrors;

/// Tests of a pipeline have failed; they have been shown.
#[derive(Debug, thiserror::Error)]
#[error("tests have failed")]
struct TestsFailed;

/// Connections of a definition do not answer; they have been shown.
#[derive(Debug, thiserror::Error)]
#[error("not everything answers")]
struct NotAnswered;

/// A new version was rolled back.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct RolledBack(String);

/// A stage did not take all that was replayed.
#[derive(Debug, thiserror::Error)]
#[error("{0} batches were not taken")]
struct NotTaken(u64);

const FAILED: u8 = 1;
const DEFINITION: u8 = 3;
/// Letters or batches were not taken by the stage they were given to.
const NOT_TAKEN: u8 = 4;
const ROLLED_BACK: u8 = 5;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.json, cli.color);
    // Always there: without a subscriber wRPC renders whole payloads as text that nobody reads. The demo's broker logs
    // clients that go away as errors.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("error,rumqttd=off")),
        )
        .init();
    match run(ui, cli.command) {
        Ok(code) => code,
        Err(e) if e.is::<DefinitionErrors>() => ExitCode::from(DEFINITION),
        Err(e) if e.is::<TestsFailed>() || e.is::<NotAnswered>() => ExitCode::from(FAILED),
        Err(e) => {
            ui.error(format!("{e:#}"));
            ExitCode::from(if e.is::<RolledBack>() {
                ROLLED_BACK
            } else if e.is::<NotTaken>() {
                NOT_TAKEN
            } else {
                FAILED
            })
        }
    }
}

fn run(ui: Ui, command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Demo(args) => runtime.block_on(demo::run(ui, args)),
        Command::Up(args) => runtime.block_on(up::run(ui, args)).map(done),
        Command::Pipeline(command) => runtime.block_on(pipeline::run(ui, command)).map(done),
        Command::Step(command) => step::run(ui, command),
        Command::Provider(command) => runtime.block_on(provider::run(ui, command)).map(done),
        Command::Tenant(command) => runtime.block_on(tenant::run(ui, command)).map(done),
        Command::Audit(args) => runtime.block_on(audit::run(ui, args)).map(done),
        Command::Api(command) => api::run(ui, command).map(done),
        Command::Host(command) => runtime.block_on(join::run(ui, command)).map(done),
        Command::Dead(command) => runtime.block_on(dead::run(ui, command)),
        Command::Kv(command) => runtime.block_on(kv::run(ui, command)).map(done),
        Command::Metrics(args) => runtime.block_on(metrics::run(ui, args)).map(done),
        Command::Bench(args) => millrace_bench::run(&args, ui.json).map(done),
        Command::Chaos(args) => runtime.block_on(chaos::run(ui, args)),
        Command::Doctor => runtime.block_on(doctor::run(ui)),
        Command::Completion { shell } => {
            completion::print(shell);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
