//! The client library behind one small seam.
//!
//! The two protocol versions are two crates with the same shape and different
//! types. Here they become one, with only what source and sink use. Whoever
//! replaces the library replaces this folder.

mod linger;
mod v3;
mod v5;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_settings::mqtt::{Client as Settings, Version};
use millrace_settings::{BrokerUrl, FieldError, Qos};
use rumqttc_v4 as lib3;
use rumqttc_v5 as lib5;

use crate::secrets::Secrets;

pub(crate) use linger::Linger;

/// Largest packet taken from a broker, in bytes. Larger than what a batch can
/// carry, so that a message between the two is counted and acknowledged and
/// does not end the connection again and again.
const PACKET_MAX: u32 = 16 << 20;

/// Time for TCP connect, TLS and CONNACK, in seconds.
const CONNECT_TIMEOUT: u64 = 5;

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) url: BrokerUrl,
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) keep_alive: Duration,
    pub(crate) session: Session,
    /// Most unacknowledged messages from the broker.
    pub(crate) receive_maximum: u16,
    /// Most unacknowledged messages to the broker.
    pub(crate) in_flight: u16,
    pub(crate) will: Option<Will>,
    /// Has the connections that are being closed.
    pub(crate) linger: Arc<Linger>,
}

/// What the broker is to keep of a client that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// Nothing.
    Clean,
    /// Subscriptions and messages, for this many seconds (MQTT 5; in 3.1.1 that
    /// is the broker's choice).
    Kept(u32),
}

/// What the broker publishes when the connection ends without a goodbye.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
}

impl Will {
    /// The last will, if the settings have one.
    pub(crate) fn of(settings: &Settings<'_>) -> Option<Self> {
        Some(Self {
            topic: settings.will_topic?.to_owned(),
            payload: settings.will_payload.unwrap_or_default().to_owned(),
            qos: settings.will_qos.unwrap_or_default(),
            retain: settings.will_retain.unwrap_or_default(),
        })
    }
}

/// What happened on the connection, as far as it matters here.
#[derive(Debug)]
pub(crate) enum Happened {
    /// CONNACK with success.
    Connected {
        /// The broker had kept the session.
        session_present: bool,
        /// What the broker takes.
        takes: Takes,
    },
    /// A message.
    Message(Incoming),
    /// The broker has sent PUBREL: the packet identifier is free again.
    Released(u16),
    /// PUBREC went out, sent by us or, for a repeated packet, by the library.
    Recorded(u16),
    /// Anything else.
    Other,
}

/// What a broker says it takes (MQTT 5.0, section 3.2.2.3); an older one takes
/// everything, or ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Takes {
    /// Largest packet, in bytes.
    pub(crate) packet: usize,
    /// Highest quality of service.
    pub(crate) qos: Qos,
    /// Messages to be kept for later subscribers.
    pub(crate) retain: bool,
}

impl Default for Takes {
    fn default() -> Self {
        Self { packet: usize::MAX, qos: Qos::ExactlyOnce, retain: true }
    }
}

/// A message from the broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incoming {
    pub(crate) qos: Qos,
    pub(crate) pkid: u16,
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) properties: Vec<(String, String)>,
}

/// A message to the broker.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) properties: Vec<(String, String)>,
}

impl Outgoing {
    /// The most bytes that its packet can have with MQTT 5: headers, properties
    /// and payload (MQTT 5.0, section 3.3).
    pub(crate) fn packet_bytes(&self) -> usize {
        let properties: usize =
            self.properties.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        let content_type = self.content_type.as_ref().map_or(0, |text| 3 + text.len());
        5 + 2 + self.topic.len() + 2 + 4 + content_type + properties + self.payload.len()
    }
}

/// Completes when the broker has answered.
pub(crate) type Answer = BoxFuture<'static, Result<(), Failure>>;

/// Why the broker's answer is not "yes".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection ended before the answer.
    Lost,
    /// The broker said no.
    Refused(String),
    /// The broker said no to this message, now and later.
    Never(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection was lost before the broker answered"),
            Self::Refused(reason) | Self::Never(reason) => f.write_str(reason),
        }
    }
}

/// The sending half.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    V3(lib3::AsyncClient),
    V5(lib5::AsyncClient),
}

/// The half that has to be polled for anything to happen.
pub(crate) enum Events {
    V3(Box<lib3::EventLoop>),
    V5(Box<lib5::EventLoop>),
}

/// What is wrong with an address that the library cannot connect to.
pub(crate) fn check(url: &BrokerUrl) -> Result<(), FieldError> {
    // It would look for the brackets in the certificate.
    if url.tls() && url.websocket() && url.authority().starts_with('[') {
        let message = "must have a host name: wss:// to an IPv6 address is not supported";
        return Err(FieldError::invalid("url", &url.to_string(), message));
    }
    Ok(())
}

/// A client and its events. Nothing is connected before the events are polled.
///
/// # Errors
///
/// Names the address when the library cannot read it.
pub(crate) fn open(options: &Options) -> Result<(Client, Events), FieldError> {
    // Room for an acknowledgement of everything that can be unacknowledged.
    let capacity =
        usize::from(options.receive_maximum).max(usize::from(options.in_flight)).saturating_add(64);
    let unreadable = |e: String| FieldError::invalid("url", &options.url.to_string(), e);
    match options.version {
        Version::V311 => {
            let (client, events) =
                v3::open(options, capacity).map_err(|e| unreadable(e.to_string()))?;
            Ok((Client::V3(client), Events::V3(Box::new(events))))
        }
        Version::V5 => {
            let (client, events) =
                v5::open(options, capacity).map_err(|e| unreadable(e.to_string()))?;
            Ok((Client::V5(client), Events::V5(Box::new(events))))
        }
    }
}

impl Options {
    fn keep_alive_seconds(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }

    fn clean(&self) -> bool {
        self.session == Session::Clean
    }

    /// The address of a WebSocket without TLS, as the library wants it also
    /// where TLS is put below.
    fn websocket(&self) -> String {
        format!("ws://{}:{}{}", self.url.authority(), self.url.port(), self.url.path())
    }
}

impl Events {
    /// The next thing that happens. Connects when not connected.
    ///
    /// # Errors
    ///
    /// The connection could not be made or was lost. The next call connects
    /// again.
    pub(crate) async fn next(&mut self) -> Result<Happened, String> {
        match self {
            Self::V3(events) => Ok(v3::happened(events.poll().await.map_err(|e| e.to_string())?)),
            Self::V5(events) => Ok(v5::happened(events.poll().await.map_err(|e| e.to_string())?)),
        }
    }

    /// Sets what the next connect shows of itself and trusts.
    pub(crate) fn arm(&mut self, url: &BrokerUrl, secrets: Secrets) {
        match self {
            Self::V3(events) => v3::arm(events, url, secrets),
            Self::V5(events) => v5::arm(events, url, secrets),
        }
    }
}

impl Client {
    /// Queues PUBACK or PUBREC for a packet of the present connection. False
    /// when the queue is full: try again when something has happened.
    pub(crate) fn acknowledge(&self, qos: Qos, pkid: u16) -> bool {
        match (self, qos) {
            (_, Qos::AtMostOnce) => true,
            (Self::V3(client), _) => v3::acknowledge(client, qos, pkid),
            (Self::V5(client), _) => v5::acknowledge(client, qos, pkid),
        }
    }

    /// Queues SUBSCRIBE; the answer comes while the events are polled.
    pub(crate) fn subscribe(&self, filter: &str, qos: Qos) -> Answer {
        match self {
            Self::V3(client) => v3::subscribe(client, filter, qos),
            Self::V5(client) => v5::subscribe(client, filter, qos),
        }
    }

    /// Queues a publish, waiting for room, and returns what completes when the
    /// broker has acknowledged it (QoS 0: when it is written).
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<Answer, String> {
        match self {
            Self::V3(client) => v3::publish(client, message).await,
            Self::V5(client) => v5::publish(client, message).await,
        }
    }

    /// Queues DISCONNECT, behind what is queued already.
    pub(crate) fn disconnect(&self) {
        // Full or gone: the connection is closed anyway.
        let _ = match self {
            Self::V3(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        };
    }
}

fn failed(error: &dyn std::fmt::Display) -> Answer {
    Box::pin(std::future::ready(Err(Failure::Refused(error.to_string()))))
}
