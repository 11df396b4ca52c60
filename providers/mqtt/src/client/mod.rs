//! The client library behind one small seam.
//!
//! The two protocol versions are two crates with the same shape and different
//! types. Here they become one, with only what source and sink use. Whoever
//! replaces the library replaces this file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_settings::mqtt::Version;
use millrace_settings::{BrokerUrl, FieldError, Qos};
use rumqttc_v4 as v4;
use rumqttc_v5 as v5;

/// Largest packet taken from a broker, in bytes. Larger than what a batch can
/// carry, so that a message between the two is counted and acknowledged and
/// does not end the connection again and again.
const PACKET_MAX: u32 = 16 << 20;

/// How long the broker keeps the session of a source that is away (MQTT 5; in
/// 3.1.1 that is the broker's choice): seven days, in seconds.
const SESSION_EXPIRY: u32 = 7 * 24 * 3_600;

/// Longest password read from a file, in bytes (MQTT 5.0, section 3.1.3.6).
const PASSWORD_MAX: u64 = 65_535;

/// Time for TCP connect and CONNACK, in seconds.
const CONNECT_TIMEOUT: u64 = 5;

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) url: BrokerUrl,
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) keep_alive: Duration,
    /// Ask the broker to forget the session at the end of the connection.
    pub(crate) clean: bool,
    /// Most unacknowledged messages from the broker.
    pub(crate) receive_maximum: u16,
    /// Most unacknowledged messages to the broker.
    pub(crate) in_flight: u16,
    pub(crate) credentials: Credentials,
}

/// Who we are at the broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) username: Option<String>,
    pub(crate) password_file: Option<String>,
}

/// What happened on the connection, as far as it matters here.
#[derive(Debug)]
pub(crate) enum Happened {
    /// CONNACK with success.
    Connected { session_present: bool },
    /// A message.
    Message(Incoming),
    /// The broker has sent PUBREL: the packet identifier is free again.
    Released(u16),
    /// PUBREC went out, sent by us or, for a repeated packet, by the library.
    Recorded(u16),
    /// Anything else.
    Other,
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

/// Completes when the broker has answered.
pub(crate) type Answer = BoxFuture<'static, Result<(), Failure>>;

/// Why the broker's answer is not "yes".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection ended before the answer.
    Lost,
    /// The broker said no.
    Refused(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection was lost before the broker answered"),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

/// The sending half.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// The half that has to be polled for anything to happen.
pub(crate) enum Events {
    V4(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What a session store answers with.
type Stored<'a, T> = BoxFuture<'a, Result<T, v5::SessionStoreError>>;

/// What is wrong with an address this build cannot connect to.
pub(crate) fn check(url: &BrokerUrl) -> Result<(), FieldError> {
    if url.tls() {
        return Err(FieldError::invalid(
            "url",
            &url.to_string(),
            "TLS is not supported by this build: use mqtt://",
        ));
    }
    Ok(())
}

/// The user name and password as they are now.
///
/// # Errors
///
/// When the password file cannot be read.
pub(crate) async fn login(credentials: &Credentials) -> Result<Option<(String, Bytes)>, String> {
    let password = match &credentials.password_file {
        Some(file) => read_password(Path::new(file))
            .await
            .map_err(|e| format!("password-file {file}: {e}"))?,
        None => Bytes::new(),
    };
    let named = credentials.username.is_some() || credentials.password_file.is_some();
    Ok(named.then(|| (credentials.username.clone().unwrap_or_default(), password)))
}

async fn read_password(file: &Path) -> std::io::Result<Bytes> {
    if tokio::fs::metadata(file).await?.len() > PASSWORD_MAX {
        return Err(std::io::Error::other("is longer than a password can be"));
    }
    let mut password = tokio::fs::read(file).await?;
    while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        password.pop();
    }
    Ok(password.into())
}

/// A client and its events. Nothing is connected before the events are polled.
pub(crate) fn open(options: &Options, login: Option<(String, Bytes)>) -> (Client, Events) {
    let keep_alive = u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let address = (options.url.host().to_owned(), options.url.port());
    // Room for an acknowledgement of everything that can be unacknowledged.
    let capacity =
        usize::from(options.receive_maximum).max(usize::from(options.in_flight)).saturating_add(64);
    match options.version {
        Version::V311 => {
            let broker = v4::Broker::tcp(address.0, address.1);
            let mut wire = v4::MqttOptions::new(options.client_id.clone(), broker);
            wire.set_keep_alive(keep_alive)
                .set_clean_session(options.clean)
                .set_ack_mode(v4::AckMode::Manual)
                .set_inflight(options.in_flight)
                .set_max_packet_size(PACKET_MAX as usize, PACKET_MAX as usize);
            if let Some((user, password)) = login {
                wire.set_credentials(user, password);
            }
            let (client, mut events) = v4::AsyncClient::builder(wire).capacity(capacity).build();
            let mut network = v4::NetworkOptions::new();
            network.set_tcp_nodelay(true);
            network.set_connection_timeout(CONNECT_TIMEOUT);
            events.set_network_options(network);
            (Client::V4(client), Events::V4(Box::new(events)))
        }
        Version::V5 => {
            let broker = v5::Broker::tcp(address.0, address.1);
            let mut wire = v5::MqttOptions::new(options.client_id.clone(), broker);
            wire.set_keep_alive(keep_alive)
                .set_clean_start(options.clean)
                .set_session_expiry_interval((!options.clean).then_some(SESSION_EXPIRY))
                .set_receive_maximum(Some(options.receive_maximum))
                .set_ack_mode(v5::AckMode::Manual)
                .set_max_packet_size(Some(PACKET_MAX))
                .set_connect_timeout(Duration::from_secs(CONNECT_TIMEOUT))
                .set_outgoing_inflight_upper_limit(options.in_flight);
            // Small packets in both directions: Nagle's algorithm would add
            // the peer's delayed acknowledgement, 40 ms, to every exchange.
            let mut network = v5::NetworkOptions::new();
            network.set_tcp_nodelay(true);
            wire.set_network_options(network);
            if !options.clean {
                wire.set_session_store_arc(Arc::new(Fresh(options.clone())));
            }
            if let Some((user, password)) = login {
                wire.set_credentials(user, password);
            }
            let (client, events) = v5::AsyncClient::builder(wire).capacity(capacity).build();
            (Client::V5(client), Events::V5(Box::new(events)))
        }
    }
}

/// Tells the library that this process, newly started, has nothing in flight.
///
/// Without it the library does not let a session be resumed that it did not
/// see begin, or forbids to subscribe in it, because it might have left
/// publishes unanswered. A source's connection never publishes, so there is
/// nothing to be restored: what the broker holds for us it sends again.
#[derive(Debug)]
struct Fresh(Options);

impl v5::SessionStore for Fresh {
    fn load<'a>(
        &'a self,
        key: &'a v5::SessionStoreKey,
    ) -> Stored<'a, Option<v5::PersistedSession>> {
        let session = v5::PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: self.0.clean,
            session_expiry_interval: Some(SESSION_EXPIRY),
            outgoing_inflight_upper_limit: Some(self.0.in_flight),
            ack_mode: v5::PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(
        &'a self,
        _: &'a v5::SessionStoreKey,
        _: &'a v5::PersistedSession,
    ) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a v5::SessionStoreKey) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
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
            Self::V4(events) => Ok(from_v4(events.poll().await.map_err(|e| e.to_string())?)),
            Self::V5(events) => Ok(from_v5(events.poll().await.map_err(|e| e.to_string())?)),
        }
    }

    /// Sets what the next connect logs in with.
    pub(crate) fn set_login(&mut self, login: Option<(String, Bytes)>) {
        let Some((user, password)) = login else { return };
        match self {
            Self::V4(events) => {
                events.mqtt_options.set_credentials(user, password);
            }
            Self::V5(events) => {
                events.options.set_credentials(user, password);
            }
        }
    }
}

impl Client {
    /// Queues PUBACK or PUBREC for a packet of the present connection. False
    /// when the queue is full: try again when something has happened.
    pub(crate) fn acknowledge(&self, qos: Qos, pkid: u16) -> bool {
        match (self, qos) {
            (_, Qos::AtMostOnce) => true,
            (Self::V4(client), Qos::AtLeastOnce) => {
                client.try_manual_ack(v4::ManualAck::PubAck(v4::PubAck::new(pkid))).is_ok()
            }
            (Self::V4(client), Qos::ExactlyOnce) => {
                client.try_manual_ack(v4::ManualAck::PubRec(v4::PubRec::new(pkid))).is_ok()
            }
            (Self::V5(client), Qos::AtLeastOnce) => {
                client.try_manual_ack(v5::ManualAck::PubAck(v5::PubAck::new(pkid, None))).is_ok()
            }
            (Self::V5(client), Qos::ExactlyOnce) => {
                client.try_manual_ack(v5::ManualAck::PubRec(v5::PubRec::new(pkid, None))).is_ok()
            }
        }
    }

    /// Queues SUBSCRIBE; the answer comes while the events are polled.
    pub(crate) fn subscribe(&self, filter: &str, qos: Qos) -> Answer {
        match self {
            Self::V4(client) => match client.try_subscribe_tracked(filter, v4_qos(qos)) {
                Ok(notice) => {
                    Box::pin(async { notice.wait_completion_async().await.map_err(subscribe_v4) })
                }
                Err(error) => failed(&error),
            },
            Self::V5(client) => {
                // A resumed or repeated subscription does not want the retained messages again.
                let filter = v5::SubscribeFilterInput::new(filter, v5_qos(qos))
                    .retain_forward_rule(v5::RetainForwardRule::OnNewSubscribe);
                match client.try_subscribe_many_tracked([filter]) {
                    Ok(notice) => Box::pin(async {
                        notice.wait_completion_async().await.map_err(subscribe_v5)
                    }),
                    Err(error) => failed(&error),
                }
            }
        }
    }

    /// Queues a publish, waiting for room, and returns what completes when the
    /// broker has acknowledged it (QoS 0: when it is written).
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<Answer, String> {
        match self {
            Self::V4(client) => {
                let options = v4::PublishOptions::new(v4_qos(message.qos)).retain(message.retain);
                let notice = client.publish_tracked(message.topic, message.payload, options).await;
                let notice = notice.map_err(|e| e.to_string())?;
                Ok(Box::pin(async { notice.wait_completion_async().await.map_err(publish_v4) }))
            }
            Self::V5(client) => {
                let mut options =
                    v5::PublishOptions::new(v5_qos(message.qos)).retain(message.retain);
                if message.content_type.is_some() || !message.properties.is_empty() {
                    options = options.properties(v5::PublishProperties {
                        content_type: message.content_type,
                        user_properties: message.properties,
                        ..v5::PublishProperties::default()
                    });
                }
                let notice = client.publish_tracked(message.topic, message.payload, options).await;
                let notice = notice.map_err(|e| e.to_string())?;
                Ok(Box::pin(async { notice.wait_completion_async().await.map_err(publish_v5) }))
            }
        }
    }

    /// Queues DISCONNECT, behind what is queued already.
    pub(crate) fn disconnect(&self) {
        // Full or gone: the connection is closed anyway.
        let _ = match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        };
    }
}

fn failed(error: &dyn std::fmt::Display) -> Answer {
    Box::pin(std::future::ready(Err(Failure::Refused(error.to_string()))))
}

fn subscribe_v4(error: v4::SubscribeNoticeError) -> Failure {
    match error {
        v4::SubscribeNoticeError::Recv | v4::SubscribeNoticeError::SessionReset => Failure::Lost,
        other => Failure::Refused(other.to_string()),
    }
}

fn subscribe_v5(error: v5::SubscribeNoticeError) -> Failure {
    match error {
        v5::SubscribeNoticeError::Recv | v5::SubscribeNoticeError::SessionReset => Failure::Lost,
        other => Failure::Refused(other.to_string()),
    }
}

fn publish_v4(error: v4::PublishNoticeError) -> Failure {
    match error {
        v4::PublishNoticeError::Recv
        | v4::PublishNoticeError::SessionReset
        | v4::PublishNoticeError::Qos0NotFlushed => Failure::Lost,
        other => Failure::Refused(other.to_string()),
    }
}

fn publish_v5(error: v5::PublishNoticeError) -> Failure {
    match error {
        v5::PublishNoticeError::Recv
        | v5::PublishNoticeError::SessionReset
        | v5::PublishNoticeError::Qos0NotFlushed => Failure::Lost,
        other => Failure::Refused(other.to_string()),
    }
}

fn from_v4(event: v4::Event) -> Happened {
    match event {
        v4::Event::Incoming(v4::Packet::ConnAck(ack)) => {
            Happened::Connected { session_present: ack.session_present }
        }
        v4::Event::Incoming(v4::Packet::Publish(publish)) => Happened::Message(Incoming {
            qos: match publish.qos {
                v4::QoS::AtMostOnce => Qos::AtMostOnce,
                v4::QoS::AtLeastOnce => Qos::AtLeastOnce,
                v4::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            pkid: publish.pkid,
            topic: publish.topic,
            payload: publish.payload,
            ..Incoming::default()
        }),
        v4::Event::Incoming(v4::Packet::PubRel(release)) => Happened::Released(release.pkid),
        v4::Event::Outgoing(v4::Outgoing::PubRec(pkid)) => Happened::Recorded(pkid),
        _ => Happened::Other,
    }
}

fn from_v5(event: v5::Event) -> Happened {
    match event {
        v5::Event::Incoming(v5::Packet::ConnAck(ack)) => {
            Happened::Connected { session_present: ack.session_present }
        }
        v5::Event::Incoming(v5::Packet::Publish(publish)) => {
            let properties = publish.properties.unwrap_or_default();
            Happened::Message(Incoming {
                qos: match publish.qos {
                    v5::QoS::AtMostOnce => Qos::AtMostOnce,
                    v5::QoS::AtLeastOnce => Qos::AtLeastOnce,
                    v5::QoS::ExactlyOnce => Qos::ExactlyOnce,
                },
                pkid: publish.pkid,
                topic: publish.topic,
                payload: publish.payload,
                content_type: properties.content_type,
                properties: properties.user_properties,
            })
        }
        v5::Event::Incoming(v5::Packet::PubRel(release)) => Happened::Released(release.pkid),
        v5::Event::Outgoing(v5::Outgoing::PubRec(pkid)) => Happened::Recorded(pkid),
        _ => Happened::Other,
    }
}

fn v4_qos(qos: Qos) -> v4::QoS {
    match qos {
        Qos::AtMostOnce => v4::QoS::AtMostOnce,
        Qos::AtLeastOnce => v4::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v4::QoS::ExactlyOnce,
    }
}

fn v5_qos(qos: Qos) -> v5::QoS {
    match qos {
        Qos::AtMostOnce => v5::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
    }
}
