//! How the document travels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_window::{attach, commit, detach, write_commit, Commit, IDLE, NOW, STATE};

fn batch(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = BatchWriter::new(headers.iter().copied()).unwrap();
    for payload in ["one", "two"] {
        let fields = Fields { topic: "t", payload: payload.as_bytes(), ..Fields::default() };
        writer.push(&fields, [("h", "v")]).unwrap();
    }
    writer.finish()
}

#[test]
fn what_is_attached_is_detached() {
    let bytes = batch(&[("id", "x"), (STATE, "old"), (NOW, "1"), (IDLE, "1"), ("own", "y")]);
    let batch = Batch::parse(&bytes).unwrap();
    for idle in [false, true] {
        let bytes = attach(&batch, b"document", "kv/1", 42, idle).unwrap();
        let carrying = Batch::parse(&bytes).unwrap();
        assert_eq!(carrying.len(), 3);
        let mut headers = vec![("id", "x"), ("own", "y"), (STATE, "kv/1"), (NOW, "42")];
        headers.extend(idle.then_some((IDLE, "1")));
        assert_eq!(carrying.headers().collect::<Vec<_>>(), headers);
        let call = detach(&carrying).unwrap();
        assert_eq!(
            (call.state, call.now, call.idle, call.document),
            ("kv/1", 42, idle, &b"document"[..])
        );
        assert!(call.messages().map(|m| m.record()).eq(batch.messages().map(|m| m.record())));
    }
}

#[test]
fn a_batch_without_a_document_is_none() {
    for headers in [&[][..], &[(STATE, "s")], &[(NOW, "1")], &[(STATE, "s"), (NOW, "soon")]] {
        let bytes = batch(headers);
        assert!(detach(&Batch::parse(&bytes).unwrap()).is_none(), "{headers:?}");
    }
    let empty = BatchWriter::new([(STATE, "s"), (NOW, "1")]).unwrap().finish();
    assert!(detach(&Batch::parse(&empty).unwrap()).is_none());
}

#[test]
fn a_commit_there_and_back() {
    let bytes = write_commit("kv/1", b"document").unwrap();
    let expected = Commit { state: "kv/1", document: b"document" };
    assert_eq!(commit(&Batch::parse(&bytes).unwrap()), Some(expected));
    let empty = write_commit("kv/1", b"").unwrap();
    assert_eq!(commit(&Batch::parse(&empty).unwrap()).unwrap().document, b"");
    for other in [batch(&[]), batch(&[(STATE, "two messages")])] {
        assert_eq!(commit(&Batch::parse(&other).unwrap()), None);
    }
}
