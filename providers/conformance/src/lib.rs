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
    logs::install();
    let only = std::env::var("MILLRACE_CHECK").unwrap_or_default();
    let (mut failed, mut ran) = (Vec::new(), 0);
    for check in CHECKS.iter().filter(|check| check.name.starts_with(&only)) {
        let title = format!("{} {}", P::CONNECTOR, check.name);
        if let Some(reason) = check.skipped(&peer.abilities()) {
            println!("skip {title}: {reason}");
            continue;
        }
        ran += 1;
        let start = std::time::Instant::now();
        let result = match tokio::time::timeout(CHECK_LIMIT, checks::run(check, peer)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("it hangs: not done within {CHECK_LIMIT:?}")),
        };
        match result {
            Ok(()) => println!("ok   {title} ({:.1} s)", start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAIL {title}: {error:#}");
                failed.push(format!("{}: {}\n  {error:#}", check.name, check.sentence));
            }
        }
    }
    ensure!(ran > 0, "no check was run");
    ensure!(failed.is_empty(), "{} of {ran} checks failed\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
