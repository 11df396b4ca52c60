//! The last part of a stage. It alone publishes, and answers ok only when everything it published was accepted.
//!
//! 1. rejected messages are kept until the batch has arrived
//! 2. the batch is published, unless nothing is left of it (a probe is published as it is: it asks whether the way is open)
//! 3. the rejected messages are published, under an id of their own
//! 4. the new state document of a step with state is published: last, so that all that came of the call is safe when it is
//!    kept
//!
//! A body has to fit into a message of the lattice, and a step may have made more of a batch than came in. So what is too
//! large goes in several bodies, each with an id of its own that is the same at every attempt.
#![allow(unsafe_code, reason = "generated bindings")]

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../../wit/deps/config",
            "../../../wit/deps/logging",
            "../../../wit/deps/messaging",
            "../../../wit/step",
            "../../../wit/stage",
        ],
        world: "millrace:stage/outlet",
        ownership: Borrowing { duplicate_if_necessary: true },
        generate_all,
    });
    use super::Outlet;
    export!(Outlet);
}

mod parts;

use std::cell::RefCell;

use bindings::exports::millrace::stage::{flow, rejects, states};
use bindings::wasi::config::store;
use bindings::wasmcloud::messaging::consumer;
use bindings::wasmcloud::messaging::types::BrokerMessageParam;
use millrace_batch::{Batch, BatchWriter, WriteError, ENTER, ID, PROBE};
use millrace_window::write_commit;
use parts::for_each_part;

/// Greatest body in bytes unless `max-body-bytes` says otherwise: 64 KiB below the default of NATS.
const MAX_BODY: usize = 960 * 1024;

thread_local! {
    /// Batches of rejected messages, one from each step that rejected any. An instance lives for one call.
    static LETTERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Name and content of the state document, where the stage has a step with state.
    static STATE: RefCell<Option<(String, Vec<u8>)>> = const { RefCell::new(None) };
}

struct Outlet;

impl rejects::Guest for Outlet {
    fn reject(length: u32, letters: Vec<u64>) -> Result<(), String> {
        LETTERS.with_borrow_mut(|kept| kept.push(words::unpack(length, &letters).to_vec()));
        Ok(())
    }
}

impl states::Guest for Outlet {
    fn keep(state: String, length: u32, document: Vec<u64>) -> Result<(), String> {
        STATE.set(Some((state, words::unpack(length, &document).to_vec())));
        Ok(())
    }
}

impl flow::Guest for Outlet {
    fn process(_position: u32, length: u32, batch: Vec<u64>) -> Result<(), String> {
        let batch = Batch::open(words::unpack(length, &batch))
            .map_err(|error| format!("batch: {error}"))?;
        // A step takes it off. Messages that no step has seen must not look as if the last one had made them.
        if let Some(step) = batch.header(ENTER) {
            return Err(format!("batch: this stage has no step `{step}` to enter at"));
        }
        let letters = LETTERS.take();
        let state = STATE.take();
        let settings = Settings::read()?;
        // Missing configuration is found before anything is published.
        let state_subject = state.is_some().then(|| settings.get("state-subject")).transpose()?;
        if !batch.is_empty() || batch.header(PROBE).is_some() {
            publish(settings.get("out-subject")?, &batch, settings.max_body())?;
        }
        if !letters.is_empty() {
            publish_letters(&letters, &settings)?;
        }
        if let (Some((name, document)), Some(subject)) = (state, state_subject) {
            let body = write_commit(&name, &document).map_err(|error| format!("batch: {error}"))?;
            publish_body(subject, &body)?;
        }
        Ok(())
    }
}

fn publish_letters(letters: &[Vec<u8>], settings: &Settings) -> Result<(), String> {
    let stage = settings.get("stage")?;
    let subject = settings.get("dead-subject")?;
    let together =
        gather(letters, stage).map_err(|error| format!("batch: the rejected messages: {error}"))?;
    let batch = Batch::open(&together).map_err(|error| format!("batch: {error}"))?;
    publish(subject, &batch, settings.max_body())
}

/// All rejected messages of the call as one batch.
fn gather(letters: &[Vec<u8>], stage: &str) -> Result<Vec<u8>, WriteError> {
    let batches = || letters.iter().filter_map(|bytes| Batch::open(bytes).ok());
    let first = batches().next();
    let id = first.and_then(|batch| batch.header(ID)).map(|id| format!("{id}/dead/{stage}"));
    let headers =
        first.into_iter().flat_map(|batch| batch.headers()).filter(|(name, _)| *name != ID);
    let capacity = letters.iter().map(Vec::len).sum();
    let mut writer =
        BatchWriter::with_capacity(headers.chain(id.as_deref().map(|id| (ID, id))), capacity)?;
    for message in batches().flat_map(|batch| batch.messages()) {
        writer.push_record(&message)?;
    }
    Ok(writer.finish())
}

fn publish(subject: &str, batch: &Batch<'_>, max_body: usize) -> Result<(), String> {
    for_each_part(batch, max_body, |body| publish_body(subject, body))
}

fn publish_body(subject: &str, body: &[u8]) -> Result<(), String> {
    consumer::publish(BrokerMessageParam { subject, body, reply_to: None })
        .map_err(|error| format!("downstream: {error}"))
}

/// The stage's configuration.
struct Settings(Vec<(String, String)>);

impl Settings {
    fn read() -> Result<Self, String> {
        match store::get_all() {
            Ok(values) => Ok(Self(values)),
            Err(store::Error::Upstream(error) | store::Error::Io(error)) => {
                Err(format!("config: {error}"))
            }
        }
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn get(&self, key: &str) -> Result<&str, String> {
        self.find(key).ok_or_else(|| format!("config: `{key}` is not set"))
    }

    fn max_body(&self) -> usize {
        self.find("max-body-bytes").and_then(|value| value.parse().ok()).unwrap_or(MAX_BODY)
    }
}
