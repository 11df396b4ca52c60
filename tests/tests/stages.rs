//! A stage of as many steps as there can be, and one that ends with a branch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_tests::{Machine, Plant, hot};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two arms end in one sink, and one arm in two sinks.
const SORTED: &str = r#"
millrace: v1alpha1
pipeline: sorted
version: 0.1.0
sources: [machine]
steps:
  celsius: { map: fahrenheit-to-celsius, from: machine, config: { field: fahrenheit } }
  sort:
    branch: by-range
    arms: [low, normal, high]
    from: celsius
    config: { field: celsius, low: 10, high: 85 }
sinks:
  alarm: { from: sort.high }
  rest: { from: [sort.low, sort.normal] }
  history: { from: [sort.low, sort.normal, { name: sort.high, durable: { partitions: 2 } }] }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/+/temperature, qos: 1 } }
  sinks:
    alarm: { mqtt: { url: "{url}", topic: sorted/alarm, qos: 1 } }
    rest: { mqtt: { url: "{url}", topic: sorted/rest, qos: 1 } }
    history: { mqtt: { url: "{url}", topic: sorted/history, qos: 1 } }
  components:
    fahrenheit-to-celsius: { file: "{components}/fahrenheit-to-celsius.wasm" }
    by-range: { file: "{components}/by-range.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_arm_gets_its_messages_also_when_the_conduit_is_killed() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("sorted.yaml", SORTED)).await;
    let alarm = plant.collect("sorted/alarm").await;
    let rest = plant.collect("sorted/rest").await;
    let history = plant.collect("sorted/history").await;
    let mut machine = Machine::connect(&plant);
    machine.readings(0..500, 500).await;
    plant.kill_provider("conduit");
    machine.readings(500..1_000, 500).await;
    machine.acknowledged().await;

    let all: BTreeSet<u64> = (0..1_000).collect();
    history.wait_for(&all, PATIENCE).await;
    alarm.wait_for(&hot(0..1_000), PATIENCE).await;
    let cold: BTreeSet<u64> = all.difference(&hot(0..1_000)).copied().collect();
    rest.wait_for(&cold, PATIENCE).await;
    // None has taken the way of another.
    assert_eq!((alarm.seqs(), rest.seqs()), (hot(0..1_000), cold));

    // An arm that the definition does not have is no way out: the step is wrong, and the message is kept.
    let fewer = SORTED
        .replace("version: 0.1.0", "version: 0.2.0")
        .replace("[low, normal, high]", "[normal, high]")
        .replace("sort.low, ", "");
    // Nobody watches it: it is to make dead letters.
    plant.deploy_unwatched(&plant.define("fewer.yaml", &fewer)).await;
    let letters = plant.dead_letters("sorted").await;
    machine.readings(1_000..1_020, 500).await;
    alarm.wait_for(&hot(0..1_020), PATIENCE).await;
    let letter = letters.wait_for("celsius", PATIENCE).await;
    assert_eq!(letter["millrace-dead-kind"], "internal");
    let text = "the step has no arm `low`; its arms are normal, high";
    assert_eq!(letter["millrace-dead-text"], text);

    // Once the definition has it again, they are given to it anew.
    let again = SORTED.replace("version: 0.1.0", "version: 0.3.0");
    plant.deploy_unwatched(&plant.define("again.yaml", &again)).await;
    let replayed = plant.millrace(&["dead", "replay", "sorted", "--yes"]).await;
    assert_eq!(replayed.code, 0, "{replayed:?}");
    history.wait_for(&(0..1_020).collect(), PATIENCE).await;
    plant.stop().await;
}

/// Eight steps are one artifact, which the host has to take; the ninth is a stage of its own.
#[tokio::test(flavor = "multi_thread")]
async fn nine_steps_run_in_two_stages() {
    let steps = (2..=9).map(|n| format!("  s{n}: {{ map: pass-map, from: s{} }}\n", n - 1));
    let text = SORTED
        .split_once("steps:")
        .map(|(head, _)| head.replace("pipeline: sorted", "pipeline: long"))
        .unwrap()
        + "steps:\n  s1: { map: pass-map, from: machine }\n"
        + &steps.collect::<String>()
        + r#"sinks: { out: { from: s9 } }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/+/temperature, qos: 1 } }
  sinks:
    out: { mqtt: { url: "{url}", topic: long/out, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;
    let plant = Plant::start().await;
    let status = plant.deploy(&plant.define("long.yaml", &text)).await;
    assert_eq!(status["stages"].as_array().map(Vec::len), Some(2), "{status}");
    let out = plant.collect("long/out").await;
    let mut machine = Machine::connect(&plant);
    machine.readings(0..200, 500).await;
    machine.acknowledged().await;
    out.wait_for(&(0..200).collect(), PATIENCE).await;
    plant.stop().await;
}
