//! Every message in is counted out, through both stages, whatever dies in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use millrace_tests::{Plant, hot};

/// Recovery of the slowest part: a host comes back, is noticed, and its providers connect again.
const RECOVERY: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_when_the_host_is_killed_in_between() {
    let (mut plant, alerts, mut machine) = Plant::start_with_alerts().await;

    machine.readings(0..2000, 1000).await;
    plant.kill_host().await;
    // The machine does not know and goes on.
    machine.readings(2000..4000, 1000).await;
    plant.start_host().await;
    machine.readings(4000..6000, 1000).await;
    machine.acknowledged().await;

    let expected = hot(0..6000);
    alerts.wait_for(&expected, RECOVERY).await;
    assert_eq!(alerts.seqs(), expected, "nothing but the hot readings arrives");
    println!("6000 readings in, {} alerts out, {} duplicates", expected.len(), alerts.duplicates());
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_when_nats_dies_and_returns() {
    let (mut plant, alerts, mut machine) = Plant::start_with_alerts().await;

    machine.readings(0..1000, 1000).await;
    plant.nats.kill().unwrap();
    machine.readings(1000..2000, 1000).await;
    plant.nats.restart().unwrap();
    machine.readings(2000..3000, 1000).await;
    machine.acknowledged().await;

    let expected = hot(0..3000);
    alerts.wait_for(&expected, RECOVERY).await;
    assert_eq!(alerts.seqs(), expected);
    println!("3000 readings in, {} alerts out, {} duplicates", expected.len(), alerts.duplicates());
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_when_the_broker_dies_and_returns() {
    let (mut plant, alerts, mut machine) = Plant::start_with_alerts().await;

    machine.readings(0..1000, 1000).await;
    machine.acknowledged().await;
    // Ended, not killed: what Mosquitto acknowledged and did not write is Mosquitto's to lose.
    plant.mosquitto.stop().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = plant.millrace(&["pipeline", "status", "alerts"]).await;
    assert_eq!(status.code, 1, "a broker that is away is no state to be content with");
    assert!(status.stdout.contains("retrying"), "{}", status.stdout);
    plant.mosquitto.restart().unwrap();
    machine.readings(1000..2000, 1000).await;
    machine.acknowledged().await;

    let expected = hot(0..2000);
    alerts.wait_for(&expected, RECOVERY).await;
    assert_eq!(alerts.seqs(), expected);
    println!("2000 readings in, {} alerts out, {} duplicates", expected.len(), alerts.duplicates());
    plant.stop().await;
}
