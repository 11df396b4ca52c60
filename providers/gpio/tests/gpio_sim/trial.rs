//! Lines that are tried are looked at and not requested.

use millrace_gpio::Gpio;
use millrace_provider::trial::{Side, Trial, Tried, attempt};
use serde_json::{Value, json};

use crate::near::source;
use crate::sim::Sim;

async fn tried(side: Side, pipeline: &str, lines: &Value) -> Tried {
    let pairs =
        [("pipeline", pipeline), ("name", "in"), ("stage", "clean"), ("lines", &lines.to_string())];
    let settings = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    attempt::<Gpio>(&Trial { side, settings, timeout_ms: 5_000 }).await
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_line_is_found_and_left_as_it_is() {
    let _sim = Sim::start(&["DOOR", "PUMP"]);
    let lines = json!({ "door": { "line": "DOOR" }, "pump": { "line": "PUMP" } });
    for side in [Side::Source, Side::Sink] {
        // Twice: had it been taken, it would be in use.
        for _ in 0..2 {
            let tried = tried(side, "line", &lines).await;
            let said = tried.said.unwrap_or_else(|| panic!("{:?}", tried.failed));
            assert!(said.contains("door is line 0 (DOOR) of /dev/gpiochip"), "{said}");
            assert!(!said.contains("in use"), "{said}");
        }
        let missing = tried(side, "line", &json!({ "door": { "line": "NOT-THERE" } })).await;
        let failed = missing.failed.unwrap();
        assert!(failed.error.contains("no line named NOT-THERE"), "{failed}");
        assert!(failed.mend.contains("gpioinfo"), "{failed}");
    }
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_line_in_use_is_told_with_its_user() {
    let _sim = Sim::start(&["DOOR"]);
    let lines = json!({ "door": { "line": "DOOR" } });
    let running = source(json!({ "lines": lines.clone() })).await;
    let other = tried(Side::Source, "another", &lines).await.failed.unwrap();
    assert!(other.error.contains("is in use by \"millrace "), "{other}");
    running.drain().await;
    assert!(tried(Side::Source, "another", &lines).await.failed.is_none());
}
