//! What goes wrong in a plant, and what must come of it: a clear word and no loss.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use futures::TryStreamExt as _;
use millrace_peers::NatsServer;
use millrace_platform::find;
use millrace_tests::{ALERTS, LATTICE, Machine, Plant, hot, millrace, reading, until};
use wasmcloud_control_interface::ClientBuilder;
use wasmcloud_core::InterfaceLinkDefinition;
use wasmcloud_core::rpc::link_del_subject;

const PATIENCE: Duration = Duration::from_secs(90);

/// A step that fails as its payload says, behind a durable edge.
const MISBEHAVING: &str = r#"
millrace: v1alpha1
pipeline: misbehaving
version: 0.1.0
sources: [machine]
steps:
  pass: { map: pass-map, from: machine }
  misbehave: { map: misbehaves, from: { name: pass, durable: true }, memory: 8MiB }
sinks:
  results: { from: misbehave }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/in, qos: 1 }, delivery: { linger: 50ms } }
  sinks:
    results: { mqtt: { url: "{url}", topic: plant/results, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
    misbehaves: { file: "{components}/misbehaves.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_is_found_alone_and_the_others_arrive() {
    let plant = Plant::start_with(&["--max-call-seconds=2"]).await;
    plant.deploy(&plant.define("misbehaving.yaml", MISBEHAVING)).await;
    let results = plant.collect("plant/results").await;
    let letters = plant.dead_letters("misbehaving").await;
    let mut machine = Machine::connect(&plant);

    let bad = [
        (17_u64, "trap"),
        (118, "grow"),
        (219, "invalid"),
        (320, "internal"),
        (421, "spin"),
        (430, "retry"),
    ];
    for seq in 0..500 {
        let what = bad.iter().find(|(n, _)| *n == seq).map_or("fine", |(_, what)| what);
        machine.publish("plant/in", format!("{{\"seq\":{seq},\"what\":\"{what}\"}}")).await;
    }
    machine.acknowledged().await;

    let good: BTreeSet<u64> = (0..500).filter(|n| !bad.iter().any(|(b, _)| b == n)).collect();
    results.wait_for(&good, PATIENCE).await;
    for (seq, what) in bad {
        let headers = letters.wait_for(&format!("\"seq\":{seq},"), PATIENCE).await;
        let kind = headers["millrace-dead-kind"].as_str();
        let expected: &[&str] = match what {
            "invalid" => &["invalid-argument"],
            "internal" => &["internal"],
            "retry" => &["retry"],
            // A component that is busy for ever is stopped by the host, which looks the same from outside.
            _ => &["trap", "timeout"],
        };
        assert!(expected.contains(&kind), "message {seq} ({what}): {headers:?}");
        assert_eq!(headers["millrace-dead-pipeline"], "misbehaving");
        assert_eq!(headers["millrace-dead-stage"], "misbehave");
        assert!(headers.contains_key("millrace-dead-time"), "{headers:?}");
        assert!(headers["millrace-dead-attempt"].parse::<u32>().unwrap() >= 1, "{headers:?}");
    }
    assert_eq!(results.seqs(), good, "no poison message arrives");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_twice_updated_and_undeployed_under_load() {
    let (plant, alerts, mut machine) = Plant::start_with_alerts().await;
    let file = plant.define("alerts.yaml", ALERTS);
    let again = plant.millrace(&["pipeline", "deploy", file.to_str().unwrap(), "--no-wait"]).await;
    assert_eq!(
        again.json()["unchanged"],
        true,
        "the same definition twice changes nothing: {again:?}"
    );

    machine.readings(0..1000, 500).await;

    // A new version while messages flow: other configuration for both stages, and another artifact version.
    let newer =
        ALERTS.replace("version: 0.1.0", "version: 0.2.0").replace("limit: 85", "limit: 86");
    let newer = plant.define("alerts.yaml", &newer);
    let (updated, ()) =
        tokio::join!(plant.deploy_unwatched(&newer), machine.readings(1000..2500, 500));
    assert!(updated["version"].as_str().unwrap().starts_with("0.2.0-"), "{updated}");

    // Taken down while messages flow, and put back: the broker keeps what nobody took.
    let undeploy = ["pipeline", "undeploy", "alerts"];
    let (undeployed, ()) =
        tokio::join!(plant.millrace(&undeploy), machine.readings(2500..3500, 500));
    assert_eq!(undeployed.code, 0, "{undeployed:?}\n{}", plant.log());
    let gone = plant.millrace(&["pipeline", "status", "alerts"]).await;
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.stderr.contains("no pipeline `alerts`"), "{gone:?}");
    plant.deploy(&newer).await;
    machine.readings(3500..4000, 500).await;
    machine.acknowledged().await;

    alerts.wait_for(&hot(0..4000), PATIENCE).await;
    assert_eq!(alerts.seqs(), hot(0..4000));
    println!("4000 readings in, 2000 alerts out, {} duplicates", alerts.duplicates());
    plant.stop().await;
}

/// A host's message of a link can be lost, or overtake the one before it. The lattice's own list puts it right.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_misses_a_link_takes_it_up_from_the_lattice() {
    let (plant, alerts, mut machine) = Plant::start_with_alerts().await;
    machine.readings(0..200, 500).await;
    alerts.wait_for(&hot(0..200), PATIENCE).await;

    let nats = plant.nats_client().await;
    let control = ClientBuilder::new(nats.clone()).lattice(LATTICE).build();
    let links = control.get_links().await.unwrap().into_data().unwrap();
    let ours: Vec<_> =
        links.iter().filter(|link| link.source_id() == "millrace_mqtt-provider").collect();
    assert_eq!(ours.len(), 1, "{links:?}");

    // As if its host had never told the provider of the link: the host believes that it has.
    let gone = InterfaceLinkDefinition {
        source_id: ours[0].source_id().to_owned(),
        target: ours[0].target().to_owned(),
        name: ours[0].name().to_owned(),
        wit_namespace: ours[0].wit_namespace().to_owned(),
        wit_package: ours[0].wit_package().to_owned(),
        interfaces: ours[0].interfaces().clone(),
        ..InterfaceLinkDefinition::default()
    };
    let subject = link_del_subject(LATTICE, ours[0].source_id());
    let body = serde_json::to_vec(&gone).unwrap();
    nats.publish(subject, body.into()).await.unwrap();
    nats.flush().await.unwrap();
    machine.readings(200..1200, 500).await;
    machine.acknowledged().await;

    alerts.wait_for(&hot(0..1200), PATIENCE).await;
    assert!(plant.log().contains("took up a link that the host's messages missed"));
    plant.stop().await;
}

/// wadm is given a deletion once more that it had carried out before the pipeline was deployed: so it is after nats-server
/// went away before the first was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_wadm_has_lost_sight_of_is_deployed_again() {
    let (plant, alerts, mut machine) = Plant::start_with_alerts().await;
    machine.readings(0..100, 200).await;

    plant.notify_of_deletion("alerts").await;
    let status = async || plant.millrace(&["pipeline", "status", "alerts"]).await;
    until("wadm takes notice of the deletion", PATIENCE, async || status().await.code != 0).await;

    machine.readings(100..300, 200).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..300), PATIENCE).await;
    let status = status().await;
    assert_eq!(status.code, 0, "{status:?}");
    assert!(plant.log().contains("wadm is asked to deploy it again"), "{}", plant.log());
    plant.stop().await;
}

/// wadm deletes the configuration of a stage, and writes it anew, when it is given once more what it has done already.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_keeps_its_configuration_when_it_is_deleted_in_the_lattice() {
    let (plant, alerts, mut machine) = Plant::start_with_alerts().await;
    machine.readings(0..100, 200).await;

    let bucket = format!("CONFIGDATA_{LATTICE}");
    let jetstream = async_nats::jetstream::new(plant.nats_client().await);
    let configs = jetstream.get_key_value(bucket).await.unwrap();
    let keys: Vec<String> = configs.keys().await.unwrap().try_collect().await.unwrap();
    let of_stages: Vec<&String> = keys.iter().filter(|key| key.contains("-stage_")).collect();
    assert_eq!(of_stages.len(), 2, "{keys:?}");
    for key in of_stages {
        configs.delete(key).await.unwrap();
    }

    machine.readings(100..500, 200).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..500), PATIENCE).await;
    let status = plant.millrace(&["pipeline", "status", "alerts"]).await;
    assert!(!status.stdout.contains("\"config\""), "a call failed for want of it: {status:?}");
    plant.stop().await;
}

/// A host starts a stage that wadm had told it to start before it was told to undeploy the pipeline: wadm knows nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_wadm_does_not_know_of_is_stopped_with_its_pipeline() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
    let control = ClientBuilder::new(plant.nats_client().await).lattice(LATTICE).build();
    let host = control.get_hosts().await.unwrap().remove(0).into_data().unwrap();
    let inventory = async || {
        control
            .get_host_inventory(host.id())
            .await
            .unwrap()
            .into_data()
            .unwrap()
            .components()
            .clone()
    };
    let running = inventory().await;
    assert_eq!(running.len(), 2);
    let stage = &running[0];

    // For wadm it is gone, and then it is started.
    plant.notify_of_deletion("alerts").await;
    let is_gone = async || inventory().await.is_empty();
    until("wadm takes notice of the deletion", PATIENCE, is_gone).await;
    let annotations = stage.annotations().cloned();
    let started = control.scale_component(
        host.id(),
        stage.image_ref(),
        stage.id(),
        1,
        annotations,
        Vec::new(),
        false,
    );
    assert!(started.await.unwrap().succeeded());
    until("the host starts it", PATIENCE, async || !is_gone().await).await;

    let undeployed = plant.millrace(&["pipeline", "undeploy", "alerts"]).await;
    assert_eq!(undeployed.code, 0, "{undeployed:?}\n{}", plant.log());
    assert!(is_gone().await);
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_is_said_in_the_status() {
    let plant = Plant::start().await;
    let nobody = millrace_peers::free_port().unwrap();
    let text = ALERTS.replacen("{url}", &format!("mqtt://127.0.0.1:{nobody}"), 1);
    let file = plant.define("alerts.yaml", &text);
    let deployed =
        plant.millrace(&["pipeline", "deploy", file.to_str().unwrap(), "--timeout", "20s"]).await;
    assert_eq!(deployed.code, 1, "{deployed:?}");
    assert!(deployed.stderr.contains("machine"), "names the source: {deployed:?}");
    assert!(deployed.stderr.contains("refused"), "says why: {deployed:?}");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let not_wasm = folder.path().join("not.wasm");
    std::fs::write(&not_wasm, "no wasm at all").unwrap();
    let components = find::home().join("components");
    for (kind, file, words) in [
        ("map", not_wasm, &["stage `s`", "not"][..]),
        ("map", components.join("above-limit.wasm"), &["filter", "map"]),
        ("map", components.join("opens-sockets.wasm"), &["wasi:sockets"]),
    ] {
        let text = ALERTS
            .replace("{url}", "mqtt://localhost")
            .replace("{components}", components.to_str().unwrap());
        let (head, _) = text.split_once("steps:").unwrap();
        let file = file.display();
        let text = format!(
            "{head}steps:\n  s: {{ {kind}: c, from: machine }}\nsinks:\n  out: {{ from: s }}\nbinding:\n  sources:\n    \
             machine: {{ mqtt: {{ url: \"mqtt://localhost\", topic: a }} }}\n  sinks:\n    out: {{ mqtt: {{ url: \
             \"mqtt://localhost\", topic: b }} }}\n  components:\n    c: {{ file: \"{file}\" }}\n"
        );
        let definition = folder.path().join("p.yaml");
        std::fs::write(&definition, text).unwrap();
        let out = folder.path().join("out");
        let arguments =
            ["pipeline", "build", definition.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let built = millrace("nats://127.0.0.1:1", &arguments).await;
        assert_eq!(built.code, 1, "{built:?}");
        for word in words {
            assert!(built.stderr.contains(word), "`{word}` in {built:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_with_errors_is_not_deployed() {
    let folder = tempfile::tempdir().unwrap();
    let definition = folder.path().join("p.yaml");
    let cycle = ALERTS.replace("from: machine, config: { field", "from: too-hot, config: { field");
    std::fs::write(&definition, cycle).unwrap();
    for verb in ["lint", "build", "deploy"] {
        let answer =
            millrace("nats://127.0.0.1:1", &["pipeline", verb, definition.to_str().unwrap()]).await;
        assert_eq!(answer.code, 3, "{verb}: {answer:?}");
        let said = format!("{}{}", answer.stdout, answer.stderr);
        assert!(said.contains("cycle"), "{verb}: {answer:?}");
    }
}

fn host(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(find::host().unwrap()).args(arguments).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_host_says_what_it_misses() {
    let port = millrace_peers::free_port().unwrap();
    let (code, said) = host(&["--nats-url", &format!("nats://127.0.0.1:{port}")]);
    assert_eq!(code, 1);
    assert!(said.contains("no NATS server answers") && said.contains("nats-server -js"), "{said}");

    let plain = NatsServer::start().unwrap();
    let old = old_server();
    let (code, said) = host(&["--nats-url", &format!("nats://127.0.0.1:{old}")]);
    assert_eq!(code, 1);
    assert!(said.contains("is 2.9.25") && said.contains("2.10 or newer"), "{said}");

    // The allocator that enforces the memory limit cannot be had.
    let limited = format!(
        "ulimit -v 8000000; exec {} --nats-url {}",
        find::host().unwrap().display(),
        plain.url()
    );
    let output = Command::new("/bin/sh").args(["-c", &limited]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("memory limit of components would not be enforced"), "{said}");
    assert!(said.contains("ulimit -v unlimited"), "{said}");
}

/// A server that says it is too old, which is the first line of the protocol; nothing after it matters.
fn old_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let info = "INFO {\"server_id\":\"OLD\",\"server_name\":\"old\",\"version\":\"2.9.25\",\"proto\":1,\
                        \"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576}\r\n";
            let _ = stream.write_all(info.as_bytes());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n) = std::io::Read::read(&mut stream, &mut buffer) {
                    if n == 0
                        || (buffer[..n].windows(4).any(|w| w == b"PING")
                            && stream.write_all(b"PONG\r\n").is_err())
                    {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn no_platform_is_said_with_the_mend() {
    let port = millrace_peers::free_port().unwrap();
    let answer =
        millrace(&format!("nats://127.0.0.1:{port}"), &["pipeline", "status", "alerts"]).await;
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("millrace up"), "{answer:?}");

    // NATS without wadm.
    let server = NatsServer::start().unwrap();
    let answer = millrace(&server.url(), &["pipeline", "status", "alerts"]).await;
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("wadm does not answer"), "{answer:?}");
    assert!(!reading(1).is_empty());
}
