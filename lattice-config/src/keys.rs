//! Private keys on disk: one file each, for their owner alone; with a passphrase each file is encrypted.

use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use nkeys::{KeyPair, KeyPairType};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

/// Says how the files are encrypted. Without it they are not.
const SEAL: &str = "seal.json";
/// First line of an encrypted file.
const SEALED: &str = "millrace-sealed-1";
/// What is encrypted into the seal, so that a wrong passphrase is found at once.
const CHECK: &[u8] = b"millrace";
const NONCE: usize = 24;
/// Argon2id as OWASP recommends it: 19 MiB, two passes, one lane. A few tens of milliseconds.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
/// What a seal may ask for, so that a changed file cannot take all memory.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;

/// Why a key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The keys are encrypted.
    #[error("the keys in {0} are encrypted: give their passphrase")]
    NeedsPassphrase(PathBuf),
    /// It is another one.
    #[error("wrong passphrase for the keys in {0}")]
    WrongPassphrase(PathBuf),
    /// A passphrase was given, and the keys are not encrypted.
    #[error("the keys in {0} are not encrypted, and a passphrase was given: leave it out")]
    NotSealed(PathBuf),
    /// There are no keys yet.
    #[error("there are no keys in {0}")]
    Missing(PathBuf),
    /// The file is not what it should be.
    #[error("{path} is no key: {reason}. Restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Serialize, Deserialize)]
struct Seal {
    salt: String,
    memory_kib: u32,
    passes: u32,
    check: String,
}

/// A folder of private keys.
#[derive(Clone)]
pub struct KeyStore {
    folder: PathBuf,
    cipher: Option<XChaCha20Poly1305>,
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Makes the folder, encrypted when there is a passphrase. One that is there already is opened.
    ///
    /// # Errors
    ///
    /// As [`KeyStore::open`], and when it cannot be written.
    pub fn create(folder: &Path, passphrase: Option<&str>) -> Result<Self, KeyError> {
        // One that is empty was left by a start that was interrupted.
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Self::open(folder, passphrase);
        }
        files::private_folder(folder)?;
        if let Some(passphrase) = passphrase {
            let mut salt = [0; 16];
            rand::rng().fill_bytes(&mut salt);
            let cipher = derive(folder, passphrase, &salt, MEMORY_KIB, PASSES)?;
            let seal = Seal {
                salt: STANDARD.encode(salt),
                memory_kib: MEMORY_KIB,
                passes: PASSES,
                check: encrypt(&cipher, SEAL, CHECK)
                    .map_err(|reason| damaged(&folder.join(SEAL), reason))?,
            };
            let text = serde_json::to_vec_pretty(&seal)
                .map_err(|e| damaged(&folder.join(SEAL), e.to_string()))?;
            files::write_private(&folder.join(SEAL), &text)?;
        }
        Self::open(folder, passphrase)
    }

    /// Opens a folder that is there.
    ///
    /// # Errors
    ///
    /// When it is missing, when others may read it, or when the passphrase is wrong, missing or too much.
    pub fn open(folder: &Path, passphrase: Option<&str>) -> Result<Self, KeyError> {
        if !folder.exists() {
            return Err(KeyError::Missing(folder.to_owned()));
        }
        files::check(folder, 0o700)?;
        let path = folder.join(SEAL);
        let seal = match files::read_private(&path) {
            Ok(seal) => Some(seal),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let cipher = match (seal, passphrase) {
            (None, None) => None,
            (None, Some(_)) => return Err(KeyError::NotSealed(folder.to_owned())),
            (Some(_), None) => return Err(KeyError::NeedsPassphrase(folder.to_owned())),
            (Some(seal), Some(passphrase)) => {
                let seal: Seal =
                    serde_json::from_slice(&seal).map_err(|e| damaged(&path, e.to_string()))?;
                if seal.memory_kib > MAX_MEMORY_KIB || seal.passes > MAX_PASSES {
                    return Err(damaged(&path, "it asks for too much memory or time".to_owned()));
                }
                let salt =
                    STANDARD.decode(&seal.salt).map_err(|e| damaged(&path, e.to_string()))?;
                let cipher = derive(folder, passphrase, &salt, seal.memory_kib, seal.passes)?;
                match decrypt(&cipher, SEAL, &seal.check) {
                    Ok(check) if check == CHECK => Some(cipher),
                    _ => return Err(KeyError::WrongPassphrase(folder.to_owned())),
                }
            }
        };
        Ok(Self { folder: folder.to_owned(), cipher })
    }

    /// Writes all keys anew under another passphrase, or with none, and takes the old files away. It happens at once or not at all:
    /// the new folder stands beside the old one until the two change places.
    ///
    /// Whoever has the old folder open cannot read it any more, and opens the new one.
    ///
    /// # Errors
    ///
    /// When a key cannot be read, or the new folder cannot be written; then the old one is as it was.
    pub fn reseal(&self, passphrase: Option<&str>) -> Result<Self, KeyError> {
        let beside = beside(&self.folder);
        files::remove_folder(&beside)?;
        let new = Self::create(&beside, passphrase)?;
        for (name, path) in names(&self.folder)? {
            let seed = self.seed(&name)?.ok_or_else(|| damaged(&path, "it is gone".to_owned()))?;
            let key = KeyPair::from_seed(&seed).map_err(|e| damaged(&path, e.to_string()))?;
            new.put(&name, &key)?;
        }
        files::exchange(&self.folder, &beside)?;
        files::remove_folder(&beside)?;
        Ok(Self { folder: self.folder.clone(), ..new })
    }

    /// Takes away what an exchange left beside a folder that was interrupted: the new keys before it, the old ones after it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn tidy(folder: &Path) -> Result<(), KeyError> {
        Ok(files::remove_folder(&beside(folder))?)
    }

    /// Whether the files are encrypted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.cipher.is_some()
    }

    /// Writes a key. The name has no more than letters, digits, hyphens and dots, and slashes for folders.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or is only a public key.
    pub fn put(&self, name: &str, key: &KeyPair) -> Result<(), KeyError> {
        let path = self.folder.join(name);
        let seed = key.seed().map_err(|e| damaged(&path, e.to_string()))?;
        let text = match &self.cipher {
            None => format!("{seed}\n"),
            Some(cipher) => {
                let text = encrypt(cipher, name, seed.as_bytes())
                    .map_err(|reason| damaged(&path, reason))?;
                format!("{SEALED}\n{text}\n")
            }
        };
        if let Some(parent) = path.parent() {
            files::private_folder(parent)?;
        }
        Ok(files::write_private(&path, text.as_bytes())?)
    }

    /// Reads a key; `None` where there is none of this name.
    ///
    /// # Errors
    ///
    /// When the file is loose, damaged, or of another kind of key.
    pub fn get(&self, name: &str, kind: &KeyPairType) -> Result<Option<KeyPair>, KeyError> {
        let path = self.folder.join(name);
        let Some(seed) = self.seed(name)? else { return Ok(None) };
        let key = KeyPair::from_seed(&seed).map_err(|e| damaged(&path, e.to_string()))?;
        if key.key_pair_type() != *kind {
            let found = key.key_pair_type();
            return Err(damaged(&path, format!("a key of kind {found:?}, not {kind:?}")));
        }
        Ok(Some(key))
    }

    /// The text of a key; `None` where there is none of this name.
    fn seed(&self, name: &str) -> Result<Option<String>, KeyError> {
        let path = self.folder.join(name);
        let bytes = match files::read_private(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged(&path, "not text".to_owned()))?;
        let seed = match (&self.cipher, text.strip_prefix(SEALED)) {
            (None, None) => text.trim().to_owned(),
            (Some(cipher), Some(sealed)) => {
                let seed = decrypt(cipher, name, sealed.trim())
                    .map_err(|reason| damaged(&path, reason))?;
                String::from_utf8(seed).map_err(|_| damaged(&path, "not text".to_owned()))?
            }
            (None, Some(_)) => return Err(KeyError::NeedsPassphrase(self.folder.clone())),
            // One that somebody else put there, or that was forgotten when the rest was encrypted.
            (Some(_), None) => return Err(damaged(&path, "it is not encrypted".to_owned())),
        };
        Ok(Some(seed))
    }

    /// The key of this name, made when there is none.
    ///
    /// # Errors
    ///
    /// As [`KeyStore::get`] and [`KeyStore::put`].
    pub fn get_or_make(&self, name: &str, kind: KeyPairType) -> Result<KeyPair, KeyError> {
        if let Some(key) = self.get(name, &kind)? {
            return Ok(key);
        }
        let key = KeyPair::new(kind);
        self.put(name, &key)?;
        Ok(key)
    }

    /// Removes a key, or a folder of keys. It may be gone already.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn remove(&self, name: &str) -> Result<(), KeyError> {
        let path = self.folder.join(name);
        if path.is_dir() {
            files::remove_folder(&path)?;
        } else {
            files::remove(&path)?;
        }
        Ok(())
    }
}

/// Where the new keys are made while others are there.
fn beside(folder: &Path) -> PathBuf {
    folder.with_extension("new")
}

/// Names and paths of all keys in a folder.
fn names(folder: &Path) -> Result<Vec<(String, PathBuf)>, KeyError> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(&next).map_err(FileError::io("read", &next))?;
        for entry in entries {
            let path = entry.map_err(FileError::io("read", &next))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "nk") {
                let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
                let name = name.ok_or_else(|| damaged(&path, "its name is no text".to_owned()))?;
                found.push((name.to_owned(), path.clone()));
            }
        }
    }
    Ok(found)
}

fn damaged(path: &Path, reason: String) -> KeyError {
    KeyError::Damaged { path: path.to_owned(), reason }
}

fn derive(
    folder: &Path,
    passphrase: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<XChaCha20Poly1305, KeyError> {
    let wrong = |reason: String| damaged(&folder.join(SEAL), reason);
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|e| wrong(e.to_string()))?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key)
        .map_err(|e| wrong(e.to_string()))?;
    Ok(XChaCha20Poly1305::new(&key.into()))
}

/// With the file's name, so that one key's file cannot be put in the place of another's.
fn encrypt(cipher: &XChaCha20Poly1305, name: &str, text: &[u8]) -> Result<String, String> {
    let mut bytes = vec![0; NONCE];
    rand::rng().fill_bytes(&mut bytes);
    let sealed = cipher
        .encrypt(XNonce::from_slice(&bytes), Payload { msg: text, aad: name.as_bytes() })
        .map_err(|e| e.to_string())?;
    bytes.extend(sealed);
    Ok(STANDARD.encode(bytes))
}

fn decrypt(cipher: &XChaCha20Poly1305, name: &str, text: &str) -> Result<Vec<u8>, String> {
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or("cut off")?;
    cipher
        .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: name.as_bytes() })
        .map_err(|_| "it was changed, or is another key's file".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_with_and_without_a_passphrase() {
        for passphrase in [None, Some("correct horse")] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("keys");
            let key = KeyPair::new_account();
            let store = KeyStore::create(&folder, passphrase).unwrap();
            store.put("accounts/acme/account.nk", &key).unwrap();
            let again = KeyStore::open(&folder, passphrase).unwrap();
            let read = again.get("accounts/acme/account.nk", &KeyPairType::Account).unwrap();
            assert_eq!(read.unwrap().seed().unwrap(), key.seed().unwrap());
            assert!(again.get("none.nk", &KeyPairType::Account).unwrap().is_none());
            let text = fs::read_to_string(folder.join("accounts/acme/account.nk")).unwrap();
            assert_eq!(text.contains(&key.seed().unwrap()), passphrase.is_none());
            // A key of another kind in its place.
            assert!(again.get("accounts/acme/account.nk", &KeyPairType::Operator).is_err());
        }
    }

    #[test]
    fn passphrases() {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, open) = (folder.path().join("sealed"), folder.path().join("open"));
        let store = KeyStore::create(&sealed, Some("right")).unwrap();
        KeyStore::create(&open, None).unwrap();
        assert!(matches!(
            KeyStore::open(&sealed, Some("wrong")),
            Err(KeyError::WrongPassphrase(_))
        ));
        assert!(matches!(KeyStore::open(&sealed, None), Err(KeyError::NeedsPassphrase(_))));
        assert!(matches!(KeyStore::open(&open, Some("x")), Err(KeyError::NotSealed(_))));
        assert!(matches!(
            KeyStore::open(&folder.path().join("x"), None),
            Err(KeyError::Missing(_))
        ));
        // One file in the place of another, and one in plain text.
        store.put("a.nk", &KeyPair::new_account()).unwrap();
        store.put("b.nk", &KeyPair::new_account()).unwrap();
        fs::copy(sealed.join("a.nk"), sealed.join("b.nk")).unwrap();
        assert!(matches!(store.get("b.nk", &KeyPairType::Account), Err(KeyError::Damaged { .. })));
        fs::write(sealed.join("b.nk"), KeyPair::new_account().seed().unwrap()).unwrap();
        assert!(matches!(store.get("b.nk", &KeyPairType::Account), Err(KeyError::Damaged { .. })));
    }

    #[test]
    fn keys_are_written_anew_under_another_passphrase_and_the_old_files_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let plain = KeyStore::create(&folder, None).unwrap();
        let (a, b) = (KeyPair::new_account(), KeyPair::new_operator());
        plain.put("accounts/acme/account.nk", &a).unwrap();
        plain.put("operator.nk", &b).unwrap();
        let has = |passphrase: Option<&str>| {
            let store = KeyStore::open(&folder, passphrase).unwrap();
            let found =
                store.get("accounts/acme/account.nk", &KeyPairType::Account).unwrap().unwrap();
            assert_eq!(found.seed().unwrap(), a.seed().unwrap());
            let found = store.get("operator.nk", &KeyPairType::Operator).unwrap().unwrap();
            assert_eq!(found.seed().unwrap(), b.seed().unwrap());
            store
        };
        let sealed = plain.reseal(Some("one")).unwrap();
        assert!(sealed.is_sealed() && has(Some("one")).is_sealed());
        assert!(KeyStore::open(&folder, None).is_err());
        let text = fs::read_to_string(folder.join("operator.nk")).unwrap();
        assert!(text.starts_with(SEALED), "{text}");
        sealed.reseal(Some("two")).unwrap();
        assert!(matches!(KeyStore::open(&folder, Some("one")), Err(KeyError::WrongPassphrase(_))));
        // One key that is damaged: nothing was changed, and nothing is left.
        let store = has(Some("two"));
        let whole = fs::read(folder.join("operator.nk")).unwrap();
        fs::write(folder.join("operator.nk"), "x").unwrap();
        assert!(store.reseal(None).is_err());
        fs::write(folder.join("operator.nk"), whole).unwrap();
        has(Some("two")).reseal(None).unwrap();
        has(None);
        assert!(!beside(&folder).exists());
    }

    #[test]
    fn loose_folders_and_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let store = KeyStore::create(&folder, None).unwrap();
        store.put("a.nk", &KeyPair::new_account()).unwrap();
        fs::set_permissions(folder.join("a.nk"), fs::Permissions::from_mode(0o644)).unwrap();
        let error = store.get("a.nk", &KeyPairType::Account).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let error = KeyStore::open(&folder, None).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
