//! Whole-batch work that never looks into a message: other headers, halves, several made one, a raw body made a batch.

use std::collections::btree_map::{BTreeMap, Entry};

use crate::error::WriteError;
use crate::read::Batch;
use crate::write::{BatchWriter, Fields};

/// Name of the batch header that identifies a batch's content. It is carried unchanged through stages, and de-duplicates
/// retries.
pub const ID: &str = "id";

/// Name of the batch header of an empty batch that asks whether the whole way through a stage is open.
pub const PROBE: &str = "probe";

/// Name of the batch header with the step of a stage that is to be the first for this batch: a dead letter that is given
/// again goes to the step that refused it, not to those before it once more.
pub const ENTER: &str = "enter";

/// Name of the header of a message with the arm of a branch that it takes. It is there between the branch and its edges
/// only: each edge takes the messages of one arm, without it.
pub const ARM: &str = "millrace-arm";

/// The two halves of a batch, as batches.
pub type Halves = (Vec<u8>, Vec<u8>);

impl Batch<'_> {
    /// The batch with these batch headers set: a name that is there gets the new value, others are added. The records
    /// are copied in one go.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the headers are too many or too large.
    pub fn with_headers(&self, set: &[(&str, &str)]) -> Result<Vec<u8>, WriteError> {
        let mut writer = BatchWriter::with_capacity(self.merged(set), self.records().len())?;
        writer.push_checked(self.records(), self.count())?;
        Ok(writer.finish())
    }

    /// The batch without the batch headers of this name.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; but what is left of a batch fits.
    pub fn without_header(&self, name: &str) -> Result<Vec<u8>, WriteError> {
        let kept = self.headers().filter(|(found, _)| *found != name);
        let mut writer = BatchWriter::with_capacity(kept, self.records().len())?;
        writer.push_checked(self.records(), self.count())?;
        Ok(writer.finish())
    }

    /// The batch's first and second half, with `.0` and `.1` appended to the `id` header where there is one. `None` when
    /// there are fewer than two messages. For finding the message that makes a stage trap.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the longer ids do not fit.
    pub fn split(&self) -> Result<Option<Halves>, WriteError> {
        let half = self.len() / 2;
        if half == 0 {
            return Ok(None);
        }
        let at: usize = self.messages().take(half).map(|message| message.record().len()).sum();
        let (first, second) = self.records().split_at_checked(at).unwrap_or((self.records(), &[]));
        // Not above the count, which is 32 bits.
        let first_count = half as u32;
        Ok(Some((
            self.part("0", first, first_count)?,
            self.part("1", second, self.count().saturating_sub(first_count))?,
        )))
    }

    /// One batch of the messages of several, in their order, with the batch headers of the first except for those in
    /// `set`. `None` for none. The records are copied as they are: batches that were not checked in full
    /// ([`Batch::parse`]) make one that is as good as the worst of them.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the headers do not fit, or all of it not into one batch.
    pub fn join(
        batches: &[Batch<'_>],
        set: &[(&str, &str)],
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let Some(first) = batches.first() else { return Ok(None) };
        let room = batches.iter().map(|batch| batch.records().len()).sum();
        let mut writer = BatchWriter::with_capacity(first.merged(set), room)?;
        for batch in batches {
            writer.push_checked(batch.records(), batch.count())?;
        }
        Ok(Some(writer.finish()))
    }

    fn part(&self, suffix: &str, records: &[u8], count: u32) -> Result<Vec<u8>, WriteError> {
        let id = self.header(ID).map(|id| format!("{id}.{suffix}"));
        let set: Vec<(&str, &str)> = id.as_deref().map(|id| (ID, id)).into_iter().collect();
        let mut writer = BatchWriter::with_capacity(self.merged(&set), records.len())?;
        writer.push_checked(records, count)?;
        Ok(writer.finish())
    }

    fn merged<'h>(
        &'h self,
        set: &'h [(&'h str, &'h str)],
    ) -> impl Iterator<Item = (&'h str, &'h str)> {
        let kept = self.headers().filter(|(name, _)| set.iter().all(|(other, _)| other != name));
        kept.chain(set.iter().copied())
    }

    /// Bounded by the format: the header holds it in 32 bits.
    fn count(&self) -> u32 {
        self.len() as u32
    }
}

impl<'a> Batch<'a> {
    /// The messages of each arm, without the header that says so, as a batch with the batch headers of this one, because an
    /// edge has the messages of one arm. `None` when a message takes no arm: the batch has passed no branch.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; but a part of a batch fits.
    pub fn by_arm(&self) -> Result<Option<BTreeMap<&'a str, Vec<u8>>>, WriteError> {
        let mut arms: BTreeMap<&'a str, BatchWriter> = BTreeMap::new();
        for message in self.messages() {
            let Some(arm) = message.header(ARM) else { return Ok(None) };
            let writer = match arms.entry(arm) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(new) => new.insert(BatchWriter::new(self.headers())?),
            };
            let own = message.headers().filter(|(name, _)| *name != ARM);
            writer.push(&Fields::from(&message), own)?;
        }
        Ok(Some(arms.into_iter().map(|(arm, writer)| (arm, writer.finish())).collect()))
    }
}

/// A batch of one message, for a body that is not a batch.
///
/// # Errors
///
/// [`WriteError`] when the body or the topic is too large.
pub fn wrap_raw<'h>(
    topic: &str,
    body: &[u8],
    timestamp: u64,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
) -> Result<Vec<u8>, WriteError> {
    let mut writer = BatchWriter::with_capacity(headers, body.len().saturating_add(topic.len()))?;
    writer.push(&Fields { timestamp, topic, payload: body, ..Fields::default() }, [])?;
    Ok(writer.finish())
}
