//! Edges of the arms of a branch.

use millrace_batch::ARM;

use super::*;

/// Ten messages, of which each third is high, each other low or odd.
fn sorted(number: u64) -> Bytes {
    let id = format!("b{number}");
    let mut writer = BatchWriter::new([("id", id.as_str())]).unwrap();
    for n in number * 10..number * 10 + 10 {
        let fields = Fields { timestamp: n, topic: "t", ..Fields::default() };
        writer.push(&fields, [("unit", "bar"), (ARM, arm(n))]).unwrap();
    }
    writer.finish().into()
}

const fn arm(n: u64) -> &'static str {
    match n % 3 {
        0 => "high",
        1 => "low",
        _ => "odd",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_arm_has_its_messages_also_when_the_server_is_killed() {
    let mut server = NatsServer::start().unwrap();
    let settings = EdgeSettings::default();
    let parts = EdgeSettings { partitions: Some("2".parse().unwrap()), ..settings.clone() };
    // Two take the high ones, and nobody takes the odd ones.
    let edges = [
        ("sort_high.alarm", settings.clone()),
        ("sort_high.log", parts.clone()),
        ("sort_low.log", settings.clone()),
    ];
    let (publisher, out) = publisher(&server, &edges).await;
    let writer = {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            for n in 0..500 {
                write(&publisher, sorted(n)).await;
            }
        })
    };
    sleep(Duration::from_millis(200)).await;
    server.kill().unwrap();
    sleep(Duration::from_millis(300)).await;
    server.restart().unwrap();
    timeout(Duration::from_secs(60), writer).await.expect("the writer comes to its end").unwrap();

    for (name, settings) in edges {
        let edge = edge(name);
        let far = Arc::new(Far::default());
        let link = link(name, "second", Direction::Source);
        let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy()));
        let source = Consumer::new(client(&server).await, edge.clone(), settings, LIMITS);
        let _task = tokio::spawn(Box::new(source).run(link, delivery));
        let expected: BTreeSet<u64> = (0..5_000).filter(|n| Some(arm(*n)) == edge.arm()).collect();
        far.until(expected.len(), Duration::from_secs(30)).await;
        assert_eq!(far.seen.lock().keys().copied().collect::<BTreeSet<_>>(), expected, "{name}");
    }
    assert_eq!(out.state(), State::Connected);
}

/// A stage whose messages take no arm is no branch: what it says is on none of its edges, and so is not accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_an_arm_is_refused() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("sort_high.alarm", EdgeSettings::default())]).await;
    let refused = publisher.write(batch("b0", 0, 3, 10)).await.unwrap_err().to_string();
    assert!(refused.contains("edge sort_high.alarm") && refused.contains("no arm"), "{refused}");
}

#[test]
fn the_name_of_an_edge_says_its_arm() {
    assert_eq!(edge("sort_high.alarm").arm(), Some("high"));
    assert_eq!(edge("sort.alarm").arm(), None);
    assert_eq!(edge("sort_high.alarm").stream(), "MILLRACE_plant_line_sort_high_alarm");
    for name in ["sort_.alarm", "_high.alarm", "sort_a_b.alarm", "sort.high_alarm", "sort_A.b"] {
        assert!(Edge::new("plant", "line", name).is_err(), "{name}");
    }
}
