//! Tokens of the control API: who may use it, and for what.
//!
//! A token is 256 random bits, shown once. The file `api-tokens.json` has the SHA-256 of each: a hash that takes long would only be
//! of use for a secret that can be guessed.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::files::{self, FileError};
use crate::home::Home;
use crate::names;

/// What a token begins with, so that it is found where it should not be.
const PREFIX: &str = "millrace_";
/// Most tokens of an installation.
const TOKENS_MAX: usize = 500;
/// Longest text that is looked at as a token, in bytes.
const TOKEN_MAX: usize = 200;

/// Why a token is not made, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A name that none may have.
    #[error("{0:?} cannot be a token's name: small letters, digits and hyphens, at most 60 in all")]
    Name(String),
    /// It is limited to a tenant that no tenant can be.
    #[error(transparent)]
    Tenant(#[from] names::NameError),
    /// The name is taken.
    #[error("there is a token {0:?} already: revoke it first, or choose another name")]
    Taken(String),
    /// There is none.
    #[error("there is no token {0:?}: `millrace api token list` shows them")]
    Unknown(String),
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens already: revoke those that nobody needs")]
    TooMany,
    /// The file of all tokens.
    #[error(
        "{path} is damaged: {reason}. Restore it from a backup, or delete it and make new tokens"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a token is for: each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Looking, but not at payloads of messages.
    Viewer,
    /// Running what is there.
    Operator,
    /// Making pipelines.
    Author,
    /// Tenants, their limits and credentials.
    Admin,
}

impl Access {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Author => "author",
            Self::Admin => "admin",
        }
    }
}

/// A token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    /// By which people and the audit log know it.
    pub name: String,
    /// What it is for.
    pub role: Access,
    /// The one tenant that it is for; without, it is for all.
    pub tenant: Option<String>,
    /// That tenant's account. Another tenant of the same name, later, has another one, and the token is not for it.
    pub account: Option<String>,
    /// When it was made, in seconds since the Unix epoch.
    pub created: i64,
    /// When it ends, in seconds since the Unix epoch; 0 for never.
    pub expires: i64,
    /// SHA-256 of its text, in hexadecimal.
    hash: String,
}

/// The tokens of an installation.
#[derive(Debug, Clone)]
pub struct Tokens {
    home: Home,
    clock: fn() -> i64,
}

impl Tokens {
    /// Those of an installation.
    #[must_use]
    pub fn new(home: &Home) -> Self {
        Self { home: home.clone(), clock: crate::now }
    }

    /// Another clock than the machine's: seconds since the Unix epoch.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> i64) -> Self {
        self.clock = clock;
        self
    }

    /// Makes a token that ends after so many seconds, or never; for one tenant, by its name and account, or for all. The text is
    /// nowhere else afterwards.
    ///
    /// # Errors
    ///
    /// When the name is none or taken, the tenant's name is none, or the file cannot be written.
    pub fn add(
        &self,
        name: &str,
        role: Access,
        tenant: Option<(&str, &str)>,
        seconds: Option<i64>,
    ) -> Result<(Token, String), TokenError> {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 60 || !name.chars().all(is_good) {
            return Err(TokenError::Name(name.chars().take(80).collect()));
        }
        tenant.map(|(name, _)| names::check(name)).transpose()?;
        let _alone = files::exclusive(self.home.root())?;
        let mut all = self.list()?;
        if all.iter().any(|token| token.name == name) {
            return Err(TokenError::Taken(name.to_owned()));
        }
        if all.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let secret: [u8; 32] = rand::rng().random();
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let now = (self.clock)();
        let token = Token {
            name: name.to_owned(),
            role,
            tenant: tenant.map(|(name, _)| name.to_owned()),
            account: tenant.map(|(_, account)| account.to_owned()),
            created: now,
            expires: seconds.map_or(0, |seconds| now.saturating_add(seconds.max(1))),
            hash: hash(&text),
        };
        all.push(token.clone());
        self.write(&all)?;
        Ok((token, text))
    }

    /// All of them, also those that have ended.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn list(&self) -> Result<Vec<Token>, TokenError> {
        let path = self.path();
        match files::read_private(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| TokenError::Damaged { path, reason: e.to_string() }),
            Err(error) if error.is_missing() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a token: the next call with it is refused.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or the file cannot be written.
    pub fn revoke(&self, name: &str) -> Result<Token, TokenError> {
        let _alone = files::exclusive(self.home.root())?;
        let mut all = self.list()?;
        let found = all.iter().position(|token| token.name == name);
        let unknown = || TokenError::Unknown(name.chars().take(80).collect());
        let token = all.remove(found.ok_or_else(unknown)?);
        self.write(&all)?;
        Ok(token)
    }

    /// Ends all tokens of a tenant that is purged.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub(crate) fn forget(&self, account: &str) -> Result<(), TokenError> {
        let _alone = files::exclusive(self.home.root())?;
        let mut all = self.list()?;
        let before = all.len();
        all.retain(|token| token.account.as_deref() != Some(account));
        if all.len() == before { Ok(()) } else { self.write(&all) }
    }

    /// The token of a text, if there is one that counts. How long it takes says nothing about how much of the text was right.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn find(&self, text: &str) -> Result<Option<Token>, TokenError> {
        if text.len() > TOKEN_MAX {
            return Ok(None);
        }
        let (hash, now) = (hash(text), (self.clock)());
        let mut found = None;
        // All are compared, whichever it is.
        for token in self.list()? {
            let same: Choice = token.hash.as_bytes().ct_eq(hash.as_bytes());
            if bool::from(same) {
                found = Some(token);
            }
        }
        Ok(found.filter(|token| token.expires == 0 || token.expires > now))
    }

    /// Whether a token that was found before still counts. One that was made anew under its name is another.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn is_good(&self, token: &Token) -> Result<bool, TokenError> {
        let is_ended = token.expires != 0 && token.expires <= (self.clock)();
        Ok(!is_ended && self.list()?.contains(token))
    }

    fn path(&self) -> PathBuf {
        self.home.root().join("api-tokens.json")
    }

    fn write(&self, all: &[Token]) -> Result<(), TokenError> {
        let path = self.path();
        let bytes = serde_json::to_vec_pretty(all)
            .map_err(|e| TokenError::Damaged { path: path.clone(), reason: e.to_string() })?;
        Ok(files::write_private(&path, &bytes)?)
    }
}

fn hash(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_text_until_it_ends_and_the_text_is_not_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("lattices"), None).unwrap();
        let tokens = Tokens::new(&home);
        let (admin, text) = tokens.add("ci", Access::Admin, None, None).unwrap();
        let acme = Some(("acme", "AACME"));
        let (short, other) = tokens.add("anna", Access::Viewer, acme, Some(60)).unwrap();
        assert_ne!(text, other);
        assert_eq!(tokens.find(&text).unwrap(), Some(admin));
        assert_eq!(tokens.find(&other).unwrap(), Some(short));
        for wrong in
            ["", "millrace_", &text[..text.len() - 1], &format!("{text}x"), &"x".repeat(1000)]
        {
            assert_eq!(tokens.find(wrong).unwrap(), None, "{wrong}");
        }
        let file = std::fs::read_to_string(tokens.path()).unwrap();
        assert!(!file.contains(&text) && !file.contains(&text[PREFIX.len()..]));
        // Its hash is no token.
        assert_eq!(tokens.find(&hash(&text)).unwrap(), None);
        let later = tokens.clone().with_clock(|| crate::now() + 61);
        assert_eq!(later.find(&other).unwrap(), None);
        let admin = later.find(&text).unwrap().unwrap();
        let short = tokens.find(&other).unwrap().unwrap();
        assert!(tokens.is_good(&short).unwrap() && !later.is_good(&short).unwrap());
        assert!(later.is_good(&admin).unwrap());
        tokens.revoke("ci").unwrap();
        assert_eq!(tokens.find(&text).unwrap(), None);
        assert!(!tokens.is_good(&admin).unwrap());
        tokens.add("ci", Access::Admin, None, None).unwrap();
        assert!(!tokens.is_good(&admin).unwrap(), "another of its name");
        tokens.revoke("ci").unwrap();
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::Unknown(_))));
    }

    #[test]
    fn names_that_are_none_or_taken_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("lattices"), None).unwrap();
        let tokens = Tokens::new(&home);
        for odd in ["", "A", "a b", "a\n", "ä", "../x", &"a".repeat(61)] {
            let made = tokens.add(odd, Access::Admin, None, None);
            assert!(matches!(made, Err(TokenError::Name(_))), "{odd:?}");
        }
        let made = tokens.add("a", Access::Admin, Some(("../x", "A")), None);
        assert!(matches!(made, Err(TokenError::Tenant(_))));
        tokens.add("a", Access::Admin, None, None).unwrap();
        let made = tokens.add("a", Access::Admin, None, None);
        assert!(matches!(made, Err(TokenError::Taken(_))));
    }
}
