//! The sink: write a batch's values, answer when the device has confirmed all.
//!
//! Requests are serial on one connection, in the order of the messages. A call
//! that runs out of time says so and is made again; it then goes on where it
//! was (see [`crate::memory`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, Message};
use millrace_kit::write::{self, Unwritable, WRITE_TIMEOUT};
use millrace_kit::{CancellationToken, DeadLetters, Link, Sink, State, WriteError};
use millrace_settings::modbus::{SinkSettings, Write};
use millrace_settings::{FieldError, Settings};
use parking_lot::Mutex;
use tokio::sync::Mutex as Queue;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::client::{Failure, Timing};
use crate::command::{Command, Granted};
use crate::memory::Memory;
use crate::port::Port;
use crate::transport::Transport;

/// How often a lost connection is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// How long closing waits for a write under way.
const GOODBYE: Duration = Duration::from_secs(4);

/// Writes to Modbus devices.
pub struct ModbusSink {
    shared: Arc<Shared>,
    granted: Granted,
    dead: Arc<dyn DeadLetters>,
    memory: Mutex<Memory>,
    latest: bool,
    /// Shortest time between two writes.
    gap: Duration,
    close_after_write: bool,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    link: Arc<Link>,
    line: Queue<Line>,
    close_after_write: bool,
    closed: CancellationToken,
}

/// The connection, for one write at a time.
struct Line {
    port: Port,
    /// When the next write may be made.
    next: Instant,
}

/// What became of one message.
enum Written {
    Yes,
    /// It never will be.
    Dead(String),
}

impl ModbusSink {
    /// A sink that connects in the background, again and again until it is
    /// closed. Messages that may not or cannot be written go to `dead`.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong.
    pub fn open(
        settings: SinkSettings,
        link: Arc<Link>,
        dead: Arc<dyn DeadLetters>,
    ) -> Result<Arc<Self>, FieldError> {
        settings.check()?;
        let timing = Timing::of_sink(&settings);
        let port = Port::new(&Transport::of_sink(&settings), timing, Arc::clone(&link));
        let shared = Arc::new(Shared {
            link,
            line: Queue::new(Line { port, next: Instant::now() }),
            close_after_write: settings.close_after_write,
            closed: CancellationToken::new(),
        });
        let rate = settings.rate.map(|rate| u32::try_from(rate.get()).unwrap_or(u32::MAX));
        Ok(Arc::new(Self {
            granted: Granted::new(&settings)?,
            dead,
            memory: Mutex::default(),
            latest: settings.write == Write::Latest,
            gap: rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate),
            close_after_write: settings.close_after_write,
            keeper: Mutex::new(Some(tokio::spawn(Arc::clone(&shared).keep_connected()))),
            shared,
        }))
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let batch = write::read(&body)?;
        let link = &self.shared.link;
        let deadline = Instant::now() + WRITE_TIMEOUT;
        if batch.is_empty() {
            return self.probe(deadline).await.map_err(|error| write::failed(link, error));
        }
        let writing = self.write_all(&batch, deadline);
        write::counted(link, || self.target(), &batch, body.len(), writing).await
    }

    /// Whether a batch could be written: there is a connection.
    async fn probe(&self, deadline: Instant) -> Result<(), WriteError> {
        let late = |_| self.too_late("the connection is busy");
        let mut line = timeout_at(deadline, self.shared.line.lock()).await.map_err(late)?;
        let late = |_| self.too_late("no connection yet");
        let connected = timeout_at(deadline, line.port.ensure()).await.map_err(late)?;
        connected.map_err(|failure| self.unreachable(&failure.to_string()))
    }

    /// Writes every message that is not done yet, in order.
    async fn write_all(&self, batch: &Batch<'_>, deadline: Instant) -> Result<u64, WriteError> {
        let held = self.shared.link.writers.of_batch(batch);
        let commands: Vec<Result<Command, Unwritable>> =
            batch.messages().map(|message| self.granted.command(&message, &held)).collect();
        let place = self.enter(batch, &commands);
        if place.done == commands.len() {
            self.shared.link.telemetry.duplicate();
            return Ok(0);
        }
        let late = |_| self.too_late("other writes take all the time");
        let mut line = timeout_at(deadline, self.shared.line.lock()).await.map_err(late)?;
        // Another call with the same batch may have ended meanwhile.
        let done = place.done.max(self.memory.lock().progress(place.first));
        let mut written = 0;
        let all = batch.messages().zip(&commands).enumerate().skip(done);
        for (n, (message, command)) in all {
            match command {
                Err(why) => self.bury(batch, n, &message, why).await?,
                Ok(command) if self.is_superseded(command, place.first + n as u64) => {
                    // A newer value for the field waits or is written.
                    self.shared.link.telemetry.dropped(1);
                }
                Ok(command) => match self.write_one(&mut line, command, deadline).await {
                    Ok(Written::Yes) => written += 1,
                    Ok(Written::Dead(reason)) => {
                        self.bury(batch, n, &message, &reason.into()).await?;
                    }
                    Err(error) => return Err(error),
                },
            }
            self.memory.lock().done(place.first, n + 1);
        }
        if self.close_after_write {
            line.port.close().await;
        }
        Ok(written)
    }

    fn enter(
        &self,
        batch: &Batch<'_>,
        commands: &[Result<Command, Unwritable>],
    ) -> crate::memory::Place {
        let mut memory = self.memory.lock();
        let place = memory.enter(batch.header(millrace_batch::ID), commands.len());
        for (n, command) in commands.iter().enumerate() {
            if let Ok(command) = command {
                memory.value(command.field, place.first + n as u64);
            }
        }
        place
    }

    fn is_superseded(&self, command: &Command, number: u64) -> bool {
        self.latest && self.memory.lock().is_superseded(command.field, number)
    }

    /// One write, when the rate allows it.
    async fn write_one(
        &self,
        line: &mut Line,
        command: &Command,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        // A request that is given up half-way costs the connection: none is
        // begun that may not end in time.
        let begin = line.next.max(Instant::now());
        if begin + line.port.timing().timeout > deadline {
            return Err(
                self.too_late("not all is written yet; the rest follows with the next call")
            );
        }
        // A timer in the past would still cost up to a millisecond.
        if begin > Instant::now() {
            sleep_until(begin).await;
        }
        line.next = begin + self.gap;
        match line.port.ask(command.unit, &command.order).await {
            Ok(_) => {
                line.port.is_there();
                Ok(Written::Yes)
            }
            // The device will say the same whenever it is asked.
            Err(failure @ Failure::Exception(1..=3)) => {
                line.port.is_there();
                Ok(Written::Dead(format!("{}: {failure}", command.what)))
            }
            Err(failure @ Failure::Exception(_)) => {
                line.port.is_there();
                let reason = format!("{}: {failure}", command.what);
                Err(WriteError::Refused { target: self.target(), reason })
            }
            Err(Failure::Timeout(after)) => {
                let target = format!("{}: {}", self.target(), command.what);
                Err(WriteError::Timeout { target, after })
            }
            Err(failure) => Err(self.unreachable(&format!("{}: {failure}", command.what))),
        }
    }

    async fn bury(
        &self,
        batch: &Batch<'_>,
        place: usize,
        message: &Message<'_>,
        why: &Unwritable,
    ) -> Result<(), WriteError> {
        write::bury(&*self.dead, &self.shared.link, batch, place, message, why).await
    }

    fn unreachable(&self, reason: &str) -> WriteError {
        WriteError::Unreachable { target: self.target(), reason: reason.to_owned() }
    }

    fn too_late(&self, why: &str) -> WriteError {
        WriteError::Timeout { target: format!("{}: {why}", self.target()), after: WRITE_TIMEOUT }
    }

    fn target(&self) -> String {
        format!("modbus sink {}", self.shared.link.names.name)
    }

    async fn end(&self) {
        self.shared.closed.cancel();
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        if let Ok(mut line) = timeout(GOODBYE, self.shared.line.lock()).await {
            line.port.close().await;
        }
    }
}

impl Shared {
    /// Makes the connection at the start and after a loss, and keeps the
    /// link's state true meanwhile.
    async fn keep_connected(self: Arc<Self>) {
        loop {
            let pause = self.look().await;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.link.drain.cancelled() => return,
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// Looks after the connection; answers when to look again.
    async fn look(&self) -> Duration {
        let connected = self.link.state() == State::Connected;
        if self.close_after_write && connected {
            return LOOK;
        }
        let mut line = self.line.lock().await;
        match line.port.ensure().await {
            Ok(()) => {
                line.port.seems_there();
                if self.close_after_write {
                    line.port.close().await;
                }
                LOOK
            }
            Err(_) => {
                line.port.retry_at().map_or(LOOK, |at| at.saturating_duration_since(Instant::now()))
            }
        }
    }
}

impl Sink for ModbusSink {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

impl Drop for ModbusSink {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get_mut().take() {
            keeper.abort();
        }
    }
}

impl std::fmt::Debug for ModbusSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModbusSink").field("names", &self.shared.link.names).finish()
    }
}
