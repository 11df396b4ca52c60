//! What a durable edge carried, once more, for a try.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use millrace_tests::{ALERTS, Machine, Plant, hot};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_replayed_into_a_shadow_pipeline() {
    let plant = Plant::start().await;
    let text = ALERTS.replace("durable: true", "durable: { history: 1h, partitions: 4 }");
    assert_ne!(text, ALERTS);
    plant.deploy(&plant.define("alerts.yaml", &text)).await;
    let shadow = text
        .replace("pipeline: alerts", "pipeline: shadow")
        .replace("plant/+/temperature", "shadow/+/temperature")
        .replace("plant/alerts", "shadow/alerts");
    plant.deploy(&plant.define("shadow.yaml", &shadow)).await;

    let alerts = plant.collect("plant/alerts").await;
    let mut machine = Machine::connect(&plant);
    machine.readings(0..500, 500).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..500), PATIENCE).await;

    let others = plant.collect("shadow/alerts").await;
    let replay = ["pipeline", "replay", "alerts", "celsius.too-hot", "--into", "shadow"];
    let dry = plant.millrace(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!((dry.code, dry.json()["messages"].as_u64()), (0, Some(500)), "{dry:?}");
    let done = plant.millrace(&replay).await;
    assert_eq!((done.code, done.json()["messages"].as_u64()), (0, Some(500)), "{done:?}");
    others.wait_for(&hot(0..500), PATIENCE).await;
    // A second time is a second time, and not a repeat that an edge would drop.
    let limited = plant.millrace(&[&replay[..], &["--limit", "3", "--since", "1h"]].concat()).await;
    assert_eq!((limited.code, limited.json()["batches"].as_u64()), (0, Some(3)), "{limited:?}");
    assert_eq!((alerts.duplicates(), others.duplicates() < 500), (0, true));

    // What cannot be meant.
    for (arguments, text) in [
        (["alerts", "celsius.too-hot", "alerts"], "into `alerts` itself"),
        (["alerts", "celsius.too-hot", "nothing"], "no pipeline `nothing`"),
        (["alerts", "celsius.too-hot", "shadow/nothing"], "has no stage `nothing`"),
        (["alerts", "a.b", "shadow"], "keeps no history"),
    ] {
        let [pipeline, edge, into] = arguments;
        let wrong = plant.millrace(&["pipeline", "replay", pipeline, edge, "--into", into]).await;
        assert_eq!(wrong.code, 1, "{wrong:?}");
        assert!(wrong.stderr.contains(text), "{wrong:?}");
    }
}
