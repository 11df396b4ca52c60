//! What windows cost: a composed stage in this process that is called batch after batch with its own state, as the conduit
//! calls it. The store is left out.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_compose::Kind;
use millrace_window::{Document, attach, commit};

use crate::harness::{Subject, engine};
use crate::load::median;
use crate::parts::{self, BATCH, PAYLOAD};
use crate::progress;
use crate::report::Row;

/// Keys of all partitions together.
const KEYS: u64 = 10_000;

/// Partitions, as an edge before a step with windows has them.
const PARTITIONS: u64 = 8;

/// Between two messages of a partition, so that a window of ten seconds has each key some times.
const STEP_NS: u64 = 1_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Measures a keyed tumbling window with each component.
///
/// # Errors
///
/// The example components are not there, or a call goes wrong.
pub(crate) async fn measure(effort: crate::Effort) -> anyhow::Result<Vec<Row>> {
    let calls = effort.of(200);
    progress(format_args!("windows: {calls} batches for each component in this process"));
    let engine = engine()?;
    let mut rows = Vec::new();
    for (component, config) in [
        ("pass-accumulate", &[][..]),
        ("aggregate", &[("value", "value"), ("functions", "count,mean,min,max")]),
    ] {
        let artifact = parts::stage_of("window", Kind::Accumulate, component)?;
        let subject = Subject::new("window", &engine, &artifact.bytes, settings(config))?;
        let mut flow = Flow { subject, document: Vec::new(), batches: 0, results: 0 };
        let mut taken = Vec::with_capacity(calls);
        // The first ones fill the windows.
        for number in 0..calls + calls / 4 {
            let us = flow.call().await?;
            if number >= calls / 4 {
                taken.push(us);
            }
        }
        let open = Document::read(&flow.document)?;
        ensure!(open.len() as u64 * PARTITIONS >= KEYS / 2, "{} windows are open", open.len());
        let us = median(taken);
        let what =
            format!("{component}, tumbling, {KEYS} keys, {PAYLOAD} B, one partition after another");
        rows.push(
            Row::new("windows", what, BATCH as f64 * 1e6 / us, "messages/s")
                .detail("us/message", us / BATCH as f64)
                .detail("bytes of state", flow.document.len() as f64)
                .detail("results", flow.results as f64),
        );
    }
    Ok(rows)
}

fn settings(config: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<_, _> = parts::stage_config("bench", "window").into();
    let own = [("state-subject", "bench.state.window"), ("step.0.window", "tumbling 10000000000")];
    settings.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    settings.insert("step.0.arms".to_owned(), "result".to_owned());
    let told = config.iter().map(|(k, v)| (format!("step.0.config.{k}"), (*v).to_owned()));
    settings.extend(told);
    settings
}

/// One partition, and what has been given to it.
struct Flow {
    subject: Subject,
    document: Vec<u8>,
    batches: u64,
    results: usize,
}

impl Flow {
    /// Microseconds of one call.
    async fn call(&mut self) -> anyhow::Result<f64> {
        let batch = self.batch()?;
        let batch = Batch::open(&batch)?;
        let start = Instant::now();
        let body = Bytes::from(attach(&batch, &self.document, "window 8.0 1", SECOND_NS, false)?);
        let published = self.subject.call(&body).await?;
        let us = start.elapsed().as_secs_f64() * 1e6;
        let (last, before) = published.split_last().context("the stage kept no state")?;
        self.document = commit(&Batch::open(&last.body)?).context("not a state")?.document.to_vec();
        for message in before {
            self.results += Batch::open(&message.body)?.len();
        }
        Ok(us)
    }

    fn batch(&mut self) -> anyhow::Result<Vec<u8>> {
        let first = self.batches * BATCH as u64;
        self.batches += 1;
        let id = format!("batch-{}", self.batches);
        let mut writer = BatchWriter::new([("id", id.as_str()), ("attempt", "1")])?;
        for number in first..first + BATCH as u64 {
            let key = format!("press-{:05}", number * 7919 % (KEYS / PARTITIONS));
            let mut payload = format!("{{\"value\":{}.5,\"unit\":\"", number % 100).into_bytes();
            payload.resize(PAYLOAD - 2, b'x');
            payload.extend_from_slice(b"\"}");
            let fields = Fields {
                timestamp: SECOND_NS + number * STEP_NS,
                topic: "plant/press",
                key: Some(key.as_bytes()),
                payload: &payload,
                ..Fields::default()
            };
            writer.push(&fields, [])?;
        }
        Ok(writer.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn windows_are_filled_and_ended() {
        let rows = measure(crate::Effort { quick: true }).await.unwrap();
        assert_eq!(rows.len(), 2);
        for row in &rows {
            assert!(row.value.is_finite() && row.value > 0.0, "{}", row.what);
        }
    }
}
