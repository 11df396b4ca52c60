//! What waited on an edge while its far end was away: how fast it is handed on when it is back, over the rate of the same
//! edge without a backlog.

use std::time::{Duration, Instant};

use millrace_conduit::Edge;
use millrace_platform::Sync;

use crate::edge::{Run, publish, settings};
use crate::lab::{LATTICE, Lab};
use crate::lattice::half_an_edge;
use crate::load::median;
use crate::parts::{BATCH, PAYLOAD, Template};
use crate::report::{Aim, Row};
use crate::{Effort, progress};

/// Batches that wait: ten million messages.
const BATCHES: usize = 10_000_000 / BATCH;

/// Batches of one round of the steady rate.
const STEADY: usize = 2_000;

const IN_FLIGHT: u64 = 16;

/// All of it has arrived within this time.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures the row.
///
/// # Errors
///
/// A server does not start, or messages do not arrive.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let template = Template::new(BATCH, PAYLOAD)?;
    let settings = settings(None);
    let batches = effort.of(BATCHES);
    let messages = (batches * BATCH) as u64;
    let row = Lab::host(Sync::Interval, async |lab| {
        let edge = half_an_edge(lab, &settings).await?;
        progress(format!("backlog: {messages} messages onto an edge"));
        let js = async_nats::jetstream::new(lab.connect().await?);
        let name = Edge::new(LATTICE, "bench", "first.second")?;
        name.ensure_stream(&js, &settings).await?;
        publish(&js, name.subject(), &template, 0, batches, true).await?;
        progress("backlog: off it");
        edge.hand_on(&settings, IN_FLIGHT).await?;
        // From the first one: the link takes its time to be made.
        edge.sink.reaches(1, PATIENCE).await?;
        let (start, there) = (Instant::now(), edge.sink.messages());
        edge.sink.reaches(messages, PATIENCE).await?;
        let drained = (messages - there) as f64 / start.elapsed().as_secs_f64();
        progress("backlog: the steady rate");
        let run = Run { source: &edge.source, sink: &edge.sink, template: &template, batch: BATCH };
        let mut steady = Vec::new();
        for round in 0..effort.rounds() {
            let first = batches + round * STEADY;
            steady.push(run.rate(first, effort.of(STEADY)).await?);
        }
        let what = format!("{messages} messages that waited, over the steady rate");
        Ok(Row::new("backlog", what, drained, "messages/s")
            .over(median(steady) * BATCH as f64)
            .aim(Aim::RatioAtLeast(0.8)))
    })
    .await?;
    Ok(vec![row])
}
