//! How long one message takes from source to sink: alone, and while as much else is under way as half of what the same
//! path was just seen to carry.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use millrace_platform::Sync;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::lab::Lab;
use crate::lattice::{Sink, Source, one_stage};
use crate::load::Times;
use crate::mqtt::Pipeline;
use crate::parts::{BATCH, PAYLOAD, Template, probe};
use crate::report::Row;
use crate::stage::{Echo, through};
use crate::{Effort, progress};

/// Between the answer to one probe and the next.
const PAUSE: Duration = Duration::from_millis(2);

/// Between two messages of an idle machine. Above the 5 ms that a source waits for others to fill its batch.
const IDLE_PAUSE: Duration = Duration::from_millis(15);

/// A message arrives within this time.
const ARRIVES: Duration = Duration::from_secs(20);

/// Measures all rows.
///
/// # Errors
///
/// A server does not start, or a message does not arrive.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = through_a_stage(effort).await?;
    rows.extend(through_a_pipeline(effort).await?);
    Ok(rows)
}

async fn through_a_stage(effort: Effort) -> anyhow::Result<Vec<Row>> {
    progress("latency: one message through one stage");
    let probes = effort.of(2000);
    Lab::host(Sync::Interval, async |lab| {
        let (source, mut sink) = one_stage(lab).await?;
        let echo = Echo::start(lab).await?;
        let bare = echo.load(&probe(0)?, probes, 1).await?;
        let idle = probe_times(&source, &mut sink, probes).await?;

        let body = Template::new(BATCH, PAYLOAD)?.body();
        let most = through(&source, &sink, &body, effort.of(1000), 16, BATCH).await?.rate();
        let mut background = JoinSet::new();
        background.spawn(steady(source.clone(), body, most / 2.0));
        let busy = probe_times(&source, &mut sink, probes).await?;
        drop(background);

        let row = |what: &str, times: &Times| {
            Row::new("latency", format!("one stage, {what}: p50"), times.quantile_us(0.5), "us")
                .over(bare.times.quantile_us(0.5))
                .detail("p99 us", times.quantile_us(0.99))
                .detail("bare p99 us", bare.times.quantile_us(0.99))
        };
        let half = most / 2.0 * BATCH as f64;
        Ok(vec![row("idle", &idle), row("half load", &busy).detail("load messages/s", half)])
    })
    .await
}

/// Sends messages alone, one after the other.
async fn probe_times(source: &Source, sink: &mut Sink, probes: usize) -> anyhow::Result<Times> {
    while sink.probes.try_recv().is_ok() {}
    let mut times = Vec::with_capacity(probes);
    for number in 0..probes {
        source.call(probe(number)?).await?;
        let arrival = tokio::time::timeout(ARRIVES, sink.probes.recv()).await;
        times.push(arrival.context("a message did not arrive")?.context("the sink has ended")?);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Times::new(times))
}

/// Calls at a steady rate, whether or not earlier calls have been answered, until it is dropped.
async fn steady(source: Source, body: Bytes, calls_a_second: f64) {
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / calls_a_second.max(1.0)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    loop {
        tick.tick().await;
        let (source, body) = (source.clone(), body.clone());
        // A call that fails is no load; the probes notice when something is wrong.
        calls.spawn(async move { drop(source.call(body).await) });
        while calls.try_join_next().is_some() {}
    }
}

async fn through_a_pipeline(effort: Effort) -> anyhow::Result<Vec<Row>> {
    progress("latency: one message through a whole pipeline, MQTT to MQTT");
    Lab::host(Sync::Always, async |lab| {
        let mut pipeline = Pipeline::deploy(lab).await?;
        let mut idle = Vec::new();
        for _ in 0..effort.of(300) {
            pipeline.send().await?;
            idle.push(pipeline.arrival().await?);
            tokio::time::sleep(IDLE_PAUSE).await;
        }
        let idle = Times::new(idle);
        let most = most(&mut pipeline, effort.of(50_000)).await?;
        let half = most / 2.0;
        let busy =
            at_rate(&mut pipeline, half, Duration::from_secs(if effort.quick { 1 } else { 6 }))
                .await?;
        let row = |what: &str, times: &Times| {
            let what = format!("MQTT, two stages, durable edge (sync always), MQTT, {what}: p50");
            Row::new("latency", what, times.quantile_us(0.5), "us")
                .detail("p99 us", times.quantile_us(0.99))
                .detail("messages", times.len() as f64)
        };
        Ok(vec![
            row("idle", &idle),
            row("half load", &busy).detail("load messages/s", half).detail("most messages/s", most),
        ])
    })
    .await
}

/// Messages a second when the machine publishes as fast as the broker takes them.
async fn most(pipeline: &mut Pipeline, messages: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    let machine = pipeline.machine();
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        for _ in 0..messages {
            machine.send().await?;
        }
        anyhow::Ok(())
    });
    for _ in 0..messages {
        pipeline.arrival().await?;
    }
    let elapsed = start.elapsed();
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(messages as f64 / elapsed.as_secs_f64())
}

/// Times of all messages at a steady rate.
async fn at_rate(pipeline: &mut Pipeline, rate: f64, time: Duration) -> anyhow::Result<Times> {
    let machine = pipeline.machine();
    let messages = (rate * time.as_secs_f64()) as usize;
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let start = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut sent = 0;
        while sent < messages {
            tick.tick().await;
            let due = ((start.elapsed().as_secs_f64() * rate) as usize).min(messages);
            while sent < due {
                machine.send().await?;
                sent += 1;
            }
        }
        anyhow::Ok(())
    });
    let mut times = Vec::with_capacity(messages);
    for _ in 0..messages {
        times.push(pipeline.arrival().await?);
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(Times::new(times))
}
