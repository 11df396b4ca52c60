//! From single messages to delivered batches, with bounded memory.
//!
//! A source pushes each message with a token of its own (an MQTT packet
//! identifier, a Kafka offset). The inlet packs messages into batches by
//! count, size and linger, keeps a bounded number of them in flight, and gives
//! the tokens back when the batch is safe: the moment to acknowledge.
//!
//! It never blocks a push and never drops anything. A source holds back by
//! asking [`Inlet::has_room`] before it reads on; that is what turns a slow
//! stage into back-pressure on the protocol.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use millrace_batch::{BatchWriter, Fields};
use millrace_settings::{Delivery as Settings, delivery::BATCH_BYTES_MAX};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::id::{BatchIds, traceparent};
use crate::link::Link;
use crate::packed::{ATTEMPT, Packed, TRACEPARENT};

/// Room for the batch's own header within the largest batch.
const HEADER_ROOM: usize = 512;

/// When a batch is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most messages.
    pub messages: usize,
    /// Most bytes. A larger single message makes a batch of its own.
    pub bytes: usize,
    /// How long the first message waits for others.
    pub linger: Duration,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            messages: usize::try_from(settings.batch_messages.get()).unwrap_or(usize::MAX),
            bytes: settings.batch_bytes.as_usize(),
            linger: settings.linger.get(),
        }
    }
}

/// Why a message could not be taken. It has to be given up: no batch can carry
/// it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Larger than the largest batch.
    #[error("a message of {bytes} bytes does not fit into a batch of at most {}", BATCH_BYTES_MAX)]
    TooLarge {
        /// Its size with topic, key and headers.
        bytes: usize,
    },
    /// Not expressible in the batch format.
    #[error(transparent)]
    Format(#[from] millrace_batch::WriteError),
}

/// Packs messages, delivers the batches, gives the tokens back.
#[derive(Debug)]
pub struct Inlet<T> {
    delivery: Arc<Delivery>,
    link: Arc<Link>,
    limits: Limits,
    ids: BatchIds,
    open: Option<Filling<T>>,
    sealed: VecDeque<Sealed<T>>,
    running: JoinSet<Sealed<T>>,
    /// Kept from one wait to the next: a source waits anew for every message,
    /// and a batch has one time at which it is due.
    timer: Option<Pin<Box<Sleep>>>,
    /// Messages and bytes pushed and not yet safe.
    held: (usize, usize),
}

#[derive(Debug)]
struct Filling<T> {
    writer: BatchWriter,
    tokens: Vec<T>,
    bytes: usize,
    since: Instant,
}

#[derive(Debug)]
struct Sealed<T> {
    batch: Packed,
    tokens: Vec<T>,
    bytes: usize,
    since: Instant,
}

impl<T: Send + 'static> Inlet<T> {
    /// An inlet for one source.
    #[must_use]
    pub fn new(delivery: Arc<Delivery>, link: Arc<Link>, limits: Limits) -> Self {
        Self {
            delivery,
            link,
            limits,
            ids: BatchIds::default(),
            open: None,
            sealed: VecDeque::new(),
            running: JoinSet::new(),
            timer: None,
            held: (0, 0),
        }
    }

    /// Takes a message. Its `token` comes back from [`Inlet::settled`] when it
    /// is safe.
    ///
    /// # Errors
    ///
    /// When no batch can carry the message; nothing of it is kept then.
    pub fn push(
        &mut self,
        message: &Fields<'_>,
        headers: &[(&str, &str)],
        token: T,
    ) -> Result<(), PushError> {
        let size = record_size(message, headers);
        let most = usize::try_from(BATCH_BYTES_MAX).unwrap_or(usize::MAX) - HEADER_ROOM;
        if size > most {
            return Err(PushError::TooLarge { bytes: size });
        }
        if self.open.as_ref().is_some_and(|open| open.writer.byte_len() + size > self.limits.bytes)
        {
            self.seal();
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start()?,
        };
        let pushed = open.writer.push(message, headers.iter().copied());
        if pushed.is_ok() {
            open.tokens.push(token);
            open.bytes += size;
            self.held = (self.held.0 + 1, self.held.1 + size);
            self.link.telemetry.received(1, message.payload.len() as u64);
        }
        let full = open.writer.len() >= self.limits.messages
            || open.writer.byte_len() >= self.limits.bytes;
        if !open.writer.is_empty() {
            self.open = Some(open);
        }
        if full {
            self.seal();
        }
        self.launch();
        Ok(pushed?)
    }

    /// Whether fewer than `messages` messages and `bytes` bytes are held.
    #[must_use]
    pub const fn has_room(&self, messages: usize, bytes: usize) -> bool {
        self.held.0 < messages && self.held.1 < bytes
    }

    /// Whether nothing is held.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.held.0 == 0
    }

    /// Sends off what is there without waiting for more.
    pub fn flush(&mut self) {
        self.seal();
        self.launch();
    }

    /// Sends off what is there and waits until nothing is held, or until
    /// `leave` is cancelled: the end of a source whose outside waits for no
    /// acknowledgement.
    pub async fn finish(&mut self, leave: &CancellationToken) {
        self.flush();
        while !self.is_idle() {
            tokio::select! {
                _ = self.settled() => {}
                () = leave.cancelled() => return,
            }
        }
    }

    /// Waits until messages are safe and gives their tokens back. Also seals
    /// batches whose time has come, so it has to be polled while messages are
    /// held. Never ends while nothing is held. Can be cancelled without loss.
    pub async fn settled(&mut self) -> Vec<T> {
        loop {
            self.launch();
            let due = self.open.as_ref().map(|open| open.since + self.limits.linger);
            tokio::select! {
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    // A delivery that panicked leaves its messages unacknowledged: they come again.
                    let Ok(done) = done else { continue };
                    self.link.telemetry.acknowledged_after(done.since.elapsed());
                    let (messages, bytes) = self.held;
                    self.held = (messages.saturating_sub(done.tokens.len()), bytes.saturating_sub(done.bytes));
                    return done.tokens;
                }
                () = until(&mut self.timer, due) => self.seal(),
            }
        }
    }

    fn start(&self) -> Result<Filling<T>, PushError> {
        let (id, trace) = (self.ids.next_id(), traceparent());
        let headers =
            [(millrace_batch::ID, id.as_str()), (ATTEMPT, "1"), (TRACEPARENT, trace.as_str())];
        let writer = BatchWriter::with_capacity(headers, self.limits.bytes.min(64 * 1024))?;
        Ok(Filling { writer, tokens: Vec::new(), bytes: 0, since: Instant::now() })
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            let batch = Packed::read(open.writer.finish().into());
            self.sealed.push_back(Sealed {
                batch,
                tokens: open.tokens,
                bytes: open.bytes,
                since: open.since,
            });
        }
    }

    /// Starts deliveries while the window has room.
    fn launch(&mut self) {
        while self.running.len() < self.delivery.policy().in_flight {
            let Some(sealed) = self.sealed.pop_front() else { return };
            let delivery = Arc::clone(&self.delivery);
            self.running.spawn(async move {
                delivery.deliver(sealed.batch.clone()).await;
                sealed
            });
        }
    }
}

/// Bytes of a message's record in a batch.
fn record_size(message: &Fields<'_>, headers: &[(&str, &str)]) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| 6 + name.len() + value.len()).sum();
    28 + message.topic.len()
        + message.content_type.map_or(0, str::len)
        + message.key.map_or(0, <[u8]>::len)
        + message.payload.len()
        + headers
}

async fn until(timer: &mut Option<Pin<Box<Sleep>>>, due: Option<Instant>) {
    let Some(due) = due else { return std::future::pending().await };
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
    if timer.deadline() != due {
        timer.as_mut().reset(due);
    }
    timer.as_mut().await;
}
