//! The contract of a connector as a suite of checks.
//!
//! `docs/connectors/contract.md` says in numbered sentences what a source and a
//! sink promise. Each sentence names the check of this crate that proves it. A
//! connector's test implements [`Peer`] for its real peer and runs the suite:
//!
//! ```ignore
//! #[tokio::test(flavor = "multi_thread")]
//! async fn the_connector_keeps_its_contract() {
//!     let mut peer = MyPeer::start();
//!     millrace_conformance::all(&mut peer).await.unwrap();
//! }
//! ```
//!
//! It works on the traits of the kit, without wasmCloud. A check that a
//! connector cannot have is skipped only by a declared [`Ability`], and printed
//! with its reason. `MILLRACE_CHECK=name` runs the checks whose name begins
//! like that, which is for looking at one of them.

mod checks;
mod logs;
mod peer;
mod rig;
mod stage;

pub use checks::{CHECKS, Check};
pub use peer::{Abilities, Ability, Flat, LARGE, Note, Outside, Peer, Role, Tls, Window};
pub use stage::{Call, Seen, TestDeadLetters, TestStage, counted, missing, pack};

use std::time::Duration;

use anyhow::{Result, ensure};

/// The longest that one check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(240);

/// Runs every check, prints a line for each, and fails at the end with what
/// failed. One that fails does not stop the others.
///
/// # Errors
///
/// The checks that failed, each with its sentence and what was found.
pub async fn all<P: Peer>(peer: &mut P) -> Result<()> {
    let only = std::env::var("MILLRACE_CHECK").unwrap_or_default();
    let report = some(peer, |check| check.name.starts_with(&only)).await;
    ensure!(report.ran > 0, "no check was run");
    let failed: Vec<String> = report
        .failed
        .iter()
        .map(|(check, error)| format!("{}: {}\n  {error:#}", check.name, check.sentence))
        .collect();
    ensure!(failed.is_empty(), "{} of {} failed\n{}", failed.len(), report.ran, failed.join("\n"));
    Ok(())
}

/// What came of some checks.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were run.
    pub ran: usize,
    /// Those that failed, and why.
    pub failed: Vec<(&'static Check, anyhow::Error)>,
}

/// Runs the checks that are wanted, and prints a line for each.
pub async fn some<P: Peer>(peer: &mut P, wanted: impl Fn(&Check) -> bool) -> Report {
    logs::install();
    let mut report = Report::default();
    for check in CHECKS.iter().filter(|check| wanted(check)) {
        let title = format!("{} {}", P::CONNECTOR, check.name);
        if let Some(reason) = check.skipped(&peer.abilities()) {
            println!("skip {title}: {reason}");
            continue;
        }
        report.ran += 1;
        let start = tokio::time::Instant::now();
        let result = match tokio::time::timeout(CHECK_LIMIT, checks::run(check, peer)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("it hangs: not done within {CHECK_LIMIT:?}")),
        };
        match result {
            Ok(()) => println!("ok   {title} ({:.1} s)", start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAIL {title}: {error:#}");
                report.failed.push((check, error));
            }
        }
    }
    report
}
