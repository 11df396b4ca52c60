//! Providers, which the pipelines of a lattice share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use millrace_platform::find;
use millrace_tests::{ALERTS, LATTICE, Machine, Plant, hot, reading};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(90);

/// The pipeline of [`ALERTS`] once more, between other topics.
fn second() -> String {
    ALERTS
        .replace("pipeline: alerts", "pipeline: second")
        .replace("plant/+/temperature", "second/+/temperature")
        .replace("plant/alerts", "second/alerts")
}

fn only(plant: &Plant, provider: &str) -> Pid {
    let pids = plant.providers(provider);
    assert_eq!(pids.len(), 1, "processes of {provider}: {pids:?}");
    pids[0]
}

async fn used_by(plant: &Plant, provider: &str) -> serde_json::Value {
    let list = plant.millrace(&["provider", "list"]).await.json();
    let found = list.as_array().unwrap().iter().find(|p| p["provider"] == provider);
    found.unwrap_or_else(|| panic!("{provider} is not in {list}"))["used_by"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_share_one_instance_of_a_provider_and_do_not_disturb_each_other() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
    let (mqtt, conduit) = (only(&plant, "mqtt"), only(&plant, "conduit"));
    let second = plant.define("second.yaml", &second());
    plant.deploy(&second).await;
    assert_eq!((only(&plant, "mqtt"), only(&plant, "conduit")), (mqtt, conduit));
    assert_eq!(used_by(&plant, "mqtt").await, serde_json::json!(["alerts", "second"]));

    let alerts = plant.collect("plant/alerts").await;
    let others = plant.collect("second/alerts").await;
    let mut machine = Machine::connect(&plant);
    machine.readings(0..300, 500).await;
    for seq in 0..300 {
        machine.publish("second/m1/temperature", reading(seq)).await;
    }
    // Both pipelines lose their provider, and get it back.
    kill_process(mqtt, Signal::KILL).unwrap();
    machine.readings(300..600, 500).await;
    for seq in 300..600 {
        machine.publish("second/m1/temperature", reading(seq)).await;
    }
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..600), PATIENCE).await;
    others.wait_for(&hot(0..600), PATIENCE).await;
    let mqtt = only(&plant, "mqtt");

    let refused = plant.millrace(&["provider", "undeploy", "mqtt"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("used by alerts, second"), "{refused:?}");

    // One pipeline goes, under the load of the other.
    let going = async {
        let gone = plant.millrace(&["pipeline", "undeploy", "second"]).await;
        assert_eq!(gone.code, 0, "{gone:?}");
    };
    tokio::join!(machine.readings(600..1600, 500), going);
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..1600), PATIENCE).await;
    assert_eq!((only(&plant, "mqtt"), only(&plant, "conduit")), (mqtt, conduit));
    assert_eq!(used_by(&plant, "mqtt").await, serde_json::json!(["alerts"]));
    println!("{} duplicates", alerts.duplicates());

    let gone = plant.millrace(&["pipeline", "undeploy", "alerts"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");
    for provider in ["mqtt", "conduit"] {
        let gone = plant.millrace(&["provider", "undeploy", provider]).await;
        assert_eq!(gone.code, 0, "{gone:?}");
        assert_eq!(plant.providers(provider), []);
    }
    let gone = plant.millrace(&["provider", "undeploy", "mqtt"]).await;
    assert!(gone.stderr.contains("provider `mqtt` is not on lattice"), "{gone:?}");
    plant.stop().await;
}

/// Another installation, whose archive of the provider is another one.
fn another_installation(folder: &Path, provider: &str) {
    std::fs::create_dir_all(folder.join("providers")).unwrap();
    let archive = find::provider(provider).unwrap();
    let name = format!("{provider}-another.par.gz");
    std::fs::copy(&archive, folder.join("providers").join(&name)).unwrap();
    // A host starts it from its own installation: an upgrade puts the one's providers beside the other's.
    std::fs::copy(&archive, find::home().join("providers").join(&name)).unwrap();
    let link = folder.join("providers").join(format!("{provider}.par.gz"));
    std::os::unix::fs::symlink(name, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_replaced_under_load_and_nothing_is_lost() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
    let alerts = plant.collect("plant/alerts").await;
    let before = only(&plant, "mqtt");
    let home = plant.folder().join("another");
    another_installation(&home, "mqtt");

    let mut machine = Machine::connect(&plant);
    machine.readings(0..500, 500).await;
    let deployed = Command::new(find::home().join("bin/millrace"))
        .args(["--json", "provider", "deploy", "mqtt", "--lattice", LATTICE, "--nats-url"])
        .arg(plant.nats_url())
        .env("MILLRACE_HOME", &home)
        .output()
        .unwrap();
    assert!(deployed.status.success(), "{deployed:?}");
    machine.readings(500..1500, 500).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..1500), PATIENCE).await;
    println!("{} duplicates", alerts.duplicates());

    let start = Instant::now();
    while plant.providers("mqtt") == [before] || plant.providers("mqtt").len() != 1 {
        assert!(start.elapsed() < PATIENCE, "the old one runs: {:?}", plant.providers("mqtt"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The pipeline's own status agrees that all is well.
    let status = plant.millrace(&["pipeline", "status", "alerts"]).await;
    assert_eq!(status.code, 0, "{status:?}");
    plant.stop().await;
    std::fs::remove_file(find::home().join("providers/mqtt-another.par.gz")).unwrap();
}
