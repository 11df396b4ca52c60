//! A million small calls, none lost, over the transport that host and providers use: caller and callee in this process,
//! each with a connection of its own to a real nats-server. (The published transport loses one in ten thousand.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt as _;
use millrace_platform::Sync;
use tokio::task::JoinSet;
use wrpc_transport_nats::Client as Wrpc;

use crate::lab::Lab;
use crate::load::drive;
use crate::report::{Aim, Row};
use crate::stage::Echo;
use crate::{Effort, progress};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable,
    clippy::todo,
    clippy::unimplemented,
    reason = "generated"
)]
mod bindings {
    wit_bindgen_wrpc::generate!({
        inline: "
            package bench:calls;
            interface echo { echo: func(n: u64) -> u64; }
            world calls { import echo; export echo; }
        ",
        world: "calls",
    });
}

const CALLS: usize = 1_000_000;
const IN_FLIGHT: usize = 64;

/// A call that takes this long is lost: the answer takes microseconds. Below the limit of [`drive`], because here a lost
/// call is counted and does not end the measurement.
const LOST: Duration = Duration::from_secs(10);

const PREFIX: &str = "bench.calls";

#[derive(Clone)]
struct Callee;

impl bindings::exports::bench::calls::echo::Handler<Option<HeaderMap>> for Callee {
    async fn echo(&self, _: Option<HeaderMap>, n: u64) -> anyhow::Result<u64> {
        Ok(n)
    }
}

/// Makes the calls and counts the lost ones.
///
/// # Errors
///
/// The server does not start, or an answer is another call's.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let calls = effort.of(CALLS);
    progress(format!("calls: {calls} small calls, {IN_FLIGHT} in flight"));
    Lab::nats(Sync::Interval, async |lab| {
        let bare = Echo::start(lab)
            .await?
            .load(&Bytes::from_static(b"12345678"), calls.div_ceil(10), IN_FLIGHT)
            .await?;
        let serving =
            Wrpc::new(Arc::new(lab.connect().await?), PREFIX, Some(PREFIX.into())).await?;
        let invocations = bindings::serve(&serving, Callee).await?;
        let mut invocations =
            futures::stream::select_all(invocations.into_iter().map(|(_, _, stream)| stream));
        // Ends its task when it is dropped.
        let mut callee = JoinSet::new();
        callee.spawn(async move {
            while let Some(invocation) = invocations.next().await {
                if let Ok(work) = invocation {
                    tokio::spawn(work);
                }
            }
        });
        let calling = Arc::new(Wrpc::new(Arc::new(lab.connect().await?), PREFIX, None).await?);
        let lost = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&lost);
        let load = drive(calls, IN_FLIGHT, move |number| {
            let (calling, lost) = (Arc::clone(&calling), Arc::clone(&counting));
            let n = number as u64;
            async move {
                let call = bindings::bench::calls::echo::echo(&*calling, None, n);
                match tokio::time::timeout(LOST, call).await {
                    Ok(Ok(answer)) => {
                        anyhow::ensure!(answer == n, "call {n} was answered {answer}")
                    }
                    Ok(Err(_)) | Err(_) => drop(lost.fetch_add(1, Ordering::Relaxed)),
                }
                Ok(())
            }
        })
        .await?;
        let lost = lost.load(Ordering::Relaxed) as f64;
        let what = format!("wRPC, 8 B, {IN_FLIGHT} in flight");
        Ok(vec![
            Row::new("calls", format!("lost of {calls}"), lost, "calls").aim(Aim::AtMost(0.0)),
            Row::new("calls", what, load.rate(), "calls/s")
                .over(bare.rate())
                .detail("seconds", load.elapsed.as_secs_f64())
                .detail("p50 us", load.times.quantile_us(0.5))
                .detail("p99 us", load.times.quantile_us(0.99)),
        ])
    })
    .await
}
