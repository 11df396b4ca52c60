//! The batch of a step with state. The document comes in front of the messages and goes back through the outlet, which
//! publishes it after everything that came of the batch; in between, `millrace-window` has the rules, and the customer is
//! called by them.

use crate::bindings::millrace::stage::states;
use crate::kind;
use crate::letters::Letters;
use crate::run::{self, Output};
use crate::settings::Settings;
use millrace_batch::{Batch, BatchWriter, Fields, Message, WriteError, ARM};
use millrace_window::{
    detach, rfc3339, ApplyError, Call, Ended, Engine, Entry, Failure, Group, Late, Step,
};

/// The arm of what came too late, where the step has it.
const LATE: &str = "late";

/// Header of the dead letter of a window whose end the step rejected: its start, its end and its number of messages. The
/// payload is the state. One that is given again is ended again.
const WINDOW: &str = "millrace-window";

/// Runs the step over the batch: the output, and the rejected messages. `entered`: the batch is of dead letters that are
/// given again.
pub fn run<'a>(
    batch: &Batch<'a>,
    settings: &'a Settings,
    entered: bool,
) -> Result<(Vec<u8>, Letters<'a>), String> {
    let engine = Engine::new(settings.window()?);
    let bad = |error| format!("batch: {error}");
    let parted = if entered { part(batch).map_err(bad)? } else { None };
    let call = match &parted {
        Some(rest) => Batch::open(rest).ok().and_then(|rest| detach(&rest)),
        None => detach(batch),
    };
    let call = call.ok_or("config: the stage has state and was called without it")?;
    run::init(settings)?;
    let output = Output::new(batch, settings).map_err(bad)?;
    let mut step = Customer { output, letters: Letters::new(*batch, settings) };
    if parted.is_some() {
        end_again(batch, &mut step)?;
    }
    let mut document = apply(&engine, &call, &mut step)?;
    let (length, words) = words::pack(&mut document);
    states::keep(call.state, length, &words)?;
    Ok((step.output.finish(), step.letters))
}

fn apply(engine: &Engine, call: &Call<'_>, step: &mut Customer<'_>) -> Result<Vec<u8>, String> {
    engine.apply(call, step).map_err(|error| match error {
        // The caller keeps it: nothing is lost, and nothing goes on until somebody looks.
        ApplyError::Document(error) => format!("config: {error}"),
        ApplyError::Answer(answer) => answer,
    })
}

/// The customer's step, and where goes what it does not take.
struct Customer<'a> {
    output: Output<'a>,
    letters: Letters<'a>,
}

impl Step for Customer<'_> {
    fn fold(&mut self, state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure> {
        kind::fold(state, messages)
    }

    fn finish(&mut self, ended: &Ended<'_>) -> Result<(), Failure> {
        kind::finish(ended, &mut self.output)
    }

    fn late(&mut self, late: &Late<'_>) -> Result<(), String> {
        if !self.output.arms().any(|arm| arm == LATE) {
            return self.letters.push(&late.message, LATE, &too_late(late));
        }
        let own = late.message.headers().filter(|(name, _)| *name != ARM);
        match self.output.push(&Fields::from(&late.message), own.chain([(ARM, LATE)])) {
            Ok(()) => Ok(()),
            Err(Failure::Reject { kind, text }) => self.letters.push(&late.message, kind, &text),
            Err(Failure::Fail(answer)) => Err(answer),
        }
    }

    fn refused(&mut self, message: &Message<'_>, kind: &str, text: &str) -> Result<(), String> {
        self.letters.push(message, kind, text)
    }

    fn lost(&mut self, ended: &Ended<'_>, kind: &str, text: &str) -> Result<(), String> {
        let Entry { group, start, end, count, state } = ended.entry;
        let fields = Fields {
            timestamp: ended.time,
            topic: group.topic(),
            content_type: None,
            key: group.key(),
            payload: state,
        };
        let window = format!("{start} {end} {count}");
        self.letters.push_made(&fields, [(WINDOW, window.as_str())].into_iter(), kind, text)
    }
}

fn too_late(late: &Late<'_>) -> String {
    format!(
        "the message is of {}, and its windows had ended: all up to {} have. A greater lateness waits longer; an edge \
         from the arm `{LATE}` takes what comes too late",
        rfc3339(late.time),
        rfc3339(late.watermark)
    )
}

/// A window that is given again as a dead letter.
fn again<'a>(message: &Message<'a>) -> Option<Ended<'a>> {
    let mut numbers = message.header(WINDOW)?.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (start, end, count) = (next()?, next()?, next()?);
    let group = Group::of(message.key, message.topic);
    let entry = Entry { group, start, end, count, state: message.payload };
    Some(Ended { entry, time: message.timestamp })
}

/// The batch without windows that are given again. `None` where it has none.
fn part(batch: &Batch<'_>) -> Result<Option<Vec<u8>>, WriteError> {
    if !batch.messages().skip(1).any(|message| again(&message).is_some()) {
        return Ok(None);
    }
    let mut writer = BatchWriter::new(batch.headers())?;
    let document = batch.messages().take(1);
    let others = batch.messages().skip(1).filter(|message| again(message).is_none());
    for message in document.chain(others) {
        writer.push_record(&message)?;
    }
    Ok(Some(writer.finish()))
}

fn end_again(batch: &Batch<'_>, step: &mut Customer<'_>) -> Result<(), String> {
    for ended in batch.messages().skip(1).filter_map(|message| again(&message)) {
        match step.finish(&ended) {
            Ok(()) => {}
            Err(Failure::Fail(answer)) => return Err(answer),
            Err(Failure::Reject { kind, text }) => step.lost(&ended, kind, &text)?,
        }
    }
    Ok(())
}
