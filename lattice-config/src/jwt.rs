//! The claims of NATS in operator mode, version 2: operator, account and user.
//!
//! Written here and not taken from a crate. `nats-jwt` has neither revocations nor the limits of JetStream, and panics where a
//! token cannot be signed; `nats-io-jwt` has all claims and reads no tokens; `nats-jwt-rs` has no bound on what it reads. None has
//! the claim that deletes accounts. The form is that of NATS' own library (github.com/nats-io/jwt, v2): a JWT with the algorithm
//! `ed25519-nkey`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_access::Credentials;
use nkeys::{KeyPair, KeyPairType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512_256};

/// No token is longer, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// Means "no limit" in every limit of NATS.
pub const UNLIMITED: i64 = -1;
/// In an account's revocations: every user.
pub const EVERYBODY: &str = "*";

const VERSION: u32 = 2;
const ALGORITHM: &str = "ed25519-nkey";

/// Why a token could not be made or does not count.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64 with JSON, or too long.
    #[error("not a NATS JWT: {0}")]
    Form(String),
    /// It is a JWT of another kind.
    #[error("a JWT of type {found:?}, where one of type {wanted:?} was expected")]
    Kind {
        /// What was needed.
        wanted: &'static str,
        /// What it says.
        found: String,
    },
    /// Issuer or subject is no key of the kind that may issue it or that it is for.
    #[error("{what} {key:?} is no key of the right kind")]
    Key {
        /// Which one.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// The signature is not that of the issuer.
    #[error("the signature does not belong to the issuer {0}")]
    Signature(String),
    /// Its time is over.
    #[error("expired {0} seconds ago")]
    Expired(i64),
    /// Its time has not come.
    #[error("not valid for another {0} seconds: is a clock wrong?")]
    NotYet(i64),
    /// The key cannot sign.
    #[error("the key cannot sign: {0}")]
    Sign(String),
}

/// What the three kinds of claims have of their own.
pub trait Kind: Serialize + DeserializeOwned + Clone {
    /// As it stands in the token.
    const TYPE: &'static str;
    /// What the token is for.
    const SUBJECT: KeyPairType;
    /// Who may sign it.
    const ISSUER: KeyPairType;
}

/// One token's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims<T> {
    /// Hash of the rest. Set by [`Claims::sign`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// When it was issued, in seconds since the Unix epoch. A revocation counts for what was issued until then.
    #[serde(default)]
    pub iat: i64,
    /// Public key of who signed. Set by [`Claims::sign`].
    #[serde(default)]
    pub iss: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Public key of whom it is for.
    pub sub: String,
    /// When it ends, in seconds since the Unix epoch; 0 for never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exp: i64,
    /// When it begins, in seconds since the Unix epoch; 0 for at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nbf: i64,
    /// What the kind adds.
    pub nats: Versioned<T>,
}

/// The part of a token that is NATS' own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The claims.
    #[serde(flatten)]
    pub claims: T,
    /// `operator`, `account` or `user`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// 2.
    #[serde(default)]
    pub version: u32,
    /// Free words, lower case. Users of a tenant have `lattice:NAME` and `role:ROLE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// What an operator says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operator {
    /// Public keys that may sign accounts in its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<String>,
    /// Public key of the system account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_account: String,
    /// Only signing keys count, not the operator's own, which can then be kept elsewhere.
    #[serde(skip_serializing_if = "is_false")]
    pub strict_signing_key_usage: bool,
}

/// What an account may.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Its limits.
    pub limits: AccountLimits,
    /// Public keys that may sign users in its name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub signing_keys: BTreeSet<String>,
    /// Public key of a user, or [`EVERYBODY`]: what was issued to it until this time does not count.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, i64>,
    /// For users that have no permissions of their own.
    pub default_permissions: Permissions,
}

/// Limits of an account, [`UNLIMITED`] where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountLimits {
    /// Subscriptions of the whole account.
    pub subs: i64,
    /// Bytes in all.
    pub data: i64,
    /// Bytes of one message.
    pub payload: i64,
    /// Imports from other accounts.
    pub imports: i64,
    /// Exports to other accounts.
    pub exports: i64,
    /// Whether exports may have wildcards.
    pub wildcards: bool,
    /// Connections at once.
    pub conn: i64,
    /// Leaf nodes at once.
    pub leaf: i64,
    /// Tokens that count without a signature of the user are refused.
    #[serde(skip_serializing_if = "is_false")]
    pub disallow_bearer: bool,
    /// Bytes of JetStream in memory; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub mem_storage: i64,
    /// Bytes of JetStream on disk; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_storage: i64,
    /// Streams.
    #[serde(skip_serializing_if = "is_zero")]
    pub streams: i64,
    /// Consumers.
    #[serde(skip_serializing_if = "is_zero")]
    pub consumer: i64,
    /// The most that a consumer may have unacknowledged.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_ack_pending: i64,
    /// Bytes of one stream in memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub mem_max_stream_bytes: i64,
    /// Bytes of one stream on disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_max_stream_bytes: i64,
    /// Every stream has to say how large it may become.
    #[serde(skip_serializing_if = "is_false")]
    pub max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            subs: UNLIMITED,
            data: UNLIMITED,
            payload: UNLIMITED,
            imports: UNLIMITED,
            exports: UNLIMITED,
            wildcards: true,
            conn: UNLIMITED,
            leaf: UNLIMITED,
            disallow_bearer: false,
            mem_storage: 0,
            disk_storage: 0,
            streams: 0,
            consumer: 0,
            max_ack_pending: 0,
            mem_max_stream_bytes: 0,
            disk_max_stream_bytes: 0,
            max_bytes_required: false,
        }
    }
}

/// What a user may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Subjects.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// Subscriptions.
    pub subs: i64,
    /// Bytes in all.
    pub data: i64,
    /// Bytes of one message.
    pub payload: i64,
    /// The token alone is enough, without a signature of the user's key.
    #[serde(skip_serializing_if = "is_false")]
    pub bearer_token: bool,
    /// Public key of the account, when one of its signing keys signed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_account: String,
}

impl Default for User {
    fn default() -> Self {
        Self {
            permissions: Permissions::default(),
            subs: UNLIMITED,
            data: UNLIMITED,
            payload: UNLIMITED,
            bearer_token: false,
            issuer_account: String::new(),
        }
    }
}

/// Which subjects may be used. Nothing allowed means everything that is not denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// Publishing.
    #[serde(rename = "pub")]
    pub publish: Subjects,
    /// Subscribing.
    #[serde(rename = "sub")]
    pub subscribe: Subjects,
    /// Answering, on whatever subject a request asked for.
    #[serde(rename = "resp", skip_serializing_if = "Option::is_none")]
    pub responses: Option<Responses>,
}

/// Subjects allowed and denied; denying is stronger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subjects {
    /// Allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// How answers are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responses {
    /// Messages for one request.
    pub max: i32,
    /// Time for them, in nanoseconds.
    pub ttl: i64,
}

/// What an operator asks a server to forget.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deletion {
    /// Public keys of the accounts.
    pub accounts: Vec<String>,
}

impl Kind for Operator {
    const TYPE: &'static str = "operator";
    const SUBJECT: KeyPairType = KeyPairType::Operator;
    const ISSUER: KeyPairType = KeyPairType::Operator;
}

impl Kind for Account {
    const TYPE: &'static str = "account";
    const SUBJECT: KeyPairType = KeyPairType::Account;
    const ISSUER: KeyPairType = KeyPairType::Operator;
}

impl Kind for User {
    const TYPE: &'static str = "user";
    const SUBJECT: KeyPairType = KeyPairType::User;
    const ISSUER: KeyPairType = KeyPairType::Account;
}

impl Kind for Deletion {
    const TYPE: &'static str = "generic";
    const SUBJECT: KeyPairType = KeyPairType::Operator;
    const ISSUER: KeyPairType = KeyPairType::Operator;
}

impl<T: Kind> Claims<T> {
    /// Claims for a public key, issued now.
    #[must_use]
    pub fn new(name: &str, subject: &str, claims: T) -> Self {
        Self {
            jti: String::new(),
            iat: crate::now(),
            iss: String::new(),
            name: name.to_owned(),
            sub: subject.to_owned(),
            exp: 0,
            nbf: 0,
            nats: Versioned {
                claims,
                kind: T::TYPE.to_owned(),
                version: VERSION,
                tags: Vec::new(),
            },
        }
    }

    /// The token, signed.
    ///
    /// # Errors
    ///
    /// When subject or key are not of the kind, or the key has no private half.
    pub fn sign(&self, key: &KeyPair) -> Result<String, JwtError> {
        let mut claims = self.clone();
        claims.iss = key.public_key();
        check_key("issuer", &claims.iss, &T::ISSUER)?;
        check_key("subject", &claims.sub, &T::SUBJECT)?;
        claims.jti = String::new();
        let form = |e: serde_json::Error| JwtError::Form(e.to_string());
        // As NATS' library does it: the hash of the claims without it.
        let hash = Sha512_256::digest(serde_json::to_vec(&claims).map_err(form)?);
        claims.jti = data_encoding::BASE32_NOPAD.encode(&hash);
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"JWT","alg":"{ALGORITHM}"}}"#));
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).map_err(form)?);
        let signed = format!("{header}.{body}");
        let signature = key.sign(signed.as_bytes()).map_err(|e| JwtError::Sign(e.to_string()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Reads a token and verifies that its issuer signed it. Whether the issuer is to be trusted, and whether its time
    /// is now ([`Claims::check_time`]), is for the caller to say.
    ///
    /// # Errors
    ///
    /// When it is no token of the kind, or was changed.
    pub fn verify(token: &str) -> Result<Self, JwtError> {
        let form = |reason: &str| JwtError::Form(reason.to_owned());
        if token.len() > MAX_BYTES {
            return Err(form("too long"));
        }
        let token = token.trim();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| form("no signature"))?;
        let (header, body) = signed.split_once('.').ok_or_else(|| form("no header"))?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| form("not base64"));

        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        let header: Header =
            serde_json::from_slice(&bytes(header)?).map_err(|e| JwtError::Form(e.to_string()))?;
        if header.alg != ALGORITHM {
            return Err(form("another algorithm"));
        }
        let body = bytes(body)?;
        let kind: Claims<serde_json::Value> =
            serde_json::from_slice(&body).map_err(|e| JwtError::Form(e.to_string()))?;
        if kind.nats.kind != T::TYPE || kind.nats.version != VERSION {
            return Err(JwtError::Kind { wanted: T::TYPE, found: kind.nats.kind });
        }
        check_key("issuer", &kind.iss, &T::ISSUER)?;
        check_key("subject", &kind.sub, &T::SUBJECT)?;
        let wrong = || JwtError::Signature(kind.iss.clone());
        let issuer = KeyPair::from_public_key(&kind.iss).map_err(|_| wrong())?;
        issuer.verify(signed.as_bytes(), &bytes(signature)?).map_err(|_| wrong())?;
        serde_json::from_slice(&body).map_err(|e| JwtError::Form(e.to_string()))
    }

    /// Whether it counts at a time, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// When it does not count yet or any more.
    pub fn check_time(&self, now: i64) -> Result<(), JwtError> {
        if self.exp != 0 && self.exp <= now {
            return Err(JwtError::Expired(now.saturating_sub(self.exp)));
        }
        if self.nbf > now {
            return Err(JwtError::NotYet(self.nbf.saturating_sub(now)));
        }
        Ok(())
    }
}

/// A user's token and seed as `wash`, `nats` and the client libraries read them.
#[must_use]
pub fn credentials(token: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         The seed below is secret: who has it is this user.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
         *************************************************************\n"
    )
}

/// Token and seed out of a credentials file's text.
///
/// # Errors
///
/// When one of them is missing, or the token does not verify, or the seed is another user's.
pub fn read_credentials(text: &str) -> Result<(Claims<User>, String, Arc<KeyPair>), JwtError> {
    let read = Credentials::parse(text).map_err(|e| JwtError::Form(e.to_string()))?;
    let (claims, key) = (Claims::<User>::verify(read.jwt())?, read.key());
    if key.public_key() != claims.sub {
        return Err(JwtError::Key { what: "seed of", key: key.public_key() });
    }
    Ok((claims, read.jwt().to_owned(), key))
}

fn check_key(what: &'static str, key: &str, kind: &KeyPairType) -> Result<(), JwtError> {
    let letter = match kind {
        KeyPairType::Operator => 'O',
        KeyPairType::Account => 'A',
        _ => 'U',
    };
    if key.starts_with(letter) && key.len() == 56 && KeyPair::from_public_key(key).is_ok() {
        return Ok(());
    }
    Err(JwtError::Key { what, key: key.chars().take(80).collect() })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> (KeyPair, KeyPair, String) {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let mut claims = Claims::new("acme", &account.public_key(), Account::default());
        claims.nats.claims.revocations.insert(EVERYBODY.to_owned(), 7);
        claims.nats.claims.limits.disk_storage = 1 << 30;
        let token = claims.sign(&operator).unwrap();
        (operator, account, token)
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let (operator, account, token) = account();
        let read = Claims::<Account>::verify(&token).unwrap();
        assert_eq!(read.iss, operator.public_key());
        assert_eq!(read.sub, account.public_key());
        assert_eq!(read.nats.claims.limits.disk_storage, 1 << 30);
        assert_eq!(read.nats.claims.revocations[EVERYBODY], 7);
        assert_eq!(read.jti.len(), 52);
    }

    #[test]
    fn forged_changed_and_foreign_tokens_are_refused() {
        let (_, account, token) = account();
        let (head, signature) = token.rsplit_once('.').unwrap();
        // Signed by another key, with the issuer left as it was.
        let other = KeyPair::new_operator().sign(head.as_bytes()).unwrap();
        let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(other));
        assert!(matches!(Claims::<Account>::verify(&forged), Err(JwtError::Signature(_))));
        // Changed afterwards.
        let body = URL_SAFE_NO_PAD.decode(head.split_once('.').unwrap().1).unwrap();
        let changed = String::from_utf8(body).unwrap().replace("1073741824", "9073741824");
        let changed = format!(
            "{}.{}.{signature}",
            head.split_once('.').unwrap().0,
            URL_SAFE_NO_PAD.encode(changed)
        );
        assert!(matches!(Claims::<Account>::verify(&changed), Err(JwtError::Signature(_))));
        // Of another kind, cut, empty, too long, without a signature.
        assert!(matches!(Claims::<User>::verify(&token), Err(JwtError::Kind { .. })));
        for cut in [0, 1, head.len(), head.len() + 1, token.len() - 1] {
            assert!(Claims::<Account>::verify(&token[..cut]).is_err(), "{cut}");
        }
        assert!(Claims::<Account>::verify(&"a.b.c".repeat(MAX_BYTES)).is_err());
        let none = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
        let unsigned = format!("{none}.{}.", head.split_once('.').unwrap().1);
        assert!(matches!(Claims::<Account>::verify(&unsigned), Err(JwtError::Form(_))));
        // An account cannot sign an account.
        let claims = Claims::new("x", &account.public_key(), Account::default());
        assert!(matches!(claims.sign(&account), Err(JwtError::Key { .. })));
    }

    #[test]
    fn a_token_counts_in_its_time() {
        let key = KeyPair::new_user();
        let mut claims = Claims::new("u", &key.public_key(), User::default());
        claims.exp = 100;
        claims.nbf = 50;
        assert!(matches!(claims.check_time(49), Err(JwtError::NotYet(1))));
        assert!(claims.check_time(50).is_ok());
        assert!(claims.check_time(99).is_ok());
        assert!(matches!(claims.check_time(103), Err(JwtError::Expired(3))));
    }

    #[test]
    fn credentials_files() {
        let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
        let claims = Claims::new("u", &user.public_key(), User::default());
        let token = claims.sign(&account).unwrap();
        let text = credentials(&token, &user.seed().unwrap());
        let (read, _, key) = read_credentials(&text).unwrap();
        assert_eq!(read.sub, key.public_key());
        let other = credentials(&token, &KeyPair::new_user().seed().unwrap());
        assert!(matches!(read_credentials(&other), Err(JwtError::Key { .. })));
        for wrong in ["", "-----BEGIN NATS USER JWT-----", "-----BEGIN NATS USER JWT-----\nx\n"] {
            assert!(read_credentials(wrong).is_err());
        }
    }
}
