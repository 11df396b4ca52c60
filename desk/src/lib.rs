//! Runs a pipeline in one process, without a lattice.
//!
//! The stages are the artifacts that are deployed, composed of the same parts, in an engine set up as the host's is. What
//! lies between them in a lattice (brokers, providers, durable edges) is memory here, so a pipeline runs in milliseconds
//! and does the same each time. Tests of a pipeline are built on that: `millrace pipeline test`.
//!
//! The layers, each a module:
//!
//! 1. `engine`: wasmtime, with the host's limits and a cache of compiled stages
//! 2. `artifact`: a planned stage as a component
//! 3. `host`: what a stage may import
//! 4. `stage`: one call of one stage
//! 5. `runtime`: the stages of a plan, wired; a [`Session`] carries messages through them
//! 6. `split`: the same plan with every step a stage of its own, to see each step by itself
//! 7. `json`, `compare`: what differs between messages
//! 8. `test`: a test of a definition, run and judged; `coverage`: what the steps did meanwhile
//! 9. `junit`: reports for other programs
//!
//! ```no_run
//! use millrace_desk::{Engine, Options, Runtime, run_test};
//!
//! let loaded = millrace_pipeline::load_files("pipeline.yaml".as_ref(), None, &Default::default())?;
//! let runtime = Runtime::build(&Engine::new(&Options::default())?, loaded.desk_plan()?)?;
//! for case in loaded.tests() {
//!     let report = run_test(&runtime, case);
//!     println!("{}: {}", report.name, if report.passed() { "passed" } else { "failed" });
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod artifact;
mod compare;
mod coverage;
mod engine;
mod host;
mod json;
mod junit;
mod message;
mod runtime;
mod split;
mod stage;
mod test;

pub use artifact::{ArtifactError, compose, spec};
pub use compare::{Difference, Mismatch};
pub use coverage::{Coverage, StepCoverage, coverage};
pub use engine::{Cache, Engine, EngineError, Options};
pub use host::{Level, LogLine, Response, Setting};
pub use junit::{Suite, junit};
pub use message::{Message, shown, shown_bytes, shown_text};
pub use runtime::{BuildError, Folded, Letter, Run, RunError, Runtime, Session};
pub use split::split;
pub use stage::{Answer, Outcome, Stage, StageError};
pub use test::{Failure, Place, Report, Tone, run_test};
