//! Stages come from the store of the lattice, providers from the installation; and a host that is told so takes nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_artifacts::Store;
use millrace_platform::find;
use millrace_tests::{LATTICE, Machine, Plant, reading, until};

const PATIENCE: Duration = Duration::from_secs(30);

const PIPELINE: &str = r#"
millrace: v1alpha1
pipeline: stored
version: 0.1.0
sources: [machine]
steps:
  pass: { map: pass-map, from: machine }
sinks:
  results: { from: pass }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/in, qos: 1 } }
  sinks:
    results: { mqtt: { url: "{url}", topic: plant/results, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_known_artifacts_and_nothing_else() {
    let mut plant = Plant::start_with(&["--only-known"]).await;
    let file = plant.define("stored.yaml", PIPELINE);

    // What is deployed comes from the store, and no path of the one who deployed is in it.
    plant.deploy(&file).await;
    let stored = plant.millrace(&["pipeline", "manifest", file.to_str().unwrap(), "--store"]).await;
    assert_eq!(stored.code, 0, "{stored:?}");
    assert!(stored.stdout.contains("millrace:pass@sha256:"), "{}", stored.stdout);
    assert!(!stored.stdout.contains("file://"), "{}", stored.stdout);
    let results = plant.collect("plant/results").await;
    let mut machine = Machine::connect(&plant);
    machine.publish("plant/in", reading(1)).await;
    results.wait_for(&BTreeSet::from([1]), PATIENCE).await;

    // With the control interface itself, as a tenant's engineer can use it.
    let nats = plant.nats_client().await;
    let control =
        wasmcloud_control_interface::ClientBuilder::new(nats.clone()).lattice(LATTICE).build();
    let hosts = control.get_hosts().await.unwrap();
    let host = hosts[0].data().unwrap().id().to_owned();
    let component = find::home().join("components/pass-map.wasm");
    let archive = find::provider("mqtt").unwrap();
    let own = plant.folder().join("own.par.gz");
    std::fs::copy(&archive, &own).unwrap();
    let (component, own) =
        (format!("file://{}", component.display()), format!("file://{}", own.display()));
    let mut attempts = 0;
    for image in [
        component.as_str(),
        "registry.example/evil/step:0.1.0",
        "oci://registry.example/evil/step:0.1.0",
        "millrace:../../evil@sha256:0",
        "wasmcloud+builtin://http-server",
    ] {
        attempts += 1;
        // Whatever is answered: the host fetches afterwards.
        drop(control.scale_component(&host, image, "evil", 1, None, Vec::new(), false).await);
    }
    for image in [
        own.as_str(),
        "registry.example/evil/provider:0.1.0",
        "millrace:provider/../../../own",
        "millrace:provider/evil",
        "wasmcloud+builtin://http-server",
        "wasmcloud+builtin://http-client",
        "wasmcloud+builtin://messaging-nats",
    ] {
        attempts += 1;
        drop(
            control
                .start_provider(&host, image, &format!("evil-{attempts}"), None, Vec::new())
                .await,
        );
    }
    // The host says of each that it does not take it; two builtin ones wasmCloud refuses before it asks.
    let expected = attempts - 2;
    let reasons = ["and nothing else", "names no artifact", "has no provider `evil`"];
    let refused = || {
        let log = plant.log();
        reasons.iter().map(|reason| log.matches(reason).count()).sum::<usize>()
    };
    let start = std::time::Instant::now();
    while refused() < expected {
        assert!(start.elapsed() < PATIENCE, "{} of {expected}:\n{}", refused(), plant.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let inventory = control.get_host_inventory(&host).await.unwrap().into_data().unwrap();
    let evil = inventory.components().iter().filter(|c| c.id() == "evil").count()
        + inventory.providers().iter().filter(|p| p.id().starts_with("evil")).count();
    println!("{attempts} attempts to run what is not known, {evil} succeeded");
    assert_eq!(evil, 0, "{inventory:?}");

    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    // Started again, it has the stage although the lattice has lost it.
    let store = Store::existing(&nats, LATTICE).await.unwrap().unwrap();
    assert_eq!(store.keep("stored", &BTreeSet::new(), later).await.unwrap(), 1);
    plant.kill_host().await;
    plant.start_host().await;
    let running = async || plant.millrace(&["pipeline", "status", "stored"]).await.code == 0;
    until("it runs again", Duration::from_secs(60), running).await;
    machine.publish("plant/in", reading(2)).await;
    results.wait_for(&BTreeSet::from([1, 2]), PATIENCE).await;
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_has_lost_its_stages_takes_them_from_the_lattice() {
    let mut plant = Plant::start_with(&["--only-known"]).await;
    plant.deploy(&plant.define("stored.yaml", PIPELINE)).await;
    let results = plant.collect("plant/results").await;
    let mut machine = Machine::connect(&plant);
    machine.publish("plant/in", reading(1)).await;
    results.wait_for(&BTreeSet::from([1]), PATIENCE).await;
    plant.kill_host().await;
    let folder = plant.folder().join("host/artifacts");
    let kept = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(kept(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
    plant.start_host().await;
    machine.publish("plant/in", reading(2)).await;
    results.wait_for(&BTreeSet::from([1, 2]), Duration::from_secs(60)).await;
    assert_eq!(kept(), 1);
    plant.stop().await;
}

/// Digests of the stages in the manifest that wadm has for a pipeline.
async fn digests(plant: &Plant, pipeline: &str) -> BTreeSet<String> {
    let nats = plant.nats_client().await;
    let asked = nats.request(format!("wadm.api.{LATTICE}.model.get.{pipeline}"), "{}".into());
    let text = String::from_utf8(asked.await.unwrap().payload.to_vec()).unwrap();
    text.split("@sha256:").skip(1).map(|rest| rest[..64].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deploys_at_once_one_is_there_whole() {
    let plant = Plant::start().await;
    let results = plant.collect("plant/results").await;
    let mut machine = Machine::connect(&plant);
    // Another component, so another artifact: at first where there is no version yet, then over one that runs.
    let other = PIPELINE
        .replace(
            "map: pass-map, from: machine",
            "map: to-celsius, from: machine, config: { field: fahrenheit }",
        )
        .replace(
            "pass-map: { file: \"{components}/pass-map.wasm\" }",
            "to-celsius: { file: \"{components}/fahrenheit-to-celsius.wasm\" }",
        );
    assert!(!other.contains("pass-map"), "{other}");
    for round in 1..=3_u64 {
        let text = |text: &str| text.replace("0.1.0", &format!("0.{round}.0"));
        let one = plant.define("one.yaml", &text(PIPELINE));
        let two = plant.define("two.yaml", &text(&other));
        let deploy = async |file: &std::path::Path| {
            plant.millrace(&["pipeline", "deploy", "--watch", "1s", file.to_str().unwrap()]).await
        };
        let answers = tokio::join!(deploy(&one), deploy(&two));
        let answers = [answers.0, answers.1];
        for answer in &answers {
            println!("round {round}: {} {}", answer.code, answer.stderr);
            // Who lost is told so, and why.
            assert!(answer.code == 0 || answer.stderr.contains("version"), "{answer:?}");
        }
        assert!(answers.iter().any(|answer| answer.code == 0), "{answers:?}");
        let running = async || plant.millrace(&["pipeline", "status", "stored"]).await.code == 0;
        until("one of them runs", Duration::from_secs(60), running).await;
        // All that it is made of is there for any host.
        let store = Store::existing(&plant.nats_client().await, LATTICE).await.unwrap().unwrap();
        let digests = digests(&plant, "stored").await;
        assert_eq!(digests.len(), 1);
        for digest in digests {
            store.get(&digest).await.unwrap();
        }
        machine.publish("plant/in", reading(round)).await;
        results.wait_for(&(1..=round).collect(), PATIENCE).await;
    }
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pipeline_no_longer_needs_is_gone() {
    let plant = Plant::start().await;
    let file = plant.define("stored.yaml", PIPELINE);
    plant.deploy(&file).await;
    let nats = plant.nats_client().await;
    let store = Store::existing(&nats, LATTICE).await.unwrap().unwrap();
    assert_eq!(store.used_by("stored").await.unwrap().len(), 1);
    let gone = plant.millrace(&["pipeline", "undeploy", "stored"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");
    assert!(store.used_by("stored").await.unwrap().is_empty());
    plant.stop().await;
}
