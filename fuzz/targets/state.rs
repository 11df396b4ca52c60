//! Any bytes as the state of a step: read or refused, and what is read is written as it was. Any bytes as the payload of a
//! message that is judged by it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_operators::{Dedup, Throttle};
use millrace_window::{Document, attach, detach, repartition};

fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = Document::read(bytes) else { return };
    let written = document.write();
    let again = Document::read(&written).expect("what was written can be read");
    assert_eq!(again, document);
    let _ = document.next_end();
    let parts =
        repartition(&[document], 3, |key, topic| (key.map_or(topic.len(), <[u8]>::len) % 3) as u16);
    let entries: usize = parts.iter().map(Document::len).sum();
    assert_eq!(entries, again.len());
    judge(bytes, &written);
});

/// Whatever the state says, there is a next one, and a message that was judged by it.
fn judge(payload: &[u8], document: &[u8]) {
    let mut writer = BatchWriter::new([("id", "x")]).expect("a header fits");
    let fields = Fields { payload, key: payload.get(..2), ..Fields::default() };
    if writer.push(&fields, []).is_err() {
        return;
    }
    let body = writer.finish();
    let batch = Batch::open(&body).expect("what was written can be read");
    let Ok(body) = attach(&batch, document, "s", payload.len() as u64, false) else { return };
    let batch = Batch::open(&body).expect("what was written can be read");
    let call = detach(&batch).expect("what was attached");
    let parts = "payload.a.0,payload".parse().expect("parts of a message");
    let mut judged = 0;
    let mut take = |_: &_, _| {
        judged += 1;
        Ok(())
    };
    for next in [
        Dedup::new(parts, 1_000).apply(&call, &mut take),
        Throttle::new(1, 10).apply(&call, &mut take),
    ] {
        // One that is too large to be read was never written by them.
        if let Ok(next) = next {
            Document::read(&next).expect("what was written can be read");
        }
    }
    assert!(judged <= 2);
}
