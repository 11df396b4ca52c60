//! Nothing is lost when the broker dies with messages in flight.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::rig::{In, Out, batch, reaches};
use common::{Letter, publish_as};
use millrace_conformance::{Note, TestStage};
use millrace_kit::State;
use millrace_peers::{Mosquitto, free_port};
use rumqttc::v5::mqttbytes::QoS;
use tokio::time::{Instant, sleep};

/// The source has messages in its hands, some of them acknowledged, and the
/// sink has a batch on its way, when the broker is killed. What Mosquitto had
/// acknowledged was on its disk by then: Mosquitto itself loses what it has not
/// saved, which no client can make good.
#[tokio::test(flavor = "multi_thread")]
async fn count_in_is_count_out_when_the_broker_is_killed_with_messages_in_flight() {
    for (version, qos) in [("5", "1"), ("5", "2"), ("3.1.1", "1"), ("3.1.1", "2")] {
        let name = format!("MQTT {version}, QoS {qos}");
        let mut broker =
            Mosquitto::start_with("allow_anonymous true\nmax_inflight_messages 0\n").unwrap();
        let url = broker.url();
        let pairs = [("url", url.as_str()), ("version", version), ("qos", qos)];
        let stage = Arc::new(TestStage::default());
        let mut reading = pairs.to_vec();
        reading.extend([("topic", "plant/#"), ("receive-maximum", "60")]);
        let source = In::start("in", &stage, &reading);
        reaches(&source.link, State::Connected).await;
        let mut writing = pairs.to_vec();
        writing.extend([("topic", "plant/x")]);
        let sink = Out::connected("out", &writing).await;

        // Through: 0 to 100. Then the stage is stuck: 100 to 300 are in flight or queued.
        sink.writes(batch(0..100)).await;
        source.sees(0..100).await;
        let start = Instant::now();
        while source.link.telemetry.snapshot().messages_out < 100 {
            assert!(start.elapsed() < Duration::from_secs(10), "{name}");
            sleep(Duration::from_millis(10)).await;
        }
        stage.hold(true);
        sink.writes(batch(100..300)).await;
        broker.save().unwrap();
        // On its way to a broker that no longer answers: 300 to 400.
        broker.freeze(true).unwrap();
        let writer = tokio::spawn(async move {
            let failed = sink.writes(batch(300..400)).await;
            (sink, failed)
        });
        sleep(Duration::from_millis(300)).await;
        broker.kill().unwrap();
        sleep(Duration::from_millis(200)).await;
        broker.restart().unwrap();
        stage.hold(false);
        let (sink, failed) = writer.await.unwrap();
        assert!(failed > 0, "{name}: the batch was in flight");
        source.sees(0..400).await;
        // And it goes on.
        sink.writes(batch(400..450)).await;
        source.sees(400..450).await;

        sleep(Duration::from_millis(500)).await;
        let counts = source.counts();
        let twice: Vec<u64> =
            counts.iter().filter(|(_, count)| **count > 1).map(|(number, _)| *number).collect();
        println!(
            "{name}: 450 in, 450 out, {} of them seen twice, {failed} writes failed",
            twice.len()
        );
        assert_eq!(counts.len(), 450, "{name}");
        // Explained: what the source had not acknowledged comes again, of MQTT 5
        // at most its window, of 3.1.1 all that the broker had sent and the
        // client had read; and what the sink had on its way is written again,
        // on top of what the broker had of it.
        let unacknowledged = if version == "5" { 60 } else { 200 };
        assert!(twice.len() <= unacknowledged + 100, "{name}: {twice:?}");
        // Once more for each time that the connection was lost: a broker that
        // has just been started may close one again.
        let reconnects = usize::try_from(source.link.telemetry.snapshot().reconnects).unwrap();
        let written_again = |number: u64| usize::from(number >= 300);
        for (number, count) in &counts {
            let most = 1 + reconnects + written_again(*number);
            assert!(*count <= most, "{name}, {reconnects} reconnects: {number} in {counts:?}");
        }
        // What was acknowledged and saved before does not come again.
        assert!(twice.iter().all(|number| *number >= 100), "{name}: {twice:?}");
        assert!(source.link.telemetry.snapshot().reconnects >= 1, "{name}");
        source.drain().await;
        sink.close().await;
    }
}

/// A broker that sends on while the source says goodbye: without care the
/// connection is reset, and the last acknowledgements are thrown away with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_safe_does_not_come_again_after_a_drain_under_load() {
    for (version, qos) in [("5", "1"), ("5", "2"), ("3.1.1", "1"), ("3.1.1", "2")] {
        let name = format!("MQTT {version}, QoS {qos}");
        let outside = free_port().unwrap();
        let broker = Mosquitto::start_with(&format!(
            "allow_anonymous true\nmax_inflight_messages 0\nlog_type error\nlistener {outside} 127.0.0.1\n"
        ))
        .unwrap();
        let pairs = [
            ("url", broker.url()),
            ("version", version.to_owned()),
            ("qos", qos.to_owned()),
            ("topic", "plant/#".to_owned()),
            ("receive-maximum", "100".to_owned()),
        ];
        let pairs = pairs.each_ref().map(|(field, value)| (*field, value.as_str()));
        In::connected("in", &pairs).await.drain().await;
        let all: u64 = 10_000;
        let quality = if qos == "1" { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let notes = Note::all(0..all);
        let letters = notes.iter().map(|note| Letter {
            topic: "plant/x".to_owned(),
            payload: note.payload(),
            ..Letter::default()
        });
        let publishing = tokio::spawn(publish_as(outside, quality, letters.collect()));
        let mut seen = std::collections::BTreeMap::<u64, usize>::new();
        let mut drains = 0;
        while seen.len() < usize::try_from(all).unwrap() {
            drains += 1;
            assert!(drains < 400, "{name}: {} of {all}", seen.len());
            let source = In::connected("in", &pairs).await;
            sleep(Duration::from_millis(5)).await;
            let stage = source.stage.clone();
            source.drain().await;
            for message in stage.seen() {
                *seen.entry(Note::number_in(&message.payload).unwrap()).or_default() += 1;
            }
        }
        publishing.await.unwrap().unwrap();
        let twice = seen.values().filter(|count| **count > 1).count();
        println!("{name}: {all} messages over {drains} drains, {twice} came again");
        assert_eq!(twice, 0, "{name}: acknowledgements were lost in a drain");
    }
}
