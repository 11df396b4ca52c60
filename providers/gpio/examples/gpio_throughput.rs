//! What the connector costs, beside the plain client library doing the same
//! work in the same run.
//!
//! * **Latency**: from a simulated edge to another line being set and said to
//!   be: source, a stage that does nothing, sink. Beside it a thread that waits
//!   for the edge and sets the line.
//! * **Source**: edges that wait in the kernel's buffer, read and handed to the
//!   stage. Beside it a loop that reads them and writes the same payload.
//! * **Sink**: batches of 500 levels. Beside it a loop that reads the same
//!   payloads and sets the line.
//!
//! Needs root and the kernel's gpio-sim: `scripts/gpio-vm latency`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[allow(dead_code)]
#[path = "../tests/gpio_sim/sim.rs"]
mod sim;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use gpiocdev::line::{EdgeDetection, EdgeKind, EventClock, Value};
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_gpio::{GpioSink, GpioSource};
use millrace_kit::telemetry::now_ns;
use millrace_kit::{
    CallError, DeadLetters, Delivery, Direction, Limits, Link, LinkNames, Policy, Sink, Source,
    Stage, State, WriteError,
};
use millrace_settings::{Settings, from_flat};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use sim::{Sim, pull};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Edges whose latency is measured, after those that warm up.
const EDGES: usize = 2_000;
const WARM_UP: usize = 200;

/// Edges that wait in the kernel for each reading; not more than it keeps.
const WAITING: usize = 1_000;
const READINGS: u32 = 10;

/// A source from which nothing came for so long has nothing more.
const AT_REST: Duration = Duration::from_millis(100);

/// How long levels are set.
const SETTING: Duration = Duration::from_secs(3);
const BATCH: usize = 500;

fn main() {
    if !std::path::Path::new("/sys/kernel/config/gpio-sim").exists() {
        eprintln!("the kernel's gpio-sim is needed: run scripts/gpio-vm latency");
        std::process::exit(1);
    }
    tracing_subscriber::fmt().with_env_filter("error").init();
    let runtime = Runtime::new().unwrap();
    latency(&runtime);
    source(&runtime);
    sink(&runtime);
}

/// Ends as it began, so that one can be measured after the other.
fn latency(runtime: &Runtime) {
    let sim = Sim::start(&["IN", "OUT"]);
    let ours = {
        let (sink, near) = {
            let _inside = runtime.enter();
            let near = Arc::new(Near::default());
            near.open.add_permits(Semaphore::MAX_PERMITS);
            let link = link(Direction::Sink);
            let sink = GpioSink::open(
                settings(r#"{"edge":{"line":"OUT"}}"#, &[]),
                link.clone(),
                near.clone(),
            );
            reaches(&link);
            (sink.unwrap(), near)
        };
        let set = Arc::new(Set::default());
        let through: Arc<dyn Stage> = Arc::new(Through(sink.clone(), set.clone()));
        let (link, task) =
            start(runtime, through, near, settings(r#"{"edge":{"line":"IN"}}"#, &[]));
        let times = round_trips(&sim, &set);
        link.start_drain();
        runtime.block_on(task).unwrap();
        runtime.block_on(sink.close());
        times
    };
    let bare = {
        let input = input(&sim);
        let output = gpiocdev::Request::builder()
            .on_chip(sim.device())
            .with_line(1)
            .as_output(Value::Inactive)
            .request()
            .unwrap();
        let set = Arc::new(Set::default());
        let noting = set.clone();
        let copying = thread::spawn(move || {
            for _ in 0..EDGES + WARM_UP {
                let edge = input.read_edge_event().unwrap();
                let rising = edge.kind == EdgeKind::Rising;
                output.set_value(1, if rising { Value::Active } else { Value::Inactive }).unwrap();
                noting.now();
            }
        });
        let times = round_trips(&sim, &set);
        copying.join().unwrap();
        times
    };
    println!("latency, edge in to level out ({EDGES} edges):");
    for (name, share) in [("p50", 50), ("p99", 99)] {
        let at = |times: &[Duration]| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
        let (ours, bare) = (at(&ours), at(&bare));
        println!("  {name}: {ours:.0} us; plain library {bare:.0} us; ratio {:.2}", ours / bare);
    }
}

/// When the output was set last. Noted by whoever set it: somebody who looks
/// at the level all the time takes a processor from what is measured.
#[derive(Default)]
struct Set {
    count: AtomicU64,
    at: Mutex<Option<Instant>>,
}

impl Set {
    fn now(&self) {
        *self.at.lock() = Some(Instant::now());
        self.count.fetch_add(1, Relaxed);
    }
}

/// Pulls one line and waits for the other, again and again.
fn round_trips(sim: &Sim, set: &Set) -> Vec<Duration> {
    let pulling = File::options().write(true).open(sim.pull_file(0)).unwrap();
    let mut times = Vec::with_capacity(EDGES);
    for n in 0..EDGES + WARM_UP {
        let up = n % 2 == 0;
        let before = set.count.load(Relaxed);
        let start = Instant::now();
        pulling.write_all_at(pull(up).as_bytes(), 0).unwrap();
        while set.count.load(Relaxed) == before {
            assert!(start.elapsed() < Duration::from_secs(10), "edge {n} did not come through");
            thread::sleep(Duration::from_micros(500));
        }
        let at = set.at.lock().unwrap();
        assert_eq!(sim.value(1), up, "the level is there");
        if n >= WARM_UP {
            times.push(at - start);
        }
    }
    times.sort_unstable();
    times
}

fn source(runtime: &Runtime) {
    let sim = Sim::start(&["IN"]);
    let near = Arc::new(Near::default());
    let lines = settings(r#"{"edge":{"line":"IN"}}"#, &[("window", "1")]);
    let (link, task) = start(runtime, near.clone(), near.clone(), lines);
    let mut ours = Cost::default();
    for _ in 0..READINGS {
        // The first fills the window; the others wait in the kernel.
        let first = near.count.load(Relaxed);
        fill(&sim);
        near.open.add_permits(WAITING);
        let start = Clocks::now();
        // Until nothing more comes: the kernel may have taken two for one.
        let (mut seen, mut last) = (first, start);
        while last.wall.elapsed() < AT_REST {
            thread::sleep(Duration::from_micros(500));
            let count = near.count.load(Relaxed);
            if count > seen {
                (seen, last) = (count, Clocks::now());
            }
        }
        ours.add(seen - first, start, last);
        near.open.forget_permits(usize::MAX);
    }
    link.start_drain();
    near.open.add_permits(100_000);
    runtime.block_on(task).unwrap();

    let input = input(&sim);
    let mut bare = Cost::default();
    for _ in 0..READINGS {
        fill(&sim);
        let start = Clocks::now();
        let mut count = 0;
        let mut buffer = input.new_edge_event_buffer(64);
        while buffer.has_event().unwrap() {
            let edge = buffer.read_event().unwrap();
            let time = chrono::DateTime::from_timestamp_nanos(edge.timestamp_ns as i64);
            let rising = edge.kind == EdgeKind::Rising;
            let payload = serde_json::to_vec(&serde_json::json!({
                "line": "edge",
                "level": u8::from(rising),
                "edge": if rising { "rising" } else { "falling" },
                "seq": edge.line_seqno,
                "time": time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
            }));
            std::hint::black_box(payload.unwrap());
            count += 1;
        }
        bare.add(count, start, Clocks::now());
    }
    ours.print("source", &bare);
}

/// Makes edges wait in the kernel.
fn fill(sim: &Sim) {
    let pulling = File::options().write(true).open(sim.pull_file(0)).unwrap();
    for n in 0..WAITING {
        pulling.write_all_at(pull(n % 2 == 0).as_bytes(), 0).unwrap();
        // See `Sim::pull`.
        thread::sleep(Duration::from_micros(500));
    }
    thread::sleep(Duration::from_millis(20));
}

fn sink(runtime: &Runtime) {
    let sim = Sim::start(&["OUT"]);
    let near = Arc::new(Near::default());
    let _inside = runtime.enter();
    let link = link(Direction::Sink);
    let sink =
        GpioSink::open(settings(r#"{"edge":{"line":"OUT"}}"#, &[]), link.clone(), near).unwrap();
    reaches(&link);
    let mut writer = BatchWriter::new([("id", "b")]).unwrap();
    let payloads: Vec<String> =
        (0..BATCH).map(|n| format!(r#"{{"line":"edge","level":{}}}"#, n % 2)).collect();
    for payload in &payloads {
        let fields =
            Fields { timestamp: now_ns(), payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, []).unwrap();
    }
    let batch = Bytes::from(writer.finish());
    let (start, mut count) = (Clocks::now(), 0);
    while start.wall.elapsed() < SETTING {
        runtime.block_on(sink.write(batch.clone())).unwrap();
        count += BATCH as u64;
    }
    let mut ours = Cost::default();
    ours.add(count, start, Clocks::now());
    runtime.block_on(sink.close());

    let output = gpiocdev::Request::builder()
        .on_chip(sim.device())
        .with_line(0)
        .as_output(Value::Inactive)
        .request()
        .unwrap();
    let (start, mut count) = (Clocks::now(), 0);
    while start.wall.elapsed() < SETTING {
        for payload in &payloads {
            let object: serde_json::Value = serde_json::from_str(payload).unwrap();
            let active = object["line"] == "edge" && object["level"] == 1;
            output.set_value(0, if active { Value::Active } else { Value::Inactive }).unwrap();
        }
        count += BATCH as u64;
    }
    let mut bare = Cost::default();
    bare.add(count, start, Clocks::now());
    ours.print("sink", &bare);
}

/// Messages, and the time they took: on the wall and of the processor.
#[derive(Default)]
struct Cost {
    messages: u64,
    wall: Duration,
    cpu: Duration,
}

impl Cost {
    /// What so many messages took from one time to another.
    fn add(&mut self, messages: u64, from: Clocks, to: Clocks) {
        self.messages += messages;
        self.wall += to.wall - from.wall;
        self.cpu += to.cpu - from.cpu;
    }

    fn print(&self, what: &str, bare: &Self) {
        let rate = |cost: &Self| cost.messages as f64 / cost.wall.as_secs_f64();
        let cpu = |cost: &Self| cost.cpu.as_secs_f64() * 1e6 / cost.messages as f64;
        println!("{what} ({} and {} messages):", self.messages, bare.messages);
        println!(
            "  {:.0} messages/s; plain library {:.0}; ratio {:.2}",
            rate(self),
            rate(bare),
            rate(self) / rate(bare)
        );
        println!(
            "  {:.1} us of CPU a message; plain library {:.1}; ratio {:.2}",
            cpu(self),
            cpu(bare),
            cpu(self) / cpu(bare)
        );
    }
}

/// The wall clock and the CPU time of this process.
#[derive(Clone, Copy)]
struct Clocks {
    wall: Instant,
    cpu: Duration,
}

impl Clocks {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap());
        Self { wall: Instant::now(), cpu }
    }
}

/// A stage that only counts, as often as it is let.
struct Near {
    count: AtomicU64,
    open: Semaphore,
}

impl Default for Near {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), open: Semaphore::new(0) }
    }
}

impl Stage for Near {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            self.open.acquire().await.unwrap().forget();
            self.count.fetch_add(Batch::open(&body).unwrap().len() as u64, Relaxed);
            Ok(())
        })
    }
}

impl DeadLetters for Near {
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        panic!("{letters:?}");
    }
}

/// A stage that does nothing and hands on to a sink.
struct Through(Arc<GpioSink>, Arc<Set>);

impl Stage for Through {
    fn call<'a>(&'a self, body: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            self.0.write(body).await.map_err(|e| CallError::Downstream(e.to_string()))?;
            self.1.now();
            Ok(())
        })
    }
}

fn input(sim: &Sim) -> gpiocdev::Request {
    gpiocdev::Request::builder()
        .on_chip(sim.device())
        .with_line(0)
        .with_edge_detection(EdgeDetection::BothEdges)
        .with_event_clock(EventClock::Realtime)
        .with_kernel_event_buffer_size(1_024)
        .request()
        .unwrap()
}

fn settings<S: Settings>(lines: &str, more: &[(&str, &str)]) -> S {
    let mut flat: std::collections::BTreeMap<String, String> =
        more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    flat.insert("lines".to_owned(), lines.to_owned());
    from_flat(&flat, &[]).unwrap()
}

fn link(direction: Direction) -> Arc<Link> {
    let names = LinkNames { pipeline: "p".into(), name: "gpio".into(), stage: "s".into() };
    Arc::new(Link::new(names, direction))
}

fn reaches(link: &Link) {
    while link.state() != State::Connected {
        thread::sleep(Duration::from_millis(5));
    }
}

fn start(
    runtime: &Runtime,
    stage: Arc<dyn Stage>,
    dead: Arc<dyn DeadLetters>,
    settings: millrace_settings::gpio::SourceSettings,
) -> (Arc<Link>, tokio::task::JoinHandle<()>) {
    let limits = Limits { messages: 500, bytes: 256 * 1024, linger: Duration::ZERO };
    let link = link(Direction::Source);
    let policy = Policy {
        in_flight: 1,
        call_timeout: Duration::from_secs(600),
        attempts: 5,
        suspect_after: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
    };
    let delivery = Arc::new(Delivery::new(stage, dead, link.clone(), policy));
    let source = Box::new(GpioSource::new(settings, limits));
    let task = runtime.spawn(source.run(link.clone(), delivery));
    reaches(&link);
    (link, task)
}
