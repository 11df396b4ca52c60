//! Who may send.
//!
//! Of tokens and passwords only SHA-256 digests are kept. What is shown is compared with each of them, to the end and in
//! constant time, so that neither the time nor the answer says how close it was, or to which.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use millrace_settings::http::{Auth, Signature, SourceSettings};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::watched::{File, Watched};

/// Largest file of tokens, in bytes.
const FILE_MAX: u64 = 64 << 10;

/// Most tokens of a source.
const TOKENS_MAX: usize = 100;

/// Most signatures of a request: a sender that changes its key signs with both.
const SIGNATURES_MAX: usize = 8;

/// Bytes of an HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It does not show that it may.
    No,
    /// Nobody can be let in now: the file cannot be used.
    Unknown(String),
}

/// What a source asks of its requests.
pub(crate) enum Guard {
    Open,
    Token { basic: bool, digests: Arc<Watched<Vec<[u8; 32]>>> },
    Signed { keys: Arc<Watched<Vec<Hmac<Sha256>>>>, header: String, how: How },
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    Body,
    Timestamped { tolerance: Duration },
}

/// What is still to be shown when the body is there.
pub(crate) struct Claim {
    keys: Arc<Vec<Hmac<Sha256>>>,
    signed: Signed,
}

/// A header with signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Seconds since 1970 as they are written, which is what is signed.
    time: Option<String>,
    signatures: Vec<[u8; SIGNATURE_BYTES]>,
}

impl Guard {
    /// What these settings ask for. Reads the file.
    pub(crate) fn new(settings: &SourceSettings) -> Self {
        let path = PathBuf::from(settings.token_file.clone().unwrap_or_default());
        let files = vec![File { setting: "token-file", path, most: FILE_MAX }];
        match settings.auth {
            Auth::None => Self::Open,
            Auth::Bearer => {
                Self::Token { basic: false, digests: Arc::new(Watched::new(files, tokens)) }
            }
            Auth::Basic => {
                Self::Token { basic: true, digests: Arc::new(Watched::new(files, users)) }
            }
            Auth::Hmac => Self::Signed {
                keys: Arc::new(Watched::new(files, keys)),
                header: settings.signature_header().as_str().to_owned(),
                how: match settings.signature.unwrap_or_default() {
                    Signature::Body => How::Body,
                    Signature::Timestamped => How::Timestamped { tolerance: settings.tolerance() },
                },
            },
        }
    }

    /// Whether the file can be used.
    ///
    /// # Errors
    ///
    /// Names the setting and the file.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        match self {
            Self::Open => Ok(()),
            Self::Token { digests, .. } => digests.get().await.map(drop),
            Self::Signed { keys, .. } => keys.get().await.map(drop),
        }
    }

    /// What a client is told to show.
    pub(crate) const fn scheme(&self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Token { basic: false, .. } => "Bearer",
            Self::Token { basic: true, .. } => "Basic realm=\"millrace\", charset=\"UTF-8\"",
            Self::Signed { .. } => "HMAC-SHA256",
        }
    }

    /// Looks at the head of a request.
    pub(crate) async fn head(&self, headers: &HeaderMap) -> Result<Option<Claim>, Denied> {
        match self {
            Self::Open => Ok(None),
            Self::Token { basic, digests } => {
                let digests = digests.get().await.map_err(Denied::Unknown)?;
                let shown = single(headers, AUTHORIZATION.as_str()).ok_or(Denied::No)?;
                let shown = if *basic { user(shown) } else { bearer(shown) };
                let digest: [u8; 32] = Sha256::digest(shown.ok_or(Denied::No)?).into();
                let known = digests
                    .iter()
                    .fold(Choice::from(0), |found, known| found | known.ct_eq(&digest));
                if bool::from(known) { Ok(None) } else { Err(Denied::No) }
            }
            Self::Signed { keys, header, how } => {
                let keys = keys.get().await.map_err(Denied::Unknown)?;
                let shown = single(headers, header).ok_or(Denied::No)?;
                let signed = match how {
                    How::Body => of_body(shown),
                    How::Timestamped { tolerance } => timestamped(shown).filter(|signed| {
                        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                        let time = signed.time.as_deref().and_then(|time| time.parse().ok());
                        time.is_some_and(|time| now.as_secs().abs_diff(time) <= tolerance.as_secs())
                    }),
                };
                Ok(Some(Claim { keys, signed: signed.ok_or(Denied::No)? }))
            }
        }
    }
}

impl Claim {
    /// Whether one of the keys has signed this.
    pub(crate) fn holds(&self, body: &[u8]) -> bool {
        let mut found = Choice::from(0);
        for key in self.keys.iter() {
            let mut mac = key.clone();
            if let Some(time) = &self.signed.time {
                mac.update(time.as_bytes());
                mac.update(b".");
            }
            mac.update(body);
            let right = mac.finalize().into_bytes();
            for signature in &self.signed.signatures {
                found |= right.as_slice().ct_eq(signature);
            }
        }
        bool::from(found)
    }
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// What follows the name of a scheme (RFC 9110, section 11.4).
fn after<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ")?.trim_ascii();
    (name.eq_ignore_ascii_case(scheme.as_bytes()) && !rest.is_empty()).then_some(rest)
}

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(value: &[u8]) -> Option<Vec<u8>> {
    after(value, "Bearer").map(<[u8]>::to_vec)
}

/// User and password of `Authorization: Basic`, with the colon between them.
pub(crate) fn user(value: &[u8]) -> Option<Vec<u8>> {
    let both = STANDARD.decode(after(value, "Basic")?).ok()?;
    both.contains(&b':').then_some(both)
}

/// `sha256=` and a signature, or a signature alone.
pub(crate) fn of_body(value: &[u8]) -> Option<Signed> {
    let value = value.trim_ascii();
    let signature = hexadecimal(value.strip_prefix(b"sha256=").unwrap_or(value))?;
    Some(Signed { time: None, signatures: vec![signature] })
}

/// `t=` and seconds, and `v1=` and a signature, that one maybe several times; others are not looked at.
pub(crate) fn timestamped(value: &[u8]) -> Option<Signed> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in value.split(|byte| *byte == b',') {
        let part = part.trim_ascii();
        if let Some(text) = part.strip_prefix(b"t=") {
            let plain = (1..=15).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(text).ok().filter(|_| plain && time.is_none())?;
            time = Some(text.to_owned());
        } else if let Some(signature) = part.strip_prefix(b"v1=") {
            signatures.push(hexadecimal(signature)?);
        }
    }
    let right = time.is_some() && (1..=SIGNATURES_MAX).contains(&signatures.len());
    right.then_some(Signed { time, signatures })
}

fn hexadecimal(text: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    let mut bytes = [0; SIGNATURE_BYTES];
    if text.len() != 2 * SIGNATURE_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        for digit in pair {
            let digit = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(digit).ok()?;
        }
    }
    Some(bytes)
}

fn tokens(files: &[File]) -> Result<Vec<[u8; 32]>, String> {
    each(files, |token| Ok(Sha256::digest(token).into()))
}

fn users(files: &[File]) -> Result<Vec<[u8; 32]>, String> {
    each(files, |user| match user.contains(&b':') {
        true => Ok(Sha256::digest(user).into()),
        false => Err("is not user:password"),
    })
}

fn keys(files: &[File]) -> Result<Vec<Hmac<Sha256>>, String> {
    each(files, |key| Hmac::new_from_slice(key).map_err(|_| "is no key"))
}

/// Something of each line that is not empty. Errors say the line, never what it holds.
fn each<T>(
    files: &[File],
    make: impl Fn(&[u8]) -> Result<T, &'static str>,
) -> Result<Vec<T>, String> {
    let file = files.first().ok_or("token-file is missing")?;
    let text = file.read()?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        if found.len() == TOKENS_MAX {
            return Err(file.error(format_args!("has more than {TOKENS_MAX} lines")));
        }
        let made = make(line).map_err(|wrong| file.error(format_args!("line {number} {wrong}")));
        found.push(made?);
    }
    match found.is_empty() {
        true => Err(file.error("is empty: nobody would be let in")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use millrace_settings::from_flat;

    use super::*;

    fn guard(auth: &str, file: &str, more: &[(&str, &str)]) -> (Guard, tempfile::NamedTempFile) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let name = path.path().to_str().unwrap();
        let start = [("path", "/a"), ("auth", auth), ("token-file", name)];
        let flat: std::collections::BTreeMap<String, String> =
            start.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (Guard::new(&from_flat(&flat, &[]).unwrap()), path)
    }

    fn head(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    async fn lets_in(guard: &Guard, headers: &HeaderMap, body: &[u8]) -> bool {
        match guard.head(headers).await {
            Ok(None) => true,
            Ok(Some(claim)) => claim.holds(body),
            Err(denied) => {
                assert_eq!(denied, Denied::No);
                false
            }
        }
    }

    #[tokio::test]
    async fn every_token_of_the_file_lets_in_and_nothing_else() {
        let (guard, _file) = guard("bearer", "one-token\r\n\nother-token\n", &[]);
        for (value, wanted) in [
            ("Bearer one-token", true),
            ("bearer  other-token", true),
            ("Bearer one-token2", false),
            ("Bearer one-toke", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("Basic one-token", false),
            ("one-token", false),
            ("", false),
        ] {
            assert_eq!(
                lets_in(&guard, &head("authorization", value), b"").await,
                wanted,
                "{value}"
            );
        }
        assert!(!lets_in(&guard, &HeaderMap::new(), b"").await);
        let mut twice = head("authorization", "Bearer one-token");
        twice.append("authorization", HeaderValue::from_static("Bearer x"));
        assert!(!lets_in(&guard, &twice, b"").await);
    }

    #[tokio::test]
    async fn user_and_password() {
        let (guard, _file) = guard("basic", "shop:pass:word\n", &[]);
        let shown = |text: &str| head("authorization", &format!("Basic {}", STANDARD.encode(text)));
        assert!(lets_in(&guard, &shown("shop:pass:word"), b"").await);
        for wrong in ["shop:pass", "shop", "", ":", "Shop:pass:word"] {
            assert!(!lets_in(&guard, &shown(wrong), b"").await, "{wrong}");
        }
        assert!(!lets_in(&guard, &head("authorization", "Basic ***"), b"").await);
    }

    #[tokio::test]
    async fn a_signed_body_as_github_has_it() {
        // From GitHub's documentation, "Testing the webhook payload validation".
        let (guard, _file) = guard("hmac", "other\nIt's a Secret to Everybody\n", &[]);
        let signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        for value in [format!("sha256={signature}"), signature.to_owned(), signature.to_uppercase()]
        {
            let headers = head("x-hub-signature-256", &value);
            assert!(lets_in(&guard, &headers, b"Hello, World!").await, "{value}");
            assert!(!lets_in(&guard, &headers, b"Hello, World").await);
        }
        for wrong in ["sha256=", "sha1=00", &signature[1..], &"g".repeat(64)] {
            assert!(!lets_in(&guard, &head("x-hub-signature-256", wrong), b"").await, "{wrong}");
        }
        assert!(!lets_in(&guard, &HeaderMap::new(), b"Hello, World!").await);
    }

    #[tokio::test]
    async fn a_signed_time_and_body_as_stripe_has_it() {
        let more = [
            ("signature", "timestamped"),
            ("signature-header", "Stripe-Signature"),
            ("signature-tolerance", "1m"),
        ];
        let (guard, _file) = guard("hmac", "whsec_key\n", &more);
        let signed = |age: u64, extra: &str| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let time = (now - age).to_string();
            let mut mac = Hmac::<Sha256>::new_from_slice(b"whsec_key").unwrap();
            mac.update(format!("{time}.body").as_bytes());
            let hex: String =
                mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            head("stripe-signature", &format!("t={time},{extra}v1={hex},v0=abc"))
        };
        assert!(lets_in(&guard, &signed(0, ""), b"body").await);
        let old = format!("v1={},", "0".repeat(64));
        assert!(lets_in(&guard, &signed(30, &old), b"body").await, "one of several keys");
        assert!(!lets_in(&guard, &signed(0, ""), b"other").await);
        assert!(!lets_in(&guard, &signed(120, ""), b"body").await, "too long ago: a repeat");
        assert!(!lets_in(&guard, &signed(0, "t=1,"), b"body").await, "two times");
        for wrong in ["", "t=1", "v1=00", "t=-1,v1=00", "t=99999999999999999999,v1=00"] {
            assert!(!lets_in(&guard, &head("stripe-signature", wrong), b"body").await, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_lets_nobody_in() {
        for (auth, text, wanted) in [
            ("bearer", "\n\n", "is empty"),
            ("basic", "a:b\nsecret\n", "line 2 is not user:password"),
        ] {
            let (guard, _file) = guard(auth, text, &[]);
            let error = guard.ready().await.unwrap_err();
            assert!(error.contains(wanted) && !error.contains("secret"), "{error}");
            let headers = head("authorization", "Bearer x");
            assert!(matches!(guard.head(&headers).await, Err(Denied::Unknown(_))));
        }
        let (guard, file) = guard("bearer", "x", &[]);
        drop(file);
        assert!(guard.ready().await.is_ok(), "it was read when it was there");
    }
}
