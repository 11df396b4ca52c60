//! Devices that misbehave: a server of the test that does as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{Near, batch, drain, reaches, sink, source};
use millrace_kit::{Sink, State, WriteError};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What a device does with the next request.
#[derive(Debug, Clone)]
enum Does {
    /// Answers with registers that hold their address.
    Right,
    /// Nothing.
    Nothing,
    /// The right answer, so many milliseconds late.
    Late(u64),
    /// An exception.
    Exception(u8),
    /// The right answer with another transaction.
    WrongTransaction,
    /// The right answer from another unit.
    WrongUnit,
    /// The right answer to another function.
    WrongFunction,
    /// A well-formed answer with this many registers.
    Registers(usize),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Half of the right answer, and then the end.
    Half,
    /// Ends the connection.
    Hangup,
    /// A write is answered with another value.
    WrongEcho,
}

/// A device that does what its script says, and after that the right thing.
struct Device {
    port: u16,
    script: Arc<Mutex<Vec<Does>>>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    rtu: bool,
}

impl Device {
    async fn start() -> Self {
        Self::with(false).await
    }

    async fn with(rtu: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let device = Self {
            port: listener.local_addr().unwrap().port(),
            script: Arc::default(),
            requests: Arc::default(),
            connections: Arc::default(),
            rtu,
        };
        let (script, requests) = (device.script.clone(), device.requests.clone());
        let connections = device.connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(stream, script.clone(), requests.clone(), rtu));
            }
        });
        device
    }

    fn url(&self) -> String {
        let scheme = if self.rtu { "rtu-over-tcp" } else { "tcp" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// What comes next, each thing once.
    fn next(&self, does: impl IntoIterator<Item = Does>) {
        let mut script: Vec<Does> = does.into_iter().collect();
        script.reverse();
        *self.script.lock() = script;
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xFFFF_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Mutex<Vec<Does>>>,
    requests: Arc<AtomicUsize>,
    rtu: bool,
) {
    loop {
        let (mut transaction, mut unit, mut pdu) = ([0; 2], 0, Vec::new());
        if rtu {
            // Reads and single writes are 8 bytes long.
            let mut frame = [0; 8];
            if stream.read_exact(&mut frame).await.is_err() {
                return;
            }
            assert_eq!(crc(&frame[..6]), frame[6..]);
            unit = frame[0];
            pdu.extend_from_slice(&frame[1..6]);
        } else {
            let mut header = [0; 7];
            if stream.read_exact(&mut header).await.is_err() {
                return;
            }
            transaction.copy_from_slice(&header[..2]);
            unit = unit.max(header[6]);
            pdu.resize(usize::from(u16::from_be_bytes([header[4], header[5]])) - 1, 0);
            stream.read_exact(&mut pdu).await.unwrap();
        }
        requests.fetch_add(1, Relaxed);
        let does = script.lock().pop().unwrap_or(Does::Right);
        let address = u16::from_be_bytes([pdu[1], pdu[2]]);
        let count = u16::from_be_bytes([pdu[3], pdu[4]]);
        let registers = |from: u16, count: u16| -> Vec<u8> {
            let words = (from..from + count).flat_map(u16::to_be_bytes);
            [pdu[0], u8::try_from(count * 2).unwrap()].into_iter().chain(words).collect()
        };
        let mut answer = match pdu[0] {
            3 | 4 => registers(address, count),
            // A write of one is echoed, of several acknowledged.
            _ => pdu[..5].to_vec(),
        };
        match &does {
            Does::Nothing => continue,
            Does::Hangup => return,
            Does::Late(ms) => sleep(Duration::from_millis(*ms)).await,
            Does::Exception(code) => answer = vec![pdu[0] | 0x80, *code],
            Does::WrongTransaction => transaction[1] ^= 0x55,
            Does::WrongUnit => unit ^= 0x0F,
            Does::WrongFunction => answer[0] = if pdu[0] == 3 { 4 } else { 3 },
            Does::Registers(n) => answer = registers(address, u16::try_from(*n).unwrap()),
            Does::WrongEcho => answer[4] ^= 1,
            Does::Right | Does::Bytes(_) | Does::Half => {}
        }
        let mut frame = if rtu {
            let mut frame = vec![unit];
            frame.extend_from_slice(&answer);
            let crc = crc(&frame);
            frame.extend_from_slice(&crc);
            frame
        } else {
            let length = u16::try_from(answer.len() + 1).unwrap().to_be_bytes();
            let mut frame = vec![transaction[0], transaction[1], 0, 0, length[0], length[1], unit];
            frame.extend_from_slice(&answer);
            frame
        };
        if let Does::Bytes(bytes) = &does {
            frame.clone_from(bytes);
        }
        if let Does::Half = does {
            frame.truncate(frame.len() / 2);
            let _ = stream.write_all(&frame).await;
            return;
        }
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

fn two() -> Value {
    json!({"fields": {"a": {"address": 7, "register": "holding"},
                      "b": {"address": 107, "register": "holding"}}})
}

/// Whatever happened, no reading may have a value of another register.
fn never_wrong(near: &Near) {
    for (field, value) in [("a", 7), ("b", 107)] {
        for seen in near.of(field) {
            assert!(seen.quality() == "bad" || seen.value() == &json!(value), "{seen:?}");
        }
    }
}

/// After `does` a reading is bad for `reason`, and then all is well again.
async fn gives(does: Does, reason: &str) {
    for rtu in [false, true] {
        if rtu && matches!(does, Does::WrongTransaction | Does::Bytes(_)) {
            continue;
        }
        let device = Device::with(rtu).await;
        let near = Near::open();
        let (link, task) = source(&device.url(), &near, two());
        near.good("a").await;
        near.good("b").await;
        // Twice: once for the request that a lost connection may cost.
        device.next([does.clone(), does.clone()]);
        let bad = near.until("a", |seen| seen.quality() == "bad" && seen.reason().contains(reason));
        let bad_b =
            near.until("b", |seen| seen.quality() == "bad" && seen.reason().contains(reason));
        tokio::select! { seen = bad => drop(seen), seen = bad_b => drop(seen) }
        near.next("a", |seen| seen.quality() == "good").await;
        near.next("b", |seen| seen.quality() == "good").await;
        reaches(&link, State::Connected).await;
        assert!(link.status().counters.errors["connection"] >= 1);
        drain(&link, task).await;
        never_wrong(&near);
    }
}

#[tokio::test]
async fn a_device_that_does_not_answer() {
    gives(Does::Nothing, "no answer within 200ms").await;
}

#[tokio::test]
async fn a_device_that_answers_with_an_exception() {
    gives(Does::Exception(4), "exception 4, device failure").await;
}

#[tokio::test]
async fn a_device_with_an_exception_nobody_knows() {
    gives(Does::Exception(0x77), "exception 119, not one of the protocol").await;
}

#[tokio::test]
async fn a_device_that_answers_with_another_transaction() {
    gives(Does::WrongTransaction, "not an answer to the request").await;
}

#[tokio::test]
async fn a_device_that_answers_for_another_unit() {
    gives(Does::WrongUnit, "not an answer to the request").await;
}

#[tokio::test]
async fn a_device_that_answers_another_function() {
    gives(Does::WrongFunction, "not an answer to the request").await;
}

#[tokio::test]
async fn a_device_that_answers_with_too_much_or_too_little() {
    gives(Does::Registers(2), "2 registers came").await;
    gives(Does::Registers(0), "0 registers came").await;
}

#[tokio::test]
async fn a_device_that_sends_garbage() {
    // Another protocol, a length of zero, and what never ends.
    gives(Does::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "").await;
    gives(Does::Bytes(vec![0, 0, 0, 0, 0, 0, 1, 3, 2]), "not an answer").await;
    gives(Does::Bytes(vec![0, 0, 0, 0, 0xFF, 0xFF, 1, 3, 2]), "no answer within").await;
}

#[tokio::test]
async fn a_device_that_drops_the_connection() {
    gives(Does::Hangup, "the device closed the connection").await;
    gives(Does::Half, "").await;
}

#[tokio::test]
async fn a_connection_that_was_idle_too_long_costs_no_reading() {
    let device = Device::start().await;
    let near = Near::open();
    let (link, task) = source(&device.url(), &near, two());
    near.good("b").await;
    for _ in 0..5 {
        device.next([Does::Hangup]);
        near.next("a", |_| true).await;
        near.next("b", |_| true).await;
    }
    drain(&link, task).await;
    assert!(near.seen.lock().iter().all(|seen| seen.quality() == "good"));
    assert!(link.status().counters.reconnects >= 5, "{:?}", link.status());
}

#[tokio::test]
async fn answers_that_come_late_are_never_taken_for_others() {
    for rtu in [false, true] {
        let device = Device::with(rtu).await;
        let near = Near::open();
        let (link, task) = source(&device.url(), &near, two());
        near.good("a").await;
        // Later than the limit of 200 ms: when the next request is under way.
        device.next((0..6).flat_map(|n| [Does::Late(205 + n * 20), Does::Right]));
        near.next("a", |seen| seen.reason().contains("no answer")).await;
        while !device.script.lock().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        near.next("a", |seen| seen.quality() == "good").await;
        near.next("b", |seen| seen.quality() == "good").await;
        drain(&link, task).await;
        never_wrong(&near);
    }
}

/// A device server that keeps one RTU line behind all its connections: the
/// late answer to a request of the last connection comes on the next one.
#[tokio::test]
async fn a_late_answer_on_the_next_connection_of_an_rtu_gateway_is_thrown_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |value: [u8; 2]| {
        let mut frame = vec![1, 3, 2, value[0], value[1]];
        frame.extend_from_slice(&crc(&[1, 3, 2, value[0], value[1]]));
        frame
    };
    tokio::spawn(async move {
        let (mut first, mut late) = (true, false);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if late {
                // The answer to "b", which was asked on the last connection.
                sleep(Duration::from_millis(50)).await;
                let _ = stream.write_all(&answer([0, 107])).await;
                late = false;
            }
            let mut request = [0; 8];
            while stream.read_exact(&mut request).await.is_ok() {
                // "b" is answered in time only on a later connection.
                late = request[3] == 107 && std::mem::take(&mut first);
                if !late && stream.write_all(&answer([request[2], request[3]])).await.is_err() {
                    break;
                }
            }
        }
    });
    let near = Near::open();
    let (link, task) = source(&format!("rtu-over-tcp://127.0.0.1:{port}"), &near, two());
    near.good("a").await;
    near.good("b").await;
    drain(&link, task).await;
    never_wrong(&near);
}

#[tokio::test]
async fn a_busy_device_is_asked_again() {
    let device = Device::start().await;
    let near = Near::open();
    let one = json!({"busy-retries": 2, "fields": {"a": {"address": 7, "register": "holding"}}});
    let (link, task) = source(&device.url(), &near, one);
    near.good("a").await;
    device.next([Does::Exception(6), Does::Exception(6)]);
    near.next("a", |_| true).await;
    sleep(Duration::from_millis(400)).await;
    assert!(near.of("a").iter().all(|seen| seen.quality() == "good"), "two retries were enough");
    device.next([Does::Exception(6), Does::Exception(6), Does::Exception(6)]);
    let bad = near.next("a", |seen| seen.quality() == "bad").await;
    assert!(bad.reason().contains("exception 6, device busy"), "{bad:?}");
    drain(&link, task).await;
}

#[tokio::test]
async fn a_gateway_says_that_a_unit_is_away() {
    let device = Device::start().await;
    let near = Near::open();
    let (link, task) = source(&device.url(), &near, two());
    near.good("b").await;
    device.next([Does::Exception(11)]);
    // The unit is left alone for the rest of the cycle: both fields are bad,
    // after one request.
    near.next("b", |seen| seen.quality() == "bad").await;
    near.bad("a").await;
    near.next("a", |seen| seen.quality() == "good").await;
    drain(&link, task).await;
}

#[tokio::test]
async fn a_device_that_accepts_and_hangs_up_is_not_hammered() {
    let device = Device::start().await;
    device.next(vec![Does::Hangup; 1_000]);
    let near = Near::open();
    let (link, task) =
        source(&device.url(), &near, json!({"interval": "10ms", "fields": two()["fields"]}));
    near.bad("a").await;
    reaches(&link, State::Retrying).await;
    sleep(Duration::from_secs(2)).await;
    let connections = device.connections.load(Relaxed);
    assert!(connections < 20, "{connections} connections in two seconds");
    device.next([]);
    near.next("a", |seen| seen.quality() == "good").await;
    reaches(&link, State::Connected).await;
    drain(&link, task).await;
}

#[tokio::test]
async fn nobody_listens() {
    let near = Near::open();
    let port = millrace_peers::free_port().unwrap();
    let (link, task) = source(&format!("tcp://127.0.0.1:{port}"), &near, two());
    let bad = near.bad("a").await;
    assert!(bad.reason().contains("not connected: tcp://127.0.0.1:"), "{bad:?}");
    reaches(&link, State::Retrying).await;
    sleep(Duration::from_millis(300)).await;
    assert!(near.of("b").len() >= 3, "bad readings at every interval, not silence");
    drain(&link, task).await;
}

#[tokio::test]
async fn on_change_a_dead_device_is_told_once() {
    let device = Device::start().await;
    let near = Near::open();
    let change = json!({"emit": "change", "fields": {"a": {"address": 7, "register": "holding"}}});
    let (link, task) = source(&device.url(), &near, change);
    near.good("a").await;
    device.next(vec![Does::Nothing; 3]);
    near.bad("a").await;
    while near.of("a").len() < 3 {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(200)).await;
    let qualities: Vec<String> =
        near.of("a").iter().map(|seen| seen.quality().to_owned()).collect();
    assert_eq!(qualities, ["good", "bad", "good"]);
    drain(&link, task).await;
}

#[tokio::test]
async fn a_source_returns_while_a_device_does_not_answer() {
    let device = Device::start().await;
    device.next(vec![Does::Nothing; 100]);
    let near = Near::open();
    let slow = json!({"timeout": "30s", "fields": two()["fields"]});
    let (link, task) = source(&device.url(), &near, slow);
    while device.requests() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    drain(&link, task).await;
}

fn pump() -> Value {
    json!({"fields": {"pump": {"address": "00001"}, "speed": {"address": "40008"}}})
}

/// A write that goes wrong as `does` says fails, and the next one succeeds.
async fn write_fails(does: Does, expected: &str) {
    let device = Device::start().await;
    let near = Near::open();
    let (sink, link) = sink(&device.url(), &near, pump());
    reaches(&link, State::Connected).await;
    device.next([does.clone(), does]);
    let batch = batch([("speed", "100")]);
    let error = sink.write(batch.clone()).await.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    device.next([]);
    let mut tries = 0;
    while let Err(error) = sink.write(batch.clone()).await {
        tries += 1;
        assert!(tries < 100, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(near.dead.lock().is_empty(), "nothing is given up");
    sink.close().await;
}

#[tokio::test]
async fn writes_that_go_wrong_are_not_acknowledged() {
    write_fails(Does::Nothing, "no acknowledgement within 300ms").await;
    write_fails(Does::Exception(4), "refused: speed (unit 1, holding 0x0007): exception 4").await;
    write_fails(Does::WrongTransaction, "not an answer to the request").await;
    write_fails(Does::WrongUnit, "not an answer to the request").await;
    write_fails(Does::WrongEcho, "the device answers with register 0x0007 = 101").await;
    write_fails(Does::Hangup, "the device closed the connection").await;
    write_fails(Does::Late(400), "no acknowledgement within 300ms").await;
}

#[tokio::test]
async fn a_busy_device_is_written_again() {
    let device = Device::start().await;
    let near = Near::open();
    let (sink, link) = sink(&device.url(), &near, pump());
    reaches(&link, State::Connected).await;
    device.next([Does::Exception(6), Does::Exception(6)]);
    sink.write(batch([("pump", "true")])).await.unwrap();
    assert_eq!(device.requests(), 3);
    sink.close().await;
}

#[tokio::test]
async fn a_write_that_is_given_up_half_way_leaves_no_answer_behind() {
    let device = Device::start().await;
    let near = Near::open();
    let (sink, link) = sink(&device.url(), &near, pump());
    reaches(&link, State::Connected).await;
    device.next([Does::Late(100)]);
    let given_up =
        tokio::time::timeout(Duration::from_millis(50), sink.write(batch([("speed", "1")])));
    assert!(given_up.await.is_err());
    sink.write(batch([("speed", "2")])).await.unwrap();
    sink.write(batch([("speed", "3")])).await.unwrap();
    sink.close().await;
}

#[tokio::test]
async fn a_sink_without_a_device_answers_in_time() {
    let near = Near::open();
    let port = millrace_peers::free_port().unwrap();
    let (sink, link) = sink(&format!("tcp://127.0.0.1:{port}"), &near, pump());
    reaches(&link, State::Retrying).await;
    let start = tokio::time::Instant::now();
    let error = sink.write(batch([("pump", "true")])).await.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4));
    sink.close().await;
}

#[tokio::test]
async fn a_sink_does_not_hammer_a_device_that_accepts_and_hangs_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Relaxed);
        }
    });
    let near = Near::open();
    let (sink, link) = sink(&url, &near, pump());
    reaches(&link, State::Retrying).await;
    assert!(link.status().error.unwrap().contains("the device closed the connection"));
    sleep(Duration::from_secs(4)).await;
    // Twice a second it looks: without pauses that grow it would be eight.
    let connections = connections.load(Relaxed);
    assert!((2..=6).contains(&connections), "{connections} connections");
    sink.close().await;
}

#[tokio::test]
async fn an_idle_sink_connects_again_when_the_device_ends_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                // The answer to a write of one coil is the request.
                let mut request = [0; 12];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&request).await.unwrap();
                sleep(Duration::from_millis(100)).await;
            });
        }
    });
    let near = Near::open();
    let (sink, link) = sink(&url, &near, pump());
    reaches(&link, State::Connected).await;
    sink.write(batch([("pump", "true")])).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(connections.load(Relaxed), 2, "nothing was written, and it is connected");
    let status = link.status();
    assert_eq!((status.state, status.counters.reconnects), (State::Connected, 1));
    assert!(status.counters.errors.is_empty(), "{status:?}");
    sink.close().await;
}
