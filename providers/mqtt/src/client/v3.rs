//! MQTT 3.1.1.

use std::sync::Arc;

use millrace_settings::{BrokerUrl, Qos};
use rumqttc_v4 as lib;

use super::{
    Answer, CONNECT_TIMEOUT, Failure, Happened, Incoming, Options, Outgoing, PACKET_MAX, Takes,
    failed,
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
    wire.set_keep_alive(options.keep_alive_seconds())
        .set_clean_session(options.clean())
        .set_ack_mode(lib::AckMode::Manual)
        .set_inflight(options.in_flight)
        .set_max_packet_size(PACKET_MAX as usize, PACKET_MAX as usize);
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
        ));
    }
    let (client, mut events) = lib::AsyncClient::builder(wire).capacity(capacity).build();
    let mut network = lib::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT);
    events.set_network_options(network);
    Ok((client, events))
}

pub(super) fn arm(events: &mut lib::EventLoop, url: &BrokerUrl, secrets: Secrets) {
    if let Some((user, password)) = secrets.login {
        events.mqtt_options.set_credentials(user, password);
    }
    if let Some(tls) = secrets.tls {
        let tls = lib::TlsConfiguration::Rustls(tls);
        events.mqtt_options.set_transport(if url.websocket() {
            lib::Transport::wss_with_config(tls)
        } else {
            lib::Transport::tls_with_config(tls)
        });
    }
}

pub(super) fn acknowledge(client: &lib::AsyncClient, qos: Qos, pkid: u16) -> bool {
    let ack = match qos {
        Qos::AtMostOnce => return true,
        Qos::AtLeastOnce => lib::ManualAck::PubAck(lib::PubAck::new(pkid)),
        Qos::ExactlyOnce => lib::ManualAck::PubRec(lib::PubRec::new(pkid)),
    };
    client.try_manual_ack(ack).is_ok()
}

pub(super) fn subscribe(client: &lib::AsyncClient, filter: &str, qos: Qos) -> Answer {
    match client.try_subscribe_tracked(filter, quality(qos)) {
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
    let options = lib::PublishOptions::new(quality(message.qos)).retain(message.retain);
    let notice = client.publish_tracked(message.topic, message.payload, options).await;
    let notice = notice.map_err(|e| e.to_string())?;
    Ok(Box::pin(async {
        notice.wait_completion_async().await.map(drop).map_err(|error| match error {
            lib::PublishNoticeError::Recv
            | lib::PublishNoticeError::SessionReset
            | lib::PublishNoticeError::Qos0NotFlushed => Failure::Lost,
            other => Failure::Refused(other.to_string()),
        })
    }))
}

pub(super) fn happened(event: lib::Event) -> Happened {
    match event {
        lib::Event::Incoming(lib::Packet::ConnAck(ack)) => {
            Happened::Connected { session_present: ack.session_present, takes: Takes::default() }
        }
        lib::Event::Incoming(lib::Packet::Publish(publish)) => Happened::Message(Incoming {
            qos: match publish.qos {
                lib::QoS::AtMostOnce => Qos::AtMostOnce,
                lib::QoS::AtLeastOnce => Qos::AtLeastOnce,
                lib::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            pkid: publish.pkid,
            topic: publish.topic,
            payload: publish.payload,
            ..Incoming::default()
        }),
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
