//! What a batch makes of a document.
//!
//! 1. each message is assigned to its windows, in the order of arrival; one that is in none any more is late
//! 2. the step folds the messages of each window into its state, once for each window where it can
//! 3. the watermark goes on, once, and the windows that have ended by it are finished
//! 4. what is left is the next document
//!
//! Entries that no message touches stay bytes, so that a call costs what the batch and the size of the document cost.

use std::borrow::Cow;
use std::collections::btree_map::{BTreeMap, Entry as Place};
use std::collections::BTreeSet;

use millrace_batch::Message;

use crate::carry::Call;
use crate::document::{self, DocumentError, Entry, Group, HEADER, MAX_BYTES};
use crate::window::{Kind, Window};

/// Why a call of the step came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// This message, or this window, cannot be processed; the rest can.
    Reject {
        /// Kind of the dead letter.
        kind: &'static str,
        /// Why, for people.
        text: String,
    },
    /// The whole batch fails, with this answer.
    Fail(String),
}

/// Kind of the dead letter of a message for whose state there is no room.
pub const FULL: &str = "full";

/// A window that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended<'a> {
    /// What it holds: group, start, end, number of messages, state.
    pub entry: Entry<'a>,
    /// Time of what comes of it, nanoseconds since the Unix epoch: its end; where it does not go by time, the event time
    /// of its last message.
    pub time: u64,
}

/// A message that came after its windows had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late<'a> {
    /// The message.
    pub message: Message<'a>,
    /// Its event time, nanoseconds since the Unix epoch.
    pub time: u64,
    /// The watermark at which it came, as `time`.
    pub watermark: u64,
}

/// The step, and what becomes of what it does not take. An error that is a text is the answer to the whole batch.
pub trait Step {
    /// The state with these messages in it. `state` is what was returned for this window before, absent at the first
    /// messages of a window.
    ///
    /// # Errors
    ///
    /// [`Failure`]. A batch of several that is rejected is given again, message by message.
    fn fold(&mut self, state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure>;

    /// Takes what came of a window. Called in the order in which windows end.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    fn finish(&mut self, ended: &Ended<'_>) -> Result<(), Failure>;

    /// A message came too late.
    ///
    /// # Errors
    ///
    /// The answer to the whole batch.
    fn late(&mut self, late: &Late<'_>) -> Result<(), String>;

    /// A message is rejected, by the step or for want of room. Once for each message, in however many windows it is.
    ///
    /// # Errors
    ///
    /// The answer to the whole batch.
    fn refused(&mut self, message: &Message<'_>, kind: &str, text: &str) -> Result<(), String>;

    /// The step rejected the end of a window. The window is closed.
    ///
    /// # Errors
    ///
    /// The answer to the whole batch.
    fn lost(&mut self, ended: &Ended<'_>, kind: &str, text: &str) -> Result<(), String>;
}

/// Why a batch could not be applied. The document stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The document cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The step, or who takes what it refuses, failed the batch with this answer.
    #[error("{0}")]
    Answer(String),
}

/// Applies batches to documents.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    window: Window,
}

impl Engine {
    /// An engine for these windows.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self { window }
    }

    /// Applies the messages of a call to its document: the next document. The same call gives the same.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub fn apply(&self, call: &Call<'_>, step: &mut dyn Step) -> Result<Vec<u8>, ApplyError> {
        let (watermark, entries) = document::borrow(call.document)?;
        let mut work = Work {
            window: self.window,
            before: watermark,
            watermark,
            loaded: vec![false; entries.len()],
            entries,
            groups: BTreeMap::new(),
            slots: Vec::new(),
            refused: BTreeSet::new(),
            size: 0,
        };
        for (number, message) in call.messages().enumerate() {
            let time = if message.timestamp == 0 { call.now } else { message.timestamp };
            work.assign(&Arrival { number, time, message }, step)?;
        }
        if call.idle {
            // The caller has waited for what may be late.
            work.watermark = work.watermark.max(call.now);
        }
        work.fold_all(step)?;
        work.finish_ended(step)?;
        Ok(work.document())
    }
}

/// A message of the batch.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    number: usize,
    time: u64,
    message: Message<'a>,
}

/// A window that this batch has touched, or whose group it has.
struct Slot<'a> {
    group: Group<'a>,
    start: u64,
    end: u64,
    count: u64,
    /// Absent until a message is in it.
    state: Option<Cow<'a, [u8]>>,
    arrivals: Vec<Arrival<'a>>,
}

impl Slot<'_> {
    fn entry(&self) -> Option<Entry<'_>> {
        let state = self.state.as_deref()?;
        Some(Entry {
            group: self.group,
            start: self.start,
            end: self.end,
            count: self.count,
            state,
        })
    }
}

/// A batch being applied.
struct Work<'a> {
    window: Window,
    /// The watermark when the batch began: what is late is judged by it.
    before: u64,
    /// The watermark when the batch ends.
    watermark: u64,
    entries: Vec<Entry<'a>>,
    /// Which of the entries have become slots.
    loaded: Vec<bool>,
    /// Slots of each group, in the order of start and end.
    groups: BTreeMap<Group<'a>, Vec<usize>>,
    slots: Vec<Slot<'a>>,
    /// Messages that were reported as rejected, by their number.
    refused: BTreeSet<usize>,
    /// Size of the next document, as far as it is known: without the windows that end with this batch.
    size: usize,
}

impl<'a> Work<'a> {
    fn advance(&mut self, time: u64) {
        self.watermark = self.watermark.max(time.saturating_sub(self.window.lateness));
    }

    fn assign(&mut self, arrival: &Arrival<'a>, step: &mut dyn Step) -> Result<(), ApplyError> {
        self.advance(arrival.time);
        let group = Group::of(arrival.message.key, arrival.message.topic);
        let taken = match self.window.kind {
            Kind::Tumbling { .. } | Kind::Hopping { .. } => self.assign_fixed(group, arrival),
            Kind::Session { gap } => self.assign_session(group, arrival, gap),
            Kind::Count { .. } => {
                self.put(group, (0, 0), arrival);
                true
            }
        };
        if !taken {
            let late =
                Late { message: arrival.message, time: arrival.time, watermark: self.before };
            step.late(&late).map_err(ApplyError::Answer)?;
        }
        Ok(())
    }

    fn assign_fixed(&mut self, group: Group<'a>, arrival: &Arrival<'a>) -> bool {
        let (window, before) = (self.window, self.before);
        let mut taken = false;
        for place in window.around(arrival.time).filter(|(_, end)| *end > before) {
            self.put(group, place, arrival);
            taken = true;
        }
        taken
    }

    /// A session holds a message that is less than the gap away from one of its own. Of two that do, the earlier takes it,
    /// and they stay two.
    fn assign_session(&mut self, group: Group<'a>, arrival: &Arrival<'a>, gap: u64) -> bool {
        let (time, end) = (arrival.time, arrival.time.saturating_add(gap));
        let open = self.load(group).to_vec();
        for index in open {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if time < slot.end && end > slot.start {
                slot.start = slot.start.min(time);
                slot.end = slot.end.max(end);
                slot.arrivals.push(*arrival);
                return true;
            }
        }
        if end <= self.before {
            return false;
        }
        self.put(group, (time, end), arrival);
        true
    }

    /// Gives a message to a window of its group, which is opened where it is not.
    fn put(&mut self, group: Group<'a>, (start, end): (u64, u64), arrival: &Arrival<'a>) {
        self.load(group);
        let Some(own) = self.groups.get_mut(&group) else { return };
        let slots = &mut self.slots;
        let place = |index: &usize| slots.get(*index).map_or((0, 0), |slot| (slot.start, slot.end));
        let index = match own.binary_search_by_key(&(start, end), place) {
            Ok(at) => own.get(at).copied().unwrap_or_default(),
            Err(at) => {
                own.insert(at, slots.len());
                slots.push(Slot { group, start, end, count: 0, state: None, arrivals: Vec::new() });
                slots.len() - 1
            }
        };
        if let Some(slot) = slots.get_mut(index) {
            slot.arrivals.push(*arrival);
        }
    }

    /// The slots of a group. At its first message its entries become slots.
    fn load(&mut self, group: Group<'a>) -> &[usize] {
        match self.groups.entry(group) {
            Place::Occupied(there) => there.into_mut(),
            Place::Vacant(new) => {
                let first = self.entries.partition_point(|entry| entry.group < group);
                let from = self.slots.len();
                let entries = self.entries.iter().zip(&mut self.loaded).skip(first);
                for (entry, loaded) in entries.take_while(|(entry, _)| entry.group == group) {
                    *loaded = true;
                    self.slots.push(Slot {
                        group,
                        start: entry.start,
                        end: entry.end,
                        count: entry.count,
                        state: Some(Cow::Borrowed(entry.state)),
                        arrivals: Vec::new(),
                    });
                }
                new.insert((from..self.slots.len()).collect())
            }
        }
    }

    /// Whether a window with this end goes on after the batch.
    fn stays(&self, end: u64) -> bool {
        let counts = matches!(self.window.kind, Kind::Count { .. });
        end > self.watermark || (counts && end == 0)
    }

    fn untouched(&self) -> impl Iterator<Item = &Entry<'a>> {
        let all = self.entries.iter().zip(&self.loaded);
        all.filter(|(_, loaded)| !**loaded).map(|(entry, _)| entry)
    }

    fn fold_all(&mut self, step: &mut dyn Step) -> Result<(), ApplyError> {
        let there = self.slots.iter().filter_map(Slot::entry);
        let there = self.untouched().copied().chain(there);
        self.size = there
            .filter(|entry| self.stays(entry.end))
            .fold(HEADER, |sum, entry| sum.saturating_add(entry.byte_len()));
        let mut slots = std::mem::take(&mut self.slots);
        let mut filled = Vec::new();
        for slot in &mut slots {
            let arrivals = std::mem::take(&mut slot.arrivals);
            match self.window.kind {
                Kind::Count { messages } if slot.end == 0 => {
                    self.fold_counted(slot, &arrivals, messages, &mut filled, step)?;
                }
                _ => {
                    self.fold(slot, &arrivals, step)?;
                }
            }
        }
        // In the order in which the windows were filled, whosever they are.
        filled.sort_by_key(|filled: &Filled<'_>| filled.number);
        for filled in filled {
            let entry = Entry { state: &filled.state, ..filled.window };
            finish(step, &Ended { entry, time: filled.time })?;
        }
        self.slots = slots;
        Ok(())
    }

    /// Folds messages into a window of so many, and closes it at the exact message.
    fn fold_counted(
        &mut self,
        slot: &mut Slot<'a>,
        mut arrivals: &[Arrival<'a>],
        messages: u64,
        filled: &mut Vec<Filled<'a>>,
        step: &mut dyn Step,
    ) -> Result<(), ApplyError> {
        while !arrivals.is_empty() {
            // At least one: the number may have been lowered since the window was opened.
            let room = usize::try_from(messages.saturating_sub(slot.count)).unwrap_or(usize::MAX);
            let now;
            (now, arrivals) = arrivals.split_at(room.max(1).min(arrivals.len()));
            let last = self.fold(slot, now, step)?;
            let (Some(last), true) = (last, slot.count >= messages) else { continue };
            if let Some(entry) = slot.entry() {
                self.size = self.size.saturating_sub(entry.byte_len());
            }
            if let Some(state) = slot.state.take() {
                let (group, count) = (slot.group, std::mem::take(&mut slot.count));
                let window = Entry { group, start: slot.start, end: slot.end, count, state: &[] };
                let state = state.into_owned();
                filled.push(Filled { number: last.number, time: last.time, window, state });
            }
        }
        Ok(())
    }

    /// Folds messages into a window: all in one call, or one by one where that is rejected, so that only those at fault
    /// are. The last that is in it.
    fn fold(
        &mut self,
        slot: &mut Slot<'a>,
        arrivals: &[Arrival<'a>],
        step: &mut dyn Step,
    ) -> Result<Option<Arrival<'a>>, ApplyError> {
        if arrivals.is_empty() {
            return Ok(None);
        }
        let messages: Vec<Message<'a>> = arrivals.iter().map(|arrival| arrival.message).collect();
        match self.fold_once(slot, &messages, step) {
            Ok(()) => return Ok(arrivals.last().copied()),
            Err(Failure::Fail(answer)) => return Err(ApplyError::Answer(answer)),
            Err(Failure::Reject { kind, text }) => {
                if let [only] = arrivals {
                    self.refuse(only, kind, &text, step)?;
                    return Ok(None);
                }
            }
        }
        let mut last = None;
        for arrival in arrivals {
            match self.fold_once(slot, &[arrival.message], step) {
                Ok(()) => last = Some(*arrival),
                Err(Failure::Fail(answer)) => return Err(ApplyError::Answer(answer)),
                Err(Failure::Reject { kind, text }) => self.refuse(arrival, kind, &text, step)?,
            }
        }
        Ok(last)
    }

    fn fold_once(
        &mut self,
        slot: &mut Slot<'a>,
        messages: &[Message<'a>],
        step: &mut dyn Step,
    ) -> Result<(), Failure> {
        let stays = self.stays(slot.end);
        let old = slot.entry().filter(|_| stays).map_or(0, |entry| entry.byte_len());
        // What ends with this batch is in no document, and only bounded by itself.
        let others = if stays { self.size.saturating_sub(old) } else { HEADER };
        let fits = |state: usize| others.saturating_add(document::size(&slot.group, state));
        if slot.state.is_none() && fits(0) > MAX_BYTES {
            return Err(full(fits(0)));
        }
        let state = step.fold(slot.state.as_deref(), messages)?;
        let size = fits(state.len());
        if size > MAX_BYTES {
            return Err(full(size));
        }
        if stays {
            self.size = size;
        }
        slot.state = Some(Cow::Owned(state));
        slot.count = slot.count.saturating_add(messages.len() as u64);
        Ok(())
    }

    fn refuse(
        &mut self,
        arrival: &Arrival<'a>,
        kind: &str,
        text: &str,
        step: &mut dyn Step,
    ) -> Result<(), ApplyError> {
        if self.refused.insert(arrival.number) {
            step.refused(&arrival.message, kind, text).map_err(ApplyError::Answer)?;
        }
        Ok(())
    }

    fn finish_ended(&mut self, step: &mut dyn Step) -> Result<(), ApplyError> {
        let there = self.slots.iter().filter_map(Slot::entry);
        let all = self.untouched().copied().chain(there);
        let mut ended: Vec<Entry<'_>> = all.filter(|entry| !self.stays(entry.end)).collect();
        ended.sort_by_key(|entry| (entry.end, entry.group, entry.start));
        for entry in ended {
            finish(step, &Ended { entry, time: entry.end })?;
        }
        Ok(())
    }

    /// The next document: two sorted runs made one.
    fn document(&self) -> Vec<u8> {
        let mut touched: Vec<Entry<'_>> = self.slots.iter().filter_map(Slot::entry).collect();
        touched.retain(|entry| self.stays(entry.end));
        touched.sort_by(Entry::order);
        let mut touched = touched.into_iter().peekable();
        let mut untouched =
            self.untouched().copied().filter(|entry| self.stays(entry.end)).peekable();
        let sorted = std::iter::from_fn(|| match (touched.peek(), untouched.peek()) {
            (Some(one), Some(other)) if one.order(other).is_gt() => untouched.next(),
            (Some(_), _) => touched.next(),
            (None, _) => untouched.next(),
        });
        document::write(self.watermark, self.size, sorted)
    }
}

/// A window of so many messages that has them.
struct Filled<'a> {
    /// The message that filled it.
    number: usize,
    /// Its event time.
    time: u64,
    /// The window, without its state.
    window: Entry<'a>,
    state: Vec<u8>,
}

fn finish(step: &mut dyn Step, ended: &Ended<'_>) -> Result<(), ApplyError> {
    match step.finish(ended) {
        Ok(()) => Ok(()),
        Err(Failure::Fail(answer)) => Err(ApplyError::Answer(answer)),
        Err(Failure::Reject { kind, text }) => {
            step.lost(ended, kind, &text).map_err(ApplyError::Answer)
        }
    }
}

#[cold]
fn full(bytes: usize) -> Failure {
    let text = format!(
        "the state of this partition would be {bytes} bytes, at most {MAX_BYTES} (384 KiB) are kept; \
         more partitions, shorter windows, fewer keys or a smaller state would mend it"
    );
    Failure::Reject { kind: FULL, text }
}
