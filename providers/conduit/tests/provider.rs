//! The conduit as its host starts it: the real binary, host data on standard
//! input, links over NATS, a stage on either side served by the test.
#![cfg(feature = "provider")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_kit::status::{dead_stream, pipeline_status_subject};
use millrace_kit::{Direction, ProviderStatus, State};
use millrace_peers::NatsServer;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use wasmcloud_core::rpc::{health_subject, link_del_subject, link_put_subject, shutdown_subject};
use wasmcloud_core::{HealthCheckResponse, HostData, InterfaceLinkDefinition};

#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
mod component {
    wit_bindgen_wrpc::generate!({ world: "component", path: "../provider/wit", generate_all });
}

use component::exports::wasmcloud::messaging::handler::{BrokerMessage, Handler};
use component::wasmcloud::messaging::consumer;

const PROVIDER: &str = "the-conduit";

/// The second stage: remembers messages; traps on one payload.
#[derive(Clone, Default)]
struct Second {
    seen: Arc<Mutex<Vec<String>>>,
}

impl Handler<Option<HeaderMap>> for Second {
    async fn handle_message(
        &self,
        _: Option<HeaderMap>,
        message: BrokerMessage,
    ) -> anyhow::Result<Result<(), String>> {
        let batch = Batch::parse(&message.body)?;
        let payloads: Vec<_> =
            batch.messages().map(|m| String::from_utf8_lossy(m.payload).into_owned()).collect();
        if payloads.iter().any(|p| p == "poison") {
            anyhow::bail!("wasm trap: unreachable");
        }
        self.seen.lock().extend(payloads);
        Ok(Ok(()))
    }
}

/// The process. Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(server: &NatsServer, links: Vec<InterfaceLinkDefinition>) -> Running {
    let data = HostData {
        host_id: "the-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: server.url(),
        provider_key: PROVIDER.into(),
        instance_id: "1".into(),
        link_definitions: links,
        ..HostData::default()
    };
    let line = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&data).unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace-conduit"))
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
    Running(child)
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn link(source: &str, target: &str, name: &str, interface: &str) -> InterfaceLinkDefinition {
    InterfaceLinkDefinition {
        source_id: source.into(),
        target: target.into(),
        name: name.into(),
        wit_namespace: "wasmcloud".into(),
        wit_package: "messaging".into(),
        interfaces: vec![interface.into()],
        ..InterfaceLinkDefinition::default()
    }
}

fn out_link() -> InterfaceLinkDefinition {
    InterfaceLinkDefinition {
        target_config: map(&[
            ("pipeline", "line"),
            ("name", "first.second"),
            ("stage", "first"),
            ("edges", "first.second"),
            ("first.second.max-bytes", "16MiB"),
        ]),
        ..link("stage-1", PROVIDER, "default", "consumer")
    }
}

fn in_link(backoff: &str) -> InterfaceLinkDefinition {
    InterfaceLinkDefinition {
        source_config: map(&[
            ("pipeline", "line"),
            ("name", "first.second"),
            ("stage", "second"),
            ("max-bytes", "16MiB"),
            ("backoff-min", backoff),
        ]),
        ..link(PROVIDER, "stage-2", "first.second", "handler")
    }
}

async fn serve_second(nats: async_nats::Client) -> Second {
    let prefix = "default.stage-2";
    let client =
        wrpc_transport_nats::Client::new(nats.clone(), prefix, Some(prefix.into())).await.unwrap();
    let second = Second::default();
    let exports = component::serve(&client, second.clone()).await.unwrap();
    let mut calls = futures::stream::select_all(exports.into_iter().map(|(_, _, calls)| calls));
    tokio::spawn(async move {
        let _client = client;
        while let Some(call) = calls.next().await {
            tokio::spawn(async move {
                let _ = call.unwrap().await;
            });
        }
    });
    second
}

/// Publishes as the host does for a guest.
async fn publish(nats: &async_nats::Client, subject: &str, body: Bytes) -> Result<(), String> {
    let client =
        wrpc_transport_nats::Client::new(nats.clone(), format!("default.{PROVIDER}"), None)
            .await
            .unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("source-id", "stage-1");
    let message = component::wasmcloud::messaging::types::BrokerMessage {
        subject: subject.into(),
        body,
        reply_to: None,
    };
    let call = consumer::publish(&client, Some(headers), &message);
    tokio::time::timeout(Duration::from_secs(10), call)
        .await
        .expect("answered")
        .map_err(|e| format!("{e:#}"))?
}

fn batch(id: &str, payloads: &[&str]) -> Bytes {
    let mut writer = BatchWriter::new([("id", id)]).unwrap();
    for payload in payloads {
        let fields =
            Fields { timestamp: 7, topic: "t", payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}

async fn status(nats: &async_nats::Client) -> Option<ProviderStatus> {
    let request = nats.request(pipeline_status_subject("default", "line"), Bytes::new());
    let answer = tokio::time::timeout(Duration::from_secs(1), request).await.ok()?.ok()?;
    Some(serde_json::from_slice(&answer.payload).unwrap())
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn state(
    nats: &async_nats::Client,
    direction: Direction,
    wanted: State,
) -> millrace_kit::LinkStatus {
    until(&format!("{direction:?} {wanted:?}"), async || {
        let status = status(nats).await?;
        status.links.into_iter().find(|link| link.direction == direction && link.state == wanted)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_lives_as_its_host_wants_it() {
    let server = NatsServer::start().unwrap();
    let nats = async_nats::connect(server.url()).await.unwrap();
    let second = serve_second(nats.clone()).await;
    // One link at the start, one put later, as a host does.
    let mut provider = start(&server, vec![out_link()]);
    state(&nats, Direction::Sink, State::Connected).await;
    let put = |link: &InterfaceLinkDefinition| serde_json::to_vec(link).unwrap();
    nats.publish(link_put_subject("default", PROVIDER), put(&in_link("10ms")).into())
        .await
        .unwrap();
    state(&nats, Direction::Source, State::Connected).await;

    // Through the edge, with the poison to the dead letters.
    publish(&nats, "line.out.first", batch("b", &["one", "poison", "two"])).await.unwrap();
    until("two messages", async || (second.seen.lock().len() == 2).then_some(())).await;
    let js = async_nats::jetstream::new(nats.clone());
    let dead =
        until("a dead letter", async || js.get_stream(dead_stream("default", "line")).await.ok())
            .await;
    let letter = until("the letter", async || dead.get_raw_message(1).await.ok()).await;
    assert_eq!(letter.subject.as_str(), "millrace.default.line.dead.second");
    let letter = Batch::parse(&letter.payload).unwrap();
    let message = letter.messages().next().unwrap();
    let headers: HashMap<_, _> = message.headers().collect();
    assert_eq!((message.payload, message.timestamp), (b"poison".as_slice(), 7));
    assert_eq!((headers["millrace-dead-kind"], headers["millrace-dead-stage"]), ("trap", "second"));
    assert!(headers["millrace-dead-time"].ends_with('Z'), "{headers:?}");

    // What a stage itself rejects goes to the same stream.
    publish(&nats, "line.dead.first", batch("b/dead/first", &["rejected"])).await.unwrap();
    let letter = dead.get_raw_message(2).await.unwrap();
    assert_eq!(letter.subject.as_str(), "millrace.default.line.dead.first");

    // Somebody deletes the stream while somebody taps it, which makes a publish into nothing silent: refused once,
    // and kept when the stage asks again.
    let _tap = nats.subscribe("millrace.default.line.dead.>").await.unwrap();
    js.delete_stream(dead_stream("default", "line")).await.unwrap();
    let lost = publish(&nats, "line.dead.first", batch("d/dead/first", &["unkept"])).await;
    assert!(lost.is_err(), "said to be kept: {lost:?}");
    publish(&nats, "line.dead.first", batch("d/dead/first", &["unkept"])).await.unwrap();
    let dead = js.get_stream(dead_stream("default", "line")).await.unwrap();
    let kept = dead.get_raw_message(1).await.unwrap();
    let letter = Batch::parse(&kept.payload).unwrap();
    assert_eq!(letter.messages().next().unwrap().payload, b"unkept");

    // Health, and who is not linked.
    let health = nats.request(health_subject("default", PROVIDER), Bytes::new()).await.unwrap();
    let health: HealthCheckResponse = serde_json::from_slice(&health.payload).unwrap();
    assert!(health.healthy);
    assert_eq!(health.message.as_deref(), Some("2 of 2 links connected"));
    let status = status(&nats).await.unwrap();
    assert_eq!(
        (status.provider.as_str(), status.id.as_str(), status.host.as_str()),
        ("conduit", PROVIDER, "the-host")
    );
    assert_eq!(
        status.links.iter().map(|l| l.stage.as_str()).collect::<std::collections::BTreeSet<_>>(),
        ["first", "second"].into()
    );

    // Wrong settings: a failed link with the field's name, not a crash.
    nats.publish(link_del_subject("default", PROVIDER), put(&in_link("10ms")).into())
        .await
        .unwrap();
    until("deleted", async || {
        let links = crate::status(&nats).await?.links;
        (links.len() == 1).then_some(())
    })
    .await;
    nats.publish(link_put_subject("default", PROVIDER), put(&in_link("soon")).into())
        .await
        .unwrap();
    let failed = state(&nats, Direction::Source, State::Failed).await;
    assert!(failed.error.as_deref().is_some_and(|e| e.contains("backoff-min")), "{failed:?}");

    // A changed link is a deletion and a put: it works again.
    nats.publish(link_del_subject("default", PROVIDER), put(&in_link("soon")).into())
        .await
        .unwrap();
    // The SDK takes the two from subscriptions of their own, and a put that
    // overtakes its deletion for a repeated one.
    until("deleted", async || {
        let links = crate::status(&nats).await?.links;
        (links.len() == 1).then_some(())
    })
    .await;
    nats.publish(link_put_subject("default", PROVIDER), put(&in_link("20ms")).into())
        .await
        .unwrap();
    state(&nats, Direction::Source, State::Connected).await;
    publish(&nats, "line.out.first", batch("c", &["three"])).await.unwrap();
    until("the third", async || second.seen.lock().contains(&"three".to_owned()).then_some(()))
        .await;

    // Asked by its host it ends, and answers before.
    let ask = serde_json::json!({ "host_id": "the-host" }).to_string();
    nats.request(shutdown_subject("default", PROVIDER, "default"), ask.into()).await.unwrap();
    until("ended", async || provider.0.try_wait().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_host_is_killed_ends_by_itself() {
    let server = NatsServer::start().unwrap();
    let nats = async_nats::connect(server.url()).await.unwrap();
    let data = HostData {
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: server.url(),
        provider_key: PROVIDER.into(),
        link_definitions: vec![out_link()],
        ..HostData::default()
    };
    let line = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&data).unwrap());
    // A shell in the host's place, with the provider as its child.
    let script = format!(
        "echo {line} | {} & echo $!; sleep 100 & wait",
        env!("CARGO_BIN_EXE_millrace-conduit")
    );
    let mut host = Command::new("sh").arg("-c").arg(script).stdout(Stdio::null()).spawn().unwrap();
    state(&nats, Direction::Sink, State::Connected).await;
    host.kill().unwrap();
    host.wait().unwrap();
    until("gone", async || match status(&nats).await {
        Some(_) => None,
        None => Some(()),
    })
    .await;
}
