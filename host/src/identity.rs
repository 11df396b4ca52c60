//! The host's identity, kept over restarts.
//!
//! A host that comes back under its old name reports at its first heartbeat that it runs nothing, and wadm starts
//! everything again at once. Under a new name the dead one would be waited for first.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use nkeys::{KeyPair, KeyPairType};

/// Reads the key in `file`, or makes one and writes it there, readable by its owner alone.
pub(crate) fn load_or_make(file: &Path) -> anyhow::Result<Arc<KeyPair>> {
    match std::fs::read_to_string(file) {
        Ok(seed) => {
            let key = KeyPair::from_seed(seed.trim()).with_context(|| broken(file))?;
            anyhow::ensure!(key.key_pair_type() == KeyPairType::Server, broken(file));
            Ok(Arc::new(key))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::new_server();
            let seed = key.seed().context("a new key has no seed")?;
            std::fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .and_then(|mut f| f.write_all(seed.as_bytes()))
                .with_context(|| format!("could not write the host's key to {}", file.display()))?;
            Ok(Arc::new(key))
        }
        Err(e) => {
            Err(e).with_context(|| format!("could not read the host's key from {}", file.display()))
        }
    }
}

fn broken(file: &Path) -> String {
    format!("{} does not hold a host's key; remove the file, and a new key is made", file.display())
}

#[cfg(test)]
mod tests {
    use super::load_or_make;

    #[test]
    fn stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("host.seed");
        let first = load_or_make(&file).unwrap();
        assert_eq!(first.public_key(), load_or_make(&file).unwrap().public_key());
        std::fs::write(&file, "no key").unwrap();
        assert!(load_or_make(&file).unwrap_err().to_string().contains("remove the file"));
    }
}
