//! What it saves that steps in a row run as one stage: a stage of several maps, beside the same maps as stages of their own
//! that are called one after another in this process. On a lattice each of those calls goes over NATS as well.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::ensure;
use bytes::Bytes;
use millrace_batch::Batch;
use millrace_compose::Kind;

use crate::harness::{Subject, engine};
use crate::load::median;
use crate::parts::{self, BATCH, PAYLOAD, Template};
use crate::progress;
use crate::report::Row;

/// As many steps as a stage has at most.
const LONGEST: usize = 8;

/// Measures chains of all lengths.
///
/// # Errors
///
/// The example components are not there, or a call goes wrong.
pub(crate) async fn measure(effort: crate::Effort) -> anyhow::Result<Vec<Row>> {
    let (rounds, calls) = (effort.rounds() * 3, effort.of(40));
    progress(format_args!("harness: chains of 1 to {LONGEST} steps, {rounds} rounds"));
    let engine = engine()?;
    let apart = Subject::new(
        "chain",
        &engine,
        &parts::pass_stage("chain", Kind::Map)?.bytes,
        parts::stage_config("bench", "chain").into(),
    )?;
    let fused = (1..=LONGEST)
        .map(|steps| {
            let artifact = parts::chain("chain", steps)?;
            Subject::new("chain", &engine, &artifact.bytes, config(steps))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let body = Template::new(BATCH, PAYLOAD)?.body();
    let mut taken: BTreeMap<usize, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..rounds {
        for (steps, subject) in (1..).zip(&fused) {
            let (mut fused_us, mut apart_us) = (0.0, 0.0);
            // In turns, so that what else the machine does meets both.
            for _ in 0..calls {
                fused_us += time(subject, 1, &body).await?;
                apart_us += time(&apart, steps, &body).await?;
            }
            let taken = taken.entry(steps).or_default();
            taken.0.push(fused_us / calls as f64);
            taken.1.push(apart_us / calls as f64);
        }
    }
    let row = |(steps, (fused, apart)): (usize, (Vec<f64>, Vec<f64>))| {
        let (fused, apart) = (median(fused), median(apart));
        let what = format!("chain of {steps} in one stage, {PAYLOAD} B (bare: as many stages)");
        Row::new("harness", what, fused / BATCH as f64, "us/message")
            .over(apart / BATCH as f64)
            .detail("us/call", fused)
    };
    Ok(taken.into_iter().map(row).collect())
}

/// What a stage of so many steps reads through wasi:config.
fn config(steps: usize) -> BTreeMap<String, String> {
    let mut config: BTreeMap<_, _> = parts::stage_config("bench", "chain").into();
    config.extend((0..steps).map(|at| (format!("step.{at}.name"), format!("step-{at}"))));
    config
}

/// Microseconds for a batch to go through a stage so many times.
async fn time(subject: &Subject, times: usize, body: &Bytes) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut body = body.clone();
    for _ in 0..times {
        let published = subject.call(&body).await?;
        let [message] = <[_; 1]>::try_from(published)
            .map_err(|all| anyhow::anyhow!("{} batches instead of one", all.len()))?;
        body = Bytes::from(message.body);
    }
    ensure!(Batch::open(&body)?.len() == BATCH, "messages were lost");
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_stage_is_cheaper_than_several() {
        let rows = measure(crate::Effort { quick: true }).await.unwrap();
        assert_eq!(rows.len(), LONGEST);
        // All long chains together: other tests run at the same time, and hit one figure or another.
        let long = &rows[3..];
        let fused: f64 = long.iter().map(|row| row.value).sum();
        let apart: f64 = long.iter().map(|row| row.bare.as_ref().unwrap().value).sum();
        assert!(fused > 0.0 && fused < apart, "{fused} us in one stage, {apart} us in several");
    }
}
