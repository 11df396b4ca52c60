//! A file of credentials: a user's JWT and the seed of its key, in the format that `nsc` writes and NATS' clients read.
//! <https://docs.nats.io/using-nats/developer/connecting/creds>

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};
use serde::Deserialize;

use crate::{AccessError, NotCredentials};

/// Most bytes of a file of credentials: ten times what one with long lists of permissions has.
const FILE_MAX: u64 = 256 << 10;

/// What a tag of a user begins with that names the lattice of its tenant.
const LATTICE: &str = "lattice:";

/// What a tag begins with that names the key which signs the platform's entries of the audit log.
const AUDIT: &str = "audit:";

/// What a tag begins with that names the prefix of the user's inboxes: where answers to its requests go.
const INBOX: &str = "inbox:";

/// Longest prefix of inboxes, in bytes.
const INBOX_MAX: usize = 64;

/// A user's JWT and key. Who issued it and what it allows is the server's to check.
#[derive(Clone)]
pub struct Credentials {
    jwt: String,
    key: Arc<KeyPair>,
    claims: Claims,
}

// Without the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// What is looked at of a user's JWT.
#[derive(Debug, Clone, Deserialize)]
struct Claims {
    #[serde(default)]
    name: String,
    #[serde(default)]
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    nats: Nats,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Nats {
    #[serde(default)]
    tags: Vec<String>,
}

impl Credentials {
    /// Reads a file, which has to be its owner's alone.
    ///
    /// # Errors
    ///
    /// When it cannot be read, may be read by others, or holds no credentials.
    pub fn read(path: &Path) -> Result<Self, AccessError> {
        let error = |source| AccessError::File { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(error)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(AccessError::Loose { path: path.to_owned() });
        }
        let bytes = bounded(path, FILE_MAX)?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        Self::parse(&text)
            .map_err(|what| AccessError::NoCredentials { path: path.to_owned(), what })
    }

    /// Takes a file's text apart. Whether the JWT is signed is not looked at.
    ///
    /// # Errors
    ///
    /// When it is too long, one of the two parts is missing or damaged, or the seed is not a user's.
    pub fn parse(text: &str) -> Result<Self, NotCredentials> {
        let wrong = NotCredentials;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
            return Err(wrong("it is too long"));
        }
        let jwt = block(text, "NATS USER JWT").ok_or(wrong("it has no block `NATS USER JWT`"))?;
        let seed =
            block(text, "USER NKEY SEED").ok_or(wrong("it has no block `USER NKEY SEED`"))?;
        let key = KeyPair::from_seed(seed).map_err(|_| wrong("its seed is damaged"))?;
        if key.key_pair_type() != KeyPairType::User {
            return Err(wrong("its seed is not that of a user"));
        }
        let damaged = || wrong("its JWT is damaged");
        let claims = jwt.split('.').nth(1).ok_or_else(damaged)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| damaged())?;
        let claims = serde_json::from_slice(&claims).map_err(|_| damaged())?;
        Ok(Self { jwt: jwt.to_owned(), key: Arc::new(key), claims })
    }

    /// The user's JWT.
    #[must_use]
    pub fn jwt(&self) -> &str {
        &self.jwt
    }

    /// The user's key, which signs what the server sends at the start of a connection.
    #[must_use]
    pub fn key(&self) -> Arc<KeyPair> {
        Arc::clone(&self.key)
    }

    /// The user's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.claims.name
    }

    /// The lattice of the user's tenant, where its JWT has a tag `lattice:NAME`.
    #[must_use]
    pub fn lattice(&self) -> Option<&str> {
        self.claims.nats.tags.iter().find_map(|tag| tag.strip_prefix(LATTICE))
    }

    /// The public key that signs what the platform writes into the lattice's audit log, where the JWT has a tag `audit:KEY`.
    #[must_use]
    pub fn audit_signer(&self) -> Option<&str> {
        self.claims.nats.tags.iter().find_map(|tag| tag.strip_prefix(AUDIT))
    }

    /// What the user's inboxes begin with, where its JWT has a tag `inbox:PREFIX`: it may listen to no others. One word of
    /// letters, digits, `_` and `-`; anything else is passed over.
    #[must_use]
    pub fn inbox(&self) -> Option<&str> {
        let word = |text: &&str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            (1..=INBOX_MAX).contains(&text.len()) && text.chars().all(plain)
        };
        self.claims.nats.tags.iter().find_map(|tag| tag.strip_prefix(INBOX)).filter(word)
    }

    /// From when and until when they are valid, in seconds since the Unix epoch.
    #[must_use]
    pub fn valid(&self) -> (Option<u64>, Option<u64>) {
        let (begin, end) = (self.claims.nbf, self.claims.exp);
        (Some(begin).filter(|at| *at > 0), Some(end).filter(|at| *at > 0))
    }
}

/// The text between `-----BEGIN <name>-----` and the next line of dashes.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("-----BEGIN {name}-----"))?;
    let (inside, _) = after.split_once("-----")?;
    // The line of dashes at the end may have six.
    let inside = inside.trim();
    (!inside.is_empty() && !inside.contains(char::is_whitespace)).then_some(inside)
}

/// A file of a bounded size.
pub(crate) fn bounded(path: &Path, max: u64) -> Result<Vec<u8>, AccessError> {
    let error = |source| AccessError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(error)?;
    match u64::try_from(bytes.len()) {
        Ok(size) if size <= max => Ok(bytes),
        _ => Err(error(std::io::Error::other(format!("it is larger than {max} bytes")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(claims: &str, seed: &str) -> String {
        let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_file_is_read_and_says_whose_it_is() {
        let key = KeyPair::new_user();
        let claims = r#"{"name":"acme-operator","exp":1700000000,"nats":{"tags":["x","lattice:acme","audit:OK"]}}"#;
        let text = file(claims, &key.seed().unwrap());
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            let read = Credentials::parse(&text).unwrap();
            assert_eq!(read.key().public_key(), key.public_key());
            assert_eq!((read.name(), read.lattice()), ("acme-operator", Some("acme")));
            assert_eq!(read.audit_signer(), Some("OK"));
            assert_eq!(read.valid(), (None, Some(1_700_000_000)));
            assert!(!format!("{read:?}").contains(&key.seed().unwrap()), "{read:?}");
            assert_eq!(read.inbox(), None);
        }
        for (tag, inbox) in [
            ("inbox:_INBOX_viewer", Some("_INBOX_viewer")),
            ("inbox:a.>", None),
            ("inbox:", None),
            ("inbox:a b", None),
        ] {
            let text = file(&format!(r#"{{"nats":{{"tags":["{tag}"]}}}}"#), &key.seed().unwrap());
            assert_eq!(Credentials::parse(&text).unwrap().inbox(), inbox, "{tag}");
        }
    }

    #[test]
    fn what_is_no_file_of_credentials_is_named() {
        let seed = KeyPair::new_user().seed().unwrap();
        for (text, what) in [
            (String::new(), "NATS USER JWT"),
            ("-----BEGIN NATS USER JWT-----".to_owned(), "NATS USER JWT"),
            (file("{}", ""), "USER NKEY SEED"),
            (file("{}", "SUABC"), "seed is damaged"),
            (file("{}", &KeyPair::new_account().seed().unwrap()), "not that of a user"),
            (file("[", &seed), "JWT is damaged"),
        ] {
            let said = Credentials::parse(&text).unwrap_err().to_string();
            assert!(said.contains(what), "{text:?}: {said}");
        }
    }
}
