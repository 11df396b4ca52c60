//! The world outside: what other clients of the broker do, with another
//! library than the one that is tested.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod rig;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A message outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    pub topic: String,
    pub payload: Vec<u8>,
    pub headers: Vec<(String, String)>,
    pub content_type: Option<String>,
    pub retain: bool,
}

fn connect(port: u16, id: &str, keep: bool) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 20));
    options.set_clean_start(!keep);
    options.set_keep_alive(Duration::from_secs(60));
    if keep {
        options.set_connect_properties(ConnectProperties {
            session_expiry_interval: Some(3_600),
            max_packet_size: Some(1 << 20),
            receive_maximum: Some(1_000),
            ..ConnectProperties::new()
        });
    }
    AsyncClient::new(options, 64)
}

/// Publishes these at QoS 1 and returns when the broker has acknowledged all.
pub async fn publish(port: u16, letters: Vec<Letter>) -> Result<()> {
    publish_as(port, QoS::AtLeastOnce, letters).await
}

/// Publishes these at this quality of service, one after the other.
pub async fn publish_as(port: u16, qos: QoS, letters: Vec<Letter>) -> Result<()> {
    let wanted = letters.len();
    let id = format!("outside-{:x}", rand());
    let (client, mut events) = connect(port, &id, false);
    let sender = client.clone();
    let sending = tokio::spawn(async move {
        for letter in letters {
            let properties = PublishProperties {
                user_properties: letter.headers,
                content_type: letter.content_type,
                ..PublishProperties::default()
            };
            let (topic, payload) = (letter.topic, letter.payload);
            sender.publish_with_properties(topic, qos, letter.retain, payload, properties).await?;
        }
        anyhow::Ok(())
    });
    let acknowledged = async {
        let mut count = 0;
        while count < wanted {
            let event = events.poll().await.context("publish outside")?;
            if let Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) = event {
                count += 1;
            }
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(30), acknowledged).await.context("acknowledgements")??;
    sending.await??;
    client.disconnect().await?;
    let _ = timeout(Duration::from_secs(1), async { while events.poll().await.is_ok() {} }).await;
    Ok(())
}

fn rand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Collects what is published to a topic filter, over restarts of the broker.
#[derive(Debug)]
pub struct Collector {
    letters: Arc<Mutex<Vec<Letter>>>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Subscribes, and returns when the broker has agreed.
    pub async fn start(port: u16, filter: &str) -> Result<Self> {
        let letters = Arc::new(Mutex::new(Vec::new()));
        let (client, mut events) = connect(port, &format!("collector-{:x}", rand()), true);
        let (agreed, agreement) = tokio::sync::oneshot::channel();
        let (kept, filter) = (letters.clone(), filter.to_owned());
        let task = tokio::spawn(async move {
            let mut agreed = Some(agreed);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                        if !ack.session_present {
                            client.subscribe(filter.as_str(), QoS::ExactlyOnce).await.unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        if let Some(agreed) = agreed.take() {
                            let _ = agreed.send(());
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let properties = publish.properties.unwrap_or_default();
                        kept.lock().push(Letter {
                            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                            payload: publish.payload.to_vec(),
                            headers: properties.user_properties,
                            content_type: properties.content_type,
                            retain: publish.retain,
                        });
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        timeout(Duration::from_secs(10), agreement).await.context("subscribe outside")??;
        Ok(Self { letters, task })
    }

    /// All that came.
    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().clone()
    }

    /// Waits until there are as many.
    pub async fn until(&self, count: usize) -> Result<Vec<Letter>> {
        let start = tokio::time::Instant::now();
        while self.letters.lock().len() < count {
            ensure!(start.elapsed() < Duration::from_secs(20), "{:?}", self.letters());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(self.letters())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}
