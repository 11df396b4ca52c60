//! The power of the machine with nats-server is cut, and its clock jumps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt as _;
use millrace_peers::{MachineOptions, NatsMachine};
use millrace_tests::{ALERTS, Collector, Machine, Plant, hot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// From the start of nats-server to the last message: hosts and providers connect again, calls are made again.
const RECOVERY: Duration = Duration::from_secs(120);

/// An emulated machine needs a processor, and so does a plant.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn always() -> MachineOptions {
    MachineOptions { sync_always: true, ..MachineOptions::default() }
}

/// A whole plant, whose nats-server has its power cut again and again while messages flow.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the virtual machine is made for x86-64")]
async fn every_message_arrives_when_the_power_of_nats_is_cut() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut plant = Plant::start_on_machine(&always()).await;
    plant.deploy(&plant.define("alerts.yaml", &alerts_yaml())).await;
    let alerts = plant.collect("plant/alerts").await;
    let load = Load::start(&plant);

    // The second time the others are not told: a machine without power closes no connection.
    for (cut, silence) in [0, 5, 0].into_iter().enumerate() {
        sleep(moment(1000, 3000)).await;
        plant.nats.freeze(silence > 0).unwrap();
        sleep(Duration::from_secs(silence)).await;
        plant.nats.cut_power().unwrap();
        let before = alerts.seqs().len();
        sleep(Duration::from_millis(500)).await;
        let start = Instant::now();
        plant.nats.restart().unwrap();
        let answers = start.elapsed();
        until_more(&alerts, before).await;
        let flows = start.elapsed();
        println!(
            "cut {cut}: nats-server answered after {answers:.1?}, an alert came after {flows:.1?}"
        );
    }
    let (mut machine, sent) = load.end().await;
    let expected = hot(0..sent);
    alerts.wait_for(&expected, RECOVERY).await;
    assert_eq!(alerts.seqs(), expected);
    println!("{sent} in, {} out, {} duplicates", expected.len(), alerts.duplicates());

    // What wadm knew is there too: it tells of the pipeline, and brings a new version of it.
    let start = Instant::now();
    until_all_runs(&plant).await;
    println!("all runs after {:.1?}", start.elapsed());
    let newer =
        alerts_yaml().replace("version: 0.1.0", "version: 0.2.0").replace("limit: 85", "limit: 86");
    let newer = plant.define("alerts.yaml", &newer);
    let start = Instant::now();
    plant.deploy_unwatched(&newer).await;
    println!("a new version runs after {:.1?}", start.elapsed());
    machine.readings(sent..sent + 100, 150).await;
    alerts.wait_for(&hot(0..sent + 100), RECOVERY).await;
    plant.stop().await;
}

/// A plant whose nats-server takes it to be an hour later, an hour earlier, and so on.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the virtual machine is made for x86-64")]
async fn every_message_arrives_when_the_clock_of_nats_jumps() {
    const HOUR: i64 = 3600;
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut plant = Plant::start_on_machine(&always()).await;
    plant.deploy(&plant.define("alerts.yaml", &alerts_yaml())).await;
    let alerts = plant.collect("plant/alerts").await;
    let load = Load::start(&plant);

    // Forward, back to the right time, back, and forward to the right time.
    for step in [HOUR, -HOUR, -HOUR, HOUR] {
        sleep(moment(1000, 2000)).await;
        let shown = plant.nats.step_clock(0).unwrap();
        let jumped = plant.nats.step_clock(step).unwrap() - shown;
        assert!((jumped - step).abs() < 30, "{jumped}");
        // What the conduit had in work is given again, whatever the clock says about how long it has had it.
        if step < 0 {
            plant.kill_provider("conduit");
        }
        let (start, before) = (Instant::now(), alerts.seqs().len());
        until_more(&alerts, before + 10).await;
        println!("{step:+} s: alerts came after {:.1?}", start.elapsed());
    }
    // A machine whose clock has no battery begins in the past, and is set right when it has found a time server.
    let days = Duration::from_secs(300 * 24 * 3600);
    let before = alerts.seqs().len();
    plant.nats.restart_at(SystemTime::now() - days).unwrap();
    until_more(&alerts, before + 10).await;
    plant.nats.step_clock(i64::try_from(days.as_secs()).unwrap()).unwrap();

    let (_machine, sent) = load.end().await;
    let expected = hot(0..sent);
    alerts.wait_for(&expected, RECOVERY).await;
    assert_eq!(alerts.seqs(), expected);
    println!("{sent} in, {} out, {} duplicates", expected.len(), alerts.duplicates());
    until_all_runs(&plant).await;
    plant.stop().await;
}

/// JetStream alone, as `millrace up` runs it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the virtual machine is made for x86-64")]
async fn what_jetstream_acknowledged_is_there_after_a_power_cut() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut nats = NatsMachine::start(&always()).unwrap();
    make_stream(&nats).await;
    let mut from = 0;
    // The first cut comes soon after the stream was made.
    for round in 0..3 {
        let acknowledged = publish_until_cut(&mut nats, from, moment(300, 1500)).await;
        let there = stored(&nats).await.expect("the stream is there");
        println!("cut {round}: {acknowledged} acknowledged, {there} there");
        assert!(there >= acknowledged, "cut {round}: {acknowledged} acknowledged, {there} there");
        from = there;
    }
}

/// JetStream as it is without `sync_interval`. That it loses messages here also proves that a cut is one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the virtual machine is made for x86-64")]
async fn without_sync_a_power_cut_takes_what_jetstream_acknowledged() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut nats = NatsMachine::start(&MachineOptions::default()).unwrap();
    let (mut from, mut lost) = (0, 0);
    for round in 0..2 {
        if from == 0 {
            make_stream(&nats).await;
        }
        // At the first cut the stream itself is new; before the others some of it is written back.
        if round > 0 {
            let jetstream = jetstream(&nats).await;
            for number in from..from + 50 {
                let sent = jetstream.publish("numbers", message(number).into()).await.unwrap();
                sent.await.unwrap();
            }
            from += 50;
            // nats-server itself holds what it was given for some milliseconds.
            sleep(Duration::from_secs(1)).await;
            nats.write_back().unwrap();
        }
        let acknowledged = publish_until_cut(&mut nats, from, moment(300, 1500)).await;
        let there = stored(&nats).await.unwrap_or_default();
        println!("cut {round}: {from} on the disk, {acknowledged} acknowledged, {there} there");
        assert!(there >= from, "what the kernel had written is not taken: {there} of {from}");
        from = there;
        lost += acknowledged.saturating_sub(from);
    }
    println!("{lost} acknowledged messages lost in two cuts");
    assert!(lost > 0, "a cut that takes nothing is none");
}

/// Readings that go on until they are ended.
struct Load {
    end: Arc<AtomicBool>,
    writing: JoinHandle<(Machine, u64)>,
}

impl Load {
    fn start(plant: &Plant<NatsMachine>) -> Self {
        let (mut machine, end) = (Machine::connect(plant), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&end);
        let writing = tokio::spawn(async move {
            let mut sent = 0;
            while !ended.load(Ordering::SeqCst) {
                machine.readings(sent..sent + 50, 150).await;
                sent += 50;
            }
            machine.acknowledged().await;
            (machine, sent)
        });
        Self { end, writing }
    }

    /// The machine, when its broker has acknowledged all, and how many there were.
    async fn end(self) -> (Machine, u64) {
        self.end.store(true, Ordering::SeqCst);
        timeout(RECOVERY, self.writing).await.unwrap().unwrap()
    }
}

/// In batches of some messages: each is a flush of an emulated disk.
fn alerts_yaml() -> String {
    let source = "topic: plant/+/temperature, qos: 1 }";
    assert!(ALERTS.contains(source));
    ALERTS.replace(source, &format!("{source}, delivery: {{ linger: 100ms }}"))
}

/// Some time between two, in milliseconds.
fn moment(from: u64, to: u64) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_millis(from + random % (to - from))
}

/// Waits until more alerts are there than so many.
async fn until_more(alerts: &Collector, than: usize) {
    let start = Instant::now();
    while alerts.seqs().len() <= than {
        assert!(start.elapsed() < RECOVERY, "nothing more than {than} alerts");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the status has nothing to complain of: wadm hears of a host every few seconds.
async fn until_all_runs(plant: &Plant<NatsMachine>) {
    let start = Instant::now();
    loop {
        let status = plant.millrace(&["pipeline", "status", "alerts"]).await;
        if status.code == 0 {
            return;
        }
        assert!(start.elapsed() < RECOVERY, "{status:?}\n{}", plant.log());
        sleep(Duration::from_secs(1)).await;
    }
}

const STREAM: &str = "NUMBERS";

async fn jetstream(nats: &NatsMachine) -> jetstream::Context {
    jetstream::new(async_nats::connect(nats.url()).await.unwrap())
}

async fn make_stream(nats: &NatsMachine) {
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers".to_owned()],
        ..stream::Config::default()
    };
    jetstream(nats).await.create_stream(config).await.unwrap();
}

/// The message of a number.
fn message(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(50)
}

/// Publishes messages from a number on, cuts the power some time after the first was acknowledged and gives it back; answers the number of the first
/// message that was not acknowledged.
async fn publish_until_cut(nats: &mut NatsMachine, from: u64, after: Duration) -> u64 {
    let jetstream = jetstream(nats).await;
    let next = Arc::new(AtomicU64::new(from));
    let own = Arc::clone(&next);
    let publishing = tokio::spawn(async move {
        let publish = async |number| {
            let sent = jetstream.publish("numbers", message(number).into()).await.ok()?;
            sent.await.ok().map(|_| number)
        };
        let mut acknowledged =
            std::pin::pin!(futures::stream::iter(from..).map(publish).buffered(32));
        while let Some(Some(number)) = acknowledged.next().await {
            own.store(number + 1, Ordering::SeqCst);
        }
    });
    let start = Instant::now();
    while next.load(Ordering::SeqCst) == from {
        assert!(start.elapsed() < RECOVERY, "nothing is acknowledged");
        sleep(Duration::from_millis(10)).await;
    }
    sleep(after).await;
    nats.cut_power().unwrap();
    // What was acknowledged before the cut may still be on its way to here.
    sleep(Duration::from_millis(200)).await;
    publishing.abort();
    let next = next.load(Ordering::SeqCst);
    nats.restart().unwrap();
    next
}

/// How many messages there are. They are whole, and they are all of them up to the last; none when there is no stream.
async fn stored(nats: &NatsMachine) -> Option<u64> {
    let mut stream = jetstream(nats).await.get_stream(STREAM).await.ok()?;
    let count = stream.info().await.unwrap().state.messages;
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let reader = stream.create_consumer(config).await.unwrap();
    let mut messages = reader.messages().await.unwrap();
    for number in 0..count {
        let next = timeout(Duration::from_secs(20), messages.next()).await;
        let found = next.expect("all can be read").unwrap().unwrap();
        assert_eq!(found.payload, message(number), "message {number} of {count}");
    }
    Some(count)
}
