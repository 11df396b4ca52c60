//! The source: ask at an interval, send readings on.
//!
//! A device cannot be asked for what it measured a minute ago, so back-pressure
//! cannot be handed on to it: while too much is held for the stage, cycles are
//! skipped and their readings counted as dropped. Nothing queues without bound.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_batch::Fields;
use millrace_kit::telemetry::now_ns;
use millrace_kit::{Delivery, ErrorKind, Inlet, Limits, Link, Source};
use millrace_settings::modbus::{Emit, SourceSettings};
use millrace_settings::{FieldError, Settings};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::client::{Answer, Timing};
use crate::plan::{self, Item, plan};
use crate::poller::{Outcome, Poller, Step};
use crate::port::Port;
use crate::reading::{Decoder, Reading, rfc3339};
use crate::transport::Transport;
use crate::{CONTENT_TYPE, INGEST_TIME};

/// How many cycles of readings may be held for the stage, and how many
/// readings at least.
const HELD_CYCLES: usize = 4;
const HELD_LEAST: usize = 1_000;

/// Most bytes of readings held.
const HELD_BYTES: usize = 16 << 20;

/// Reads from Modbus devices.
pub struct ModbusSource {
    settings: SourceSettings,
    limits: Limits,
    items: Vec<Item>,
    points: Vec<Point>,
}

impl std::fmt::Debug for ModbusSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModbusSource").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A field while it is read.
struct Point {
    /// Its name, the topic.
    name: String,
    /// Its name as JSON.
    json: String,
    /// The key: its unit.
    key: String,
    decoder: Decoder,
    deadband: Option<f64>,
    /// What was sent last, with `emit: change`.
    last: Option<Reading>,
}

impl ModbusSource {
    /// A source.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong.
    pub fn new(settings: SourceSettings, limits: Limits) -> Result<Self, FieldError> {
        settings.check()?;
        let mut items = Vec::with_capacity(settings.fields.len());
        let mut points = Vec::with_capacity(settings.fields.len());
        for (name, field) in &settings.fields {
            let wire = field.wire(settings.base)?;
            let decoder = Decoder::of(field, wire);
            let unit = u8::try_from(field.unit.get()).unwrap_or(u8::MAX);
            items.push(Item { unit, wire, count: decoder.count() });
            points.push(Point {
                name: name.clone(),
                json: serde_json::Value::from(name.as_str()).to_string(),
                key: unit.to_string(),
                decoder,
                deadband: field.deadband.map(|band| band.get()),
                last: None,
            });
        }
        Ok(Self { settings, limits, items, points })
    }

    /// The reads it makes every cycle, with their addresses on the wire: one
    /// line for each.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let name = |place: usize| self.points.get(place).map_or("", |point| point.name.as_str());
        plan(&self.items, plan::Limits::from(&self.settings))
            .iter()
            .map(|request| request.describe(name))
            .collect()
    }
}

impl Source for ModbusSource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            for line in self.describe() {
                tracing::info!(link = link.names.name, "reads {line}");
            }
            let settings = &self.settings;
            let timing = Timing::of_source(settings);
            let port = Port::new(&Transport::of_source(settings), timing, Arc::clone(&link));
            let limits = plan::Limits::from(settings);
            let every = settings.interval.get();
            let poller = Poller::new(port, Arc::clone(&link), self.items, limits, every);
            let held = self.points.len().saturating_mul(HELD_CYCLES).max(HELD_LEAST);
            let mut run = Run {
                inlet: Inlet::new(delivery, Arc::clone(&link), self.limits),
                link,
                poller,
                points: self.points,
                on_change: settings.emit == Emit::Change,
                close_after_cycle: settings.close_after_cycle,
                every,
                held,
                skipping: false,
                late: false,
                payload: Vec::with_capacity(256),
            };
            run.until_drained().await;
            run.inlet.finish(&run.link.leave).await;
        })
    }
}

/// A source while it runs.
struct Run {
    inlet: Inlet<()>,
    link: Arc<Link>,
    poller: Poller,
    points: Vec<Point>,
    on_change: bool,
    close_after_cycle: bool,
    every: Duration,
    /// Most readings held.
    held: usize,
    /// The last cycle was skipped.
    skipping: bool,
    /// The last cycle took longer than the interval.
    late: bool,
    payload: Vec<u8>,
}

impl Run {
    async fn until_drained(&mut self) {
        let mut ticks = interval(self.every);
        // After a long cycle the next begins at the next whole interval.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let drain = self.link.drain.clone();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                _ = meanwhile(&mut self.inlet, ticks.tick()) => {}
            }
            if !self.inlet.has_room(self.held, HELD_BYTES) {
                self.skip();
                continue;
            }
            self.skipping = false;
            let started = Instant::now();
            tokio::select! {
                // A request under way is given up: its connection ends with it.
                () = drain.cancelled() => return,
                () = self.cycle() => {}
            }
            self.look_at_time(started.elapsed());
        }
    }

    /// Leaves a cycle out, and says so when it is the first of several.
    fn skip(&mut self) {
        self.link.telemetry.dropped(self.points.len() as u64);
        if !self.skipping {
            self.skipping = true;
            self.link.noticed(format_args!(
                "the stage is slower than the readings: cycles are skipped while {} wait",
                self.held
            ));
        }
    }

    fn look_at_time(&mut self, took: Duration) {
        let late = took > self.every;
        if late && !self.late {
            let every = self.every;
            self.link.noticed(format_args!("a cycle took {took:?}, the interval is {every:?}"));
        }
        self.late = late;
    }

    async fn cycle(&mut self) {
        self.poller.begin();
        let mut place = 0;
        while let Some(step) = meanwhile(&mut self.inlet, self.poller.step(place)).await {
            match step {
                Step::Again => {}
                Step::Done(outcome) => {
                    self.send(place, &outcome);
                    place += 1;
                }
            }
        }
        self.poller.end();
        if self.close_after_cycle {
            self.poller.port.close().await;
        }
    }

    /// Sends the readings of one request on.
    fn send(&mut self, place: usize, outcome: &Outcome) {
        let Some(request) = self.poller.request(place) else { return };
        let time = rfc3339(outcome.time);
        let ingest = rfc3339(now_ns());
        for field in &request.fields {
            let (Some(point), Some(item)) =
                (self.points.get_mut(*field), self.poller.items().get(*field))
            else {
                continue;
            };
            let reading = point.reading(&outcome.result, request.place(item));
            if self.on_change {
                if point.last.as_ref().is_some_and(|last| !reading.differs(last, point.deadband)) {
                    continue;
                }
                point.last = Some(reading.clone());
            }
            self.payload.clear();
            reading.write_json(&point.json, &time, &mut self.payload);
            let message = Fields {
                timestamp: outcome.time,
                topic: &point.name,
                content_type: Some(CONTENT_TYPE),
                key: Some(point.key.as_bytes()),
                payload: &self.payload,
            };
            if let Err(error) = self.inlet.push(&message, &[(INGEST_TIME, ingest.as_str())], ()) {
                self.link.telemetry.dropped(1);
                let name = &point.name;
                self.link
                    .telemetry
                    .error(ErrorKind::Batch, format_args!("reading of {name} dropped: {error}"));
            }
        }
    }
}

impl Point {
    fn reading(&self, result: &Result<Answer, Arc<str>>, place: usize) -> Reading {
        let short = || Reading::bad("the answer is too short".into());
        match result {
            Ok(Answer::Bits(bits)) => bits.get(place).map_or_else(short, |bit| Decoder::bit(*bit)),
            Ok(Answer::Words(words)) => {
                words.get(place..).map_or_else(short, |words| self.decoder.read(words))
            }
            Ok(Answer::Done) => short(),
            Err(why) => Reading::bad(Arc::clone(why)),
        }
    }
}

/// Waits for `work`, and lets batches go on meanwhile.
async fn meanwhile<T: Send + 'static, W: Future>(inlet: &mut Inlet<T>, work: W) -> W::Output {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            output = &mut work => return output,
            _ = inlet.settled() => {}
        }
    }
}
