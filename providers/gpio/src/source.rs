//! The source: wait for edges, take them, hand them on.
//!
//! One task does everything. Edges cannot be asked for again, so nothing is
//! acknowledged here; what holds back is that while the window is full the
//! kernel is not read, and its buffer, which drops the oldest edges, numbers
//! them: whatever is lost is counted.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_batch::Fields;
use millrace_kit::telemetry::now_ns;
use millrace_kit::{Backoff, Delivery, ErrorKind, Inlet, Limits, Link, Source};
use millrace_settings::gpio::{InputLine, Level, SourceSettings};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::chip::{self, Happened, Input, Reading};
use crate::clock::Wall;
use crate::error::LineError;
use crate::loss::Losses;
use crate::report;

/// Most bytes of messages taken and not yet safe.
const HELD_BYTES: usize = 64 << 20;

/// Most rounds of reading at the end. As many as empty the largest buffer of
/// the kernel, so that a line that never rests cannot hold up the end.
const LAST_ROUNDS: usize = 17;

/// Reads GPIO lines.
#[derive(Debug)]
pub struct GpioSource {
    settings: SourceSettings,
    limits: Limits,
}

impl GpioSource {
    /// A source. Nothing is opened before it runs.
    #[must_use]
    pub const fn new(settings: SourceSettings, limits: Limits) -> Self {
        Self { settings, limits }
    }
}

impl Source for GpioSource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let settings = self.settings;
            let reading = Reading {
                clock: settings.event_clock,
                kernel_buffer: u32::try_from(settings.kernel_buffer.get()).unwrap_or(u32::MAX),
                consumer: chip::consumer(&link.names.pipeline, &link.names.name),
            };
            let lines = settings.lines.into_iter().map(Line::new).collect();
            let ticker = settings.interval.map(|period| {
                let mut ticker = interval_at(Instant::now() + period.get(), period.get());
                ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
                ticker
            });
            let mut session = Session {
                inlet: Inlet::new(delivery, Arc::clone(&link), self.limits),
                link,
                lines,
                reading,
                initial: settings.initial,
                window: settings.window.as_usize(),
                at_once: self.limits.linger.is_zero(),
                ticker,
                opening: None,
                sampling: None,
                losses: Losses::default(),
                backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            };
            session.open_missing(Duration::ZERO);
            session.take_until_drained().await;
            session.finish().await;
        })
    }
}

struct Line {
    name: String,
    settings: InputLine,
    input: Option<AsyncFd<Arc<Input>>>,
    /// Why there is no input.
    error: String,
    /// Whether it was open once.
    seen: bool,
    /// Number of the next edge.
    next: u32,
}

impl Line {
    fn new((name, settings): (String, InputLine)) -> Self {
        let error = "not open yet".to_owned();
        Self { name, settings, input: None, error, seen: false, next: 1 }
    }
}

/// A line's place and the line opened, with its level if that was asked for.
type Opened = (usize, Result<(Input, Option<(Level, u64)>), LineError>);

/// A line's place, the input that was looked at, and its level.
type Sampled = (usize, Arc<Input>, Result<(Level, u64), LineError>);

struct Session {
    inlet: Inlet<()>,
    link: Arc<Link>,
    lines: Vec<Line>,
    reading: Reading,
    initial: bool,
    window: usize,
    /// Whether a batch is sent off as soon as something is in it.
    at_once: bool,
    ticker: Option<Interval>,
    /// Lines being opened.
    opening: Option<BoxFuture<'static, Vec<Opened>>>,
    /// Levels being looked at.
    sampling: Option<BoxFuture<'static, Vec<Sampled>>>,
    losses: Losses,
    backoff: Backoff,
}

/// What ended a wait.
enum Woken {
    Edges,
    Opened(Vec<Opened>),
    Tick,
    Sampled(Vec<Sampled>),
    Settled,
    Drain,
}

impl Session {
    async fn take_until_drained(&mut self) {
        let link = Arc::clone(&self.link);
        loop {
            match self.wait(&link).await {
                Woken::Edges => self.take_edges(),
                Woken::Opened(opened) => self.on_opened(opened),
                Woken::Tick => self.sample(),
                Woken::Sampled(sampled) => self.on_sampled(sampled),
                Woken::Settled => {}
                Woken::Drain => return,
            }
            self.losses.say(&self.link, false);
            if self.at_once {
                self.inlet.flush();
            }
        }
    }

    async fn wait(&mut self, link: &Link) -> Woken {
        let room = self.inlet.has_room(self.window, HELD_BYTES);
        let unsaid = self.losses.due();
        tokio::select! {
            () = readable(&self.lines), if room => Woken::Edges,
            opened = done(&mut self.opening) => Woken::Opened(opened),
            sampled = done(&mut self.sampling) => Woken::Sampled(sampled),
            () = tick(&mut self.ticker), if room && self.sampling.is_none() => Woken::Tick,
            // There is no one to acknowledge to; it makes room.
            _ = self.inlet.settled() => Woken::Settled,
            () = tokio::time::sleep_until(unsaid.unwrap_or_else(Instant::now)), if unsaid.is_some() => {
                Woken::Settled
            }
            () = link.drain.cancelled() => Woken::Drain,
        }
    }

    /// Takes what is there of every line, oldest first.
    fn take_edges(&mut self) {
        let take = |input: &AsyncFd<Arc<Input>>, into: &mut Vec<Happened>| {
            let mut looked = false;
            let result = input.try_io(Interest::READABLE, |input| {
                looked = true;
                input.edges(into)
            });
            // What the reactor has not yet noticed may be older than what it has.
            if looked { result } else { input.get_ref().edges(into) }
        };
        self.take(take);
    }

    /// Takes edges with `take` and pushes them. False when there was none.
    fn take(
        &mut self,
        take: impl Fn(&AsyncFd<Arc<Input>>, &mut Vec<Happened>) -> io::Result<()>,
    ) -> bool {
        let wall = Wall::now(self.reading.clock);
        let mut taken: Vec<(u64, usize, Happened)> = Vec::new();
        let mut edges = Vec::new();
        let mut lost = Vec::new();
        for (place, line) in self.lines.iter().enumerate() {
            let Some(input) = &line.input else { continue };
            match take(input, &mut edges) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => lost.push((place, input.get_ref().failed(&error))),
            }
            taken.extend(edges.drain(..).map(|edge| (wall.of(edge.timestamp), place, edge)));
        }
        // Several lines were read one after the other: into the order in which
        // it happened.
        taken.sort_by_key(|(time, ..)| *time);
        let any = !taken.is_empty();
        for (time, place, edge) in taken {
            self.push_edge(place, edge, time);
        }
        for (place, error) in lost {
            self.on_lost(place, &error);
        }
        any
    }

    fn push_edge(&mut self, place: usize, edge: Happened, time: u64) {
        let Some(line) = self.lines.get_mut(place) else { return };
        let missing = edge.seq.wrapping_sub(line.next);
        line.next = edge.seq.wrapping_add(1);
        if missing > 0 {
            self.losses.add(&self.link, missing);
        }
        let payload = report::edge(&line.name, edge.level, edge.seq, missing, time);
        push(&mut self.inlet, &self.link, &line.name, &payload, time);
    }

    fn push_sample(&mut self, place: usize, level: Level, why: &'static str, time: u64) {
        let Some(line) = self.lines.get(place) else { return };
        let payload = report::sample(&line.name, level, why, time);
        push(&mut self.inlet, &self.link, &line.name, &payload, time);
    }

    /// Opens the lines that are missing, after a pause, off the runtime.
    fn open_missing(&mut self, pause: Duration) {
        let missing: Vec<(usize, InputLine)> = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.input.is_none())
            .map(|(place, line)| (place, line.settings.clone()))
            .collect();
        let (reading, initial) = (self.reading.clone(), self.initial);
        self.opening = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let open = move || {
                let open = |settings: &InputLine| {
                    let input = Input::open(settings, &reading)?;
                    let level = if initial { Some((input.level()?, now_ns())) } else { None };
                    Ok((input, level))
                };
                missing.iter().map(|(place, settings)| (*place, open(settings))).collect()
            };
            // Fails only if opening panicked; then it is tried again.
            tokio::task::spawn_blocking(open).await.unwrap_or_default()
        }));
    }

    fn on_opened(&mut self, opened: Vec<Opened>) {
        self.opening = None;
        for (place, result) in opened {
            let Some(line) = self.lines.get_mut(place) else { continue };
            let registered = result.and_then(|(input, level)| {
                let input = Arc::new(input);
                let fd = AsyncFd::with_interest(Arc::clone(&input), Interest::READABLE);
                Ok((fd.map_err(|e| input.failed(&e))?, level))
            });
            match registered {
                Ok((input, level)) => {
                    if line.seen {
                        self.link.telemetry.reconnected();
                    }
                    line.input = Some(input);
                    line.seen = true;
                    line.next = 1;
                    if let Some((level, time)) = level {
                        self.push_sample(place, level, "start", time);
                    }
                }
                Err(error) => line.error = error.to_string(),
            }
        }
        self.say();
    }

    /// Tells the link how things are, and sees to what is missing.
    fn say(&mut self) {
        let missing: Vec<&Line> = self.lines.iter().filter(|line| line.input.is_none()).collect();
        match missing.as_slice() {
            [] => {
                self.link.connected();
                self.backoff.reset();
                return;
            }
            [line] => self.link.retrying(format_args!("{}: {}", line.name, line.error)),
            [line, others @ ..] => self.link.retrying(format_args!(
                "{}: {} (and {} more lines)",
                line.name,
                line.error,
                others.len()
            )),
        }
        if self.opening.is_none() {
            let pause = self.backoff.next_pause();
            self.open_missing(pause);
        }
    }

    /// A line's chip was taken away, or cannot be read.
    fn on_lost(&mut self, place: usize, error: &LineError) {
        let Some(line) = self.lines.get_mut(place) else { return };
        line.input = None;
        line.error = error.to_string();
        self.say();
    }

    /// Looks at the level of every open line, off the runtime.
    fn sample(&mut self) {
        let open: Vec<(usize, Arc<Input>)> = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(place, line)| Some((place, Arc::clone(line.input.as_ref()?.get_ref()))))
            .collect();
        self.sampling = Some(Box::pin(async move {
            let look = move || {
                let look = |(place, input): (usize, Arc<Input>)| {
                    let level = input.level().map(|level| (level, now_ns()));
                    (place, input, level)
                };
                open.into_iter().map(look).collect()
            };
            tokio::task::spawn_blocking(look).await.unwrap_or_default()
        }));
    }

    fn on_sampled(&mut self, sampled: Vec<Sampled>) {
        self.sampling = None;
        // An edge that came before a look is told before it.
        self.take(|input, into| input.get_ref().edges(into));
        for (place, input, level) in sampled {
            let current = self.lines.get(place).and_then(|line| line.input.as_ref());
            // Lost since, and perhaps open again: another look will follow.
            if current.is_none_or(|current| !Arc::ptr_eq(current.get_ref(), &input)) {
                continue;
            }
            match level {
                Ok((level, time)) => self.push_sample(place, level, "interval", time),
                Err(error) if error.is_gone() => self.on_lost(place, &error),
                Err(error) => {
                    let name = self.lines.get(place).map_or("", |line| line.name.as_str());
                    self.link.noticed(format_args!("{name}: {error}"));
                }
            }
        }
    }

    /// Takes what the kernel still has, lets the lines go, and returns when all
    /// that was taken is safe.
    async fn finish(&mut self) {
        for _ in 0..LAST_ROUNDS {
            if !self.take(|input, into| input.get_ref().edges(into)) {
                break;
            }
        }
        (self.opening, self.sampling) = (None, None);
        self.lines.clear();
        self.losses.say(&self.link, true);
        self.inlet.finish(&self.link.leave).await;
    }
}

fn push(inlet: &mut Inlet<()>, link: &Link, line: &str, payload: &[u8], time: u64) {
    let fields = Fields {
        timestamp: time,
        topic: line,
        content_type: Some(report::CONTENT_TYPE),
        key: None,
        payload,
    };
    if let Err(error) = inlet.push(&fields, &[], ()) {
        link.telemetry.dropped(1);
        link.telemetry.error(ErrorKind::Batch, format_args!("{line}: {error}"));
    }
}

/// Completes when a line can be read. Cancelled without loss.
async fn readable(lines: &[Line]) {
    poll_fn(|context| {
        for input in lines.iter().filter_map(|line| line.input.as_ref()) {
            // An error shows again when the line is read.
            if input.poll_read_ready(context).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

/// The result of work under way; never, when there is none.
async fn done<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn tick(ticker: &mut Option<Interval>) {
    match ticker {
        Some(ticker) => {
            ticker.tick().await;
        }
        None => pending().await,
    }
}
