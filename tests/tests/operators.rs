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

use millrace_peers::WebServer;
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

/// Readings of machines, named and limited by what buckets have; and a step that asks for more than it was granted.
const NAMED: &str = r#"
millrace: v1alpha1
pipeline: named
version: 0.1.0
sources: [machine, tries]
steps:
  named: { enrich: { bucket: machines, by: topic, into: headers.name }, from: machine }
  hot: { filter: above-own-limit, from: named, grants: ["kv:read:limits"] }
  ask: { map: reaches-out, from: tries, grants: ["kv:notes", "http:get:{host}"] }
sinks:
  out: { from: hot }
  answers: { from: ask }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/+, qos: 1 } }
    tries: { mqtt: { url: "{url}", topic: tries, qos: 1 } }
  sinks:
    out: { mqtt: { url: "{url}", topic: out/named, qos: 1 } }
    answers: { mqtt: { url: "{url}", topic: out/answers, qos: 1 } }
  components:
    above-own-limit: { file: "{components}/above-own-limit.wasm" }
    reaches-out: { file: "{components}/reaches-out.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn steps_use_what_they_are_granted_and_no_more() {
    let plant = Plant::start().await;
    let kv = async |arguments: &[&str]| {
        let answer = plant.millrace(&[&["kv"], arguments].concat()).await;
        assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.stderr);
        if answer.stdout.is_empty() { serde_json::Value::Null } else { answer.json() }
    };
    let file = plant.folder().join("limits.json");
    std::fs::write(&file, r#"{ "plant/a": 10, "plant/b": 20, "plant/c": 30 }"#).unwrap();
    kv(&["load", "limits", file.to_str().unwrap()]).await;
    for machine in ["a", "b", "c"] {
        kv(&["set", "machines", &format!("plant/{machine}"), &format!("press {machine}")]).await;
    }
    assert_eq!(kv(&["list"]).await, serde_json::json!(["limits", "machines"]));
    assert_eq!(kv(&["get", "limits", "plant/b"]).await["value"], "20");

    let web = WebServer::start(plant.folder()).unwrap();
    let text = NAMED.replace("{host}", &web.host());
    plant.deploy_unwatched(&plant.define("named.yaml", &text)).await;
    let (out, answers) = (counted(&plant, "out/named").await, counted(&plant, "out/answers").await);
    let letters = plant.dead_letters("named").await;
    let mut machine = Machine::connect(&plant);
    for (place, value) in [("a", 11), ("b", 11), ("c", 31), ("d", 99)] {
        machine.publish(&format!("plant/{place}"), value.to_string()).await;
    }
    let url = format!("http://{}/limits.json", web.host());
    for what in [
        "set notes one 1",
        "get notes one",
        &format!("http get {url}"),
        // Not granted.
        "get limits plant/a",
        "set limits plant/a 1000",
        &format!("http post {url}"),
        "http get http://127.0.0.1:1/",
    ] {
        machine.publish("tries", what.to_owned()).await;
    }
    machine.acknowledged().await;
    until("what was granted has been done", PATIENCE, async || {
        out.lock().unwrap().len() == 2 && answers.lock().unwrap().values().sum::<u32>() >= 3
    })
    .await;
    assert_eq!(out.lock().unwrap().keys().collect::<Vec<_>>(), ["11", "31"]);
    let come = answers;
    let answers = come.lock().unwrap().clone();
    assert!(answers.contains_key("done") && answers.contains_key("1"), "{answers:?}");
    assert!(
        answers.keys().any(|a| a.starts_with("200 ") && a.contains("\"plant/c\"")),
        "{answers:?}"
    );

    // What was not is a dead letter that says what the grant would be, and nothing came of it.
    for says in [
        "the bucket has nothing for `plant/d`",
        "the grant would be `kv:read:limits`",
        "the grant would be `kv:limits`",
        "the grant would be `http:post:",
        "the grant would be `http:get:127.0.0.1:1`",
    ] {
        let is = |headers: &BTreeMap<String, String>| headers["millrace-dead-text"].contains(says);
        until(says, PATIENCE, async || letters.all().iter().any(|(_, headers)| is(headers))).await;
    }
    assert_eq!(kv(&["get", "limits", "plant/a"]).await["value"], "10");

    // It is counted by step.
    let status = plant.millrace(&["pipeline", "status", "named"]).await.json();
    let uses = |step: &str| {
        let links =
            status["links"].as_array().unwrap().iter().flat_map(|p| p["links"].as_array().unwrap());
        links
            .map(|link| link["counters"]["uses"][step].clone())
            .find(|uses| !uses.is_null())
            .unwrap()
    };
    assert_eq!(uses("ask")["refused"], 4, "{status}");
    assert!(uses("ask")["done"].as_u64() >= Some(2) && uses("hot")["refused"] == 0, "{status}");

    // Another limit holds from the next message on; nothing is deployed for it.
    kv(&["set", "limits", "plant/b", "5"]).await;
    machine.publish("plant/b", "12".to_owned()).await;
    until("the new limit holds", PATIENCE, async || out.lock().unwrap().contains_key("12")).await;

    // A server that is away is waited for, longer than a step's own `retry` would be.
    let (port, dead) = (web.port(), letters.all().len());
    drop(web);
    machine.publish("tries", format!("http get {url}?waited")).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(letters.all().len(), dead, "{:?}", letters.all().last());
    let _web = WebServer::start_on(plant.folder(), port).unwrap();
    let fetched = |answers: &BTreeMap<String, u32>| -> u32 {
        answers.iter().filter(|(text, _)| text.starts_with("200 ")).map(|(_, times)| times).sum()
    };
    until("it was waited for", PATIENCE, async || fetched(&come.lock().unwrap()) == 2).await;

    plant.stop().await;
}

/// Two steps before one sink that publishes where the message says, and one before another.
const PLACED: &str = r#"
millrace: v1alpha1
pipeline: placed
version: 0.1.0
sources: [left, right]
steps:
  held: { map: pass-map, from: left, grants: ["mqtt:publish:out/plant/left/ok", "mqtt:publish:alone/#"] }
  free: { map: pass-map, from: right }
sinks:
  out: { from: [{ name: held, durable: true }, { name: free, durable: true }] }
  alone: { from: held }
binding:
  sources:
    left: { mqtt: { url: "{url}", topic: plant/left/+, qos: 1 } }
    right: { mqtt: { url: "{url}", topic: plant/right/+, qos: 1 } }
  sinks:
    out: { mqtt: { url: "{url}", topic: "out/{topic}", qos: 1 } }
    alone: { mqtt: { url: "{url}", topic: "alone/{topic}", qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_writes_for_a_step_only_what_it_is_granted() {
    let plant = Plant::start().await;
    plant.deploy_unwatched(&plant.define("placed.yaml", PLACED)).await;
    let (out, alone) = (counted(&plant, "out/#").await, counted(&plant, "alone/#").await);
    let letters = plant.dead_letters("placed").await;
    let mut machine = Machine::connect(&plant);
    for (topic, payload) in [
        ("plant/left/ok", "1"),
        ("plant/left/not", "2"),
        ("plant/right/ok", "3"),
        ("plant/right/not", "4"),
    ] {
        machine.publish(topic, payload.to_owned()).await;
    }
    machine.acknowledged().await;
    // The step that was granted nothing of MQTT is held to the sink's settings, and its neighbour is no way out for the other.
    until("what is granted has come", PATIENCE, async || {
        out.lock().unwrap().len() == 3 && alone.lock().unwrap().len() == 2
    })
    .await;
    assert_eq!(out.lock().unwrap().keys().collect::<Vec<_>>(), ["1", "3", "4"]);
    let letter = letters.wait_for("2", PATIENCE).await;
    assert_eq!(letter["millrace-dead-kind"], "refused");
    assert_eq!(
        letter["millrace-dead-text"],
        "the step held is not granted topic \"out/plant/left/not\""
    );
    let status = plant.millrace(&["pipeline", "status", "placed"]).await.json();
    let links =
        status["links"].as_array().unwrap().iter().flat_map(|p| p["links"].as_array().unwrap());
    let refused: Vec<(&str, u64)> = links
        .filter_map(|link| {
            Some((link["name"].as_str()?, link["counters"]["uses"]["held"]["refused"].as_u64()?))
        })
        .collect();
    assert_eq!(refused, [("alone", 0), ("out", 1)], "{status}");
    plant.stop().await;
}
