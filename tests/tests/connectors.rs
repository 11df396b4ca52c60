//! Each connector as the platform runs it: packed into an archive, started by its host, and started again when it dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use millrace_peers::Kafka;
use millrace_tests::{Collector, Plant, hot};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};

const PATIENCE: Duration = Duration::from_secs(90);

/// Kafka to Kafka through one stage.
const COPY: &str = r#"
millrace: v1alpha1
pipeline: copy
version: 0.1.0
sources: [orders]
steps:
  pass: { map: pass-map, from: orders }
sinks:
  copies: { from: pass }
binding:
  sources:
    orders: { kafka: { brokers: "{brokers}", topics: orders, start: earliest } }
  sinks:
    copies: { kafka: { brokers: "{brokers}", topic: copies } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

/// HTTP to MQTT through one stage.
const HOOK: &str = r#"
millrace: v1alpha1
pipeline: {name}
version: 0.1.0
sources: [orders]
steps:
  pass: { map: pass-map, from: orders }
sinks:
  kept: { from: pass }
binding:
  sources:
    orders: { http: { path: "{path}", listen: "127.0.0.1:{port}", auth: bearer, token-file: "{tokens}" } }
  sinks:
    kept: { mqtt: { url: "{url}", topic: "kept/{name}" } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

/// A line that no machine has: the status says so, and the deployment does not hang.
const NO_LINE: &str = r#"
millrace: v1alpha1
pipeline: door
version: 0.1.0
sources: [door]
steps:
  pass: { map: pass-map, from: door }
sinks:
  relay: { from: pass }
binding:
  sources:
    door: { gpio: { lines: { contact: { chip: no-such-chip, offset: 3, edge: both } } } }
  sinks:
    relay: { mqtt: { url: "{url}", topic: door } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn providers_that_are_killed_under_load_lose_nothing() {
    let (plant, alerts, mut machine) = Plant::start_with_alerts().await;
    machine.readings(0..500, 500).await;
    assert_eq!(plant.kill_provider("conduit"), 1);
    machine.readings(500..1500, 500).await;
    assert_eq!(plant.kill_provider("mqtt"), 1);
    machine.readings(1500..2500, 500).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..2500), PATIENCE).await;
    assert_eq!(alerts.seqs(), hot(0..2500));
    println!("2500 readings in, 1250 alerts out, {} duplicates", alerts.duplicates());
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_to_kafka_with_the_provider_and_the_broker_killed_loses_nothing() {
    let mut kafka = Kafka::start().unwrap();
    let brokers = kafka.brokers();
    let client = |more: &[(&str, &str)]| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers);
        for (key, value) in more {
            config.set(*key, *value);
        }
        config
    };
    let admin: AdminClient<DefaultClientContext> = client(&[]).create().unwrap();
    let topics = ["orders", "copies"].map(|t| NewTopic::new(t, 3, TopicReplication::Fixed(1)));
    admin.create_topics(&topics, &AdminOptions::new()).await.unwrap();

    let plant = Plant::start().await;
    plant.deploy(&plant.define("copy.yaml", &COPY.replace("{brokers}", &brokers))).await;

    let copies = Collector::default();
    let reader: StreamConsumer =
        client(&[("group.id", "reader"), ("auto.offset.reset", "earliest")]).create().unwrap();
    reader.subscribe(&["copies"]).unwrap();
    let own = copies.clone();
    let reading = tokio::spawn(async move {
        loop {
            match reader.recv().await {
                Ok(record) => own.take(record.payload().unwrap()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });

    let writer: FutureProducer =
        client(&[("enable.idempotence", "true"), ("linger.ms", "5")]).create().unwrap();
    let produce = async |seqs: std::ops::Range<u64>| {
        let sent = seqs.map(|seq| {
            let (writer, payload, key) = (&writer, format!("{{\"seq\":{seq}}}"), seq.to_string());
            async move {
                let record = FutureRecord::to("orders").payload(&payload).key(&key);
                writer.send(record, Duration::from_secs(60)).await.unwrap();
            }
        });
        futures::future::join_all(sent).await;
    };
    produce(0..2000).await;
    copies.wait_for(&(0..500).collect(), PATIENCE).await;
    assert_eq!(plant.kill_provider("kafka"), 1);
    produce(2000..4000).await;
    kafka.kill().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    kafka.restart().unwrap();
    produce(4000..6000).await;

    let all: BTreeSet<u64> = (0..6000).collect();
    copies.wait_for(&all, PATIENCE).await;
    assert_eq!(copies.seqs(), all);
    println!("6000 records in, 6000 out, {} duplicates", copies.duplicates());
    reading.abort();
    plant.stop().await;
}

/// A client of the server that sends each message until it is told that it is safe.
async fn post_all(url: String, seqs: std::ops::Range<u64>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let sent = seqs.map(|seq| {
        let (client, url) = (&client, &url);
        async move {
            loop {
                let request = client.post(url).bearer_auth("let-me-in");
                let answer = request.body(format!("{{\"seq\":{seq}}}")).send().await;
                match answer.map(|answer| answer.status().as_u16()) {
                    Ok(202) => return,
                    Ok(503) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    Ok(status) => panic!("neither safe nor to come again: {status}"),
                }
            }
        }
    });
    // Not all at once: a client has a bounded number of connections.
    futures::stream::iter(sent).buffer_unordered(50).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_share_a_server_and_what_it_answered_as_safe_is_safe() {
    let plant = Plant::start().await;
    let port = millrace_peers::free_port().unwrap();
    let tokens = plant.folder().join("tokens");
    std::fs::write(&tokens, "let-me-in\n").unwrap();
    let define = |name: &str, path: &str| {
        let text = HOOK
            .replace("{name}", name)
            .replace("{path}", path)
            .replace("{port}", &port.to_string())
            .replace("{tokens}", tokens.to_str().unwrap());
        plant.define(&format!("{name}.yaml"), &text)
    };
    let (rome, oslo) = (define("rome", "/shops/rome"), define("oslo", "/shops/{shop}"));
    let tried = plant.millrace(&["pipeline", "dry-run", rome.to_str().unwrap()]).await;
    assert!(tried.code == 0 && tried.stdout.contains("the address is free"), "{tried:?}");
    plant.deploy(&rome).await;
    plant.deploy(&oslo).await;
    assert_eq!(plant.providers("http").len(), 1, "one process for all pipelines");
    for name in ["http", "mqtt"] {
        let process = plant.providers(name)[0].as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        println!(
            "{name}, idle: {}",
            status.lines().find(|line| line.starts_with("VmRSS")).unwrap()
        );
    }
    let tried = plant.millrace(&["pipeline", "dry-run", oslo.to_str().unwrap()]).await;
    assert!(tried.code == 0 && tried.stdout.contains("shares it"), "{tried:?}");

    let base = format!("http://127.0.0.1:{port}/shops");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let refused = client.post(format!("{base}/rome")).bearer_auth("guessed").send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401);

    let kept_rome = plant.collect("kept/rome").await;
    let kept_oslo = plant.collect("kept/oslo").await;
    // While requests come the process that has the server is killed, and started again by its host.
    let sending = [("rome", 0..1500), ("oslo", 5000..6500)]
        .map(|(shop, seqs)| tokio::spawn(post_all(format!("{base}/{shop}"), seqs)));
    kept_rome.wait_for(&(0..200).collect(), PATIENCE).await;
    assert_eq!(plant.kill_provider("http"), 1);
    for sent in sending {
        tokio::time::timeout(PATIENCE, sent).await.expect("clients are told for ever").unwrap();
    }
    kept_rome.wait_for(&(0..1500).collect(), PATIENCE).await;
    kept_oslo.wait_for(&(5000..6500).collect(), PATIENCE).await;
    assert_eq!(kept_rome.seqs(), (0..1500).collect());
    assert_eq!(kept_oslo.seqs(), (5000..6500).collect());
    println!(
        "3000 requests safe over one server, {} and {} duplicates",
        kept_rome.duplicates(),
        kept_oslo.duplicates()
    );

    // A third that wants a path which is taken says who has it.
    let late = define("late", "/shops/rome");
    let deployed =
        plant.millrace(&["pipeline", "deploy", late.to_str().unwrap(), "--timeout", "15s"]).await;
    assert_eq!(deployed.code, 1, "{deployed:?}");
    assert!(deployed.stderr.contains("of the pipeline rome"), "{deployed:?}");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_not_there_is_said_in_the_status() {
    let plant = Plant::start().await;
    let file = plant.define("door.yaml", NO_LINE);
    let deployed =
        plant.millrace(&["pipeline", "deploy", file.to_str().unwrap(), "--timeout", "15s"]).await;
    assert_eq!(deployed.code, 1, "{deployed:?}");
    assert!(deployed.stderr.contains("gpio `door`"), "names the source: {deployed:?}");
    assert!(deployed.stderr.contains("no-such-chip"), "says why: {deployed:?}");
    plant.stop().await;
}
