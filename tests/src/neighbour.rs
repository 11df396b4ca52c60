//! A pipeline whose messages are timed, while something beside it misbehaves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, EventLoop};

use crate::{Machine, subscribe, until};

/// From `plant/near` to `plant/far`, through two stages and a durable edge.
pub const NEIGHBOUR: &str = r#"
millrace: v1alpha1
pipeline: neighbour
version: 0.1.0
sources: [near]
steps:
  # It uses none of it: what it was granted is its alone.
  pass: { map: pass-map, from: near, grants: ["kv:secrets"] }
  keep: { filter: pass-filter, from: { name: pass, durable: true } }
sinks:
  far: { from: keep }
binding:
  sources:
    near: { mqtt: { url: "{url}", topic: plant/near, qos: 1 } }
  sinks:
    far: { mqtt: { url: "{url}", topic: plant/far, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
    pass-filter: { file: "{components}/pass-filter.wasm" }
"#;

const PATIENCE: Duration = Duration::from_secs(60);

/// When each number came out of the neighbour, and what came that was none.
#[derive(Default)]
struct Came {
    numbers: BTreeMap<u64, Instant>,
    strange: Vec<String>,
}

/// The far end of the pipeline.
#[derive(Clone, Default)]
pub struct Far(Arc<Mutex<Came>>);

impl Far {
    /// Listens to what comes out.
    pub async fn subscribe(client: (AsyncClient, EventLoop)) -> Self {
        let far = Self::default();
        let own = far.clone();
        subscribe(client, "plant/far", move |payload| {
            let text = String::from_utf8_lossy(payload).into_owned();
            let mut came = own.0.lock().unwrap();
            match text.parse() {
                Ok(seq) => drop(came.numbers.entry(seq).or_insert_with(Instant::now)),
                Err(_) => came.strange.push(text),
            }
        })
        .await;
        far
    }

    /// Sends numbers, a hundred a second, and says how long they took: in the middle, and in the 99th percentile.
    pub async fn latency(&self, machine: &mut Machine, seqs: Range<u64>) -> (Duration, Duration) {
        let mut sent = BTreeMap::new();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for seq in seqs {
            tick.tick().await;
            sent.insert(seq, Instant::now());
            machine.publish("plant/near", seq.to_string()).await;
        }
        until("everything of the neighbour has come", PATIENCE, async || {
            sent.keys().all(|seq| self.0.lock().unwrap().numbers.contains_key(seq))
        })
        .await;
        let came = self.0.lock().unwrap();
        let mut took: Vec<Duration> =
            sent.iter().map(|(seq, at)| came.numbers[seq] - *at).collect();
        took.sort();
        (took[took.len() / 2], took[took.len() * 99 / 100])
    }

    /// How many numbers came out.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().numbers.len()
    }

    /// What came out that was no number.
    pub fn strange(&self) -> Vec<String> {
        self.0.lock().unwrap().strange.clone()
    }
}
