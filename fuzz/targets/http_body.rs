//! The body of a request, split into messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_http::fuzz::body(bytes));
