//! The engine beside a model that does the same slowly, and documents of any content.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use millrace_window::{repartition, Document, Entry, Group, Kind, Window, MAX_BYTES};
use proptest::prelude::*;
use support::{Closed, Running, Sent};

/// The rules, as they are told to people: no document, no gathering, every window looked at every time.
struct Model {
    window: Window,
    watermark: u64,
    open: Vec<Closed>,
    closed: Vec<Closed>,
    late: Vec<String>,
    refused: Vec<String>,
}

impl Model {
    fn new(window: Window) -> Self {
        Self { window, watermark: 0, open: vec![], closed: vec![], late: vec![], refused: vec![] }
    }

    fn call(&mut self, messages: &[Sent]) {
        let before = self.watermark;
        for message in messages {
            self.watermark = self.watermark.max(message.time.saturating_sub(self.window.lateness));
            self.message(message, before);
        }
        self.close();
    }

    fn message(&mut self, message: &Sent, before: u64) {
        let group = message.key.clone().unwrap_or_else(|| "topic t".to_owned());
        let time = message.time;
        let places: Vec<(u64, u64)> = match self.window.kind {
            Kind::Tumbling { size } => vec![(time - time % size, time - time % size + size)],
            Kind::Hopping { size, every } => (0..=time)
                .filter(|start| start % every == 0 && time < start + size)
                .map(|start| (start, start + size))
                .collect(),
            Kind::Session { gap } => {
                let mut own: Vec<_> =
                    self.open.iter_mut().filter(|open| open.group == group).collect();
                own.sort_by_key(|open| open.start);
                let joined =
                    own.into_iter().find(|open| time < open.end && time + gap > open.start);
                if let Some(open) = joined {
                    (open.start, open.end) = (open.start.min(time), open.end.max(time + gap));
                    if message.payload.starts_with("bad") {
                        self.refused.push(message.payload.clone());
                    } else {
                        open.items.push(message.payload.clone());
                    }
                    return;
                }
                vec![(time, time + gap)]
            }
            Kind::Count { .. } => vec![(0, u64::MAX)],
        };
        let places: Vec<_> = places.into_iter().filter(|(_, end)| *end > before).collect();
        if places.is_empty() {
            self.late.push(message.payload.clone());
            return;
        }
        if message.payload.starts_with("bad") && !matches!(self.window.kind, Kind::Session { .. }) {
            self.refused.push(message.payload.clone());
            return;
        }
        for (start, end) in places {
            let index = self
                .open
                .iter()
                .position(|open| (&open.group, open.start, open.end) == (&group, start, end));
            let index = index.unwrap_or_else(|| {
                self.open.push(Closed { group: group.clone(), start, end, items: vec![] });
                self.open.len() - 1
            });
            self.open[index].items.push(message.payload.clone());
            if let Kind::Count { messages } = self.window.kind {
                if self.open[index].items.len() as u64 == messages {
                    let full = self.open.remove(index);
                    self.closed.push(Closed { end: 0, ..full });
                }
            }
        }
    }

    fn close(&mut self) {
        let watermark = self.watermark;
        let (mut ended, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|open| open.end <= watermark);
        ended.sort_by_key(|ended| (ended.end, ended.group.clone(), ended.start));
        self.closed.extend(ended);
        self.open = open;
    }
}

fn windows() -> impl Strategy<Value = Window> {
    let kind = prop_oneof![
        (1..40u64).prop_map(|size| Kind::Tumbling { size }),
        (1..40u64, 1..40u64)
            .prop_map(|(one, other)| Kind::Hopping { size: one.max(other), every: one.min(other) }),
        (1..15u64).prop_map(|gap| Kind::Session { gap }),
        (1..6u64).prop_map(|messages| Kind::Count { messages }),
    ];
    (kind, 0..30u64).prop_map(|(kind, lateness)| Window { kind, lateness })
}

/// Messages of a few keys, with times that go on and back.
fn messages(rejected: bool) -> impl Strategy<Value = Vec<Sent>> {
    let bad = if rejected { 8 } else { u32::MAX };
    let one = (
        prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some(""))],
        1..200u64,
        0..bad,
    );
    prop::collection::vec(one, 0..60).prop_map(move |all| {
        let number = all.into_iter().enumerate();
        number
            .map(|(number, (key, time, bad))| Sent {
                key: key.map(str::to_owned),
                time,
                payload: if rejected && bad == 0 {
                    format!("bad{number}")
                } else {
                    number.to_string()
                },
            })
            .collect()
    })
}

/// Lengths of batches.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..12usize, 1..60)
}

fn cut<'a>(messages: &'a [Sent], cuts: &[usize]) -> Vec<&'a [Sent]> {
    let (mut rest, mut parts) = (messages, Vec::new());
    for at in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, more) = rest.split_at((*at).min(rest.len()));
        parts.push(part);
        rest = more;
    }
    parts
}

fn run(window: Window, batches: &[&[Sent]]) -> Running {
    let mut run = Running::new(&window.to_string(), window.lateness);
    for batch in batches {
        run.call(batch);
        // The same content is the same bytes.
        assert_eq!(run.document().write(), run.document);
    }
    run
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// The payloads of all windows, open and closed.
fn folded(run: &Running) -> Vec<String> {
    let document = run.document();
    let open = document.entries().map(|entry| String::from_utf8(entry.state.to_vec()).unwrap());
    let open: Vec<String> =
        open.flat_map(|s| s.split_terminator(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    run.step.closed.iter().flat_map(|closed| closed.items.clone()).chain(open).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_engine_does_what_the_model_does(window in windows(), all in messages(true), cuts in cuts()) {
        // A session that a rejected message would open is where they differ: the model does not keep it for the batch.
        let session = matches!(window.kind, Kind::Session { .. });
        let all: Vec<Sent> = all.into_iter().filter(|m| !(session && m.payload.starts_with("bad"))).collect();
        let batches = cut(&all, &cuts);
        let mut run = run(window, &batches);
        let mut model = Model::new(window);
        batches.iter().for_each(|batch| model.call(batch));
        prop_assert_eq!(run.document().watermark, model.watermark);
        prop_assert_eq!(run.document().len(), model.open.len());
        prop_assert_eq!(&run.step.late, &model.late);
        let refused: Vec<String> = run.step.refused.iter().map(|(payload, ..)| payload.clone()).collect();
        prop_assert_eq!(sorted(refused), sorted(model.refused));
        // Keys come before topics, and the model knows them only by name: the order within one end is not compared.
        prop_assert_eq!(sorted(run.closed()), sorted(model.closed));
    }

    #[test]
    fn batches_do_not_matter_while_lateness_covers_the_disorder(
        window in windows(), all in messages(true), one in cuts(), other in cuts(),
    ) {
        let session = matches!(window.kind, Kind::Session { .. });
        let all: Vec<Sent> = all.into_iter().filter(|m| !(session && m.payload.starts_with("bad"))).collect();
        let mut newest = 0;
        let mut disorder = 0;
        for message in &all {
            newest = newest.max(message.time);
            disorder = disorder.max(newest - message.time);
        }
        let window = Window { lateness: disorder, ..window };
        let ends = [one, other].map(|cuts| {
            let mut run = run(window, &cut(&all, &cuts));
            run.idle(1_000_000);
            assert!(run.step.late.is_empty());
            (sorted(run.closed()), run.document)
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    #[test]
    fn every_message_is_in_its_windows_late_or_rejected(window in windows(), all in messages(true), cuts in cuts()) {
        let run = run(window, &cut(&all, &cuts));
        let folded = folded(&run);
        let refused: BTreeSet<&String> = run.step.refused.iter().map(|(payload, ..)| payload).collect();
        prop_assert_eq!(refused.len(), run.step.refused.len());
        let mut times: BTreeMap<&String, u64> = BTreeMap::new();
        folded.iter().for_each(|payload| *times.entry(payload).or_default() += 1);
        prop_assert_eq!(times.len() + refused.len() + run.step.late.len(), all.len());
        for message in &all {
            let Some(times) = times.get(&message.payload) else { continue };
            match window.kind {
                // In as many as reach over it; in fewer where some had ended.
                Kind::Hopping { size, every } => prop_assert!((1..=size.div_ceil(every)).contains(times)),
                _ => prop_assert_eq!(*times, 1),
            }
        }
    }

    #[test]
    fn hopping_windows_take_a_message_as_often_as_they_overlap(every in 1..20u64, times in 1..8u64, time in 1..500u64) {
        let (size, time) = (every * times, time + every * times);
        let mut run = Running::new(&format!("hopping {size} {every}"), 0);
        run.call(&[support::sent("a", time, "x")]).idle(1_000_000);
        prop_assert_eq!(run.closed().len() as u64, times);
    }

    #[test]
    fn documents_there_and_back(document in documents()) {
        let bytes = document.write();
        prop_assert_eq!(bytes.len(), document.byte_len());
        prop_assert_eq!(Document::read(&bytes).unwrap(), document.clone());
        prop_assert_eq!(Document::of(document.watermark, document.entries().collect::<Vec<_>>().into_iter().rev()), document);
    }

    #[test]
    fn other_partitions_there_and_back(document in documents(), many in 1..9u16) {
        let of = |count: u16| move |key: Option<&[u8]>, topic: &str| {
            let bytes = key.unwrap_or(topic.as_bytes());
            bytes.iter().fold(7u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(u16::from(*byte))) % count
        };
        let parts = repartition(std::slice::from_ref(&document), many, of(many));
        prop_assert_eq!(parts.len(), usize::from(many));
        prop_assert_eq!(parts.iter().map(Document::len).sum::<usize>(), document.len());
        for (number, part) in parts.iter().enumerate() {
            prop_assert_eq!(part.watermark, document.watermark);
            let of = of(many);
            prop_assert!(part.entries().all(|e| usize::from(of(e.group.key(), e.group.topic())) == number));
        }
        prop_assert_eq!(repartition(&parts, 1, of(1)), vec![document]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::read(&bytes);
        let mut dressed = Document::default().write();
        dressed.truncate(16);
        dressed.extend_from_slice(&bytes);
        let _ = Document::read(&dressed);
    }

    #[test]
    fn a_damaged_document_is_refused_or_another(document in documents(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let good = document.write();
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        if let Ok(read) = Document::read(&bad) {
            prop_assert_ne!(&read, &document);
            prop_assert_eq!(read.write(), bad);
        }
        prop_assert!(at == 0 || Document::read(&good[..at]).is_err());
    }

    #[test]
    fn the_engine_takes_any_document_that_can_be_read(document in documents(), window in windows(), all in messages(true)) {
        let mut run = run(window, &[]);
        run.document = document.write();
        for batch in all.chunks(7) {
            let batch: Vec<Sent> = batch.to_vec();
            let attached = support::batch(&batch);
            let attached = millrace_batch::Batch::parse(&attached).unwrap();
            let call = millrace_window::attach(&attached, &run.document, "s", 9, true).unwrap();
            let call = millrace_batch::Batch::parse(&call).unwrap();
            let next = run.engine.apply(&millrace_window::detach(&call).unwrap(), &mut Deaf).unwrap();
            let read = Document::read(&next).unwrap();
            prop_assert_eq!(read.write(), next.clone());
            prop_assert!(next.len() <= MAX_BYTES);
            run.document = next;
        }
    }
}

/// A step that does nothing.
struct Deaf;

impl millrace_window::Step for Deaf {
    fn fold(
        &mut self,
        state: Option<&[u8]>,
        _: &[millrace_batch::Message<'_>],
    ) -> Result<Vec<u8>, millrace_window::Failure> {
        Ok(state.unwrap_or_default().to_vec())
    }
    fn finish(&mut self, _: &millrace_window::Ended<'_>) -> Result<(), millrace_window::Failure> {
        Ok(())
    }
    fn late(&mut self, _: &millrace_window::Late<'_>) -> Result<(), String> {
        Ok(())
    }
    fn refused(&mut self, _: &millrace_batch::Message<'_>, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }
    fn lost(&mut self, _: &millrace_window::Ended<'_>, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Documents of any content, also of windows that no setting makes.
fn documents() -> impl Strategy<Value = Document> {
    let group = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3).prop_map(|key| (Some(key), String::new())),
        "[ab]{0,2}".prop_map(|topic| (None, topic)),
        Just((Some(b"a".to_vec()), String::new())),
    ];
    let entry = (group, 0..60u64, 0..60u64, any::<u64>(), prop::collection::vec(any::<u8>(), 0..5));
    (any::<u64>(), prop::collection::vec(entry, 0..20)).prop_map(|(watermark, entries)| {
        let watermark = if watermark % 2 == 0 { watermark % 100 } else { watermark };
        Document::of(
            watermark,
            entries.iter().map(|((key, topic), start, length, count, state)| Entry {
                group: Group::of(key.as_deref(), topic),
                start: *start,
                end: start + length,
                count: *count,
                state,
            }),
        )
    })
}
