//! One stage on a real host: this process calls it as a source and takes its output as a sink. Beside it bare NATS
//! request and reply of the same bodies, there and back, as the stage's bodies go.

use bytes::Bytes;
use futures::StreamExt as _;
use millrace_platform::Sync;
use tokio::task::JoinSet;

use crate::lab::Lab;
use crate::lattice::{Sink, Source, one_stage};
use crate::load::{Load, drive, median};
use crate::parts::{BATCH, PAYLOAD, Template};
use crate::report::{Aim, Row};
use crate::{Effort, progress};

/// Messages a second with 16 calls in flight.
const AIM: f64 = 500_000.0;

/// Calls in flight, and messages a batch.
const LOADS: [(usize, usize); 4] = [(1, BATCH), (4, BATCH), (16, BATCH), (16, 100)];

/// Measures all rows.
///
/// # Errors
///
/// A server does not start, or a call is not answered.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    progress("stage: one stage over the lattice");
    Lab::host(Sync::Interval, async |lab| {
        let (source, sink) = one_stage(lab).await?;
        let echo = Echo::start(lab).await?;
        let mut rows = Vec::new();
        for (in_flight, messages) in LOADS {
            let body = Template::new(messages, PAYLOAD)?.body();
            let mut taken = Taken::default();
            for _ in 0..effort.rounds() {
                let calls = effort.of(1000);
                taken.bare.push(echo.load(&body, calls, in_flight).await?);
                taken
                    .staged
                    .push(through(&source, &sink, &body, calls, in_flight, messages).await?);
            }
            rows.push(taken.row(in_flight, messages));
        }
        Ok(rows)
    })
    .await
}

/// Calls the stage, and checks that everything came out.
pub(crate) async fn through(
    source: &Source,
    sink: &Sink,
    body: &Bytes,
    calls: usize,
    in_flight: usize,
    messages: usize,
) -> anyhow::Result<Load> {
    let before = sink.messages();
    let (source, body) = (source.clone(), body.clone());
    let load = drive(calls, in_flight, move |_| {
        let (source, body) = (source.clone(), body.clone());
        async move { source.call(body).await }
    })
    .await?;
    // An answered call has been published: nothing to wait for.
    let arrived = sink.messages() - before;
    let sent = (calls * messages) as u64;
    anyhow::ensure!(arrived == sent, "{sent} messages sent, {arrived} arrived");
    Ok(load)
}

#[derive(Default)]
struct Taken {
    bare: Vec<Load>,
    staged: Vec<Load>,
}

impl Taken {
    fn row(&self, in_flight: usize, messages: usize) -> Row {
        let rate = |loads: &[Load]| median(loads.iter().map(Load::rate).collect());
        let (staged, bare) = (rate(&self.staged), rate(&self.bare));
        let us =
            |part: f64| median(self.staged.iter().map(|l| l.times.quantile_us(part)).collect());
        let per_call = messages as f64;
        let what = format!("{PAYLOAD} B in batches of {messages}, {in_flight} in flight");
        let row = Row::new("stage", what, staged * per_call, "messages/s")
            .over(bare * per_call)
            .detail("MB/s", staged * per_call * PAYLOAD as f64 / 1e6)
            .detail("p50 us/call", us(0.5))
            .detail("p99 us/call", us(0.99));
        if (in_flight, messages) == (16, BATCH) { row.aim(Aim::AtLeast(AIM)) } else { row }
    }
}

/// Answers every request with its own body.
pub(crate) struct Echo {
    client: async_nats::Client,
    // Ends its task when it is dropped.
    _task: JoinSet<()>,
}

const ECHO: &str = "bench.echo";

impl Echo {
    pub(crate) async fn start(lab: &Lab) -> anyhow::Result<Self> {
        let answering = lab.connect().await?;
        let mut requests = answering.subscribe(ECHO).await?;
        answering.flush().await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(request) = requests.next().await {
                if let Some(reply) = request.reply {
                    // A connection that is gone is noticed by the requests.
                    let _ = answering.publish(reply, request.payload).await;
                }
            }
        });
        Ok(Self { client: lab.connect().await?, _task: task })
    }

    pub(crate) async fn load(
        &self,
        body: &Bytes,
        calls: usize,
        in_flight: usize,
    ) -> anyhow::Result<Load> {
        let (client, body) = (self.client.clone(), body.clone());
        drive(calls, in_flight, move |_| {
            let (client, body) = (client.clone(), body.clone());
            async move {
                client.request(ECHO, body).await?;
                Ok(())
            }
        })
        .await
    }
}
