//! Any bytes as the request of a step, as an answer to it, as a grant, a URL, a key, and as a payload that something is added to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_grants::{Authority, Grant, Reply, Request, Use, decode_key, encode_key};
use millrace_operators::{Enrich, Enriched};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        let written = request.encode().expect("what was read can be written");
        assert_eq!(Request::decode(&written).as_ref(), Ok(&request));
        assert!(request.check([]).is_err(), "nothing is granted");
    }
    let http = Use::Http {
        method: String::new(),
        url: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    for what in [Use::Get { bucket: String::new(), keys: vec![Vec::new()] }, http] {
        let _ = Reply::decode(&what, bytes);
    }
    assert_eq!(decode_key(&encode_key(bytes)), bytes);
    enrich(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(grant) = text.parse::<Grant>() {
        assert_eq!(grant.to_string().parse(), Ok(grant));
    }
    if let Ok(server) = Authority::of_url(text) {
        // Who reads it again finds the same server.
        assert_eq!(server.to_string().parse(), Ok(server));
    }
});

/// A payload that is an object stays one, with the field in it.
fn enrich(payload: &[u8]) {
    let mut writer = BatchWriter::new([]).expect("no header fits");
    if writer.push(&Fields { payload, ..Fields::default() }, []).is_err() {
        return;
    }
    let body = writer.finish();
    let batch = Batch::open(&body).expect("what was written can be read");
    let Some(message) = batch.messages().next() else { return };
    let enrich = Enrich {
        by: "payload.a.0".parse().expect("a part of a message"),
        into: "payload.b".parse().expect("a place"),
        missing: "keep".parse().expect("a word"),
    };
    let _ = enrich.key(&message);
    // What only looks like JSON, such as a number beyond all numbers, goes on as it came.
    let is_json = serde_json::from_slice::<serde_json::Value>(payload).is_ok();
    if let (Ok(Enriched::Payload(payload)), true) = (enrich.apply(&message, Some(b"17")), is_json) {
        let value: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(value["b"], 17);
    }
}
