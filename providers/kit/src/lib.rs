//! What every connector needs, and nothing of wasmCloud or NATS.
//!
//! A connector knows one protocol. Everything else it has in common with the
//! others is here, one mechanism a module, so that it is written and tested
//! once:
//!
//! | module | mechanism |
//! |---|---|
//! | [`stage`] | the seams: stage, dead letters, source, sink |
//! | [`answer`] | what a stage's answer means |
//! | [`inlet`] | messages to batches, tokens back when safe, back-pressure |
//! | [`delivery`] | calls with timeout, retry, probe, bisecting, dead letters |
//! | [`adaptive`] | how many calls at once are worth it |
//! | [`write`] | what every sink does around a write: time limit, counters, dead letters |
//! | [`packed`], [`dead`], [`id`] | batches on their way, dead letters, identities |
//! | [`regroup`] | batches joined, split, parted by key |
//! | [`backoff`] | jittered pauses |
//! | [`link`], [`telemetry`], [`status`] | state and counters, and how they are shown |
//! | [`writers`] | where the steps before a sink may have it write |
//! | [`orphan`] | noticing that the host is gone |
//!
//! The way of a message through a source:
//!
//! ```text
//! protocol -> Inlet::push (pack, window) -> Delivery::deliver (call until safe)
//!          <- Inlet::settled: tokens <- acknowledged by the next durable thing
//! ```

pub mod adaptive;
pub mod answer;
pub mod backoff;
pub mod dead;
pub mod delivery;
pub mod id;
pub mod inlet;
pub mod link;
pub mod orphan;
pub mod packed;
pub mod regroup;
pub mod stage;
pub mod status;
pub mod telemetry;
pub mod write;
pub mod writers;

pub use adaptive::{Adaptive, Ended, Watch};
pub use answer::{CallError, ErrorKind};
pub use backoff::Backoff;
pub use delivery::{Delivery, Outcome, Policy};
pub use inlet::{Inlet, Limits, PushError};
pub use link::{Link, LinkNames};
pub use packed::Packed;
pub use stage::{DeadLetters, Sink, Source, Stage, WriteError};
pub use status::{Direction, LinkStatus, ProviderStatus, State};
pub use telemetry::{Counters, Histogram, Queue, Telemetry, Used, Uses};
pub use tokio_util::sync::CancellationToken;
pub use writers::{Held, Refusal, Writers};
