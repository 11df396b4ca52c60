//! Faults at random: `millrace chaos`, in short.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use millrace_platform::find;
use serde_json::Value;

/// One plant at a time: two of them would slow each other down.
static PLANT: Mutex<()> = Mutex::new(());

/// The report of the faults of one seed.
fn chaos(seed: &str, time: &str, arguments: &[&str]) -> Value {
    let _one = PLANT.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["--json", "chaos", "--for", time, "--seed", seed])
        .args(arguments)
        .output()
        .expect("millrace is installed: `make build`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["lost", "damaged", "order_violations"] {
        assert_eq!(report[what], 0, "{report}\n{said}");
    }
    assert!(report["messages"].as_u64().unwrap() > 10_000, "{report}");
    assert!(report["dead_letters"].as_u64().unwrap() > 5, "{report}");
    println!("{report}");
    report
}

/// The seed begins with a clock that jumps, a full disk, memory that is short, a link that is cut and one that is slow, where
/// they can be had, with processes that are killed between and after them; `MILLRACE_CHAOS_SEED` names another.
#[test]
fn faults_at_random_lose_nothing_and_keep_order() {
    let seed = std::env::var("MILLRACE_CHAOS_SEED").unwrap_or_else(|_| "77665".to_owned());
    let report = chaos(&seed, "80s", &[]);
    assert!(report["faults"].as_array().unwrap().len() >= 5, "{report}");
}

/// The seed begins with one of the two that is gone for 37 seconds, after which one is cut off for 20, where that can be had.
#[test]
fn a_host_of_two_that_dies_at_random_loses_nothing_and_keeps_order() {
    let report = chaos("36110", "60s", &["--hosts", "2"]);
    assert_eq!(report["hosts"], 2, "{report}");
    let faults = report["faults"].as_array().unwrap();
    assert!(faults.len() >= 2, "{report}");
    let killed = faults.iter().find(|fault| fault["fault"] == "host");
    let killed = killed.expect("the seed begins with it");
    // What ran there was on the other before it was back.
    assert!(!killed["providers"].as_array().unwrap().is_empty(), "{report}");
    let (taken_over, away) = (killed["taken_over"].as_f64(), killed["away"].as_f64());
    assert!(taken_over.unwrap() < away.unwrap(), "{report}");
}
