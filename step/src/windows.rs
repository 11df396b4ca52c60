//! A step with state, window by window: calls with the state of the call before, as the platform makes them.

use std::time::Instant;

use millrace_desk::{Answer, Folded, LogLine, Message, Setting};
use millrace_pipeline::Time;
use millrace_window::Document;

use crate::arbitrary::Ended;
use crate::trial::{Letter, Trial, TrialError, Tried};

/// Messages that go into one window to see whether its state grows with them, a hundred in a call.
const MANY: usize = 2_000;
const CALL: usize = 100;

/// A state below this many bytes is no trouble, however it grows.
const SMALL: usize = 1_024;

/// What came of messages in windows.
#[derive(Debug, Clone, Default)]
pub struct Windowed {
    /// Of each message: the windows that ended by it, and why it was rejected.
    pub messages: Vec<Tried>,
    /// The windows that ended after the last message.
    pub ended: Tried,
    /// Messages of each window that does not end, because it is not full.
    pub open: Vec<u64>,
    /// Bytes of the largest state that was kept.
    pub largest: usize,
}

/// What a window keeps when many messages go into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Bytes when half of the messages are in it.
    pub before: usize,
    /// Bytes when all are.
    pub bytes: usize,
    /// How many they are.
    pub messages: usize,
    /// Whether it grows with each message, so that it has no bound.
    pub grows: bool,
}

impl Trial {
    /// Gives a step with state messages, each in a call of its own, and then ends the windows.
    ///
    /// # Errors
    ///
    /// When it does not take its configuration, or a message fits into no batch.
    pub fn windows(&self, messages: &[Message]) -> Result<Windowed, TrialError> {
        let mut document = Vec::new();
        let mut windowed = Windowed::default();
        for message in messages {
            let tried = self.tried(std::slice::from_ref(message), &mut document, false)?;
            windowed.largest = windowed.largest.max(largest(&document));
            windowed.messages.push(tried);
        }
        windowed.ended = self.tried(&[], &mut document, true)?;
        let left = Document::read(&document).unwrap_or_default();
        windowed.open = left.entries().map(|entry| entry.count).collect();
        Ok(windowed)
    }

    fn tried(
        &self,
        messages: &[Message],
        document: &mut Vec<u8>,
        end: bool,
    ) -> Result<Tried, TrialError> {
        let start = Instant::now();
        let folded = self.fold(messages, document, end, &self.setting)?;
        let took = start.elapsed();
        let mut letters: Vec<Letter> = folded
            .letters
            .into_iter()
            .map(|letter| Letter { kind: letter.kind, text: letter.text })
            .collect();
        let failed = |kind: &str, text: String| Letter { kind: kind.to_owned(), text };
        letters.extend(match folded.answer {
            Answer::Done => None,
            Answer::Trap(text) => Some(failed("trap", text)),
            Answer::Timeout(limit) => {
                Some(failed("timeout", format!("no answer within {limit:?}")))
            }
            Answer::Refused(text) => Some(match text.split_once(": ") {
                Some((kind, text)) => failed(kind, text.to_owned()),
                None => failed("internal", text),
            }),
        });
        *document = folded.document;
        let outputs = folded.outputs.into_iter().map(|message| (None, message)).collect();
        Ok(Tried { outputs, letters, log: folded.log, took })
    }

    /// One call; with `end` one that ends all windows that end by time.
    fn fold(
        &self,
        messages: &[Message],
        document: &[u8],
        end: bool,
        setting: &Setting,
    ) -> Result<Folded, TrialError> {
        let stage = self.with_state.as_deref().unwrap_or_default();
        let now = if end { u64::MAX } else { self.setting.time.nanoseconds() };
        Ok(self.runtime.fold(stage, messages, document, (now, end), setting)?)
    }

    /// Messages in two calls of which the second has the state of the first, and the end of their windows: how many were
    /// refused, whether the step asked for a retry, and how a call ended that should not have ended so. Each call is made
    /// twice, at another time and with other random numbers, and has to give the same.
    pub(crate) fn fold_all(
        &self,
        messages: &[Message],
    ) -> Result<(usize, bool, Option<Ended>), TrialError> {
        let other = Setting {
            time: Time::from_nanoseconds(self.setting.time.nanoseconds() + 3_600_000_000_000),
            seed: self.setting.seed + 1,
            ..self.setting.clone()
        };
        let (first, second) = messages.split_at(messages.len().div_ceil(2));
        let (mut document, mut refused) = (Vec::new(), 0);
        for (messages, end) in [(first, false), (second, false), (&[][..], true)] {
            if messages.is_empty() && !end {
                continue;
            }
            let quiet = |folded: Folded| Folded { log: Vec::<LogLine>::new(), ..folded };
            let folded = quiet(self.fold(messages, &document, end, &self.setting)?);
            match &folded.answer {
                Answer::Trap(text) => return Ok((refused, false, Some(Ended::Trap(text.clone())))),
                Answer::Timeout(limit) => {
                    return Ok((refused, false, Some(Ended::Timeout(*limit))));
                }
                Answer::Refused(text) => return Ok((refused, text.starts_with("retry"), None)),
                Answer::Done => {}
            }
            if folded != quiet(self.fold(messages, &document, end, &other)?) {
                return Ok((refused, false, Some(Ended::Differs)));
            }
            // What came too late was not the step's to judge.
            refused += folded.letters.iter().filter(|letter| letter.kind != "late").count();
            document = folded.document;
        }
        Ok((refused, false, None))
    }

    /// What a window keeps of many messages like these; nothing where the step takes none of them.
    pub(crate) fn kept(&self, samples: &[Message]) -> Result<Option<Kept>, TrialError> {
        let mut taken = Vec::new();
        for sample in samples {
            let folded = self.fold(std::slice::from_ref(sample), &[], false, &self.setting)?;
            if folded.answer == Answer::Done && folded.letters.is_empty() {
                taken.push(sample);
            }
        }
        let Some(first) = taken.first() else { return Ok(None) };
        // All in one window.
        let (key, topic, timestamp) = (&first.key, &first.topic, first.timestamp);
        let mut like = taken.iter().cycle().map(|sample| Message {
            key: key.clone(),
            topic: topic.clone(),
            timestamp,
            ..Message::clone(sample)
        });
        let (mut document, mut sizes, mut full) = (Vec::new(), Vec::new(), false);
        while sizes.len() * CALL < MANY && !full {
            let call: Vec<Message> = like.by_ref().take(CALL).collect();
            let folded = self.fold(&call, &document, false, &self.setting)?;
            full = folded.letters.iter().any(|letter| letter.kind == millrace_window::FULL);
            document = folded.document;
            sizes.push(largest(&document));
        }
        let half = sizes.len() / 2;
        let most = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or_default();
        let before = most(sizes.get(..half).unwrap_or_default());
        let bytes = most(&sizes);
        let grows =
            full || (bytes > SMALL && bytes.saturating_mul(10) >= before.saturating_mul(18));
        Ok(Some(Kept { before, bytes, messages: sizes.len() * CALL, grows }))
    }
}

fn largest(document: &[u8]) -> usize {
    let document = Document::read(document).unwrap_or_default();
    document.entries().map(|entry| entry.state.len()).max().unwrap_or_default()
}
