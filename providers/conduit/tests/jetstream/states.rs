//! A step with state behind an edge: each message is in its state once,
//! whatever fails.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use async_nats::jetstream::kv;
use millrace_window::{
    Call, Document, Ended, Engine, Entry, Failure, Group, Kind, Late, Step, Window, detach,
    write_commit,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const SETTINGS_PARTITIONS: u16 = 4;

fn partitioned(count: u16) -> EdgeSettings {
    EdgeSettings { partitions: Some(count.to_string().parse().unwrap()), ..EdgeSettings::default() }
}

/// Key, start and count of windows that have ended.
type Windows = Vec<(String, u64, u64)>;

/// A stage that counts the messages of each key in windows of a count that
/// never is reached, or of time, and keeps what came of them.
struct Counter {
    publisher: Arc<Publisher>,
    window: Window,
    faults: Mutex<Option<StdRng>>,
    poison: Option<u64>,
    calls: AtomicUsize,
    /// Key, start and count of each window that has ended, by the id of the batch
    /// that ended it: what the next edge would have of it.
    ended: Mutex<BTreeMap<String, Windows>>,
    dead: Mutex<Vec<u64>>,
    /// The times of calls without messages.
    idle: Mutex<Vec<u64>>,
    slow: AtomicU64,
}

impl Counter {
    fn new(publisher: Arc<Publisher>, window: Window) -> Self {
        Self {
            publisher,
            window,
            faults: Mutex::default(),
            poison: None,
            calls: AtomicUsize::default(),
            ended: Mutex::default(),
            dead: Mutex::default(),
            idle: Mutex::default(),
            slow: AtomicU64::default(),
        }
    }

    /// Now and then.
    fn fault(&self) -> bool {
        self.faults.lock().as_mut().is_some_and(|random| random.random_bool(0.1))
    }

    async fn apply(&self, body: Bytes) -> Result<(), CallError> {
        self.calls.fetch_add(1, SeqCst);
        sleep(Duration::from_millis(self.slow.load(SeqCst))).await;
        let batch = Batch::parse(&body).map_err(|e| CallError::Batch(e.to_string()))?;
        if batch.is_empty() {
            return Ok(());
        }
        let call: Call<'_> = detach(&batch).expect("the state goes along");
        if call.messages().any(|m| Some(m.timestamp) == self.poison) {
            return Err(CallError::Trap("unreachable".into()));
        }
        if self.fault() {
            return Err(CallError::Trap("now and then".into()));
        }
        if call.idle {
            self.idle.lock().push(call.now);
        }
        let mut folding = Folding::default();
        let document = Engine::new(self.window).apply(&call, &mut folding).unwrap();
        // The output comes first, and a repeat of it is dropped by its id.
        let id = batch.header("id").unwrap().to_owned();
        if !folding.0.is_empty() {
            self.ended.lock().entry(id).or_insert(folding.0);
        }
        if self.fault() {
            return Err(CallError::Downstream("cut off before the state".into()));
        }
        let commit = write_commit(call.state, &document).unwrap();
        self.publisher
            .write(commit.into())
            .await
            .map_err(|e| CallError::Downstream(e.to_string()))?;
        if self.fault() {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Folding(Windows);

impl Step for Folding {
    fn fold(
        &mut self,
        state: Option<&[u8]>,
        messages: &[millrace_batch::Message<'_>],
    ) -> Result<Vec<u8>, Failure> {
        let before = state.map_or(0, |s| u64::from_le_bytes(s.try_into().unwrap()));
        Ok((before + messages.len() as u64).to_le_bytes().to_vec())
    }

    fn finish(&mut self, ended: &Ended<'_>) -> Result<(), Failure> {
        let key = String::from_utf8(ended.entry.group.key().unwrap().to_vec()).unwrap();
        let counted = u64::from_le_bytes(ended.entry.state.try_into().unwrap());
        self.0.push((key, ended.entry.start, counted));
        Ok(())
    }

    fn late(&mut self, _: &Late<'_>) -> Result<(), String> {
        Err("late".into())
    }

    fn refused(&mut self, _: &millrace_batch::Message<'_>, _: &str, _: &str) -> Result<(), String> {
        Err("refused".into())
    }

    fn lost(&mut self, _: &Ended<'_>, _: &str, _: &str) -> Result<(), String> {
        Err("lost".into())
    }
}

impl Stage for Counter {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.apply(body))
    }
}

impl DeadLetters for Counter {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        let batch = Batch::parse(&letters).unwrap();
        self.dead.lock().extend(batch.messages().map(|m| m.timestamp));
        Box::pin(std::future::ready(Ok(())))
    }
}

fn impatient() -> Policy {
    Policy { call_timeout: Duration::from_millis(400), suspect_after: 2, ..policy() }
}

async fn counting(
    server: &NatsServer,
    far: &Arc<Counter>,
    partitions: u16,
    idle: Option<Duration>,
) -> (Arc<Link>, JoinHandle<()>) {
    let link = link("first.second", "second", Direction::Source);
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), impatient()));
    // As after a crash: this one knows nothing of what was written before.
    let states = States::default();
    let limits = Limits { messages: 40, ..LIMITS };
    let consumer =
        Consumer::new(client(server).await, edge("first.second"), partitioned(partitions), limits)
            .with_state("second", &states, idle);
    let source = Box::new(consumer);
    let task = tokio::spawn(source.run(link.clone(), delivery));
    (link, task)
}

/// The stage's own way out. `states` are those that its conduit knows.
async fn way_out(server: &NatsServer, states: &States) -> Arc<Publisher> {
    let link = link("out", "second", Direction::Sink);
    let edges = vec![(edge("second.third"), EdgeSettings::default())];
    let client = client(server).await;
    let publisher = Publisher::open(&client, edges, link.clone(), &Spills::default(), states);
    connected(&link).await;
    publisher
}

fn never() -> Window {
    Window::new(Kind::Count { messages: 1_000_000 })
}

/// `count` messages from `first`, each of one of ten keys, a second apart.
fn keyed(id: &str, first: u64, count: u64) -> Bytes {
    let mut writer = BatchWriter::new([("id", id)]).unwrap();
    for n in first..first + count {
        let key = format!("key-{}", n % 10);
        let fields = Fields {
            timestamp: (n + 1) * 1_000_000_000,
            topic: "t",
            key: Some(key.as_bytes()),
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}

async fn store(server: &NatsServer) -> kv::Store {
    let js = jetstream::new(client(server).await);
    js.get_key_value("MILLRACE_plant_line_state").await.unwrap()
}

/// What the states of all partitions have counted, by key.
async fn counted(server: &NatsServer, partitions: u16) -> BTreeMap<String, u64> {
    let store = store(server).await;
    let mut counts = BTreeMap::new();
    for number in 0..partitions {
        let Some(value) = store.get(format!("second.{partitions}.{number}")).await.unwrap() else {
            continue;
        };
        let line = value.iter().position(|b| *b == b'\n').unwrap();
        let document = Document::read(&value[line + 1..]).unwrap();
        for entry in document.entries() {
            let key = String::from_utf8(entry.group.key().unwrap().to_vec()).unwrap();
            let count = u64::from_le_bytes(entry.state.try_into().unwrap());
            assert_eq!(count, entry.count);
            assert!(counts.insert(key, count).is_none(), "a key is in one partition");
        }
    }
    counts
}

async fn drained(server: &NatsServer) {
    let start = Instant::now();
    while waiting(server, "first.second").await > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "every batch is acknowledged");
        sleep(Duration::from_millis(50)).await;
    }
}

fn even(count: u64) -> BTreeMap<String, u64> {
    (0..10).map(|n| (format!("key-{n}"), count)).collect()
}

async fn publish(server: &NatsServer, partitions: u16, batches: std::ops::Range<u64>, of: u64) {
    let (publisher, _) = publisher(server, &[("first.second", partitioned(partitions))]).await;
    for n in batches {
        write(&publisher, keyed(&format!("b{n}"), n * of, of)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_in_the_state_once_whatever_fails() {
    let mut server = NatsServer::start().unwrap();
    let seed = rand::random();
    println!("seed {seed}");
    publish(&server, SETTINGS_PARTITIONS, 0..300, 20).await;
    let far = Arc::new(Counter {
        faults: Mutex::new(Some(StdRng::seed_from_u64(seed))),
        ..Counter::new(way_out(&server, &States::default()).await, never())
    });
    // Killed again and again, with a call in work or between two.
    for round in 0..6 {
        let (_link, task) = counting(&server, &far, SETTINGS_PARTITIONS, None).await;
        sleep(Duration::from_millis(500 + 150 * round)).await;
        task.abort();
        let _ = task.await;
        if round == 3 {
            server.kill().unwrap();
            server.restart().unwrap();
        }
    }
    *far.faults.lock() = None;
    let (_link, _task) = counting(&server, &far, SETTINGS_PARTITIONS, None).await;
    drained(&server).await;
    assert_eq!(counted(&server, SETTINGS_PARTITIONS).await, even(600));
    assert_eq!(*far.dead.lock(), [0_u64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_traps_is_left_out_and_the_others_are_in_once() {
    let server = NatsServer::start().unwrap();
    publish(&server, SETTINGS_PARTITIONS, 0..10, 100).await;
    let poison = Some(334_000_000_000);
    let publisher = way_out(&server, &States::default()).await;
    let far = Arc::new(Counter { poison, ..Counter::new(publisher, never()) });
    let (_link, _task) = counting(&server, &far, SETTINGS_PARTITIONS, None).await;
    drained(&server).await;
    let mut wanted = even(100);
    wanted.insert("key-3".into(), 99);
    assert_eq!(counted(&server, SETTINGS_PARTITIONS).await, wanted);
    assert_eq!(*far.dead.lock(), [334_000_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_end_once_with_all_their_messages_whatever_fails() {
    let server = NatsServer::start().unwrap();
    let seed = rand::random();
    println!("seed {seed}");
    // A message a second, each key each ten.
    publish(&server, 2, 0..200, 10).await;
    let window = Window::new(Kind::Tumbling { size: 100_000_000_000 });
    let far = Arc::new(Counter {
        faults: Mutex::new(Some(StdRng::seed_from_u64(seed))),
        ..Counter::new(way_out(&server, &States::default()).await, window)
    });
    for _ in 0..4 {
        let (_link, task) = counting(&server, &far, 2, None).await;
        sleep(Duration::from_millis(700)).await;
        task.abort();
        let _ = task.await;
    }
    *far.faults.lock() = None;
    let (_link, _task) = counting(&server, &far, 2, None).await;
    drained(&server).await;
    let mut seen: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for (key, start, count) in far.ended.lock().values().flatten() {
        seen.entry((key.clone(), *start)).or_default().push(*count);
    }
    // A window may come out of a whole batch that was cut off and of its half, but
    // never with another content.
    for ((key, start), counts) in &seen {
        // The first message comes a second after the first window begins.
        let full = if *start == 0 && key == "key-9" { 9 } else { 10 };
        assert!(counts.iter().all(|count| *count == full), "{key} {start}: {counts:?}");
    }
    assert!(seen.len() >= 10 * 18, "{}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_takes_the_state_along() {
    let server = NatsServer::start().unwrap();
    let far = Arc::new(Counter::new(way_out(&server, &States::default()).await, never()));
    publish(&server, 4, 0..20, 50).await;
    let (_link, task) = counting(&server, &far, 4, None).await;
    drained(&server).await;
    task.abort();
    let _ = task.await;
    // Some lie in the old partitions, and one of them is applied and not acknowledged.
    publish(&server, 4, 20..40, 50).await;
    far.slow.store(200, SeqCst);
    let (_link, task) = counting(&server, &far, 4, None).await;
    sleep(Duration::from_millis(500)).await;
    task.abort();
    let _ = task.await;
    let old = waiting(&server, "first.second").await;
    assert!(old > 0, "some are left");
    far.slow.store(0, SeqCst);
    publish(&server, 6, 40..60, 50).await;
    let (_link, task) = counting(&server, &far, 6, None).await;
    drained(&server).await;
    assert_eq!(counted(&server, 6).await, even(300));
    task.abort();
    let _ = task.await;
    publish(&server, 2, 60..70, 50).await;
    let (_link, _task) = counting(&server, &far, 2, None).await;
    drained(&server).await;
    assert_eq!(counted(&server, 2).await, even(350));
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_end_by_the_clock_when_nothing_comes() {
    let server = NatsServer::start().unwrap();
    let window = Window::new(Kind::Tumbling { size: 10_000_000_000 });
    let far = Arc::new(Counter::new(way_out(&server, &States::default()).await, window));
    publish(&server, 2, 0..1, 5).await;
    let (_link, _task) = counting(&server, &far, 2, Some(Duration::from_secs(1))).await;
    let start = Instant::now();
    while far.ended.lock().values().flatten().count() < 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", far.ended.lock());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() > Duration::from_millis(900), "not before the time is over");
    assert!(far.idle.lock().iter().all(|at| *at == 10_000_000_000), "{:?}", far.idle.lock());
    assert!(counted(&server, 2).await.is_empty(), "nothing is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_write_a_state_one_gets_through() {
    let server = NatsServer::start().unwrap();
    let js = jetstream::new(client(&server).await);
    let bucket =
        kv::Config { bucket: "MILLRACE_plant_line_state".to_owned(), ..kv::Config::default() };
    let there = js.create_key_value(bucket).await.unwrap();
    let states = States::default();
    let (one, other) =
        (way_out(&server, &states).await, way_out(&server, &States::default()).await);
    let document = |count: u64| {
        let state = count.to_le_bytes();
        let entry = Entry { group: Group::Key(b"k"), start: 0, end: 0, count, state: &state };
        Document::of(0, [entry]).write()
    };
    let commit = |ticket: &str, count| Bytes::from(write_commit(ticket, &document(count)).unwrap());
    // Of a stage without a state none is taken, nor one of a partition that there is not.
    let first = "second 1.0 0 1.0@5:1:1";
    let refused = one.write(commit(first, 1)).await.unwrap_err().to_string();
    assert!(refused.contains("not its own"), "{refused}");
    there.put("second.partitions", "1".into()).await.unwrap();
    for wrong in ["second 2.0 0", "second 1.1 0", "second 4000.3999 0"] {
        let refused = one.write(commit(wrong, 1)).await.unwrap_err().to_string();
        assert!(refused.contains("not its own"), "{refused}");
    }
    one.write(commit(first, 1)).await.unwrap();
    let refused = other.write(commit("second 1.0 0 1.0@5:1:2", 2)).await.unwrap_err().to_string();
    assert!(refused.contains("has changed"), "{refused}");
    let revision = store(&server).await.entry("second.1.0").await.unwrap().unwrap().revision;
    other.write(commit(&format!("second 1.0 {revision} 1.0@5:1:2"), 2)).await.unwrap();
    assert_eq!(counted(&server, 1).await, BTreeMap::from([("k".to_owned(), 2)]));
    // Nor that of another step.
    for foreign in ["third 1.0 0", "second", "second 1.0 x"] {
        let refused = one.write(commit(foreign, 1)).await.unwrap_err().to_string();
        assert!(refused.contains("not its own"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_holds_its_partition_and_says_so() {
    let server = NatsServer::start().unwrap();
    publish(&server, 1, 0..1, 10).await;
    let far = Arc::new(Counter::new(way_out(&server, &States::default()).await, never()));
    let (_link, task) = counting(&server, &far, 1, None).await;
    drained(&server).await;
    task.abort();
    let _ = task.await;
    let store = store(&server).await;
    store.put("second.1.0", "of another version".into()).await.unwrap();
    publish(&server, 1, 1..2, 10).await;
    let (link, task) = counting(&server, &far, 1, None).await;
    let start = Instant::now();
    while link.telemetry.snapshot().errors.values().sum::<u64>() == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", link.status());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting(&server, "first.second").await, 1, "nothing is lost");
    task.abort();
    let _ = task.await;
    // As the error says.
    store.delete("second.1.0").await.unwrap();
    let (_link, _task) = counting(&server, &far, 1, None).await;
    drained(&server).await;
    assert_eq!(counted(&server, 1).await, even(1));
}
