//! Edges in order: of the whole edge, and of each key.

use futures::StreamExt as _;

use super::*;

fn in_order() -> Policy {
    Policy { in_flight: 1, ..policy() }
}

fn partitioned(count: u64) -> EdgeSettings {
    EdgeSettings { partitions: Some(count.to_string().parse().unwrap()), ..EdgeSettings::default() }
}

async fn consumer_as(
    server: &NatsServer,
    far: &Arc<Far>,
    settings: EdgeSettings,
    policy: Policy,
) -> (Arc<Link>, JoinHandle<()>) {
    let link = link("first.second", "second", Direction::Source);
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy));
    let source =
        Box::new(Consumer::new(client(server).await, edge("first.second"), settings, LIMITS));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    (link, task)
}

/// One message of each of `keys` keys, all numbered `number`.
fn keyed(number: u64, keys: u64) -> Bytes {
    let mut writer = BatchWriter::new([("id", format!("k{number}").as_str())]).unwrap();
    for key in 0..keys {
        let key = format!("key-{key}");
        let fields = Fields {
            timestamp: number,
            topic: "t",
            key: Some(key.as_bytes()),
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_joined_and_stays_in_order() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..100 {
        publisher.write(batch(&format!("b{n}"), n * 8, 8, 20)).await.unwrap();
    }
    let far = Arc::new(Far::default());
    let (link, _task) = consumer_as(&server, &far, EdgeSettings::default(), in_order()).await;
    far.until(800, Duration::from_secs(10)).await;
    let order: Vec<u64> = far.order.lock().iter().map(|(_, n)| *n).collect();
    assert_eq!(order, (0..800).collect::<Vec<_>>());
    // 800 messages in calls of at most 500.
    assert_eq!(link.telemetry.snapshot().batches_out, 2, "{:?}", far.ids.lock());
    empty(&server).await;
}

async fn empty(server: &NatsServer) {
    let start = Instant::now();
    while waiting(server, "first.second").await > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "every batch is acknowledged");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_in_work_is_put_together_again_with_the_same_id() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..5 {
        publisher.write(batch(&format!("b{n}"), n, 1, 20)).await.unwrap();
    }
    // Its answer is lost: it did its work, and hangs.
    let lost = Arc::new(Far { mute: true.into(), ..Far::default() });
    let (_link, task) = consumer_as(&server, &lost, EdgeSettings::default(), in_order()).await;
    lost.until(5, Duration::from_secs(10)).await;
    task.abort();
    let _ = task.await;
    // More has come since, which must not be put with it.
    for n in 5..9 {
        publisher.write(batch(&format!("b{n}"), n, 1, 20)).await.unwrap();
    }
    let far = Arc::new(Far::default());
    let (_link, _task) = consumer_as(&server, &far, EdgeSettings::default(), in_order()).await;
    far.until(9, Duration::from_secs(10)).await;
    let (before, after) = (lost.ids.lock().clone(), far.ids.lock().clone());
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!((&after[0], after.len()), (&before[0], 2), "{before:?} {after:?}");
    empty(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_done_is_not_delivered_again() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..5 {
        publisher.write(batch(&format!("b{n}"), n, 1, 20)).await.unwrap();
    }
    // As somebody leaves it who is killed between the first acknowledgement, of
    // the last batch, and the others.
    let js = jetstream::new(client(&server).await);
    let stream = js.get_stream(edge("first.second").stream()).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            durable_name: Some("stage-ordered".into()),
            filter_subject: edge("first.second").subject(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut group = consumer.fetch().max_messages(3).messages().await.unwrap();
    let mut last = None;
    while let Some(message) = futures::StreamExt::next(&mut group).await {
        last = Some(message.unwrap());
    }
    last.unwrap().double_ack().await.unwrap();

    let far = Arc::new(Far::default());
    let (_link, _task) = consumer_as(&server, &far, EdgeSettings::default(), in_order()).await;
    far.until(2, Duration::from_secs(10)).await;
    empty(&server).await;
    assert_eq!(far.seen.lock().keys().copied().collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_keep_the_order_of_each_key_while_the_server_is_killed() {
    const KEYS: u64 = 20;
    let mut server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", partitioned(4))]).await;
    let far = Arc::new(Far::default());
    let (link, _task) = consumer_as(&server, &far, partitioned(4), policy()).await;
    let writer = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for n in 0..400 {
                write(&publisher, keyed(n, KEYS)).await;
            }
        }
    });
    sleep(Duration::from_millis(200)).await;
    server.kill().unwrap();
    sleep(Duration::from_millis(500)).await;
    server.restart().unwrap();
    timeout(Duration::from_secs(60), writer).await.unwrap().unwrap();
    let start = Instant::now();
    let firsts = loop {
        // The first time that each message came.
        let mut firsts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (key, number) in far.order.lock().iter() {
            let numbers = firsts.entry(key.clone()).or_default();
            if !numbers.contains(number) {
                numbers.push(*number);
            }
        }
        if firsts.values().map(Vec::len).sum::<usize>() == 400 * KEYS as usize {
            break firsts;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", link.status());
        sleep(Duration::from_millis(50)).await;
    };
    for (key, numbers) in firsts {
        assert_eq!(numbers, (0..400).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_hangs_holds_up_no_other() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", partitioned(4))]).await;
    let far = Arc::new(Far { hangs_on: Some("key-0"), ..Far::default() });
    let (_link, _task) = consumer_as(&server, &far, partitioned(4), policy()).await;
    for n in 0..10 {
        publisher.write(keyed(n, 20)).await.unwrap();
    }
    let others = (0..20)
        .filter(|key| {
            let key = format!("key-{key}");
            let partition =
                |key: &str| millrace_kit::regroup::partition_of(Some(key.as_bytes()), "", 4);
            partition(&key) != partition("key-0")
        })
        .count();
    assert!(others >= 10, "{others}");
    let start = Instant::now();
    while far.order.lock().len() < others * 10 {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", far.order.lock().len());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_loses_nothing_and_changes_no_order() {
    let server = NatsServer::start().unwrap();
    let mut number = 0;
    // None yet, then four, then two, then none: what waits is of all of them.
    for settings in [EdgeSettings::default(), partitioned(4), partitioned(2)] {
        let (publisher, _) = publisher(&server, &[("first.second", settings)]).await;
        for _ in 0..5 {
            publisher.write(keyed(number, 10)).await.unwrap();
            number += 1;
        }
    }
    let far = Arc::new(Far::default());
    let (_link, _task) = consumer_as(&server, &far, partitioned(2), policy()).await;
    let start = Instant::now();
    while far.order.lock().len() < 150 {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", far.order.lock().len());
        sleep(Duration::from_millis(20)).await;
    }
    for key in 0..10 {
        let key = format!("key-{key}");
        let order = far.order.lock();
        let numbers: Vec<u64> = order.iter().filter(|(k, _)| *k == key).map(|(_, n)| *n).collect();
        assert_eq!(numbers, (0..15).collect::<Vec<_>>(), "{key}");
    }
    empty(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_traps_among_joined_batches_is_found_alone() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for n in 0..20 {
        publisher.write(batch(&format!("b{n}"), n * 5, 5, 20)).await.unwrap();
    }
    let far = Arc::new(Far { poison: Some(42), ..Far::default() });
    let (_link, _task) = consumer_as(&server, &far, EdgeSettings::default(), in_order()).await;
    far.until(99, Duration::from_secs(20)).await;
    assert_eq!(*far.dead.lock(), [42]);
    let order: Vec<u64> = far.order.lock().iter().map(|(_, n)| *n).collect();
    assert_eq!(order, (0..100).filter(|n| *n != 42).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_edge_that_drops_the_oldest_says_how_much() {
    let server = NatsServer::start().unwrap();
    let settings = EdgeSettings {
        max_bytes: "1MiB".parse().unwrap(),
        when_full: millrace_settings::edge::WhenFull::DropOldest,
        ..EdgeSettings::default()
    };
    let (publisher, _) = publisher(&server, &[("first.second", settings.clone())]).await;
    // A consumer that has begun, so that it knows where it was.
    let far = Arc::new(Far::default());
    let (link, task) = consumer_as(&server, &far, settings.clone(), in_order()).await;
    publisher.write(batch("b0", 0, 1, 50_000)).await.unwrap();
    far.until(1, Duration::from_secs(10)).await;
    link.drain.cancel();
    task.await.unwrap();
    for n in 1..=50 {
        publisher.write(batch(&format!("b{n}"), n, 1, 50_000)).await.unwrap();
    }
    let kept = waiting(&server, "first.second").await;
    assert!((15..=20).contains(&kept), "{kept}");
    let (link, _task) = consumer_as(&server, &far, settings, in_order()).await;
    far.until(1 + usize::try_from(kept).unwrap(), Duration::from_secs(10)).await;
    assert_eq!(far.seen.lock().keys().last(), Some(&50), "the newest are there");
    assert_eq!(link.telemetry.snapshot().dropped_batches, 50 - kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_handed_on_no_faster_than_the_rate_and_the_status_tells_what_waits() {
    let server = NatsServer::start().unwrap();
    let settings =
        EdgeSettings { max_rate: Some("1000".parse().unwrap()), ..EdgeSettings::default() };
    let (publisher, _) = publisher(&server, &[("first.second", settings.clone())]).await;
    for n in 0..60 {
        publisher.write(batch(&format!("b{n}"), n * 100, 100, 20)).await.unwrap();
    }
    let far = Arc::new(Far::default());
    let start = Instant::now();
    let (link, _task) = consumer_as(&server, &far, settings, policy()).await;
    sleep(Duration::from_millis(1_000)).await;
    let queue = link.telemetry.snapshot().queue.expect("looked at");
    assert!(queue.batches >= 40 && queue.bytes > 100_000 && queue.oldest_ms > 0, "{queue:?}");
    far.until(6_000, Duration::from_secs(20)).await;
    // The last batch goes when the 5,900 messages before it are paid for.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(5_800), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(9), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_keeps_what_was_handed_on() {
    let server = NatsServer::start().unwrap();
    let settings = |partitions: Option<&str>| EdgeSettings {
        history: Some("1h".parse().unwrap()),
        partitions: partitions.map(|count| count.parse().unwrap()),
        ..EdgeSettings::default()
    };
    let js = jetstream::new(client(&server).await);
    // An edge that had none, and gets one: from then on.
    edge("first.second").ensure_stream(&js, &EdgeSettings::default()).await.unwrap();
    let far = Arc::new(Far::default());
    for (round, partitions) in [None, Some("4")].into_iter().enumerate() {
        let settings = settings(partitions);
        let (publisher, _) = publisher(&server, &[("first.second", settings.clone())]).await;
        let (link, task) = consumer_as(&server, &far, settings, in_order()).await;
        for n in 0..50 {
            publisher.write(keyed(round as u64 * 50 + n, 10)).await.unwrap();
        }
        far.until((round + 1) * 50, Duration::from_secs(10)).await;
        empty(&server).await;
        link.drain.cancel();
        task.await.unwrap();
    }
    let history = js.get_stream(edge("first.second").history_stream()).await.unwrap();
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    for sequence in 1..=history.cached_info().state.last_sequence {
        let kept = history.get_raw_message(sequence).await.unwrap();
        for message in Batch::parse(&kept.payload).unwrap().messages() {
            *numbers.entry(message.timestamp).or_default() += 1;
        }
    }
    assert_eq!(numbers, (0..100).map(|n| (n, 10)).collect());
}

/// As it is while a host stands still and its conduit runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_conduit_took_and_left_comes_at_once() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let far = Arc::new(Far { takes: Duration::from_secs(1), ..Far::default() });
    let (_link, _task) = consumer_as(&server, &far, EdgeSettings::default(), in_order()).await;
    publisher.write(batch("b0", 0, 1, 20)).await.unwrap();
    let start = Instant::now();
    let js = jetstream::new(client(&server).await);
    let stream = js.get_stream(edge("first.second").stream()).await.unwrap();
    // In the middle of the call another one begins with the edge, and takes what comes next.
    sleep(Duration::from_millis(500)).await;
    let mut names = stream.consumer_names();
    while let Some(name) = names.next().await {
        stream.delete_consumer(&name.unwrap()).await.unwrap();
    }
    let other: jetstream::consumer::PullConsumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            durable_name: Some("stage-ordered_another".into()),
            filter_subject: edge("first.second").subject(),
            ack_wait: Duration::from_secs(24 * 3_600),
            ..Default::default()
        })
        .await
        .unwrap();
    publisher.write(batch("b1", 1, 1, 20)).await.unwrap();
    publisher.write(batch("b2", 2, 1, 20)).await.unwrap();
    let taken = other.fetch().max_messages(3).messages().await.unwrap();
    assert!(taken.count().await >= 2, "it has them in hand, and is gone");
    far.until(3, Duration::from_secs(15)).await;
    println!("all there after {:?}", start.elapsed());
    let mut first: Vec<u64> = Vec::new();
    for (_, number) in far.order.lock().iter() {
        if !first.contains(number) {
            first.push(*number);
        }
    }
    assert_eq!(first, [0, 1, 2]);
    empty(&server).await;
}
