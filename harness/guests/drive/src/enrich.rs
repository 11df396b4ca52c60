//! A step that adds to each message what a bucket has for it. The rules are `millrace-operators`'; here is the one call for
//! the whole batch.

use crate::bindings::millrace::step::key_value;
use crate::letters::Letters;
use crate::run::{Failure, Output};
use crate::settings::Settings;
use millrace_batch::{Batch, Fields, Message};
use millrace_operators::{Enrich, Enriched};
use std::collections::BTreeMap;

/// Runs the step over the batch: the output, and the messages that are rejected.
pub fn run<'a>(
    batch: &Batch<'a>,
    settings: &'a Settings,
) -> Result<(Vec<u8>, Letters<'a>), String> {
    let bucket: String = settings.value("bucket")?;
    let enrich = Enrich {
        by: settings.value("by")?,
        into: settings.value("into")?,
        missing: settings.value("missing")?,
    };
    let bad = |error: millrace_batch::ReadError| format!("batch: {error}");
    let messages: Vec<Message<'a>> = batch.try_messages().collect::<Result<_, _>>().map_err(bad)?;
    let mut output = Output::new(batch, settings).map_err(|error| format!("batch: {error}"))?;
    let mut letters = Letters::new(*batch, settings);
    // A message of which nothing can be looked up is rejected without.
    let keys: Vec<Result<Vec<u8>, String>> =
        messages.iter().map(|message| enrich.key(message)).collect();
    let mut found: BTreeMap<&[u8], Option<Vec<u8>>> =
        keys.iter().flatten().map(|key| (key.as_slice(), None)).collect();
    let wanted: Vec<&[u8]> = found.keys().copied().collect();
    if !wanted.is_empty() {
        let values =
            key_value::get_many(&bucket, &wanted).map_err(|error| match Failure::from(error) {
                Failure::Fail(answer) => answer,
                // Too much for one call, perhaps: the batch is tried again, and parted.
                Failure::Reject { text, .. } => format!("retry: {text}"),
            })?;
        for (key, value) in wanted.into_iter().zip(values) {
            found.insert(key, value);
        }
    }
    for (message, key) in messages.iter().zip(&keys) {
        let (before, first) = (output.mark(), output.is_empty());
        let value = |key: &Vec<u8>| found.get(key.as_slice()).and_then(Option::as_deref);
        let enriched = key.as_ref().map_err(String::clone);
        let enriched = enriched.and_then(|key| enrich.apply(message, value(key)));
        let pushed = match &enriched {
            Ok(Enriched::Payload(payload)) => {
                let fields = Fields { payload, ..Fields::from(message) };
                output.push(&fields, message.headers())
            }
            Ok(Enriched::Header(name, value)) => {
                let others = message.headers().filter(|(own, _)| own != name);
                output.push(&Fields::from(message), others.chain([(*name, *value)]))
            }
            Ok(Enriched::Same) => output.keep(message),
            Ok(Enriched::Nothing) => Ok(()),
            Err(text) => Err(Failure::Reject { kind: "invalid-argument", text: text.clone() }),
        };
        match pushed {
            Ok(()) => {}
            Err(Failure::Fail(answer)) => return Err(answer),
            // It would fit alone: the batch is tried again, and parted.
            Err(Failure::Reject { text, .. }) if enriched.is_ok() && !first => {
                return Err(format!("retry: with what is added to its messages {text}"));
            }
            Err(Failure::Reject { kind, text }) => {
                output.rewind(before);
                letters.push(message, kind, &text)?;
            }
        }
    }
    Ok((output.finish(), letters))
}
