//! Any text as the token with which a host joins; and a token of any bytes.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use millrace_lattice_config::join::Joining;

fuzz_target!(|bytes: &[u8]| {
    read(&String::from_utf8_lossy(bytes));
    read(&format!("mr1.{}", URL_SAFE_NO_PAD.encode(bytes)));
});

/// What is read can be written, and says the same then.
fn read(text: &str) {
    if let Ok(joining) = text.parse::<Joining>() {
        assert_eq!(joining.token().parse::<Joining>().as_ref(), Ok(&joining));
    }
}
