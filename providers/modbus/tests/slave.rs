//! The source and the sink against pymodbus, over TCP, RTU over TCP, and RTU
//! on a serial line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;
mod trial;

use std::time::Duration;

use common::{Near, batch, control, drain, reaches, sink, sink_for, source};
use millrace_kit::{Sink, State, WriteError};
use millrace_peers::{ModbusSlave, SerialPair, SlaveMode, SlaveUnit};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_modbus::client::{Context, Reader, Writer};
use tokio_modbus::prelude::Slave;

fn units() -> Vec<SlaveUnit> {
    let mut first = SlaveUnit::ascending(1, 200);
    first.coils[3] = true;
    first.discrete[1] = true;
    first.discrete[15] = true;
    // 20.1 as FLOAT32 in the order CDAB, -2 as INT32, "PUMP1".
    first.holding[10..12].copy_from_slice(&[0xCCCD, 0x41A0]);
    first.holding[12..14].copy_from_slice(&[0xFFFF, 0xFFFE]);
    first.holding[20..23].copy_from_slice(&[0x5055, 0x4D50, 0x3100]);
    first.input[5] = 234;
    vec![first, SlaveUnit::ascending(2, 50)]
}

fn every_kind() -> Value {
    json!({
        "coil": {"address": "0x0003", "register": "coil"},
        "discrete": {"address": "10002"},
        "last-bit": {"address": "1x0016"},
        "word": {"address": "40002"},
        "plain": {"address": 7, "register": "holding"},
        "float": {"address": "4x0011", "type": "FLOAT32", "byte-order": "CDAB"},
        "int": {"address": "400013", "type": "INT32"},
        "name": {"address": "40021", "type": "STRING(6)"},
        "input": {"address": "30006", "type": "FIXED", "scale": 0.1},
        "bit": {"address": "30006", "type": "BIT", "bit": 1},
        "far": {"unit": 2, "address": "40050", "type": "UINT16"},
    })
}

async fn reads_every_kind(url: &str) {
    let near = Near::open();
    let before = std::time::SystemTime::now();
    let (link, task) = source(url, &near, json!({"fields": every_kind(), "max-gap": 4}));
    for (field, value) in [
        ("coil", json!(true)),
        ("discrete", json!(true)),
        ("last-bit", json!(true)),
        ("word", json!(1)),
        ("plain", json!(7)),
        ("float", json!(20.1)),
        ("int", json!(-2)),
        ("name", json!("PUMP1")),
        ("input", json!(23.4)),
        ("bit", json!(true)),
        ("far", json!(49)),
    ] {
        let seen = near.good(field).await;
        assert_eq!(seen.value(), &value, "{field}");
        assert_eq!(seen.payload["field"], field);
        assert_eq!(seen.key, if field == "far" { "2" } else { "1" });
        assert_eq!(seen.content_type.as_deref(), Some("application/json"));
        assert!(seen.payload.get("reason").is_none());
        let since = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert!(u128::from(seen.timestamp) >= since, "source time");
        assert!(seen.payload["time"].as_str().unwrap().ends_with('Z'));
        assert!(seen.headers["ingest-time"].as_str() >= seen.payload["time"].as_str().unwrap());
    }
    reaches(&link, State::Connected).await;
    drain(&link, task).await;
}

#[tokio::test]
async fn a_source_over_tcp_reads_every_kind() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    reads_every_kind(&slave.url()).await;
    // The plan: a coil, two discrete inputs too far apart, an input register,
    // three blocks of holding registers, and the other unit.
    let mut requests = slave.requests();
    requests.truncate(8);
    assert_eq!(
        requests,
        ["1 1 3 1", "1 2 1 1", "1 2 15 1", "1 4 5 1", "1 3 1 1", "1 3 7 7", "1 3 20 3", "2 3 49 1"]
    );
}

#[tokio::test]
async fn a_source_over_rtu_over_tcp_reads_every_kind() {
    let slave = ModbusSlave::start(SlaveMode::RtuOverTcp, &units()).unwrap();
    reads_every_kind(&slave.url()).await;
}

#[tokio::test]
async fn on_a_serial_line_the_source_reads_and_the_sink_writes() {
    let line = SerialPair::start().unwrap();
    let _slave = ModbusSlave::start(SlaveMode::Serial(line.far()), &units()).unwrap();
    let url = format!("rtu://{}", line.near().display());
    let near = Near::open();
    let fields = json!({"fields": every_kind(), "parity": "none", "stop-bits": 1});
    let (link, task) = source(&url, &near, fields);
    assert_eq!(near.good("float").await.value(), &json!(20.1));
    assert_eq!(near.good("far").await.value(), &json!(49));
    assert_eq!(near.good("coil").await.value(), &json!(true));
    drain(&link, task).await;

    let (sink, link) = sink(
        &url,
        &near,
        json!({"parity": "none", "stop-bits": 1, "fields": {
            "speed": {"address": "40100", "type": "FLOAT32"},
            "pump": {"address": "00001"},
        }}),
    );
    reaches(&link, State::Connected).await;
    // What the slave answers to the source's last question can still be on its way, and be taken for an answer to this:
    // such a write fails by name, and is made again, as a stage's caller would.
    let values = || batch([("speed", "12.5"), ("pump", "true")]);
    while let Err(error) = sink.write(values()).await {
        assert!(error.to_string().contains("not an answer to the request"), "{error}");
    }
    sink.close().await;

    let (link, task) = source(
        &url,
        &near,
        json!({"parity": "none", "fields": {
            "speed": {"address": "40100", "type": "FLOAT32"},
            "pump": {"address": "00001"},
        }}),
    );
    assert_eq!(near.good("speed").await.value(), &json!(12.5));
    assert_eq!(near.good("pump").await.value(), &json!(true));
    drain(&link, task).await;
}

#[tokio::test]
async fn a_source_and_a_sink_share_a_serial_line() {
    let line = SerialPair::start().unwrap();
    let slave = ModbusSlave::start(SlaveMode::Serial(line.far()), &units()).unwrap();
    let url = format!("rtu://{}", line.near().display());
    let near = Near::open();
    let fields = json!({"valve": {"address": "40010"}, "far": {"unit": 2, "address": "40050"}});
    let set = |fields: &Value| json!({"parity": "none", "fields": fields, "timeout": "1s"});
    let (link, task) = source(&url, &near, set(&fields));
    let (sink, writes) = sink(&url, &near, set(&json!({"valve": {"address": "40010"}})));
    reaches(&writes, State::Connected).await;
    for value in 100..130 {
        let value = value.to_string();
        sink.write(batch([("valve", value.as_str())])).await.unwrap();
    }
    near.until("valve", |seen| seen.value() == 129).await;
    drain(&link, task).await;
    // The line stays open for the one that is left.
    sink.write(batch([("valve", "7")])).await.unwrap();
    assert!(near.seen.lock().iter().all(|seen| seen.quality() == "good"), "{:?}", near.seen.lock());
    assert_eq!(slave.requests().last().unwrap(), "1 6 9 0");
    // With other settings it cannot be opened twice.
    let other = json!({"parity": "none", "baud-rate": 9600, "fields": fields});
    let (link, task) = source(&url, &near, other);
    reaches(&link, State::Retrying).await;
    sink.close().await;
    drain(&link, task).await;
}

#[tokio::test]
async fn a_serial_line_that_disappears_gives_bad_readings_and_comes_back() {
    let mut line = SerialPair::start().unwrap();
    let mut slave = ModbusSlave::start(SlaveMode::Serial(line.far()), &units()).unwrap();
    let url = format!("rtu://{}", line.near().display());
    let near = Near::open();
    let fields = json!({"parity": "none", "fields": {"word": {"address": "40002"}}});
    let (link, task) = source(&url, &near, fields);
    near.good("word").await;

    line.disconnect().unwrap();
    let bad = near.next("word", |seen| seen.quality() == "bad").await;
    assert_eq!(bad.value(), &Value::Null);
    reaches(&link, State::Retrying).await;
    let gone = near.next("word", |seen| seen.reason().contains("not connected: rtu://")).await;
    assert_eq!(gone.quality(), "bad");

    line.connect().unwrap();
    slave.restart().unwrap();
    near.next("word", |seen| seen.quality() == "good").await;
    reaches(&link, State::Connected).await;
    assert!(link.status().counters.reconnects >= 1);
    drain(&link, task).await;
}

#[tokio::test]
async fn a_slave_that_is_killed_and_started_again() {
    let mut slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (link, task) =
        source(&slave.url(), &near, json!({"fields": {"word": {"address": "40002"}}}));
    near.good("word").await;
    slave.kill().unwrap();
    let bad = near.next("word", |seen| seen.quality() == "bad").await;
    assert!(!bad.reason().is_empty(), "{bad:?}");
    reaches(&link, State::Retrying).await;
    assert!(link.status().error.unwrap().contains(&slave.url()));
    slave.restart().unwrap();
    near.next("word", |seen| seen.quality() == "good").await;
    reaches(&link, State::Connected).await;
    drain(&link, task).await;
}

#[tokio::test]
async fn a_slave_that_is_frozen_answers_late_and_readings_stay_right() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let fields = json!({
        "a": {"address": "40002"}, "b": {"address": "40102"}, "c": {"address": "30006"}
    });
    let (link, task) = source(&slave.url(), &near, json!({"fields": fields}));
    near.good("a").await;
    for _ in 0..3 {
        slave.freeze(true).unwrap();
        near.next("a", |seen| seen.quality() == "bad").await;
        slave.freeze(false).unwrap();
        near.next("a", |seen| seen.quality() == "good").await;
    }
    drain(&link, task).await;
    for (field, value) in [("a", 1), ("b", 101), ("c", 234)] {
        for seen in near.of(field) {
            assert!(seen.quality() == "bad" || seen.value() == &json!(value), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn a_unit_that_is_away_does_not_stop_the_others() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let fields = json!({
        "here": {"address": "40002"},
        "away": {"unit": 9, "address": "40002"},
        "away-too": {"unit": 9, "address": "40102"},
        "there": {"unit": 2, "address": "40003"},
    });
    let (link, task) = source(&slave.url(), &near, json!({"fields": fields}));
    let away = near.bad("away").await;
    assert_eq!(away.reason(), "unit 9, holding 0x0001: no answer within 200ms");
    near.bad("away-too").await;
    near.good("there").await;
    near.seen.lock().clear();
    sleep(Duration::from_secs(2)).await;
    let (here, away) = (near.of("here"), near.of("away"));
    assert!(here.len() >= 20, "the others go on at their pace: {}", here.len());
    assert!(here.iter().all(|seen| seen.quality() == "good"));
    assert!(near.of("there").iter().all(|seen| seen.quality() == "good"));
    assert!(away.len() >= 20, "a dead device is not silent: {}", away.len());
    assert!(away.iter().all(|seen| seen.quality() == "bad"));
    assert_eq!(link.state(), State::Connected, "the gateway answers");
    drain(&link, task).await;
}

#[tokio::test]
async fn a_register_that_does_not_exist_spoils_only_itself() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &[SlaveUnit::ascending(1, 10)]).unwrap();
    let near = Near::open();
    let fields: serde_json::Map<String, Value> =
        (0..12).map(|n| (format!("r{n}"), json!({"address": n, "register": "holding"}))).collect();
    let (link, task) = source(&slave.url(), &near, json!({"fields": fields}));
    for n in 0..10 {
        assert_eq!(near.good(&format!("r{n}")).await.value(), &json!(n));
    }
    let bad = near.bad("r10").await;
    assert_eq!(bad.reason(), "unit 1, holding 0x000A: exception 2, illegal data address");
    near.bad("r11").await;
    // The plan is split where it has to be and no further.
    let before = slave.requests().len();
    near.next("r9", |_| true).await;
    sleep(Duration::from_millis(500)).await;
    let cycles = near.of("r9").len();
    let asked = slave.requests().len() - before;
    assert!(asked <= (cycles + 2) * 6, "{asked} requests in {cycles} cycles");
    drain(&link, task).await;
}

async fn client(slave: &ModbusSlave) -> Context {
    let address = ([127, 0, 0, 1], slave.port()).into();
    tokio_modbus::client::tcp::connect_slave(address, Slave(1)).await.unwrap()
}

#[tokio::test]
async fn on_change_only_changes_are_sent() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let mut client = client(&slave).await;
    let near = Near::open();
    let fields = json!({
        "still": {"address": "40001"},
        "word": {"address": "40002"},
        "banded": {"address": "40003", "deadband": 10},
    });
    let (link, task) = source(&slave.url(), &near, json!({"emit": "change", "fields": fields}));
    near.until("banded", |seen| seen.value() == 2).await;
    near.good("word").await;
    // Within the band, and only then beyond it: each step is small.
    for value in [5, 9, 12] {
        client.write_single_register(2, value).await.unwrap().unwrap();
        client.write_single_register(1, value).await.unwrap().unwrap();
        near.until("word", |seen| seen.value() == value).await;
        sleep(Duration::from_millis(120)).await;
    }
    client.write_single_register(2, 13).await.unwrap().unwrap();
    near.until("banded", |seen| seen.value() == 13).await;
    let values = |field| near.of(field).iter().map(|seen| seen.value().clone()).collect::<Vec<_>>();
    assert_eq!(values("still"), [0]);
    assert_eq!(values("word"), [1, 5, 9, 12]);
    assert_eq!(values("banded"), [2, 13], "from the last one sent, not the last one read");
    drain(&link, task).await;
}

#[tokio::test]
async fn a_slow_stage_skips_cycles_and_counts_them() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::with(0);
    let fields: serde_json::Map<String, Value> =
        (0..100).map(|n| (format!("r{n}"), json!({"address": n, "register": "holding"}))).collect();
    let (link, task) = source(&slave.url(), &near, json!({"interval": "10ms", "fields": fields}));
    let start = Instant::now();
    while link.status().counters.dropped < 5_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", link.status());
        sleep(Duration::from_millis(20)).await;
    }
    let counters = link.status().counters;
    assert!(counters.messages_in <= 1_100, "held: {}", counters.messages_in);
    assert!(counters.last_error.unwrap().text.contains("cycles are skipped"));
    near.open.add_permits(1_000_000);
    near.next("r7", |_| true).await;
    drain(&link, task).await;
    let counters = link.status().counters;
    assert_eq!(counters.messages_in, counters.messages_out, "what was taken was delivered");
}

#[tokio::test]
async fn close_after_cycle_makes_a_connection_a_cycle() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (link, task) = source(
        &slave.url(),
        &near,
        json!({"close-after-cycle": true, "pause-after-connect": "5ms",
               "pause-between-requests": "5ms", "fields": every_kind()}),
    );
    while near.of("far").len() < 5 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(near.seen.lock().iter().all(|seen| seen.quality() == "good"));
    assert_eq!(link.status().counters.reconnects, 0, "none was lost");
    drain(&link, task).await;
}

fn writable() -> Value {
    json!({
        "pump": {"address": "00001"},
        "valve": {"address": "40010", "min": 0, "max": 100, "scale": 0.1},
        "speed": {"address": "40100", "type": "FLOAT32", "byte-order": "DCBA"},
        "label": {"address": "40110", "type": "STRING(8)"},
        "count": {"unit": 2, "address": "40001", "type": "INT64"},
    })
}

#[tokio::test]
async fn a_sink_writes_what_is_granted_and_nothing_else() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (sink, link) = sink(&slave.url(), &near, json!({"fields": writable()}));
    reaches(&link, State::Connected).await;
    sink.write(batch([
        ("pump", "true"),
        ("x", r#"{"field": "valve", "value": 55.5}"#),
        ("speed", r#"{"value": 20.1, "quality": "good"}"#),
        ("label", "\"PUMP 7\""),
        ("count", "-2"),
        // From here on nothing is written.
        ("valve", "100.1"),
        ("valve", "-1"),
        ("valve", "\"open\""),
        ("other", "1"),
        ("x", r#"{"field": "40001", "value": 1}"#),
        ("pump", "2"),
        ("pump", "not json"),
        ("label", "\"TOO LONG A LABEL\""),
        ("speed", r#"{"value": null, "quality": "bad"}"#),
        ("speed", r#"{"speed": 3}"#),
    ]))
    .await
    .unwrap();
    let mut client = client(&slave).await;
    assert_eq!(client.read_coils(0, 2).await.unwrap().unwrap(), [true, false]);
    assert_eq!(client.read_holding_registers(9, 1).await.unwrap().unwrap(), [555]);
    let speed = client.read_holding_registers(99, 2).await.unwrap().unwrap();
    assert_eq!(speed, [0xCDCC, 0xA041]);
    let label = client.read_holding_registers(109, 4).await.unwrap().unwrap();
    assert_eq!(label, [0x5055, 0x4D50, 0x2037, 0]);
    let writes: Vec<String> = slave
        .requests()
        .into_iter()
        .filter(|r| !r.contains(" 3 ") && !r.contains(" 1 0 "))
        .collect();
    assert_eq!(writes, ["1 5 0 0", "1 6 9 0", "1 16 99 2", "1 16 109 4", "2 16 0 4"]);
    let dead = near.dead.lock().clone();
    let reasons: Vec<&str> = dead.iter().map(|letter| letter.text.as_str()).collect();
    for (n, part) in [
        "valve (unit 1, holding 0x0009): 100.1 is above max, which is 100",
        "-1 is below min, which is 0",
        "\"open\" is not a number",
        "field \"other\" is not granted",
        "field \"40001\" is not granted",
        "2 is neither true nor false",
        "the payload is no JSON",
        "does not fit into STRING(8)",
        "a value of quality bad is not written",
        "the payload has no \"value\"",
    ]
    .iter()
    .enumerate()
    {
        assert!(reasons[n].contains(part), "{part}: {}", reasons[n]);
        assert_eq!(dead[n].kind, "invalid-argument");
    }
    assert_eq!((dead.len(), link.status().counters.dead_letters), (10, 10));
    assert_eq!(dead[0].payload, "100.1", "the message as it was");
    sink.close().await;
}

#[tokio::test]
async fn what_its_step_was_not_granted_is_refused_and_the_rest_is_written() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &[SlaveUnit::ascending(1, 20)]).unwrap();
    let near = Near::open();
    let fields = json!({
        "speed": {"address": "40001"},
        "level": {"address": "40002"},
        // Two registers, of which the second is not granted.
        "wide": {"address": "40010", "type": "UINT32"},
        "pump": {"address": "00001"},
    });
    let control = control(&["modbus:write:speed", "modbus:write:holding:5-9"]);
    let (sink, link) = sink_for(control, &slave.url(), &near, json!({ "fields": fields }));
    reaches(&link, State::Connected).await;
    sink.write(batch([("speed", "7"), ("level", "8"), ("wide", "9"), ("pump", "true")]))
        .await
        .unwrap();
    let mut client = client(&slave).await;
    assert_eq!(client.read_holding_registers(0, 2).await.unwrap().unwrap()[0], 7);
    let written = slave
        .requests()
        .into_iter()
        .filter(|r| r.contains(" 5 ") || r.contains(" 6 ") || r.contains(" 16 "));
    assert_eq!(written.collect::<Vec<_>>(), ["1 6 0 0"]);
    let dead = near.dead.lock().clone();
    let texts: Vec<&str> = dead.iter().map(|letter| letter.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "the step control is not granted field \"level\" (holding 1)",
            "the step control is not granted field \"wide\" (holding 9-10)",
            "the step control is not granted field \"pump\" (coil 0)",
        ]
    );
    assert!(dead.iter().all(|letter| letter.kind == "refused"));
    assert_eq!(link.status().counters.uses["control"].refused, 3);
    sink.close().await;
}

#[tokio::test]
async fn what_the_device_refuses_for_good_is_a_dead_letter() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &[SlaveUnit::ascending(1, 10)]).unwrap();
    let near = Near::open();
    let fields = json!({"there": {"address": "40001"}, "not": {"address": "40100"}});
    let (sink, link) = sink(&slave.url(), &near, json!({"fields": fields}));
    reaches(&link, State::Connected).await;
    sink.write(batch([("not", "1"), ("there", "77")])).await.unwrap();
    let dead = near.dead.lock().clone();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].text, "not (unit 1, holding 0x0063): exception 2, illegal data address");
    let mut client = client(&slave).await;
    assert_eq!(client.read_holding_registers(0, 1).await.unwrap().unwrap(), [77]);
    sink.close().await;
}

#[tokio::test]
async fn function_multiple_uses_15_and_16() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (sink, link) =
        sink(&slave.url(), &near, json!({"function": "multiple", "fields": writable()}));
    reaches(&link, State::Connected).await;
    sink.write(batch([("pump", "1"), ("valve", "5")])).await.unwrap();
    assert_eq!(slave.requests(), ["1 15 0 1", "1 16 9 1"]);
    assert!(near.dead.lock().is_empty());
    sink.close().await;
}

#[tokio::test]
async fn the_rate_is_kept_and_a_long_batch_goes_on_where_it_was() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (sink, link) = sink(&slave.url(), &near, json!({"rate": 5, "fields": writable()}));
    reaches(&link, State::Connected).await;
    let values: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    let batch = batch(values.iter().map(|value| ("valve", value.as_str())));
    let start = Instant::now();
    let mut calls = 1;
    // 25 writes at 5 a second are longer than one call may take.
    while let Err(error) = sink.write(batch.clone()).await {
        assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
        calls += 1;
        assert!(calls < 10);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(4_700), "{took:?} for 25 writes");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(calls > 1, "it took several calls");
    assert_eq!(slave.requests().len(), 25, "and every value was written once");
    // Given again, as after a lost answer, it is not written again.
    sink.write(batch).await.unwrap();
    assert_eq!(slave.requests().len(), 25);
    assert_eq!(link.status().counters.duplicates, 1);
    sink.close().await;
}

#[tokio::test]
async fn only_the_latest_value_is_written_to_a_slow_device() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (sink, link) =
        sink(&slave.url(), &near, json!({"rate": 5, "write": "latest", "fields": writable()}));
    reaches(&link, State::Connected).await;
    let values: Vec<String> = (0..=100).map(|n| n.to_string()).collect();
    let messages = values.iter().flat_map(|value| [("valve", value.as_str()), ("pump", "true")]);
    sink.write(batch(messages)).await.unwrap();
    assert_eq!(slave.requests().len(), 2, "one write a field: {:?}", slave.requests());
    let mut client = client(&slave).await;
    assert_eq!(client.read_holding_registers(9, 1).await.unwrap().unwrap(), [1_000]);
    assert_eq!(link.status().counters.dropped, 200);
    // Also between batches that wait together.
    let batches: Vec<_> = (0..10).map(|n| batch([("valve", values[n].as_str())])).collect();
    let before = slave.requests().len();
    let all = batches.into_iter().map(|batch| sink.write(batch));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    let wrote = slave.requests().len() - before;
    assert!(wrote <= 2, "{wrote} writes for ten values");
    assert_eq!(client.read_holding_registers(9, 1).await.unwrap().unwrap(), [90]);
    sink.close().await;
}

#[tokio::test]
async fn a_sink_whose_slave_is_away_says_so_and_goes_on() {
    let mut slave = ModbusSlave::start(SlaveMode::Tcp, &units()).unwrap();
    let near = Near::open();
    let (sink, link) = sink(&slave.url(), &near, json!({"fields": writable()}));
    reaches(&link, State::Connected).await;
    let probe = millrace_kit::packed::probe();
    sink.write(probe.clone()).await.unwrap();
    slave.kill().unwrap();
    let batch = batch([("valve", "5")]);
    let error = sink.write(batch.clone()).await.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }), "{error}");
    reaches(&link, State::Retrying).await;
    assert!(sink.write(probe.clone()).await.is_err(), "the way is not open");
    slave.restart().unwrap();
    reaches(&link, State::Connected).await;
    sink.write(batch).await.unwrap();
    sink.write(probe).await.unwrap();
    let mut client = client(&slave).await;
    assert_eq!(client.read_holding_registers(9, 1).await.unwrap().unwrap(), [50]);
    assert!(near.dead.lock().is_empty());
    sink.close().await;
}
