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

/// Keys of the messages on an edge with partitions.
const KEYS: usize = 50;

/// One row.
struct Load {
    what: &'static str,
    /// At the conduit; 1 is in order.
    in_flight: usize,
    /// Messages in a batch.
    batch: usize,
    batches: usize,
    partitions: Option<u64>,
    sync: Sync,
    aim: Option<Aim>,
}

const PLAIN: Load = Load {
    what: "",
    in_flight: 16,
    batch: BATCH,
    batches: 600,
    partitions: None,
    sync: Sync::Interval,
    aim: Some(Aim::AtLeast(AIM)),
};

const LOADS: [Load; 7] = [
    Load { in_flight: 4, aim: None, ..PLAIN },
    PLAIN,
    Load { sync: Sync::Always, ..PLAIN },
    Load { what: "in order, ", in_flight: 1, aim: None, ..PLAIN },
    Load { what: "4 partitions, ", partitions: Some(4), aim: None, ..PLAIN },
    Load { in_flight: 4, batch: 8, batches: 2_000, sync: Sync::Always, aim: None, ..PLAIN },
    Load {
        what: "in order, ",
        in_flight: 1,
        batch: 8,
        batches: 2_000,
        sync: Sync::Always,
        aim: None,
        ..PLAIN
    },
];

/// Calls and bare publishes that are made at once.
const CALLS: usize = 16;

/// Settings of the edge. Room for a whole run, so that a full edge does not hold back the source.
pub(crate) fn settings(partitions: Option<u64>) -> EdgeSettings {
    EdgeSettings {
        max_bytes: millrace_settings::Bytes::from_bytes(8 << 30),
        partitions: partitions.map(millrace_settings::Count::clamped),
        ..Default::default()
    }
}

/// Measures all rows.
///
/// # Errors
///
/// A server does not start, a call is not answered, or messages do not arrive.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for load in LOADS {
        rows.push(measure_one(effort, &load).await?);
    }
    rows.push(deduplication(effort).await?);
    Ok(rows)
}

const fn sync_text(sync: Sync) -> &'static str {
    match sync {
        Sync::Interval => "sync every 2 min",
        Sync::Always => "sync always",
    }
}

async fn measure_one(effort: Effort, load: &Load) -> anyhow::Result<Row> {
    let Load { what, in_flight, batch, partitions, sync, .. } = *load;
    let sync_text = sync_text(sync);
    let what =
        format!("{PAYLOAD} B in batches of {batch}, {what}{in_flight} in flight, {sync_text}");
    progress(format!("edge: {what}"));
    let template = match partitions {
        Some(_) => Template::keyed(batch, PAYLOAD, KEYS)?,
        None => Template::new(batch, PAYLOAD)?,
    };
    let settings = settings(partitions);
    let batches = effort.of(load.batches);
    let (mut edged, mut bare) = (Vec::new(), Vec::new());
    Lab::host(sync, async |lab| {
        let (source, sink) = durable_edge(lab, &settings, in_flight as u64).await?;
        for round in 0..effort.rounds() {
            // Other ids in each round: a repeated one would be dropped.
            let first = round * batches;
            bare.push(bare_rate(lab, &template, first, batches, in_flight).await?);
            let run = Run { source: &source, sink: &sink, template: &template, batch };
            edged.push(run.rate(first, batches).await?);
        }
        Ok(())
    })
    .await?;
    let (edged, bare) = (median(edged) * batch as f64, median(bare) * batch as f64);
    let row = Row::new("edge", what, edged, "messages/s")
        .over(bare)
        .detail("MB/s", edged * PAYLOAD as f64 / 1e6);
    Ok(match load.aim {
        Some(aim) => row.aim(aim),
        None => row,
    })
}

/// What it costs JetStream to look for an id among those of the last two minutes.
async fn deduplication(effort: Effort) -> anyhow::Result<Row> {
    progress("edge: bare publishes with and without ids");
    let template = Template::new(BATCH, PAYLOAD)?;
    let batches = effort.of(2_000);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    Lab::nats(Sync::Interval, async |lab| {
        for round in 0..effort.rounds() {
            for (ids, rates) in [(true, &mut with), (false, &mut without)] {
                rates.push(publish_rate(lab, &template, round * batches, batches, ids).await?);
            }
        }
        Ok(())
    })
    .await?;
    let what = format!("bare publishes with ids over those without, batches of {BATCH}");
    let messages = |rates| median(rates) * BATCH as f64;
    Ok(Row::new("edge", what, messages(with), "messages/s").over(messages(without)))
}

/// Batches a second that JetStream takes.
async fn publish_rate(
    lab: &Lab,
    template: &Template,
    first: usize,
    batches: usize,
    ids: bool,
) -> anyhow::Result<f64> {
    let edge = Edge::new(LATTICE, "bare", if ids { "with.ids" } else { "without.ids" })?;
    let js = async_nats::jetstream::new(lab.connect().await?);
    let (stream, _) = edge.ensure_stream(&js, &settings(None)).await?;
    let start = Instant::now();
    publish(&js, edge.subject(), template, first, batches, ids).await?;
    let elapsed = start.elapsed();
    stream.purge().await?;
    Ok(batches as f64 / elapsed.as_secs_f64())
}

/// Publishes so many batches and waits until each is acknowledged.
pub(crate) async fn publish(
    js: &async_nats::jetstream::Context,
    subject: String,
    template: &Template,
    first: usize,
    batches: usize,
    ids: bool,
) -> anyhow::Result<()> {
    let (js, template) = (js.clone(), template.clone());
    drive(batches, CALLS, move |number| {
        let (js, subject) = (js.clone(), subject.clone());
        let (body, id) = template.numbered(first + number);
        async move {
            let mut publish = Publish::build().payload(body);
            if ids {
                publish = publish.message_id(id);
            }
            js.send_publish(subject, publish).await?.await?;
            Ok(())
        }
    })
    .await
    .map(drop)
}

/// What is measured through an edge.
pub(crate) struct Run<'a> {
    pub(crate) source: &'a Source,
    pub(crate) sink: &'a Sink,
    pub(crate) template: &'a Template,
    /// Messages in a batch.
    pub(crate) batch: usize,
}

impl Run<'_> {
    /// Batches a second from the first call to the last message at the sink.
    pub(crate) async fn rate(&self, first: usize, batches: usize) -> anyhow::Result<f64> {
        let wanted = self.sink.messages() + (batches * self.batch) as u64;
        let start = Instant::now();
        let (source, template) = (self.source.clone(), self.template.clone());
        drive(batches, CALLS, move |number| {
            let (source, body) = (source.clone(), template.numbered(first + number).0);
            async move { source.call_until_taken(body).await }
        })
        .await?;
        self.sink.reaches(wanted, DRAIN).await?;
        let elapsed = start.elapsed();
        anyhow::ensure!(self.sink.messages() == wanted, "more messages arrived than were sent");
        Ok(batches as f64 / elapsed.as_secs_f64())
    }
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
    let (stream, _) = edge.ensure_stream(&consuming, &settings(None)).await?;
    stream.create_consumer(edge.consumer_config(in_flight)).await?;
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        stream.get_consumer("stage").await.map_err(|e| anyhow::anyhow!("no consumer: {e}"))?;
    let mut messages = consumer.stream().max_messages_per_batch(in_flight * 2).messages().await?;
    let start = Instant::now();
    let publish = publish(&publishing, edge.subject(), template, first, batches, true);
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
