//! How many batches are in flight where their number adapts.

use std::sync::atomic::AtomicUsize;

use super::*;

/// A far end that does so many calls at once, 20 ms each.
struct Slow {
    servers: tokio::sync::Semaphore,
    calls: AtomicUsize,
}

impl Slow {
    fn new(servers: usize) -> Arc<Self> {
        Arc::new(Self { servers: tokio::sync::Semaphore::new(servers), calls: 0.into() })
    }
}

impl Stage for Slow {
    fn call<'a>(&'a self, _: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let _server = self.servers.acquire().await.unwrap();
            sleep(Duration::from_millis(20)).await;
            self.calls.fetch_add(1, SeqCst);
            Ok(())
        })
    }
}

impl DeadLetters for Slow {
    fn accept(&self, _: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How long a far end takes for `batches` that wait, and the window at every look.
async fn run(servers: usize, batches: usize, adaptive: bool) -> (Duration, Vec<u64>) {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..batches as u64 {
        publisher.write(batch(&format!("b{n}"), n, 1, 100)).await.unwrap();
    }
    let far = Slow::new(servers);
    let link = link("first.second", "second", Direction::Source);
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy()));
    let client = client(&server).await;
    let consumer = Consumer::new(client, edge("first.second"), EdgeSettings::default(), LIMITS);
    let consumer = if adaptive { consumer.adaptive() } else { consumer };
    let start = Instant::now();
    let task = tokio::spawn(Box::new(consumer).run(link.clone(), delivery));
    let mut windows = Vec::new();
    while far.calls.load(SeqCst) < batches {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", far.calls.load(SeqCst));
        windows.extend(link.telemetry.snapshot().window);
        sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed();
    link.drain.cancel();
    task.await.unwrap();
    (took, windows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_takes_its_time_gets_more_in_flight() {
    let (fixed, windows) = run(1_000, 1_000, false).await;
    assert!(windows.iter().all(|window| *window == 4));
    let (adaptive, windows) = run(1_000, 1_000, true).await;
    println!("20 ms a call: {fixed:?} with 4 in flight, {adaptive:?} with as many as are worth it");
    assert_eq!(windows.iter().max(), Some(&32));
    assert!(adaptive * 3 < fixed, "{adaptive:?} against {fixed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_does_one_after_another_gets_few_in_flight() {
    let (took, mut windows) = run(1, 300, true).await;
    windows.sort_unstable();
    let (median, most) = (windows[windows.len() / 2], windows[windows.len() - 1]);
    println!("one call at a time: {took:?}, window {median}, at most {most}");
    assert!(median <= 8 && most <= 12, "{median}, at most {most}");
}
