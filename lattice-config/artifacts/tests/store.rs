//! The store of artifacts, on a real nats-server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use bytes::Bytes;
use millrace_artifacts::{ArtifactError, PART, Store, bucket, digest};
use millrace_peers::NatsServer;

async fn lattice() -> (NatsServer, async_nats::Client, Store) {
    let server = NatsServer::start().unwrap();
    let nats = async_nats::connect(server.url()).await.unwrap();
    let store = Store::open(&nats, "acme").await.unwrap();
    (server, nats, store)
}

fn some(bytes: usize, seed: u8) -> Bytes {
    (0..bytes).map(|n| (n % 251) as u8 ^ seed).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn what_is_put_is_taken() {
    let (_server, nats, store) = lattice().await;
    for size in [0, 1, PART - 1, PART, PART + 1, 3 * 1024 * 1024] {
        let bytes = some(size, 3);
        let (name, new) = store.put("alerts", bytes.clone()).await.unwrap();
        assert!(new, "{size}");
        assert_eq!(name, digest(&bytes));
        let found = Store::existing(&nats, "acme").await.unwrap().unwrap();
        assert!(found.get(&name).await.unwrap() == bytes, "{size}");
        assert_eq!(store.put("alerts", bytes).await.unwrap(), (name, false), "{size}");
    }
    assert!(Store::existing(&nats, "other").await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_there_or_something_else_is_an_error() {
    let (_server, nats, store) = lattice().await;
    let never = digest(b"never");
    assert!(matches!(store.get(&never).await, Err(ArtifactError::Missing { .. })));
    assert!(matches!(store.get("../../etc").await, Err(ArtifactError::Missing { .. })));
    let (name, _) = store.put("alerts", some(2 * PART, 1)).await.unwrap();
    let kv = jetstream::new(nats).get_key_value(bucket("acme")).await.unwrap();
    // Other bytes under the digest.
    kv.put(format!("part.{name}.1"), some(PART, 9)).await.unwrap();
    let error = store.get(&name).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Damaged { .. }), "{error}");
    // A part is gone.
    kv.delete(format!("part.{name}.1")).await.unwrap();
    assert!(store.get(&name).await.unwrap_err().to_string().contains("a part is missing"));
    // It says that it is larger than anything may be.
    kv.put(format!("info.{name}"), r#"{"bytes":1099511627776,"parts":17895698}"#.into())
        .await
        .unwrap();
    assert!(matches!(store.get(&name).await, Err(ArtifactError::Damaged { .. })));
    // Only half of it was put: it is put once more.
    kv.purge(format!("info.{name}")).await.unwrap();
    assert!(store.put("alerts", some(2 * PART, 1)).await.unwrap().1);
    assert_eq!(store.get(&name).await.unwrap(), some(2 * PART, 1));
}

/// Later than anything that was put.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn what_no_pipeline_uses_is_removed() {
    let (_server, nats, store) = lattice().await;
    let mut all = Vec::new();
    for n in 0..6 {
        all.push(store.put("alerts", some(70_000, n)).await.unwrap().0);
    }
    // The first is used by another as well, and the next two are what may be gone back to.
    store.put("doors", some(70_000, 0)).await.unwrap();
    let those = BTreeSet::from([all[1].clone(), all[2].clone()]);
    // What was put since may be deployed at this moment.
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(store.keep("alerts", &those, long_ago).await.unwrap(), 0);
    assert_eq!(store.used_by("alerts").await.unwrap().len(), 6);
    assert_eq!(store.keep("alerts", &those, later()).await.unwrap(), 3);
    assert_eq!(store.used_by("alerts").await.unwrap(), those);
    for (n, name) in all.iter().enumerate() {
        assert_eq!(store.get(name).await.is_ok(), n < 3, "{n}");
    }
    let none = BTreeSet::new();
    assert_eq!(store.keep("alerts", &none, later()).await.unwrap(), 2);
    assert_eq!(store.keep("doors", &none, later()).await.unwrap(), 1);
    let mut stream =
        jetstream::new(nats).get_stream(format!("KV_{}", bucket("acme"))).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
}

#[tokio::test]
async fn what_was_put_or_removed_in_part_is_made_good() {
    let (_server, nats, store) = lattice().await;
    let (name, _) = store.put("alerts", some(3 * PART, 1)).await.unwrap();
    let mut stream =
        jetstream::new(nats).get_stream(format!("KV_{}", bucket("acme"))).await.unwrap();
    let purge = async |key: &str| {
        stream.purge().filter(format!("$KV.{}.{key}", bucket("acme"))).await.unwrap();
    };
    // A part is gone: putting it once more puts it.
    purge(&format!("part.{name}.1")).await;
    assert!(store.get(&name).await.is_err());
    assert!(store.put("alerts", some(3 * PART, 1)).await.unwrap().1);
    assert_eq!(store.get(&name).await.unwrap(), some(3 * PART, 1));
    // Who removed its use was interrupted then; and so was who removed or put another's parts.
    purge(&format!("use.alerts.{name}")).await;
    let (other, _) = store.put("doors", some(2 * PART, 2)).await.unwrap();
    purge(&format!("use.doors.{other}")).await;
    purge(&format!("info.{other}")).await;
    assert_eq!(store.keep("pumps", &BTreeSet::new(), later()).await.unwrap(), 1);
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
}

#[tokio::test]
async fn what_is_removed_and_put_at_the_same_time_is_there() {
    let (_server, _nats, store) = lattice().await;
    let bytes = some(5 * PART, 7);
    let name = digest(&bytes);
    for round in 0..60 {
        store.put("old", bytes.clone()).await.unwrap();
        let none = BTreeSet::new();
        let pause = Duration::from_micros(round * 40);
        let putting = async {
            tokio::time::sleep(pause).await;
            store.put("new", bytes.clone()).await
        };
        // Two who remove, and one who puts.
        let (removed, again, put) = tokio::join!(
            store.keep("old", &none, later()),
            store.keep("older", &none, later()),
            putting
        );
        removed.unwrap();
        again.unwrap();
        put.unwrap();
        assert_eq!(store.get(&name).await.unwrap(), bytes, "round {round}");
        store.keep("new", &none, later()).await.unwrap();
    }
}
