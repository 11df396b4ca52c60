//! For the fuzz targets: what is private otherwise.

use millrace_batch::{Batch, BatchWriter, Fields};
use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::fields::{plain, read, written};
use crate::{CONTENT_TYPE, NULL_VALUE, OFFSET, PARTITION};

/// Names that have a meaning of their own here, and do not come back as they were.
const OWN: [&str; 4] = [CONTENT_TYPE, NULL_VALUE, OFFSET, PARTITION];

/// Headers, a line each (`name=value`, a name alone has no value); after an empty line the payload.
pub fn record(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut given: Vec<(&str, Option<&[u8]>)> = Vec::new();
    for line in lines.by_ref() {
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], Some(&line[at + 1..])),
            None => (line, None),
        };
        match std::str::from_utf8(name) {
            // The name of a record's header ends at a null character.
            Ok("") | Err(_) => break,
            Ok(name) if name.contains('\0') => return,
            Ok(name) => given.push((name, value)),
        }
    }
    let payload = lines.next().unwrap_or_default();
    let headers = given
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
    let read = read(headers.as_borrowed());
    assert!(!read.unreadable);
    if let Some(plain) = plain(headers.as_borrowed()) {
        // The quick way and the other are one way.
        assert_eq!(plain.content_type, read.content_type);
        assert!(plain.headers.iter().copied().eq(read.headers.iter().map(|(n, v)| (&**n, &**v))));
    }
    let mut writer = BatchWriter::new([]).expect("no headers");
    let fields = Fields { payload, content_type: read.content_type, ..Fields::default() };
    let all = read.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    // Refused where it is too much for a batch.
    if writer.push(&fields, all).is_err() {
        return;
    }
    let body = writer.finish();
    let batch = Batch::parse(&body).expect("what was written can be read");
    let message = batch.messages().next().expect("one message");
    let back = written(&message);
    let own =
        |name: &str| OWN.contains(&name) || name.ends_with(";base64") || name.ends_with(";null");
    if given.iter().any(|(name, _)| own(name)) {
        return;
    }
    let found: Vec<(String, Option<Vec<u8>>)> = back
        .headers
        .iter()
        .flat_map(|headers| headers.iter())
        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
        .collect();
    let given: Vec<(String, Option<Vec<u8>>)> =
        given.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect();
    assert_eq!(found, given);
    assert_eq!(back.payload, Some(payload));
}
