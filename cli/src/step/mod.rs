//! `millrace step`: a customer's step, from an empty folder to a component that was tried.

mod build;
mod inspect;
mod new;
mod test;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use millrace_compose::{Grant, Kind};
use millrace_step::{Project, STEP_FILE, Settings, Tools};

use crate::ui::Ui;

/// Work with steps.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a new project of a step: sources, samples, a unit test and the contract.
    #[command(
        after_help = "Examples:\n  millrace step new to-celsius --language rust --kind map\n  millrace step new hot --language python --kind filter --dir steps/hot\n\nThe folder is the name unless --dir says another; it has to be new or empty."
    )]
    New(#[command(flatten)] new::Args),
    /// Build the component of a step's folder with its language's tool.
    #[command(
        after_help = "Examples:\n  millrace step build\n  millrace step build steps/hot --json\n\nThe component is build/NAME.wasm in the folder. Exits with 1 when it cannot be built, or a pipeline would refuse it."
    )]
    Build(#[command(flatten)] build::Args),
    /// Run a step on sample messages, and then on any bytes, in this process.
    #[command(
        after_help = "Examples:\n  millrace step test\n  millrace step test hot.wasm --messages samples.jsonl --config limit=80\n  millrace step test by-range.wasm --config low=30 --config high=70 --arm low --arm normal --arm high\n  millrace step test hot.wasm --seed 17 --cases 10000\n  millrace step test aggregate.wasm --messages samples.jsonl --window tumbling=10s\n\nA step may refuse a message with an error. Exits with 1 when it traps or runs into its limits: then the smallest message\nthat was found is shown. An accumulate also has to give the same when it is called again with the same, and its state must\nnot grow with each message."
    )]
    Test(#[command(flatten)] test::Args),
    /// Show what a component exports, imports and needs, and whether a pipeline would take it.
    #[command(
        after_help = "Examples:\n  millrace step inspect hot.wasm\n  millrace step inspect hot.wasm --grant log --memory 128MiB --json\n\nExits with 1 when a pipeline that grants it this would refuse it."
    )]
    Inspect(#[command(flatten)] inspect::Args),
}

/// What a pipeline would give the step.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Given {
    /// Grant it this: clocks, random, log, config, kv:BUCKET, kv:read:BUCKET or http:METHOD:HOST; may be given several
    /// times.
    #[arg(long, value_name = "GRANT")]
    grant: Vec<Grant>,
    /// Its memory maximum, such as 128MiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
}

pub(crate) fn run(ui: Ui, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::New(args) => new::run(ui, &args),
        Command::Build(args) => build::run(ui, &args),
        Command::Test(args) => test::run(ui, &args),
        Command::Inspect(args) => inspect::run(ui, &args),
    }
}

/// Where languages' tools are looked for.
fn tools() -> Tools {
    Tools::new(millrace_platform::find::tools().with_file_name("languages"))
}

/// A component, with what its folder says of it.
struct Subject {
    component: PathBuf,
    project: Option<Project>,
}

impl Subject {
    /// A file is a component; a folder is that of a step.
    fn of(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Ok(Self { component: path.to_owned(), project: None });
        }
        let project = Project::read(path)?;
        let component = project.component();
        anyhow::ensure!(
            component.is_file(),
            "{} is not built: {} is missing; run `millrace step build {}`",
            path.join(STEP_FILE).display(),
            component.display(),
            path.display()
        );
        Ok(Self { component, project: Some(project) })
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        read(&self.component)
    }

    /// The folder's settings, with what was said on the command line over them.
    fn settings(
        &self,
        kind: Option<Kind>,
        arms: &[String],
        config: &[(String, String)],
        given: &Given,
    ) -> Settings {
        let mut settings = self.project.as_ref().map(|p| p.settings.clone()).unwrap_or_default();
        settings.kind = kind.or(settings.kind);
        if !arms.is_empty() {
            settings.arms = arms.to_vec();
        }
        settings.config.extend(config.iter().cloned().collect::<BTreeMap<_, _>>());
        settings.grants.extend(given.grant.iter().cloned());
        settings.grants.sort_unstable();
        settings.grants.dedup();
        settings.memory = given.memory.clone().or(settings.memory);
        settings
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("could not read {}", file.display()))
}

/// `128MiB` in bytes.
fn memory(text: Option<&str>) -> anyhow::Result<Option<u64>> {
    let parse = |text: &str| {
        text.parse::<millrace_pipeline::Memory>()
            .map(|memory| memory.get())
            .map_err(|what| anyhow::anyhow!("memory `{text}`: {what}"))
    };
    text.map(parse).transpose()
}
