//! `millrace pipeline test`: a pipeline's tests, in this process.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use millrace_desk::{
    Coverage, Engine, Options as DeskOptions, Report, Runtime, Suite, Tone, coverage, junit,
    run_test,
};
use millrace_pipeline::{Case, Loaded};
use serde::Serialize;

use super::{Parameters, lock};
use crate::DefinitionErrors;
use crate::ui::{Ui, human_time};

/// What takes longer is said to be under way.
const A_MOMENT: Duration = Duration::from_millis(700);

/// What to test, and how to say it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The pipelines' definitions.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A file with the binding, instead of the one in the definition.
    #[arg(long, value_name = "FILE")]
    binding: Option<PathBuf>,
    #[command(flatten)]
    parameters: Parameters,
    /// A file with further tests; may be given several times.
    #[arg(long, value_name = "FILE")]
    tests: Vec<PathBuf>,
    /// Only this test; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the results into this file too, as JUnit does.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Show what each step did: passed, dropped, rejected, or was never reached.
    #[arg(long)]
    coverage: bool,
    /// Show what steps logged in tests that pass too.
    #[arg(long, short)]
    verbose: bool,
}

/// What came of one definition.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Tested {
    file: PathBuf,
    pipeline: String,
    tests: Vec<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}

/// What came of all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary<'a> {
    passed: usize,
    failed: usize,
    took_us: u64,
    pipelines: &'a [Tested],
}

pub(crate) fn run(ui: Ui, args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let loaded = args.files.iter().map(|file| load(ui, args, file)).collect::<Vec<_>>();
    // Every definition has its say before it ends at the first that is wrong.
    let loaded = loaded.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    known(args, &loaded)?;
    let engine = Engine::new(&DeskOptions::default())?;
    let mut all = Vec::new();
    for (file, loaded) in args.files.iter().zip(&loaded) {
        let cases: Vec<&Case> = loaded.tests().iter().filter(|case| wanted(args, case)).collect();
        let plan = loaded.desk_plan()?;
        let pipeline = plan.pipeline.clone();
        let runtime = patiently(ui, &pipeline, || Runtime::build(&engine, plan))
            .with_context(|| format!("{}: cannot be run", file.display()))?;
        if !ui.json {
            let name = format!("{pipeline} {}", runtime.plan().version);
            ui.line(format!("{}  {}", ui.bold(name), ui.dim(file.display())));
        }
        let mut tests = Vec::new();
        for case in &cases {
            let report = run_test(&runtime, case);
            if !ui.json {
                line(ui, args, &report);
            }
            tests.push(report);
        }
        let covered = match args.coverage {
            true => Some(patiently(ui, &pipeline, || coverage(&runtime, &cases))?),
            false => None,
        };
        all.push(Tested { file: file.clone(), pipeline, tests, coverage: covered });
    }
    if let Some(file) = &args.junit {
        write_junit(file, &all)?;
    }
    finish(ui, &all, start.elapsed())
}

/// Reads a definition and its tests, and shows what is wrong with them.
fn load(ui: Ui, args: &Args, file: &std::path::Path) -> anyhow::Result<Loaded> {
    let options = args.parameters.options()?;
    let mut loaded = millrace_pipeline::load_files(file, args.binding.as_deref(), &options)?;
    for tests in &args.tests {
        loaded.add_tests_file(tests, &options)?;
    }
    let loaded = loaded.at_the_desk();
    if !loaded.findings().is_empty() {
        eprintln!("{}", loaded.render(ui.color).trim_end());
    }
    if loaded.has_errors() {
        return Err(DefinitionErrors.into());
    }
    if loaded.tests().is_empty() {
        ui.error(format!(
            "{} has no tests: add `tests` to it, or give a file that has them with --tests",
            file.display()
        ));
        return Err(DefinitionErrors.into());
    }
    lock::check(file, args.binding.as_deref(), &loaded, false)?;
    Ok(loaded)
}

fn wanted(args: &Args, case: &Case) -> bool {
    args.only.is_empty() || args.only.contains(&case.name)
}

/// Names that were asked for are those of tests.
fn known(args: &Args, loaded: &[Loaded]) -> anyhow::Result<()> {
    let names: Vec<&str> =
        loaded.iter().flat_map(|l| l.tests()).map(|case| case.name.as_str()).collect();
    for name in &args.only {
        anyhow::ensure!(
            names.contains(&name.as_str()),
            "no test is called {name}; there are {}",
            names.join(", ")
        );
    }
    Ok(())
}

/// Does something that may take a while the first time, and says so when it does.
pub(crate) fn patiently<T>(ui: Ui, what: &str, work: impl FnOnce() -> T) -> T {
    let (done, waits) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(A_MOMENT) == Err(mpsc::RecvTimeoutError::Timeout) {
                ui.step(format!("compiling the stages of {what}; the next time they are there"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn line(ui: Ui, args: &Args, report: &Report) {
    let time = ui.dim(human_time(report.took));
    if report.passed() {
        ui.line(format!("  {}  {}  {time}", ui.green("pass"), report.name));
    } else {
        ui.line(format!("  {}  {}  {time}", ui.red("FAIL"), ui.bold(&report.name)));
        failures(ui, report);
    }
    if args.verbose || !report.passed() {
        for log in &report.log {
            let place = if log.context.is_empty() { &log.stage } else { &log.context };
            let text = format!("log {} {place}: {}", log.level.as_str(), log.text);
            ui.line(format!("        {}", ui.dim(text)));
        }
    }
}

fn failures(ui: Ui, report: &Report) {
    let place = format!("{}:{}", report.file, report.line);
    let about = report.description.as_ref().map(|d| format!("  {d}")).unwrap_or_default();
    ui.line(format!("        {}", ui.dim(format!("{place}{about}"))));
    for failure in &report.failures {
        for (tone, text) in failure.lines() {
            ui.line(match tone {
                Tone::Heading => format!("      {text}"),
                Tone::Expected => format!("        {}", ui.red(text)),
                Tone::Got => format!("        {}", ui.green(text)),
                Tone::Note => format!("        {}", ui.dim(text)),
            });
        }
    }
}

fn table(ui: Ui, tested: &Tested) {
    let Some(covered) = &tested.coverage else { return };
    ui.line(ui.bold(format!("coverage of {}", tested.pipeline)));
    ui.line(format!(
        "  {:<24} {:<9} {:>9} {:>9} {:>9} {:>9}",
        "step", "kind", "received", "passed", "dropped", "rejected"
    ));
    for step in &covered.steps {
        let never = match step.reached {
            false => ui.red("never reached"),
            true => match step.never().as_slice() {
                [] => String::new(),
                never => ui.dim(format!("never {}", never.join(", never "))),
            },
        };
        let row = format!(
            "  {:<24} {:<9} {:>9} {:>9} {:>9} {:>9}  {never}",
            step.step,
            step.kind.as_str(),
            step.received,
            step.passed,
            step.dropped,
            step.rejected
        );
        ui.line(row.trim_end());
    }
}

fn write_junit(file: &std::path::Path, all: &[Tested]) -> anyhow::Result<()> {
    let suites: Vec<Suite<'_>> =
        all.iter().map(|t| Suite { name: &t.pipeline, reports: &t.tests }).collect();
    std::fs::write(file, junit(&suites))
        .with_context(|| format!("could not write {}", file.display()))
}

/// Says what came of all, and fails if a test has.
fn finish(ui: Ui, all: &[Tested], took: Duration) -> anyhow::Result<()> {
    let reports = || all.iter().flat_map(|tested| &tested.tests);
    let passed = reports().filter(|report| report.passed()).count();
    let failed = reports().count() - passed;
    if ui.json {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        ui.json(&Summary { passed, failed, took_us, pipelines: all })?;
    } else {
        all.iter().for_each(|tested| table(ui, tested));
        let time = human_time(took);
        if failed == 0 {
            ui.line(format!("{} in {time}", ui.green(format!("{passed} passed"))));
        } else {
            let failed = ui.red(format!("{failed} failed"));
            ui.line(format!("{failed}, {passed} passed in {time}"));
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(crate::TestsFailed.into()),
    }
}
