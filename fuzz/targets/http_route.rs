//! The path of a source and of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_http::fuzz::route(bytes));
