//! The far end of a deployed pipeline is away for longer than its edge has room, or age, or patience: what arrives then,
//! in which order and how fast, and what the platform says of the rest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_peers::Mosquitto;
use millrace_tests::{Machine, Plant, mqtt, seq, subscribe};

const PATIENCE: Duration = Duration::from_secs(60);

/// From one broker to another over a durable edge, one message a batch on the edge and in order. `{durable}` are
/// settings of the edge.
const FORWARD: &str = r#"
millrace: v1alpha1
pipeline: forward
version: 0.1.0
sources: [machine]
steps:
  pass:
    map: pass-map
    from:
      name: machine
      durable:
        {durable}
        delivery: { in-flight: 1, batch-messages: 50, backoff-max: 500ms }
sinks:
  office: { from: pass }
binding:
  sources:
    machine:
      mqtt: { url: "{url}", topic: plant/in, qos: 1 }
      delivery: { in-flight: 1, batch-messages: 1, backoff-max: 500ms }
  sinks:
    office: { mqtt: { url: "{far}", topic: office/in, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
"#;

/// Bytes that a message is filled up with, so that some hundred are a mebibyte.
const FILLED: usize = 4_000;

/// Numbers in the order in which they arrived.
type Arrived = Arc<Mutex<Vec<u64>>>;

/// A machine, its broker and the pipeline on this side, and a broker on the other.
struct Site {
    plant: Plant,
    far: Mosquitto,
    machine: Machine,
    sent: u64,
    arrived: Arrived,
}

impl Site {
    async fn start(durable: &[&str]) -> Self {
        let plant = Plant::start().await;
        let far = Mosquitto::start().unwrap();
        let text =
            FORWARD.replace("{durable}", &durable.join("\n        ")).replace("{far}", &far.url());
        plant.deploy(&plant.define("forward.yaml", &text)).await;
        let arrived = collect(far.port()).await;
        let machine = Machine::connect(&plant);
        let mut site = Self { plant, far, machine, sent: 0, arrived };
        // Before the outage everything goes through.
        site.send(100, 500, 0).await;
        site.until("all through", |site, _| site.numbers().len() == 100).await;
        site
    }

    /// Sends so many messages, so many a second, of at least so many bytes.
    async fn send(&mut self, messages: u64, rate: u32, bytes: usize) {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
        let filling = "x".repeat(bytes);
        for _ in 0..messages {
            tick.tick().await;
            let payload = format!("{{\"seq\":{},\"filling\":\"{filling}\"}}", self.sent);
            self.machine.publish("plant/in", payload).await;
            self.sent += 1;
        }
        self.machine.acknowledged().await;
    }

    /// Numbers that arrived.
    fn numbers(&self) -> BTreeSet<u64> {
        self.arrived.lock().unwrap().iter().copied().collect()
    }

    /// Numbers in the order in which each came first, and how many came again.
    fn in_order(&self) -> (Vec<u64>, usize) {
        let all = self.arrived.lock().unwrap().clone();
        let mut known = BTreeSet::new();
        let first: Vec<u64> = all.iter().copied().filter(|n| known.insert(*n)).collect();
        let again = all.len() - first.len();
        (first, again)
    }

    /// What `millrace pipeline status` tells of a link.
    async fn link(&self, direction: &str, name: &str) -> serde_json::Value {
        let answer = self.plant.millrace(&["pipeline", "status", "forward"]).await;
        let status = answer.json();
        let links = status["links"].as_array().unwrap().iter();
        let mut links = links.flat_map(|p| p["links"].as_array().unwrap().iter());
        let found = links.find(|l| l["name"] == name && l["direction"] == direction);
        found.unwrap_or_else(|| panic!("no {direction} {name}: {status}")).clone()
    }

    /// The end of the edge that hands on.
    async fn edge(&self) -> Edge {
        let link = self.link("source", "machine.pass").await;
        let counters = &link["counters"];
        let number = |of: &serde_json::Value, name: &str| of[name].as_u64().unwrap_or(0);
        Edge {
            out: number(counters, "messages_out"),
            dropped: number(counters, "dropped_batches"),
            waiting: number(&counters["queue"], "batches"),
            bytes: number(&counters["queue"], "bytes"),
            dead_letters: number(counters, "dead_letters"),
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self, &Edge) -> bool) -> Edge {
        let start = Instant::now();
        loop {
            let edge = self.edge().await;
            if holds(self, &edge) {
                return edge;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "not {what}: {edge:?}, {} of {} arrived\n{}",
                self.numbers().len(),
                self.sent,
                self.plant.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until the source has handed everything to the edge.
    async fn all_on_the_edge(&self) {
        let start = Instant::now();
        while self.link("source", "machine").await["counters"]["messages_out"] != self.sent {
            assert!(start.elapsed() < PATIENCE, "{}", self.plant.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the sink is connected again.
    async fn connected(&self) {
        let start = Instant::now();
        while self.link("sink", "office").await["state"] != "connected" {
            assert!(start.elapsed() < PATIENCE, "{}", self.plant.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        self.plant.stop().await;
    }
}

/// What waits on the edge, and what became of the rest.
#[derive(Debug)]
struct Edge {
    out: u64,
    dropped: u64,
    waiting: u64,
    bytes: u64,
    dead_letters: u64,
}

/// Takes what is published at the far broker, also what is when it has just returned.
async fn collect(port: u16) -> Arrived {
    let arrived = Arrived::default();
    let own = Arc::clone(&arrived);
    let take = move |payload: &[u8]| own.lock().unwrap().push(seq(payload));
    subscribe(mqtt(port, "office"), "office/in", take).await;
    arrived
}

fn ascends(numbers: &[u64]) {
    let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(wrong, None, "in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_long_outage_the_newest_are_there_and_the_status_counts_the_rest() {
    let mut site = Site::start(&["max-bytes: 1MiB", "when-full: drop-oldest"]).await;
    site.far.stop().unwrap();
    // Four times what there is room for.
    site.send(1000, 1000, FILLED).await;
    site.all_on_the_edge().await;
    let full = site.until("full", |_, edge| edge.bytes > 900_000).await;
    assert!(full.bytes <= 1 << 20, "within its budget: {full:?}");
    assert_eq!(full.dead_letters, 0, "an outage kills nothing");

    site.far.restart().unwrap();
    let end = site.until("forwarded", |site, e| e.out + e.dropped == site.sent).await;
    site.until("arrived", |site, e| site.numbers().len() as u64 == e.out).await;
    let (arrived, again) = site.in_order();
    ascends(&arrived);
    let missing: Vec<u64> = (0..site.sent).filter(|n| !site.numbers().contains(n)).collect();
    assert_eq!(missing.len() as u64, end.dropped, "one message a batch: {end:?}");
    assert!(end.dropped > 500, "{end:?}");
    // What is missing was the oldest that waited, in one piece. Only what was being sent when the broker went has
    // overtaken it; and what waited is there to the newest.
    let (first, last) = (missing[0], missing[missing.len() - 1]);
    assert_eq!(missing.len() as u64, last + 1 - first, "one piece: {first} to {last}");
    assert!(first < 100 + 60, "{first}");
    assert_eq!(arrived.last(), Some(&(site.sent - 1)));
    assert!(site.sent - 1 - last >= full.waiting - 60, "{full:?}: {last} was the last to go");
    println!(
        "{} sent, {} there, {} dropped ({first} to {last}), {again} repeated, {} waited in {} bytes",
        site.sent,
        arrived.len(),
        end.dropped,
        full.waiting,
        full.bytes
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_edge_has_no_room_for_waits_in_the_broker_of_the_source() {
    let mut site = Site::start(&["max-bytes: 1MiB"]).await;
    site.far.stop().unwrap();
    site.send(1000, 1000, FILLED).await;
    let full = site.until("full", |_, edge| edge.bytes > 1_000_000).await;
    let source = site.link("source", "machine").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = site.link("source", "machine").await;
    let taken = |link: &serde_json::Value| link["counters"]["messages_out"].as_u64().unwrap();
    assert!(taken(&later) < 400, "what is on the edge, and nothing more, is acknowledged: {later}");
    assert!(taken(&later) - taken(&source) < 10, "it stands still: {source} {later}");
    assert!(
        later["counters"]["errors"]["downstream"].as_u64().unwrap() > 0,
        "and is said: {later}"
    );

    let start = Instant::now();
    site.far.restart().unwrap();
    site.until("all there", |site, _| site.numbers().len() as u64 == site.sent).await;
    let took = start.elapsed();
    let (arrived, again) = site.in_order();
    ascends(&arrived);
    let end = site.until("empty", |_, edge| edge.waiting == 0).await;
    assert_eq!((end.out, end.dropped, end.dead_letters), (site.sent, 0, 0), "{end:?}");
    println!(
        "{} sent, all there {took:.1?} after the return, {again} repeated; {} waited on the edge, {} in the broker",
        site.sent,
        full.waiting,
        site.sent - taken(&later)
    );
    site.stop().await;
}

/// Messages that the broker has taken, by the second of its own clock.
fn by_second(log: &str) -> BTreeMap<u64, u64> {
    let mut seconds = BTreeMap::new();
    for line in log.lines().filter(|l| l.contains("Received PUBLISH") && l.contains("'office/in'"))
    {
        let second = line.split(':').next().unwrap().parse().unwrap();
        *seconds.entry(second).or_default() += 1;
    }
    seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_forwarded_at_the_rate_oldest_first_while_new_data_waits_behind_it() {
    const RATE: u64 = 250;
    const BACKLOG: u64 = 1_500;
    let mut site = Site::start(&[&format!("max-rate: {RATE}")]).await;
    site.far.stop().unwrap();
    site.send(BACKLOG, 1000, 0).await;
    site.all_on_the_edge().await;
    let before = by_second(&site.far.log()).values().sum::<u64>();
    site.far.restart().unwrap();
    site.connected().await;
    // New data, while the backlog goes.
    site.send(300, 150, 0).await;
    let there = site.numbers().len() as u64;
    assert!(there < 100 + BACKLOG, "the backlog goes yet: {there} are there");
    site.until("all there", |site, _| site.numbers().len() as u64 == site.sent).await;
    let (arrived, again) = site.in_order();
    ascends(&arrived);
    assert_eq!(arrived.len() as u64, site.sent);

    let seconds = by_second(&site.far.log());
    let (first, last) = (*seconds.keys().next().unwrap(), *seconds.keys().next_back().unwrap());
    assert_eq!(before, 100, "the broker's log is read right");
    assert!(seconds.values().sum::<u64>() >= site.sent);
    // A batch of 50 begins when those before it are paid for, and may come late once.
    for begin in first..=last {
        for width in 1..=8 {
            let taken: u64 = seconds.range(begin..begin + width).map(|(_, n)| n).sum();
            let most = RATE * width + 100;
            assert!(taken <= most, "{taken} in {width} s from {begin}: {seconds:?}");
        }
    }
    println!("{} sent, {again} repeated; by the broker's second {seconds:?}", site.sent);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_after_an_outage_is_dropped_and_counted() {
    let mut site = Site::start(&["max-age: 5s", "dedup-window: 1s"]).await;
    site.far.stop().unwrap();
    site.send(200, 500, 0).await;
    site.all_on_the_edge().await;
    site.until("too old", |_, edge| edge.waiting == 0).await;
    site.far.restart().unwrap();
    site.connected().await;
    site.send(200, 500, 0).await;
    let end = site.until("forwarded", |site, e| e.out + e.dropped == site.sent).await;
    site.until("arrived", |site, e| site.numbers().len() as u64 == e.out).await;
    let (arrived, again) = site.in_order();
    ascends(&arrived);
    let numbers = site.numbers();
    assert!((300..500).all(|n| numbers.contains(&n)), "all that came after: {end:?}");
    assert!(end.dropped >= 100, "{end:?}");
    assert_eq!(numbers.len() as u64 + end.dropped, site.sent);
    println!(
        "{} sent, {} there, {} too old, {again} repeated",
        site.sent,
        numbers.len(),
        end.dropped
    );
    site.stop().await;
}
