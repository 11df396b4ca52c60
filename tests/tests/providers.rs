//! Providers, which the pipelines of a lattice share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use millrace_platform::find;
use millrace_tests::{ALERTS, LATTICE, Machine, Plant, hot, reading, until};
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

/// Another installation, whose archive of the provider is another build; answers the build's file.
fn another_installation(folder: &Path, provider: &str, build: &str) -> String {
    std::fs::create_dir_all(folder.join("providers")).unwrap();
    let archive = find::provider(provider).unwrap();
    let name = format!("{provider}-{build}.par.gz");
    std::fs::copy(&archive, folder.join("providers").join(&name)).unwrap();
    let link = folder.join("providers").join(format!("{provider}.par.gz"));
    std::os::unix::fs::symlink(&name, link).unwrap();
    name
}

/// Runs `millrace` of an installation.
fn of_installation(home: &Path, plant: &Plant, arguments: &[&str]) -> Output {
    Command::new(find::home().join("bin/millrace"))
        .args(["--json"])
        .args(arguments)
        .args(["--lattice", LATTICE, "--nats-url"])
        .arg(plant.nats_url())
        .env("MILLRACE_HOME", home)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_a_host_does_not_have_takes_none_down() {
    let plant = Plant::start().await;
    let file = plant.define("alerts.yaml", ALERTS);
    plant.deploy(&file).await;
    let alerts = plant.collect("plant/alerts").await;
    let before = only(&plant, "mqtt");
    let listed = plant.millrace(&["provider", "list"]).await.json();
    let home = plant.folder().join("elsewhere");
    another_installation(&home, "mqtt", "elsewhere");

    // Refused before anything is changed, as is a pipeline that would bring it along.
    another_installation(&home, "conduit", "elsewhere");
    let file = file.to_str().unwrap();
    for arguments in [["provider", "deploy", "mqtt"], ["pipeline", "deploy", file]] {
        let refused = of_installation(&home, &plant, &arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {said}");
        for part in ["host ", "mqtt-elsewhere", "it has ", "install this release", "--force"] {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
    }
    assert_eq!(plant.millrace(&["provider", "list"]).await.json(), listed);
    assert_eq!(only(&plant, "mqtt"), before);
    let mut machine = Machine::connect(&plant);
    machine.readings(0..100, 500).await;
    alerts.wait_for(&hot(0..100), PATIENCE).await;

    // Whoever insists has what comes of it, and the way back.
    let forced = of_installation(&home, &plant, &["provider", "deploy", "mqtt", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(String::from_utf8_lossy(&forced.stderr).contains("mqtt-elsewhere"), "{forced:?}");
    until("the old one ends", PATIENCE, async || plant.providers("mqtt").is_empty()).await;
    let back = plant.millrace(&["provider", "deploy", "mqtt"]).await;
    assert_eq!(back.code, 0, "{back:?}");
    machine.readings(100..200, 500).await;
    alerts.wait_for(&hot(0..200), PATIENCE).await;
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_replaced_under_load_and_nothing_is_lost() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
    let alerts = plant.collect("plant/alerts").await;
    let before = only(&plant, "mqtt");
    let home = plant.folder().join("another");
    let archive = another_installation(&home, "mqtt", "another");
    // A host starts it from its own installation: an upgrade puts the one's providers beside the other's. The host that runs
    // says so at once.
    let beside = find::home().join("providers").join(&archive);
    std::fs::copy(home.join("providers").join(&archive), &beside).unwrap();

    let mut machine = Machine::connect(&plant);
    machine.readings(0..500, 500).await;
    let deployed = of_installation(&home, &plant, &["provider", "deploy", "mqtt"]);
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
    std::fs::remove_file(beside).unwrap();
}
