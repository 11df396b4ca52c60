//! Records that were handed to the library and whose report is awaited.
//!
//! A report carries back one machine word. It holds which group of records it
//! is about and which record within it, so that no record needs memory of its
//! own for that.

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use tokio::sync::oneshot;

use crate::context::Context;

const _: () = assert!(usize::BITS == 64, "a report's word holds two numbers of 32 bits");

/// Records that failed, by their place in the batch.
pub(crate) type Failed = Vec<(u32, Code)>;

/// Groups whose reports are awaited.
#[derive(Debug, Default)]
pub(crate) struct Writes(Mutex<Vec<Option<Group>>>);

#[derive(Debug)]
struct Group {
    awaited: usize,
    failed: Failed,
    /// Absent until all records of the group have been handed over.
    done: Option<oneshot::Sender<Failed>>,
}

impl Writes {
    /// A new group. Its number goes with each of its records.
    pub(crate) fn open(&self) -> u32 {
        let group = Some(Group { awaited: 0, failed: Failed::new(), done: None });
        let mut groups = self.0.lock();
        let free = groups.iter().position(Option::is_none);
        let place = free.unwrap_or(groups.len());
        match groups.get_mut(place) {
            Some(slot) => *slot = group,
            None => groups.push(group),
        }
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// So many records are about to be handed over.
    pub(crate) fn expect(&self, group: u32, records: usize) {
        self.with(group, |group| group.awaited += records);
    }

    /// So many of those were not handed over after all.
    pub(crate) fn unexpect(&self, group: u32, records: usize) {
        self.with(group, |group| group.awaited = group.awaited.saturating_sub(records));
    }

    /// All records of the group have been handed over: completes when the last
    /// has its report.
    pub(crate) fn all(&self, group: u32) -> oneshot::Receiver<Failed> {
        let (done, failed) = oneshot::channel();
        self.with(group, |group| group.done = Some(done));
        failed
    }

    fn report(&self, word: usize, error: Option<Code>) {
        let group = u32::try_from(word >> 32).unwrap_or(u32::MAX);
        let record = u32::try_from(word & 0xffff_ffff).unwrap_or(u32::MAX);
        self.with(group, |group| {
            group.awaited = group.awaited.saturating_sub(1);
            group.failed.extend(error.map(|code| (record, code)));
        });
    }

    /// Changes a group, and ends it when nothing more is awaited.
    fn with(&self, group: u32, change: impl FnOnce(&mut Group)) {
        let mut groups = self.0.lock();
        let Some(slot) = usize::try_from(group).ok().and_then(|at| groups.get_mut(at)) else {
            return;
        };
        let Some(group) = slot.as_mut() else { return };
        change(group);
        if group.awaited > 0 || group.done.is_none() {
            return;
        }
        if let Some(Group { failed, done: Some(done), .. }) = slot.take() {
            // Whoever waited may have given up; the records were written anyway.
            let _ = done.send(failed);
        }
    }
}

/// The word that goes with a record.
pub(crate) const fn word(group: u32, record: u32) -> usize {
    ((group as usize) << 32) | record as usize
}

/// What the library wants of a producer.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) context: Context,
    pub(crate) writes: Writes,
}

impl rdkafka::ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, word: usize) {
        let error = match result {
            Ok(_) => None,
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        };
        self.writes.report(word, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_done_when_all_is_handed_over_and_reported() {
        let writes = Writes::default();
        let (one, other) = (writes.open(), writes.open());
        writes.expect(one, 2);
        writes.expect(other, 1);
        writes.report(word(one, 0), None);
        writes.report(word(one, 1), Some(Code::InvalidRecord));
        let mut first = writes.all(one);
        assert_eq!(first.try_recv().unwrap(), [(1, Code::InvalidRecord)]);
        let mut second = writes.all(other);
        assert!(second.try_recv().is_err());
        writes.report(word(other, 7), None);
        assert_eq!(second.try_recv().unwrap(), []);
        assert_eq!(writes.open(), one, "places are used again");
        let mut empty = writes.all(one);
        assert_eq!(empty.try_recv().unwrap(), []);
    }
}
