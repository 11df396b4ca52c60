//! Any bytes as the state of a step: read or refused, and what is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_window::{Document, repartition};

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
});
