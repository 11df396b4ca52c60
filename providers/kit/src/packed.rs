//! A packed batch on its way, with what the caller needs to know of it.
//!
//! Delivery never looks at single messages until one of them is dead, so only
//! the batch's header is read here; the records stay one shared buffer.

use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, Fields, PROBE, WriteError};

/// Batch header: number of the attempt, from 1.
pub const ATTEMPT: &str = "attempt";
/// Batch header: W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Largest body that is carried over NATS, in bytes: 1 MiB, which a server takes unless it is told otherwise, less room for
/// headers. A harness stays below.
const BODY_MAX: usize = (1 << 20) - (16 << 10);

/// Longest batch header that becomes a header of NATS, in bytes. An id grows a little with each batch that it is joined from or cut
/// of.
const HEADER_MAX: usize = 4 << 10;

/// A batch, or a raw body that is to be treated as one message.
#[derive(Debug, Clone)]
pub struct Packed {
    body: Bytes,
    messages: usize,
    id: Option<String>,
    traceparent: Option<String>,
    attempt: u32,
    readable: bool,
}

impl Packed {
    /// Takes up a body. One that is no batch, or a damaged one, is taken as
    /// one message: the stage decides what to make of it.
    #[must_use]
    pub fn read(body: Bytes) -> Self {
        let Ok(batch) = Batch::open(&body) else {
            return Self {
                body,
                messages: 1,
                id: None,
                traceparent: None,
                attempt: 1,
                readable: false,
            };
        };
        let messages = batch.len();
        let id = batch.header(millrace_batch::ID).map(str::to_owned);
        let traceparent = batch.header(TRACEPARENT).map(str::to_owned);
        // Absent means the first attempt; a number we did not write is replaced.
        let attempt = batch.header(ATTEMPT).map_or(1, |text| text.parse().unwrap_or(0));
        Self { messages, id, traceparent, attempt, readable: true, body }
    }

    /// Whether the batch can be carried over NATS: its `id` and its trace become headers there, where a line break would begin
    /// another, and the body has its bound. What a harness packed always can; a component that is a stage itself packs what it likes.
    ///
    /// # Errors
    ///
    /// Why not, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.body.len() > BODY_MAX {
            return Err(format!(
                "the body has {} bytes, at most {BODY_MAX} can be carried",
                self.body.len()
            ));
        }
        for (name, value) in [("id", &self.id), ("traceparent", &self.traceparent)] {
            let Some(value) = value else { continue };
            if value.len() > HEADER_MAX {
                return Err(format!(
                    "the batch header `{name}` has {} bytes, at most {HEADER_MAX} are allowed",
                    value.len()
                ));
            }
            if value.chars().any(char::is_control) {
                return Err(format!("the batch header `{name}` has a control character"));
            }
        }
        Ok(())
    }

    /// Number of messages.
    #[must_use]
    pub const fn messages(&self) -> usize {
        self.messages
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The packed bytes.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The batch header `id`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The batch header `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Whether this is an empty batch that asks whether the way is open.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.messages == 0
            && Batch::open(&self.body).is_ok_and(|batch| batch.header(PROBE).is_some())
    }

    /// The bytes to send for attempt number `attempt`. Copies only when the
    /// header has to change, which the first attempt does not need.
    #[must_use]
    pub fn for_attempt(&self, attempt: u32) -> Bytes {
        if attempt == self.attempt || !self.readable {
            return self.body.clone();
        }
        let number = attempt.to_string();
        // Fails only if the header no longer fits; the number is for people.
        Batch::open(&self.body)
            .ok()
            .and_then(|batch| batch.with_headers(&[(ATTEMPT, &number)]).ok())
            .map_or_else(|| self.body.clone(), Bytes::from)
    }

    /// The two halves, or `None` for a batch of one message.
    #[must_use]
    pub fn split(&self) -> Option<(Self, Self)> {
        let (first, second) = Batch::open(&self.body).ok()?.split().ok()??;
        Some((Self::read(first.into()), Self::read(second.into())))
    }

    /// The messages with `headers` added to each, as a batch with the batch
    /// headers `set`. A body that is no batch becomes one message.
    ///
    /// # Errors
    ///
    /// When the headers do not fit into the format.
    pub fn annotated(
        &self,
        set: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Result<Bytes, WriteError> {
        let mut writer = BatchWriter::with_capacity(set.iter().copied(), self.body.len() + 512)?;
        // Checked in full: what could not be read in part is kept as a whole.
        match Batch::parse(&self.body) {
            Ok(batch) => {
                for message in batch.messages() {
                    writer.push(
                        &Fields::from(&message),
                        message.headers().chain(headers.iter().copied()),
                    )?;
                }
            }
            Err(_) => writer.push(
                &Fields {
                    timestamp: crate::telemetry::now_ns(),
                    payload: &self.body,
                    ..Fields::default()
                },
                headers.iter().copied(),
            )?,
        }
        Ok(writer.finish().into())
    }
}

/// An empty batch that asks a stage, and everything behind it, whether the way
/// is open. Empty bytes if the format refuses it, which it does not.
#[must_use]
pub fn probe() -> Bytes {
    BatchWriter::new([(PROBE, "1")]).map(BatchWriter::finish).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(count: u64) -> Packed {
        let mut writer = BatchWriter::new([("id", "x"), (TRACEPARENT, "00-a-b-01")]).unwrap();
        for n in 0..count {
            writer
                .push(
                    &Fields { timestamp: n, topic: "t", payload: b"p", ..Fields::default() },
                    [("h", "v")],
                )
                .unwrap();
        }
        Packed::read(writer.finish().into())
    }

    #[test]
    fn reads_the_header() {
        let packed = batch(3);
        assert_eq!(
            (packed.messages(), packed.id(), packed.traceparent()),
            (3, Some("x"), Some("00-a-b-01"))
        );
        assert!(!packed.is_probe());
        assert!(Packed::read(probe()).is_probe());
        assert!(!batch(0).is_probe(), "an empty batch alone is not a question");
    }

    #[test]
    fn the_first_attempt_does_not_copy() {
        let packed = batch(2);
        assert_eq!(packed.for_attempt(1).as_ptr(), packed.body().as_ptr());
        let second = packed.for_attempt(2);
        assert_eq!(Batch::parse(&second).unwrap().header(ATTEMPT), Some("2"));
        let again = Packed::read(second);
        assert_eq!(Batch::parse(&again.for_attempt(1)).unwrap().header(ATTEMPT), Some("1"));
    }

    #[test]
    fn a_raw_body_is_one_message() {
        let packed = Packed::read(Bytes::from_static(b"hello"));
        assert_eq!(packed.messages(), 1);
        assert!(packed.split().is_none());
        assert_eq!(packed.for_attempt(7), "hello");
        let letter = packed.annotated(&[("id", "i")], &[("kind", "batch")]).unwrap();
        let letter = Batch::parse(&letter).unwrap();
        let message = letter.messages().next().unwrap();
        assert_eq!(message.payload, b"hello");
        assert_eq!(message.headers().collect::<Vec<_>>(), [("kind", "batch")]);
    }

    #[test]
    fn splits_down_to_one_and_annotates() {
        let (first, second) = batch(3).split().unwrap();
        assert_eq!((first.messages(), first.id()), (1, Some("x.0")));
        assert_eq!((second.messages(), second.id()), (2, Some("x.1")));
        assert!(first.split().is_none());
        let letter = first.annotated(&[], &[("kind", "trap")]).unwrap();
        let letter = Batch::parse(&letter).unwrap();
        let message = letter.messages().next().unwrap();
        assert_eq!((message.timestamp, message.topic, message.payload), (0, "t", b"p".as_slice()));
        assert_eq!(message.headers().collect::<Vec<_>>(), [("h", "v"), ("kind", "trap")]);
    }
}
