//! A record's headers and value: a message, and from it the same record again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_kafka::fuzz::record(bytes));
