//! What a manifest calls an artifact.

use std::fmt;
use std::str::FromStr;

/// Characters of a SHA-256 in hexadecimal.
const DIGEST: usize = 64;

/// Most characters of a name: of a stage, or of a provider's archive.
const NAME_MAX: usize = 200;

const SCHEME: &str = "millrace:";
const PROVIDER: &str = "provider/";

/// An artifact that a manifest names, as the image of a component or a provider.
///
/// `millrace:STAGE@sha256:DIGEST` is a stage in the store of the lattice; its name is for people. `millrace:provider/NAME-HASH`
/// is a provider that comes with the installation, in that build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A stage.
    Stage {
        /// Its name.
        name: String,
        /// SHA-256 of its bytes: 64 characters of hexadecimal, in small letters.
        digest: String,
    },
    /// The archive of a provider.
    Provider {
        /// Name of the file without its endings: `mqtt-0f3a9c1b2d4e`.
        archive: String,
    },
}

/// The text is no reference of ours.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` names no artifact; `millrace:STAGE@sha256:DIGEST` is a stage in the lattice's store, and \
     `millrace:provider/NAME` a provider of the installation"
)]
pub struct NoReference(String);

impl Reference {
    /// Whether the text means to be one: what does not is a file, or in a registry.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage { name, digest } => write!(f, "{SCHEME}{name}@sha256:{digest}"),
            Self::Provider { archive } => write!(f, "{SCHEME}{PROVIDER}{archive}"),
        }
    }
}

impl FromStr for Reference {
    type Err = NoReference;

    fn from_str(text: &str) -> Result<Self, NoReference> {
        let none = || NoReference(text.chars().take(NAME_MAX).collect());
        let rest = text.strip_prefix(SCHEME).ok_or_else(none)?;
        if let Some(archive) = rest.strip_prefix(PROVIDER) {
            return match is_name(archive) {
                true => Ok(Self::Provider { archive: archive.to_owned() }),
                false => Err(none()),
            };
        }
        let (name, digest) = rest.split_once("@sha256:").ok_or_else(none)?;
        match is_name(name) && is_digest(digest) {
            true => Ok(Self::Stage { name: name.to_owned(), digest: digest.to_owned() }),
            false => Err(none()),
        }
    }
}

/// A name becomes part of a path, so it is letters, digits, `-` and `_` and nothing else.
fn is_name(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_fine)
}

/// Whether the text is a SHA-256 in hexadecimal, in small letters.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == DIGEST && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_they_are_written() {
        let digest = "0123456789abcdef".repeat(4);
        for text in
            [format!("millrace:too-hot@sha256:{digest}"), "millrace:provider/mqtt-0f3a".to_owned()]
        {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_would_leave_its_folder_is_refused() {
        let digest = "0123456789abcdef".repeat(4);
        let capitals = digest.to_uppercase();
        for text in [
            "",
            "file:///etc/passwd",
            "millrace:",
            "millrace:provider/",
            "millrace:provider/../../evil",
            "millrace:provider/mqtt.par.gz",
            "millrace:provider/a/b",
            "millrace:too-hot",
            "millrace:too-hot@sha256:",
            "millrace:too-hot@sha256:0123",
            &format!("millrace:../x@sha256:{digest}"),
            &format!("millrace:@sha256:{digest}"),
            &format!("millrace:too-hot@sha256:{digest}0"),
            &format!("millrace:too-hot@sha256:{capitals}"),
            &format!("millrace:{}@sha256:{digest}", "a".repeat(201)),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
