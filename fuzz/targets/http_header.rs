//! Headers of a request that say who sends it and when.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_http::fuzz::header(bytes));
