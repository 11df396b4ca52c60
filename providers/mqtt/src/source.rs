//! The source: subscribe, take, acknowledge when safe.
//!
//! One task does everything, so that an acknowledgement can never slip from a
//! lost connection into the next one: the connection's number (epoch) changes
//! in the same task that sends acknowledgements, before it sends another.

use std::collections::HashSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_batch::Fields;
use millrace_kit::telemetry::now_ns;
use millrace_kit::{Backoff, Delivery, ErrorKind, Inlet, Limits, Link, Source};
use millrace_settings::mqtt::{SourceSettings, Version};
use millrace_settings::{FieldError, Qos};

use crate::KEY_PROPERTY;
use crate::awaiting::Awaiting;
use crate::client::{
    self, Answer, Client, Events, Failure, Happened, Incoming, Linger, Options, Session as Kept,
    Will,
};
use crate::secrets::References;

/// Most bytes of messages taken and not yet safe. With it memory is bounded
/// also when messages are large.
const HELD_BYTES: usize = 64 << 20;

/// How long the last acknowledgements and DISCONNECT may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Reads from an MQTT broker.
pub struct MqttSource {
    settings: SourceSettings,
    limits: Limits,
    client: Client,
    events: Events,
    references: References,
    linger: Arc<Linger>,
}

impl std::fmt::Debug for MqttSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttSource").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl MqttSource {
    /// A source. `client_id` is used when the settings name none; it has to be
    /// the same after a restart.
    ///
    /// # Errors
    ///
    /// Names the setting that this build cannot follow.
    pub fn new(
        settings: SourceSettings,
        limits: Limits,
        client_id: String,
    ) -> Result<Self, FieldError> {
        client::check(&settings.url)?;
        let common = settings.client();
        let linger = Arc::new(Linger::default());
        let expiry = settings.session_expiry.get().as_secs();
        let options = Options {
            url: settings.url.clone(),
            version: settings.version,
            client_id: settings.client_id.clone().unwrap_or(client_id),
            keep_alive: settings.keep_alive.get(),
            session: match settings.clean_session {
                true => Kept::Clean,
                false => Kept::Kept(u32::try_from(expiry).unwrap_or(u32::MAX)),
            },
            receive_maximum: u16::try_from(settings.receive_maximum.get()).unwrap_or(u16::MAX),
            // A source publishes nothing; the library wants room for one.
            in_flight: 1,
            will: Will::of(&common),
            linger: Arc::clone(&linger),
        };
        let references = References::of(&common);
        let (client, events) = client::open(&options)?;
        Ok(Self { settings, limits, client, events, references, linger })
    }
}

impl Source for MqttSource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let inlet = Inlet::new(delivery, Arc::clone(&link), self.limits);
            let mut events = self.events;
            let topic = self.settings.topic.as_str();
            let filter = match &self.settings.share {
                Some(group) => format!("$share/{group}/{topic}"),
                None => topic.to_owned(),
            };
            let mut session = Session {
                client: self.client,
                link,
                inlet,
                filter,
                settings: self.settings,
                references: self.references,
                epoch: 0,
                awaiting: Awaiting::default(),
                recorded: HashSet::new(),
                subscribed: false,
                answer: None,
                was_connected: false,
                backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
                pause: None,
            };
            session.take_until_drained(&mut events).await;
            session.finish(&mut events).await;
            drop(events);
            self.linger.closed().await;
        })
    }
}

/// Stands for a message until it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    epoch: u64,
    qos: Qos,
    pkid: u16,
}

struct Session {
    client: Client,
    link: Arc<Link>,
    inlet: Inlet<Token>,
    /// What is subscribed to.
    filter: String,
    settings: SourceSettings,
    references: References,
    /// Number of the connection.
    epoch: u64,
    /// Packets taken on this connection and not yet acknowledged.
    awaiting: Awaiting,
    /// QoS 2 packet identifiers answered with PUBREC and not yet released, of
    /// the session: a packet repeated with one of them is not a new message.
    recorded: HashSet<u16>,
    /// Whether this process has subscribed in the broker's present session.
    subscribed: bool,
    /// Of a SUBSCRIBE under way.
    answer: Option<Answer>,
    was_connected: bool,
    backoff: Backoff,
    /// To wait before the next connect.
    pause: Option<Duration>,
}

/// What ended a wait.
enum Woken {
    Event(Result<Happened, String>),
    Drain,
}

impl Session {
    async fn take_until_drained(&mut self, events: &mut Events) {
        let drain = self.link.drain.clone();
        let mut drained = pin!(drain.cancelled());
        loop {
            match self.wait(events, drained.as_mut()).await {
                Woken::Event(Ok(event)) => self.on_event(event),
                Woken::Event(Err(error)) => self.on_lost(&error),
                Woken::Drain => return,
            }
            self.send_acknowledgements();
        }
    }

    /// Waits for the next event, and acknowledges what becomes safe meanwhile.
    /// While too much is held, nothing is read.
    ///
    /// Called for every message: what is made here is made only to connect.
    async fn wait(
        &mut self,
        events: &mut Events,
        mut drained: Pin<&mut impl Future<Output = ()>>,
    ) -> Woken {
        let pause = self.pause.take();
        let fresh = self.epoch == 0 && !self.was_connected;
        let connect = (pause.is_some() || fresh).then(|| {
            (pause.unwrap_or_default(), self.references.clone(), self.settings.url.clone())
        });
        let mut next = pin!(async move {
            if let Some((pause, references, url)) = connect {
                tokio::time::sleep(pause).await;
                events.arm(&url, references.read().await?);
            }
            events.next().await
        });
        loop {
            let room = self.has_room();
            tokio::select! {
                event = &mut next, if room => return Woken::Event(event),
                tokens = self.inlet.settled() => {
                    self.safe(tokens);
                    self.send_acknowledgements();
                }
                Some(result) = answered(&mut self.answer) => self.on_subscribed(result),
                () = drained.as_mut() => return Woken::Drain,
            }
        }
    }

    /// With MQTT 5 the broker keeps to receive-maximum by itself, and reading
    /// on keeps the connection alive; QoS 0 and 3.1.1 know no such limit.
    fn has_room(&self) -> bool {
        let most = usize::try_from(self.settings.receive_maximum.get()).unwrap_or(usize::MAX);
        let kept_by_broker =
            self.settings.version == Version::V5 && self.settings.qos != Qos::AtMostOnce;
        self.inlet.has_room(if kept_by_broker { usize::MAX } else { most }, HELD_BYTES)
    }

    fn on_event(&mut self, event: Happened) {
        match event {
            Happened::Connected { session_present, .. } => self.on_connected(session_present),
            Happened::Message(message) => self.on_message(&message),
            Happened::Recorded(pkid) => {
                self.recorded.insert(pkid);
                // The library answers a repeated packet by itself: our own
                // answer would be one too many.
                self.awaiting.remove(pkid);
            }
            Happened::Released(pkid) => {
                self.recorded.remove(&pkid);
            }
            Happened::Other => {}
        }
    }

    fn on_connected(&mut self, session_present: bool) {
        if self.was_connected {
            self.link.telemetry.reconnected();
        }
        self.was_connected = true;
        self.backoff.reset();
        if !session_present {
            self.recorded.clear();
            self.subscribed = false;
        }
        if self.subscribed {
            self.link.connected();
        } else {
            // Also in a resumed session: the settings may have changed since.
            self.answer = Some(self.client.subscribe(&self.filter, self.settings.qos));
        }
    }

    fn on_subscribed(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.subscribed = true;
                self.link.connected();
            }
            Err(error) => {
                self.link.retrying(format_args!("subscribe to {}: {error}", self.filter));
                // The connection stays: the broker's permissions may change.
                let (client, filter, qos) =
                    (self.client.clone(), self.filter.clone(), self.settings.qos);
                let pause = self.backoff.next_pause();
                self.answer = Some(Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    client.subscribe(&filter, qos).await
                }));
            }
        }
    }

    fn on_message(&mut self, message: &Incoming) {
        if message.qos == Qos::ExactlyOnce && self.recorded.contains(&message.pkid) {
            return;
        }
        let token = Token { epoch: self.epoch, qos: message.qos, pkid: message.pkid };
        if message.qos != Qos::AtMostOnce && !self.awaiting.insert(message.pkid, message.qos) {
            // Sent twice on one connection: one acknowledgement answers both.
            return;
        }
        if let Err(error) = push(&mut self.inlet, message, token) {
            // No batch can carry it, now or later: holding it back would hold
            // back all that follow.
            let topic = String::from_utf8_lossy(&message.topic);
            self.link.telemetry.dropped(1);
            self.link
                .telemetry
                .error(ErrorKind::Batch, format_args!("message on {topic} dropped: {error}"));
            self.safe([token]);
        }
    }

    fn on_lost(&mut self, error: &str) {
        self.epoch += 1;
        self.awaiting.clear();
        self.answer = None;
        self.pause = Some(self.backoff.next_pause());
        self.link.retrying(format_args!("{}: {error}", self.settings.url));
    }

    /// Notes what may be acknowledged. Tokens of an earlier connection are
    /// dropped: the broker sends those messages again.
    fn safe(&mut self, tokens: impl IntoIterator<Item = Token>) {
        for token in tokens {
            if token.qos != Qos::AtMostOnce && token.epoch == self.epoch {
                self.awaiting.safe(token.pkid);
            }
        }
    }

    /// Acknowledges what is safe and has its turn, as far as the client takes it.
    fn send_acknowledgements(&mut self) {
        while let Some((pkid, qos)) = self.awaiting.due() {
            if !self.client.acknowledge(qos, pkid) {
                return;
            }
            self.awaiting.remove(pkid);
        }
    }

    /// Finishes what was taken, then says goodbye. What still comes is not
    /// taken: the broker keeps it.
    async fn finish(&mut self, events: &mut Events) {
        self.inlet.flush();
        let leave = self.link.leave.clone();
        while !self.inlet.is_idle() {
            tokio::select! {
                () = leave.cancelled() => break,
                tokens = self.inlet.settled() => self.safe(tokens),
                event = events.next() => match event {
                    Ok(Happened::Recorded(pkid)) => {
                        self.awaiting.remove(pkid);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        self.epoch += 1;
                        self.awaiting.clear();
                        tokio::time::sleep(self.backoff.next_pause()).await;
                    }
                },
            }
            self.send_acknowledgements();
        }
        let goodbye = async {
            while self.awaiting.due().is_some() && events.next().await.is_ok() {
                self.send_acknowledgements();
            }
            self.client.disconnect();
            while events.next().await.is_ok() {}
        };
        // Not said, it is a lost connection to the broker, which does no harm.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

/// The answer of a SUBSCRIBE, if one is under way. Cancelled without loss.
async fn answered(answer: &mut Option<Answer>) -> Option<Result<(), Failure>> {
    match answer {
        Some(waiting) => {
            let result = waiting.await;
            *answer = None;
            Some(result)
        }
        None => std::future::pending().await,
    }
}

fn push(
    inlet: &mut Inlet<Token>,
    message: &Incoming,
    token: Token,
) -> Result<(), millrace_kit::PushError> {
    let topic = String::from_utf8_lossy(&message.topic);
    let mut key = None;
    let mut headers = Vec::with_capacity(message.properties.len());
    for (name, value) in &message.properties {
        if name == KEY_PROPERTY {
            key = Some(value.as_bytes());
        } else {
            headers.push((name.as_str(), value.as_str()));
        }
    }
    let fields = Fields {
        timestamp: now_ns(),
        topic: &topic,
        content_type: message.content_type.as_deref(),
        key,
        payload: &message.payload,
    };
    inlet.push(&fields, &headers, token)
}
