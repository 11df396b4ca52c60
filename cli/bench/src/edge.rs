//! Two stages with a durable edge between them: this process calls the first, the conduit's process keeps the batches in
//! JetStream and calls the second, and this process takes its output. Beside it bare JetStream with the same bodies: a
//! publish that waits for its acknowledgement, and a pull with an acknowledgement for each.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::context::Publish;
use futures::StreamExt as _;
use millrace_conduit::Edge;
use millrace_platform::Sync;
use millrace_settings::edge::EdgeSettings;

use crate::lab::{LATTICE, Lab};
use crate::lattice::{Sink, Source, durable_edge};
use crate::load::{drive, median};
use crate::parts::{BATCH, PAYLOAD, Template};
use crate::report::{Aim, Row};
use crate::{Effort, progress};

/// Messages a second, with 16 in flight.
const AIM: f64 = 200_000.0;

/// Everything has arrived within this time after the last call.
const DRAIN: Duration = Duration::from_secs(120);

/// What is measured: in flight at source and conduit, and when the server writes through.
const LOADS: [(usize, Sync); 3] = [(4, Sync::Interval), (16, Sync::Interval), (16, Sync::Always)];

/// Settings of the edge. Room for a whole run, so that a full edge does not hold back the source.
pub(crate) fn settings() -> EdgeSettings {
    EdgeSettings { max_bytes: millrace_settings::Bytes::from_bytes(2 << 30), ..Default::default() }
}

/// Measures all rows.
///
/// # Errors
///
/// A server does not start, a call is not answered, or messages do not arrive.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (in_flight, sync) in LOADS {
        rows.push(measure_one(effort, in_flight, sync).await?);
    }
    Ok(rows)
}

async fn measure_one(effort: Effort, in_flight: usize, sync: Sync) -> anyhow::Result<Row> {
    let sync_text = match sync {
        Sync::Interval => "sync every 2 min",
        Sync::Always => "sync always",
    };
    progress(format!("edge: {in_flight} in flight, {sync_text}"));
    let template = Template::new(BATCH, PAYLOAD)?;
    let batches = effort.of(600);
    let (mut edged, mut bare) = (Vec::new(), Vec::new());
    Lab::host(sync, async |lab| {
        let (source, sink) = durable_edge(lab, in_flight as u64).await?;
        for round in 0..effort.rounds() {
            // Other ids in each round: a repeated one would be dropped.
            let first = round * batches;
            bare.push(bare_rate(lab, &template, first, batches, in_flight).await?);
            edged.push(edge_rate(&source, &sink, &template, first, batches, in_flight).await?);
        }
        Ok(())
    })
    .await?;
    let (edged, bare) = (median(edged) * BATCH as f64, median(bare) * BATCH as f64);
    let what = format!("{PAYLOAD} B in batches of {BATCH}, {in_flight} in flight, {sync_text}");
    let row = Row::new("edge", what, edged, "messages/s")
        .over(bare)
        .detail("MB/s", edged * PAYLOAD as f64 / 1e6);
    Ok(if in_flight == 16 { row.aim(Aim::AtLeast(AIM)) } else { row })
}

/// Batches a second from the first call to the last message at the sink.
async fn edge_rate(
    source: &Source,
    sink: &Sink,
    template: &Template,
    first: usize,
    batches: usize,
    in_flight: usize,
) -> anyhow::Result<f64> {
    let wanted = sink.messages() + (batches * BATCH) as u64;
    let start = Instant::now();
    let (source, template) = (source.clone(), template.clone());
    drive(batches, in_flight, move |number| {
        let (source, body) = (source.clone(), template.numbered(first + number).0);
        async move { source.call_until_taken(body).await }
    })
    .await?;
    sink.reaches(wanted, DRAIN).await?;
    let elapsed = start.elapsed();
    anyhow::ensure!(sink.messages() == wanted, "more messages arrived than were sent");
    Ok(batches as f64 / elapsed.as_secs_f64())
}

/// Batches a second from the first publish to the last acknowledgement, with the stream and the consumer of an edge.
async fn bare_rate(
    lab: &Lab,
    template: &Template,
    first: usize,
    batches: usize,
    in_flight: usize,
) -> anyhow::Result<f64> {
    let edge = Edge::new(LATTICE, "bare", "first.second")?;
    let publishing = async_nats::jetstream::new(lab.connect().await?);
    let consuming = async_nats::jetstream::new(lab.connect().await?);
    let (stream, _) = edge.ensure_stream(&consuming, &settings()).await?;
    stream.create_consumer(edge.consumer_config(in_flight)).await?;
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        stream.get_consumer("stage").await.map_err(|e| anyhow::anyhow!("no consumer: {e}"))?;
    let mut messages = consumer.stream().max_messages_per_batch(in_flight * 2).messages().await?;
    let (subject, template) = (edge.subject(), template.clone());
    let start = Instant::now();
    let publish = drive(batches, in_flight, move |number| {
        let (js, subject) = (publishing.clone(), subject.clone());
        let (body, id) = template.numbered(first + number);
        async move {
            let publish = Publish::build().payload(body).message_id(id);
            js.send_publish(subject, publish).await?.await?;
            Ok(())
        }
    });
    let consume = async {
        for _ in 0..batches {
            let message = tokio::time::timeout(DRAIN, messages.next()).await;
            let message =
                message.context("messages are missing")?.context("the pull has ended")??;
            message.ack().await.map_err(|e| anyhow::anyhow!("not acknowledged: {e}"))?;
        }
        Ok(())
    };
    tokio::try_join!(publish, consume)?;
    Ok(batches as f64 / start.elapsed().as_secs_f64())
}
