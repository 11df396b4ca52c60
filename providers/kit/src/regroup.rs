//! Other batches of the same messages: small ones joined, large ones split, one
//! by key apart.
//!
//! Whatever is made here has an id that depends on the ids of what it was made
//! of and on nothing else. So the same batches regrouped in the same way, after
//! a crash for example, are known as repeats by the next durable edge.

use std::collections::BTreeMap;

use millrace_batch::{Batch, BatchWriter, ID};
use sha2::{Digest, Sha256};

use crate::inlet::Limits;
use crate::packed::{ATTEMPT, Packed, TRACEPARENT};

/// Batch headers that a joined batch can do without, or has of its own.
const OWN: [&str; 3] = [ID, TRACEPARENT, ATTEMPT];

/// The batches to call a stage with instead of `group`: neighbours joined up to
/// the limits, what is above them split. All messages are there, in their order.
///
/// A batch that is damaged or has no id, or batch headers we do not know, stays
/// as it is.
#[must_use]
pub fn regroup(group: Vec<Packed>, limits: &Limits) -> Vec<Packed> {
    if group.len() == 1 {
        return group.into_iter().flat_map(|batch| pieces(batch, limits)).collect();
    }
    let mut calls = Vec::with_capacity(group.len());
    let mut small: Vec<Packed> = Vec::new();
    let (mut messages, mut bytes) = (0, 0);
    for batch in group.into_iter().flat_map(|batch| pieces(batch, limits)) {
        let joinable = is_joinable(&batch);
        let fits =
            messages + batch.messages() <= limits.messages && bytes + batch.bytes() <= limits.bytes;
        if !(joinable && fits) {
            flush(&mut small, &mut calls);
            (messages, bytes) = (0, 0);
        }
        if joinable {
            messages += batch.messages();
            bytes += batch.bytes();
            small.push(batch);
        } else {
            calls.push(batch);
        }
    }
    flush(&mut small, &mut calls);
    calls
}

fn flush(small: &mut Vec<Packed>, calls: &mut Vec<Packed>) {
    match join(small) {
        Some(joined) => {
            calls.push(joined);
            small.clear();
        }
        None => calls.append(small),
    }
}

/// One batch of several; `None` where there is nothing to join, or the format
/// has no room for it.
fn join(batches: &[Packed]) -> Option<Packed> {
    let (first, _) = batches.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let mut all = Sha256::new();
    for batch in batches {
        // No id contains a zero byte: it is text.
        all.update(batch.id()?.as_bytes());
        all.update([0]);
    }
    let short: String = all.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let id = format!("{}+{short}", first.id()?);
    let opened: Vec<Batch<'_>> =
        batches.iter().map(|batch| Batch::open(batch.body())).collect::<Result<_, _>>().ok()?;
    let joined = Batch::join(&opened, &[(ID, &id), (ATTEMPT, "1")]).ok()??;
    Some(Packed::read(joined.into()))
}

fn is_joinable(batch: &Packed) -> bool {
    // In full: a damaged batch would take the others with it.
    batch.messages() > 0
        && batch.id().is_some()
        && Batch::parse(batch.body())
            .is_ok_and(|batch| batch.headers().all(|(name, _)| OWN.contains(&name)))
}

/// A batch that is well above the limits, in halves of halves. A quarter above
/// is let be: what a step adds to its messages should not make each batch two.
fn pieces(batch: Packed, limits: &Limits) -> Vec<Packed> {
    let above = |size: usize, limit: usize| size > limit.saturating_add(limit / 4);
    let mut pieces = Vec::with_capacity(1);
    let mut waiting = vec![batch];
    while let Some(batch) = waiting.pop() {
        let large = above(batch.messages(), limits.messages) || above(batch.bytes(), limits.bytes);
        match large.then(|| batch.split()).flatten() {
            Some((first, second)) => waiting.extend([second, first]),
            None => pieces.push(batch),
        }
    }
    pieces
}

/// The partition of a message, of `count`: that of its key, or of its topic
/// where it has none.
///
/// FNV-1a, 64 bits (Fowler, Noll and Vo; IETF draft-eastlake-fnv): the same in
/// every version and on every machine, because messages that wait on an edge
/// were put there by another process.
#[must_use]
pub fn partition_of(key: Option<&[u8]>, topic: &str, count: u16) -> u16 {
    let bytes = key.unwrap_or(topic.as_bytes());
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // Less than `count`, so it fits.
    u16::try_from(hash % u64::from(count.max(1))).unwrap_or_default()
}

/// The messages of a batch by the arm of a branch that they take, each part a batch of the same id.
///
/// # Errors
///
/// When the batch cannot be read, or has messages that take no arm: it has passed no branch.
pub fn by_arm(batch: &Packed) -> Result<BTreeMap<String, Packed>, String> {
    let whole = Batch::parse(batch.body()).map_err(|error| error.to_string())?;
    let arms = whole.by_arm().map_err(|error| error.to_string())?;
    let arms = arms.ok_or("a message takes no arm: its stage does not end with a branch")?;
    let part = |(arm, part): (&str, Vec<u8>)| (arm.to_owned(), Packed::read(part.into()));
    Ok(arms.into_iter().map(part).collect())
}

/// The messages of a batch by partition, each part a batch with `/<partition>`
/// after its id, in the order of partitions; none is empty. What cannot be read
/// goes to partition 0 as it is.
#[must_use]
pub fn partition(batch: &Packed, count: u16) -> Vec<(u16, Packed)> {
    by_partition(batch, count).unwrap_or_else(|| vec![(0, batch.clone())])
}

fn by_partition(batch: &Packed, count: u16) -> Option<Vec<(u16, Packed)>> {
    let whole = Batch::parse(batch.body()).ok()?;
    let mut writers: Vec<Option<BatchWriter>> = (0..count).map(|_| None).collect();
    for message in whole.messages() {
        let number = partition_of(message.key, message.topic, count);
        let slot = writers.get_mut(usize::from(number))?;
        let writer = match slot {
            Some(writer) => writer,
            None => {
                let id = batch.id().map(|id| format!("{id}/{number}"));
                let kept = whole.headers().filter(|(name, _)| *name != ID);
                let room = batch.bytes() / usize::from(count);
                let headers = kept.chain(id.as_deref().map(|id| (ID, id)));
                slot.insert(BatchWriter::with_capacity(headers, room).ok()?)
            }
        };
        writer.push_record(&message).ok()?;
    }
    let parts = (0..).zip(writers).filter_map(|(number, writer)| Some((number, writer?)));
    Some(parts.map(|(number, writer)| (number, Packed::read(writer.finish().into()))).collect())
}
