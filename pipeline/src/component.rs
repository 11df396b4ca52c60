//! What the file of a component says of itself: its digest and its version, and whether they are the ones that a binding
//! wants.
//!
//! The version is the text of a custom section `version` of the outermost component, where the tools of the WebAssembly
//! world keep it too (`wasm-tools metadata`). `millrace step build` puts it there.

use std::fs::File;
use std::io::Read;
use std::path::{Path as FilePath, PathBuf};

use semver::{Version, VersionReq};
use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::model::{Binding, Component};

/// Greatest size of a component, in bytes, as composing has it.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Name of the custom section with the version.
const SECTION: &str = "version";

/// Longest version that is read, in bytes.
const VERSION_MAX: usize = 200;

/// What stands before the number of a digest.
const SHA_256: &str = "sha256:";

/// Why nothing is known of a component's file.
#[derive(Debug, thiserror::Error)]
pub enum ComponentFileError {
    /// It is not there or may not be read.
    #[error("cannot read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No component is so large.
    #[error("{file} is larger than {BYTES_MAX} bytes, more than a component may have", file = .0.display())]
    TooLarge(PathBuf),
}

/// What the file of a component says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentFile {
    /// `sha256:` and the SHA-256 of its bytes in hexadecimal.
    pub digest: String,
    /// The version that it says it is.
    pub version: Option<String>,
}

impl ComponentFile {
    /// Reads a file. One that is no component has a digest, and no version.
    ///
    /// # Errors
    ///
    /// [`ComponentFileError`].
    pub fn read(file: &FilePath) -> Result<Self, ComponentFileError> {
        let bytes = bytes(file)?;
        Ok(Self { digest: digest(&bytes), version: component_version(&bytes) })
    }
}

fn bytes(file: &FilePath) -> Result<Vec<u8>, ComponentFileError> {
    let error = |source| ComponentFileError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(file).map_err(error)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes > BYTES_MAX) {
        return Err(ComponentFileError::TooLarge(file.to_owned()));
    }
    Ok(bytes)
}

/// The names of what the component in a file imports. `None` where there is no component that can be read.
pub(crate) fn imports(file: &FilePath) -> Option<Vec<String>> {
    let bytes = bytes(file).ok()?;
    if !Parser::is_component(&bytes) {
        return None;
    }
    let mut depth = 0usize;
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    names.push(import.ok()?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Some(names)
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SHA_256}{hex}")
}

/// The version that a component says it is. Of several the last counts.
#[must_use]
pub fn component_version(bytes: &[u8]) -> Option<String> {
    let mut depth = 0usize;
    let mut version = None;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 1 && section.name() == SECTION => {
                let text = section.data().get(..section.data().len().min(VERSION_MAX));
                version = text.and_then(|text| std::str::from_utf8(text).ok()).map(str::to_owned);
            }
            _ => {}
        }
    }
    version.map(|version| version.trim().to_owned()).filter(|version| !version.is_empty())
}

/// A component that says it is this version: a custom section is put behind it.
#[must_use]
pub fn with_component_version(mut component: Vec<u8>, version: &Version) -> Vec<u8> {
    let text = version.to_string();
    let mut content = Vec::new();
    number(SECTION.len(), &mut content);
    content.extend_from_slice(SECTION.as_bytes());
    content.extend_from_slice(text.as_bytes());
    component.push(0);
    number(content.len(), &mut component);
    component.extend_from_slice(&content);
    component
}

/// A number as WebAssembly writes it: seven bits a byte, the lowest first.
fn number(mut number: usize, bytes: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

/// Whether a text is a digest as bindings and lock files have it.
pub(crate) fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix(SHA_256).is_some_and(|hash| hash.len() == 64 && hash.bytes().all(hex))
}

/// What a binding says of its components makes sense and, where the folder of the files is given, is true.
pub(crate) fn issues(binding: &Binding, folder: Option<&FilePath>) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, component) in &binding.components {
        let path = Path::of(["binding", "components", name]);
        let before = issues.len();
        issues.extend(requirement(component, &path));
        issues.extend(digest_form(component.digest.as_deref(), &path));
        let wanted = component.version.is_some() || component.digest.is_some();
        // A file that is missing is reported as that.
        let file = folder.map(|folder| folder.join(&component.file)).filter(|file| file.is_file());
        if let (true, true, Some(file)) = (wanted, issues.len() == before, file) {
            match ComponentFile::read(&file) {
                Ok(found) => issues.extend(differs(component, &file, &found, &path)),
                Err(error) => {
                    let issue = Issue::error(
                        "file-missing",
                        path.key("file"),
                        Part::Value,
                        error.to_string(),
                    );
                    issues.push(issue.mend("correct the path: it is from the folder of this file"));
                }
            }
        }
    }
    issues
}

fn requirement(component: &Component, path: &Path) -> Option<Issue> {
    let text = component.version.as_deref()?;
    let why = text.parse::<VersionReq>().err()?;
    let message = format!("`version` cannot be {}: {why}", quoted(text));
    let issue = Issue::error("setting", path.key("version"), Part::Value, message);
    Some(issue.mend("write a version or a range of them, such as `1.2`, `^1.2.3` or `>=1, <3`"))
}

pub(crate) fn digest_form(digest: Option<&str>, path: &Path) -> Option<Issue> {
    let text = digest.filter(|text| !is_digest(text))?;
    let message = format!("`digest` cannot be {}", quoted(text));
    let issue = Issue::error("setting", path.key("digest"), Part::Value, message);
    Some(issue.mend("it must be `sha256:` and 64 digits in lower-case hexadecimal, as `millrace pipeline lock` writes them"))
}

/// What a file is that it must not be.
fn differs(
    component: &Component,
    file: &FilePath,
    found: &ComponentFile,
    path: &Path,
) -> Vec<Issue> {
    let mut issues = Vec::new();
    let file = file.to_string_lossy();
    if let Some(wanted) = component.digest.as_ref().filter(|wanted| **wanted != found.digest) {
        let message = format!("{file} has the digest {}, and {wanted} is wanted", found.digest);
        let issue = Issue::error("component-digest", path.key("digest"), Part::Value, message);
        issues.push(issue.mend("bind the file that is meant, or write its digest"));
    }
    let Some(text) = &component.version else { return issues };
    let Ok(wanted) = text.parse::<VersionReq>() else { return issues };
    let version = found.version.as_deref().map(|version| (version, version.parse::<Version>()));
    let (message, mend) = match version {
        Some((_, Ok(version))) if wanted.matches(&version) => return issues,
        Some((_, Ok(version))) => (
            format!("{file} is version {version}, and {text} is wanted"),
            "bind a file of such a version, or change `version`",
        ),
        Some((version, Err(_))) => (
            format!(
                "{file} says that it is version {}, which is no semantic version, and {text} is wanted",
                quoted(version)
            ),
            "build it with a version of three numbers",
        ),
        None => (
            format!("{file} does not say its version, and {text} is wanted"),
            "write `version` into its step.yaml and build it with `millrace step build`, or leave `version` out here",
        ),
    };
    issues.push(
        Issue::error("component-version", path.key("version"), Part::Value, message).mend(mend),
    );
    issues
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least component there is.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_version_is_written_and_read() {
        assert_eq!(component_version(EMPTY), None);
        let first = with_component_version(EMPTY.to_vec(), &Version::new(1, 2, 3));
        assert_eq!(component_version(&first), Some("1.2.3".to_owned()));
        let long = format!("1.2.3-{}", "x".repeat(150)).parse().unwrap();
        let second = with_component_version(first, &long);
        assert_eq!(component_version(&second), Some(long.to_string()));
        for other in [&b""[..], b"\0asm", b"not wasm at all", &second[..second.len() - 1]] {
            assert_eq!(component_version(other), None);
        }
    }

    /// What a part of a component is, is not what the component is.
    #[test]
    fn the_version_is_that_of_the_outermost() {
        let inner = with_component_version(EMPTY.to_vec(), &Version::new(9, 9, 9));
        let mut outer = EMPTY.to_vec();
        outer.push(4);
        number(inner.len(), &mut outer);
        outer.extend_from_slice(&inner);
        assert_eq!(component_version(&outer), None);
        let outer = with_component_version(outer, &Version::new(1, 0, 0));
        assert_eq!(component_version(&outer), Some("1.0.0".to_owned()));
    }

    #[test]
    fn digests_have_one_form() {
        assert!(is_digest(&digest(b"")));
        for wrong in [
            "",
            "sha256:",
            "sha256:00",
            &digest(b"").to_uppercase(),
            "e3b0c44298fc1c149afbf4c8996fb924",
        ] {
            assert!(!is_digest(wrong), "{wrong}");
        }
    }
}
