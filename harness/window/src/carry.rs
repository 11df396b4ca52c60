//! How the document travels: in front of the messages of a call, and back in a batch of its own.

use millrace_batch::{Batch, BatchWriter, Fields, Message, WriteError};

/// Batch header of a call and of a commit: which document it is. The stage does not look into it and copies it back.
pub const STATE: &str = "state";

/// Batch header of a call: wall clock of the caller, nanoseconds since the Unix epoch, decimal. A call that is made again
/// has to have the same, or it gives something else.
pub const NOW: &str = "now";

/// Batch header of a call, `1`: nothing has come for the step's idle time, which is no shorter than its lateness; the
/// watermark goes on to [`NOW`].
pub const IDLE: &str = "idle";

/// The batch with the document as its first message (topic empty, payload the document) and the headers [`STATE`],
/// [`NOW`] and, when `idle`, [`IDLE`]. Replaces headers of those names. `now` is nanoseconds since the Unix epoch.
///
/// # Errors
///
/// [`WriteError`] when headers or messages do not fit into one batch any more.
pub fn attach(
    batch: &Batch<'_>,
    document: &[u8],
    state: &str,
    now: u64,
    idle: bool,
) -> Result<Vec<u8>, WriteError> {
    let now = now.to_string();
    let headers = own_headers(batch).chain([(STATE, state), (NOW, now.as_str())]);
    let headers = headers.chain(idle.then_some((IDLE, "1")));
    let room = batch.bytes().len().saturating_add(document.len()).saturating_add(64);
    let mut writer = BatchWriter::with_capacity(headers, room)?;
    writer.push(&Fields { payload: document, ..Fields::default() }, [])?;
    for message in batch.messages() {
        writer.push_record(&message)?;
    }
    Ok(writer.finish())
}

/// The batch headers that are not of this module.
pub fn own_headers<'a>(batch: &Batch<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    batch.headers().filter(|(name, _)| ![STATE, NOW, IDLE].contains(name))
}

/// A call as the stage finds it: what [`attach`] put together.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Which document it is.
    pub state: &'a str,
    /// Wall clock of the caller, nanoseconds since the Unix epoch.
    pub now: u64,
    /// Whether nothing has come for the step's idle time.
    pub idle: bool,
    /// The document, not yet read.
    pub document: &'a [u8],
    batch: Batch<'a>,
}

impl<'a> Call<'a> {
    /// The messages, without the document. After [`Batch::open`] those before the first damaged record.
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> {
        self.batch.messages().skip(1)
    }
}

/// The document and the messages of a call. `None` where one of the two headers or the document is missing.
#[must_use]
pub fn detach<'a>(batch: &Batch<'a>) -> Option<Call<'a>> {
    Some(Call {
        state: batch.header(STATE)?,
        now: batch.header(NOW)?.parse().ok()?,
        idle: batch.header(IDLE) == Some("1"),
        document: batch.messages().next()?.payload,
        batch: *batch,
    })
}

/// What a stage publishes as its new document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit<'a> {
    /// Which document it is, as the call said.
    pub state: &'a str,
    /// The document.
    pub document: &'a [u8],
}

/// Reads what a stage publishes as its new document. `None` when it is something else.
#[must_use]
pub fn commit<'a>(batch: &Batch<'a>) -> Option<Commit<'a>> {
    let state = batch.header(STATE)?;
    let mut messages = batch.messages();
    let (first, more) = (messages.next()?, messages.next());
    more.is_none().then_some(Commit { state, document: first.payload })
}

/// What a stage publishes as its new document: a batch of the document alone.
///
/// # Errors
///
/// [`WriteError`] when `state` does not fit into a header.
pub fn write_commit(state: &str, document: &[u8]) -> Result<Vec<u8>, WriteError> {
    let mut writer =
        BatchWriter::with_capacity([(STATE, state)], document.len().saturating_add(64))?;
    writer.push(&Fields { payload: document, ..Fields::default() }, [])?;
    Ok(writer.finish())
}
