//! The seams of the kit: what a connector needs from the outside, as traits.
//!
//! A provider fills them with wRPC calls and JetStream; a single-process
//! runtime fills them with direct calls; a test fills them with a script.
//! They are used as trait objects: a call moves a whole batch, so the
//! indirection costs nothing that can be measured.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::answer::CallError;
use crate::delivery::Delivery;
use crate::link::Link;

/// A stage that can be called.
pub trait Stage: Send + Sync {
    /// Calls the stage with a packed batch (or a raw body). `traceparent` is
    /// that of the batch, to be carried in the call's own headers too.
    ///
    /// The caller limits the time; an implementation need not, but must not
    /// fail when its future is dropped.
    fn call<'a>(
        &'a self,
        batch: Bytes,
        traceparent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>>;
}

/// Where messages go that cannot be processed.
pub trait DeadLetters: Send + Sync {
    /// Keeps a packed batch of dead letters. Ok means that they are safe.
    fn accept(&self, letters: Bytes) -> BoxFuture<'_, Result<(), WriteError>>;
}

/// The end of a pipeline, or of one of its parts: a broker, a device, an edge.
pub trait Sink: Send + Sync {
    /// Writes a packed batch. Ok means that the other side has acknowledged
    /// all of it. An error means that some of it may have been written: the
    /// caller makes the call again with the same batch.
    ///
    /// Answers within a few seconds, also when the other side is away: the
    /// stage that waits for the answer has a time limit of its own.
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>>;

    /// Answers what a stage asks for in the name of a step: a request of `millrace-grants`, and its answer. Within a few
    /// seconds, as a write. An error is a text that begins with what it means, as there.
    fn ask(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        drop(request);
        let refused = "refused: this provider answers no requests: a stage that is granted something outside is linked to \
            the conduit";
        Box::pin(std::future::ready(Err(refused.to_owned())))
    }

    /// Finishes what is in flight and closes the connection.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The beginning of a pipeline, or of one of its parts.
pub trait Source: Send {
    /// Runs until `link.drain` is cancelled, with its own retries: it returns
    /// only when it is drained, or when `link.leave` is cancelled and the outside
    /// was told goodbye. What is unfinished then, or when the future is dropped,
    /// was not acknowledged and comes again.
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()>;
}

/// Why a write was not acknowledged. The text names the edge, topic or stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Not connected.
    #[error("{target}: not connected: {reason}")]
    Unreachable {
        /// What was written to.
        target: String,
        /// The last error of the connection.
        reason: String,
    },
    /// The other side said no: full, not allowed, too large.
    #[error("{target}: refused: {reason}")]
    Refused {
        /// What was written to.
        target: String,
        /// What it said.
        reason: String,
    },
    /// No acknowledgement in time.
    #[error("{target}: no acknowledgement within {after:?}")]
    Timeout {
        /// What was written to.
        target: String,
        /// How long was waited.
        after: std::time::Duration,
    },
    /// The batch cannot be read.
    #[error("{0}")]
    Unreadable(String),
}
