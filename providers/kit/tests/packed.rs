//! What of a batch becomes a header of NATS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use millrace_batch::BatchWriter;
use millrace_kit::Packed;
use millrace_kit::packed::TRACEPARENT;

fn packed(headers: &[(&str, &str)]) -> Packed {
    Packed::read(BatchWriter::new(headers.iter().copied()).unwrap().finish().into())
}

#[test]
fn what_would_be_another_header_is_not_carried() {
    assert_eq!(packed(&[("id", "a-1.0"), (TRACEPARENT, "00-1-2-01")]).check(), Ok(()));
    assert_eq!(packed(&[("other", "x\r\ny")]).check(), Ok(()));
    for name in ["id", TRACEPARENT] {
        for value in ["x\r\nNats-Rollup: all", "x\ny", "\0", &"x".repeat(5_000)] {
            let error = packed(&[(name, value)]).check().unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}

#[test]
fn what_no_server_takes_is_not_carried() {
    let error = Packed::read(vec![b'x'; 1 << 20].into()).check().unwrap_err();
    assert!(error.contains("1048576 bytes"), "{error}");
}
