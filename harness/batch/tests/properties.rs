//! What must hold for every batch, and for every run of bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use millrace_batch::{
    wrap_raw, Batch, BatchWriter, Field, Fields, Problem, WriteError, MAX_BATCH_BYTES, MAX_NAME,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Owned {
    timestamp: u64,
    topic: String,
    content_type: Option<String>,
    key: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

impl Owned {
    fn fields(&self) -> Fields<'_> {
        Fields {
            timestamp: self.timestamp,
            topic: &self.topic,
            content_type: self.content_type.as_deref(),
            key: self.key.as_deref(),
            payload: &self.payload,
        }
    }
}

fn pairs(headers: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn header_list() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((".{0,12}", ".{0,12}"), 0..4)
}

fn message() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    (
        any::<u64>(),
        ".{0,20}",
        prop::option::of(".{0,20}"),
        prop::option::of(bytes()),
        header_list(),
        bytes(),
    )
        .prop_map(|(timestamp, topic, content_type, key, headers, payload)| Owned {
            timestamp,
            topic,
            content_type,
            key,
            headers,
            payload,
        })
}

fn messages() -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec(message(), 0..12)
}

fn pack(headers: &[(String, String)], messages: &[Owned]) -> Vec<u8> {
    let mut writer = BatchWriter::new(pairs(headers)).unwrap();
    for message in messages {
        writer.push(&message.fields(), pairs(&message.headers)).unwrap();
    }
    writer.finish()
}

proptest! {
    #[test]
    fn what_is_written_is_read(headers in header_list(), messages in messages()) {
        let bytes = pack(&headers, &messages);
        let batch = Batch::parse(&bytes).unwrap();
        prop_assert_eq!(batch.headers().collect::<Vec<_>>(), pairs(&headers).collect::<Vec<_>>());
        prop_assert_eq!(batch.messages().count(), messages.len());
        for (read, written) in batch.messages().zip(&messages) {
            prop_assert_eq!(Fields::from(&read), written.fields());
            prop_assert_eq!(read.headers().collect::<Vec<_>>(), pairs(&written.headers).collect::<Vec<_>>());
        }
    }

    #[test]
    fn copied_records_are_the_same_batch(headers in header_list(), messages in messages()) {
        let bytes = pack(&headers, &messages);
        let mut writer = BatchWriter::new(pairs(&headers)).unwrap();
        for message in Batch::parse(&bytes).unwrap().messages() {
            writer.push_record(&message).unwrap();
        }
        prop_assert_eq!(writer.finish(), bytes);
    }

    #[test]
    fn halves_put_together_are_the_whole(messages in messages()) {
        let bytes = pack(&[("id".into(), "x".into()), ("other".into(), "kept".into())], &messages);
        let batch = Batch::parse(&bytes).unwrap();
        match batch.split().unwrap() {
            None => prop_assert!(messages.len() < 2),
            Some((first, second)) => {
                let (first, second) = (Batch::parse(&first).unwrap(), Batch::parse(&second).unwrap());
                prop_assert_eq!((first.header("id"), second.header("id")), (Some("x.0"), Some("x.1")));
                prop_assert_eq!((first.header("other"), second.header("other")), (Some("kept"), Some("kept")));
                prop_assert!(!first.is_empty() && !second.is_empty());
                let together: Vec<_> = first.messages().chain(second.messages()).map(|m| m.record()).collect();
                prop_assert_eq!(together, batch.messages().map(|m| m.record()).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn new_headers_leave_the_messages_alone(headers in header_list(), messages in messages(), value in ".{0,9}") {
        let bytes = pack(&headers, &messages);
        let batch = Batch::parse(&bytes).unwrap();
        let changed = batch.with_headers(&[("attempt", &value)]).unwrap();
        let again = Batch::parse(&changed).unwrap();
        prop_assert_eq!(again.header("attempt"), Some(value.as_str()));
        prop_assert!(again.messages().eq(batch.messages()));
        let kept = pairs(&headers).filter(|(name, _)| *name != "attempt");
        prop_assert_eq!(again.headers().take(again.headers().count() - 1).collect::<Vec<_>>(), kept.collect::<Vec<_>>());
    }

    #[test]
    fn every_truncation_is_noticed(headers in header_list(), messages in messages(), cut in any::<prop::sample::Index>()) {
        let bytes = pack(&headers, &messages);
        prop_assert!(Batch::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Batch::parse(&bytes);
    }

    /// Damage behind a correct head reaches the code that random bytes never do.
    #[test]
    fn damaged_batches_never_panic(
        headers in header_list(), messages in messages(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = pack(&headers, &messages);
        for (place, value) in damage {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(batch) = Batch::parse(&bytes) {
            // Whatever is accepted can be used in every way.
            prop_assert_eq!(batch.messages().count(), batch.len());
            let _ = batch.split().unwrap();
            let _ = batch.with_headers(&[("attempt", "2")]);
        }
        if let Ok(batch) = Batch::open(&bytes) {
            let _ = batch.messages().map(|m| m.headers().count()).sum::<usize>();
        }
    }

    #[test]
    fn a_raw_body_becomes_one_message(topic in ".{0,30}", body in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes = wrap_raw(&topic, &body, 7, [("id", "r")]).unwrap();
        let batch = Batch::parse(&bytes).unwrap();
        let message = batch.messages().next().unwrap();
        prop_assert_eq!((batch.len(), message.topic, message.payload, message.timestamp), (1, topic.as_str(), body.as_slice(), 7));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_batch_as_it_was() {
    let mut writer = BatchWriter::new([("id", "x")]).unwrap();
    writer.push(&Fields { topic: "fits", ..Fields::default() }, []).unwrap();
    let before = writer.clone().finish();
    let mark = writer.mark();
    writer.push(&Fields { topic: "taken back", ..Fields::default() }, []).unwrap();
    writer.rewind(mark);
    assert_eq!(writer.clone().finish(), before);

    let long = "x".repeat(MAX_NAME + 1);
    let huge = vec![0; MAX_BATCH_BYTES];
    let name = |field| Err(WriteError::NameTooLong { field, bytes: MAX_NAME + 1 });
    assert_eq!(writer.push(&Fields { topic: &long, ..Fields::default() }, []), name(Field::Topic));
    assert_eq!(
        writer.push(&Fields { content_type: Some(&long), ..Fields::default() }, []),
        name(Field::ContentType)
    );
    assert_eq!(
        writer.push(&Fields::default(), [("ok", "ok"), (&long, "")]),
        name(Field::HeaderName)
    );
    let payload = Fields { payload: &huge, ..Fields::default() };
    assert!(matches!(writer.push(&payload, []), Err(WriteError::BatchTooLarge { .. })));
    let key = Fields { key: Some(&huge), ..Fields::default() };
    assert!(matches!(writer.push(&key, []), Err(WriteError::BatchTooLarge { .. })));
    let value = "x".repeat(MAX_BATCH_BYTES);
    assert!(matches!(
        writer.push(&Fields::default(), [("n", value.as_str())]),
        Err(WriteError::BatchTooLarge { .. })
    ));
    let many = std::iter::repeat_n(("", ""), 65_536);
    assert_eq!(
        writer.push(&Fields::default(), many),
        Err(WriteError::TooManyHeaders { count: 65_536 })
    );

    assert_eq!(writer.finish(), before);
    assert!(matches!(
        BatchWriter::new([("n", "x".repeat(70_000).as_str())]),
        Err(WriteError::HeadersTooLarge { .. })
    ));
}

#[test]
fn a_batch_header_is_taken_off_and_nothing_else_changes() {
    let messages = [("a", b"1"), ("b", b"2")];
    let write = |headers: &[(&str, &str)]| {
        let mut writer = BatchWriter::new(headers.iter().copied()).unwrap();
        for (topic, payload) in messages {
            writer
                .push(&Fields { topic, payload, ..Fields::default() }, [("enter", "own")])
                .unwrap();
        }
        writer.finish()
    };
    let with = write(&[("id", "x"), ("enter", "step"), ("more", "y")]);
    let without = Batch::parse(&with).unwrap().without_header("enter").unwrap();
    assert_eq!(without, write(&[("id", "x"), ("more", "y")]));
    assert_eq!(Batch::parse(&without).unwrap().without_header("enter").unwrap(), without);
}

#[test]
fn the_largest_names_are_written_and_read() {
    let longest = "x".repeat(MAX_NAME);
    let fields = Fields { topic: &longest, content_type: Some(&longest), ..Fields::default() };
    let mut writer = BatchWriter::new([]).unwrap();
    writer.push(&fields, [(longest.as_str(), "v")]).unwrap();
    let bytes = writer.finish();
    let message = Batch::parse(&bytes).unwrap().messages().next().unwrap();
    assert_eq!(Fields::from(&message), fields);
}

#[test]
fn an_opened_batch_yields_the_error_of_the_damaged_record() {
    let mut bytes = pack(&[], &[]);
    assert!(Batch::open(&bytes).unwrap().is_empty());
    bytes = wrap_raw("topic", b"body", 0, []).unwrap();
    bytes[48] = 0xFF;
    let batch = Batch::open(&bytes).unwrap();
    let errors: Vec<_> = batch.try_messages().collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].clone().unwrap_err().problem, Problem::NotUtf8);
    assert_eq!(batch.messages().count(), 0);
}
