//! The control API: everything that `millrace tenant` does, over HTTP with JSON.
//!
//! It calls the same functions as the command line, and adds to them who may call ([`millrace_lattice_config::tokens`]), how often
//! and how much. Every write stands in the tenant's audit log with the token's name; what is refused before it comes to a tenant
//! stands in the installation's journal.
//!
//! docs/api.md describes it for those who use it, docs/openapi.json for their tools: it is made from this code.

mod allow;
mod drafts;
mod extract;
mod problem;
mod routes;
mod serve;
mod session;
mod sign_in;

use std::sync::Arc;

use axum::Router;
use millrace_lattice_config::drafts::Drafts;
use millrace_lattice_config::journal::Journal;
use millrace_lattice_config::tenants::Tenants;
use millrace_lattice_config::tokens::Tokens;

pub use allow::Rate;
pub use routes::openapi;
pub use serve::{ServeError, Server};

/// The API of an installation.
#[derive(Debug, Clone)]
pub struct Api(Arc<State>);

#[derive(Debug)]
struct State {
    tenants: Tenants,
    tokens: Tokens,
    drafts: Drafts,
    sessions: session::Sessions,
    journal: Journal,
    allow: allow::Allow,
    /// One change at a time: a second one at once would only be told that somebody else is at work.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Api {
    /// The API of an installation's tenants. Each token may do what `rate` says.
    #[must_use]
    pub fn new(tenants: Tenants, rate: Rate) -> Self {
        let home = tenants.home();
        let (tokens, journal) = (Tokens::new(home), Journal::of_calls(home));
        let (drafts, sessions) = (Drafts::new(&tenants), session::Sessions::default());
        let (allow, changing) = (allow::Allow::new(rate), Arc::default());
        Self(Arc::new(State { tenants, tokens, drafts, sessions, journal, allow, changing }))
    }

    /// All its routes, for a server with TLS or without.
    pub fn router(&self, tls: bool) -> Router {
        routes::router(self, tls)
    }
}
