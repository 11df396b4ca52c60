//! Watches what comes out of the demo's pipeline: alerts at the broker, dead letters on the lattice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use millrace_batch::Batch;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::machine::now_us;

/// One alert, as the pipeline wrote it.
#[derive(Debug, Clone)]
pub(super) struct Alert {
    pub(super) seq: u64,
    pub(super) machine: String,
    pub(super) celsius: f64,
    /// From the machine's publish to here.
    pub(super) latency: Duration,
}

/// The fields of an alert's payload.
#[derive(Debug, Deserialize)]
struct Payload {
    seq: u64,
    machine: String,
    celsius: f64,
    sent_us: u64,
}

/// Subscribes to the alerts before anything is published.
pub(super) async fn alerts(port: u16) -> anyhow::Result<mpsc::Receiver<Alert>> {
    let mut options = MqttOptions::new("demo-watch", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(true);
    let (client, mut events) = AsyncClient::new(options, 100);
    let (send, receive) = mpsc::channel(10_000);
    let (ready, subscribed) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    client.try_subscribe("plant/alerts", QoS::AtLeastOnce)?;
    tokio::spawn(async move {
        // Kept here: the connection ends with its last client.
        let _client = client;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(());
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let Some(alert) = parse(&publish.payload) else { continue };
                    if send.send(alert).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(5), subscribed)
        .await
        .ok()
        .and_then(Result::ok)
        .context("the MQTT broker did not take the subscription")?;
    Ok(receive)
}

fn parse(payload: &[u8]) -> Option<Alert> {
    let p: Payload = serde_json::from_slice(payload).ok()?;
    let latency = Duration::from_micros(now_us().saturating_sub(p.sent_us));
    Some(Alert { seq: p.seq, machine: p.machine, celsius: p.celsius, latency })
}

/// One dead letter.
#[derive(Debug, Clone)]
pub(super) struct DeadLetter {
    pub(super) step: String,
    pub(super) text: String,
    pub(super) payload: String,
}

/// Subscribes to the dead letters of a pipeline.
pub(super) async fn dead_letters(
    nats: &async_nats::Client,
    lattice: &str,
    pipeline: &str,
) -> anyhow::Result<mpsc::Receiver<DeadLetter>> {
    let mut bodies = nats.subscribe(format!("millrace.{lattice}.{pipeline}.dead.>")).await?;
    nats.flush().await?;
    let (send, receive) = mpsc::channel(10_000);
    tokio::spawn(async move {
        while let Some(body) = bodies.next().await {
            let Ok(batch) = Batch::parse(&body.payload) else { continue };
            for message in batch.messages() {
                let header = |name: &str| message.header(name).unwrap_or_default().to_owned();
                let letter = DeadLetter {
                    step: header("millrace-dead-step"),
                    text: header("millrace-dead-text"),
                    payload: String::from_utf8_lossy(message.payload).into_owned(),
                };
                if send.send(letter).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(receive)
}

/// What was seen, and when last.
#[derive(Debug)]
pub(super) struct Seen {
    seqs: HashSet<u64>,
    pub(super) duplicates: u64,
    pub(super) dead_letters: u64,
    latencies: Vec<Duration>,
    pub(super) last: Instant,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            seqs: HashSet::new(),
            duplicates: 0,
            dead_letters: 0,
            latencies: Vec::new(),
            last: Instant::now(),
        }
    }

    pub(super) fn alert(&mut self, alert: &Alert) {
        if self.seqs.insert(alert.seq) {
            self.latencies.push(alert.latency);
        } else {
            self.duplicates += 1;
        }
        self.last = Instant::now();
    }

    pub(super) fn dead_letter(&mut self) {
        self.dead_letters += 1;
        self.last = Instant::now();
    }

    pub(super) fn alerts(&self) -> u64 {
        self.seqs.len() as u64
    }

    /// The latency that this share of the alerts stayed below; `None` before the first.
    pub(super) fn percentile(&self, share: f64) -> Option<Duration> {
        percentile(&self.latencies, share)
    }
}

/// What this share of the times is at most; `None` when there are none.
pub(super) fn percentile(times: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_alert_once() {
        let mut seen = Seen::new();
        assert_eq!(seen.percentile(0.5), None);
        for seq in [1, 2, 2, 3] {
            let latency = Duration::from_millis(seq);
            seen.alert(&Alert { seq, machine: "m".into(), celsius: 90.0, latency });
        }
        assert_eq!((seen.alerts(), seen.duplicates), (3, 1));
        assert_eq!(seen.percentile(0.5), Some(Duration::from_millis(2)));
        assert_eq!(seen.percentile(1.0), Some(Duration::from_millis(3)));
    }
}
