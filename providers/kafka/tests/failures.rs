//! A broker that is killed, that hangs, and whose disk is full.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use millrace_kit::{Sink, State, WriteError};
use millrace_peers::{Kafka, KafkaOptions};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_broker_is_killed_in_mid_stream() {
    const BATCHES: usize = 600;
    let mut kafka = Kafka::start().unwrap();
    topic(&kafka, "line", 3, &[]).await;
    let near = Near::slow(Duration::from_millis(5));
    let pairs = [("topics", "line"), ("group", "readers")];
    let source = source(&kafka.brokers(), &near, &pairs).await;
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", "line")]).await;
    let writer = {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move {
            let mut again = 0;
            for n in 0..BATCHES {
                again += write(&sink, batch((0..10).map(|m| format!("{}", n * 10 + m)))).await - 1;
                sleep(Duration::from_millis(10)).await;
            }
            again
        })
    };
    for _ in 0..2 {
        sleep(Duration::from_millis(1_500)).await;
        kafka.kill().unwrap();
        sleep(Duration::from_millis(500)).await;
        kafka.restart().unwrap();
        reaches(&link, State::Connected).await;
        reaches(&source.link, State::Connected).await;
    }
    let again = timeout(Duration::from_secs(90), writer).await.expect("the writer ends").unwrap();
    near.until(BATCHES * 10, Duration::from_secs(60)).await;
    let counters = source.link.telemetry.snapshot();
    source.drain().await;

    // In the broker: every message, and more than once only what was in a write
    // that had to be made again.
    let written = all(&kafka, "line");
    let mut counts = std::collections::BTreeMap::new();
    for message in &written {
        *counts.entry(payload(message)).or_insert(0_usize) += 1;
    }
    assert_eq!(counts.len(), BATCHES * 10, "none is lost on the way in");
    let repeated_in = written.len() - BATCHES * 10;
    assert!(repeated_in <= again * 10, "{repeated_in} repeated, {again} writes made again");
    // Out of it: every one, and more than once what was not yet committed.
    let seen: usize = near.payloads().values().sum();
    let repeated_out = seen - written.len();
    println!(
        "in {} + {repeated_in} ({again} writes made again), out {seen}: {repeated_out} repeated; {counters:?}",
        BATCHES * 10
    );
    let stored: i64 = committed(&kafka, "readers", "line", 3).into_iter().flatten().sum();
    assert_eq!(usize::try_from(stored).unwrap(), written.len(), "all is committed at the end");
    assert!(counters.reconnects >= 2, "{counters:?}");
    assert!(link.telemetry.snapshot().reconnects >= 2);
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_noticed_and_a_write_answers_in_time() {
    let kafka = Kafka::start().unwrap();
    topic(&kafka, "line", 1, &[]).await;
    let near = Near::open();
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", "line")]).await;
    let source = source(&kafka.brokers(), &near, &[("topics", "line")]).await;
    write(&sink, batch(["before".to_owned()])).await;
    near.until(1, Duration::from_secs(10)).await;
    kafka.freeze(true).unwrap();
    let start = Instant::now();
    let error = sink.write(batch(["during".to_owned()])).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4), "{error} after {:?}", start.elapsed());
    assert!(
        matches!(error, WriteError::Timeout { .. } | WriteError::Unreachable { .. }),
        "{error:?}"
    );
    reaches(&source.link, State::Retrying).await;
    kafka.freeze(false).unwrap();
    reaches(&link, State::Connected).await;
    reaches(&source.link, State::Connected).await;
    write(&sink, batch(["after".to_owned()])).await;
    near.until(2, Duration::from_secs(30)).await;
    source.drain().await;
    sink.close().await;
}

/// A small file system of its own. Unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(folder: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&folder).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&folder)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_the_broker_is_retried_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(folder.path().join("disk"), "80m") else {
        println!("SKIPPED: a file system of its own cannot be mounted here (not root?)");
        return;
    };
    let options = KafkaOptions {
        // Segments are allocated as they grow; indexes would be in advance.
        properties: "log.segment.bytes=4194304\nlog.index.size.max.bytes=4096\n\
                     offsets.topic.num.partitions=1\n__share=1"
            .replace("__share=1", "offsets.topic.segment.bytes=1048576"),
        log_dir: Some(small.0.clone()),
        ..KafkaOptions::default()
    };
    let mut kafka = Kafka::start_with(options).unwrap();
    topic(&kafka, "line", 1, &[]).await;
    let near = Near::open();
    let (sink, link) = sink(&kafka.brokers(), &near, &[("topic", "line")]).await;
    // Half a megabyte each, until the disk is full.
    let large = |n: usize| batch((0..50).map(|m| format!("{}:{}", n * 50 + m, "x".repeat(10_000))));
    let mut written = 0;
    let start = Instant::now();
    let error = loop {
        match sink.write(large(written)).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the disk is never full");
    };
    println!("after {written} writes: {error}");
    assert!(written > 20, "{written}: {error}");
    // It goes on to fail, with a reason, and nothing is given up.
    for _ in 0..3 {
        let error = sink.write(large(written)).await.unwrap_err();
        assert!(error.to_string().contains("kafka sink out"), "{error}");
    }
    assert_eq!(near.dead.lock().len(), 0, "a full disk is no message's fault");
    // A broker gives up a disk it could not write to, with its process: it
    // comes back when there is room again.
    kafka.kill().unwrap();
    retries_with(&link, "").await;
    let more =
        Command::new("mount").args(["-o", "remount,size=400m"]).arg(&small.0).status().unwrap();
    assert!(more.success());
    kafka.restart().unwrap();
    reaches(&link, State::Connected).await;
    timeout(Duration::from_secs(60), write(&sink, large(written))).await.expect("written");
    let numbers: std::collections::BTreeSet<String> =
        all(&kafka, "line").iter().map(|m| payload(m).split(':').next().unwrap().into()).collect();
    assert_eq!(numbers.len(), (written + 1) * 50, "what was acknowledged is there");
    sink.close().await;
    drop(kafka);
}
