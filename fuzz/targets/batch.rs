//! Whatever the bytes: the reader ends without a panic, and what it accepts can be taken apart and put together again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_batch::{Batch, BatchWriter, Fields};

fuzz_target!(|bytes: &[u8]| {
    let Ok(batch) = Batch::parse(bytes) else { return };
    let mut writer =
        BatchWriter::new(batch.headers()).expect("headers that were read can be written");
    for message in batch.messages() {
        writer
            .push(&Fields::from(&message), message.headers())
            .expect("a message that was read can be written");
    }
    // There is one way only to write a batch.
    assert_eq!(writer.finish(), bytes);
    if let Ok(Some((first, second))) = batch.split() {
        let count = |bytes: &[u8]| Batch::parse(bytes).expect("a half is a batch").len();
        assert_eq!(count(&first) + count(&second), batch.len());
    }
});
