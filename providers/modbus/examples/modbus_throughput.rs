//! What the connector costs: CPU time of this process (user and system, as
//! getrusage has it) beside plain tokio-modbus making the same requests in the
//! same run. The slave is another process.
//!
//! `cargo run --release --no-default-features --example modbus_throughput`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Sink, Source, Stage,
    State, WriteError,
};
use millrace_modbus::{ModbusSink, ModbusSource};
use millrace_peers::{ModbusSlave, SlaveMode, SlaveUnit};
use millrace_settings::Delivery as DeliverySettings;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio_modbus::client::{Reader, Writer};
use tokio_modbus::prelude::{Slave, SlaveContext};

const UNITS: u8 = 20;
const FIELDS: u16 = 100;
const WRITES: u32 = 2_000;

#[derive(Default)]
struct Count {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Stage for Count {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        self.messages.fetch_add(Batch::open(&body).unwrap().len() as u64, Relaxed);
        self.bytes.fetch_add(body.len() as u64, Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl DeadLetters for Count {
    fn accept(&self, _: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn link(direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: "m".into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Plain reads: the same requests at the same interval, in a task as the source
/// is. With `messages` every value also becomes a message in a batch, written by
/// hand. CPU seconds.
async fn plain(slave: &ModbusSlave, interval: Duration, cycles: u32, messages: bool) -> f64 {
    let address = ([127, 0, 0, 1], slave.port()).into();
    let reads = async move {
        let mut context = tokio_modbus::client::tcp::connect(address).await.unwrap();
        let mut ticks = tokio::time::interval(interval);
        let mut sum = 0_u64;
        for _ in 0..cycles {
            ticks.tick().await;
            for unit in 1..=UNITS {
                context.set_slave(Slave(unit));
                let words = context.read_holding_registers(0, FIELDS).await.unwrap().unwrap();
                sum += words.iter().map(|word| u64::from(*word)).sum::<u64>();
                if messages {
                    assert!(pack(unit, &words).len() > 1_000);
                }
            }
        }
        sum
    };
    let before = cpu();
    let sum = tokio::spawn(reads).await.unwrap();
    assert_eq!(sum, u64::from(cycles) * u64::from(UNITS) * (0..u64::from(FIELDS)).sum::<u64>());
    (cpu() - before).as_secs_f64()
}

/// Values as messages like those of the source, in one batch.
fn pack(unit: u8, words: &[u16]) -> Vec<u8> {
    let now = millrace_kit::telemetry::now_ns();
    let time = millrace_modbus::reading::rfc3339(now);
    let mut writer = BatchWriter::new([("id", "plain")]).unwrap();
    for (n, word) in words.iter().enumerate() {
        let topic = format!("unit-{unit}/value-{n}");
        let payload = format!(
            "{{\"field\":\"{topic}\",\"value\":{word},\"quality\":\"good\",\"time\":\"{time}\"}}"
        );
        let fields = Fields {
            timestamp: now,
            topic: &topic,
            content_type: Some("application/json"),
            key: Some(b"1"),
            payload: payload.as_bytes(),
        };
        writer.push(&fields, [("ingest-time", time.as_str())]).unwrap();
    }
    writer.finish()
}

/// The source at the same interval. CPU seconds, messages, bytes of batches.
async fn source(
    slave: &ModbusSlave,
    interval: Duration,
    cycles: u32,
    emit: &str,
) -> (f64, u64, u64) {
    let fields: BTreeMap<String, serde_json::Value> = (1..=UNITS)
        .flat_map(|unit| (0..FIELDS).map(move |n| (unit, n)))
        .map(|(unit, n)| {
            let field = json!({"unit": unit, "address": n, "register": "holding"});
            (format!("unit-{unit}/value-{n}"), field)
        })
        .collect();
    let settings = json!({"url": slave.url(), "interval": format!("{}ms", interval.as_millis()),
                          "emit": emit, "fields": fields});
    let delivery = DeliverySettings::default();
    let (count, link) = (Arc::new(Count::default()), link(Direction::Source));
    let settings = serde_json::from_value(settings).unwrap();
    let source = ModbusSource::new(settings, Limits::from(&delivery)).unwrap();
    let delivery = Delivery::new(count.clone(), count.clone(), link.clone(), (&delivery).into());
    let before = cpu();
    let task = tokio::spawn(Box::new(source).run(link.clone(), Arc::new(delivery)));
    tokio::time::sleep(interval * cycles - interval / 2).await;
    link.start_drain();
    task.await.unwrap();
    let used = (cpu() - before).as_secs_f64();
    (used, count.messages.load(Relaxed), count.bytes.load(Relaxed))
}

async fn reads(slave: &ModbusSlave, interval: Duration, cycles: u32) {
    let fields = u64::from(UNITS) * u64::from(FIELDS);
    println!(
        "\n{fields} fields on {UNITS} units every {interval:?}, {cycles} cycles of {UNITS} requests"
    );
    let wall = interval.as_secs_f64() * f64::from(cycles);
    let base = plain(slave, interval, cycles, false).await;
    let packed = plain(slave, interval, cycles, true).await;
    let cycle = |cpu: f64| cpu * 1e6 / f64::from(cycles);
    println!(
        "  plain tokio-modbus     {:8.0} us a cycle  {:6.2} % of a core",
        cycle(base),
        100.0 * base / wall
    );
    println!(
        "  plain, values packed   {:8.0} us a cycle  {:6.2} % of a core",
        cycle(packed),
        100.0 * packed / wall
    );
    for emit in ["interval", "change"] {
        let (used, messages, bytes) = source(slave, interval, cycles, emit).await;
        println!(
            "  source, emit: {emit:8} {:8.0} us a cycle  {:6.2} % of a core  ratio {:.2}, to packed {:.2}  \
             {messages} messages, {:.0} messages/s, {} B and {:.2} us more than plain each",
            cycle(used),
            100.0 * used / wall,
            used / base,
            used / packed,
            messages as f64 / wall,
            bytes / messages.max(1),
            (used - base) * 1e6 / messages.max(1) as f64
        );
    }
}

async fn writes(slave: &ModbusSlave) {
    println!("\n{WRITES} writes of one register");
    let address = ([127, 0, 0, 1], slave.port()).into();
    let mut context = tokio_modbus::client::tcp::connect_slave(address, Slave(1)).await.unwrap();
    let (start, before) = (Instant::now(), cpu());
    for n in 0..WRITES {
        let value = u16::try_from(n).unwrap();
        context.write_single_register(0, value).await.unwrap().unwrap();
    }
    let (took, base) = (start.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    println!(
        "  plain tokio-modbus  {:6.0} writes/s  {:6.1} us a write",
        f64::from(WRITES) / took,
        base * 1e6 / f64::from(WRITES)
    );
    let link = link(Direction::Sink);
    let settings = json!({"url": slave.url(), "fields": {"speed": {"address": "40001"}}});
    let settings = serde_json::from_value(settings).unwrap();
    let sink = ModbusSink::open(settings, link.clone(), Arc::new(Count::default())).unwrap();
    while link.state() != State::Connected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let batches: Vec<Bytes> = (0..WRITES / 100)
        .map(|b| {
            let id = format!("bench-{b}");
            let mut writer = BatchWriter::new([("id", id.as_str())]).unwrap();
            for n in 0..100 {
                let payload = (b * 100 + n).to_string();
                let payload = payload.as_bytes();
                let fields = Fields { timestamp: 1, topic: "speed", payload, ..Fields::default() };
                writer.push(&fields, []).unwrap();
            }
            writer.finish().into()
        })
        .collect();
    let (start, before) = (Instant::now(), cpu());
    for batch in batches {
        sink.write(batch).await.unwrap();
    }
    let (took, used) = (start.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    println!(
        "  sink                {:6.0} writes/s  {:6.1} us a write  ratio {:.2}",
        f64::from(WRITES) / took,
        used * 1e6 / f64::from(WRITES),
        used / base
    );
    sink.close().await;
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("error").init();
    let units: Vec<SlaveUnit> =
        (1..=UNITS).map(|unit| SlaveUnit::ascending(unit, FIELDS)).collect();
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units).unwrap();
    // The first of everything costs more.
    plain(&slave, Duration::from_millis(50), 5, true).await;
    source(&slave, Duration::from_millis(100), 5, "interval").await;
    reads(&slave, Duration::from_secs(1), 15).await;
    reads(&slave, Duration::from_millis(200), 50).await;
    for _ in 0..3 {
        writes(&slave).await;
    }
}
