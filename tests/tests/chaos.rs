//! Faults at random: `millrace chaos`, in short.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::process::Command;

use millrace_platform::find;

/// The faults of one seed; `MILLRACE_CHAOS_SEED` names another.
#[test]
fn faults_at_random_lose_nothing_and_keep_order() {
    let seed = std::env::var("MILLRACE_CHAOS_SEED").unwrap_or_else(|_| "1".to_owned());
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["--json", "chaos", "--for", "60s", "--seed", &seed])
        .output()
        .expect("millrace is installed: `make build`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["lost", "damaged", "order_violations"] {
        assert_eq!(report[what], 0, "{report}\n{said}");
    }
    assert!(report["messages"].as_u64().unwrap() > 10_000, "{report}");
    assert!(report["dead_letters"].as_u64().unwrap() > 5, "{report}");
    assert!(report["faults"].as_array().unwrap().len() >= 3, "{report}");
    println!("{report}");
}
