//! The source: poll, take, store the offset when safe.
//!
//! One task does everything. It takes what the library has fetched without
//! waiting, and sleeps until the library has more, a batch is safe, or a tick
//! has passed.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::BatchWriter;
use millrace_kit::dead::{self, DeadKind};
use millrace_kit::{Backoff, Delivery, ErrorKind, Inlet, Limits, Link, Packed, Source};
use millrace_settings::kafka::{IsolationLevel, SourceSettings};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::assignment::{Assignment, Client};
use crate::context::{Context, Notes};
use crate::fields::{self, Plain, Read};
use crate::marks::{Marks, Token};
use crate::standing::{PROBE, Standing};
use crate::{NULL_VALUE, OFFSET, PARTITION, client};

/// Most bytes of records taken and not yet safe.
const HELD_BYTES: usize = 64 << 20;

/// Most records whose dead letter is being written.
const BURYING: usize = 16;

/// Most records taken in one go, before others have their turn.
const BURST: usize = 1_000;

/// How often is looked after everything that tells nobody.
const TICK: Duration = Duration::from_millis(100);

/// After how long without room the partitions are paused. Pausing throws away
/// what was fetched ahead, so a short stall must not do it.
const STALL: Duration = Duration::from_secs(2);

/// How long the last commit and the farewell to the group may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// Largest payload, key and headers kept in a dead letter, in bytes.
const LETTER_MAX: usize = 800 * 1024;

/// Reads from a Kafka cluster.
#[derive(Debug)]
pub struct KafkaSource {
    settings: SourceSettings,
    limits: Limits,
    name: String,
}

impl KafkaSource {
    /// A source. `name` is used as group and client identifier where the
    /// settings name none; it has to be the same after a restart.
    #[must_use]
    pub const fn new(settings: SourceSettings, limits: Limits, name: String) -> Self {
        Self { settings, limits, name }
    }

    async fn config(&self) -> Result<ClientConfig, String> {
        let settings = &self.settings;
        let mut config = client::config(&settings.access(), &self.name).await?;
        let isolation = match settings.isolation_level {
            IsolationLevel::ReadCommitted => "read_committed",
            IsolationLevel::ReadUncommitted => "read_uncommitted",
        };
        let session = settings.session_timeout.as_millis();
        config
            .set("group.id", settings.group.as_deref().unwrap_or(&self.name))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 10).clamp(500, 3_000).to_string())
            // What is stored is committed every second; we alone store.
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            .set("enable.auto.offset.store", "false")
            // Where to start is decided when a partition is assigned; this is
            // for a stored offset that the broker no longer has.
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", isolation)
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", (settings.fetch_bytes.get() / 1_024).to_string())
            .set("fetch.max.bytes", settings.fetch_bytes.get().to_string())
            .set("max.partition.fetch.bytes", settings.partition_fetch_bytes.get().to_string())
            .set("fetch.wait.max.ms", settings.fetch_wait.as_millis().to_string())
            .set("fetch.queue.backoff.ms", "20");
        Ok(config)
    }
}

impl Source for KafkaSource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let inlet = Inlet::new(Arc::clone(&delivery), Arc::clone(&link), self.limits);
            let mut intake = Intake {
                link,
                delivery,
                inlet,
                marks: Marks::default(),
                burying: JoinSet::new(),
                taken: 0,
                window: self.settings.window.as_usize(),
                coordinates: self.settings.coordinates,
            };
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            let mut before = false;
            while !intake.link.drain.is_cancelled() {
                let opened = match self.config().await {
                    Ok(config) => Session::open(&config, &self.settings, &intake.link),
                    Err(error) => Err(error),
                };
                let ended = match opened {
                    Ok(mut session) => {
                        let ended = session.serve(&mut intake, &mut before, &mut backoff).await;
                        intake.marks.clear();
                        session.close().await;
                        ended
                    }
                    Err(error) => Some(error),
                };
                let Some(error) = ended else { return };
                intake.link.retrying(format_args!("{}: {error}", self.settings.brokers));
                intake.wait(backoff.next_pause()).await;
            }
            intake.finish().await;
        })
    }
}

/// From records to safe records. Outlives the client.
struct Intake {
    link: Arc<Link>,
    delivery: Arc<Delivery>,
    inlet: Inlet<Token>,
    marks: Marks,
    /// Dead letters being written.
    burying: JoinSet<Token>,
    /// Records taken, ever.
    taken: u64,
    window: usize,
    coordinates: bool,
}

impl Intake {
    fn has_room(&self) -> bool {
        self.inlet.has_room(self.window, HELD_BYTES) && self.burying.len() < BURYING
    }

    fn is_idle(&self) -> bool {
        self.inlet.is_idle() && self.burying.is_empty()
    }

    /// The next records that are safe. Can be cancelled without loss.
    async fn settled(&mut self) -> Vec<Token> {
        tokio::select! {
            tokens = self.inlet.settled() => tokens,
            Some(buried) = self.burying.join_next(), if !self.burying.is_empty() => {
                buried.into_iter().collect()
            }
        }
    }

    /// Waits while there is no client.
    async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        let drain = self.link.drain.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = drain.cancelled() => return,
                // Of a client that is gone: it comes again.
                _ = self.settled() => {}
            }
        }
    }

    /// Finishes what was taken when there is no client to store it with.
    async fn finish(&mut self) {
        self.inlet.flush();
        let leave = self.link.leave.clone();
        while !self.is_idle() {
            tokio::select! {
                _ = self.settled() => {}
                () = leave.cancelled() => return,
            }
        }
    }

    fn push(&mut self, record: &BorrowedMessage<'_>) {
        let topic = record.topic();
        let Some(token) = self.marks.take(topic, record.partition(), record.offset()) else {
            return;
        };
        self.taken += 1;
        let headers = record.headers();
        let plain = headers.map_or_else(|| Some(Plain::default()), fields::plain);
        let (read, pushed) = match plain {
            Some(plain) => (None, self.push_plain(record, topic, plain, token)),
            None => {
                let read = headers.map(fields::read).unwrap_or_default();
                let pushed = self.push_read(record, topic, &read, token);
                (Some(read), pushed)
            }
        };
        if let Err(error) = pushed {
            let read = read.or_else(|| headers.map(fields::read)).unwrap_or_default();
            self.bury(record, &read, token, &error);
        }
    }

    fn push_plain(
        &mut self,
        record: &BorrowedMessage<'_>,
        topic: &str,
        plain: Plain<'_>,
        token: Token,
    ) -> Result<(), String> {
        let fields = fields::fields(record, topic, plain.content_type);
        let (mut partition, mut offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut headers: Vec<(&str, &str)> = plain.headers;
        if self.coordinates {
            headers.push((PARTITION, partition.format(record.partition())));
            headers.push((OFFSET, offset.format(record.offset())));
        }
        if record.payload().is_none() {
            headers.push((NULL_VALUE, "true"));
        }
        self.inlet.push(&fields, &headers, token).map_err(|error| error.to_string())
    }

    fn push_read(
        &mut self,
        record: &BorrowedMessage<'_>,
        topic: &str,
        read: &Read<'_>,
        token: Token,
    ) -> Result<(), String> {
        if read.unreadable {
            return Err("a header's name is not UTF-8".to_owned());
        }
        let headers = read.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let plain = Plain { headers: headers.collect(), content_type: read.content_type };
        self.push_plain(record, topic, plain, token)
    }

    /// No batch can carry it, now or later, and holding it back would hold back
    /// all that follow. It is safe when its dead letter is.
    fn bury(&mut self, record: &BorrowedMessage<'_>, read: &Read<'_>, token: Token, why: &str) {
        let at = format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
        self.link.telemetry.received(1, record.payload_len() as u64);
        self.link.telemetry.error(ErrorKind::Batch, format_args!("record {at}: {why}"));
        let letter = letter(&self.link, record, read, &at, why);
        let delivery = Arc::clone(&self.delivery);
        self.burying.spawn(async move {
            delivery.keep(letter, 1).await;
            token
        });
    }
}

/// A dead letter for a record: with all of it that a letter can hold.
fn letter(
    link: &Link,
    record: &BorrowedMessage<'_>,
    read: &Read<'_>,
    at: &str,
    why: &str,
) -> Bytes {
    let (partition, offset) = (record.partition().to_string(), record.offset().to_string());
    let mut fields = fields::fields(record, record.topic(), read.content_type);
    let mut headers: Vec<(&str, &str)> =
        read.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    let size = |headers: &[(&str, &str)]| -> usize {
        headers.iter().map(|(name, value)| 6 + name.len() + value.len()).sum()
    };
    let mut text = Cow::from(why);
    if size(&headers) > 32 * 1024 {
        text = format!("{text}; headers left out").into();
        headers.clear();
    }
    if fields.payload.len() + size(&headers) > LETTER_MAX {
        let length = fields.payload.len();
        text = format!("{text}; payload of {length} bytes left out").into();
        fields.payload = &[];
    }
    if fields.key.is_some_and(|key| key.len() + fields.payload.len() > LETTER_MAX) {
        text = format!("{text}; key left out").into();
        fields.key = None;
    }
    if text != why {
        text = format!("{text}: the record is in Kafka at {at}").into();
    }
    headers.push((PARTITION, &partition));
    headers.push((OFFSET, &offset));
    let id = format!("kafka/{at}");
    let packed = BatchWriter::new([(millrace_batch::ID, id.as_str())]).and_then(|mut writer| {
        let whole = writer.push(&fields, headers.iter().copied());
        whole.or_else(|_| {
            let bare = millrace_batch::Fields { key: None, payload: &[], ..fields };
            writer.push(&bare, [(PARTITION, partition.as_str()), (OFFSET, offset.as_str())])
        })?;
        Ok(Packed::read(writer.finish().into()))
    });
    let packed = packed.unwrap_or_else(|_| Packed::read(Bytes::new()));
    dead::letter(&packed, &link.names, DeadKind::InvalidArgument, 1, &text)
        .unwrap_or_else(|_| packed.body().clone())
}

/// One client of the library.
struct Session {
    consumer: Option<Arc<Client>>,
    notes: Arc<Notes>,
    link: Arc<Link>,
    standing: Standing,
    assignment: Assignment,
    /// Asked for when it has to be known whether a broker answers.
    topic: Option<String>,
    /// Since when there has been no room.
    full_since: Option<Instant>,
    draining: bool,
    last_commit: LastCommit,
}

/// The commit before the farewell. The library makes one of its own then, but
/// one that the group refuses when it is just sharing out partitions anew.
enum LastCommit {
    NotYet,
    Running(JoinHandle<KafkaResult<()>>, Instant),
    Again(Instant),
}

impl Session {
    fn open(
        config: &ClientConfig,
        settings: &SourceSettings,
        link: &Arc<Link>,
    ) -> Result<Self, String> {
        let text = |error: rdkafka::error::KafkaError| error.to_string();
        let notes = Notes::new(Arc::clone(link), settings.token_file.clone().map(PathBuf::from));
        let mut consumer: Client =
            config.create_with_context(Context(Arc::clone(&notes))).map_err(text)?;
        let wake = Arc::clone(&notes.wake);
        consumer.set_nonempty_callback(move || wake.notify_one());
        let consumer = Arc::new(consumer);
        let mut session = Self {
            assignment: Assignment::new(
                Arc::clone(&consumer),
                Arc::clone(&notes),
                Arc::clone(link),
                settings.start,
            ),
            standing: Standing::new(Arc::clone(link), Arc::clone(&notes), false),
            topic: (!settings.topics.has_pattern())
                .then(|| settings.topics.iter().next().map(str::to_owned))
                .flatten(),
            consumer: Some(Arc::clone(&consumer)),
            notes,
            link: Arc::clone(link),
            full_since: None,
            draining: false,
            last_commit: LastCommit::NotYet,
        };
        match &settings.partitions {
            Some(partitions) => {
                let mut all = TopicPartitionList::new();
                for topic in settings.topics.iter() {
                    for partition in partitions.iter() {
                        all.add_partition(topic, partition);
                    }
                }
                session.assignment.take_by_hand(all);
            }
            None => {
                let topics: Vec<&str> = settings.topics.iter().collect();
                consumer.subscribe(&topics).map_err(text)?;
            }
        }
        Ok(session)
    }

    /// Runs until the link is drained (nothing), or until the client has to be
    /// made anew (why).
    async fn serve(
        &mut self,
        intake: &mut Intake,
        before: &mut bool,
        backoff: &mut Backoff,
    ) -> Option<String> {
        let (wake, drain) = (Arc::clone(&self.notes.wake), self.link.drain.clone());
        loop {
            let taken = intake.taken;
            let more = self.take(intake);
            if intake.taken != taken {
                self.standing.works();
            }
            self.look_after(intake, before, backoff).await;
            if let Some(end) = self.standing.hear() {
                return Some(end);
            }
            let done = intake.is_idle() || self.link.leave.is_cancelled();
            if self.draining && done && self.committed(intake).await {
                return None;
            }
            let polls = self.polls(intake);
            tokio::select! {
                biased;
                tokens = intake.settled() => self.store(&tokens, intake),
                () = tokio::task::yield_now(), if more => {}
                () = wake.notified(), if polls => {}
                () = drain.cancelled(), if !self.draining => {
                    self.draining = true;
                    self.assignment.pause(true);
                    intake.inlet.flush();
                }
                () = tokio::time::sleep_until(self.standing.next_look(TICK)) => {}
            }
        }
    }

    /// Whether the library is polled: not while records could come of it that
    /// there is no room for.
    fn polls(&self, intake: &Intake) -> bool {
        self.assignment.is_paused() || intake.has_room()
    }

    /// Takes what has been fetched. True when there may be more.
    fn take(&self, intake: &mut Intake) -> bool {
        let Some(consumer) = &self.consumer else { return false };
        for _ in 0..BURST {
            if !self.polls(intake) {
                return false;
            }
            let served = self.notes.served();
            match consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => intake.push(&record),
                // Told to the notes already, unless it came among the records.
                Some(Err(error)) if self.notes.served() == served => self.notes.error(&error, ""),
                Some(Err(_)) => {}
                None if self.notes.served() == served => return false,
                None => {}
            }
        }
        true
    }

    async fn look_after(&mut self, intake: &mut Intake, before: &mut bool, backoff: &mut Backoff) {
        let leaving = self.assignment.is_leaving();
        if self.assignment.advance(&mut intake.marks).await {
            self.standing.works();
        }
        if self.assignment.is_leaving() && !leaving {
            intake.inlet.flush();
        }
        self.throttle(intake);
        let was_up = self.standing.is_up();
        let (consumer, topic) = (&self.consumer, &self.topic);
        self.standing
            .ask(|| {
                let (consumer, topic) = (consumer.clone(), topic.clone());
                move || {
                    let Some(consumer) = consumer else { return Ok(()) };
                    let answer = consumer.fetch_metadata(topic.as_deref(), PROBE);
                    answer.map(drop).map_err(|error| error.to_string())
                }
            })
            .await;
        if self.standing.is_up() && !was_up {
            if *before {
                self.link.telemetry.reconnected();
            }
            *before = true;
            backoff.reset();
        }
    }

    fn throttle(&mut self, intake: &Intake) {
        if self.draining {
            return;
        }
        if intake.has_room() {
            self.full_since = None;
            self.assignment.pause(false);
        } else if self.full_since.get_or_insert_with(Instant::now).elapsed() > STALL {
            self.assignment.pause(true);
        }
    }

    /// Stores how far each partition is safe.
    fn store(&self, tokens: &[Token], intake: &mut Intake) {
        for token in tokens {
            intake.marks.safe(*token);
        }
        let offsets = list(intake.marks.moved());
        if offsets.count() == 0 {
            return;
        }
        if let Some(consumer) = &self.consumer
            && let Err(error) = consumer.store_offsets(&offsets)
        {
            self.link.noticed(format_args!("offsets were not stored: {error}"));
        }
    }

    /// Commits how far each partition is safe. True when that is done, or its
    /// time is up.
    async fn committed(&mut self, intake: &Intake) -> bool {
        let until = match std::mem::replace(&mut self.last_commit, LastCommit::NotYet) {
            LastCommit::NotYet => Instant::now() + GOODBYE,
            LastCommit::Again(until) => until,
            LastCommit::Running(commit, until) if !commit.is_finished() => {
                self.last_commit = LastCommit::Running(commit, until);
                return Instant::now() > until;
            }
            LastCommit::Running(commit, until) => match commit.await {
                Ok(Err(error)) if Instant::now() < until => {
                    tracing::debug!("commit: {error}");
                    self.last_commit = LastCommit::Again(until);
                    return false;
                }
                Ok(Err(error)) => {
                    self.link.noticed(format_args!("the last offsets were not committed: {error}"));
                    return true;
                }
                _ => return true,
            },
        };
        let offsets = list(intake.marks.ends());
        let Some(consumer) = self.consumer.clone().filter(|_| offsets.count() > 0) else {
            return true;
        };
        let wake = Arc::clone(&self.notes.wake);
        let commit = tokio::task::spawn_blocking(move || {
            let done = consumer.commit(&offsets, CommitMode::Sync);
            wake.notify_one();
            done
        });
        self.last_commit = LastCommit::Running(commit, until);
        false
    }

    /// Commits what is stored, and leaves the group.
    async fn close(mut self) {
        let consumer = self.consumer.take();
        let (said, heard) = tokio::sync::oneshot::channel::<()>();
        self.notes.close();
        // Drops its clients of the same library object.
        drop(self);
        farewell(consumer, Some(said));
        let _ = tokio::time::timeout(GOODBYE, heard).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            self.notes.close();
            farewell(Some(consumer), None);
        }
    }
}

fn list<'a>(offsets: impl Iterator<Item = (&'a str, i32, i64)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in offsets {
        // Fails for what is no offset.
        let _ = list.add_partition_offset(topic, partition, Offset::Offset(offset));
    }
    list
}

/// Closing waits for brokers that may be away: it gets a thread of its own, so
/// that neither a runtime nor its end has to wait for it.
fn farewell(
    consumer: Option<Arc<BaseConsumer<Context>>>,
    said: Option<tokio::sync::oneshot::Sender<()>>,
) {
    let spawned = std::thread::Builder::new().name("kafka-farewell".to_owned()).spawn(move || {
        // A question under way holds it for a moment longer.
        let mut consumer = consumer;
        while let Some(shared) = consumer.take() {
            match Arc::try_unwrap(shared) {
                Ok(last) => drop(last),
                Err(shared) => {
                    consumer = Some(shared);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        drop(said);
    });
    if let Err(error) = spawned {
        tracing::warn!("no thread to close a client on: {error}");
    }
}
