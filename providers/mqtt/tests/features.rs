//! What only MQTT has: wills, groups, permissions, sessions, limits of brokers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use common::rig::{In, Out, batch, reaches};
use common::{Collector, Letter, publish};
use millrace_conformance::{Note, Seen, TestStage, pack};
use millrace_kit::{Sink, State, WriteError};
use millrace_peers::{Mosquitto, free_port};
use tokio::time::{Instant, sleep};

/// A broker with a listener of its own for the world outside.
fn broker(lines: &str) -> (Mosquitto, u16) {
    let outside = free_port().unwrap();
    let all = format!(
        "per_listener_settings true\n{lines}\nlistener {outside} 127.0.0.1\nallow_anonymous true\n"
    );
    (Mosquitto::start_with(&all).unwrap(), outside)
}

fn letters(topic: &str, numbers: std::ops::Range<u64>) -> Vec<Letter> {
    Note::all(numbers)
        .iter()
        .map(|note| Letter {
            topic: topic.to_owned(),
            payload: note.payload(),
            ..Letter::default()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_will_is_published_after_a_crash_and_not_after_a_goodbye() {
    for version in ["3.1.1", "5"] {
        let (broker, outside) = broker("allow_anonymous true");
        let url = broker.url();
        let collector = Collector::start(outside, "status/#").await.unwrap();
        let will = [
            ("url", url.as_str()),
            ("version", version),
            ("topic", "plant/x"),
            ("will-payload", "gone"),
            ("will-qos", "1"),
            ("will-retain", "true"),
        ];
        let with = |topic| [will.as_slice(), &[("will-topic", topic)]].concat();
        In::connected("in", &with("status/in")).await.drain().await;
        Out::connected("out", &with("status/out")).await.close().await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(collector.letters(), [], "{version}: after a goodbye");

        In::connected("in", &with("status/in")).await.crash().await;
        drop(Out::connected("out", &with("status/out")).await);
        let mut wills = collector.until(2).await.unwrap();
        wills.sort_by(|a, b| a.topic.cmp(&b.topic));
        let found: Vec<_> =
            wills.iter().map(|will| (will.topic.as_str(), will.payload.as_slice())).collect();
        let gone = b"gone".as_slice();
        assert_eq!(found, [("status/in", gone), ("status/out", gone)], "{version}");
        // Kept for who comes later.
        let later = Collector::start(outside, "status/#").await.unwrap();
        assert!(later.until(2).await.unwrap().iter().all(|will| will.retain), "{version}");
    }
}

/// The goodbye must reach the broker also while it goes on sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_does_not_publish_the_last_will() {
    let (broker, outside) = broker("allow_anonymous true");
    let url = broker.url();
    let collector = Collector::start(outside, "status/#").await.unwrap();
    let load = tokio::spawn(async move {
        loop {
            publish(outside, letters("plant/x", 0..500)).await.unwrap();
        }
    });
    for _ in 0..20 {
        let pairs = [
            ("url", url.as_str()),
            ("topic", "plant/#"),
            ("qos", "0"),
            ("clean-session", "true"),
            ("will-topic", "status/in"),
        ];
        let source = In::connected("in", &pairs).await;
        sleep(Duration::from_millis(30)).await;
        source.drain().await;
    }
    sleep(Duration::from_millis(300)).await;
    load.abort();
    assert_eq!(collector.letters(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_shares_the_messages_by_name_and_by_syntax() {
    for version in ["3.1.1", "5"] {
        let (broker, outside) = broker("allow_anonymous true");
        let url = broker.url();
        let base = [("url", url.as_str()), ("version", version)];
        let named = [base.as_slice(), &[("topic", "plant/#"), ("share", "line")]].concat();
        let written = [base.as_slice(), &[("topic", "$share/line/plant/#")]].concat();
        let one = In::connected("one", &named).await;
        let other = In::connected("other", &written).await;
        publish(outside, letters("plant/x", 0..300)).await.unwrap();
        let start = Instant::now();
        while one.counts().len() + other.counts().len() < 300 {
            assert!(start.elapsed() < Duration::from_secs(10), "{version}");
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(300)).await;
        let (one, other) = (one.counts(), other.counts());
        assert!(one.len() > 30 && other.len() > 30, "{version}: {} {}", one.len(), other.len());
        assert_eq!(one.len() + other.len(), 300, "{version}: each went to one of the two");
        assert!(one.keys().all(|number| !other.contains_key(number)), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_not_allowed_is_said_and_made_when_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acl");
    std::fs::write(&file, "topic read plant/#\n").unwrap();
    let lines = format!("allow_anonymous true\nacl_file {}", file.display());
    let (mut broker, outside) = broker(&lines);
    let collector = Collector::start(outside, "plant/#").await.unwrap();
    for qos in ["1", "2"] {
        let sink =
            Out::connected("out", &[("url", &broker.url()), ("topic", "plant/x"), ("qos", qos)])
                .await;
        // Mosquitto 2.0.11 answers NotAuthorized, and now and then ends the
        // connection instead: the write is made again then, as always.
        let start = Instant::now();
        loop {
            let error = sink.sink.write(batch(0..3)).await.unwrap_err();
            match error {
                WriteError::Refused { reason, .. } if reason.contains("NotAuthorized") => break,
                WriteError::Unreachable { .. } => reaches(&sink.link, State::Connected).await,
                other => panic!("QoS {qos}: {other}"),
            }
            assert!(start.elapsed() < Duration::from_secs(10), "QoS {qos}\n{}", broker.log());
        }
        reaches(&sink.link, State::Connected).await;
        assert!(sink.dead.letters().is_empty(), "permissions may change: nothing is given up");
        sink.close().await;
    }
    assert_eq!(collector.letters(), []);
    std::fs::write(&file, "topic readwrite plant/#\n").unwrap();
    broker.restart().unwrap();
    let sink = Out::connected("out", &[("url", &broker.url()), ("topic", "plant/x")]).await;
    sink.writes(batch(0..3)).await;
    collector.until(3).await.unwrap();
}

/// Mosquitto's plain permissions know nothing of SUBSCRIBE; its plugin does.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_not_allowed_is_asked_for_again() {
    let plugin = std::fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|folder| Some(folder.ok()?.path().join("mosquitto_dynamic_security.so")))
        .find(|file| file.is_file())
        .expect("mosquitto_dynamic_security.so is part of the package mosquitto");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("security.json");
    let allow = |subscribe: bool| {
        let json = format!(
            r#"{{"defaultACLAccess":{{"publishClientSend":true,"publishClientReceive":true,
               "subscribe":{subscribe},"unsubscribe":true}},
               "clients":[],"groups":[],"roles":[]}}"#
        );
        std::fs::write(&file, json).unwrap();
    };
    allow(false);
    let lines = format!(
        "per_listener_settings false\nallow_anonymous true\nplugin {}\n\
         plugin_opt_config_file {}\n",
        plugin.display(),
        file.display()
    );
    let mut broker = Mosquitto::start_with(&lines).unwrap();
    for version in ["3.1.1", "5"] {
        let url = broker.url();
        let pairs = [("url", url.as_str()), ("topic", "plant/#"), ("version", version)];
        let source = In::start("in", &Arc::default(), &pairs);
        reaches(&source.link, State::Retrying).await;
        let error = source.link.status().error.unwrap();
        assert!(error.contains("subscribe to plant/#"), "{version}: {error}");
        println!("{version}: {error}");
        assert_eq!(source.link.telemetry.snapshot().reconnects, 0, "the connection stays");
        allow(true);
        broker.restart().unwrap();
        reaches(&source.link, State::Connected).await;
        source.drain().await;
        allow(false);
        broker.restart().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_parts_of_the_topic() {
    let (broker, outside) = broker("allow_anonymous true");
    let collector = Collector::start(outside, "factory/#").await.unwrap();
    for (version, count) in [("5", 1), ("3.1.1", 2)] {
        let pairs = [
            ("url", broker.url()),
            ("topic", "factory/{header:line}/{topic}".to_owned()),
            ("version", version.to_owned()),
        ];
        let pairs = pairs.each_ref().map(|(field, value)| (*field, value.as_str()));
        let sink = Out::connected("out", &pairs).await;
        let message = |line: Option<&str>| Seen {
            topic: "alerts".to_owned(),
            headers: line.iter().map(|line| ("line".to_owned(), (*line).to_owned())).collect(),
            content_type: Some("text/plain".to_owned()),
            payload: b"hot".to_vec(),
            ..Seen::default()
        };
        let messages = [message(Some("press")), message(None), message(Some("a/#"))];
        sink.writes(pack("b", &messages).unwrap()).await;
        let letter = collector.until(count).await.unwrap().pop().unwrap();
        assert_eq!(letter.topic, "factory/press/alerts");
        let carried = (letter.headers.len(), letter.content_type.as_deref());
        let expected = if version == "5" { (1, Some("text/plain")) } else { (0, None) };
        assert_eq!(carried, expected, "{version}");
        let dead = sink.dead.letters();
        let why: Vec<_> = dead.iter().filter_map(|m| m.header("millrace-dead-text")).collect();
        assert_eq!(why.len(), 2, "{dead:?}");
        assert!(why[0].contains("header line") && why[1].contains("+ or #"), "{why:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_is_kept_as_long_as_the_setting_says() {
    let (broker, outside) = broker("allow_anonymous true");
    let url = broker.url();
    for (expiry, kept) in [("1h", 5), ("1s", 0)] {
        let pairs = [("url", url.as_str()), ("topic", "plant/#"), ("session-expiry", expiry)];
        In::connected(expiry, &pairs).await.drain().await;
        // Mosquitto looks for what has expired every few seconds.
        sleep(Duration::from_secs(8)).await;
        publish(outside, letters("plant/x", 0..5)).await.unwrap();
        let source = In::connected(expiry, &pairs).await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(source.counts().len(), kept, "expiry {expiry}");
        source.drain().await;
    }
}

/// What the broker says it does not take is never sent: a packet too large
/// would end the connection, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_does_not_take_goes_to_the_dead_letters_or_is_said() {
    let (broker, outside) = broker("allow_anonymous true\nmax_packet_size 2000\nmax_qos 1");
    let url = broker.url();
    let collector = Collector::start(outside, "plant/#").await.unwrap();
    let sink = Out::connected("out", &[("url", &url), ("topic", "plant/x")]).await;
    let sized = |number, size| Seen {
        topic: "t".to_owned(),
        payload: Note { size, ..Note::new(number) }.payload(),
        ..Seen::default()
    };
    let messages = [sized(1, 10), sized(2, 5_000), sized(3, 1_900)];
    sink.sink.write(pack("b", &messages).unwrap()).await.unwrap();
    assert_eq!(collector.until(2).await.unwrap().len(), 2);
    let dead = sink.dead.letters();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].header("millrace-dead-text").unwrap().contains("takes 2000"), "{dead:?}");
    assert_eq!(sink.link.telemetry.snapshot().reconnects, 0);
    sink.close().await;

    // With 3.1.1 it cannot say so: the author does.
    let pairs =
        [("url", &*url), ("topic", "plant/x"), ("version", "3.1.1"), ("packet-max", "2000")];
    let sink = Out::connected("out", &pairs).await;
    sink.sink.write(pack("c", &messages).unwrap()).await.unwrap();
    assert_eq!(collector.until(4).await.unwrap().len(), 4);
    assert_eq!(sink.dead.letters().len(), 1);
    assert_eq!(sink.link.telemetry.snapshot().reconnects, 0);
    sink.close().await;

    let sink = Out::start("out", &[("url", &url), ("topic", "plant/x"), ("qos", "2")]);
    reaches(&sink.link, State::Retrying).await;
    let error = sink.link.status().error.unwrap();
    assert!(error.contains("no QoS above 1"), "{error}");
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_connected_to() {
    let port = free_port().unwrap();
    let (_broker, _) =
        broker(&format!("allow_anonymous true\nlistener {port} ::1\nallow_anonymous true"));
    let url = format!("mqtt://[::1]:{port}");
    let source = In::connected("in", &[("url", &url), ("topic", "plant/#")]).await;
    let sink = Out::connected("out", &[("url", &url), ("topic", "plant/x")]).await;
    sink.writes(batch(0..10)).await;
    source.sees(0..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_certificates_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let authority = millrace_peers::Authority::new(folder.path(), "ca").unwrap();
    let identity = authority.sign("client", millrace_peers::Validity::Valid).unwrap();
    let good = identity.certificate.to_string_lossy().into_owned();
    let empty = file("empty.pem", "");
    let absent = folder.path().join("absent.pem").to_string_lossy().into_owned();
    let secret = file(
        "key.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let base = [("url", "mqtts://127.0.0.1:1"), ("topic", "a")];
    for (pairs, words) in [
        (vec![("tls-ca-file", absent.as_str())], vec!["tls-ca-file", "absent.pem", "No such file"]),
        (vec![("tls-ca-file", empty.as_str())], vec!["tls-ca-file", "empty.pem", "no certificate"]),
        (
            vec![("tls-cert-file", good.as_str()), ("tls-key-file", secret.as_str())],
            vec!["tls-key-file", "key.pem", "not encrypted"],
        ),
    ] {
        let stage = Arc::new(TestStage::default());
        let source = In::start("in", &stage, &[base.as_slice(), &pairs].concat());
        reaches(&source.link, State::Retrying).await;
        let error = source.link.status().error.unwrap();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        source.crash().await;
    }
}
