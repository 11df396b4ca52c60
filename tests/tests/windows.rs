//! A step with windows on a lattice: what it counted is exact, whatever is killed.
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
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// Sums of a hundred readings of each machine.
const SUMS: &str = r#"
millrace: v1alpha1
pipeline: sums
version: 0.1.0
sources: [machine]
steps:
  sum:
    accumulate: aggregate
    from: { name: machine, durable: { partitions: 3 } }
    window: { count: 100 }
    config: { value: seq, functions: "count,sum,first,last" }
sinks:
  sums: { from: sum }
binding:
  sources:
    machine:
      mqtt: { url: "{url}", topic: plant/+/temperature, qos: 1 }
      delivery: { in-flight: 1 }
  sinks:
    sums: { mqtt: { url: "{url}", topic: plant/sums, qos: 1 } }
  components:
    aggregate: { file: "{components}/aggregate.wasm" }
"#;

/// Sessions, which only the clock ends here.
const SESSIONS: &str = r#"
millrace: v1alpha1
pipeline: sessions
version: 0.1.0
sources: [machine]
steps:
  sum:
    accumulate: aggregate
    from: machine
    window: { session: 1s, idle: 2s }
    config: { value: seq, functions: "count,sum" }
sinks:
  sums: { from: sum }
  late: { from: sum.late }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/+/temperature, qos: 1 } }
  sinks:
    sums: { mqtt: { url: "{url}", topic: plant/sums, qos: 1 } }
    late: { mqtt: { url: "{url}", topic: plant/late, qos: 1 } }
  components:
    aggregate: { file: "{components}/aggregate.wasm" }
"#;

/// The results that came to `plant/sums`; one that came twice once.
async fn results(plant: &Plant) -> Arc<Mutex<BTreeMap<String, Value>>> {
    let results = Arc::new(Mutex::new(BTreeMap::new()));
    let taken = results.clone();
    subscribe(plant.mqtt("sums"), "plant/sums", move |payload| {
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        taken.lock().unwrap().insert(text, value);
    })
    .await;
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reading_is_in_one_window_although_the_conduit_is_killed() {
    const MACHINES: u64 = 6;
    let plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("sums.yaml", SUMS)).await;
    let results = results(&plant).await;
    let mut machine = Machine::connect(&plant);
    for n in 0..3000 {
        let topic = format!("plant/m{}/temperature", n % MACHINES);
        machine.publish(&topic, format!("{{\"seq\":{n}}}")).await;
        if n % 900 == 600 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            plant.kill_running_provider("conduit").await;
        }
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    machine.acknowledged().await;
    until("every window has ended", PATIENCE, async || results.lock().unwrap().len() >= 30).await;
    let results: Vec<Value> = results.lock().unwrap().values().cloned().collect();
    assert_eq!(results.len(), 30, "{results:#?}");
    // Each window has a hundred readings of its machine in a row, so none twice and none left out.
    for result in &results {
        let (first, last) = (result["first"].as_f64().unwrap(), result["last"].as_f64().unwrap());
        assert_eq!(result["count"], 100, "{result}");
        assert_eq!(last - first, 99.0 * MACHINES as f64, "{result}");
        assert_eq!(result["sum"].as_f64().unwrap(), 50.0 * (first + last), "{result}");
    }
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_ends_the_windows_of_machines_that_fall_silent() {
    let plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("sessions.yaml", SESSIONS)).await;
    let results = results(&plant).await;
    let mut machine = Machine::connect(&plant);
    for n in 0..10 {
        machine.publish("plant/m1/temperature", format!("{{\"seq\":{n}}}")).await;
    }
    machine.acknowledged().await;
    until("the session has ended", PATIENCE, async || !results.lock().unwrap().is_empty()).await;
    let results: Vec<Value> = results.lock().unwrap().values().cloned().collect();
    assert_eq!(results[0]["count"], 10, "{results:?}");
    assert_eq!(results[0]["sum"].as_f64(), Some(45.0), "{results:?}");
    plant.stop().await;
}

/// Readings of six machines in turn, with these numbers.
async fn readings(machine: &mut Machine, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let topic = format!("plant/m{}/temperature", n % 6);
        machine.publish(&topic, format!("{{\"seq\":{n}}}")).await;
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    machine.acknowledged().await;
}

/// Waits for so many windows, each of which has a hundred readings of its machine in a row: none twice, none left out.
async fn whole(results: &Mutex<BTreeMap<String, Value>>, windows: usize) -> Vec<Value> {
    until("every window has ended", PATIENCE, async || results.lock().unwrap().len() >= windows)
        .await;
    let results: Vec<Value> = results.lock().unwrap().values().cloned().collect();
    assert_eq!(results.len(), windows, "{results:#?}");
    for result in &results {
        let (first, last) = (result["first"].as_f64().unwrap(), result["last"].as_f64().unwrap());
        assert_eq!(result["count"], 100, "{result}");
        assert_eq!(last - first, 99.0 * 6.0, "{result}");
        assert_eq!(result["sum"].as_f64().unwrap(), 50.0 * (first + last), "{result}");
    }
    results
}

/// Host, providers and wadm, at moments when each machine has a window of about half of its readings.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_whole_although_the_host_is_killed_while_they_are_open() {
    let mut plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("sums.yaml", SUMS)).await;
    let results = results(&plant).await;
    let mut machine = Machine::connect(&plant);
    for numbers in [0..300, 300..900, 900..1500] {
        readings(&mut machine, numbers).await;
        plant.kill_host().await;
        plant.start_host().await;
    }
    readings(&mut machine, 1500..1800).await;
    whole(&results, 18).await;
    plant.stop().await;
}

/// The server that has both the edge and the states.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_whole_although_the_store_of_the_states_is_away_while_they_are_open() {
    let mut plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("sums.yaml", SUMS)).await;
    let results = results(&plant).await;
    let mut machine = Machine::connect(&plant);
    readings(&mut machine, 0..300).await;
    for begin in [300, 900] {
        plant.nats.kill().unwrap();
        readings(&mut machine, begin..begin + 300).await;
        plant.nats.restart().unwrap();
        readings(&mut machine, begin + 300..begin + 600).await;
    }
    readings(&mut machine, 1500..1800).await;
    whole(&results, 18).await;
    plant.stop().await;
}

/// What was in the open windows is gone with it. What comes afterwards is in new ones, which are whole.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_states_were_deleted_by_hand_windows_begin_anew_and_are_whole() {
    let plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("sums.yaml", SUMS)).await;
    let results = results(&plant).await;
    let mut machine = Machine::connect(&plant);
    readings(&mut machine, 0..300).await;
    let jetstream = async_nats::jetstream::new(plant.nats_client().await);
    until("all readings are in their windows", PATIENCE, async || {
        let edge = jetstream.get_stream("MILLRACE_test_sums_machine_sum").await.unwrap();
        let state = &edge.cached_info().state;
        state.last_sequence > 0 && state.messages == 0
    })
    .await;
    // The source may still have had some in hand.
    tokio::time::sleep(Duration::from_secs(1)).await;
    jetstream.delete_key_value("MILLRACE_test_sums_state").await.unwrap();
    readings(&mut machine, 300..900).await;
    let results = whole(&results, 6).await;
    let firsts: Vec<u64> = results.iter().map(|r| r["first"].as_f64().unwrap() as u64).collect();
    assert!(firsts.iter().all(|first| (300..306).contains(first)), "{firsts:?}");
    plant.stop().await;
}
