//! Steps that need no component, on a lattice: what they keep survives whatever is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_tests::{Machine, Plant, subscribe, until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Two lines whose readings come several times, and one reading in five of each machine.
const READINGS: &str = r#"
millrace: v1alpha1
pipeline: readings
version: 0.1.0
sources: [left, right]
steps:
  all: { concatenate: {}, from: [left, right] }
  once:
    de-duplicate: { by: payload.seq, within: 10m }
    from: { name: all, durable: { partitions: 3 } }
  calm: { throttle: { messages: 1, per: 1d }, from: once }
sinks:
  out: { from: once }
  one: { from: calm }
  again: { from: once.duplicate }
binding:
  sources:
    left: { mqtt: { url: "{url}", topic: plant/left/+, qos: 1 } }
    right: { mqtt: { url: "{url}", topic: plant/right/+, qos: 1 } }
  sinks:
    out: { mqtt: { url: "{url}", topic: out/once, qos: 1 } }
    one: { mqtt: { url: "{url}", topic: out/calm, qos: 1 } }
    again: { mqtt: { url: "{url}", topic: out/again, qos: 1 } }
"#;

/// How often each payload came to a topic.
async fn counted(plant: &Plant, topic: &'static str) -> Arc<Mutex<BTreeMap<String, u32>>> {
    let counts = Arc::new(Mutex::new(BTreeMap::new()));
    let taken = counts.clone();
    let name = topic.replace('/', "-");
    subscribe(plant.mqtt(&name), topic, move |payload| {
        let text = String::from_utf8(payload.to_vec()).unwrap();
        *taken.lock().unwrap().entry(text).or_default() += 1;
    })
    .await;
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reading_goes_on_once_although_the_conduit_is_killed() {
    const READINGS_SENT: u32 = 1_500;
    let plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("readings.yaml", READINGS)).await;
    let (out, again) = (counted(&plant, "out/once").await, counted(&plant, "out/again").await);
    let one = counted(&plant, "out/calm").await;
    let mut machine = Machine::connect(&plant);
    for n in 0..READINGS_SENT {
        let line = if n % 2 == 0 { "left" } else { "right" };
        // Three times: at once, and when what came first is long done.
        for seq in [n, n, n.saturating_sub(300)] {
            let line = if seq == n {
                line
            } else if seq % 2 == 0 {
                "left"
            } else {
                "right"
            };
            machine
                .publish(&format!("plant/{line}/m{}", seq % 4), format!("{{\"seq\":{seq}}}"))
                .await;
        }
        if n % 500 == 400 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            plant.kill_running_provider("conduit").await;
        }
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    machine.acknowledged().await;
    let sum = |counts: &Mutex<BTreeMap<String, u32>>| counts.lock().unwrap().values().sum::<u32>();
    until("everything has come", PATIENCE, async || {
        out.lock().unwrap().len() == READINGS_SENT as usize
            && sum(&out) + sum(&again) >= 3 * READINGS_SENT
    })
    .await;
    // None is missing and none that went on was forgotten. What comes twice was sent twice by a sink, whose provider is not
    // killed here, but whose call may have been cut off.
    let out = out.lock().unwrap().clone();
    assert_eq!(out.len(), READINGS_SENT as usize);
    let twice: Vec<_> = out.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.len() <= READINGS_SENT as usize / 20, "{} came twice: {twice:?}", twice.len());
    // Of each machine one reading in a day of event time, also when midnight passes.
    until("readings have come through the throttle", PATIENCE, async || {
        one.lock().unwrap().len() >= 4
    })
    .await;
    let one = one.lock().unwrap().clone();
    assert!((4..=8).contains(&one.len()), "{one:?}");
    plant.stop().await;
}
