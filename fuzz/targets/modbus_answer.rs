//! What a device sends as its answer: taken only if it answers the question, and otherwise the connection is dropped.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_modbus::fuzz::answer(bytes));
