//! Names of tenants. A tenant's lattice has the tenant's name, so it is a token of NATS subjects too.

/// The most characters of a name.
pub const MAX_LENGTH: usize = 40;

/// Names that would be taken for something else. The first words of the platform's own subjects are among them:
/// the calls of a lattice have its name as their first word.
const RESERVED: [&str; 19] = [
    "all",
    "any",
    "default",
    "local",
    "millrace",
    "millrace-audit",
    "nats",
    "new",
    "none",
    "operator",
    "platform",
    "root",
    "self",
    "sys",
    "system",
    "tenant",
    "tenants",
    "wadm",
    "wasmbus",
];

/// Why a name cannot be a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has characters that a subject or a folder should not have, or is too long or empty.
    #[error(
        "{0:?} cannot be a tenant's name: a small letter first, then small letters, digits and hyphens, at most {MAX_LENGTH} in all"
    )]
    Form(String),
    /// It means something else already.
    #[error("the name {0:?} is reserved: choose another")]
    Reserved(String),
}

/// Checks a tenant's name: `[a-z][a-z0-9-]{0,39}`, and not reserved.
///
/// # Errors
///
/// When it cannot be a tenant's name.
pub fn check(name: &str) -> Result<(), NameError> {
    if !has_form(name) {
        return Err(NameError::Form(name.chars().take(80).collect()));
    }
    if RESERVED.contains(&name) {
        return Err(NameError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// Whether it has the form of a name: also of a pipeline's, where none is reserved.
#[must_use]
pub fn has_form(name: &str) -> bool {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase());
    let rest = characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    first && rest && name.len() <= MAX_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "acme", "plant-7", "a1-", &"a".repeat(40)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for odd in [
            "",
            "A",
            "Acme",
            "1a",
            "-a",
            "a.b",
            "a b",
            "a*",
            ">",
            "*",
            "a/b",
            "..",
            ".",
            "../x",
            "ä",
            "a\n",
            "a\0",
            "a_b",
            &"a".repeat(41),
            &"x".repeat(1 << 20),
        ] {
            assert!(matches!(check(odd), Err(NameError::Form(_))), "{odd:?}");
        }
        for reserved in RESERVED {
            assert!(matches!(check(reserved), Err(NameError::Reserved(_))), "{reserved}");
        }
    }
}
