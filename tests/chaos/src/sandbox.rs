//! Mounts and a network of this program's own, which nobody else sees and which vanish with it.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Set in a process that has them.
const OWN: &str = "MILLRACE_CHAOS_SANDBOX";

/// How a process gets them.
const UNSHARE: [&str; 4] = ["--mount", "--net", "--propagation", "private"];

/// Starts this program anew with mounts and a network of its own, unless it has them. Comes back with the reason where
/// they are not to be had.
pub(crate) fn enter() -> anyhow::Result<()> {
    if is_entered() {
        return Ok(());
    }
    let trial = ["mount", "-t", "tmpfs", "millrace-chaos", "/tmp"];
    run("unshare", UNSHARE.iter().copied().chain(trial))?;
    let mut again = Command::new("unshare");
    again.args(UNSHARE).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(again.env(OWN, "1").exec().into())
}

/// Whether this process has mounts and a network of its own.
pub(crate) fn is_entered() -> bool {
    std::env::var_os(OWN).is_some()
}

/// Runs a program to its end.
pub(crate) fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("could not start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}
