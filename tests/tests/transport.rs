//! The mended crates (patches/README.md says what was wrong): a million calls, none lost; a server that says nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millrace_peers::NatsServer;
use tokio::io::AsyncWriteExt as _;

mod bindings {
    wit_bindgen_wrpc::generate!({
        inline: "
            package test:calls;
            interface echo { echo: func(n: u32) -> u32; }
            world calls { import echo; export echo; }
        ",
        world: "calls",
    });
}

const CALLS: u32 = 1_000_000;
const IN_FLIGHT: u32 = 64;

/// A call that takes this long is lost: the server answers in microseconds.
const LOST: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Echo;

impl bindings::exports::test::calls::echo::Handler<Option<async_nats::HeaderMap>> for Echo {
    async fn echo(&self, _: Option<async_nats::HeaderMap>, n: u32) -> anyhow::Result<u32> {
        Ok(n)
    }
}

async fn client(url: &str, group: Option<&str>) -> wrpc_transport_nats::Client {
    let nats = Arc::new(async_nats::connect(url).await.unwrap());
    wrpc_transport_nats::Client::new(nats, "test.echo", group.map(Arc::from)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_wrpc_calls_lose_none() {
    // Without a subscriber the transport renders every payload as text that nobody reads.
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::ERROR).init();
    let server = NatsServer::start().unwrap();
    let serving = client(&server.url(), Some("test.echo")).await;
    let invocations = bindings::serve(&serving, Echo).await.unwrap();
    let mut invocations =
        futures::stream::select_all(invocations.into_iter().map(|(_, _, stream)| stream));
    tokio::spawn(async move {
        while let Some(Ok(invocation)) = invocations.next().await {
            tokio::spawn(invocation);
        }
    });

    let calling = Arc::new(client(&server.url(), None).await);
    let start = Instant::now();
    let tasks = (0..IN_FLIGHT).map(|task| {
        let calling = Arc::clone(&calling);
        tokio::spawn(async move {
            let mut lost = 0_u32;
            for n in (task..CALLS).step_by(IN_FLIGHT as usize) {
                let call = bindings::test::calls::echo::echo(&*calling, None, n);
                match tokio::time::timeout(LOST, call).await {
                    Ok(Ok(answer)) => assert_eq!(answer, n),
                    Ok(Err(_)) | Err(_) => lost += 1,
                }
            }
            lost
        })
    });
    let lost: u32 = futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    let rate = f64::from(CALLS) / start.elapsed().as_secs_f64();
    println!("{CALLS} calls, {lost} lost, {rate:.0} calls/s");
    assert_eq!(lost, 0);
}

/// The client of NATS looks further when what has accepted its connection says nothing, before or after its greeting.
#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_left() {
    const PATIENCE: Duration = Duration::from_secs(1);
    const INFO: &str =
        "INFO {\"server_id\":\"gone\",\"version\":\"2.10.0\",\"max_payload\":1024}\r\n";
    let mut server = NatsServer::start().unwrap();
    let url = server.url();
    let options = async_nats::ConnectOptions::new().connection_timeout(PATIENCE);
    let client = options.connect(&url).await.unwrap();
    let address = url.trim_start_matches("nats://");

    for greeting in ["", INFO] {
        server.kill().unwrap();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let (mut silent, _) = listener.accept().await.unwrap();
        drop(listener);
        silent.write_all(greeting.as_bytes()).await.unwrap();
        server.restart().unwrap();

        let start = Instant::now();
        while tokio::time::timeout(PATIENCE, client.flush()).await.is_err()
            || client.connection_state() != async_nats::connection::State::Connected
        {
            assert!(start.elapsed() < 10 * PATIENCE, "it waits for ever after {greeting:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let waited = start.elapsed();
        println!("{waited:.1?} after {greeting:?}");
        drop(silent);
    }
}
