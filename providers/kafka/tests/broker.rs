//! Kafka source and sink against a real broker.
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

use common::*;
use millrace_batch::{BatchWriter, Fields};
use millrace_kit::{Sink, State, WriteError};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::Producer as _;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_goes_round_with_key_headers_and_time() {
    let kafka = kafka();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let name = unique("plant.press-1.k1");
        topic(kafka, &name, 3, &[]).await;
        let near = Near::open();
        let source =
            source(&kafka.brokers(), &near, &[("topics", &name), ("coordinates", "true")]).await;
        let prefix = name.replace("press-1.k1", "{topic}.{key}");
        let (sink, link_out) =
            sink(&kafka.brokers(), &near, &[("topic", &prefix), ("compression", compression)])
                .await;
        for n in 0..5 {
            sink.write(batch((0..100).map(|m| format!("{}", n * 100 + m)))).await.unwrap();
        }
        near.until(500, Duration::from_secs(20)).await;
        assert!(near.payloads().values().all(|n| *n == 1), "{compression}: no duplicates");
        let seen = near.seen.lock().iter().find(|seen| seen.payload == b"0").unwrap().clone();
        assert_eq!(seen.topic, name, "{compression}");
        assert_eq!(seen.key.as_deref(), Some(b"k1".as_slice()), "{compression}");
        assert_eq!(seen.content_type.as_deref(), Some("text/plain"), "{compression}");
        assert_eq!(seen.header("unit"), Some("C"), "{compression}");
        assert!(seen.header("kafka-partition").is_some(), "{compression}");
        assert_eq!(seen.header("kafka-offset"), Some("0"), "{compression}");
        assert_eq!(seen.timestamp, 1_700_000_000_123_000_000, "{compression}");
        assert_eq!(link_out.telemetry.snapshot().messages_out, 500, "{compression}");
        source.drain().await;
        sink.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_is_stored_only_when_the_record_is_safe() {
    let kafka = kafka();
    let (name, group) = (unique("safe"), unique("group"));
    topic(kafka, &name, 2, &[]).await;
    fill(kafka, &name, 2, 0..250);
    let pairs = [("topics", name.as_str()), ("group", group.as_str())];
    // One batch is answered, and no more.
    let stuck = Near::with(1, Duration::ZERO);
    let first = source(&kafka.brokers(), &stuck, &pairs).await;
    stuck.until(250, Duration::from_secs(20)).await;
    sleep(Duration::from_millis(2_500)).await;
    let stored: i64 = committed(kafka, &group, &name, 2).into_iter().flatten().sum();
    let safe = i64::try_from(first.link.telemetry.snapshot().messages_out).unwrap();
    assert!(safe < 250 && stored <= safe, "stored {stored}, safe {safe}");
    // The process dies with the rest in its hands, and another gets it.
    first.abort().await;
    let near = Near::open();
    let second = source(&kafka.brokers(), &near, &pairs).await;
    near.until(usize::try_from(250 - stored).unwrap(), Duration::from_secs(20)).await;
    second.drain().await;
    assert_eq!(near.payloads().len(), usize::try_from(250 - stored).unwrap());
    assert_eq!(committed(kafka, &group, &name, 2), [Some(125), Some(125)]);
    // All is stored now: a third gets nothing.
    let near = Near::open();
    let third = source(&kafka.brokers(), &near, &pairs).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(near.payloads().len(), 0);
    third.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_stage_holds_the_source_back_and_the_group_keeps_it() {
    let kafka = kafka();
    let (name, group) = (unique("stuck"), unique("group"));
    topic(kafka, &name, 2, &[]).await;
    fill(kafka, &name, 2, 0..2_000);
    let near = Near::with(0, Duration::ZERO);
    let pairs = [
        ("topics", name.as_str()),
        ("group", group.as_str()),
        ("window", "50"),
        ("session-timeout", "6s"),
    ];
    let source = source(&kafka.brokers(), &near, &pairs).await;
    // Longer than the session: without polling and heartbeats it would be over.
    sleep(Duration::from_secs(9)).await;
    assert_eq!(source.link.telemetry.snapshot().messages_in, 50, "no more than the window");
    assert_eq!(source.link.state(), State::Connected);
    near.open.add_permits(2_000_000);
    near.until(2_000, Duration::from_secs(20)).await;
    assert!(near.payloads().values().all(|n| *n == 1), "pausing loses and repeats nothing");
    source.drain().await;
    assert_eq!(committed(kafka, &group, &name, 2), [Some(1_000), Some(1_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_while_busy_loses_and_repeats_nothing() {
    let kafka = kafka();
    let (name, group) = (unique("busy"), unique("group"));
    topic(kafka, &name, 6, &[]).await;
    let near = Near::slow(Duration::from_millis(30));
    let pairs = [("topics", name.as_str()), ("group", group.as_str())];
    let writer = {
        let name = name.clone();
        std::thread::spawn(move || {
            let producer = producer(&kafka.brokers());
            for n in 0..20_000_i32 {
                let text = n.to_string();
                let (partition, payload) = (Some(n % 6), Some(text.as_bytes()));
                send(&producer, &name, Record { partition, payload, ..Record::default() });
                if n % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(8));
                }
            }
            producer.flush(Duration::from_secs(20)).unwrap();
        })
    };
    let first = source(&kafka.brokers(), &near, &pairs).await;
    sleep(Duration::from_secs(1)).await;
    let second = source(&kafka.brokers(), &near, &pairs).await;
    sleep(Duration::from_secs(2)).await;
    let third = source(&kafka.brokers(), &near, &pairs).await;
    sleep(Duration::from_secs(2)).await;
    let shares: Vec<u64> = [&first, &second, &third]
        .map(|running| running.link.telemetry.snapshot().messages_in)
        .into();
    assert!(shares.iter().all(|share| *share > 0), "each has its share: {shares:?}");
    first.drain().await;
    sleep(Duration::from_secs(1)).await;
    second.drain().await;
    tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    near.until(20_000, Duration::from_secs(40)).await;
    third.drain().await;
    let repeated = near.payloads().values().filter(|n| **n > 1).count();
    assert_eq!(repeated, 0, "what is in flight is finished before partitions are given back");
    let stored: i64 = committed(kafka, &group, &name, 6).into_iter().flatten().sum();
    assert_eq!(stored, 20_000);
}

/// A header whose name is not UTF-8: other clients can write it.
#[allow(unsafe_code)]
fn nameless() -> OwnedHeaders {
    let headers = OwnedHeaders::new();
    let raw: *const rdkafka::message::BorrowedHeaders = headers.as_borrowed();
    let name = [0xff_u8, 0xfe];
    // SAFETY: the library's own function, on a list that is alive and ours.
    unsafe {
        rdkafka::bindings::rd_kafka_header_add(
            raw.cast_mut().cast(),
            name.as_ptr().cast(),
            2,
            name.as_ptr().cast(),
            2,
        );
    }
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_ends_in_the_dead_letters_and_the_rest_goes_on() {
    let kafka = kafka();
    let (name, group) = (unique("poison"), unique("group"));
    topic(kafka, &name, 1, &[("max.message.bytes", "5000000")]).await;
    let producer = producer(&kafka.brokers());
    let put = |record: Record<'_>| send(&producer, &name, record);
    put(Record { payload: Some(b"before"), ..Record::default() });
    let large = vec![b'x'; 2_000_000];
    put(Record { key: Some(b"large"), payload: Some(&large), ..Record::default() });
    let key = Some(b"nameless".as_slice());
    put(Record { key, payload: Some(b"p"), headers: Some(nameless()), ..Record::default() });
    let long = "h".repeat(70_000);
    let headers = OwnedHeaders::new().insert(Header { key: &long, value: Some("v") });
    put(Record { payload: Some(b"q"), headers: Some(headers), ..Record::default() });
    let headers = OwnedHeaders::new()
        .insert(Header { key: "raw", value: Some(&[0xff_u8, 0x00][..]) })
        .insert(Header { key: "none", value: None::<&[u8]> });
    put(Record { payload: Some(b"odd"), headers: Some(headers), ..Record::default() });
    put(Record { payload: None, key: Some(b"gone"), ..Record::default() });
    put(Record { payload: Some(b"after"), ..Record::default() });
    producer.flush(Duration::from_secs(20)).unwrap();

    let near = Near::open();
    *near.deaf.lock() = true;
    let pairs = [("topics", name.as_str()), ("group", group.as_str())];
    let source = source(&kafka.brokers(), &near, &pairs).await;
    near.until(4, Duration::from_secs(20)).await;
    sleep(Duration::from_millis(2_000)).await;
    // Nobody has the letters yet: what follows them is not stored either.
    assert_eq!(committed(kafka, &group, &name, 1), [Some(1)]);
    *near.deaf.lock() = false;
    near.until_dead(3, Duration::from_secs(20)).await;
    assert_eq!(source.link.telemetry.snapshot().dead_letters, 3);
    source.drain().await;
    assert_eq!(committed(kafka, &group, &name, 1), [Some(7)]);

    let mut dead = near.dead.lock().clone();
    dead.sort_by_key(|letter| letter.header("kafka-offset").map(str::to_owned));
    let text = |place: usize| dead[place].header("millrace-dead-text").unwrap();
    assert!(dead.iter().all(|d| d.header("millrace-dead-kind") == Some("invalid-argument")));
    assert!(dead.iter().all(|d| d.topic == name && d.header("kafka-partition") == Some("0")));
    assert_eq!((dead[0].key.as_deref(), dead[0].payload.len()), (Some(b"large".as_slice()), 0));
    assert!(text(0).contains("2000000 bytes left out"), "{}", text(0));
    assert!(text(0).contains(&format!("in Kafka at {name}/0/1")), "{}", text(0));
    assert_eq!((dead[1].key.as_deref(), dead[1].payload.as_slice()), (key, b"p".as_slice()));
    assert!(text(1).contains("name is not UTF-8"), "{}", text(1));
    assert_eq!(dead[2].payload, b"q");
    assert!(text(2).contains("headers left out"), "{}", text(2));

    let seen = near.seen.lock().clone();
    let odd = seen.iter().find(|seen| seen.payload == b"odd").unwrap();
    assert_eq!((odd.header("raw;base64"), odd.header("none;null")), (Some("/wA="), Some("")));
    let gone = seen.iter().find(|seen| seen.key.as_deref() == Some(b"gone")).unwrap();
    assert_eq!((gone.payload.len(), gone.header("kafka-null-value")), (0, Some("true")));
    assert_eq!(seen.len(), 4, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_starts_where_it_is_told_and_goes_on_where_it_was() {
    let kafka = kafka();
    for (start, before) in [
        ("earliest", 10),
        ("2023-11-14T22:13:26Z", 4),
        ("2023-11-14T23:13:26.5+01:00", 3),
        ("2040-01-01T00:00:00Z", 0),
        ("latest", 0),
    ] {
        let (name, group) = (unique("start"), unique("group"));
        topic(kafka, &name, 1, &[]).await;
        let producer = producer(&kafka.brokers());
        for n in 0..10_i64 {
            let (text, timestamp) = (n.to_string(), Some(1_700_000_000_000 + n * 1_000));
            let payload = Some(text.as_bytes());
            send(&producer, &name, Record { payload, timestamp, ..Record::default() });
        }
        producer.flush(Duration::from_secs(20)).unwrap();
        let near = Near::open();
        let pairs = [("topics", name.as_str()), ("group", group.as_str()), ("start", start)];
        let first = source(&kafka.brokers(), &near, &pairs).await;
        near.until(before, Duration::from_secs(10)).await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(near.payloads().len(), before, "{start}");
        first.drain().await;
        // What comes while it is away is not skipped, whatever `start` says.
        send(&producer, &name, Record { payload: Some(b"away"), ..Record::default() });
        producer.flush(Duration::from_secs(20)).unwrap();
        let second = source(&kafka.brokers(), &near, &pairs).await;
        near.until(before + 1, Duration::from_secs(10)).await;
        second.drain().await;
        assert!(near.payloads().values().all(|n| *n == 1), "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_by_hand_are_read_and_no_others() {
    let kafka = kafka();
    let (name, group) = (unique("hand"), unique("group"));
    topic(kafka, &name, 4, &[]).await;
    fill(kafka, &name, 4, 0..400);
    let near = Near::open();
    let pairs = [("topics", name.as_str()), ("group", group.as_str()), ("partitions", "1,3")];
    let first = source(&kafka.brokers(), &near, &pairs).await;
    near.until(200, Duration::from_secs(20)).await;
    first.drain().await;
    assert!(near.payloads().keys().all(|n| n.parse::<i32>().unwrap() % 2 == 1));
    assert_eq!(committed(kafka, &group, &name, 4), [None, Some(100), None, Some(100)]);
    fill(kafka, &name, 4, 400..440);
    let near = Near::open();
    let second = source(&kafka.brokers(), &near, &pairs).await;
    near.until(20, Duration::from_secs(20)).await;
    second.drain().await;
    assert_eq!(near.payloads().len(), 20, "from where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_by_pattern_are_read_also_new_ones() {
    let kafka = kafka();
    let prefix = unique("pattern");
    topic(kafka, &format!("{prefix}.a"), 1, &[]).await;
    fill(kafka, &format!("{prefix}.a"), 1, 0..5);
    let near = Near::open();
    let pattern = format!("^{prefix}\\.[ab]$");
    let source = source(&kafka.brokers(), &near, &[("topics", &pattern)]).await;
    near.until(5, Duration::from_secs(20)).await;
    for name in ["b", "c"] {
        topic(kafka, &format!("{prefix}.{name}"), 1, &[]).await;
    }
    fill(kafka, &format!("{prefix}.b"), 1, 5..10);
    fill(kafka, &format!("{prefix}.c"), 1, 10..15);
    near.until(10, Duration::from_secs(30)).await;
    source.drain().await;
    assert_eq!(near.payloads().len(), 10, "b is read and c is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_a_clear_status_until_it_is() {
    let kafka = kafka();
    let name = unique("later");
    let near = Near::open();
    let source = start_source(&kafka.brokers(), &near, &[("topics", &name)]);
    let error = retries_with(&source.link, &name).await;
    assert!(error.contains("Unknown topic"), "{error}");
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", &name)]).await;
    let start = Instant::now();
    let error = sink.write(batch(["x".to_owned()])).await.unwrap_err();
    assert!(error.to_string().contains("Unknown topic"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(near.dead.lock().len(), 0, "it may come: {:?}", link.status());
    topic(kafka, &name, 1, &[]).await;
    write(&sink, batch(["x".to_owned()])).await;
    near.until(1, Duration::from_secs(30)).await;
    reaches(&source.link, State::Connected).await;
    source.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_never_takes_is_dead_lettered_and_the_rest_is_written_once() {
    let kafka = kafka();
    let (small, compact) = (unique("small"), unique("compact"));
    topic(kafka, &small, 1, &[("max.message.bytes", "20000")]).await;
    topic(kafka, &compact, 1, &[("cleanup.policy", "compact")]).await;
    let near = Near::open();
    let (to_small, link) = sink(&kafka.brokers(), &near, &[("topic", &small)]).await;
    // Together they are larger than the topic takes; one is so by itself.
    let sizes = [9_000, 9_000, 30_000, 9_000, 9_000];
    let bytes =
        batch(sizes.iter().enumerate().map(|(n, size)| format!("{n}{}", "x".repeat(*size))));
    to_small.write(bytes).await.unwrap();
    let mut written: Vec<_> =
        all(kafka, &small).iter().map(|m| payload(m).chars().next().unwrap()).collect();
    written.sort_unstable();
    assert_eq!(written, ['0', '1', '3', '4'], "each once");
    {
        let dead = near.dead.lock();
        assert_eq!((dead.len(), dead[0].payload[0]), (1, b'2'));
        assert_eq!(dead[0].header("unit"), Some("C"));
        assert!(dead[0].header("millrace-dead-text").unwrap().contains("refused by Kafka"));
    }
    assert_eq!(link.telemetry.snapshot().dead_letters, 1);
    near.dead.lock().clear();

    // A compacted topic takes no record without a key.
    let (to_compact, _) = sink(&kafka.brokers(), &near, &[("topic", &compact)]).await;
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for (key, payload) in [(Some(b"a".as_slice()), b"1"), (None, b"2"), (Some(b"b"), b"3")] {
        writer.push(&Fields { topic: "t", key, payload, ..Fields::default() }, []).unwrap();
    }
    to_compact.write(writer.finish().into()).await.unwrap();
    let mut written: Vec<_> = all(kafka, &compact).iter().map(payload).collect();
    written.sort_unstable();
    assert_eq!(written, ["1", "3"]);
    assert_eq!(near.dead.lock().len(), 1);
    assert_eq!(near.dead.lock()[0].payload, b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_step_was_not_granted_is_refused_and_the_rest_is_written() {
    let kafka = kafka();
    let name = unique("granted");
    for made in ["a", "b"] {
        topic(kafka, &format!("{name}.{made}"), 1, &[]).await;
    }
    let near = Near::open();
    let (template, grant) = (format!("{name}.{{key}}"), format!("kafka:produce:{name}.a*"));
    let (sink, link) =
        sink_for_control(&[&grant], &kafka.brokers(), &near, &[("topic", &template)]).await;
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for key in ["a", "b"] {
        let key = Some(key.as_bytes());
        let fields = Fields { topic: "t", key, payload: b"p", ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    sink.write(writer.finish().into()).await.unwrap();
    assert_eq!(all(kafka, &format!("{name}.a")).len(), 1);
    assert!(all(kafka, &format!("{name}.b")).is_empty());
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("millrace-dead-kind"), Some("refused"));
    let text = format!("the step control is not granted topic \"{name}.b\"");
    assert_eq!(dead[0].header("millrace-dead-text"), Some(text.as_str()));
    assert_eq!(link.telemetry.snapshot().uses["control"].refused, 1);
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_topic_is_dead_lettered_and_characters_are_mapped() {
    let kafka = kafka();
    let name = unique("made");
    for made in ["a", "b", "hall3.press_1"] {
        topic(kafka, &format!("{name}.{made}"), 1, &[]).await;
    }
    let near = Near::open();
    let template = format!("{name}.{{key}}");
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", &template)]).await;
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    let long = "k".repeat(300);
    let keys =
        [Some("a".as_bytes()), None, Some(long.as_bytes()), Some(b"b"), Some(b"hall3/press 1")];
    for (n, key) in keys.into_iter().enumerate() {
        let payload = n.to_string();
        let fields = Fields { topic: "t", key, payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, [("unit", "C")]).unwrap();
    }
    sink.write(writer.finish().into()).await.unwrap();
    for (made, wanted) in [("a", "0"), ("b", "3"), ("hall3.press_1", "4")] {
        let written: Vec<_> = all(kafka, &format!("{name}.{made}")).iter().map(payload).collect();
        assert_eq!(written, [wanted]);
    }
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 2);
    assert!(dead[0].header("millrace-dead-text").unwrap().contains("key"), "{dead:?}");
    assert!(dead[1].header("millrace-dead-text").unwrap().contains("249"), "{dead:?}");
    assert_eq!(link.telemetry.snapshot().dead_letters, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_reads_a_sink_writes_as_it_was() {
    let kafka = kafka();
    let (from, to) = (unique("from"), unique("to"));
    topic(kafka, &from, 1, &[]).await;
    topic(kafka, &to, 1, &[]).await;
    let producer = producer(&kafka.brokers());
    let headers = OwnedHeaders::new()
        .insert(Header { key: "content-type", value: Some("application/json") })
        .insert(Header { key: "traceparent", value: Some("00-a-b-01") })
        .insert(Header { key: "raw", value: Some(&[0xff_u8][..]) })
        .insert(Header { key: "none", value: None::<&[u8]> });
    let record = Record {
        key: Some(&[0xfe]),
        payload: Some(b"{}"),
        headers: Some(headers),
        timestamp: Some(1_700_000_000_456),
        ..Record::default()
    };
    send(&producer, &from, record);
    send(&producer, &from, Record { key: Some(b"k"), payload: None, ..Record::default() });
    send(&producer, &from, Record { key: None, payload: Some(b""), ..Record::default() });
    producer.flush(Duration::from_secs(20)).unwrap();
    let near = Near::open();
    let source = source(&kafka.brokers(), &near, &[("topics", &from)]).await;
    let start = Instant::now();
    while near.seen.lock().len() < 3 {
        assert!(start.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(20)).await;
    }
    source.drain().await;
    assert_eq!(near.seen.lock()[0].header("traceparent"), Some("00-a-b-01"));
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    for seen in near.seen.lock().iter() {
        let fields = Fields {
            timestamp: seen.timestamp,
            topic: &seen.topic,
            content_type: seen.content_type.as_deref(),
            key: seen.key.as_deref(),
            payload: &seen.payload,
        };
        let headers: Vec<_> = seen.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        writer.push(&fields, headers).unwrap();
    }
    let (sink, _) = sink(&kafka.brokers(), &near, &[("topic", &to)]).await;
    sink.write(writer.finish().into()).await.unwrap();
    let (before, after) = (all(kafka, &from), all(kafka, &to));
    assert_eq!(after.len(), 3);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.key(), before.payload()), (after.key(), after.payload()));
        assert_eq!(before.timestamp(), after.timestamp());
        let list = |m: &rdkafka::message::OwnedMessage| -> Vec<(String, Option<Vec<u8>>)> {
            let all = m.headers().map(|h| {
                h.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
            });
            all.unwrap_or_default()
        };
        assert_eq!(list(before), list(after));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_retried_and_a_write_fails_at_once() {
    let near = Near::open();
    let port = millrace_peers::free_port().unwrap();
    let brokers = format!("127.0.0.1:{port}");
    let (sink, link) = start_sink(&brokers, &near, &[("topic", "t")]);
    let source = start_source(&brokers, &near, &[("topics", "t")]);
    for link in [&link, &source.link] {
        let error = retries_with(link, &brokers).await;
        assert!(error.contains("refused"), "{error}");
        assert!(link.telemetry.snapshot().errors["connection"] >= 1);
    }
    let start = Instant::now();
    let error = sink.write(batch(["x".to_owned()])).await.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("kafka sink out"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
    source.drain().await;
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_at_once_are_each_answered() {
    let kafka = kafka();
    let name = unique("many");
    topic(kafka, &name, 3, &[]).await;
    let near = Near::open();
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", &name)]).await;
    let writes = (0..20).map(|n| {
        let sink = Arc::clone(&sink);
        let batch = batch((0..200).map(move |m| format!("{}", n * 200 + m)));
        tokio::spawn(async move { sink.write(batch).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(all(kafka, &name).len(), 4_000);
    assert_eq!(link.telemetry.snapshot().in_flight, 0);
    sink.close().await;
    assert!(sink.write(batch(["late".to_owned()])).await.is_err());
}
