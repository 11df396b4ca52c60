//! Levels set.

use std::time::Duration;

use millrace_kit::telemetry::now_ns;
use millrace_kit::{Sink, State};
use serde_json::json;
use tokio::time::Instant;

use crate::near::{
    Near, batch, batch_of, control, reaches, sink, start_sink, start_sink_for, write,
};
use crate::sim::{Sim, Trace};

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn levels_are_set_by_topic_and_by_object() {
    let sim = Sim::start(&["PUMP", "LAMP", "VALVE"]);
    let (sink, link) = sink(json!({ "lines": {
        "pump": { "line": "PUMP" },
        "hall/lamp": { "line": "LAMP", "initial": "active" },
        "valve": { "line": "VALVE", "active-low": true },
    } }))
    .await;
    assert_eq!((sim.value(0), sim.value(1), sim.value(2)), (false, true, true), "as it starts");
    write(
        &sink,
        &[("pump", "1"), ("hall/lamp", "off"), ("any", r#"{"line":"valve","level":true}"#)],
    )
    .await;
    assert_eq!((sim.value(0), sim.value(1), sim.value(2)), (true, false, false));
    write(&sink, &[("pump", r#"{"value":0}"#), ("valve", "false")]).await;
    assert_eq!((sim.value(0), sim.value(1), sim.value(2)), (false, false, true));
    let counters = link.status().counters;
    assert_eq!((counters.messages_in, counters.messages_out, counters.batches_out), (5, 5, 2));
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_batch_is_carried_out_in_its_order() {
    let _sim = Sim::start(&["PUMP"]);
    let (sink, _) = sink(json!({ "lines": { "pump": { "line": "PUMP" } } })).await;
    let trace = Trace::start();
    write(&sink, &[("pump", "1"), ("pump", "0"), ("pump", "1"), ("pump", "1"), ("pump", "0")])
        .await;
    assert_eq!(trace.set(), [true, false, true, true, false]);
    drop(trace);
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn only_the_granted_lines_are_touched() {
    let sim = Sim::start(&["PUMP", "LAMP"]);
    let near = Near::open();
    let (sink, link) = start_sink(&near, json!({ "lines": { "pump": { "line": "PUMP" } } }));
    reaches(&link, State::Connected).await;
    sim.pull(1, false);
    write(
        &sink,
        &[
            ("lamp", "1"),
            ("LAMP", "1"),
            ("pump", r#"{"line":"lamp","level":1}"#),
            ("pump", "high"),
            ("pump", r#"{"level":"#),
            ("pump", "1"),
            ("PUMP", "0"),
        ],
    )
    .await;
    assert_eq!((sim.value(0), sim.value(1)), (true, false));
    let dead = near.dead.lock().clone();
    let texts: Vec<&str> = dead.iter().map(|d| d["millrace-dead-text"].as_str()).collect();
    assert_eq!(texts.len(), 6, "{texts:?}");
    assert_eq!(texts[0], "the sink has no line \"lamp\"");
    assert_eq!(texts[2], "the sink has no line \"lamp\"");
    assert!(texts[3].contains("\"high\" is no level"));
    assert!(texts[4].contains("not a JSON object"));
    assert!(dead.iter().all(|d| d["millrace-dead-kind"] == "invalid-argument"));
    assert_eq!(link.status().counters.dead_letters, 6);
    sink.write(batch(&[])).await.expect("a probe is answered");
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_line_that_its_step_was_not_granted_is_not_touched() {
    let sim = Sim::start(&["PUMP", "LAMP"]);
    let near = Near::open();
    let lines = json!({ "lines": { "pump": { "line": "PUMP" }, "lamp": { "line": "LAMP" } } });
    let (sink, link) = start_sink_for(control(&["gpio:write:lamp"]), &near, lines);
    reaches(&link, State::Connected).await;
    write(&sink, &[("lamp", "1"), ("pump", "1"), ("lamp", r#"{"line":"pump","level":1}"#)]).await;
    assert_eq!((sim.value(0), sim.value(1)), (false, true));
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 2, "{dead:?}");
    for letter in &dead {
        assert_eq!(letter["millrace-dead-kind"], "refused");
        assert_eq!(letter["millrace-dead-text"], "the step control is not granted line \"pump\"");
    }
    assert_eq!(link.status().counters.uses["control"].refused, 2);
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn what_is_too_old_is_not_carried_out() {
    let sim = Sim::start(&["PUMP"]);
    let near = Near::open();
    let lines = json!({ "lines": { "pump": { "line": "PUMP" } }, "max-age": "10s" });
    let (sink, link) = start_sink(&near, lines);
    reaches(&link, State::Connected).await;
    let old = now_ns() - 11_000_000_000;
    sink.write(batch_of(old, &[("pump", "1")])).await.unwrap();
    assert!(!sim.value(0));
    assert!(near.dead.lock()[0]["millrace-dead-text"].contains("max-age is 10s"));
    sink.write(batch_of(old + 5_000_000_000, &[("pump", "1")])).await.unwrap();
    assert!(sim.value(0));
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn silence_sets_a_line_safe_and_a_write_takes_it_back() {
    let sim = Sim::start(&["PUMP", "LAMP"]);
    let (sink, link) = sink(json!({ "lines": {
        "pump": { "line": "PUMP", "watchdog": "1s" },
        "lamp": { "line": "LAMP", "safe": "active", "watchdog": "1d" },
    } }))
    .await;
    write(&sink, &[("pump", "1"), ("lamp", "0")]).await;
    let mut written = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        written = Instant::now();
        write(&sink, &[("pump", "1")]).await;
        assert!(sim.value(0), "writes keep it alive");
    }
    while sim.value(0) {
        assert!(written.elapsed() < Duration::from_secs(10), "the watchdog did not bite");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = written.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(!sim.value(1), "the other line has its own time");
    // Said by the same thread, a moment after the level is there.
    let text = loop {
        if let Some(error) = link.status().counters.last_error {
            break error.text;
        }
        assert!(written.elapsed() < Duration::from_secs(20), "nothing is said of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(text, "pump: nothing written for 1s: set to its safe level");
    assert_eq!(link.state(), State::Connected);
    write(&sink, &[("pump", "1")]).await;
    assert!(sim.value(0));
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn an_open_drain_line_is_let_float() {
    let sim = Sim::start(&["BUS"]);
    let (sink, _) = sink(json!({ "lines": {
        "bus": { "line": "BUS", "drive": "open-drain", "bias": "pull-up" },
    } }))
    .await;
    let info = gpiocdev::Chip::from_path(sim.device()).unwrap().line_info(0).unwrap();
    assert_eq!(info.drive, Some(gpiocdev::line::Drive::OpenDrain));
    assert_eq!(info.bias, Some(gpiocdev::line::Bias::PullUp));
    assert_eq!(info.consumer, "millrace line out");
    write(&sink, &[("bus", "1")]).await;
    sink.close().await;
}
