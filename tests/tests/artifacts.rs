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
