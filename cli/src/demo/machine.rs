//! The demo's machine: publishes readings in Fahrenheit, simulated or replayed from a file, and knows what the
//! pipeline should make of them.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::sync::watch;

/// Readings closer than this to the limit are moved away from it, so that rounding in a step cannot decide.
const CLEARANCE_C: f64 = 0.05;

/// A simulated reading in so many is garbled, as from a faulty sensor.
const GARBLED_ONE_IN: u64 = 250;

/// Largest file that is replayed.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Where readings come from.
#[derive(Debug)]
pub(super) enum Readings {
    /// A press whose temperature swings, and overheats for two seconds in ten.
    Simulated { rate: u32 },
    /// The values of a file, in degrees Fahrenheit.
    Replayed { rate: u32, values: Vec<f64> },
}

/// What the machine has published so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    pub(super) readings: u64,
    /// Readings above the limit: each must come back as an alert.
    pub(super) alerts: u64,
    /// Readings that no step can read: each must become a dead letter.
    pub(super) garbled: u64,
    /// Acknowledged by the broker.
    pub(super) acknowledged: u64,
    /// Nothing more will come.
    pub(super) finished: bool,
}

pub(super) fn celsius(fahrenheit: f64) -> f64 {
    (fahrenheit - 32.0) * 5.0 / 9.0
}

fn fahrenheit(celsius: f64) -> f64 {
    celsius * 9.0 / 5.0 + 32.0
}

/// Reads a two-column `timestamp,value` file; a first line without a number is taken as the heading.
pub(super) fn read_file(path: &Path) -> anyhow::Result<Vec<f64>> {
    let size = std::fs::metadata(path)
        .with_context(|| format!("could not read {}", path.display()))?
        .len();
    anyhow::ensure!(
        size <= MAX_FILE_BYTES,
        "{} has {size} bytes; at most 256 MiB are replayed",
        path.display()
    );
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let mut values = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let value = line.rsplit_once(',').map(|(_, value)| value.trim().parse::<f64>());
        match value {
            Some(Ok(value)) if value.is_finite() => values.push(value),
            _ if number == 1 || line.trim().is_empty() => {}
            _ => anyhow::bail!(
                "{}:{number}: `{line}` is not `timestamp,value`, as in `2013-12-02 21:15:00,73.9`",
                path.display()
            ),
        }
    }
    anyhow::ensure!(!values.is_empty(), "{} has no readings", path.display());
    Ok(values)
}

/// The value that one reading in a hundred is above, in degrees Celsius.
pub(super) fn ninety_ninth(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len().saturating_mul(99) / 100;
    celsius(sorted.get(at).copied().unwrap_or_default())
}

/// Publishes until told to stop or the file is at its end, then waits for the broker's acknowledgements.
pub(super) async fn run(
    port: u16,
    limit_c: f64,
    readings: Readings,
    progress: watch::Sender<Published>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("machine", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30)).set_inflight(500);
    let (client, mut events) = AsyncClient::new(options, 1000);
    let acknowledged = progress.clone();
    let network = tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => {
                    acknowledged.send_modify(|p| p.acknowledged += 1)
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    });
    let rate = match readings {
        Readings::Simulated { rate } | Readings::Replayed { rate, .. } => rate,
    };
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    for seq in 0_u64.. {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let Some(reading) = next(&readings, seq, rate, limit_c) else { break };
        let payload = reading.payload(seq);
        client.publish("plant/press-1/temperature", QoS::AtLeastOnce, false, payload).await?;
        progress.send_modify(|p| {
            p.readings += 1;
            p.alerts += u64::from(reading.alert);
            p.garbled += u64::from(reading.garbled);
        });
    }
    let mut all = progress.subscribe();
    let acknowledged = all.wait_for(|p| p.acknowledged >= p.readings);
    let _ = tokio::time::timeout(Duration::from_secs(10), acknowledged).await;
    progress.send_modify(|p| p.finished = true);
    network.abort();
    Ok(())
}

struct Reading {
    fahrenheit: f64,
    alert: bool,
    garbled: bool,
}

impl Reading {
    fn payload(&self, seq: u64) -> String {
        if self.garbled {
            return format!(
                "{{\"machine\":\"press-1\",\"seq\":{seq},\"fahrenheit\":\"E-{:02}\"",
                seq % 100
            );
        }
        let sent_us = now_us();
        let value = self.fahrenheit;
        format!(
            "{{\"machine\":\"press-1\",\"seq\":{seq},\"fahrenheit\":{value:.3},\"sent_us\":{sent_us}}}"
        )
    }
}

fn next(readings: &Readings, seq: u64, rate: u32, limit_c: f64) -> Option<Reading> {
    let (value, garbled) = match readings {
        Readings::Simulated { .. } => {
            (simulated(seq, rate, limit_c), seq % GARBLED_ONE_IN == GARBLED_ONE_IN - 1)
        }
        Readings::Replayed { values, .. } => (*values.get(usize::try_from(seq).ok()?)?, false),
    };
    let value = clear_of(value, limit_c);
    Some(Reading { fahrenheit: value, alert: !garbled && celsius(value) > limit_c, garbled })
}

/// Moves a value that is nearly at the limit a little above it.
fn clear_of(value: f64, limit_c: f64) -> f64 {
    if (celsius(value) - limit_c).abs() < CLEARANCE_C {
        fahrenheit(limit_c + CLEARANCE_C)
    } else {
        value
    }
}

/// A swing of six degrees Celsius below the limit, with noise; above it for two of every ten seconds, though not for every
/// reading.
fn simulated(seq: u64, rate: u32, limit_c: f64) -> f64 {
    let seconds = seq as f64 / f64::from(rate.max(1));
    let noise = noise(seq);
    let overheats = (3.0..5.0).contains(&(seconds % 10.0)) && seq.is_multiple_of(10);
    let celsius = if overheats {
        limit_c + 2.0 + 6.0 * noise
    } else {
        limit_c - 12.0 + 6.0 * (seconds / 3.0).sin() + 3.0 * noise
    };
    fahrenheit(celsius)
}

/// Between 0 and 1, the same for the same number (a multiplicative hash; Knuth, TAOCP vol. 3, 6.4).
fn noise(seq: u64) -> f64 {
    f64::from((seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32) / f64::from(1_u32 << 24)
}

pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulated_press_overheats_now_and_then_and_is_never_at_the_limit() {
        let readings = Readings::Simulated { rate: 100 };
        let all: Vec<Reading> =
            (0..10_000).filter_map(|seq| next(&readings, seq, 100, 85.0)).collect();
        let alerts = all.iter().filter(|r| r.alert).count();
        assert!((100..400).contains(&alerts), "{alerts} alerts in 10,000");
        assert_eq!(all.iter().filter(|r| r.garbled).count(), 40);
        assert!(all.iter().all(|r| (celsius(r.fahrenheit) - 85.0).abs() >= CLEARANCE_C * 0.99));
    }

    #[test]
    fn files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            "timestamp,value\n2013-12-02 21:15:00,73.9\n2013-12-02 21:20:00,74.5\n\n",
        )
        .unwrap();
        assert_eq!(read_file(file.path()).unwrap(), [73.9, 74.5]);
        std::fs::write(&file, "timestamp,value\n2013-12-02 21:15:00,warm\n").unwrap();
        let error = read_file(file.path()).unwrap_err().to_string();
        assert!(
            error.contains(":2: `2013-12-02 21:15:00,warm` is not `timestamp,value`"),
            "{error}"
        );
        std::fs::write(&file, "timestamp,value\n").unwrap();
        assert!(read_file(file.path()).unwrap_err().to_string().contains("no readings"));
    }

    #[test]
    fn one_in_a_hundred() {
        let values: Vec<f64> = (0..100).map(|n| fahrenheit(f64::from(n))).collect();
        assert!((ninety_ninth(&values) - 99.0).abs() < 1e-9);
    }
}
