//! The inlet: batching, the window, tokens and back-pressure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, Fields};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Inlet, Limits, Link, LinkNames, Policy, PushError,
    Stage, WriteError,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A stage that answers when it is let.
struct Gate {
    open: Semaphore,
    calls: Mutex<Vec<(usize, String, String)>>,
    most: Mutex<(usize, usize)>,
}

impl Gate {
    fn new(open: usize) -> Arc<Self> {
        Arc::new(Self {
            open: Semaphore::new(open),
            calls: Mutex::default(),
            most: Mutex::default(),
        })
    }
}

impl Stage for Gate {
    fn call<'a>(
        &'a self,
        batch: Bytes,
        trace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let parsed = Batch::parse(&batch).unwrap();
            assert_eq!(parsed.header("traceparent"), trace);
            assert_eq!(parsed.header("attempt"), Some("1"));
            self.calls.lock().push((
                parsed.len(),
                parsed.header("id").unwrap().to_owned(),
                trace.unwrap().to_owned(),
            ));
            {
                let mut most = self.most.lock();
                most.0 += 1;
                most.1 = most.1.max(most.0);
            }
            self.open.acquire().await.unwrap().forget();
            self.most.lock().0 -= 1;
            Ok(())
        })
    }
}

struct NoDeadLetters;

impl DeadLetters for NoDeadLetters {
    fn accept(&self, _: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        panic!("no message of these tests dies")
    }
}

fn inlet(stage: Arc<Gate>, limits: Limits) -> (Inlet<u64>, Arc<Link>) {
    let names = LinkNames { pipeline: "line".into(), name: "in".into(), stage: "clean".into() };
    let link = Arc::new(Link::new(names, Direction::Source));
    let policy = Policy {
        in_flight: 3,
        call_timeout: Duration::from_secs(3_600),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_secs(1),
    };
    let delivery = Arc::new(Delivery::new(stage, Arc::new(NoDeadLetters), link.clone(), policy));
    (Inlet::new(delivery, link.clone(), limits), link)
}

fn limits() -> Limits {
    Limits { messages: 10, bytes: 10_000, linger: Duration::from_millis(5) }
}

fn message(payload: &[u8]) -> Fields<'_> {
    Fields { timestamp: 1, topic: "t", payload, ..Fields::default() }
}

#[tokio::test(start_paused = true)]
async fn fills_by_count() {
    let gate = Gate::new(100);
    let (mut inlet, link) = inlet(gate.clone(), limits());
    for n in 0..20 {
        inlet.push(&message(b"x"), &[], n).unwrap();
    }
    let mut tokens = inlet.settled().await;
    tokens.extend(inlet.settled().await);
    assert_eq!(tokens.into_iter().collect::<BTreeSet<_>>(), (0..20).collect());
    assert!(inlet.is_idle());
    let calls = gate.calls.lock();
    assert_eq!(calls.iter().map(|c| c.0).collect::<Vec<_>>(), [10, 10]);
    assert_ne!(calls[0].1, calls[1].1, "ids differ");
    assert_ne!(calls[0].2, calls[1].2, "traces differ");
    let counters = link.telemetry.snapshot();
    assert_eq!((counters.messages_in, counters.bytes_in, counters.messages_out), (20, 20, 20));
}

#[tokio::test(start_paused = true)]
async fn fills_by_bytes_and_takes_a_large_message_alone() {
    let gate = Gate::new(100);
    let (mut inlet, _) = inlet(gate.clone(), limits());
    for n in 0..3 {
        inlet.push(&message(&[0; 4_000]), &[], n).unwrap();
    }
    inlet.push(&message(&[0; 20_000]), &[], 3).unwrap();
    inlet.flush();
    let mut tokens = BTreeSet::new();
    while !inlet.is_idle() {
        tokens.extend(inlet.settled().await);
    }
    assert_eq!(tokens, (0..4).collect());
    let mut sizes: Vec<_> = gate.calls.lock().iter().map(|c| c.0).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_single_message_waits_for_the_linger_and_no_longer() {
    let gate = Gate::new(100);
    let (mut inlet, _) = inlet(gate, limits());
    let start = Instant::now();
    inlet.push(&message(b"x"), &[], 7).unwrap();
    assert_eq!(inlet.settled().await, [7]);
    let took = start.elapsed();
    assert!((Duration::from_millis(5)..Duration::from_millis(8)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_window_is_bounded_and_what_is_held_is_known() {
    let gate = Gate::new(0);
    let (mut inlet, link) = inlet(gate.clone(), limits());
    for n in 0..100 {
        assert!(inlet.has_room(100, 1_000_000));
        inlet.push(&message(b"x"), &[], n).unwrap();
    }
    assert!(!inlet.has_room(100, 1_000_000), "a hundred messages are held");
    assert!(!inlet.has_room(1_000, 100), "bytes are held too");
    assert!(tokio::time::timeout(Duration::from_secs(60), inlet.settled()).await.is_err());
    assert_eq!(gate.calls.lock().len(), 3, "no more calls than the window");
    assert_eq!(link.telemetry.snapshot().in_flight, 3);
    gate.open.add_permits(1_000);
    let mut tokens = BTreeSet::new();
    while !inlet.is_idle() {
        tokens.extend(inlet.settled().await);
    }
    assert_eq!(tokens, (0..100).collect());
    assert_eq!(gate.most.lock().1, 3);
    assert!(inlet.has_room(1, 1), "all of it is given back");
}

#[tokio::test(start_paused = true)]
async fn settled_can_be_cancelled_without_losing_tokens() {
    let gate = Gate::new(10_000);
    let (mut inlet, _) = inlet(gate, limits());
    let mut tokens = BTreeSet::new();
    for n in 0..500_u64 {
        inlet.push(&message(b"x"), &[], n).unwrap();
        // Cancelled after a time that falls before, on and after the linger.
        let wait = Duration::from_micros(n % 7 * 1_000);
        if let Ok(some) = tokio::time::timeout(wait, inlet.settled()).await {
            tokens.extend(some);
        }
    }
    while !inlet.is_idle() {
        tokens.extend(inlet.settled().await);
    }
    assert_eq!(tokens, (0..500).collect());
}

#[tokio::test(start_paused = true)]
async fn a_message_no_batch_can_carry_is_refused_and_the_rest_goes_on() {
    let gate = Gate::new(100);
    let (mut inlet, _) = inlet(gate, limits());
    inlet.push(&message(b"x"), &[], 1).unwrap();
    let huge = vec![0; 1 << 20];
    assert!(matches!(inlet.push(&message(&huge), &[], 2), Err(PushError::TooLarge { .. })));
    let long = "t".repeat(70_000);
    assert!(matches!(
        inlet.push(&Fields { topic: &long, ..message(b"x") }, &[], 3),
        Err(PushError::Format(_))
    ));
    inlet.push(&message(b"x"), &[("k", "v")], 4).unwrap();
    let mut tokens = BTreeSet::new();
    while !inlet.is_idle() {
        tokens.extend(inlet.settled().await);
    }
    assert_eq!(tokens, BTreeSet::from([1, 4]));
}
