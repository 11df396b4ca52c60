//! Edges and levels.

use std::time::Duration;

use millrace_kit::State;
use millrace_kit::telemetry::now_ns;
use serde_json::json;
use tokio::time::sleep;

use crate::near::{Near, reaches, source, start_source};
use crate::sim::Sim;

fn edge(line: &str, level: u64) -> (String, u64, String) {
    let word = if level == 1 { "rising" } else { "falling" };
    (line.to_owned(), level, word.to_owned())
}

fn sample(line: &str, level: u64, why: &str) -> (String, u64, String) {
    (line.to_owned(), level, why.to_owned())
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn edges_carry_the_kernels_timestamp_and_number_on_either_clock() {
    let sim = Sim::start(&["DOOR"]);
    for clock in ["realtime", "monotonic"] {
        let running =
            source(json!({ "lines": { "door": { "line": "DOOR" } }, "event-clock": clock })).await;
        let mut between = vec![now_ns()];
        for up in [true, false, true] {
            sim.pull(0, up);
            between.push(now_ns());
            // Longer than anything takes, so that a time of arrival would show.
            sleep(Duration::from_millis(150)).await;
        }
        running.near.until(3).await;
        assert_eq!(running.near.briefs(), [edge("door", 1), edge("door", 0), edge("door", 1)]);
        for (place, seen) in running.near.all().iter().enumerate() {
            assert_eq!(
                (seen.topic.as_str(), seen.json["seq"].as_u64()),
                ("door", Some(place as u64 + 1))
            );
            assert_eq!(seen.content_type.as_deref(), Some("application/json"));
            // The two clocks are compared when the edge is read.
            let slack = if clock == "monotonic" { 20_000_000 } else { 0 };
            assert!(seen.timestamp <= between[place + 1] + slack, "{clock}: {seen:?} {between:?}");
            let before = between[place + 1] - 100_000_000;
            assert!(seen.timestamp >= before, "{clock}: {seen:?} {between:?}");
            let time = chrono::DateTime::parse_from_rfc3339(seen.json["time"].as_str().unwrap());
            assert_eq!(time.unwrap().timestamp_nanos_opt(), Some(seen.timestamp as i64));
            assert!(seen.json.get("lost").is_none());
        }
        running.drain().await;
        sim.pull(0, false);
    }
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn only_the_edges_asked_for_and_in_logical_terms() {
    let sim = Sim::start(&["A", "B", "C"]);
    let running = source(json!({ "lines": {
        "a": { "line": "A", "edge": "rising" },
        "b": { "line": "B", "edge": "falling" },
        "c": { "line": "C", "active-low": true },
    } }))
    .await;
    for offset in [0, 1, 2] {
        for up in [true, false] {
            sim.pull(offset, up);
        }
    }
    running.near.until(4).await;
    sleep(Duration::from_millis(200)).await;
    let mut seen = running.near.briefs();
    seen.sort();
    let mut wanted = vec![edge("a", 1), edge("b", 0), edge("c", 0), edge("c", 1)];
    wanted.sort();
    assert_eq!(seen, wanted);
    let c: Vec<_> = running.near.briefs().into_iter().filter(|seen| seen.0 == "c").collect();
    assert_eq!(c, [edge("c", 0), edge("c", 1)], "high voltage is inactive");
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn edges_of_several_lines_come_in_the_order_they_happened() {
    let sim = Sim::start(&["A", "B"]);
    let near = Near::with(0);
    let running = start_source(
        &near,
        json!({ "lines": { "a": { "line": "A" }, "b": { "line": "B" } }, "window": 1 }),
    );
    reaches(&running.link, State::Connected).await;
    // The window is full with the first; the others wait in the kernel, and
    // are then read line by line.
    sim.pull(0, true);
    sleep(Duration::from_millis(200)).await;
    for up in [true, false, true] {
        sim.pull(1, up);
        sim.pull(0, !up);
    }
    near.open.add_permits(1_000);
    near.until(7).await;
    let times: Vec<u64> = near.all().iter().map(|seen| seen.timestamp).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(near.briefs()[1..3], [edge("b", 1), edge("a", 0)]);
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn debounce_keeps_a_level_that_does_not_hold() {
    let sim = Sim::start(&["KEY", "RAW"]);
    let running = source(json!({ "lines": {
        "key": { "line": "KEY", "debounce": "300ms" },
        "raw": { "line": "RAW" },
    } }))
    .await;
    for up in [true, false, true, false, true] {
        sim.pull(0, up);
        sim.pull(1, up);
    }
    let pulled = now_ns();
    running.near.until(6).await;
    sleep(Duration::from_millis(600)).await;
    let keys: Vec<_> = running.near.briefs().into_iter().filter(|seen| seen.0 == "key").collect();
    assert_eq!(keys, [edge("key", 1)], "one edge, after the bouncing");
    let key = running.near.all().into_iter().find(|seen| seen.topic == "key").unwrap();
    assert!(key.timestamp > pulled + 200_000_000, "stamped when the level has held");
    assert_eq!(running.near.briefs().len(), 6, "the other line has all of its five");
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn bias_pulls_the_line_and_the_initial_level_shows_it() {
    let _sim = Sim::start(&["UP", "DOWN", "LOW"]);
    let running = source(json!({ "initial": true, "lines": {
        "down": { "line": "DOWN", "bias": "pull-down" },
        "low": { "line": "LOW", "bias": "pull-up", "active-low": true },
        "up": { "line": "UP", "bias": "pull-up" },
    } }))
    .await;
    running.near.until(3).await;
    assert_eq!(
        running.near.briefs(),
        [sample("down", 0, "start"), sample("low", 0, "start"), sample("up", 1, "start")]
    );
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn levels_are_reported_on_interval_with_and_without_edges() {
    let sim = Sim::start(&["A", "B"]);
    let running = source(json!({ "interval": "400ms", "lines": {
        "polled": { "line": "A", "edge": "none" },
        "watched": { "line": "B" },
    } }))
    .await;
    sim.pull(0, true);
    sim.pull(1, true);
    running.near.until(5).await;
    let seen = running.near.briefs();
    assert_eq!(
        seen[..3],
        [edge("watched", 1), sample("polled", 1, "interval"), sample("watched", 1, "interval")]
    );
    assert!(!seen.contains(&edge("polled", 1)), "{seen:?}");
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn edges_beyond_the_kernels_buffer_are_counted_while_the_stage_is_away() {
    const EDGES: u64 = 301;
    let sim = Sim::start(&["FAST"]);
    let near = Near::with(0);
    let running = start_source(
        &near,
        json!({ "lines": { "fast": { "line": "FAST" } }, "kernel-buffer": 32, "window": 10 }),
    );
    reaches(&running.link, State::Connected).await;
    for n in 0..EDGES {
        sim.pull(0, n % 2 == 0);
        // The source goes on while it has room.
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(300)).await;
    let held = running.link.status().counters.messages_in;
    assert!((10..=74).contains(&held), "the window holds back: {held}");
    near.open.add_permits(1_000);
    let edges = || near.all().last().and_then(|seen| seen.json["seq"].as_u64()).unwrap_or(0);
    // The kernel may take two edges for one when the machine is very busy.
    crate::near::eventually(|| edges() > EDGES - 20).await.unwrap();
    sleep(Duration::from_millis(300)).await;

    let seen = near.all();
    let missing: u64 = seen.iter().filter_map(|seen| seen.json.get("lost")?.as_u64()).sum();
    assert!(missing > 150, "{missing}");
    assert_eq!(seen.len() as u64 + missing, edges(), "each edge is told or counted");
    let mut next = 1;
    for seen in &seen {
        let (seq, lost) =
            (seen.json["seq"].as_u64().unwrap(), seen.json["lost"].as_u64().unwrap_or(0));
        assert_eq!(seq, next + lost);
        next = seq + 1;
    }
    assert_eq!(seen.last().unwrap().brief(), edge("fast", 1), "the last level is the true one");
    let counters = running.link.status().counters;
    assert_eq!(counters.dropped, missing);
    let text = counters.last_error.unwrap().text;
    assert!(text.contains("edges lost: the kernel's buffer was full"), "{text}");
    running.drain().await;
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn a_drain_hands_on_what_was_taken_and_lets_the_lines_go() {
    let sim = Sim::start(&["DOOR"]);
    let near = Near::with(0);
    let running =
        start_source(&near, json!({ "lines": { "door": { "line": "DOOR" } }, "window": 5 }));
    reaches(&running.link, State::Connected).await;
    for n in 0..40 {
        sim.pull(0, n % 2 == 0);
    }
    sleep(Duration::from_millis(100)).await;
    let link = running.link.clone();
    let ended = tokio::spawn(running.drain());
    sleep(Duration::from_millis(300)).await;
    assert!(!ended.is_finished(), "it waits for its stage");
    assert_eq!(link.state(), State::Draining);
    // The line is free already, while its edges are still on their way.
    let taken =
        gpiocdev::Request::builder().on_chip(sim.device()).with_line(0).as_input().request();
    taken.unwrap();
    sim.pull(0, true);
    near.open.add_permits(1_000);
    ended.await.unwrap();
    let seen = near.all();
    let last = seen.last().unwrap();
    // The kernel may take two edges for one when the machine is very busy.
    assert!(seen.len() >= 30, "also what waited in the kernel: {}", seen.len());
    assert_eq!(last.json["seq"].as_u64(), Some(seen.len() as u64), "none is missing");
    assert_eq!(last.brief(), edge("door", 0));
    assert_eq!(link.status().counters.messages_out, seen.len() as u64);
}

#[tokio::test]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn lines_are_found_by_name_by_offset_and_on_a_labelled_chip() {
    let one = Sim::labelled("left", &["DOOR"]);
    let two = Sim::labelled("right", &["DOOR"]);
    let running = source(json!({ "lines": {
        "by-label": { "chip": "right", "line": "DOOR" },
        "by-path": { "chip": one.device(), "offset": 3 },
        "by-device": { "chip": two.chip(), "offset": 5 },
    } }))
    .await;
    one.pull(0, true);
    two.pull(0, true);
    one.pull(3, true);
    two.pull(5, true);
    running.near.until(3).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        running.near.briefs(),
        [edge("by-label", 1), edge("by-path", 1), edge("by-device", 1)]
    );
    running.drain().await;
}
