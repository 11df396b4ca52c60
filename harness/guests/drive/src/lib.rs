//! Drives one step: unpacks the batch, calls the customer's component once a message, packs what comes out. A step with
//! state is called once a window instead.
//!
//! The layers, from the outside in:
//!
//! 1. [`Drive::process`]: one batch, and where its outcome goes
//! 2. `settings`: what the pipeline says about this step
//! 3. `run`: one message after the other; what a failure of one means for the batch. `fold`: the same for a step with state.
//!    `keyed`: a step with state that has no customer. `enrich`: one that has neither
//! 4. `kind`: the customer's call, one module for each kind of step
//! 5. `letters`: rejected messages
//!
//! There is one build for each kind. The customer sees a message at a time and never the batch, so nothing it returns can
//! change batch headers.
#![allow(unsafe_code, reason = "generated bindings")]

mod bindings;
#[cfg(feature = "enrich")]
mod enrich;
#[cfg(feature = "accumulate")]
mod fold;
#[cfg(feature = "keyed")]
mod keyed;
#[cfg(not(any(feature = "keyed", feature = "enrich")))]
mod kind;
mod letters;
mod run;
mod settings;

use bindings::exports::millrace::stage::flow::Guest;
use bindings::millrace::stage::{flow, rejects};
use bindings::wasi::logging::logging::{log, Level};
use letters::Letters;
use millrace_batch::{Batch, ENTER};
use settings::Settings;

struct Drive;

impl Guest for Drive {
    fn process(position: u32, length: u32, words: Vec<u64>) -> Result<(), String> {
        let batch = Batch::open(words::unpack(length, &words))
            .map_err(|error| format!("batch: {error}"))?;
        let next = position.saturating_add(1);
        if batch.is_empty() {
            // An earlier step dropped everything. The outlet still waits for the call.
            return flow::process(next, length, &words);
        }
        let settings = Settings::read(position)?;
        let entered = match batch.header(ENTER) {
            // It has been through this step before.
            Some(step) if step != settings.step() => return flow::process(next, length, &words),
            Some(_) => Some(batch.without_header(ENTER).map_err(|e| format!("batch: {e}"))?),
            None => None,
        };
        let batch = match &entered {
            Some(bytes) => Batch::open(bytes).map_err(|error| format!("batch: {error}"))?,
            None => batch,
        };
        #[cfg(not(any(feature = "state", feature = "enrich")))]
        let (mut output, letters) = run::run(&batch, &settings)?;
        #[cfg(feature = "accumulate")]
        let (mut output, letters) = fold::run(&batch, &settings, entered.is_some())?;
        #[cfg(feature = "keyed")]
        let (mut output, letters) = keyed::run(&batch, &settings)?;
        #[cfg(feature = "enrich")]
        let (mut output, letters) = enrich::run(&batch, &settings)?;
        hand_over(letters, &settings)?;
        let (length, words) = words::pack(&mut output);
        flow::process(next, length, &words)
    }
}

/// Gives the rejected messages to the outlet, and says so in one line, however many they are.
fn hand_over(letters: Letters<'_>, settings: &Settings) -> Result<(), String> {
    let (count, first) = (letters.count(), letters.first().to_owned());
    let Some(mut packed) = letters.finish() else { return Ok(()) };
    let step = settings.step();
    log(
        Level::Warn,
        "millrace",
        &format!("step {step}: {count} messages rejected, the first because: {first}"),
    );
    let (length, words) = words::pack(&mut packed);
    rejects::reject(length, &words)
}
