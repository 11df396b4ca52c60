//! Connectors beside the plain client libraries, measured by a program of its own: it links every client library.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use millrace_platform::find;
use tokio::process::Command;

use crate::Effort;
use crate::lab::Interrupted;
use crate::report::Row;

/// Measures all rows of a connector.
///
/// # Errors
///
/// The program is not installed, or its peer does not start.
pub(crate) async fn measure(connector: &str, effort: Effort) -> anyhow::Result<Vec<Row>> {
    let program = find::program("millrace-bench-connectors")?;
    let mut command = Command::new(&program);
    command.arg(connector).args(effort.quick.then_some("--quick")).kill_on_drop(true);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let output = tokio::select! {
        output = child.wait_with_output() => output?,
        // It ends by itself at the same key.
        _ = tokio::signal::ctrl_c() => return Err(Interrupted.into()),
    };
    ensure!(output.status.success(), "not measured: {}", output.status);
    serde_json::from_slice(&output.stdout).context("the rows cannot be read")
}
