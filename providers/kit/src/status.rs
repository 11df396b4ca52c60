//! The state of links, and its form on the wire.
//!
//! Whoever asks on the status subject (the command line, a console) parses
//! these same types, so they live here and not with wasmCloud.

use serde::{Deserialize, Serialize};

use crate::telemetry::Counters;

/// Which way messages go, seen from the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From outside (or an edge) to a stage.
    Source,
    /// From a stage to the outside (or an edge).
    Sink,
}

/// What a link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first connection is being made.
    Connecting,
    /// Connected and working.
    Connected,
    /// The connection failed or was lost and is tried again for ever; the
    /// error says why.
    Retrying,
    /// No longer taking; what is in flight is being finished.
    Draining,
    /// The settings are wrong; nothing is tried until they are changed.
    Failed,
}

/// One provider's answer for one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// The connector: `mqtt`, `conduit`.
    pub provider: String,
    /// Identity of the provider in the lattice.
    pub id: String,
    /// Host that runs it.
    pub host: String,
    /// The pipeline the links belong to.
    pub pipeline: String,
    /// Version of the provider.
    pub version: String,
    /// Seconds since it was started.
    pub uptime_s: u64,
    /// Its links, sorted by name.
    pub links: Vec<LinkStatus>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name of the source, edge or sink.
    pub name: String,
    /// Which way messages go.
    pub direction: Direction,
    /// The stage at the other end.
    pub stage: String,
    /// What the link is doing.
    pub state: State,
    /// Why it is not connected, or what was noticed last.
    pub error: Option<String>,
    /// What it has counted.
    pub counters: Counters,
}

/// Subject on which every provider of a lattice answers for all its pipelines.
#[must_use]
pub fn status_subject(lattice: &str) -> String {
    format!("millrace.{lattice}.status")
}

/// Subject on which the providers of one pipeline answer.
#[must_use]
pub fn pipeline_status_subject(lattice: &str, pipeline: &str) -> String {
    format!("millrace.{lattice}.status.{pipeline}")
}

/// Subject of a stage's dead letters, and the stream they are kept in.
#[must_use]
pub fn dead_subject(lattice: &str, pipeline: &str, stage: &str) -> String {
    format!("millrace.{lattice}.{pipeline}.dead.{stage}")
}

/// Stream of a pipeline's dead letters.
#[must_use]
pub fn dead_stream(lattice: &str, pipeline: &str) -> String {
    format!("MILLRACE_{lattice}_{pipeline}_dead")
}
