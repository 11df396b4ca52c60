//! A step with state that needs no customer: a verdict on each message, by `millrace-operators`.

use crate::bindings::millrace::stage::states;
use crate::letters::Letters;
use crate::run::{Failure, Output};
use crate::settings::Settings;
use millrace_batch::{Batch, Fields, Message, ARM};
use millrace_operators::{ApplyError, Verdict};
use millrace_window::detach;

/// The arm of messages that go on.
const RESULT: &str = "result";

#[cfg(feature = "de-duplicate")]
mod operator {
    use super::Settings;
    use millrace_operators::Dedup;

    /// The arm of messages that do not go on, where the step has it.
    pub const HELD: &str = "duplicate";

    pub fn read(settings: &Settings) -> Result<Dedup, String> {
        Ok(Dedup::new(settings.value("by")?, settings.value("within")?))
    }
}

#[cfg(feature = "throttle")]
mod operator {
    use super::Settings;
    use millrace_operators::Throttle;

    /// The arm of messages that do not go on, where the step has it.
    pub const HELD: &str = "excess";

    pub fn read(settings: &Settings) -> Result<Throttle, String> {
        Ok(Throttle::new(settings.value("messages")?, settings.value("per")?))
    }
}

/// Judges the batch: the output, and the messages that cannot be judged.
pub fn run<'a>(
    batch: &Batch<'a>,
    settings: &'a Settings,
) -> Result<(Vec<u8>, Letters<'a>), String> {
    let call = detach(batch).ok_or("config: the stage has state and was called without it")?;
    let operator = operator::read(settings)?;
    let mut output = Output::new(batch, settings).map_err(|error| format!("batch: {error}"))?;
    let mut letters = Letters::new(*batch, settings);
    let wanted = output.arms().any(|arm| arm == operator::HELD);
    let next = operator.apply(&call, &mut |message, verdict| match verdict {
        Verdict::Pass => push(message, RESULT, &mut output, &mut letters),
        Verdict::Hold if wanted => push(message, operator::HELD, &mut output, &mut letters),
        Verdict::Hold => Ok(()),
        Verdict::Wrong(text) => letters.push(message, "invalid-argument", &text),
    });
    let mut document = next.map_err(|error| match error {
        // The caller keeps it: nothing is lost, and nothing goes on until somebody looks.
        ApplyError::Document(error) => format!("config: {error}"),
        ApplyError::Answer(answer) => answer,
    })?;
    let (length, words) = words::pack(&mut document);
    states::keep(call.state, length, &words)?;
    Ok((output.finish(), letters))
}

/// Adds a message as it came, with its arm.
fn push(
    message: &Message<'_>,
    arm: &str,
    output: &mut Output<'_>,
    letters: &mut Letters<'_>,
) -> Result<(), String> {
    let own = message.headers().filter(|(name, _)| *name != ARM);
    match output.push(&Fields::from(message), own.chain([(ARM, arm)])) {
        Ok(()) => Ok(()),
        Err(Failure::Reject { kind, text }) => letters.push(message, kind, &text),
        Err(Failure::Fail(answer)) => Err(answer),
    }
}
