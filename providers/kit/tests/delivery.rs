//! Delivery against scripted stages. The stage is the kit's own seam; time is
//! tokio's paused clock, so hours of back-off take no time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::PROBE;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Link, LinkNames, Outcome, Packed, Policy, Stage,
    WriteError,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::Instant;

/// What a call does to messages of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poison {
    Traps,
    Hangs,
    AsksForRetry,
}

/// What goes wrong for a while, whatever the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Away,
    Trap,
    Hang,
    Downstream,
    Config,
    /// The batch is delivered and the answer is lost.
    AnswerLost,
}

#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    probes: u64,
    /// Delivered messages, and how often.
    delivered: BTreeMap<u64, usize>,
    ids: Vec<String>,
    attempts: Vec<String>,
    at: Vec<Instant>,
    dead: Vec<(u64, BTreeMap<String, String>)>,
    dead_ids: Vec<String>,
    /// Calls at the same time, now and at most.
    now: usize,
    most: usize,
}

/// A stage that follows a script. Its calls (probes included) are numbered.
#[derive(Debug, Default)]
struct Script {
    poison: BTreeMap<u64, Poison>,
    troubles: Vec<(Range<u64>, Trouble)>,
    dead_letters_fail: u64,
    takes: Duration,
    seen: Mutex<Seen>,
}

impl Script {
    fn trouble(&self, call: u64) -> Option<Trouble> {
        self.troubles.iter().find(|(range, _)| range.contains(&call)).map(|(_, t)| *t)
    }

    async fn answer(&self, body: Bytes) -> Result<(), CallError> {
        let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
        let probe = batch.header(PROBE).is_some();
        let call = {
            let mut seen = self.seen.lock();
            seen.calls += 1;
            seen.probes += u64::from(probe);
            seen.at.push(Instant::now());
            if !probe {
                seen.attempts.push(batch.header("attempt").unwrap_or("1").to_owned());
                seen.ids.push(batch.header("id").unwrap_or_default().to_owned());
            }
            seen.now += 1;
            seen.most = seen.most.max(seen.now);
            seen.calls - 1
        };
        tokio::time::sleep(self.takes).await;
        self.seen.lock().now -= 1;
        let trouble = self.trouble(call);
        match trouble {
            Some(Trouble::Away) => return Err(CallError::Away("nobody".into())),
            Some(Trouble::Trap) => return Err(CallError::Trap("eof".into())),
            Some(Trouble::Hang) => std::future::pending().await,
            Some(Trouble::Downstream) => return Err(CallError::Downstream("edge full".into())),
            Some(Trouble::Config) => return Err(CallError::Config("no out-subject".into())),
            Some(Trouble::AnswerLost) | None => {}
        }
        let messages: Vec<u64> = batch.messages().map(|m| m.timestamp).collect();
        match messages.iter().find_map(|m| self.poison.get(m)) {
            Some(Poison::Traps) => return Err(CallError::Trap("unreachable".into())),
            Some(Poison::Hangs) => std::future::pending().await,
            Some(Poison::AsksForRetry) => return Err(CallError::Retry("not yet".into())),
            None => {}
        }
        for message in messages {
            *self.seen.lock().delivered.entry(message).or_default() += 1;
        }
        if trouble == Some(Trouble::AnswerLost) {
            std::future::pending().await
        }
        Ok(())
    }
}

impl Stage for Script {
    fn call<'a>(
        &'a self,
        batch: Bytes,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.answer(batch))
    }
}

impl DeadLetters for Script {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(async move {
            let batch = Batch::parse(&letters).unwrap();
            let mut seen = self.seen.lock();
            if (seen.dead_ids.len() as u64) < self.dead_letters_fail {
                seen.dead_ids.push("refused".to_owned());
                return Err(WriteError::Refused { target: "dead".into(), reason: "full".into() });
            }
            seen.dead_ids.push(batch.header("id").unwrap_or_default().to_owned());
            for message in batch.messages() {
                let headers =
                    message.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                seen.dead.push((message.timestamp, headers));
            }
            Ok(())
        })
    }
}

fn policy() -> Policy {
    Policy {
        in_flight: 4,
        call_timeout: Duration::from_secs(30),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
    }
}

fn link() -> Arc<Link> {
    let names = LinkNames { pipeline: "line".into(), name: "in".into(), stage: "clean".into() };
    Arc::new(Link::new(names, Direction::Source))
}

fn batch(messages: Range<u64>) -> Packed {
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for n in messages {
        let fields = Fields { timestamp: n, topic: "t", payload: b"payload", ..Fields::default() };
        writer.push(&fields, [("unit", "C")]).unwrap();
    }
    Packed::read(writer.finish().into())
}

async fn deliver(script: Script, messages: Range<u64>) -> (Arc<Script>, Outcome, Arc<Link>) {
    let (script, link) = (Arc::new(script), link());
    let delivery = Delivery::new(script.clone(), script.clone(), link.clone(), policy());
    let outcome =
        tokio::time::timeout(Duration::from_secs(86_400), delivery.deliver(batch(messages))).await;
    (script, outcome.expect("settled within a day"), link)
}

#[tokio::test(start_paused = true)]
async fn a_healthy_batch_is_one_call() {
    let (script, outcome, link) = deliver(Script::default(), 0..500).await;
    assert_eq!(outcome, Outcome { delivered: 500, dead: 0 });
    let seen = script.seen.lock();
    assert_eq!((seen.calls, seen.probes, seen.delivered.len()), (1, 0, 500));
    let counters = link.telemetry.snapshot();
    assert_eq!((counters.messages_out, counters.batches_out, counters.in_flight), (500, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn downstream_and_config_are_retried_for_ever_with_growing_pauses() {
    for trouble in [Trouble::Downstream, Trouble::Config, Trouble::Away] {
        let (script, outcome, link) =
            deliver(Script { troubles: vec![(0..200, trouble)], ..Script::default() }, 0..3).await;
        assert_eq!(outcome, Outcome { delivered: 3, dead: 0 }, "{trouble:?}");
        let seen = script.seen.lock();
        assert_eq!((seen.calls, seen.probes), (201, 0), "no probe: the stage or nobody answered");
        let pauses: Vec<Duration> = seen.at.windows(2).map(|w| w[1] - w[0]).collect();
        let first = Duration::from_millis(50)..=Duration::from_millis(102);
        assert!(first.contains(&pauses[0]), "{:?}", pauses[0]);
        let late = pauses.last().unwrap();
        // tokio's paused clock rounds up to a millisecond.
        assert!(
            (Duration::from_secs(5)..=Duration::from_millis(10_002)).contains(late),
            "{late:?}"
        );
        assert_eq!(link.telemetry.snapshot().errors.values().sum::<u64>(), 200);
        assert_eq!(seen.attempts[199], "200", "the attempt is counted in the batch header");
    }
}

#[tokio::test(start_paused = true)]
async fn one_message_that_asks_for_retry_is_found_and_dead_lettered() {
    let script = Script { poison: [(37, Poison::AsksForRetry)].into(), ..Script::default() };
    let (script, outcome, _) = deliver(script, 0..100).await;
    assert_eq!(outcome, Outcome { delivered: 99, dead: 1 });
    let seen = script.seen.lock();
    let (message, headers) = &seen.dead[0];
    assert_eq!(*message, 37);
    assert_eq!(headers["millrace-dead-kind"], "retry");
    assert_eq!(headers["millrace-dead-text"], "not yet");
    assert_eq!(headers["millrace-dead-pipeline"], "line");
    assert_eq!(headers["millrace-dead-stage"], "clean");
    assert_eq!(headers["unit"], "C", "the message's own headers are untouched");
    assert!(
        seen.dead_ids[0].starts_with("b.") && seen.dead_ids[0].ends_with("/dead/clean"),
        "{}",
        seen.dead_ids[0]
    );
    assert!(seen.delivered.values().all(|n| *n == 1), "no duplicate");
    // Five tries of the whole, then two calls at each of seven levels at most.
    assert!(seen.calls <= 5 + 14, "{} calls", seen.calls);
}

#[tokio::test(start_paused = true)]
async fn messages_that_trap_or_hang_are_found_and_dead_lettered() {
    let poison = BTreeMap::from([(0, Poison::Traps), (250, Poison::Hangs), (499, Poison::Traps)]);
    let (script, outcome, _) = deliver(Script { poison, ..Script::default() }, 0..500).await;
    assert_eq!(outcome, Outcome { delivered: 497, dead: 3 });
    let seen = script.seen.lock();
    let dead: Vec<_> =
        seen.dead.iter().map(|(m, h)| (*m, h["millrace-dead-kind"].as_str())).collect();
    assert_eq!(dead, [(0, "trap"), (250, "timeout"), (499, "trap")]);
    assert!(seen.delivered.values().all(|n| *n == 1));
    assert!(seen.calls < 120, "bisecting is logarithmic: {} calls", seen.calls);
}

#[tokio::test(start_paused = true)]
async fn a_message_alone_that_traps_is_buried_only_after_repeated_proof() {
    let (script, outcome, _) =
        deliver(Script { poison: [(0, Poison::Traps)].into(), ..Script::default() }, 0..1).await;
    assert_eq!(outcome, Outcome { delivered: 0, dead: 1 });
    let seen = script.seen.lock();
    // One failure that no probe precedes, then three with an answered probe on both sides.
    assert_eq!((seen.calls - seen.probes, seen.probes), (4, 4));
    assert_eq!(seen.dead[0].1["millrace-dead-attempt"], "4");
}

/// A step that traps on one message in a thousand must not hold up the others: nothing waits but the message alone, for
/// two or three short pauses.
#[tokio::test(start_paused = true)]
async fn looking_for_a_message_that_traps_does_not_wait() {
    let start = tokio::time::Instant::now();
    let (script, outcome, _) =
        deliver(Script { poison: [(300, Poison::Traps)].into(), ..Script::default() }, 0..1000)
            .await;
    assert_eq!(outcome, Outcome { delivered: 999, dead: 1 });
    let pauses = Duration::from_millis(100 + 200);
    assert!(start.elapsed() <= pauses + Duration::from_millis(10), "{:?}", start.elapsed());
    assert!(script.seen.lock().calls < 50);
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_gone_for_hours_costs_no_message() {
    // Silent and trapping outages look like poison, except to the probe.
    for trouble in [Trouble::Trap, Trouble::Hang] {
        let (script, outcome, _) =
            deliver(Script { troubles: vec![(0..400, trouble)], ..Script::default() }, 0..1).await;
        assert_eq!(outcome, Outcome { delivered: 1, dead: 0 }, "{trouble:?}");
        assert!(
            script.seen.lock().probes > 300,
            "the stage is probed instead of the message tried"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_body_is_dead_lettered_whole_and_once() {
    let script = Arc::new(Script::default());
    let delivery = Delivery::new(script.clone(), script.clone(), link(), policy());
    let outcome = delivery.deliver(Packed::read(Bytes::from_static(b"\xd6MRB damaged"))).await;
    assert_eq!(outcome, Outcome { delivered: 0, dead: 1 });
    let seen = script.seen.lock();
    assert_eq!(seen.dead[0].1["millrace-dead-kind"], "batch");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_is_written_again() {
    let script =
        Script { poison: [(0, Poison::Traps)].into(), dead_letters_fail: 50, ..Script::default() };
    let (script, outcome, link) = deliver(script, 0..2).await;
    assert_eq!(outcome, Outcome { delivered: 1, dead: 1 });
    assert_eq!(script.seen.lock().dead.len(), 1);
    assert_eq!(link.telemetry.snapshot().errors["downstream"], 50);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_duplicate_with_the_same_id() {
    let (script, outcome, _) =
        deliver(Script { troubles: vec![(0..1, Trouble::AnswerLost)], ..Script::default() }, 0..2)
            .await;
    assert_eq!(outcome, Outcome { delivered: 2, dead: 0 });
    let seen = script.seen.lock();
    assert!(seen.delivered.values().all(|n| *n == 2));
    assert_eq!(seen.ids, ["b", "b"]);
}

/// Scripts in which nothing but the poison deserves the dead letters: troubles
/// that last for two calls and more, any number of them, and single-call ones
/// fewer than `suspect_after`.
fn scripts() -> impl Strategy<Value = (u64, Script)> {
    let poison = prop_oneof![Just(Poison::Traps), Just(Poison::Hangs), Just(Poison::AsksForRetry)];
    let trouble = || {
        prop_oneof![
            Just(Trouble::Away),
            Just(Trouble::Trap),
            Just(Trouble::Hang),
            Just(Trouble::Downstream),
            Just(Trouble::Config),
            Just(Trouble::AnswerLost),
        ]
    };
    let long = proptest::collection::vec((1_u64..30, 2_u64..40, trouble()), 0..6);
    let short = proptest::collection::vec((0_u64..60, trouble()), 0..3);
    (1_u64..40, proptest::collection::btree_map(0_u64..40, poison, 0..5), long, short).prop_map(
        |(messages, poison, long, short)| {
            let mut troubles: Vec<_> = short.into_iter().map(|(at, t)| (at..at + 1, t)).collect();
            let mut from = 0;
            for (gap, length, trouble) in long {
                from += gap;
                troubles.push((from..from + length, trouble));
                from += length;
            }
            // A lost answer delivers: only outages may last.
            troubles.retain(|(range, t)| *t != Trouble::AnswerLost || range.end - range.start == 1);
            (messages, Script { poison, troubles, dead_letters_fail: 1, ..Script::default() })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_message_ends_exactly_once_and_no_outage_kills_one((messages, script) in scripts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (script, outcome, link) = runtime.block_on(deliver(script, 0..messages));
        let seen = script.seen.lock();
        let poison: BTreeSet<u64> = script.poison.keys().copied().filter(|m| *m < messages).collect();
        let dead: Vec<u64> = seen.dead.iter().map(|(m, _)| *m).collect();
        let healthy: BTreeSet<u64> = (0..messages).filter(|m| !poison.contains(m)).collect();
        // Exactly the poison is dead, each once; exactly the rest is delivered, at least once.
        prop_assert_eq!(dead.len(), poison.len());
        prop_assert_eq!(dead.into_iter().collect::<BTreeSet<_>>(), poison);
        prop_assert_eq!(seen.delivered.keys().copied().collect::<BTreeSet<_>>(), healthy.clone());
        prop_assert_eq!(outcome, Outcome { delivered: healthy.len(), dead: seen.dead.len() });
        prop_assert_eq!(link.telemetry.snapshot().in_flight, 0);
    }
}
