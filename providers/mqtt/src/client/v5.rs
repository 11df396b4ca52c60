//! MQTT 5.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_settings::{BrokerUrl, Qos};
use rumqttc_v5 as lib;

use super::{
    Answer, CONNECT_TIMEOUT, Failure, Happened, Incoming, Options, Outgoing, PACKET_MAX, Session,
    Takes, failed,
};
use crate::secrets::Secrets;

pub(super) fn open(
    options: &Options,
    capacity: usize,
) -> Result<(lib::AsyncClient, lib::EventLoop), lib::OptionError> {
    let broker = if options.url.websocket() {
        lib::Broker::websocket(options.websocket())?
    } else {
        lib::Broker::tcp(options.url.host(), options.url.port())
    };
    let mut wire = lib::MqttOptions::new(options.client_id.clone(), broker);
    let expiry = match options.session {
        Session::Clean => None,
        Session::Kept(seconds) => Some(seconds),
    };
    wire.set_keep_alive(options.keep_alive_seconds())
        .set_clean_start(options.clean())
        .set_session_expiry_interval(expiry)
        .set_receive_maximum(Some(options.receive_maximum))
        .set_ack_mode(lib::AckMode::Manual)
        .set_max_packet_size(Some(PACKET_MAX))
        .set_connect_timeout(Duration::from_secs(CONNECT_TIMEOUT))
        .set_outgoing_inflight_upper_limit(options.in_flight);
    let linger = Arc::clone(&options.linger);
    wire.set_socket_connector(move |host, network| {
        let linger = Arc::clone(&linger);
        async move { Ok(linger.guard(lib::default_socket_connect(host, network).await?)) }
    });
    if let Some(will) = &options.will {
        wire.set_last_will(lib::LastWill::new(
            will.topic.clone(),
            will.payload.clone(),
            quality(will.qos),
            will.retain,
            None,
        ));
    }
    // Small packets in both directions: Nagle's algorithm would add the peer's
    // delayed acknowledgement, 40 ms, to every exchange.
    let mut network = lib::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    wire.set_network_options(network);
    if let Session::Kept(expiry) = options.session {
        wire.set_session_store_arc(Arc::new(Fresh { expiry, in_flight: options.in_flight }));
    }
    Ok(lib::AsyncClient::builder(wire).capacity(capacity).build())
}

/// What a session store answers with.
type Stored<'a, T> = BoxFuture<'a, Result<T, lib::SessionStoreError>>;

/// Tells the library that this process, newly started, has nothing in flight.
///
/// Without it the library does not let a session be resumed that it did not
/// see begin, or forbids to subscribe in it, because it might have left
/// publishes unanswered. A source's connection never publishes, so there is
/// nothing to be restored: what the broker holds for us it sends again.
#[derive(Debug)]
struct Fresh {
    expiry: u32,
    in_flight: u16,
}

impl lib::SessionStore for Fresh {
    fn load<'a>(
        &'a self,
        key: &'a lib::SessionStoreKey,
    ) -> Stored<'a, Option<lib::PersistedSession>> {
        let session = lib::PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(self.expiry),
            outgoing_inflight_upper_limit: Some(self.in_flight),
            ack_mode: lib::PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(
        &'a self,
        _: &'a lib::SessionStoreKey,
        _: &'a lib::PersistedSession,
    ) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a lib::SessionStoreKey) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(super) fn arm(events: &mut lib::EventLoop, url: &BrokerUrl, secrets: Secrets) {
    if let Some((user, password)) = secrets.login {
        events.options.set_credentials(user, password);
    }
    if let Some(tls) = secrets.tls {
        let tls = lib::TlsConfiguration::Rustls(tls);
        events.options.set_transport(if url.websocket() {
            lib::Transport::wss_with_config(tls)
        } else {
            lib::Transport::tls_with_config(tls)
        });
    }
}

pub(super) fn acknowledge(client: &lib::AsyncClient, qos: Qos, pkid: u16) -> bool {
    let ack = match qos {
        Qos::AtMostOnce => return true,
        Qos::AtLeastOnce => lib::ManualAck::PubAck(lib::PubAck::new(pkid, None)),
        Qos::ExactlyOnce => lib::ManualAck::PubRec(lib::PubRec::new(pkid, None)),
    };
    client.try_manual_ack(ack).is_ok()
}

pub(super) fn subscribe(client: &lib::AsyncClient, filter: &str, qos: Qos) -> Answer {
    // A resumed or repeated subscription does not want the retained messages again.
    let filter = lib::SubscribeFilterInput::new(filter, quality(qos))
        .retain_forward_rule(lib::RetainForwardRule::OnNewSubscribe);
    match client.try_subscribe_many_tracked([filter]) {
        Ok(notice) => Box::pin(async {
            notice.wait_completion_async().await.map(drop).map_err(|error| match error {
                lib::SubscribeNoticeError::Recv | lib::SubscribeNoticeError::SessionReset => {
                    Failure::Lost
                }
                other => Failure::Refused(other.to_string()),
            })
        }),
        Err(error) => failed(&error),
    }
}

pub(super) async fn publish(
    client: &lib::AsyncClient,
    message: Outgoing,
) -> Result<Answer, String> {
    let mut options = lib::PublishOptions::new(quality(message.qos)).retain(message.retain);
    if message.content_type.is_some() || !message.properties.is_empty() {
        options = options.properties(lib::PublishProperties {
            content_type: message.content_type,
            user_properties: message.properties,
            ..lib::PublishProperties::default()
        });
    }
    let notice = client.publish_tracked(message.topic, message.payload, options).await;
    let notice = notice.map_err(|e| e.to_string())?;
    Ok(Box::pin(async {
        notice.wait_completion_async().await.map(drop).map_err(|error| match error {
            lib::PublishNoticeError::Recv
            | lib::PublishNoticeError::SessionReset
            | lib::PublishNoticeError::Qos0NotFlushed => Failure::Lost,
            lib::PublishNoticeError::V5PubAck(
                reason @ (lib::PubAckReason::TopicNameInvalid
                | lib::PubAckReason::PayloadFormatInvalid),
            ) => Failure::Never(format!("the broker answers {reason:?}")),
            lib::PublishNoticeError::V5PubRec(
                reason @ (lib::PubRecReason::TopicNameInvalid
                | lib::PubRecReason::PayloadFormatInvalid),
            ) => Failure::Never(format!("the broker answers {reason:?}")),
            other => Failure::Refused(other.to_string()),
        })
    }))
}

fn takes(ack: &lib::ConnAck) -> Takes {
    let Some(properties) = &ack.properties else { return Takes::default() };
    let packet = properties.max_packet_size.and_then(|bytes| usize::try_from(bytes).ok());
    Takes {
        packet: packet.unwrap_or(usize::MAX),
        qos: match properties.max_qos {
            Some(0) => Qos::AtMostOnce,
            Some(1) => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        },
        retain: properties.retain_available != Some(0),
    }
}

pub(super) fn happened(event: lib::Event) -> Happened {
    match event {
        lib::Event::Incoming(lib::Packet::ConnAck(ack)) => {
            Happened::Connected { session_present: ack.session_present, takes: takes(&ack) }
        }
        lib::Event::Incoming(lib::Packet::Publish(publish)) => {
            let properties = publish.properties.unwrap_or_default();
            Happened::Message(Incoming {
                qos: match publish.qos {
                    lib::QoS::AtMostOnce => Qos::AtMostOnce,
                    lib::QoS::AtLeastOnce => Qos::AtLeastOnce,
                    lib::QoS::ExactlyOnce => Qos::ExactlyOnce,
                },
                pkid: publish.pkid,
                topic: publish.topic,
                payload: publish.payload,
                content_type: properties.content_type,
                properties: properties.user_properties,
            })
        }
        lib::Event::Incoming(lib::Packet::PubRel(release)) => Happened::Released(release.pkid),
        lib::Event::Outgoing(lib::Outgoing::PubRec(pkid)) => Happened::Recorded(pkid),
        _ => Happened::Other,
    }
}

fn quality(qos: Qos) -> lib::QoS {
    match qos {
        Qos::AtMostOnce => lib::QoS::AtMostOnce,
        Qos::AtLeastOnce => lib::QoS::AtLeastOnce,
        Qos::ExactlyOnce => lib::QoS::ExactlyOnce,
    }
}
