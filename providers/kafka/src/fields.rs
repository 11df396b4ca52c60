//! A Kafka record as a message, and back.
//!
//! What a message cannot hold as it is gets a marked name, so that the sink can
//! make the same record again: a header value that is not UTF-8 is written as
//! base64 under its name and [`BASE64`], one that is null as empty under its
//! name and [`NULL`].

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_batch::{Fields, Message as Carried};
use millrace_kit::telemetry::now_ns;
use rdkafka::message::{BorrowedHeaders, Header, Headers, Message, OwnedHeaders, Timestamp};

use crate::{CONTENT_TYPE, NULL_VALUE, OFFSET, PARTITION};

/// Added to the name of a header whose value is not UTF-8.
pub(crate) const BASE64: &str = ";base64";
/// Added to the name of a header whose value is null.
pub(crate) const NULL: &str = ";null";

/// Headers of a record as a message has them, made from [`BorrowedHeaders`].
#[derive(Debug, Default)]
pub(crate) struct Read<'a> {
    pub(crate) headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub(crate) content_type: Option<&'a str>,
    /// A header's name is not UTF-8: none of the headers can be had.
    pub(crate) unreadable: bool,
}

/// Reads a record's headers.
pub(crate) fn read(headers: &BorrowedHeaders) -> Read<'_> {
    // A name that is not UTF-8 is a panic in the client library, which has no
    // other way to give it. Whoever can write to the topic could stop the
    // source with it, again at every restart.
    catch_unwind(AssertUnwindSafe(|| collect(headers)))
        .unwrap_or_else(|_| Read { unreadable: true, ..Read::default() })
}

/// Headers as they are, without copying any: nothing when one of them has to be
/// written in another way, and [`read`] has to do it.
pub(crate) fn plain(headers: &BorrowedHeaders) -> Option<Plain<'_>> {
    catch_unwind(AssertUnwindSafe(|| {
        let count = headers.count();
        // Room for what a source adds.
        let mut plain = Plain { headers: Vec::with_capacity(count + 3), content_type: None };
        for place in 0..count {
            let Header { key, value } = headers.try_get(place)?;
            let text = std::str::from_utf8(value?).ok()?;
            if key == CONTENT_TYPE && plain.content_type.is_none() {
                plain.content_type = Some(text);
            } else {
                plain.headers.push((key, text));
            }
        }
        Some(plain)
    }))
    .unwrap_or_default()
}

/// What [`plain`] has found.
#[derive(Debug, Default)]
pub(crate) struct Plain<'a> {
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) content_type: Option<&'a str>,
}

fn collect(headers: &BorrowedHeaders) -> Read<'_> {
    let count = headers.count();
    let mut read = Read { headers: Vec::with_capacity(count), ..Read::default() };
    for place in 0..count {
        let Some(Header { key, value }) = headers.try_get(place) else { break };
        let Some(value) = value else {
            read.headers.push((format!("{key}{NULL}").into(), "".into()));
            continue;
        };
        match std::str::from_utf8(value) {
            Ok(text) if key == CONTENT_TYPE && read.content_type.is_none() => {
                read.content_type = Some(text);
            }
            Ok(text) => read.headers.push((key.into(), text.into())),
            Err(_) => {
                read.headers.push((format!("{key}{BASE64}").into(), STANDARD.encode(value).into()));
            }
        }
    }
    read
}

/// A record's time in nanoseconds; of one without, the time of its arrival.
pub(crate) fn timestamp(record: &impl Message) -> u64 {
    match record.timestamp() {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => {
            u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000)
        }
        Timestamp::NotAvailable => now_ns(),
    }
}

/// A record's fields as a message has them.
pub(crate) fn fields<'a>(
    record: &'a impl Message,
    topic: &'a str,
    content_type: Option<&'a str>,
) -> Fields<'a> {
    Fields {
        timestamp: timestamp(record),
        topic,
        content_type,
        key: record.key(),
        payload: record.payload().unwrap_or_default(),
    }
}

/// What a sink writes beside topic and key.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) headers: Option<OwnedHeaders>,
    pub(crate) payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; the client sets the time itself when
    /// there is none.
    pub(crate) timestamp: Option<i64>,
}

/// A message as a record.
pub(crate) fn written<'a>(message: &Carried<'a>) -> Written<'a> {
    let mut payload = Some(message.payload);
    let mut headers = None;
    let mut add = |key: &str, value: Option<&[u8]>| {
        let all = headers.take().unwrap_or_else(OwnedHeaders::new);
        headers = Some(all.insert(Header { key, value }));
    };
    if let Some(content_type) = message.content_type {
        add(CONTENT_TYPE, Some(content_type.as_bytes()));
    }
    for (name, value) in message.headers() {
        match name {
            // Where a source has read it is not where it is written to.
            PARTITION | OFFSET => {}
            NULL_VALUE => {
                if message.payload.is_empty() {
                    payload = None;
                }
            }
            _ => match (name.strip_suffix(BASE64), name.strip_suffix(NULL)) {
                (Some(plain), _) => match STANDARD.decode(value) {
                    Ok(bytes) => add(plain, Some(&bytes)),
                    Err(_) => add(name, Some(value.as_bytes())),
                },
                (None, Some(plain)) if value.is_empty() => add(plain, None),
                _ => add(name, Some(value.as_bytes())),
            },
        }
    }
    let millis = i64::try_from(message.timestamp / 1_000_000).ok().filter(|ms| *ms > 0);
    Written { headers, payload, timestamp: millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_cannot_hold_comes_back_as_it_was() {
        let record: [(&str, Option<&[u8]>); 5] = [
            ("unit", Some(b"C")),
            ("raw", Some(&[0xff, 0x00])),
            ("none", None),
            ("unit", Some(b"")),
            ("content-type", Some(b"text/plain")),
        ];
        let headers = record.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header { key, value: *value })
        });
        let read = read(headers.as_borrowed());
        assert_eq!(read.content_type, Some("text/plain"));
        let names: Vec<_> = read.headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["unit", "raw;base64", "none;null", "unit"]);

        let mut writer = millrace_batch::BatchWriter::new([]).unwrap();
        let fields = Fields { content_type: read.content_type, ..Fields::default() };
        writer.push(&fields, read.headers.iter().map(|(n, v)| (n.as_ref(), v.as_ref()))).unwrap();
        let body = writer.finish();
        let batch = millrace_batch::Batch::parse(&body).unwrap();
        let written = written(&batch.messages().next().unwrap());
        let back = written.headers.unwrap();
        let mut back: Vec<_> = back.iter().map(|h| (h.key, h.value)).collect();
        back.rotate_left(1);
        assert_eq!(back, record);
        assert_eq!((written.payload, written.timestamp), (Some([].as_slice()), None));
    }

    #[test]
    fn a_name_that_is_not_text_does_not_stop_anything() {
        // The library takes the bytes as they are.
        let name = String::from_utf8_lossy(&[0x66]).into_owned();
        let headers = OwnedHeaders::new().insert(Header { key: &name, value: Some("v") });
        assert!(!read(headers.as_borrowed()).unreadable);
    }
}
