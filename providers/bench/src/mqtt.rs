//! MQTT 5 at QoS 1 and Mosquitto, beside rumqttc-next.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use millrace_bench::progress;
use millrace_bench::report::Row;
use millrace_kit::{Direction, Sink as _};
use millrace_mqtt::{MqttSink, MqttSource};
use millrace_peers::Mosquitto;
use rumqttc_v5 as lib;

use crate::common::{
    BATCH, Count, PAYLOAD, ROUNDS, Took, batches, connected, limits, link, measured, row,
    run_source, settings,
};

const MESSAGES: u64 = 200_000;

/// Messages that are under way at once: the default of source and sink.
const TAKEN: u16 = 2_000;
const SENT: usize = 1_000;

/// Batches that a stage or an edge hands to a sink at once.
const WRITERS: u64 = 4;

pub(crate) async fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let messages = if quick { MESSAGES / 10 } else { MESSAGES };
    let mut rounds: [Vec<Took>; 4] = Default::default();
    for round in 1..=ROUNDS {
        progress(format!("mqtt: round {round} of {ROUNDS}"));
        let [plain_out, out, plain_in, r#in] = &mut rounds;
        let broker = start()?;
        plain_out.push(measured(messages, plain_sink(&broker, messages)).await?);
        out.push(sink(&broker, messages).await?);
        drop(broker);

        // Filled before, so that nothing else in this process works meanwhile.
        let broker = start()?;
        fill(&broker, "plain-source", messages).await?;
        let (client, events) = plain(&broker, "plain-source");
        plain_in.push(measured(messages, plain_source(events, client, messages)).await?);
        drop(broker);
        let broker = start()?;
        fill(&broker, "our-source", messages).await?;
        let settings = settings(&[("url", &broker.url()), ("topic", "bench/#")])?;
        let source = Box::new(MqttSource::new(settings, limits(), "our-source".to_owned())?);
        r#in.push(measured(messages, run_source(source, messages)).await?);
    }
    let [plain_out, out, plain_in, r#in] = &rounds;
    Ok(vec![
        row("mqtt", "source, QoS 1, 200 B", r#in, plain_in),
        row("mqtt", "sink, QoS 1, 200 B", out, plain_out),
    ])
}

fn start() -> anyhow::Result<Mosquitto> {
    let lines = "allow_anonymous true\nlog_type none\nmax_inflight_messages 0\npersistence false\n";
    Ok(Mosquitto::start_with(lines)?)
}

fn plain(broker: &Mosquitto, id: &str) -> (lib::AsyncClient, lib::EventLoop) {
    let mut options = lib::MqttOptions::new(id, lib::Broker::tcp("127.0.0.1", broker.port()));
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3_600))
        .set_receive_maximum(Some(TAKEN))
        .set_outgoing_inflight_upper_limit(SENT as u16)
        .set_broker_session_resume_policy(lib::BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(lib::AckMode::Manual);
    let mut network = lib::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    lib::AsyncClient::builder(options).capacity(usize::from(TAKEN) + 64).build()
}

/// Publishes all, a window of them in flight, and waits for every PUBACK.
async fn plain_sink(broker: &Mosquitto, messages: u64) -> anyhow::Result<()> {
    let (client, mut events) = plain(broker, "plain-sink");
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut answers = VecDeque::new();
    for number in 0..messages {
        let mut properties = lib::PublishProperties::default();
        properties.user_properties.push(("unit".to_owned(), "C".to_owned()));
        properties.user_properties.push(("millrace-key".to_owned(), number.to_string()));
        let options = lib::PublishOptions::new(lib::QoS::AtLeastOnce).properties(properties);
        let payload = Bytes::from_static(&PAYLOAD);
        answers.push_back(client.publish_tracked("bench/x", payload, options).await?);
        if answers.len() >= SENT {
            let answer = answers.pop_front().context("none is under way")?;
            answer.wait_completion_async().await?;
        }
    }
    for answer in answers {
        answer.wait_completion_async().await?;
    }
    polling.abort();
    Ok(())
}

/// Takes each over into a buffer of our own, as every user has to, and acknowledges it.
async fn plain_source(
    mut events: lib::EventLoop,
    client: lib::AsyncClient,
    messages: u64,
) -> anyhow::Result<()> {
    let (mut count, mut buffer) = (0, Vec::with_capacity(1 << 18));
    while count < messages {
        if let lib::Event::Incoming(lib::Packet::Publish(publish)) = events.poll().await? {
            buffer.extend_from_slice(&publish.topic);
            buffer.extend_from_slice(&publish.payload);
            for (name, value) in publish.properties.iter().flat_map(|all| &all.user_properties) {
                buffer.extend_from_slice(name.as_bytes());
                buffer.extend_from_slice(value.as_bytes());
            }
            let ack = lib::ManualAck::PubAck(lib::PubAck::new(publish.pkid, None));
            client.try_manual_ack(ack)?;
            count += 1;
            if count % BATCH == 0 {
                black_box(&buffer);
                buffer = Vec::with_capacity(1 << 18);
            }
        }
    }
    Ok(())
}

async fn sink(broker: &Mosquitto, messages: u64) -> anyhow::Result<Took> {
    let settings = settings(&[("url", &broker.url()), ("topic", "bench/x")])?;
    let link = link(Direction::Sink);
    let dead = Arc::new(Count::default());
    let sink = MqttSink::open(settings, "our-sink".to_owned(), link.clone(), dead)?;
    connected(&link).await?;
    let batches = batches(messages, "t")?;
    let part = batches.len().div_ceil(WRITERS as usize);
    debug_assert_eq!(batches.len() as u64 * BATCH, messages);
    let took = measured(messages, async {
        let sink = &sink;
        let writing = batches.chunks(part).map(|batches| async move {
            for batch in batches {
                sink.write(batch.clone()).await?;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(writing).await.map(drop)
    })
    .await?;
    link.start_drain();
    sink.close().await;
    Ok(took)
}

/// Has the broker keep all messages for this session.
async fn fill(broker: &Mosquitto, id: &str, messages: u64) -> anyhow::Result<()> {
    let (client, mut events) = plain(broker, id);
    let subscribed = client.try_subscribe_tracked("bench/#", lib::QoS::AtLeastOnce)?;
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    subscribed.wait_completion_async().await?;
    client.disconnect().await?;
    polling.await?;
    plain_sink(broker, messages).await
}
