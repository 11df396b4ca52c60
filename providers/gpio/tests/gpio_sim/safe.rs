//! What becomes of the lines at the end, however it comes about.
//!
//! After a line is let go its level is the driver's business, and gpio-sim
//! sets it to its pull. What was set before that the kernel itself writes down.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_kit::{Sink, State};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::near::{Near, eventually, sink, start_sink, write};
use crate::sim::{Sim, Trace};

/// Set in the process that is to be killed.
const CHILD: &str = "MILLRACE_TEST_CHILD";

fn pump() -> Value {
    json!({ "lines": { "pump": { "line": "PUMP", "initial": "inactive", "safe": "active" } } })
}

/// Whether the line is free for another program.
fn is_free(sim: &Sim) -> bool {
    gpiocdev::Request::builder().on_chip(sim.device()).with_line(0).as_is().request().is_ok()
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn closing_sets_the_lines_safe_and_then_lets_them_go() {
    let sim = Sim::start(&["PUMP"]);
    let (sink, link) = sink(pump()).await;
    write(&sink, &[("pump", "0")]).await;
    let trace = Trace::start();
    // As the provider does when it is shut down, or the link is deleted.
    link.start_drain();
    timeout(Duration::from_secs(5), sink.close()).await.unwrap();
    assert_eq!(trace.set(), [true], "safe is the last that was set");
    assert!(is_free(&sim));
    assert_eq!(link.state(), State::Draining);
    let error = sink.write(crate::near::batch(&[("pump", "0")])).await.unwrap_err();
    assert!(error.to_string().contains("gpio sink out"), "{error}");
    assert_eq!(trace.set(), [true], "a write after the end does nothing");
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_sink_that_is_only_dropped_sets_the_lines_safe() {
    let sim = Sim::start(&["PUMP"]);
    let (sink, _) = sink(pump()).await;
    write(&sink, &[("pump", "0")]).await;
    let trace = Trace::start();
    drop(sink);
    eventually(|| is_free(&sim)).await.unwrap();
    assert_eq!(trace.set().first(), Some(&true));
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn writes_under_way_end_before_the_lines_are_safe() {
    let sim = Sim::start(&["PUMP"]);
    let (sink, _) = sink(pump()).await;
    let trace = Trace::start();
    let many: Vec<(&str, &str)> =
        (0..500).map(|n| ("pump", if n % 2 == 0 { "1" } else { "0" })).collect();
    let writing = {
        let (sink, body) = (sink.clone(), crate::near::batch(&many));
        tokio::spawn(async move { sink.write(body).await })
    };
    tokio::task::yield_now().await;
    sink.close().await;
    let written = writing.await.unwrap();
    let set = trace.set();
    assert_eq!(set.last(), Some(&true), "safe is the last that was set");
    assert_eq!(set.len(), if written.is_ok() { 501 } else { 1 }, "{written:?}");
    assert!(is_free(&sim));
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn when_the_process_is_killed_the_kernel_lets_the_lines_go_and_sets_nothing() {
    for pulled in [false, true] {
        let sim = Sim::start(&["PUMP"]);
        // What a resistor does.
        sim.pull(0, pulled);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "safe::drives_a_line_until_it_is_killed"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        // The opposite of the resistor, to see who wins.
        let said = output.find(|line| line.as_ref().is_ok_and(|line| line.contains("driving")));
        assert!(said.is_some());
        assert!(!sim.value(0), "driven low, whatever the pull");
        assert!(!is_free(&sim));
        let trace = Trace::start();
        child.kill().unwrap();
        child.wait().unwrap();
        eventually(|| is_free(&sim)).await.unwrap();
        assert_eq!(trace.set(), Vec::<bool>::new(), "nobody sets a line for a dead process");
        assert_eq!(sim.value(0), pulled, "the resistor has it");
    }
}

/// Not a test of its own: the process of the one above.
#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn drives_a_line_until_it_is_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (sink, _) = sink(pump()).await;
    write(&sink, &[("pump", "0")]).await;
    println!("driving");
    tokio::time::sleep(Duration::from_secs(120)).await;
    sink.close().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_sink_without_its_lines_ends_all_the_same() {
    let _sim = Sim::start(&["LAMP"]);
    let (sink, link) = start_sink(&Near::open(), pump());
    crate::near::says(&link, "there is no line named PUMP").await;
    timeout(Duration::from_secs(5), sink.close()).await.unwrap();
}
