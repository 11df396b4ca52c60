//! `millrace step new`.

use std::path::PathBuf;
use std::process::ExitCode;

use millrace_compose::Kind;
use millrace_step::{Language, create};
use serde_json::json;

use crate::ui::Ui;

/// What to write.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The step's name.
    name: String,
    /// What it is written in: rust, python or javascript.
    #[arg(long, value_name = "LANGUAGE")]
    language: Language,
    /// What it does with a message: map, filter, flat-map, branch, accumulate or delay.
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    /// The folder [default: the name].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(ui: Ui, args: &Args) -> anyhow::Result<ExitCode> {
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = create(&folder, &args.name, args.language, args.kind)?;
    if ui.json {
        ui.json(&json!({ "folder": folder, "files": files }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for file in files.iter().filter(|file| !file.starts_with("wit")) {
        ui.line(folder.join(file).display());
    }
    ui.line(format!("{}  {}", folder.join("wit").display(), ui.dim("the contract")));
    let shown = folder.display();
    ui.line(format!("\nnext:\n  millrace step build {shown}\n  millrace step test {shown}"));
    Ok(ExitCode::SUCCESS)
}
