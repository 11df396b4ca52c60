//! Messaging between stages over JetStream: durable, at least once, bounded.
//!
//! A **durable edge** `from.to` is one JetStream stream with one durable
//! consumer. The stage `from` publishes batches to it, the stage `to` is called
//! with them. One JetStream message is one batch: a hop costs tens of
//! microseconds whatever it carries.
//!
//! * [`Publisher`] is the sink half. A batch goes to every edge of the stage's
//!   link at once, and is answered with ok only when JetStream has acknowledged
//!   it on every one. The batch's `id` is the message id, so that a repeated
//!   publish within the edge's window is dropped. A full edge refuses: that is
//!   the back-pressure, it reaches back to the source. An edge that spills takes
//!   further batches into a second stream first (`spill`).
//! * [`Consumer`] is the source half. A batch is acknowledged (and the
//!   acknowledgement confirmed) when the stage has answered ok or the guilty
//!   message is in the dead letters; after a crash it is delivered again at once.
//!   Without order several batches are in flight and overtake one another
//!   (`window`), as many as prove to be worth it (`places`). In order, one lane for the edge or one for each partition by key
//!   delivers one batch at a time and joins small ones when it is behind (`lane`).
//!
//! * Behind an edge with partitions there may be a step with state. The state goes
//!   along with each batch and comes back after the stage's output, to a key-value
//!   bucket, by compare-and-set (`keeper`, `state`).
//! * A stage whose steps were granted something outside (values by key, requests of HTTP) asks for it along the same link
//!   ([`Outside`]): each request is held against what its step was granted, and counted.
//!
//! Streams and consumers are made when they are missing and changed when the
//! settings have changed. One that vanishes while it is used is made again,
//! which the link's status tells, because what was in it is gone.
//!
//! **Durability.** JetStream answers before it has synced to disk (every two
//! minutes by default): a process or server that is killed loses nothing, a
//! power cut can lose what was acknowledged since the last sync. Where that
//! matters, set `sync_interval: always` on the server.
//!
//! The library needs async-nats and nothing of wasmCloud; the provider around
//! it is behind the feature `provider`.

mod consume;
mod edge;
mod hold;
mod keeper;
mod kept;
mod lane;
mod outside;
mod places;
mod publish;
mod pull;
mod rate;
mod spill;
mod state;
mod store;
mod window;

#[cfg(feature = "provider")]
mod connector;

#[cfg(feature = "provider")]
pub use connector::Conduit;
pub use consume::Consumer;
pub use edge::{Edge, EdgeError, Provision, spill_elsewhere};
pub use outside::{Buckets, BucketsError, Http, Outside};
pub use publish::Publisher;
pub use spill::Spills;
pub use state::{StateError, States};
