//! Hostile components beside a pipeline of somebody else: they get nothing, and cost it little.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_tests::neighbour::{Far, NEIGHBOUR};
use millrace_tests::{Machine, Plant, subscribe, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// How much later a message of the neighbour may come out, in its 99th percentile, while calls beside it spin, trap and take all
/// the memory they get.
const BOUND: Duration = Duration::from_millis(250);

/// One that fails as it is told, and one that is a stage itself and tries to get out.
const HOSTILE: &str = r#"
millrace: v1alpha1
pipeline: hostile
version: 0.1.0
sources: [wild, sly]
steps:
  misbehave: { map: misbehaves, from: { name: wild, durable: true }, memory: 8MiB }
  escape: { monolithic: breaks-out, from: { name: sly, durable: true }, memory: 8MiB, config: { own: "1" } }
sinks:
  done: { from: misbehave }
  tried: { from: { name: escape, durable: true } }
binding:
  sources:
    wild: { mqtt: { url: "{url}", topic: plant/wild, qos: 1 } }
    sly: { mqtt: { url: "{url}", topic: plant/sly, qos: 1 }, delivery: { batch-messages: 1 } }
  sinks:
    done: { mqtt: { url: "{url}", topic: plant/done, qos: 1 } }
    tried: { mqtt: { url: "{url}", topic: plant/tried, qos: 1 } }
  components:
    misbehaves: { file: "{components}/misbehaves.wasm" }
    breaks-out: { file: "{components}/breaks-out.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_neighbour_costs_little_and_gets_nothing() {
    let plant = Plant::start_with(&["--max-call-seconds=3"]).await;
    assert_eq!(plant.millrace(&["kv", "set", "secrets", "recipe", "stolen"]).await.code, 0);
    plant.deploy_unwatched(&plant.define("neighbour.yaml", NEIGHBOUR)).await;
    plant.deploy_unwatched(&plant.define("hostile.yaml", HOSTILE)).await;
    let far = Far::subscribe(plant.mqtt("far")).await;
    let tried = Arc::new(Mutex::new(Vec::new()));
    let own = tried.clone();
    subscribe(plant.mqtt("tried"), "plant/tried", move |payload| {
        own.lock().unwrap().push(String::from_utf8_lossy(payload).into_owned());
    })
    .await;
    let letters = plant.dead_letters("hostile").await;
    let mut machine = Machine::connect(&plant);

    far.latency(&mut machine, 0..200).await;
    let (quiet_middle, quiet) = far.latency(&mut machine, 1_000..1_800).await;

    let attempts = ["subjects", "request", "identity", "config", "giant", "malformed", "deep"];
    for attempt in attempts {
        machine.publish("plant/sly", attempt.to_owned()).await;
    }
    let wild: Vec<String> = ["spin", "grow", "trap", "huge", "long-topic", "spin"]
        .iter()
        .cycle()
        .take(48)
        .enumerate()
        .map(|(n, what)| format!("{what} #{n}."))
        .collect();
    let mut other = Machine::connect_as(&plant, "wild");
    let storm = async {
        for message in &wild {
            other.publish("plant/wild", message.clone()).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        other.acknowledged().await;
    };
    let ((noisy_middle, noisy), ()) = tokio::join!(far.latency(&mut machine, 2_000..3_500), storm);
    println!(
        "the neighbour's messages took {quiet_middle:.0?} in the middle and {quiet:.0?} in the 99th percentile; \
         beside hostile ones {noisy_middle:.0?} and {noisy:.0?}"
    );
    assert!(noisy <= quiet + BOUND, "{noisy:?} beside hostile calls, {quiet:?} without");

    // Each wild message is kept as a dead letter that says what it did.
    for message in &wild {
        let headers = letters.wait_for(message, PATIENCE).await;
        assert_eq!(headers["millrace-dead-stage"], "misbehave", "{message}: {headers:?}");
    }
    // What kills its call is alone among the dead letters; the others have said what came of them.
    for attempt in ["malformed", "deep"] {
        let headers = letters.wait_for(attempt, PATIENCE).await;
        assert_eq!(headers["millrace-dead-kind"], "trap", "{attempt}: {headers:?}");
    }
    let said = |attempt: &str| {
        let tried = tried.lock().unwrap();
        tried.iter().find(|text| text.starts_with(attempt)).cloned()
    };
    for attempt in &attempts[..5] {
        until(attempt, PATIENCE, async || said(attempt).is_some()).await;
    }
    let request = said("request").unwrap();
    assert_eq!(request.matches("error: invalid: ").count(), 3, "{request}");
    // Nor what the neighbour's step was granted, in whatever name.
    assert_eq!(
        request.matches("error: refused: reading of bucket `secrets`").count(),
        5,
        "{request}"
    );
    let status = plant.millrace(&["pipeline", "status", "hostile"]).await.json();
    let links =
        status["links"].as_array().unwrap().iter().flat_map(|p| p["links"].as_array().unwrap());
    let uses: Vec<_> =
        links.map(|link| &link["counters"]["uses"]).filter(|uses| !uses.is_null()).collect();
    assert_eq!(uses.len(), 1, "{uses:?}");
    assert_eq!(uses[0]["escape"]["refused"], 5, "{uses:?}");
    let giant = said("giant").unwrap();
    assert!(giant.contains("error"), "{giant}");
    let state = said("identity").unwrap();
    // Neither the state of another nor one where the step has none; and no header of NATS inside of one.
    for refused in ["state", "own state", "id", "trace"] {
        assert!(state.contains(&format!("\"{refused}\": error")), "{refused} was taken: {state}");
    }
    let config = said("config").unwrap();
    assert!(
        config.contains("pipeline=hostile") && config.contains("step.0.config.own=1"),
        "{config}"
    );
    assert!(!config.contains("neighbour"), "{config}");
    // Whatever subject it named, it came out at its own sink: nobody else has it.
    let subjects = said("subjects").unwrap();
    assert_eq!(subjects.lines().count(), 16, "{subjects}");
    assert_eq!(far.strange(), Vec::<String>::new());
    assert_eq!(far.count(), 200 + 800 + 1_500);
    let neighbour = plant.millrace(&["pipeline", "status", "neighbour"]).await;
    assert_eq!(neighbour.code, 0, "{neighbour:?}");
    plant.stop().await;
}
