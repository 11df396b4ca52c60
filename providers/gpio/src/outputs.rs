//! The outputs of a sink, on a thread of their own.
//!
//! Setting a line can block: a chip behind a bus takes milliseconds, a bus that
//! hangs takes as long as its driver waits. And a watchdog must bite also when
//! the runtime is busy. So one thread owns the lines, does the writes in turn,
//! keeps the watchdogs' time and opens what is missing. When its commands end,
//! however that comes about, it sets every line safe and lets it go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use millrace_kit::{Backoff, CancellationToken, Link};
use millrace_settings::gpio::{Level, OutputLine};
use tokio::sync::oneshot;

use crate::chip::{Output, Outputs};

/// Most writes waiting for their turn.
const QUEUE: usize = 16;

/// Pause before a line that could not be set safe is tried again.
const SAFE_AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked whether the lines are still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a write was not done. Levels before the one that failed are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// A line is not there; nothing was set.
    Missing {
        /// The line's name in the settings.
        line: String,
        /// Why it is not there.
        reason: String,
    },
    /// The kernel did not set a line.
    Refused {
        /// The line's name in the settings.
        line: String,
        /// What it said.
        reason: String,
    },
    /// The thread is held up by earlier writes.
    Busy,
    /// The outputs have been closed.
    Closed,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: SyncSender<Command>,
}

/// What can be seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// How many lines are open.
    pub(crate) held: Arc<AtomicUsize>,
    /// Cancelled when every line is safe and let go.
    pub(crate) ended: CancellationToken,
}

/// Levels to be set, in this order, by the line's place in the settings.
struct Command {
    levels: Vec<(usize, Level)>,
    answer: oneshot::Sender<Result<(), Failed>>,
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone() }
    }
}

impl Handle {
    /// Sets levels, and returns when the kernel has them.
    pub(crate) async fn write(self, levels: Vec<(usize, Level)>) -> Result<(), Failed> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.try_send(Command { levels, answer });
        // A writer that waits must not keep the thread from ending.
        drop(self);
        match sent {
            Ok(()) => answered.await.unwrap_or(Err(Failed::Closed)),
            Err(TrySendError::Full(_)) => Err(Failed::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Failed::Closed),
        }
    }
}

/// Starts the thread. It ends when the last handle is dropped.
///
/// # Errors
///
/// When the operating system has no thread to give.
pub(crate) fn start(
    outputs: Box<dyn Outputs>,
    lines: Vec<(String, OutputLine)>,
    link: Arc<Link>,
) -> io::Result<(Handle, View)> {
    let (commands, waiting) = sync_channel(QUEUE);
    let view = View { held: Arc::default(), ended: CancellationToken::new() };
    let worker = Worker {
        outputs,
        lines: lines.into_iter().map(Line::new).collect(),
        link,
        held: Arc::clone(&view.held),
        backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
        open_at: Some(Instant::now()),
        look_at: Instant::now() + LOOK_EVERY,
    };
    let ended = view.ended.clone();
    std::thread::Builder::new().name("gpio outputs".to_owned()).spawn(move || {
        let _ended = ended.drop_guard();
        worker.run(&waiting);
    })?;
    Ok((Handle { commands }, view))
}

struct Worker {
    outputs: Box<dyn Outputs>,
    lines: Vec<Line>,
    link: Arc<Link>,
    held: Arc<AtomicUsize>,
    backoff: Backoff,
    /// When missing lines are opened.
    open_at: Option<Instant>,
    /// When it is looked whether the lines are still there.
    look_at: Instant,
}

struct Line {
    name: String,
    settings: OutputLine,
    output: Option<Box<dyn Output>>,
    /// Why there is no output.
    error: String,
    /// Whether it was open once: what it was last set to may be out of date.
    seen: bool,
    /// When the line is set safe for want of writes.
    trips_at: Option<Instant>,
}

impl Line {
    fn new((name, settings): (String, OutputLine)) -> Self {
        let error = "not open yet".to_owned();
        Self { name, settings, output: None, error, seen: false, trips_at: None }
    }

    fn arm(&mut self) {
        self.trips_at = self.settings.watchdog.map(|limit| Instant::now() + limit.get());
    }
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            // Before anything is waited for, and after every command: a stream
            // of writes to one line does not put off another line's watchdog.
            self.open_due();
            self.trip_due();
            self.look_due();
            let wait = self.next_due().saturating_duration_since(Instant::now());
            match commands.recv_timeout(wait) {
                Ok(Command { levels, answer }) => {
                    let result = self.write(&levels);
                    // Nobody waits any more: it is tried again.
                    let _ = answer.send(result);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.make_safe();
    }

    fn next_due(&self) -> Instant {
        let due = self.lines.iter().filter_map(|line| line.trips_at).chain(self.open_at);
        due.fold(self.look_at, Instant::min)
    }

    /// Notices lines that are gone, also when nothing is written to them.
    fn look_due(&mut self) {
        if self.look_at > Instant::now() {
            return;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        for place in 0..self.lines.len() {
            let output = self.lines.get(place).and_then(|line| line.output.as_ref());
            if let Some(Err(error)) = output.map(|output| output.check())
                && error.is_gone()
            {
                self.lost(place, &error.to_string());
            }
        }
    }

    /// Sets levels in their order. When a line is missing, none is set.
    fn write(&mut self, levels: &[(usize, Level)]) -> Result<(), Failed> {
        for (place, _) in levels {
            match self.lines.get(*place) {
                Some(line) if line.output.is_none() => {
                    let (line, reason) = (line.name.clone(), line.error.clone());
                    return Err(Failed::Missing { line, reason });
                }
                _ => {}
            }
        }
        for (place, level) in levels {
            self.set(*place, *level)?;
        }
        Ok(())
    }

    fn set(&mut self, place: usize, level: Level) -> Result<(), Failed> {
        let Some(line) = self.lines.get_mut(place) else { return Ok(()) };
        let Some(output) = &line.output else {
            // Lost while this same command was being done.
            let (line, reason) = (line.name.clone(), line.error.clone());
            return Err(Failed::Missing { line, reason });
        };
        match output.set(level) {
            Ok(()) => {
                line.arm();
                Ok(())
            }
            Err(error) => {
                let (name, reason) = (line.name.clone(), error.to_string());
                if error.is_gone() {
                    self.lost(place, &reason);
                }
                Err(Failed::Refused { line: name, reason })
            }
        }
    }

    /// A line's chip was taken away.
    fn lost(&mut self, place: usize, reason: &str) {
        if let Some(line) = self.lines.get_mut(place) {
            line.output = None;
            line.trips_at = None;
            reason.clone_into(&mut line.error);
        }
        self.backoff.reset();
        self.say();
        self.open_at = Some(Instant::now() + self.backoff.next_pause());
    }

    /// Sets safe what nobody has written to for too long.
    fn trip_due(&mut self) {
        let now = Instant::now();
        for place in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(place) else { continue };
            if line.trips_at.is_none_or(|due| due > now) {
                continue;
            }
            let Some(output) = &line.output else { continue };
            let limit = line.settings.watchdog.map(|limit| limit.to_string()).unwrap_or_default();
            match output.set(line.settings.safe) {
                Ok(()) => {
                    line.trips_at = None;
                    self.link.noticed(format_args!(
                        "{}: nothing written for {limit}: set to its safe level",
                        line.name
                    ));
                }
                Err(error) if error.is_gone() => self.lost(place, &error.to_string()),
                Err(error) => {
                    line.trips_at = Some(now + SAFE_AGAIN);
                    self.link.noticed(format_args!("{}: not set safe: {error}", line.name));
                }
            }
        }
    }

    /// Opens what is missing, when its time has come.
    fn open_due(&mut self) {
        if self.open_at.is_none_or(|due| due > Instant::now()) {
            return;
        }
        for line in self.lines.iter_mut().filter(|line| line.output.is_none()) {
            let safe = line.settings.safe;
            // What is found again has missed writes: its last level is stale.
            let level = if line.seen { safe } else { line.settings.initial.unwrap_or(safe) };
            match self.outputs.open(&line.settings, level) {
                Ok(output) => {
                    if line.seen {
                        self.link.telemetry.reconnected();
                    }
                    line.output = Some(output);
                    line.seen = true;
                    line.arm();
                }
                Err(error) => line.error = error.to_string(),
            }
        }
        let complete = self.say();
        if complete {
            self.backoff.reset();
        }
        self.open_at = (!complete).then(|| Instant::now() + self.backoff.next_pause());
    }

    /// Tells the link how things are. True when every line is open.
    fn say(&self) -> bool {
        let missing: Vec<&Line> = self.lines.iter().filter(|line| line.output.is_none()).collect();
        self.held.store(self.lines.len() - missing.len(), Relaxed);
        match missing.as_slice() {
            [] => self.link.connected(),
            [line] => self.link.retrying(format_args!("{}: {}", line.name, line.error)),
            [line, others @ ..] => self.link.retrying(format_args!(
                "{}: {} (and {} more lines)",
                line.name,
                line.error,
                others.len()
            )),
        }
        missing.is_empty()
    }

    /// Sets every line safe. The lines are let go only when all of them are.
    fn make_safe(&mut self) {
        for line in &self.lines {
            if let Some(output) = &line.output
                && let Err(error) = output.set(line.settings.safe)
            {
                self.link.noticed(format_args!("{}: not set safe: {error}", line.name));
            }
        }
        self.held.store(0, Relaxed);
        self.lines.clear();
    }
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
