//! `millrace chaos`: runs the program that does it, which links what it needs to look at both ends.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use millrace_platform::find;
use tokio::process::Command;

use crate::ui::Ui;

/// Faults under load, and the proof that nothing is lost.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = "Example:\n  millrace chaos --for 30m --seed 7")]
pub(crate) struct Args {
    /// Options of `millrace chaos`; `millrace chaos --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    rest: Vec<OsString>,
}

pub(crate) async fn run(ui: Ui, args: Args) -> anyhow::Result<ExitCode> {
    let program = find::program("millrace-chaos")?;
    let status = Command::new(&program)
        .args(args.rest)
        .args(ui.json.then_some("--json"))
        .status()
        .await
        .with_context(|| format!("could not start {}", program.display()))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
