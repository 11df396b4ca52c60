//! What hosts say of the providers they have, on a real nats-server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millrace_artifacts::installed::{self, LatticeHost};
use millrace_peers::NatsServer;

/// Answers who is there as a host of wasmCloud does.
async fn pinged(nats: &async_nats::Client, lattice: &str, id: &str, labels: serde_json::Value) {
    let mut asked = nats.subscribe(format!("wasmbus.ctl.v1.{lattice}.host.ping")).await.unwrap();
    let host =
        serde_json::json!({ "id": id, "friendly_name": format!("old-oak-{id}"), "labels": labels });
    let answer = serde_json::json!({ "success": true, "message": "", "response": host });
    let own = nats.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            own.publish(message.reply.unwrap(), answer.to_string().into()).await.unwrap();
        }
    });
    nats.flush().await.unwrap();
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_says_what_it_has_and_one_that_does_not_is_known() {
    let server = NatsServer::start().unwrap();
    let nats = async_nats::connect(server.url()).await.unwrap();
    assert_eq!(installed::hosts(&nats, "acme").await.unwrap(), []);

    let has = Arc::new(Mutex::new(names(&["mqtt-1"])));
    pinged(&nats, "acme", "ONE", serde_json::json!({ "host": "hall-3" })).await;
    let (own, said) = (nats.clone(), has.clone());
    tokio::spawn(async move {
        installed::answer(&own, "acme", "ONE", || said.lock().unwrap().clone()).await.unwrap();
    });
    // Another lattice's.
    pinged(&nats, "beta", "TWO", serde_json::json!({})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let one = |providers: &[&str]| LatticeHost {
        id: "ONE".to_owned(),
        name: "hall-3".to_owned(),
        providers: Some(names(providers)),
    };
    let begun = Instant::now();
    assert_eq!(installed::hosts(&nats, "acme").await.unwrap(), [one(&["mqtt-1"])]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    // What was installed since counts.
    has.lock().unwrap().insert("mqtt-2".to_owned());
    assert_eq!(installed::hosts(&nats, "acme").await.unwrap(), [one(&["mqtt-1", "mqtt-2"])]);

    pinged(&nats, "acme", "OLD", serde_json::json!({})).await;
    let old = LatticeHost { id: "OLD".to_owned(), name: "old-oak-OLD".to_owned(), providers: None };
    assert_eq!(installed::hosts(&nats, "acme").await.unwrap(), [one(&["mqtt-1", "mqtt-2"]), old]);
}
