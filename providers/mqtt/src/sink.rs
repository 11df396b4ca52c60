//! The sink: publish a batch, answer when the broker has all of it.
//!
//! The connection is made anew, with a clean session, whenever it is lost, and
//! what was in flight on it fails. The stage's caller makes its call again, so
//! nothing is lost; and nothing piles up here while the broker is away, which
//! a client that keeps unsent publishes for later would do with every retry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millrace_batch::{Batch, Message};
use millrace_grants::Target;
use millrace_kit::write::{self, Unwritable};
use millrace_kit::{DeadLetters, Held, Link, Sink, WriteError};
use millrace_settings::mqtt::{SinkSettings, Version};
use millrace_settings::{FieldError, Qos};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::KEY_PROPERTY;
use crate::client::{self, Client, Failure, Options, Outgoing, Session, Takes, Will};
use crate::keeper::Keeper;
use crate::secrets::References;

/// Most QoS 2 publishes in flight with MQTT 3.1.1, which has no way to ask the
/// broker. Mosquitto allows 20 by default and ends the connection at one more.
const QOS2_WINDOW_V311: u16 = 20;

/// How long the connection's end may take.
const CLOSING: Duration = Duration::from_secs(8);

/// Writes to an MQTT broker.
pub struct MqttSink {
    keeper: Arc<Keeper>,
    dead: Arc<dyn DeadLetters>,
    settings: SinkSettings,
    /// Publishes not yet acknowledged, of all writes together.
    window: Semaphore,
    connection: Mutex<Option<JoinHandle<()>>>,
}

impl MqttSink {
    /// A sink that connects in the background, again and again until it is
    /// closed. `client_id` is used when the settings name none. Messages that
    /// cannot be published at all, or not for the step they are of, go to `dead`.
    ///
    /// # Errors
    ///
    /// Names the setting that this build cannot follow.
    pub fn open(
        settings: SinkSettings,
        client_id: String,
        link: Arc<Link>,
        dead: Arc<dyn DeadLetters>,
    ) -> Result<Arc<Self>, FieldError> {
        client::check(&settings.url)?;
        let mut in_flight = u16::try_from(settings.in_flight.get()).unwrap_or(u16::MAX);
        if settings.version == Version::V311 && settings.qos == Qos::ExactlyOnce {
            in_flight = in_flight.min(QOS2_WINDOW_V311);
        }
        let options = Options {
            url: settings.url.clone(),
            version: settings.version,
            client_id: settings.client_id.clone().unwrap_or(client_id),
            keep_alive: settings.keep_alive.get(),
            session: Session::Clean,
            // A sink subscribes to nothing.
            receive_maximum: 1,
            in_flight,
            will: Will::of(&settings.client()),
            linger: Arc::default(),
        };
        // Tried once here, so that an address the library cannot read is refused.
        client::open(&options)?;
        let references = References::of(&settings.client());
        let keeper = Arc::new(Keeper::new(link, settings.qos, settings.retain));
        let connection = tokio::spawn(Arc::clone(&keeper).keep_connected(options, references));
        Ok(Arc::new(Self {
            keeper,
            dead,
            settings,
            window: Semaphore::new(usize::from(in_flight)),
            connection: Mutex::new(Some(connection)),
        }))
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let (client, takes) = self.keeper.connected().ok_or_else(|| self.unreachable())?;
        let batch = write::read(&body)?;
        if batch.is_empty() {
            return Ok(());
        }
        let publish = self.publish_all((&client, takes), &body, &batch);
        write::counted(&self.keeper.link, || self.target(), &batch, body.len(), publish).await
    }

    /// Publishes every message and waits for all acknowledgements.
    async fn publish_all(
        &self,
        (client, takes): (&Client, Takes),
        body: &Bytes,
        batch: &Batch<'_>,
    ) -> Result<u64, WriteError> {
        let held = self.keeper.link.writers.of_batch(batch);
        let mut answers = FuturesUnordered::new();
        let mut published = 0;
        for (place, message) in batch.messages().enumerate() {
            let outgoing = match self.outgoing(takes, body, &message, &held) {
                Ok(outgoing) => outgoing,
                Err(why) => {
                    self.bury(batch, place, &message, &why).await?;
                    continue;
                }
            };
            let room = loop {
                tokio::select! {
                    // Never closed.
                    room = self.window.acquire() => break room.map_err(|_| self.unreachable())?,
                    Some((place, answer)) = answers.next() => {
                        published += self.accepted(batch, place, answer).await?;
                    }
                }
            };
            let answer = client.publish(outgoing).await.map_err(|_| self.unreachable())?;
            answers.push(async move {
                let result = answer.await;
                drop(room);
                (place, result)
            });
        }
        while let Some((place, answer)) = answers.next().await {
            published += self.accepted(batch, place, answer).await?;
        }
        Ok(published)
    }

    /// How many messages are published with this answer of the broker.
    async fn accepted(
        &self,
        batch: &Batch<'_>,
        place: usize,
        answer: Result<(), Failure>,
    ) -> Result<u64, WriteError> {
        let target = || self.target();
        match answer {
            Ok(()) => Ok(1),
            Err(Failure::Lost) => {
                Err(WriteError::Unreachable { target: target(), reason: Failure::Lost.to_string() })
            }
            Err(Failure::Refused(reason)) => Err(WriteError::Refused { target: target(), reason }),
            Err(Failure::Never(text)) => {
                if let Some(message) = batch.messages().nth(place) {
                    self.bury(batch, place, &message, &text.into()).await?;
                }
                Ok(0)
            }
        }
    }

    /// The message as it is published.
    ///
    /// # Errors
    ///
    /// Why it never can be.
    fn outgoing(
        &self,
        takes: Takes,
        body: &Bytes,
        message: &Message<'_>,
        held: &Held<'_>,
    ) -> Result<Outgoing, Unwritable> {
        let key = message
            .key
            .and_then(|key| std::str::from_utf8(key).ok())
            .filter(|key| forbidden(key).is_none());
        let texts = message.headers().flat_map(|(name, value)| [(name, name), (name, value)]);
        let content_type = message.content_type.map(|content_type| ("content type", content_type));
        if self.settings.version == Version::V5
            && let Some((what, text)) =
                texts.chain(content_type).find(|(_, text)| forbidden(text).is_some())
        {
            let found = forbidden(text).unwrap_or_default().escape_unicode();
            let what = what.escape_debug();
            return Err(format!("MQTT allows no {found} in text, which is in {what}").into());
        }
        let topic = self
            .settings
            .topic
            .render(message.topic, key, |name| message.header(name))
            .map_err(|e| format!("topic {e}"))?;
        held.check(Target::Mqtt(&topic))?;
        let mut properties = Vec::new();
        if self.settings.version == Version::V5 {
            properties
                .extend(message.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
            properties.extend(key.map(|key| (KEY_PROPERTY.to_owned(), key.to_owned())));
        }
        let outgoing = Outgoing {
            qos: self.settings.qos,
            retain: self.settings.retain,
            topic,
            payload: body.slice_ref(message.payload),
            content_type: message.content_type.map(str::to_owned),
            properties,
        };
        let most = self.settings.packet_max.map_or(usize::MAX, |bytes| bytes.as_usize());
        match (outgoing.packet_bytes(), takes.packet.min(most)) {
            (bytes, most) if bytes > most => {
                Err(format!("its packet has {bytes} bytes, and the broker takes {most}").into())
            }
            _ => Ok(outgoing),
        }
    }

    async fn bury(
        &self,
        batch: &Batch<'_>,
        place: usize,
        message: &Message<'_>,
        why: &Unwritable,
    ) -> Result<(), WriteError> {
        write::bury(&*self.dead, &self.keeper.link, batch, place, message, why).await
    }

    fn unreachable(&self) -> WriteError {
        let reason = self.keeper.link.status().error.unwrap_or_else(|| "connecting".to_owned());
        WriteError::Unreachable { target: self.target(), reason }
    }

    fn target(&self) -> String {
        format!("mqtt sink {}", self.keeper.link.names.name)
    }

    async fn end(&self) {
        let connection = self.connection.lock().take();
        if let Some(connection) = connection {
            let abort = connection.abort_handle();
            if tokio::time::timeout(CLOSING, connection).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Sink for MqttSink {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

impl Drop for MqttSink {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut().take() {
            connection.abort();
        }
    }
}

/// The first character that a text of MQTT must not have, or should not, which a broker may take for a malformed packet
/// (MQTT 5.0, section 1.5.4). Mosquitto closes the connection, and would do so for ever.
fn forbidden(text: &str) -> Option<char> {
    let non_character =
        |c: char| matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    text.chars().find(|c| c.is_control() || non_character(*c))
}
