//! Metrics and trace headers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::peer::{Note, Outside, Peer};
use crate::rig::{self, PATIENCE};
use crate::stage::TestStage;

/// A trace from outside (W3C Trace Context, section 3.2.2.5).
const TRACE: [(&str, &str); 3] = [
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "rojo=00f067aa0ba902b7"),
    ("unit", "C"),
];

fn with_trace(number: u64) -> Note {
    let headers = TRACE.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Note { headers, ..Note::new(number) }
}

pub(super) async fn source_counts<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    // An answer that takes time: the lag has to show it.
    stage.slow(Duration::from_millis(10));
    let run = rig::source_to(peer, &stage).await?;
    let (mut messages, mut bytes) = (1, 1);
    match peer.abilities().outside {
        Outside::Log => {
            let notes = Note::all(0..20);
            messages = notes.len() as u64;
            bytes = notes.iter().map(|note| note.payload().len() as u64).sum();
            peer.produce(&notes).await?;
            run.sees(peer, 0..20).await?;
        }
        Outside::State { .. } => run.takes(peer, 1).await?,
    }
    rig::until("what was taken is counted as safe", PATIENCE, || {
        let counters = run.counters();
        counters.messages_out == counters.messages_in && counters.in_flight == 0
    })
    .await?;
    let counters = run.counters();
    let exact = peer.abilities().outside == Outside::Log;
    ensure!(
        counters.messages_in >= messages && (!exact || counters.messages_in == messages),
        "{messages} messages came in: {counters:?}"
    );
    ensure!(counters.bytes_in >= bytes, "{bytes} bytes came in: {counters:?}");
    ensure!(counters.batches_out >= 1 && counters.bytes_out > 0, "what went out: {counters:?}");
    ensure!(
        counters.lag_last_us >= 10_000 && counters.lag_max_us >= counters.lag_last_us,
        "the lag does not show the 10 ms of the stage: {counters:?}"
    );
    let (calls, acknowledged) = (&counters.calls, &counters.acknowledged);
    ensure!(
        calls.count() >= counters.batches_out && calls.sum_us >= 10_000,
        "the calls do not show the 10 ms of the stage: {counters:?}"
    );
    ensure!(acknowledged.count() >= 1, "no time to an acknowledgement: {counters:?}");
    ensure!(counters.errors.is_empty(), "errors without a fault: {counters:?}");
    run.drain().await
}

pub(super) async fn sink_counts<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    let notes: Vec<Note> = (0..20).map(|number| Note::new(rig::state(peer, number))).collect();
    run.writes(peer, &notes).await?;
    let counters = run.counters();
    ensure!(
        counters.messages_in == 20 && counters.messages_out == 20 && counters.batches_out == 1,
        "20 messages in one batch: {counters:?}"
    );
    ensure!(counters.bytes_in > 0 && counters.bytes_out > 0, "bytes: {counters:?}");
    ensure!(counters.lag_last_us > 0 && counters.lag_max_us >= counters.lag_last_us, "lag");
    ensure!(counters.in_flight == 0, "in flight: {counters:?}");
    ensure!(counters.errors.is_empty(), "errors without a fault: {counters:?}");
    run.close().await
}

pub(super) async fn errors_are_counted<P: Peer>(peer: &mut P) -> Result<()> {
    let stage = Arc::new(TestStage::default());
    let run = rig::source_to(peer, &stage).await?;
    stage.fail(2);
    run.takes(peer, 1).await?;
    rig::until("the failed calls have been repeated", PATIENCE, || stage.still_failing() == 0)
        .await?;
    let counters = run.counters();
    ensure!(counters.errors.get("downstream") == Some(&2), "two of downstream: {counters:?}");
    let last = counters.last_error.context("no last error is kept")?;
    ensure!(
        last.kind == "downstream" && last.text.contains("refused by the check") && last.at_ms > 0,
        "the last error: {last:?}"
    );
    run.drain().await
}

pub(super) async fn batches_carry_a_trace<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    run.takes(peer, 1).await?;
    run.takes(peer, 2).await?;
    let calls = run.stage.calls();
    let mut ids = std::collections::BTreeSet::new();
    for call in &calls {
        let of = |name: &str| call.headers.get(name).cloned().unwrap_or_default();
        ensure!(of("attempt") == "1", "attempt: {:?}", call.headers);
        ensure!(ids.insert(of("id")) && !of("id").is_empty(), "id: {:?}", call.headers);
        let trace = of("traceparent");
        let parts: Vec<usize> = trace.split('-').map(str::len).collect();
        ensure!(parts == [2, 32, 16, 2], "traceparent: {:?}", call.headers);
        ensure!(call.traceparent == Some(trace), "not given beside the call: {call:?}");
    }
    run.drain().await
}

pub(super) async fn source_carries_headers<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::source(peer).await?;
    peer.produce(&[with_trace(1)]).await?;
    run.sees(peer, 1..2).await?;
    let seen = run.stage.seen();
    let seen = seen.first().context("a message")?;
    for (name, value) in TRACE {
        ensure!(seen.header(name) == Some(value), "{name} is not carried: {seen:?}");
    }
    run.drain().await
}

pub(super) async fn sink_carries_headers<P: Peer>(peer: &mut P) -> Result<()> {
    let run = rig::sink(peer).await?;
    run.writes(peer, &[with_trace(1)]).await?;
    let notes = rig::outside_has(peer, 1..2).await?;
    let note = notes.first().context("a message")?;
    for (name, value) in TRACE {
        ensure!(
            note.headers.iter().any(|(key, found)| key == name && found == value),
            "{name} is not carried: {note:?}"
        );
    }
    run.close().await
}
