//! The sink: read what messages ask for, set the lines, answer when they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::{Batch, Message};
use millrace_grants::Target;
use millrace_kit::telemetry::now_ns;
use millrace_kit::write::{self, Unwritable};
use millrace_kit::{DeadLetters, Held, Link, Sink, WriteError};
use millrace_settings::gpio::{Level, SinkSettings};
use parking_lot::Mutex;

use crate::chip::{self, Kernel};
use crate::command;
use crate::outputs::{self, Failed, Handle, View};

/// How long closing waits for the lines to be safe. They are made safe also
/// when that takes longer, as long as the process lives.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Drives GPIO lines.
pub struct GpioSink {
    link: Arc<Link>,
    dead: Arc<dyn DeadLetters>,
    /// Each granted line's place.
    places: BTreeMap<String, usize>,
    max_age: Option<Duration>,
    /// Absent when closed. When the last one is dropped the lines are set safe.
    outputs: Mutex<Option<Handle>>,
    view: View,
}

impl GpioSink {
    /// A sink that opens its lines in the background, again and again until it
    /// has them all, and sets them safe when it is closed or dropped. Messages
    /// that ask for nothing that can be done go to `dead`.
    ///
    /// # Errors
    ///
    /// When the operating system has no thread for the outputs.
    pub fn open(
        settings: SinkSettings,
        link: Arc<Link>,
        dead: Arc<dyn DeadLetters>,
    ) -> std::io::Result<Arc<Self>> {
        let consumer = chip::consumer(&link.names.pipeline, &link.names.name);
        let lines: Vec<_> = settings.lines.into_iter().collect();
        let places =
            lines.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
        let (handle, view) =
            outputs::start(Box::new(Kernel { consumer }), lines, Arc::clone(&link))?;
        let max_age = settings.max_age.map(|age| age.get());
        let outputs = Mutex::new(Some(handle));
        Ok(Arc::new(Self { link, dead, places, max_age, outputs, view }))
    }

    async fn write_batch(&self, body: Bytes) -> Result<(), WriteError> {
        let batch = write::read(&body)?;
        if batch.is_empty() {
            // A probe asks whether a batch could be taken: if any line is open.
            let open = self.view.held.load(Relaxed) > 0;
            return if open { Ok(()) } else { Err(self.unreachable()) };
        }
        let setting = self.set_all(&batch);
        write::counted(&self.link, || self.target(), &batch, body.len(), setting).await
    }

    /// Buries what cannot be done and sets the rest.
    async fn set_all(&self, batch: &Batch<'_>) -> Result<u64, WriteError> {
        let held = self.link.writers.of_batch(batch);
        let mut levels = Vec::with_capacity(batch.len());
        for (place, message) in batch.messages().enumerate() {
            match self.asked(&message, &held) {
                Ok(level) => levels.push(level),
                Err(why) => self.bury(batch, place, &message, &why).await?,
            }
        }
        let set = levels.len() as u64;
        if levels.is_empty() {
            return Ok(0);
        }
        // Not earlier: as long as somebody has a handle the lines are not let go.
        let handle = self.outputs.lock().clone().ok_or_else(|| self.unreachable())?;
        handle.write(levels).await.map_err(|failed| self.failed(failed))?;
        Ok(set)
    }

    /// What a message asks for.
    ///
    /// # Errors
    ///
    /// Why it never will be done.
    fn asked(&self, message: &Message<'_>, held: &Held<'_>) -> Result<(usize, Level), Unwritable> {
        if let Some(max_age) = self.max_age {
            let age = Duration::from_nanos(now_ns().saturating_sub(message.timestamp));
            if age > max_age {
                return Err(
                    format!("the message is {age:.1?} old, and max-age is {max_age:?}").into()
                );
            }
        }
        let (line, level) =
            command::read(message.topic, message.payload).map_err(|e| e.to_string())?;
        match self.places.get(&line) {
            Some(place) => {
                held.check(Target::Gpio(&line))?;
                Ok((*place, level))
            }
            None => {
                let line: String = line.chars().take(60).collect();
                Err(format!("the sink has no line \"{line}\"").into())
            }
        }
    }

    async fn bury(
        &self,
        batch: &Batch<'_>,
        place: usize,
        message: &Message<'_>,
        why: &Unwritable,
    ) -> Result<(), WriteError> {
        write::bury(&*self.dead, &self.link, batch, place, message, why).await
    }

    fn failed(&self, failed: Failed) -> WriteError {
        match failed {
            Failed::Missing { line, reason } => WriteError::Unreachable {
                target: format!("{}, line {line}", self.target()),
                reason,
            },
            Failed::Refused { line, reason } => {
                WriteError::Refused { target: format!("{}, line {line}", self.target()), reason }
            }
            Failed::Busy => WriteError::Refused {
                target: self.target(),
                reason: "earlier writes are still being done".to_owned(),
            },
            Failed::Closed => self.unreachable(),
        }
    }

    fn unreachable(&self) -> WriteError {
        let reason = self.link.status().error.unwrap_or_else(|| "no line is open".to_owned());
        WriteError::Unreachable { target: self.target(), reason }
    }

    fn target(&self) -> String {
        format!("gpio sink {}", self.link.names.name)
    }

    async fn end(&self) {
        drop(self.outputs.lock().take());
        if tokio::time::timeout(CLOSE_TIMEOUT, self.view.ended.cancelled()).await.is_err() {
            self.link.noticed("the lines are not safe yet: a chip does not answer");
        }
    }
}

impl Sink for GpioSink {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.write_batch(batch))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}
