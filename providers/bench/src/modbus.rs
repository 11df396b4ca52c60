//! Modbus TCP and a slave made with pymodbus, beside tokio-modbus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use millrace_batch::{BatchWriter, Fields};
use millrace_bench::progress;
use millrace_bench::report::{Aim, Row};
use millrace_kit::telemetry::now_ns;
use millrace_kit::{Delivery, Direction, Sink as _, Source as _};
use millrace_modbus::reading::rfc3339;
use millrace_modbus::{ModbusSink, ModbusSource};
use millrace_peers::{ModbusSlave, SlaveMode, SlaveUnit};
use millrace_settings::Delivery as DeliverySettings;
use serde_json::json;
use tokio_modbus::client::{Reader as _, Writer as _, tcp};
use tokio_modbus::prelude::{Slave, SlaveContext as _};

use crate::common::{Count, ROUNDS, Took, connected, limits, link, measured, row};

const UNITS: u8 = 20;
const FIELDS: u16 = 100;
const READINGS: u64 = UNITS as u64 * FIELDS as u64;
const WRITES: u16 = 2_000;

/// What the source may take of a core at one cycle a second.
const CORE_AIM: Aim = Aim::AtMost(5.0);

pub(crate) async fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let units: Vec<SlaveUnit> =
        (1..=UNITS).map(|unit| SlaveUnit::ascending(unit, FIELDS)).collect();
    let slave = ModbusSlave::start(SlaveMode::Tcp, &units)?;
    let (fast, slow) = (Duration::from_millis(200), Duration::from_secs(1));
    let cycles = if quick { 5 } else { 25 };
    // The first of everything costs more.
    plain(&slave, fast, 3).await?;
    source(&slave, fast, 3).await?;
    let mut rounds: [Vec<Took>; 4] = Default::default();
    for round in 1..=ROUNDS {
        progress(format!("modbus: round {round} of {ROUNDS}"));
        let [theirs, ours, plain_out, out] = &mut rounds;
        theirs.push(plain(&slave, fast, cycles).await?);
        ours.push(source(&slave, fast, cycles).await?);
        plain_out.push(plain_writes(&slave).await?);
        out.push(writes(&slave).await?);
    }
    progress("modbus: one cycle a second");
    let cycles = if quick { 3 } else { 10 };
    let of_a_core = |took: Took| took.cpu * READINGS as f64 / slow.as_micros() as f64 * 100.0;
    let theirs = of_a_core(plain(&slave, slow, cycles).await?);
    let ours = of_a_core(source(&slave, slow, cycles).await?);
    let [plain_in, r#in, plain_out, out] = &rounds;
    Ok(vec![
        row("modbus", "source, 2,000 fields on 20 units", r#in, plain_in),
        Row::new("modbus", "source, the same each second", ours, "% of a core")
            .over(theirs)
            .aim(CORE_AIM),
        row("modbus", "sink, a register a message", out, plain_out),
    ])
}

/// The same requests at the same interval, and the same messages, made by hand.
async fn plain(slave: &ModbusSlave, interval: Duration, cycles: u32) -> anyhow::Result<Took> {
    let address = ([127, 0, 0, 1], slave.port()).into();
    let reads = async move {
        let mut context = tcp::connect(address).await?;
        let mut ticks = tokio::time::interval(interval);
        for _ in 0..cycles {
            ticks.tick().await;
            for unit in 1..=UNITS {
                context.set_slave(Slave(unit));
                let words = context.read_holding_registers(0, FIELDS).await??;
                ensure!(pack(unit, &words)?.len() > 1_000, "no messages");
            }
        }
        anyhow::Ok(())
    };
    // In a task, as the source is.
    let reads = async { tokio::spawn(reads).await? };
    measured(u64::from(cycles) * READINGS, reads).await
}

/// Values as messages like those of the source, in one batch.
fn pack(unit: u8, words: &[u16]) -> anyhow::Result<Vec<u8>> {
    let now = now_ns();
    let time = rfc3339(now);
    let mut writer = BatchWriter::new([("id", "plain")])?;
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
        writer.push(&fields, [("ingest-time", time.as_str())])?;
    }
    Ok(writer.finish())
}

/// The source, for so many cycles.
async fn source(slave: &ModbusSlave, interval: Duration, cycles: u32) -> anyhow::Result<Took> {
    let fields: BTreeMap<String, serde_json::Value> = (1..=UNITS)
        .flat_map(|unit| (0..FIELDS).map(move |n| (unit, n)))
        .map(|(unit, n)| {
            let field = json!({"unit": unit, "address": n, "register": "holding"});
            (format!("unit-{unit}/value-{n}"), field)
        })
        .collect();
    let settings = json!({"url": slave.url(), "interval": format!("{}ms", interval.as_millis()),
                          "emit": "interval", "fields": fields});
    let delivery = DeliverySettings::default();
    let (count, link) = (Arc::new(Count::default()), link(Direction::Source));
    let source = Box::new(ModbusSource::new(serde_json::from_value(settings)?, limits())?);
    let delivery = Delivery::new(count.clone(), count.clone(), link.clone(), (&delivery).into());
    let took = measured(u64::from(cycles) * READINGS, async {
        let task = tokio::spawn(source.run(link.clone(), Arc::new(delivery)));
        // Drained between two cycles.
        tokio::time::sleep(interval * cycles - interval / 2).await;
        link.start_drain();
        Ok(task.await?)
    })
    .await?;
    let (found, expected) = (count.messages(), u64::from(cycles) * READINGS);
    ensure!(found == expected, "{found} readings, not {expected}");
    Ok(took)
}

async fn plain_writes(slave: &ModbusSlave) -> anyhow::Result<Took> {
    let address = ([127, 0, 0, 1], slave.port()).into();
    let mut context = tcp::connect_slave(address, Slave(1)).await?;
    let writes = async move {
        for value in 0..WRITES {
            context.write_single_register(0, value).await??;
        }
        anyhow::Ok(())
    };
    // In a task, as the sink's caller is.
    let writes = async { tokio::spawn(writes).await? };
    measured(u64::from(WRITES), writes).await
}

async fn writes(slave: &ModbusSlave) -> anyhow::Result<Took> {
    let link = link(Direction::Sink);
    let settings = json!({"url": slave.url(), "fields": {"speed": {"address": "40001"}}});
    let settings = serde_json::from_value(settings)?;
    let sink = ModbusSink::open(settings, link.clone(), Arc::new(Count::default()))?;
    connected(&link).await?;
    let batches = (0..WRITES)
        .step_by(100)
        .map(|first| {
            let id = format!("bench-{first}");
            let mut writer = BatchWriter::new([("id", id.as_str())])?;
            for value in first..first + 100 {
                let payload = value.to_string();
                let payload = payload.as_bytes();
                let fields = Fields { timestamp: 1, topic: "speed", payload, ..Fields::default() };
                writer.push(&fields, [])?;
            }
            Ok(writer.finish().into())
        })
        .collect::<anyhow::Result<Vec<Bytes>>>()?;
    let writing = Arc::clone(&sink);
    let writes = async move {
        for batch in batches {
            writing.write(batch).await?;
        }
        anyhow::Ok(())
    };
    let writes = async { tokio::spawn(writes).await.context("the writes have ended")? };
    let took = measured(u64::from(WRITES), writes).await?;
    sink.close().await;
    Ok(took)
}
