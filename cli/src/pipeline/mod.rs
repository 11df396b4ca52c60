//! `millrace pipeline`: from a definition to a running pipeline and back.

pub(crate) mod build;
mod deploy;
mod dry_run;
mod edit;
mod lock;
mod replay;
pub(crate) mod show;
mod tap;
mod test;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use millrace_pipeline::{Loaded, Options as LoadOptions, Plan};
use millrace_wadm::{Applications, Deployment, Rollouts};

pub(crate) use test::patiently;

use crate::ui::Ui;
use crate::{DefinitionErrors, audit, lattice};

/// The definition a command works on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Definition {
    /// The pipeline's definition.
    pub(crate) file: PathBuf,
    /// A file with the binding, instead of the one in the definition.
    #[arg(long, value_name = "FILE")]
    pub(crate) binding: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) parameters: Parameters,
}

/// Values of the parameters of a definition.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Parameters {
    /// Give a parameter of the definition a value, before those of the binding; may be given several times.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    given: Vec<(String, String)>,
}

impl Parameters {
    /// What to read a definition with.
    pub(crate) fn options(&self) -> anyhow::Result<LoadOptions> {
        let mut parameters = BTreeMap::new();
        for (name, value) in &self.given {
            let before = parameters.insert(name.clone(), value.clone());
            anyhow::ensure!(before.is_none(), "--param gives `{name}` twice: give it once");
        }
        Ok(LoadOptions { check_files: true, parameters })
    }
}

/// `NAME=VALUE`.
fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has to be NAME=VALUE, such as limit=90".to_owned()),
    }
}

/// Where artifacts are written.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Output {
    /// Folder for the artifacts [default: .millrace/PIPELINE beside the definition].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Work with pipelines.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what is wrong with a definition, and the mend.
    #[command(
        after_help = "Examples:\n  millrace pipeline lint pipeline.yaml\n  millrace pipeline lint pipeline.yaml --binding test-plant.yaml --param limit=90 --json\n\nExits with 3 when there are errors; warnings alone exit with 0."
    )]
    Lint(#[command(flatten)] Definition),
    /// Run the tests of a definition in this process, without a lattice.
    #[command(
        after_help = "Examples:\n  millrace pipeline test pipeline.yaml\n  millrace pipeline test pipeline.yaml --only hot-is-told -v\n  millrace pipeline test pipeline.yaml --param limit=90\n  millrace pipeline test pipelines/*.yaml --coverage --junit results.xml\n  millrace pipeline test pipeline.yaml --tests more-tests.yaml --json\n\nSources and sinks need no binding, components do. Exits with 1 when a test has failed, with 3 when a definition has\nerrors or no tests."
    )]
    Test(#[command(flatten)] test::Args),
    /// Try every connection of a definition, without moving a message.
    #[command(
        after_help = "Examples:\n  millrace pipeline dry-run pipeline.yaml\n  millrace pipeline dry-run pipeline.yaml --binding hall.yaml --nats-url nats://hall:4222 --timeout 2s\n  millrace pipeline dry-run pipeline.yaml --json\n\nNothing is consumed, subscribed to, written or made. Exits with 1 when something does not answer, with 3 when the\ndefinition has errors."
    )]
    DryRun(#[command(flatten)] dry_run::Args),
    /// Change fields of a definition; comments, layout and everything else of its text stay as they are.
    #[command(
        after_help = "Examples:\n  millrace pipeline set pipeline.yaml steps.too-hot.config.limit=90\n  millrace pipeline set pipeline.yaml version=0.2.0 'steps.too-hot.grants=[log]' --dry-run\n  millrace pipeline set hall.yaml 'binding.sources.machine.mqtt.url=\"mqtts://broker.hall3.example\"'\n  millrace pipeline set pipeline.yaml --remove steps.too-hot.memory\n\nA value is YAML; what a field is in is made when it is not there. [0] is the first item of a list, as in\nsinks.log.from[0]. Exits with 3, and writes nothing, when the definition would have errors that it has not now."
    )]
    Set(#[command(flatten)] edit::Set),
    /// Give a source, step or sink another name, wherever the definition names it.
    #[command(
        after_help = "Examples:\n  millrace pipeline rename pipeline.yaml too-hot above-limit\n  millrace pipeline rename pipeline.yaml too-hot above-limit --dry-run --json\n  millrace pipeline rename hall.yaml machine press            a binding in a file of its own\n  millrace pipeline rename pipeline.yaml steps.too-hot.config.limit max   this field only\n\nA durable edge has the names of its ends: messages that wait in one are under its old name. Exits with 3, and writes\nnothing, when the definition would have errors that it has not now."
    )]
    Rename(#[command(flatten)] edit::Rename),
    /// Print the JSON Schema of definitions, for editors.
    #[command(after_help = "Example:\n  millrace pipeline schema > pipeline.schema.json")]
    Schema {
        /// The schema of a binding in a file of its own.
        #[arg(long)]
        binding: bool,
        /// The schema of tests in a file of their own.
        #[arg(long, conflicts_with = "binding")]
        tests: bool,
    },
    /// Show which steps become one stage, where the durable edges are, and why.
    #[command(
        after_help = "Examples:\n  millrace pipeline plan pipeline.yaml\n  millrace pipeline plan pipeline.yaml --svg plan.svg"
    )]
    Plan {
        #[command(flatten)]
        definition: Definition,
        /// Write it as a picture (SVG) into this file, or `-` for standard output.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Compose the stage artifacts.
    #[command(
        after_help = "Examples:\n  millrace pipeline build pipeline.yaml --out artifacts\n  millrace pipeline build pipeline.yaml --locked"
    )]
    Build {
        #[command(flatten)]
        definition: Definition,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        locked: lock::Locked,
    },
    /// Write down which components and which harness a definition is made of, so that nothing changes unseen.
    #[command(
        after_help = "Examples:\n  millrace pipeline lock pipeline.yaml            writes pipeline.lock\n  millrace pipeline lock pipeline.yaml --update   takes over what has changed\n  millrace pipeline lock pipeline.yaml --binding production.yaml\n                                                  writes production.lock, beside the binding\n\nWith a lock file there, build, manifest, deploy and test refuse what does not fit it."
    )]
    Lock {
        #[command(flatten)]
        definition: Definition,
        /// Write it anew where it does not fit any more.
        #[arg(long)]
        update: bool,
    },
    /// Build, and print the wadm manifest.
    #[command(
        after_help = "Examples:\n  millrace pipeline manifest pipeline.yaml > app.yaml && wash app deploy app.yaml\n  millrace pipeline manifest pipeline.yaml --store > app.yaml     for hosts on other machines, or of tenants\n\nWithout --store it names files of this machine, which any host of wasmCloud here can load."
    )]
    Manifest {
        #[command(flatten)]
        definition: Definition,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        locked: lock::Locked,
        /// Put the stages into the lattice's store, and name them from there: Millrace's hosts take them on any machine.
        #[arg(long, conflicts_with = "out")]
        store: bool,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Build, deploy, and wait until everything runs. A changed definition takes over from the version that runs, is
    /// watched for a while, and is rolled back when it does not start or fails too often.
    #[command(
        after_help = "Examples:\n  millrace pipeline deploy pipeline.yaml\n  millrace pipeline deploy pipeline.yaml --binding production.yaml --lattice hall-3 --timeout 2m\n  millrace pipeline deploy pipeline.yaml --param limit=90 --param site=north\n  millrace pipeline deploy pipeline.yaml --watch 5m --max-failures 1%\n\nExits with 5 when the new version was rolled back. The roll-back is the platform's: it does not need this command to\nstay."
    )]
    Deploy {
        #[command(flatten)]
        definition: Definition,
        #[command(flatten)]
        locked: lock::Locked,
        #[command(flatten)]
        lattice: lattice::Options,
        #[command(flatten)]
        judging: deploy::Judging,
    },
    /// Show the versions that took over in a pipeline, and what came of each.
    #[command(
        after_help = "Examples:\n  millrace pipeline history pipeline.yaml\n  millrace --json pipeline history temperature-alerts"
    )]
    History {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Show stages wanted and running, links, counters and errors.
    #[command(
        after_help = "Examples:\n  millrace pipeline status pipeline.yaml\n  millrace pipeline status temperature-alerts --watch\n\nExits with 1 when something is not as wanted."
    )]
    Status {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        lattice: lattice::Options,
        /// Show it again every second until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Show messages as they pass a durable edge, or become dead letters.
    #[command(
        after_help = "Examples:\n  millrace pipeline tap pipeline.yaml                  every durable edge and dead letters\n  millrace pipeline tap pipeline.yaml --edge celsius.too-hot --count 10\n  millrace pipeline tap pipeline.yaml --dead --json --for 1m"
    )]
    Tap {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        /// Only this durable edge, as FROM.TO; may be given several times.
        #[arg(long, value_name = "FROM.TO")]
        edge: Vec<String>,
        /// Only dead letters.
        #[arg(long, conflicts_with = "edge")]
        dead: bool,
        #[command(flatten)]
        options: tap::Show,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Give what a durable edge carried to a stage of another pipeline, for a try with real messages.
    #[command(
        after_help = "Examples:\n  millrace pipeline replay alerts celsius.too-hot --into alerts-shadow\n  millrace pipeline replay alerts celsius.too-hot --since 2h --until 1h --into alerts-shadow/too-hot\n  millrace pipeline replay pipeline.yaml celsius.too-hot --from 4711 --limit 100 --rate 50/s --into alerts-shadow\n\nThe edge has to keep a history (`durable: { history: 1h }`). Exits with 4 when batches were not taken."
    )]
    Replay {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        options: replay::Selection,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Take a pipeline down.
    #[command(
        after_help = "Examples:\n  millrace pipeline undeploy pipeline.yaml\n  millrace pipeline undeploy temperature-alerts --purge"
    )]
    Undeploy {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        lattice: lattice::Options,
        /// Remove its durable edges and dead letters too, with the messages in them.
        #[arg(long)]
        purge: bool,
        /// Give up waiting after this time.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = millrace_platform::parse_time)]
        timeout: Duration,
    },
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Lint(definition) => lint(ui, &definition),
        Command::Test(args) => test::run(ui, &args),
        Command::DryRun(args) => dry_run::run(ui, &args).await,
        Command::Set(args) => edit::set(ui, &args),
        Command::Rename(args) => edit::rename(ui, &args),
        Command::Schema { binding, tests } => {
            let schema = if binding {
                millrace_pipeline::binding_schema()
            } else if tests {
                millrace_pipeline::tests_schema()
            } else {
                millrace_pipeline::schema()
            };
            ui.line(serde_json::to_string_pretty(&schema)?);
            Ok(())
        }
        Command::Plan { definition, svg } => {
            let loaded = sound(ui, &definition)?;
            let plan = loaded.plan()?;
            if let Some(file) = svg {
                show::picture(ui, &plan, &file)
            } else if ui.json {
                ui.json(&plan)
            } else {
                show::plan(ui, &plan, loaded.parameters());
                Ok(())
            }
        }
        Command::Lock { definition, update } => lock::run(ui, &definition, update),
        Command::Build { definition, output, locked } => {
            let plan = locked_plan(ui, &definition, &locked)?;
            let built = build::stages(&plan, &build::folder(&definition, &plan, &output)?)?;
            show::built(ui, &built)
        }
        Command::Manifest { definition, output, locked, store, lattice } => {
            let plan = locked_plan(ui, &definition, &locked)?;
            let deployment = match store {
                true => build::stored(&lattice.connect().await?, lattice.name(), &plan).await?,
                false => build::deployment(&plan, &build::folder(&definition, &plan, &output)?)?,
            };
            let Deployment { providers, pipeline: manifest } = deployment;
            let needs: Vec<&str> = providers.iter().map(|p| p.metadata.name.as_str()).collect();
            ui.step(format!(
                "it uses the shared applications {}: `millrace provider deploy`, or `millrace provider manifest` and wash, \
                 puts them on a lattice",
                needs.join(", ")
            ));
            // JSON is YAML, so wash takes either; people read the one, programs the other.
            if ui.json {
                ui.json(&manifest)
            } else {
                ui.line(show::yaml(&manifest)?);
                Ok(())
            }
        }
        Command::Deploy { definition, locked, lattice, judging } => {
            let plan = locked_plan(ui, &definition, &locked)?;
            deploy::run(ui, &plan, &lattice, &judging).await
        }
        Command::History { pipeline, lattice } => {
            let rollouts = Rollouts::new(lattice.connect().await?, lattice.name());
            show::history(ui, &rollouts.history(&name_of(&pipeline)?).await?)
        }
        Command::Status { pipeline, lattice, watch } => {
            status(ui, &pipeline, &lattice, watch).await
        }
        Command::Tap { pipeline, edge, dead, options, lattice } => {
            let name = name_of(&pipeline)?;
            let nats = lattice.connect().await?;
            let subjects = tap_subjects(lattice.name(), &name, &edge, dead);
            let shown = tap::run(ui, &nats, &subjects, &options).await?;
            ui.step(format!("{shown} messages"));
            Ok(())
        }
        Command::Replay { pipeline, options, lattice } => {
            replay::run(ui, &name_of(&pipeline)?, &options, &lattice).await
        }
        Command::Undeploy { pipeline, lattice, purge, timeout } => {
            undeploy(ui, &pipeline, &lattice, purge, timeout).await
        }
    }
}

fn load(definition: &Definition) -> anyhow::Result<Loaded> {
    let options = definition.parameters.options()?;
    Ok(millrace_pipeline::load_files(&definition.file, definition.binding.as_deref(), &options)?)
}

fn lint(ui: Ui, definition: &Definition) -> anyhow::Result<()> {
    let loaded = load(definition)?;
    if ui.json {
        ui.json(&loaded.findings())?;
    } else if loaded.findings().is_empty() {
        ui.line(format!("{}: nothing to mend", definition.file.display()));
    } else {
        ui.line(loaded.render(ui.color).trim_end());
    }
    if loaded.has_errors() { Err(DefinitionErrors.into()) } else { Ok(()) }
}

/// The plan of a definition that fits its lock file; findings are shown on standard error.
fn locked_plan(ui: Ui, definition: &Definition, locked: &lock::Locked) -> anyhow::Result<Plan> {
    let loaded = sound(ui, definition)?;
    lock::check(&definition.file, definition.binding.as_deref(), &loaded, locked.locked)?;
    Ok(loaded.plan()?)
}

/// A definition without errors; findings are shown on standard error.
fn sound(ui: Ui, definition: &Definition) -> anyhow::Result<Loaded> {
    let loaded = load(definition)?;
    if !loaded.findings().is_empty() {
        eprintln!("{}", loaded.render(ui.color).trim_end());
    }
    if loaded.has_errors() {
        return Err(DefinitionErrors.into());
    }
    Ok(loaded)
}

async fn status(
    ui: Ui,
    pipeline: &str,
    lattice: &lattice::Options,
    watch: bool,
) -> anyhow::Result<()> {
    let name = name_of(pipeline)?;
    let applications = Applications::new(lattice.connect().await?, lattice.name());
    loop {
        let status = applications.status(&name).await?;
        if ui.json {
            ui.json(&status)?;
        } else {
            show::status(ui, &status);
        }
        if !watch {
            anyhow::ensure!(status.running(), "{name} is not as wanted: {}", not_running(&status));
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn not_running(status: &millrace_wadm::PipelineStatus) -> String {
    match status.version {
        None => "no version is deployed".to_owned(),
        Some(_) => status.missing().join("; "),
    }
}

async fn undeploy(
    ui: Ui,
    pipeline: &str,
    lattice: &lattice::Options,
    purge: bool,
    timeout: Duration,
) -> anyhow::Result<()> {
    let name = name_of(pipeline)?;
    let begun = SystemTime::now();
    let nats = lattice.connect().await?;
    let applications = Applications::new(nats.clone(), lattice.name());
    match applications.undeploy(&name, timeout).await {
        // What is left of a pipeline that is gone can still be purged.
        Err(millrace_wadm::WadmError::NotFound { .. }) if purge => {}
        result => result?,
    }
    let what = if purge { "pipeline.purge" } else { "pipeline.undeploy" };
    audit::note(ui, lattice, &nats, what, &name).await;
    build::forget(ui, &nats, lattice.name(), &name, begun).await;
    let removed =
        if purge { build::purge(&nats, lattice.name(), &name).await? } else { Vec::new() };
    if purge {
        applications.rollouts().forget(&name).await?;
    }
    if ui.json {
        return ui.json(&serde_json::json!({ "pipeline": name, "purged_streams": removed }));
    }
    ui.line(format!("{name} is undeployed"));
    for stream in removed {
        ui.line(format!("  removed {stream}"));
    }
    Ok(())
}

/// The name in a definition, or the name itself.
pub(crate) fn name_of(pipeline: &str) -> anyhow::Result<String> {
    let path = Path::new(pipeline);
    let is_file = path.is_file() || path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    if !is_file {
        return Ok(pipeline.to_owned());
    }
    let loaded = millrace_pipeline::load_files(path, None, &LoadOptions::default())?;
    let model = loaded.pipeline().with_context(|| {
        format!("{pipeline} does not say the pipeline's name; `millrace pipeline lint {pipeline}` says what is wrong")
    })?;
    Ok(model.pipeline.clone())
}

/// What to listen to: name and subject.
fn tap_subjects(
    lattice: &str,
    pipeline: &str,
    edges: &[String],
    dead: bool,
) -> Vec<(String, String)> {
    let base = format!("millrace.{lattice}.{pipeline}");
    let every = ("edge".to_owned(), format!("{base}.edge.>"));
    let letters = ("dead".to_owned(), format!("{base}.dead.>"));
    match (edges, dead) {
        (_, true) => vec![letters],
        ([], false) => vec![every, letters],
        // With partitions they are in the subject.
        (edges, false) => edges
            .iter()
            .flat_map(|e| ["", ".*.*"].map(|more| (e.clone(), format!("{base}.edge.{e}{more}"))))
            .collect(),
    }
}
