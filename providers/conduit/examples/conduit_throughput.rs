//! Messages a second through one edge: publisher, nats-server and consumer on
//! this machine, a stage that does nothing. 200 B messages, 500 a batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_conduit::{Consumer, Edge, Publisher, Spills, States};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, WriteError,
};
use millrace_settings::edge::EdgeSettings;

#[derive(Default)]
struct Count(AtomicU64);

impl Stage for Count {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        self.0.fetch_add(Batch::open(&body).unwrap().len() as u64, Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl DeadLetters for Count {
    fn accept(&self, _: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn link(direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: "a.b".into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let server = millrace_peers::NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let edge = Edge::new("bench", "p", "a.b").unwrap();
    let settings = EdgeSettings::default();
    let publisher = Publisher::open(
        &client,
        vec![(edge.clone(), settings.clone())],
        link(Direction::Sink),
        &Spills::default(),
        &States::default(),
    );
    let (count, source) = (Arc::new(Count::default()), link(Direction::Source));
    let policy = Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(30),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
    };
    let delivery = Arc::new(Delivery::new(count.clone(), count.clone(), source.clone(), policy));
    let consuming = async_nats::connect(server.url()).await.unwrap();
    let limits = Limits { messages: 500, bytes: 256 << 10, linger: Duration::ZERO };
    tokio::spawn(Box::new(Consumer::new(consuming, edge, settings, limits)).run(source, delivery));

    let seconds = 10;
    let start = Instant::now();
    let payload = [b'x'; 200];
    let batches = (0_u64..).map(|n| {
        let mut writer =
            BatchWriter::with_capacity([("id", n.to_string().as_str())], 130_000).unwrap();
        for _ in 0..500 {
            writer
                .push(
                    &Fields { timestamp: n, topic: "t", payload: &payload, ..Fields::default() },
                    [],
                )
                .unwrap();
        }
        Bytes::from(writer.finish())
    });
    let sent = AtomicU64::new(0);
    futures::stream::iter(batches.take_while(|_| start.elapsed() < Duration::from_secs(seconds)))
        .for_each_concurrent(8, |batch| {
            let (publisher, sent) = (&publisher, &sent);
            async move {
                while publisher.write(batch.clone()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                sent.fetch_add(500, Relaxed);
            }
        })
        .await;
    while count.0.load(Relaxed) < sent.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (total, took) = (count.0.load(Relaxed), start.elapsed().as_secs_f64());
    println!("{total} messages in {took:.2} s: {:.0} messages/s", total as f64 / took);
}
