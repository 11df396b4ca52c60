//! What a sink does around its protocol's part of a write.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, Message};
use tokio::time::Instant;

use crate::answer::ErrorKind;
use crate::dead::{self, DeadKind};
use crate::link::Link;
use crate::packed::Packed;
use crate::stage::{DeadLetters, WriteError};
use crate::writers::Refusal;

/// How long the other side may take to acknowledge a batch. Shorter than the
/// host's own limit for a call out of a stage: past that the stage would trap,
/// and a trap looks like the messages' fault.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(3_500);

/// Reads a batch that a sink was given.
///
/// # Errors
///
/// When it is none. The intake never lets such a body through; a foreign
/// component may.
pub fn read(body: &Bytes) -> Result<Batch<'_>, WriteError> {
    Batch::parse(body).map_err(|e| WriteError::Unreadable(format!("batch: {e}")))
}

/// Runs the protocol's part of a write within [`WRITE_TIMEOUT`], and counts
/// what goes in and what comes of it. `protocol` answers how many messages are
/// written; `target` names where to.
///
/// # Errors
///
/// What `protocol` says, or that it took too long.
pub async fn counted(
    link: &Link,
    target: impl FnOnce() -> String,
    batch: &Batch<'_>,
    bytes: usize,
    protocol: impl Future<Output = Result<u64, WriteError>>,
) -> Result<(), WriteError> {
    let telemetry = &link.telemetry;
    let _in_flight = telemetry.in_flight();
    let started = Instant::now();
    telemetry.received(batch.len() as u64, bytes as u64);
    let written = tokio::time::timeout(WRITE_TIMEOUT, protocol).await;
    match written
        .unwrap_or_else(|_| Err(WriteError::Timeout { target: target(), after: WRITE_TIMEOUT }))
    {
        Ok(written) => {
            telemetry.delivered(written, bytes as u64);
            telemetry.acknowledged_after(started.elapsed());
            Ok(())
        }
        Err(error) => Err(failed(link, error)),
    }
}

/// Counts a write that failed.
pub fn failed(link: &Link, error: WriteError) -> WriteError {
    link.telemetry.error(ErrorKind::Downstream, &error);
    error
}

/// Why a message is not written, now or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwritable {
    /// It never can be.
    Never(String),
    /// A step that it is of may not have it written there.
    Refused(Refusal),
}

impl From<String> for Unwritable {
    fn from(text: String) -> Self {
        Self::Never(text)
    }
}

impl From<Refusal> for Unwritable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Gives the message at `place` of a batch, which is not to be written, to the
/// dead letters, with the reason. What a step was refused is counted as that.
///
/// # Errors
///
/// When it is not safe there: the batch is to be written again.
pub async fn bury(
    dead: &dyn DeadLetters,
    link: &Link,
    batch: &Batch<'_>,
    place: usize,
    message: &Message<'_>,
    why: &Unwritable,
) -> Result<(), WriteError> {
    let unreadable = |e: millrace_batch::WriteError| WriteError::Unreadable(e.to_string());
    // Several messages of a batch may end here: each has its own id.
    let id = batch.header(millrace_batch::ID).map(|id| format!("{id}@{place}"));
    let mut writer =
        BatchWriter::new(id.as_deref().map(|id| (millrace_batch::ID, id))).map_err(unreadable)?;
    writer.push_record(message).map_err(unreadable)?;
    let single = Packed::read(writer.finish().into());
    let (kind, reason) = match why {
        Unwritable::Never(reason) => (DeadKind::InvalidArgument, reason),
        Unwritable::Refused(refusal) => (DeadKind::Refused, &refusal.text),
    };
    let letter = dead::letter(&single, &link.names, kind, 1, reason).map_err(unreadable)?;
    dead.accept(letter).await?;
    link.telemetry.buried(1);
    // Only now: what is not safe is given again, and would count twice.
    if let Unwritable::Refused(refusal) = why {
        link.refused(&refusal.step, &refusal.text);
    }
    Ok(())
}
