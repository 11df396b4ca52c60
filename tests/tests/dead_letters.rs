//! Dead letters: found, given to a mended step, deleted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_platform::find;
use millrace_tests::{LATTICE, Plant};
use serde_json::Value;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);

/// Two steps in one stage between durable edges. The first changes every message, the second fails as the message says.
const PLANT: &str = r#"
millrace: v1alpha1
pipeline: plant
version: 0.1.0
sources: [machine]
steps:
  pass: { map: pass-map, from: machine }
  celsius: { map: fahrenheit-to-celsius, from: { name: pass, durable: true } }
  check: { map: misbehaves, from: celsius }
sinks:
  results: { from: { name: check, durable: true } }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/in, qos: 1 } }
  sinks:
    results: { mqtt: { url: "{url}", topic: plant/results, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
    fahrenheit-to-celsius: { file: "{components}/fahrenheit-to-celsius.wasm" }
    misbehaves: { file: "{components}/misbehaves.wasm" }
"#;

/// The same with a second step that takes everything.
fn mended() -> String {
    PLANT
        .replace("version: 0.1.0", "version: 0.2.0")
        .replace("check: { map: misbehaves", "check: { map: pass-map")
}

/// The mended one beside it.
fn shadow() -> String {
    mended()
        .replace("pipeline: plant", "pipeline: shadow")
        .replace("plant/in", "shadow/in")
        .replace("plant/results", "shadow/results")
}

/// Deploys the mended one, which need not prove itself.
async fn mend(plant: &Plant) {
    plant.deploy_unwatched(&plant.define("plant.yaml", &mended())).await;
}

const EDGE: &str = "millrace.test.plant.edge";

fn topic(seq: u64) -> String {
    format!("hall-{}/press", seq % 2)
}

fn key(seq: u64) -> String {
    format!("press-{seq}")
}

/// Puts messages onto the edge before the stage, with everything that a message can have: some to a batch.
async fn feed(nats: &async_nats::Client, messages: &[(u64, &str)], batch: usize) {
    let js = async_nats::jetstream::new(nats.clone());
    for (number, messages) in messages.chunks(batch).enumerate() {
        let id = format!("fed-{number}");
        let mut writer = BatchWriter::new([("id", id.as_str())]).unwrap();
        for (seq, what) in messages {
            let payload = format!("{{\"seq\":{seq},\"fahrenheit\":212.0,\"what\":\"{what}\"}}");
            let key = key(*seq);
            let fields = Fields {
                timestamp: 1_000 + seq,
                topic: &topic(*seq),
                content_type: Some("application/json"),
                key: Some(key.as_bytes()),
                payload: payload.as_bytes(),
            };
            writer.push(&fields, [("unit", "F"), ("unit", "again")]).unwrap();
        }
        let body = writer.finish();
        js.publish(format!("{EDGE}.pass.celsius"), body.into()).await.unwrap().await.unwrap();
    }
}

/// The record of a message when it has left the stage.
fn came_through(seq: u64, what: &str) -> Vec<u8> {
    let payload = format!("{{\"seq\":{seq},\"celsius\":100.0,\"what\":\"{what}\"}}");
    let mut writer = BatchWriter::new([]).unwrap();
    let key = key(seq);
    let fields = Fields {
        timestamp: 1_000 + seq,
        topic: &topic(seq),
        content_type: Some("application/json"),
        key: Some(key.as_bytes()),
        payload: payload.as_bytes(),
    };
    writer.push(&fields, [("unit", "F"), ("unit", "again")]).unwrap();
    let bytes = writer.finish();
    Batch::parse(&bytes).unwrap().messages().next().unwrap().record().to_vec()
}

type Tapped = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What the stage publishes from now on: the batch's id, and each record.
async fn tap(nats: &async_nats::Client) -> Tapped {
    let mut bodies = nats.subscribe(format!("{EDGE}.check.results")).await.unwrap();
    nats.flush().await.unwrap();
    let tapped = Tapped::default();
    let own = Arc::clone(&tapped);
    tokio::spawn(async move {
        while let Some(body) = bodies.next().await {
            let batch = Batch::parse(&body.payload).unwrap();
            assert_eq!(batch.header("enter"), None, "where to begin is for one stage only");
            let id = batch.header("id").unwrap_or_default();
            for message in batch.messages() {
                own.lock().unwrap().push((id.to_owned(), message.record().to_vec()));
            }
        }
    });
    tapped
}

async fn letters(plant: &Plant, filter: &[&str]) -> Vec<Value> {
    let answer = plant.millrace(&[&["dead", "list", "plant"], filter].concat()).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    answer.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until there are so many letters.
async fn wait_for_letters(plant: &Plant, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let found = letters(plant, &[]).await;
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:?}");
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{} of {count} letters: {found:?}", found.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Number of the message of each letter.
async fn numbers(plant: &Plant, filter: &[&str]) -> Vec<u64> {
    let answer = plant.millrace(&[&["dead", "show", "plant"], filter].concat()).await;
    let number = |line: &str| {
        let letter: Value = serde_json::from_str(line).unwrap();
        let payload: Value = serde_json::from_str(letter["payload"].as_str().unwrap()).unwrap();
        payload["seq"].as_u64().unwrap()
    };
    let mut numbers: Vec<u64> = answer.stdout.lines().map(number).collect();
    assert_eq!(answer.code, i32::from(numbers.is_empty()), "{answer:?}");
    numbers.sort_unstable();
    numbers
}

async fn replay(plant: &Plant, arguments: &[&str]) -> (i32, Value) {
    let answer = plant.millrace(&[&["dead", "replay", "plant"], arguments].concat()).await;
    assert!(!answer.stdout.is_empty(), "{answer:?}\n{}", plant.log());
    (answer.code, answer.json())
}

fn came_to(summary: &Value) -> [u64; 4] {
    ["matched", "replayed", "came_back", "left"].map(|key| summary[key].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_brings_exactly_the_letters_that_were_meant_through_the_mended_step() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("plant.yaml", PLANT)).await;
    let nats = plant.nats_client().await;
    let results = plant.collect("plant/results").await;
    let what = |seq| match seq {
        3 | 4 | 13 | 14 => "invalid",
        5 | 15 => "internal",
        17 => "trap",
        _ => "fine",
    };
    let messages: Vec<(u64, &str)> = (0..20).map(|seq| (seq, what(seq))).collect();
    feed(&nats, &messages, 10).await;
    let fine: BTreeSet<u64> = (0..20).filter(|seq| what(*seq) == "fine").collect();
    results.wait_for(&fine, PATIENCE).await;

    // Found by each of their properties.
    let all = wait_for_letters(&plant, 7).await;
    let trapped = all.iter().find(|letter| letter["kind"] == "trap").unwrap();
    assert_eq!((&trapped["stage"], &trapped["step"]), (&"celsius".into(), &Value::Null));
    let refused = all.iter().find(|letter| letter["kind"] == "internal").unwrap();
    assert_eq!((&refused["stage"], &refused["step"]), (&"celsius".into(), &"check".into()));
    assert!(refused["text"].as_str().unwrap().contains("told so by"), "{refused}");
    assert_eq!(numbers(&plant, &["--kind", "internal,trap"]).await, [5, 15, 17]);
    assert_eq!(numbers(&plant, &["--step", "check", "--topic", "hall-0/*"]).await, [4, 14]);
    assert_eq!(numbers(&plant, &["--key", "press-5"]).await, [5]);
    assert_eq!(numbers(&plant, &["--text", "\"seq\":13,"]).await, [13]);
    assert_eq!(numbers(&plant, &["--since", "1h", "--limit", "3"]).await.len(), 3);
    assert_eq!(numbers(&plant, &["--until", "1h"]).await, [] as [u64; 0]);
    assert_eq!(numbers(&plant, &["--stage", "pass"]).await, [] as [u64; 0]);
    let seq = trapped["seq"].to_string();
    assert_eq!(numbers(&plant, &["--seq", &format!("{seq}..{seq}")]).await, [17]);
    let counts = plant.millrace(&["dead", "list", "plant", "--summary"]).await.json();
    let of = |kind: &str| {
        counts.as_array().unwrap().iter().find(|c| c["kind"] == kind).unwrap()["letters"].clone()
    };
    assert_eq!([of("invalid-argument"), of("internal"), of("trap")], [4, 2, 1].map(Value::from));

    // To the step as it was: what it refuses is a letter again, and what traps it stays.
    let (code, summary) = replay(&plant, &["--kind", "internal,trap"]).await;
    assert_eq!((code, came_to(&summary)), (4, [3, 2, 2, 1]), "{summary}");
    assert_eq!(summary["reasons"]["trap"], 1, "{summary}");
    wait_for_letters(&plant, 7).await;
    for letter in letters(&plant, &["--kind", "internal"]).await {
        let before = all.iter().find(|before| before["key"] == letter["key"]).unwrap();
        let attempt = |letter: &Value| letter["attempt"].as_u64().unwrap();
        assert_eq!(attempt(&letter), attempt(before) + 1, "{letter} {before}");
    }

    mend(&plant).await;
    let tapped = tap(&nats).await;
    let planned =
        plant.millrace(&["dead", "replay", "plant", "--kind", "internal", "--dry-run"]).await;
    assert_eq!(planned.code, 0, "{planned:?}");
    for line in planned.stdout.lines() {
        let letter: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&letter["to_stage"], &letter["to_step"]), (&"celsius".into(), &"check".into()));
    }

    // Batches of which a part is meant; the messages enter at their step.
    let (code, summary) = replay(&plant, &["--kind", "invalid-argument"]).await;
    assert_eq!((code, came_to(&summary)), (0, [4, 4, 0, 0]), "{summary}");
    let expected: BTreeSet<u64> = fine.iter().copied().chain([3, 4, 13, 14]).collect();
    results.wait_for(&expected, PATIENCE).await;
    let mut records: Vec<Vec<u8>> =
        tapped.lock().unwrap().iter().map(|(_, record)| record.clone()).collect();
    let mut sent = [3, 4, 13, 14].map(|seq| came_through(seq, "invalid"));
    // What was left of a batch of letters has gone behind the others.
    records.sort();
    sent.sort();
    assert_eq!(records, sent);
    assert_eq!(numbers(&plant, &[]).await, [5, 15, 17]);
    let (code, summary) = replay(&plant, &["--kind", "invalid-argument"]).await;
    assert_eq!((code, came_to(&summary)), (0, [0, 0, 0, 0]), "{summary}");

    // What had trapped begins at the stage's beginning.
    let (code, summary) = replay(&plant, &["--kind", "trap"]).await;
    assert_eq!((code, came_to(&summary)), (0, [1, 1, 0, 0]), "{summary}");
    let expected: BTreeSet<u64> = expected.into_iter().chain([17]).collect();
    results.wait_for(&expected, PATIENCE).await;
    assert_eq!(tapped.lock().unwrap().last().unwrap().1, came_through(17, "trap"));

    // The others are deleted, and nothing else came to the sink, or twice.
    let unasked = plant.millrace(&["dead", "drop", "plant"]).await;
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    let dry = plant.millrace(&["dead", "drop", "plant", "--dry-run"]).await;
    assert_eq!((dry.code, dry.stdout.lines().count()), (0, 2), "{dry:?}");
    let dropped = plant.millrace(&["dead", "drop", "plant", "--text", "\"seq\":5,", "--yes"]).await;
    assert_eq!(dropped.json()["dropped"], 1, "{dropped:?}");
    assert_eq!(numbers(&plant, &[]).await, [15]);
    assert_eq!(plant.millrace(&["dead", "drop", "plant", "--yes"]).await.json()["dropped"], 1);
    assert_eq!(numbers(&plant, &[]).await, [] as [u64; 0]);
    assert_eq!(results.seqs(), expected);
    assert_eq!(results.duplicates(), 0);
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_in_another_pipeline_keeps_the_letters() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("plant.yaml", PLANT)).await;
    plant.deploy(&plant.define("shadow.yaml", &shadow())).await;
    let nats = plant.nats_client().await;
    let (real, tried) =
        (plant.collect("plant/results").await, plant.collect("shadow/results").await);
    feed(&nats, &[(1, "internal"), (2, "fine"), (3, "internal")], 3).await;
    wait_for_letters(&plant, 2).await;
    // A try is a new message each time: the shadow's edge must not take the second for a repeat of the first.
    for _ in 0..2 {
        let (code, summary) = replay(&plant, &["--into", "shadow", "--yes"]).await;
        assert_eq!((code, came_to(&summary)), (0, [2, 2, 0, 0]), "{summary}");
    }
    let start = Instant::now();
    while tried.duplicates() < 2 {
        assert!(start.elapsed() < PATIENCE, "{tried:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tried.seqs(), BTreeSet::from([1, 3]));
    assert_eq!(real.seqs(), BTreeSet::from([2]));
    assert_eq!(numbers(&plant, &[]).await, [1, 3]);

    let wrong =
        plant.millrace(&["dead", "replay", "plant", "--into", "shadow/none", "--yes"]).await;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.contains("it has pass, celsius, to-results"), "{wrong:?}");
    let unknown = plant.millrace(&["dead", "list", "plnat"]).await;
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("no pipeline `plnat`"), "{unknown:?}");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_and_repeated_loses_nothing_and_sends_nothing_twice() {
    const LETTERS: u64 = 400;
    let plant = Plant::start().await;
    plant.deploy(&plant.define("plant.yaml", PLANT)).await;
    let nats = plant.nats_client().await;
    let results = plant.collect("plant/results").await;
    let messages: Vec<(u64, &str)> = (0..LETTERS).map(|seq| (seq, "invalid")).collect();
    feed(&nats, &messages, 3).await;
    wait_for_letters(&plant, LETTERS as usize).await;
    mend(&plant).await;
    let tapped = tap(&nats).await;

    let begun = |tapped: &Tapped| tapped.lock().unwrap().len();
    for _ in 0..5 {
        let before = begun(&tapped);
        let mut command = Command::new(find::home().join("bin/millrace"))
            .args(["dead", "replay", "plant", "--yes", "--json"])
            .env("MILLRACE_NATS_URL", plant.nats_url())
            .env("MILLRACE_LATTICE", LATTICE)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while begun(&tapped) < before + 20 {
            assert!(start.elapsed() < PATIENCE, "the replay does not begin\n{}", plant.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        command.kill().await.unwrap();
    }
    let killed = begun(&tapped);
    assert!(killed < LETTERS as usize, "it was killed in mid-way: {killed}");
    let (code, summary) = replay(&plant, &["--yes"]).await;
    assert_eq!(code, 0, "{summary}");
    assert!(summary["matched"].as_u64().unwrap() < LETTERS, "{summary}");

    results.wait_for(&(0..LETTERS).collect(), PATIENCE).await;
    assert_eq!(results.duplicates(), 0);
    assert_eq!(numbers(&plant, &[]).await, [] as [u64; 0]);
    // A letter of a batch that was not finished was given once more, under the same id.
    let mut ids: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
    let mut repeated = 0;
    for (id, record) in tapped.lock().unwrap().iter() {
        let known = ids.entry(record.clone()).or_default();
        repeated += usize::from(!known.insert(id.clone()));
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    println!("{LETTERS} letters, {repeated} given twice and dropped by the edge");
    plant.stop().await;
}
