//! A message for a GPIO sink: a line and a level, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_gpio::fuzz::command(bytes));
