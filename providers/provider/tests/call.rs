//! What a caller sees when a call to a stage goes wrong, over a real
//! nats-server. The server side answers as a wasmCloud host does: a trap is an
//! error of the handler, for which the transport sends no result.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt;
use millrace_kit::{CallError, Stage};
use millrace_peers::NatsServer;
use millrace_provider::call::WrpcStage;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use wasmcloud_provider_sdk::ProviderConnection;

#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
mod component {
    wit_bindgen_wrpc::generate!({ world: "component", path: "wit", generate_all });
}

use component::exports::wasmcloud::messaging::handler::{BrokerMessage, Handler};

/// A component that does what the body says.
#[derive(Clone, Default)]
struct Component {
    headers: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Handler<Option<HeaderMap>> for Component {
    async fn handle_message(
        &self,
        context: Option<HeaderMap>,
        message: BrokerMessage,
    ) -> anyhow::Result<Result<(), String>> {
        self.headers.lock().push(context.unwrap_or_default());
        match &message.body[..] {
            b"trap" => anyhow::bail!("wasm trap: unreachable"),
            b"hang" => std::future::pending().await,
            other if other.starts_with(b"error ") => {
                Ok(Err(String::from_utf8_lossy(&other[6..]).into_owned()))
            }
            _ => Ok(Ok(())),
        }
    }
}

async fn serve(nats: async_nats::Client, id: &str) -> (Component, JoinHandle<()>) {
    let prefix = format!("default.{id}");
    let client = wrpc_transport_nats::Client::new(
        nats.clone(),
        prefix.as_str(),
        Some(prefix.as_str().into()),
    )
    .await
    .unwrap();
    let component = Component::default();
    let exports = component::serve(&client, component.clone()).await.unwrap();
    // The caller has another connection: the subscription has to be known first.
    nats.flush().await.unwrap();
    let mut calls = futures::stream::select_all(exports.into_iter().map(|(_, _, calls)| calls));
    let task = tokio::spawn(async move {
        let _client = client;
        while let Some(call) = calls.next().await {
            tokio::spawn(async move {
                let _ = call.unwrap().await;
            });
        }
    });
    (component, task)
}

async fn stage(server: &NatsServer, id: &str) -> WrpcStage {
    let nats = async_nats::connect(server.url()).await.unwrap();
    let key = nkeys::XKey::new;
    let connection = ProviderConnection::new(
        nats,
        "the-provider",
        "default",
        "host".into(),
        HashMap::new(),
        key(),
        key(),
    )
    .unwrap();
    let client = connection.get_wrpc_client_custom(id, Some(Duration::from_secs(5))).await.unwrap();
    WrpcStage::new(client, "line.in.x".into())
}

fn log() {
    let _ = tracing_subscriber::fmt().with_env_filter("warn").with_test_writer().try_init();
}

async fn call(stage: &WrpcStage, body: &'static [u8]) -> Result<(), CallError> {
    let calling = stage.call(Bytes::from_static(body), Some("00-1-2-01"));
    tokio::time::timeout(Duration::from_secs(5), calling).await.expect("known at once")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_failures_are_told_apart() {
    log();
    let server = NatsServer::start().unwrap();
    let stage = stage(&server, "stage-1").await;

    let away = call(&stage, b"ok").await;
    assert!(matches!(away, Err(CallError::Away(_))), "nobody serves it: {away:?}");

    let (component, task) =
        serve(async_nats::connect(server.url()).await.unwrap(), "stage-1").await;
    let start = std::time::Instant::now();
    // Right after it began to serve, a call can still find nobody; it is made again, as every caller does.
    let first = loop {
        match call(&stage, b"ok").await {
            Err(CallError::Away(_)) if start.elapsed() < Duration::from_secs(5) => {}
            answer => break answer,
        }
    };
    assert_eq!(first, Ok(()));
    assert_eq!(
        call(&stage, b"error downstream: full").await,
        Err(CallError::Downstream("full".into()))
    );
    assert_eq!(call(&stage, b"error retry: later").await, Err(CallError::Retry("later".into())));
    let trap = call(&stage, b"trap").await;
    assert!(matches!(trap, Err(CallError::Trap(_))), "{trap:?}");
    assert_eq!(call(&stage, b"ok").await, Ok(()), "the client lives on");

    let hang = stage.call(Bytes::from_static(b"hang"), None);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), hang).await.is_err(),
        "silence is the kit's to limit"
    );

    // The trace goes along, and so does who calls.
    let headers = component.headers.lock()[0].clone();
    assert_eq!(headers.get("traceparent").unwrap().as_str(), "00-1-2-01");
    assert_eq!(headers.get("source-id").unwrap().as_str(), "the-provider");

    // A host that ends: its subscription goes with it.
    task.abort();
    let _ = task.await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let away = call(&stage, b"ok").await;
    assert!(matches!(away, Err(CallError::Away(_))), "{away:?}");
}
