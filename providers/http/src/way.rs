//! What a source asks of each request, from its head to its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use hyper::http::request::Parts;
use millrace_kit::{ErrorKind, Link};
use millrace_settings::delivery::BATCH_BYTES_MAX;
use millrace_settings::http::SourceSettings;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use crate::answer::Refusal;
use crate::auth::{Claim, Denied, Guard};
use crate::rate::{ClientRates, Rate};
use crate::read::Common;
use crate::split::{self, Wrong};

/// Most bytes of one message with all that belongs to it: below what the kit takes into a batch.
const MESSAGE_MAX: usize = BATCH_BYTES_MAX as usize - 4 * 1_024;

/// The messages of a request, on their way to the source's task.
pub(crate) struct Job {
    pub(crate) common: Common,
    pub(crate) payloads: Vec<Bytes>,
    pub(crate) pending: Arc<Pending>,
}

/// A request whose messages are not all safe. Dropped before they are, it answers that they are not.
pub(crate) struct Pending {
    left: AtomicUsize,
    answer: Mutex<Option<oneshot::Sender<()>>>,
    /// Room for its messages and their bytes, for as long as one is held.
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Pending {
    /// One more of its messages is safe.
    pub(crate) fn settle(&self) {
        if self.left.fetch_sub(1, AcqRel) == 1
            && let Some(answer) = self.answer.lock().take()
        {
            // A client that went away.
            let _ = answer.send(());
        }
    }
}

/// One source, as its server sees it.
pub(crate) struct Way {
    pub(crate) settings: SourceSettings,
    pub(crate) link: Arc<Link>,
    guard: Guard,
    rate: Rate,
    clients: Option<ClientRates>,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    held_bytes: usize,
    /// Bounded by the room that every job has.
    jobs: mpsc::UnboundedSender<Job>,
}

impl Way {
    pub(crate) fn new(
        settings: SourceSettings,
        link: Arc<Link>,
        held_bytes: usize,
        jobs: mpsc::UnboundedSender<Job>,
    ) -> Self {
        Self {
            guard: Guard::new(&settings),
            rate: Rate::new(settings.rate_limit.get()),
            clients: settings.client_rate_limit.map(|rate| ClientRates::new(rate.get())),
            messages: Arc::new(Semaphore::new(settings.window.as_usize())),
            bytes: Arc::new(Semaphore::new(held_bytes)),
            held_bytes,
            settings,
            link,
            jobs,
        }
    }

    /// Whether its files can be used.
    ///
    /// # Errors
    ///
    /// Names the setting and the file.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        self.guard.ready().await
    }

    /// Takes a request. Ok when all of its messages are safe.
    pub(crate) async fn take(
        &self,
        client: IpAddr,
        parts: &[String],
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(), Refusal> {
        let taken = self.try_take(client, parts, head, body).await;
        if let Err(refusal) = &taken {
            self.note(refusal);
        }
        taken
    }

    async fn try_take(
        &self,
        client: IpAddr,
        parts: &[String],
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(), Refusal> {
        if self.link.drain.is_cancelled() {
            return Err(Refusal::unavailable("this source is ending").closing());
        }
        if self.clients.as_ref().is_some_and(|clients| !clients.take(client, Instant::now())) {
            return Err(Refusal::too_many());
        }
        let claim = self.let_in(head).await?;
        // Who has signed the body is known when it is there.
        if claim.is_none() {
            self.count()?;
        }
        self.check_content(head)?;
        let (room, common) = (self.room(head)?, Common::of(&self.settings, parts, &head.headers)?);
        let body = self.body(body).await?;
        if let Some(claim) = claim {
            if !claim.holds(&body) {
                return Err(Refusal::unauthorized(self.guard.scheme()));
            }
            self.count()?;
        }
        self.hand_over(common, &body, room).await
    }

    async fn let_in(&self, head: &Parts) -> Result<Option<Claim>, Refusal> {
        self.guard.head(&head.headers).await.map_err(|denied| match denied {
            Denied::No => Refusal::unauthorized(self.guard.scheme()),
            Denied::Unknown(error) => {
                self.link.telemetry.error(ErrorKind::Connection, error);
                Refusal::unavailable("nobody can be let in now")
            }
        })
    }

    /// Counts a request that was let in.
    fn count(&self) -> Result<(), Refusal> {
        if self.rate.take(Instant::now()) { Ok(()) } else { Err(Refusal::too_many()) }
    }

    fn check_content(&self, head: &Parts) -> Result<(), Refusal> {
        let refused = |text| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        if let Some(encoding) = head.headers.get(CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return refused("compressed bodies are not taken");
        }
        let Some(types) = &self.settings.content_types else { return Ok(()) };
        let found = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match types.takes(found.unwrap_or_default()) {
            true => Ok(()),
            false => refused("this content type is not taken"),
        }
    }

    /// Sets aside the bytes of a body that is still to come.
    fn room(&self, head: &Parts) -> Result<OwnedSemaphorePermit, Refusal> {
        let most = self.settings.max_body_bytes.as_usize();
        // hyper has checked that it is a number.
        let said = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = match said.map(str::parse::<usize>) {
            Some(Ok(length)) if length <= most => length,
            Some(_) => return Err(Refusal::too_large("the body is larger than is taken")),
            None => most,
        };
        if self.messages.available_permits() == 0 {
            return Err(full());
        }
        self.set_aside(length)
    }

    fn set_aside(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| full())
    }

    async fn body(&self, body: &mut Incoming) -> Result<Bytes, Refusal> {
        let most = self.settings.max_body_bytes.as_usize();
        let read = timeout(self.settings.read_timeout.get(), whole(body, most)).await;
        read.unwrap_or_else(|_| {
            let text = "the body did not come in time";
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text).closing())
        })
    }

    async fn hand_over(
        &self,
        common: Common,
        body: &Bytes,
        mut bytes: OwnedSemaphorePermit,
    ) -> Result<(), Refusal> {
        let deadline = tokio::time::Instant::now() + self.settings.timeout.get();
        let payloads = split::split(body, self.settings.split).map_err(|wrong| match wrong {
            Wrong::TooMany => {
                Refusal::too_large(format!("more than {} messages", split::MESSAGES_MAX))
            }
            Wrong::NoArray => Refusal::bad("the body is no JSON array"),
        })?;
        if payloads.is_empty() {
            return Ok(());
        }
        let each = common.size();
        if payloads.iter().any(|payload| payload.len() + each > MESSAGE_MAX) {
            return Err(Refusal::too_large("a message is larger than a batch"));
        }
        // Every message has the headers of the request.
        let wanted = body.len() + each * payloads.len();
        if wanted > self.held_bytes {
            return Err(Refusal::too_large("the messages are larger than a source holds"));
        }
        match wanted.checked_sub(bytes.num_permits()) {
            Some(more) => bytes.merge(self.set_aside(more)?),
            None => drop(bytes.split(bytes.num_permits().saturating_sub(wanted))),
        }
        // More than the window alone fill it.
        let places = payloads.len().min(self.settings.window.as_usize());
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        let messages = Arc::clone(&self.messages).acquire_many_owned(places);
        let Ok(Ok(messages)) = timeout_at(deadline, messages).await else { return Err(full()) };
        let (answer, answered) = oneshot::channel();
        let pending = Arc::new(Pending {
            left: AtomicUsize::new(payloads.len()),
            answer: Mutex::new(Some(answer)),
            _room: (messages, bytes),
        });
        if self.jobs.send(Job { common, payloads, pending }).is_err() {
            return Err(Refusal::unavailable("this source is ending").closing());
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                Err(Refusal::unavailable("not all of it is safe: send it again").closing())
            }
            Err(_) => Err(Refusal::unavailable("not all of it is safe in time: send it again")),
        }
    }

    /// Counts what somebody who runs the pipeline may want to mend. Clients that are wrong by themselves are not among it.
    fn note(&self, refusal: &Refusal) {
        let what = match refusal.status {
            StatusCode::UNAUTHORIZED => "a request was not let in (401)",
            StatusCode::TOO_MANY_REQUESTS => "more requests than are let in (429)",
            StatusCode::PAYLOAD_TOO_LARGE => "a request was too large (413)",
            StatusCode::SERVICE_UNAVAILABLE if !self.link.drain.is_cancelled() => {
                "a request was told to come again (503)"
            }
            _ => return,
        };
        self.link.telemetry.error(ErrorKind::Connection, what);
    }
}

fn full() -> Refusal {
    Refusal::unavailable("as much as can be held is waiting")
}

/// The whole body, of at most so many bytes.
async fn whole(body: &mut Incoming, most: usize) -> Result<Bytes, Refusal> {
    let mut pieces = Pieces::None;
    while let Some(frame) = poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await {
        let broken = |_| Refusal::bad("the body did not come whole").closing();
        // Trailers are not looked at.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if pieces.len() + data.len() > most {
            return Err(Refusal::too_large("the body is larger than is taken"));
        }
        pieces.push(data);
    }
    Ok(pieces.whole())
}

/// A body that comes in one piece, as most do, is not copied.
enum Pieces {
    None,
    One(Bytes),
    Several(BytesMut),
}

impl Pieces {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(piece) => piece.len(),
            Self::Several(pieces) => pieces.len(),
        }
    }

    fn push(&mut self, data: Bytes) {
        match self {
            Self::None => *self = Self::One(data),
            Self::One(first) => {
                let mut pieces = BytesMut::from(first.as_ref());
                pieces.extend_from_slice(&data);
                *self = Self::Several(pieces);
            }
            Self::Several(pieces) => pieces.extend_from_slice(&data),
        }
    }

    fn whole(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(piece) => piece,
            Self::Several(pieces) => pieces.freeze(),
        }
    }
}
