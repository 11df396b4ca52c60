//! `millrace pipeline replay`: what a durable edge carried, once more, into a stage of another pipeline.
//!
//! For a try with real messages: a shadow pipeline is the same definition with other sinks and with the step that is to be
//! tried. Its stage is called as the edge's far end was; the edge itself and what runs behind it see nothing of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::StreamExt as _;
use millrace_batch::{Batch, ID};
use millrace_kit::id::BatchIds;
use millrace_kit::packed::ATTEMPT;
use millrace_wadm::Applications;
use serde::Serialize;

use crate::dead::call::{Caller, Fault};
use crate::dead::filter::Moment;
use crate::dead::replay::Rate;
use crate::dead::route::{Elsewhere, stage_named};
use crate::ui::Ui;
use crate::{audit, lattice};

/// Nothing of the history comes for this long: the server is gone.
const SILENCE: Duration = Duration::from_secs(10);

/// Between two words about how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is replayed, and where to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Selection {
    /// The durable edge, as FROM.TO.
    #[arg(value_name = "FROM.TO")]
    edge: String,
    /// The pipeline that gets it, or one stage of it [default stage: TO].
    #[arg(long, value_name = "PIPELINE[/STAGE]")]
    into: Elsewhere,
    /// From this time on: an age as 15m or 2h, or a time as 2026-01-31T08:00:00Z [default: all there is].
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// From the batch of this number in the history on.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    from: Option<u64>,
    /// End after so many batches.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// No more batches than this, as 50/s or 600/m.
    #[arg(long)]
    rate: Option<Rate>,
    /// How long one call may take, as 30s.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = millrace_platform::parse_time)]
    timeout: Duration,
    /// Count what would be replayed.
    #[arg(long)]
    dry_run: bool,
}

/// What became of it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    batches: u64,
    messages: u64,
    /// Batches that the stage did not take.
    failed: u64,
    /// Number of the last batch in the history; `--from` the next one goes on after it.
    last: u64,
}

/// Replays.
pub(crate) async fn run(
    ui: Ui,
    pipeline: &str,
    options: &Selection,
    lattice: &lattice::Options,
) -> anyhow::Result<()> {
    let nats = lattice.connect().await?;
    let edge = millrace_conduit::Edge::new(lattice.name(), pipeline, &options.edge)?;
    let (_, to) = options.edge.split_once('.').unwrap_or_default();
    if options.into.pipeline == pipeline {
        bail!(
            "a replay into `{pipeline}` itself would process its messages twice; --into names another pipeline, with \
             sinks of its own"
        );
    }
    let js = async_nats::jetstream::new(nats.clone());
    let history = lattice::stream(&js, &edge.history_stream()).await?.with_context(|| {
        format!(
            "edge {} of `{pipeline}` keeps no history; set `history: 1h` in its `durable` and deploy, and what passes \
             from then on can be replayed",
            options.edge
        )
    })?;
    let stages = Applications::new(nats.clone(), lattice.name());
    let stages = stages.stages(&options.into.pipeline).await?;
    let named = options.into.stage.as_deref().unwrap_or(to);
    let target = &options.into.pipeline;
    let stage = stage_named(&stages, target, named)?;
    let caller = Caller::new(&nats, lattice.name(), target, stage, options.timeout).await?;
    if !options.dry_run {
        let subject = format!("{pipeline} {} into {target}/{named}", options.edge);
        audit::note(ui, lattice, &nats, "pipeline.replay", &subject).await;
    }
    let mut replay =
        Replay { ui, options, caller, ids: BatchIds::default(), summary: Summary::default() };
    replay.all(&history).await?;
    let Summary { batches, messages, failed, .. } = replay.summary;
    if ui.json {
        ui.json(&replay.summary)?;
    } else {
        let would = if options.dry_run { "would go" } else { "went" };
        ui.line(format!("{messages} messages in {batches} batches {would} to {target}/{named}"));
    }
    if failed > 0 {
        return Err(crate::NotTaken(failed).into());
    }
    Ok(())
}

struct Replay<'a> {
    ui: Ui,
    options: &'a Selection,
    caller: Caller,
    /// Every replay has ids of its own: what it made before must not make the next one a repeat.
    ids: BatchIds,
    summary: Summary,
}

impl Replay<'_> {
    async fn all(&mut self, history: &Stream) -> anyhow::Result<()> {
        let end = history.cached_info().state.last_sequence;
        if history.cached_info().state.messages == 0 {
            return Ok(());
        }
        let deliver_policy = match (self.options.from, self.options.since) {
            (Some(from), _) => DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            (None, Some(since)) => {
                DeliverPolicy::ByStartTime { start_time: system_time(since).into() }
            }
            (None, None) => DeliverPolicy::All,
        };
        let config = OrderedConfig { deliver_policy, ..OrderedConfig::default() };
        let consumer = history.create_consumer(config).await?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.messages().await?;
        let mut pace = self.options.rate.map(Rate::pace);
        let mut told = Instant::now();
        while self.summary.batches + self.summary.failed < self.options.limit.unwrap_or(u64::MAX) {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let message =
                next.context("the history is silent")?.context("the history has ended")??;
            let info = message.info().map_err(|e| anyhow::anyhow!("not of a stream: {e}"))?;
            let number = info.stream_sequence;
            let published = SystemTime::from(info.published);
            let until = self.options.until.map(system_time);
            // What has come since we began is not replayed: there would be no end.
            if number > end || until.is_some_and(|until| published > until) {
                break;
            }
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            self.one(number, &message).await?;
            if number == end {
                break;
            }
            if told.elapsed() > PROGRESS {
                self.ui.step(format!("{} messages", self.summary.messages));
                told = Instant::now();
            }
        }
        Ok(())
    }

    async fn one(&mut self, number: u64, message: &Message) -> anyhow::Result<()> {
        let body = self.renamed(message);
        let messages = Batch::open(&body).map_or(1, |batch| batch.len() as u64);
        self.summary.last = number;
        if !self.options.dry_run {
            match self.caller.give(body).await {
                Ok(()) => {}
                Err(fault @ Fault::Letter { .. }) => {
                    self.ui.warn(format!("batch {number} was not taken: {fault}"));
                    self.summary.failed += 1;
                    return Ok(());
                }
                Err(fault) => {
                    let next = format!("--from {number} goes on where this one has stopped");
                    return Err(anyhow::Error::new(fault).context(next));
                }
            }
        }
        self.summary.batches += 1;
        self.summary.messages += messages;
        Ok(())
    }

    fn renamed(&self, message: &Message) -> Bytes {
        let body = message.payload.clone();
        let Ok(batch) = Batch::open(&body) else { return body };
        let id = self.ids.next_id();
        batch.with_headers(&[(ID, &id), (ATTEMPT, "1")]).map_or_else(|_| body.clone(), Bytes::from)
    }
}

fn system_time(Moment(at): Moment) -> SystemTime {
    let nanos = at.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok());
    UNIX_EPOCH + Duration::from_nanos(nanos.unwrap_or_default())
}
