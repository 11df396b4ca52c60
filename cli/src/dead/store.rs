//! The dead letters of a pipeline as JetStream keeps them: read page by page, deleted, and replaced in part.
//!
//! One message of the stream is one batch, with one letter or many. Nothing is remembered between two commands: there is no
//! consumer that lasts.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::Publish;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use millrace_batch::{Batch, BatchWriter, ID, Message, ReadError};
use millrace_kit::packed::TRACEPARENT;
use millrace_kit::status::{dead_stream, dead_subject};

use super::letter::hex;

/// Batches that are read at once. Each may be as large as a message of NATS.
const PAGE: usize = 64;

/// JetStream forgets a reader that is not asked for so long.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// How long a page may take to arrive.
const ARRIVES: Duration = Duration::from_secs(20);

/// One message of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Its number in the stream.
    pub(crate) seq: u64,
    /// When the stream got it.
    pub(crate) time: DateTime<Utc>,
    subject: String,
    body: Bytes,
}

impl Kept {
    #[cfg(test)]
    pub(crate) fn of(seq: u64, subject: &str, body: Bytes) -> Self {
        Self { seq, time: DateTime::UNIX_EPOCH, subject: subject.to_owned(), body }
    }

    /// The stage in its subject.
    pub(crate) fn stage(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }

    /// The letters, checked.
    pub(crate) fn batch(&self) -> Result<Batch<'_>, ReadError> {
        Batch::parse(&self.body)
    }
}

/// The stream of a pipeline's dead letters.
pub(crate) struct Store {
    js: Context,
    stream: Stream,
    /// What makes a letter's number unique: the stream's name, and when it was made.
    identity: String,
    subjects: String,
    /// Number of the last batch when the command began. What comes later is not its business.
    last: u64,
    batches: u64,
}

impl Store {
    /// The stream, or `None` where the pipeline never had a dead letter.
    pub(crate) async fn open(
        nats: &async_nats::Client,
        lattice: &str,
        pipeline: &str,
    ) -> anyhow::Result<Option<Self>> {
        let js = async_nats::jetstream::new(nats.clone());
        let name = dead_stream(lattice, pipeline);
        let Some(stream) = crate::lattice::stream(&js, &name).await? else { return Ok(None) };
        let info = stream.cached_info();
        let made = info.created.unix_timestamp_nanos();
        let (last, batches) = (info.state.last_sequence, info.state.messages);
        let subjects = dead_subject(lattice, pipeline, "*");
        Ok(Some(Self { js, identity: format!("{name}/{made}"), stream, subjects, last, batches }))
    }

    /// Batches in the stream when it was opened.
    pub(crate) const fn batches(&self) -> u64 {
        self.batches
    }

    /// The same for a letter for ever, and for no other.
    pub(crate) fn letter_id(&self, seq: u64, place: usize) -> String {
        format!("replay/{}/{seq}/{place}", self.identity)
    }

    /// Reads what is there now, in the order of the numbers, within these. Where one stage alone is meant, JetStream leaves
    /// the others out.
    pub(crate) fn reader(&self, stage: Option<&str>, numbers: &RangeInclusive<u64>) -> Reader<'_> {
        let subject = match stage {
            // The last part of the pattern is the stage.
            Some(stage) => self.subjects.trim_end_matches('*').to_owned() + stage,
            None => self.subjects.clone(),
        };
        let next = (*numbers.start()).max(1);
        Reader { store: self, subject, consumer: None, next, end: self.last.min(*numbers.end()) }
    }

    /// Deletes a batch. That it is gone already is as good.
    pub(crate) async fn delete(&self, kept: &Kept) -> anyhow::Result<()> {
        match self.stream.delete_message(kept.seq).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if self.is_gone(kept.seq).await {
                    return Ok(());
                }
                Err(error).with_context(|| format!("could not delete {}", kept.seq))
            }
        }
    }

    async fn is_gone(&self, seq: u64) -> bool {
        let found = self.stream.get_raw_message(seq).await;
        found.is_err_and(|error| error.kind() == LastRawMessageErrorKind::NoMessageFound)
    }

    /// Takes letters out of a batch. The others are put in its place first, under a new number: a command that is killed
    /// in between leaves these twice, and none is lost. The repeat of the same replacement is dropped.
    pub(crate) async fn remove(
        &self,
        kept: &Kept,
        batch: &Batch<'_>,
        places: &[usize],
    ) -> anyhow::Result<()> {
        let stays: Vec<_> =
            batch.messages().enumerate().filter(|(place, _)| !places.contains(place)).collect();
        if !stays.is_empty() {
            self.keep(kept, batch, &stays).await.with_context(|| {
                format!("could not keep the other letters of number {}", kept.seq)
            })?;
        }
        self.delete(kept).await
    }

    async fn keep(
        &self,
        kept: &Kept,
        batch: &Batch<'_>,
        letters: &[(usize, Message<'_>)],
    ) -> anyhow::Result<()> {
        let places: Vec<String> = letters.iter().map(|(place, _)| place.to_string()).collect();
        let id = format!("rest/{}/{}/{}", self.identity, kept.seq, short_hash(&places.join(",")));
        let headers = batch.headers().filter(|(name, _)| *name != ID).chain([(ID, id.as_str())]);
        let mut writer = BatchWriter::with_capacity(headers, kept.body.len())?;
        for (_, letter) in letters {
            writer.push_record(letter)?;
        }
        let mut publish = Publish::build().payload(writer.finish().into()).message_id(id.as_str());
        if let Some(trace) = batch.header(TRACEPARENT) {
            publish = publish.header(TRACEPARENT, trace);
        }
        self.js.send_publish(kept.subject.clone(), publish).await?.await?;
        Ok(())
    }
}

/// Reads the stream page by page.
pub(crate) struct Reader<'a> {
    store: &'a Store,
    subject: String,
    /// A consumer that JetStream forgets by itself, and how many batches it has still to give.
    consumer: Option<(PullConsumer, u64)>,
    next: u64,
    end: u64,
}

impl Reader<'_> {
    /// The next batches; none at the end.
    pub(crate) async fn page(&mut self) -> anyhow::Result<Vec<Kept>> {
        // A consumer that has been forgotten between two pages gives nothing, though it has something to give.
        for fresh in [false, true] {
            if self.next > self.end {
                break;
            }
            if fresh || self.consumer.is_none() {
                self.consumer = Some(self.consume().await?);
            }
            let Some((consumer, left)) = &mut self.consumer else { break };
            if *left == 0 {
                break;
            }
            let page = match fetch(consumer).await {
                Ok(page) => page,
                Err(_) if !fresh => continue,
                Err(error) => return Err(error),
            };
            *left = left.saturating_sub(page.len() as u64);
            if let Some(last) = page.last() {
                self.next = last.seq.saturating_add(1);
                let end = self.end;
                return Ok(page.into_iter().filter(|kept| kept.seq <= end).collect());
            }
            anyhow::ensure!(!fresh, "JetStream has letters from {} on and gives none", self.next);
        }
        self.close().await;
        Ok(Vec::new())
    }

    async fn consume(&self) -> anyhow::Result<(PullConsumer, u64)> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ack_policy: AckPolicy::None,
            filter_subject: self.subject.clone(),
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = self.store.stream.create_consumer(config).await;
        let consumer = consumer.context("could not read the dead letters")?;
        let left = consumer.cached_info().num_pending;
        Ok((consumer, left))
    }

    /// Takes the consumer away, which JetStream would forget a little later anyway.
    async fn close(&mut self) {
        if let Some((consumer, _)) = self.consumer.take() {
            let _ = self.store.stream.delete_consumer(&consumer.cached_info().name).await;
        }
    }
}

async fn fetch(consumer: &PullConsumer) -> anyhow::Result<Vec<Kept>> {
    let reading = async {
        let mut messages = consumer.fetch().max_messages(PAGE).messages().await?;
        let mut page = Vec::with_capacity(PAGE);
        while let Some(message) = messages.next().await {
            let message = message.map_err(|e| anyhow::anyhow!("{e}"))?;
            let info = message.info().map_err(|e| anyhow::anyhow!("{e}"))?;
            let (seq, time) = (info.stream_sequence, info.published.unix_timestamp_nanos());
            let time = DateTime::from_timestamp_nanos(i64::try_from(time).unwrap_or(i64::MAX));
            let subject = message.subject.to_string();
            page.push(Kept { seq, time, subject, body: message.message.payload });
        }
        anyhow::Ok(page)
    };
    let page = tokio::time::timeout(ARRIVES, reading).await;
    page.context("JetStream does not answer")?.context("could not read the dead letters")
}

fn short_hash(text: &str) -> String {
    use sha2::Digest as _;
    hex(sha2::Sha256::digest(text.as_bytes()).get(..8).unwrap_or_default())
}
