//! One stage: its artifact compiled, and called. An instance lives for one call, as on the host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre};
use wasmtime::{Store, Trap};

use crate::engine::Engine;
use crate::host::{self, BrokerMessage, Grants, LogLine, Surroundings, World};

const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
const HANDLE: &str = "handle-message";

/// An artifact that is no stage that can be called.
#[derive(Debug, thiserror::Error)]
#[error("stage `{stage}` cannot be run: {cause}")]
pub struct StageError {
    stage: String,
    cause: String,
}

/// A stage that can be called.
pub struct Stage {
    name: Arc<str>,
    engine: Engine,
    instance: InstancePre<World>,
    handle: ComponentExportIndex,
    config: Arc<BTreeMap<String, String>>,
    grants: Arc<Grants>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The stage has done its work.
    Done,
    /// It answered with an error: `<kind>: <text>`.
    Refused(String),
    /// It trapped.
    Trap(String),
    /// It was stopped when its time was up.
    Timeout(Duration),
}

impl Answer {
    /// What is wrong with the configuration, of a stage that did not take it.
    #[must_use]
    pub fn about_configuration(&self) -> Option<&str> {
        match self {
            Self::Refused(text) => text.strip_prefix("config: "),
            _ => None,
        }
    }
}

/// How a call ended, and what it did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub answer: Answer,
    /// Subject and body of what it published, in order. Counts only if the call was done.
    pub published: Vec<(String, Vec<u8>)>,
    /// What its steps logged.
    pub log: Vec<LogLine>,
}

impl Stage {
    /// Compiles an artifact, or takes it from the cache of compiled ones. `grants` are those of each step.
    ///
    /// # Errors
    ///
    /// When it is not a stage, or wants something that no stage is given.
    pub fn load(
        engine: &Engine,
        name: &str,
        artifact: &[u8],
        config: BTreeMap<String, String>,
        grants: Grants,
    ) -> Result<Self, StageError> {
        let fail = |cause: String| StageError { stage: name.to_owned(), cause };
        let failed = |error: wasmtime::Error| fail(format!("{error:#}"));
        let component = Component::new(&engine.engine, artifact).map_err(failed)?;
        let handle = component
            .get_export_index(None, HANDLER)
            .and_then(|handler| component.get_export_index(Some(&handler), HANDLE))
            .ok_or_else(|| fail(format!("it does not export `{HANDLER}`")))?;
        let linker = host::linker(&engine.engine).map_err(failed)?;
        let instance = linker.instantiate_pre(&component).map_err(failed)?;
        let config = Arc::new(config);
        let grants = Arc::new(grants);
        Ok(Self { name: name.into(), engine: engine.clone(), instance, handle, config, grants })
    }

    /// One call with a body, usually a batch.
    pub(crate) fn call(&self, body: &[u8], surroundings: &mut Surroundings) -> Outcome {
        let world = World {
            stage: self.name.clone(),
            config: self.config.clone(),
            grants: self.grants.clone(),
            surroundings: surroundings.clone(),
            published: Vec::new(),
            log: Vec::new(),
        };
        let mut store = Store::new(&self.engine.engine, world);
        store.set_epoch_deadline(self.engine.ticks());
        let answer = match self.call_in(&mut store, body) {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(text)) => Answer::Refused(text),
            Err(error) => match error.downcast_ref::<Trap>() {
                Some(Trap::Interrupt) => Answer::Timeout(self.engine.call_limit),
                Some(trap) => Answer::Trap(trap.to_string()),
                None => Answer::Trap(error.root_cause().to_string()),
            },
        };
        let world = store.into_data();
        *surroundings = world.surroundings;
        Outcome { answer, published: world.published, log: world.log }
    }

    fn call_in(
        &self,
        store: &mut Store<World>,
        body: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        let instance = self.instance.instantiate(&mut *store)?;
        let handle = instance
            .get_typed_func::<(BrokerMessage,), (Result<(), String>,)>(&mut *store, self.handle)?;
        let message =
            BrokerMessage { subject: "desk".to_owned(), body: body.to_vec(), reply_to: None };
        let (answer,) = handle.call(&mut *store, (message,))?;
        // What a stage does after its answer is not waited for on the host either, but must not fail.
        handle.post_return(&mut *store)?;
        Ok(answer)
    }
}
