//! Lines that are not to be had, and chips that come and go.

use millrace_kit::{Sink, State, WriteError};
use serde_json::{Value, json};

use crate::near::{
    Near, batch, eventually, reaches, says, sink, source, start_sink, start_source, write,
};
use crate::sim::Sim;

/// Holds a line as another program would.
fn hold(sim: &Sim, offset: u32) -> gpiocdev::Request {
    gpiocdev::Request::builder()
        .on_chip(sim.device())
        .with_consumer("leds")
        .with_line(offset)
        .as_input()
        .request()
        .unwrap()
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_source_names_who_has_its_line_and_takes_it_when_it_is_free() {
    let sim = Sim::start(&["DOOR", "KEY"]);
    let held = hold(&sim, 0);
    let near = Near::open();
    let lines = json!({ "lines": { "door": { "line": "DOOR" }, "key": { "line": "KEY" } } });
    let running = start_source(&near, lines);
    let text = format!("door: line 0 of {} is in use by \"leds\"", sim.device());
    says(&running.link, &text).await;
    assert_eq!(running.link.state(), State::Retrying);
    sim.pull(1, true);
    near.until(1).await;
    assert_eq!(near.all()[0].topic, "key", "the other line works");
    drop(held);
    reaches(&running.link, State::Connected).await;
    sim.pull(0, true);
    near.until(2).await;
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_sink_refuses_writes_to_a_line_in_use_and_does_them_when_it_is_free() {
    let sim = Sim::start(&["PUMP", "LAMP"]);
    let held = hold(&sim, 0);
    let near = Near::open();
    let lines = json!({ "lines": { "pump": { "line": "PUMP" }, "lamp": { "line": "LAMP" } } });
    let (sink, link) = start_sink(&near, lines);
    says(&link, "pump: line 0 of").await;
    write(&sink, &[("lamp", "1")]).await;
    assert!(sim.value(1), "the other line works");
    let error = sink.write(batch(&[("lamp", "0"), ("pump", "1")])).await.unwrap_err();
    let WriteError::Unreachable { target, reason } = &error else { panic!("{error:?}") };
    assert!(target.contains("line pump") && reason.contains("in use by \"leds\""), "{error}");
    assert!(sim.value(1), "nothing of the batch is done");
    drop(held);
    reaches(&link, State::Connected).await;
    write(&sink, &[("lamp", "0"), ("pump", "1")]).await;
    assert_eq!((sim.value(0), sim.value(1)), (true, false));
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn two_sinks_cannot_drive_one_line() {
    let _sim = Sim::start(&["PUMP"]);
    let lines = json!({ "lines": { "pump": { "line": "PUMP" } } });
    let (first, _) = sink(lines.clone()).await;
    let (second, link) = start_sink(&Near::open(), lines);
    says(&link, "is in use by \"millrace line out\"").await;
    first.close().await;
    reaches(&link, State::Connected).await;
    second.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn wrong_names_are_said_on_both_sides() {
    let one = Sim::labelled("same", &["DOOR", "TWICE"]);
    let two = Sim::labelled("same", &["", "", "TWICE"]);
    let cases: Vec<(Value, String)> = vec![
        (json!({ "line": "DOOOR" }), "there is no line named DOOOR on any GPIO chip".into()),
        (
            json!({ "chip": two.chip(), "line": "DOOR" }),
            format!("there is no line named DOOR on {}", two.chip()),
        ),
        (json!({ "line": "TWICE" }), "several lines are named TWICE, on /dev/gpiochip".into()),
        (json!({ "chip": "gpiochip99", "offset": 0 }), "there is no GPIO chip gpiochip99".into()),
        (
            json!({ "chip": "/dev/gpiochip99", "offset": 0 }),
            "there is no GPIO chip /dev/gpiochip99".into(),
        ),
        (json!({ "chip": "/dev/null", "offset": 0 }), "there is no GPIO chip /dev/null".into()),
        (json!({ "chip": "same", "offset": 0 }), "several GPIO chips are labelled same".into()),
        (
            json!({ "chip": one.chip(), "offset": 8 }),
            format!("{} has lines 0 to 7, and no 8", one.device()),
        ),
    ];
    for (line, text) in cases {
        let running = start_source(&Near::open(), json!({ "lines": { "x": line } }));
        says(&running.link, &format!("x: {text}")).await;
        assert_eq!(running.link.state(), State::Retrying);
        running.drain().await;
        let (sink, link) = start_sink(&Near::open(), json!({ "lines": { "x": line } }));
        says(&link, &format!("x: {text}")).await;
        let error = sink.write(batch(&[("x", "1")])).await.unwrap_err();
        assert!(matches!(error, WriteError::Unreachable { .. }), "{error:?}");
        let probe = sink.write(batch(&[])).await;
        assert!(probe.is_err(), "a sink without a line can take nothing");
        sink.close().await;
    }
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_chip_that_is_plugged_in_later_is_found() {
    let sim = Sim::prepare("", &["DOOR"]);
    let near = Near::open();
    let running = start_source(&near, json!({ "lines": { "door": { "line": "DOOR" } } }));
    says(&running.link, "there is no line named DOOR").await;
    sim.live(true);
    reaches(&running.link, State::Connected).await;
    sim.pull(0, true);
    near.until(1).await;
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_source_finds_its_chip_again() {
    let sim = Sim::start(&["DOOR"]);
    let running = source(json!({ "lines": { "door": { "line": "DOOR" } }, "initial": true })).await;
    sim.pull(0, true);
    running.near.until(2).await;
    sim.live(false);
    // Without an edge to read: the kernel says that the chip is gone.
    reaches(&running.link, State::Retrying).await;
    sim.live(true);
    reaches(&running.link, State::Connected).await;
    sim.pull(0, true);
    running.near.until(4).await;
    let seen = running.near.all();
    assert_eq!(seen[2].brief().2, "start", "the level is told anew");
    assert_eq!(seen[3].json["seq"].as_u64(), Some(1));
    assert!(seen[3].json.get("lost").is_none(), "a new line is no gap");
    assert_eq!(running.link.status().counters.reconnects, 1);
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_sink_finds_its_chip_again_and_starts_safe() {
    let sim = Sim::start(&["PUMP"]);
    let (sink, link) = sink(
        json!({ "lines": { "pump": { "line": "PUMP", "initial": "inactive", "safe": "active" } } }),
    )
    .await;
    write(&sink, &[("pump", "0")]).await;
    sim.live(false);
    // Without a write.
    says(&link, "is gone").await;
    let error = sink.write(batch(&[("pump", "0")])).await.unwrap_err();
    assert!(error.to_string().contains("line pump"), "{error}");
    reaches(&link, State::Retrying).await;
    sim.live(true);
    reaches(&link, State::Connected).await;
    eventually(|| sim.value(0)).await.expect("safe, not initial and not the last level");
    write(&sink, &[("pump", "0")]).await;
    assert!(!sim.value(0));
    sink.close().await;
}
