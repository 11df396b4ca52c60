//! `millrace step build`.

use std::path::PathBuf;
use std::process::ExitCode;

use millrace_step::{Project, inspect};
use serde_json::json;

use super::{memory, read, tools};
use crate::ui::{Ui, human_size, human_time};

/// What to build.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The step's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(crate) fn run(ui: Ui, args: &Args) -> anyhow::Result<ExitCode> {
    let project = Project::read(&args.folder)?;
    let maximum = memory(project.settings.memory.as_deref())?;
    ui.step(format!("building {} ({})", project.name, project.language));
    let built = millrace_step::build(&project, &tools())?;
    let grants = project.settings.grants.iter().cloned().collect();
    let found = inspect(&read(&built.file)?, &grants, maximum)?;
    let mut problems = found.problems.clone();
    if !found.kinds.is_empty() && !found.kinds.contains(&project.kind) {
        problems.push(format!(
            "step.yaml says that it is a {}, and the component is not: build it against the world `{}-step`",
            project.kind, project.kind
        ));
    }
    if ui.json {
        let took_ms = u64::try_from(built.took.as_millis()).unwrap_or(u64::MAX);
        ui.json(&json!({
            "file": built.file,
            "took-ms": took_ms,
            "problems": problems,
            "component": found,
        }))?;
    } else {
        ui.line(format!(
            "{}  {}  {}",
            ui.bold(built.file.display()),
            human_size(found.bytes as u64),
            ui.dim(human_time(built.took))
        ));
        super::inspect::imports(ui, &found);
        super::inspect::problems(ui, &problems);
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
