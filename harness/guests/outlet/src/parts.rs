//! Bodies of bounded size.

use millrace_batch::{Batch, BatchWriter, Message, ID};

/// Calls `publish` with the batch, or, where it is larger than `max_body` bytes, with its messages in several batches in
/// order. Their ids are `<id>/part/<n>`. A message that is larger by itself goes alone.
pub fn for_each_part(
    batch: &Batch<'_>,
    max_body: usize,
    mut publish: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    if batch.bytes().len() <= max_body {
        return publish(batch.bytes());
    }
    let mut number = 0;
    let mut part = start(batch, number)?;
    for message in batch.messages() {
        if !part.is_empty() && part.byte_len() + message.record().len() > max_body {
            number += 1;
            publish(&std::mem::replace(&mut part, start(batch, number)?).finish())?;
        }
        append(&mut part, &message)?;
    }
    publish(&part.finish())
}

fn start(batch: &Batch<'_>, number: usize) -> Result<BatchWriter, String> {
    let id = batch.header(ID).map(|id| format!("{id}/part/{number}"));
    let headers =
        batch.headers().filter(|(name, _)| *name != ID).chain(id.as_deref().map(|id| (ID, id)));
    BatchWriter::new(headers).map_err(|error| format!("batch: {error}"))
}

fn append(part: &mut BatchWriter, message: &Message<'_>) -> Result<(), String> {
    part.push_record(message).map_err(|error| format!("batch: {error}"))
}
