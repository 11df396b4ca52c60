//! The sink: hand over a batch, answer when every record has its report.
//!
//! The library retries by itself, in order and without duplicates, until
//! `message-timeout`. What failed by then, the stage's caller writes again with
//! the rest of the batch: that is where duplicates arise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, Message};
use millrace_grants::Target;
use millrace_kit::write::{self, Unwritable, WRITE_TIMEOUT};
use millrace_kit::{Backoff, CancellationToken, DeadLetters, Held, Link, Sink, WriteError};
use millrace_settings::kafka::{Compression, Partitioner, SinkSettings};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::context::{Context, Notes};
use crate::standing::{PROBE, Standing};
use crate::writes::{Failed, Reports, Writes, word};
use crate::{client, fields};

/// Pause before a record is handed over again for which the library's queue
/// had no room.
const FULL: Duration = Duration::from_millis(2);

/// How often is looked after what tells nobody.
const TICK: Duration = Duration::from_millis(100);

/// Largest record handed to the library: larger than any batch of ours, so
/// that it is the broker that says what is too large.
const RECORD_MAX: &str = "20000000";

/// Messages that are not written, by their place in the batch.
type Unfit = Vec<(u32, Unwritable)>;

type Producer = ThreadedProducer<Reports>;

/// Writes to a Kafka cluster.
pub struct KafkaSink {
    shared: Arc<Shared>,
    dead: Arc<dyn DeadLetters>,
    settings: SinkSettings,
    /// Held for reading by writes, and for writing by a record that has to be
    /// alone on its way.
    way: RwLock<()>,
    closed: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the client's task and the writes share.
struct Shared {
    link: Arc<Link>,
    /// Present while a broker answers.
    client: Mutex<Option<Arc<Producer>>>,
}

impl KafkaSink {
    /// A sink that connects in the background, again and again until it is
    /// closed. `name` is used as client identifier when the settings name none.
    /// Messages that can never be written go to `dead`.
    #[must_use]
    pub fn open(
        settings: SinkSettings,
        name: String,
        link: Arc<Link>,
        dead: Arc<dyn DeadLetters>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared { link, client: Mutex::new(None) });
        let closed = CancellationToken::new();
        let keeper = Keeper { shared: Arc::clone(&shared), settings: settings.clone(), name };
        let keeper = tokio::spawn(keeper.keep(closed.clone()));
        Arc::new(Self {
            shared,
            dead,
            settings,
            way: RwLock::new(()),
            closed,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let producer = self.shared.client.lock().clone();
        let producer = producer.ok_or_else(|| self.unreachable())?;
        let batch = write::read(&body)?;
        if batch.is_empty() {
            return Ok(());
        }
        let writing = self.write_all(&producer, &batch);
        write::counted(&self.shared.link, || self.target(), &batch, body.len(), writing).await
    }

    /// Writes every message, and buries those that never can be. How many were
    /// written.
    async fn write_all(&self, producer: &Producer, batch: &Batch<'_>) -> Result<u64, WriteError> {
        let messages: Vec<Message<'_>> = batch.messages().collect();
        let held = self.shared.link.writers.of_batch(batch);
        let mut unfit = Unfit::new();
        let all = (0..u32::try_from(messages.len()).unwrap_or(u32::MAX)).collect::<Vec<_>>();
        let way = self.way.read().await;
        let failed = self.send(producer, &held, &messages, &all, &mut unfit).await?;
        drop(way);
        let mut apart = self.sort(failed, all.len(), &mut unfit)?;
        if !apart.is_empty() {
            // What the library had put together was too large, or one record in
            // it spoiled the others: found out by halves, with nothing else on
            // the way.
            let _alone = self.way.write().await;
            let mut groups = vec![std::mem::take(&mut apart)];
            while let Some(group) = groups.pop() {
                let failed = self.send(producer, &held, &messages, &group, &mut unfit).await?;
                let mut again = self.sort(failed, group.len(), &mut unfit)?;
                if !again.is_empty() {
                    again.sort_unstable();
                    let second = again.split_off(again.len() / 2);
                    groups.push(second);
                    if !again.is_empty() {
                        groups.push(again);
                    }
                }
            }
        }
        for (place, why) in &unfit {
            let place = usize::try_from(*place).unwrap_or(usize::MAX);
            if let Some(message) = messages.get(place) {
                let link = &self.shared.link;
                write::bury(&*self.dead, link, batch, place, message, why).await?;
            }
        }
        Ok((messages.len() - unfit.len()) as u64)
    }

    /// Hands over the messages at these places and waits for their reports.
    async fn send(
        &self,
        producer: &Producer,
        held: &Held<'_>,
        messages: &[Message<'_>],
        places: &[u32],
        unfit: &mut Unfit,
    ) -> Result<Failed, WriteError> {
        let mut group = Open::new(&producer.context().writes, places.len());
        let mut topic = String::new();
        for place in places {
            let Some(message) = usize::try_from(*place).ok().and_then(|at| messages.get(at)) else {
                continue;
            };
            let key = message.key.and_then(|key| std::str::from_utf8(key).ok());
            if let Err(error) = self.settings.topic.render(message.topic, key, &mut topic) {
                unfit.push((*place, format!("topic {error}").into()));
                continue;
            }
            if let Err(refusal) = held.check(Target::Kafka(&topic)) {
                unfit.push((*place, refusal.into()));
                continue;
            }
            let word = word(group.number, *place);
            match self.hand_over(producer, &topic, message, word).await {
                Ok(()) => group.left -= 1,
                Err(error) => return Err(self.refused(&topic, &error)),
            }
        }
        group.all().await.map_err(|_| self.unreachable())
    }

    /// Hands one message to the library, waiting while its queue has no room.
    async fn hand_over(
        &self,
        producer: &Producer,
        topic: &str,
        message: &Message<'_>,
        word: usize,
    ) -> Result<(), KafkaError> {
        let written = fields::written(message);
        let mut record = BaseRecord {
            topic,
            partition: None,
            payload: written.payload,
            key: message.key,
            timestamp: written.timestamp,
            headers: written.headers,
            delivery_opaque: word,
        };
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(error),
            }
            tokio::time::sleep(FULL).await;
        }
    }

    /// Sorts what failed: into `unfit` what can never be written, and back what
    /// is to be tried in smaller groups.
    fn sort(&self, failed: Failed, sent: usize, unfit: &mut Unfit) -> Result<Vec<u32>, WriteError> {
        let mut apart = Vec::new();
        let mut never = Vec::new();
        for (place, code) in failed {
            match code {
                Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord
                    if sent > 1 =>
                {
                    apart.push(place);
                }
                Code::InvalidDifferentRecord => apart.push(place),
                Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::InvalidTopic => {
                    never.push((place, format!("refused by Kafka: {code}").into()))
                }
                code => return Err(self.refused_with(code)),
            }
        }
        // Only now: before, the whole batch might have had to be written again.
        unfit.append(&mut never);
        Ok(apart)
    }

    fn refused(&self, topic: &str, error: &KafkaError) -> WriteError {
        let reason = format!("topic {topic}: {error}");
        WriteError::Refused { target: self.target(), reason }
    }

    fn refused_with(&self, code: Code) -> WriteError {
        let target = self.target();
        match code {
            Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut => {
                let after = self.settings.message_timeout.get();
                match self.shared.link.status().error {
                    Some(reason) => WriteError::Unreachable { target, reason },
                    None => WriteError::Timeout { target, after },
                }
            }
            Code::PurgeQueue | Code::PurgeInflight => self.unreachable(),
            code => WriteError::Refused { target, reason: code.to_string() },
        }
    }

    fn unreachable(&self) -> WriteError {
        let reason = self.shared.link.status().error.unwrap_or_else(|| "connecting".to_owned());
        WriteError::Unreachable { target: self.target(), reason }
    }

    fn target(&self) -> String {
        format!("kafka sink {}", self.shared.link.names.name)
    }

    async fn end(&self) {
        self.closed.cancel();
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            let abort = keeper.abort_handle();
            if tokio::time::timeout(WRITE_TIMEOUT * 2, keeper).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// A group that is being handed over. Given up, it ends by itself when what was
/// handed over has its reports.
struct Open<'a> {
    writes: &'a Writes,
    number: u32,
    /// Records expected and not handed over.
    left: usize,
}

impl<'a> Open<'a> {
    fn new(writes: &'a Writes, records: usize) -> Self {
        let number = writes.open();
        writes.expect(number, records);
        Self { writes, number, left: records }
    }

    fn close(&self) -> tokio::sync::oneshot::Receiver<Failed> {
        self.writes.unexpect(self.number, self.left);
        self.writes.all(self.number)
    }

    async fn all(self) -> Result<Failed, tokio::sync::oneshot::error::RecvError> {
        let failed = self.close();
        std::mem::forget(self);
        failed.await
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl Sink for KafkaSink {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Keeps a client, for as long as the sink is open.
struct Keeper {
    shared: Arc<Shared>,
    settings: SinkSettings,
    name: String,
}

impl Keeper {
    async fn keep(self, closed: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut before = false;
        while !closed.is_cancelled() {
            let error = match self.open().await {
                Ok((producer, notes)) => {
                    self.serve(producer, notes, &closed, &mut before, &mut backoff).await
                }
                Err(error) => Some(error),
            };
            let Some(error) = error else { return };
            self.shared.link.retrying(format_args!("{}: {error}", self.settings.brokers));
            tokio::select! {
                () = backoff.wait() => {}
                () = closed.cancelled() => {}
            }
        }
    }

    async fn open(&self) -> Result<(Arc<Producer>, Arc<Notes>), String> {
        let config = self.config().await?;
        let token_file = self.settings.token_file.clone().map(PathBuf::from);
        let notes = Notes::new(Arc::clone(&self.shared.link), token_file);
        let context = Context(Arc::clone(&notes));
        let reports = Reports { context, writes: Writes::default() };
        let producer: Producer = config.create_with_context(reports).map_err(|e| e.to_string())?;
        Ok((Arc::new(producer), notes))
    }

    async fn config(&self) -> Result<ClientConfig, String> {
        let settings = &self.settings;
        let mut config = client::config(&settings.access(), &self.name).await?;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", compression(settings.compression))
            .set("partitioner", partitioner(settings.partitioner))
            .set("linger.ms", settings.linger.as_millis().to_string())
            .set("batch.size", settings.batch_bytes.get().to_string())
            .set("message.max.bytes", RECORD_MAX)
            .set("message.timeout.ms", settings.message_timeout.as_millis().to_string())
            // A broker that is slow is asked again within the same time.
            .set("request.timeout.ms", settings.message_timeout.as_millis().to_string())
            // A topic that does not exist is said to be so before that.
            .set("topic.metadata.propagation.max.ms", "1000")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "500")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536");
        Ok(config)
    }

    /// Serves one client until the sink is closed (nothing), or until the
    /// client has to be made anew (why).
    async fn serve(
        &self,
        producer: Arc<Producer>,
        notes: Arc<Notes>,
        closed: &CancellationToken,
        before: &mut bool,
        backoff: &mut Backoff,
    ) -> Option<String> {
        let link = Arc::clone(&self.shared.link);
        let mut standing = Standing::new(link, Arc::clone(&notes), true);
        let topic = self.settings.topic.literal().map(str::to_owned);
        let end = loop {
            if let Some(end) = standing.hear() {
                break Some(end);
            }
            let was_up = standing.is_up();
            standing
                .ask(|| {
                    let (producer, topic) = (Arc::clone(&producer), topic.clone());
                    move || {
                        let answer = producer.client().fetch_metadata(topic.as_deref(), PROBE);
                        answer.map(drop).map_err(|error| error.to_string())
                    }
                })
                .await;
            if standing.is_up() && !was_up {
                if *before {
                    self.shared.link.telemetry.reconnected();
                }
                *before = true;
                backoff.reset();
            }
            *self.shared.client.lock() = standing.is_up().then(|| Arc::clone(&producer));
            tokio::select! {
                () = notes.wake.notified() => {}
                () = tokio::time::sleep_until(standing.next_look(TICK)) => {}
                () = closed.cancelled() => break None,
            }
        };
        *self.shared.client.lock() = None;
        let (said, heard) = tokio::sync::oneshot::channel::<()>();
        farewell(producer, said);
        if end.is_none() {
            // Writes under way have a limit of their own.
            let _ = heard.await;
        }
        end
    }
}

/// Purges what is left and joins a thread, which blocks: on a thread of its own,
/// when the last write has let go.
fn farewell(producer: Arc<Producer>, said: tokio::sync::oneshot::Sender<()>) {
    let spawned = std::thread::Builder::new().name("kafka-farewell".to_owned()).spawn(move || {
        while Arc::strong_count(&producer) > 1 {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(producer);
        drop(said);
    });
    if let Err(error) = spawned {
        tracing::warn!("no thread to close a client on: {error}");
    }
}

const fn compression(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}

const fn partitioner(partitioner: Partitioner) -> &'static str {
    match partitioner {
        Partitioner::Murmur2Random => "murmur2_random",
        Partitioner::Murmur2 => "murmur2",
        Partitioner::ConsistentRandom => "consistent_random",
        Partitioner::Consistent => "consistent",
        Partitioner::Fnv1aRandom => "fnv1a_random",
        Partitioner::Fnv1a => "fnv1a",
        Partitioner::Random => "random",
    }
}
