//! The pipeline language: what a customer writes, and what it means.
//!
//! A definition has two parts. The *graph* names sources, steps and sinks and
//! says nothing about the environment; the *binding* says which broker, topic
//! or component file each name means here. This crate reads a definition
//! ([`load`]), says everything that is wrong with it, each with its place and
//! its mend ([`Finding`]), and turns it into what is to be deployed ([`Plan`]).
//! It does no input or output beyond reading the files it is given and what they call, so the
//! command line, a control API and an editor can all use it.
//!
//! ```
//! let text = r#"
//! millrace: v1alpha1
//! pipeline: alerts
//! version: 0.1.0
//! sources: [machine]
//! steps:
//!   too-hot: { filter: above-limit, from: machine, config: { limit: 85 } }
//! sinks:
//!   alerts: { from: too-hot }
//! binding:
//!   sources:
//!     machine: { mqtt: { url: "mqtt://localhost", topic: plant/+/temperature } }
//!   sinks:
//!     alerts: { mqtt: { url: "mqtt://localhost", topic: plant/alerts } }
//!   components:
//!     above-limit: { file: above-limit.wasm }
//! "#;
//! let document = millrace_pipeline::Document { file: "pipeline.yaml", text };
//! let loaded = millrace_pipeline::load(document, None, &Default::default());
//! assert!(loaded.findings().is_empty());
//! let plan = loaded.plan().map_err(|e| e.to_string())?;
//! assert_eq!(plan.stages.len(), 1);
//! # Ok::<(), String>(())
//! ```

mod component;
pub mod edit;
mod finding;
mod lint;
mod lint_call;
mod lint_grant;
mod lint_test;
mod load;
mod locate;
mod lock;
mod model;
mod parameters;
mod picture;
mod plan;
mod read;
mod read_config;
mod read_test;
mod schema;
mod sub;
mod test;
mod tree;

pub use component::{ComponentFile, ComponentFileError, component_version, with_component_version};
pub use finding::{Finding, Location, Severity};
pub use lint::lint;
pub use load::{
    Document, Library, LoadError, Loaded, Options, load, load_files, load_with, read_text,
};
pub use lock::{Difference, Lock, LockError, LockedComponent, LockedHarness, LockedPipeline};
pub use model::{
    Binding, Call, Component, DUPLICATE, Durable, EXCESS, Hosts, INSTANCES_DEFAULT, Input,
    Instances, Kind, LATE, Memory, Pipeline, RESULT, Sink, SinkBinding, Source, SourceBinding,
    Step, SubPipeline, VERSION,
};
pub use parameters::{Parameter, ParameterType, ParameterValue, ValueOrigin};
pub use picture::svg;
pub use plan::{
    Edge, KeyedState, Output, Plan, PlanError, PlannedSink, PlannedSource, PlannedStep, Reason,
    Stage, StageInput, Writers, desk_plan, plan,
};
pub use schema::{binding_schema, schema, tests_schema};
pub use test::{
    Case, Hex, Order, Payload, RejectKind, Test, TestMessage, TestReject, TestResponse, Time,
    Tolerance, payload_path,
};
pub use tree::TEXT_MAX;
