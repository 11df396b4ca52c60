//! Runs a connector as a wasmCloud capability provider.
//!
//! A connector's library knows its protocol and the kit; this crate knows the
//! lattice. It exists apart so that no connector repeats what is easily done
//! wrong with it:
//!
//! * The SDK serves links, health and shutdown from **one serial loop**. Work
//!   in a link handler would block health checks, an error from one is logged
//!   and forgotten. So a handler only starts a task; wrong settings become the
//!   state of the link ([`millrace_kit::State::Failed`]), shown in the status.
//! * A **changed link is a deletion and a put**. The new one waits until the
//!   old one is drained, or two connections would fight for one client
//!   identifier.
//! * A **killed host leaves its providers running**: they notice, drain and end
//!   ([`millrace_kit::orphan`]). Losing NATS is no reason to end.
//!
//! | module | its part |
//! |---|---|
//! | `run` | the process: logging, connections, shutdown |
//! | `links` | links put, deleted, drained; routing of publishes |
//! | [`call`] | calls to stages, and what their failures mean |
//! | [`dead`] | dead letters over JetStream |
//! | `status` | answers on the status subjects |
//! | [`trial`] | connections tried, without a lattice |

pub mod call;
mod calls;
mod catch_up;
pub mod connect;
pub mod dead;
mod handler;
mod links;
mod run;
mod status;
pub mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_kit::{DeadLetters, Link, Sink, Source};
use millrace_settings::Delivery;

pub use millrace_settings::FieldError;
pub use run::run;
use trial::Failed;

/// Generated from `wit/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable,
    clippy::todo,
    clippy::unimplemented
)]
pub mod bindings {
    wit_bindgen_wrpc::generate!({ world: "provider", path: "wit", generate_all });
}

/// A link's configuration, as the lattice carries it.
pub type Config = BTreeMap<String, String>;

/// What a connector is given of the platform.
#[derive(Debug, Clone)]
pub struct Platform {
    /// A connection for data and JetStream, apart from the one on which the
    /// lattice talks to the provider. Reconnects for ever.
    pub nats: async_nats::Client,
    /// Name of the lattice.
    pub lattice: String,
}

/// A source and how its batches are made and delivered.
pub struct Sourced {
    /// The source.
    pub source: Box<dyn Source>,
    /// Batching and delivery.
    pub delivery: Delivery,
}

/// A connector: how its sources and sinks are made from a link's settings.
///
/// Both are called when the link's predecessor has ended, from the link's own
/// task. They must not block; connections are made in the background with
/// retries, and their state is told to the link.
pub trait Connector: Send + Sync + Sized + 'static {
    /// The connector's name, as in a definition.
    const NAME: &'static str;

    /// The connector on this platform. Made once a process.
    fn new(platform: Platform) -> Self;

    /// The source of a link from this provider to a stage.
    ///
    /// # Errors
    ///
    /// Names the setting that is missing, unknown or wrong.
    fn source(&self, link: &Link, config: &Config) -> Result<Sourced, FieldError>;

    /// The sink of a link from a stage to this provider. `dead` takes messages
    /// that the sink can never write. A connector that only reads has none.
    ///
    /// # Errors
    ///
    /// Names the setting that is missing, unknown or wrong.
    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let _ = (link, config, dead);
        Err(FieldError::invalid("connector", Self::NAME, "cannot be a sink: it only reads"))
    }

    /// Tries the connection of a source, for a dry run, and tells what the
    /// other side says. No message is taken, and nothing is left behind there.
    /// Ended by dropping it when its time is up.
    ///
    /// # Errors
    ///
    /// What is in the way, and its mend.
    fn try_source(config: &Config) -> impl Future<Output = Result<String, Failed>> + Send {
        let _ = config;
        std::future::ready(Err(untried(Self::NAME)))
    }

    /// The same for a sink. No message is written.
    ///
    /// # Errors
    ///
    /// What is in the way, and its mend.
    fn try_sink(config: &Config) -> impl Future<Output = Result<String, Failed>> + Send {
        let _ = config;
        std::future::ready(Err(untried(Self::NAME)))
    }
}

fn untried(connector: &str) -> Failed {
    Failed::new(format!("{connector} cannot try a connection"), "deploy it to see")
}
