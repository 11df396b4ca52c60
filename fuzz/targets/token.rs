//! Any text as a token of NATS and as a file of credentials; and a file whose token is signed and has any bytes as its claims.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use millrace_lattice_config::jwt::{
    Account, Claims, Operator, User, credentials, read_credentials,
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    tokens(&text);
    let _ = read_credentials(&text);
    let _ = read_credentials(&credentials(&text, &text));
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let signed = format!("{}.{}", encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#), encode(bytes));
    tokens(&format!("{signed}.{}", encode(&[7; 64])));
});

fn tokens(text: &str) {
    let _ = Claims::<Operator>::verify(text);
    let _ = Claims::<Account>::verify(text);
    if let Ok(claims) = Claims::<User>::verify(text) {
        let _ = claims.check_time(millrace_lattice_config::now());
    }
}
