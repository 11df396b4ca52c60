//! A message for a Modbus sink: a write within what is granted, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_modbus::fuzz::command(bytes));
