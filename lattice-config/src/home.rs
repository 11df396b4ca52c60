//! The folder of an installation.
//!
//! ```text
//! keys/operator.nk, operator-signing.nk, system.nk, system-signing.nk, accounts/NAME/...   private keys
//! operator.jwt, system.jwt                                             what a server trusts
//! system.creds                                                         who may push accounts
//! tenants/NAME/tenant.json, creds/ROLE.creds                           see `tenants`
//! tls/                                                                 the private CA, see `ca`
//! jwt/                                                                 nats-server's own: accounts as it has them
//! ```

use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};

use crate::files::{self, FileError};
use crate::jwt::{
    Account, AccountLimits, Claims, JwtError, Operator, Permissions, Subjects, User, credentials,
};
use crate::keys::{KeyError, KeyStore};

const OPERATOR: &str = "operator.nk";
const OPERATOR_SIGNING: &str = "operator-signing.nk";
const SYSTEM: &str = "system.nk";
const SYSTEM_SIGNING: &str = "system-signing.nk";

/// Why an installation could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A token.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// A token belongs to other keys.
    #[error("{0} was signed by other keys than those in keys/: restore both from one backup")]
    Foreign(PathBuf),
}

/// The folder of an installation, opened.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    keys: KeyStore,
    operator_jwt: String,
    system_jwt: String,
    system: String,
}

impl Home {
    /// Opens an installation, and makes what is missing of it: folder, operator, system account. It may be interrupted
    /// and called again.
    ///
    /// # Errors
    ///
    /// When keys cannot be read (permissions, passphrase), or the folder cannot be written.
    pub fn create(root: &Path, passphrase: Option<&str>) -> Result<Self, HomeError> {
        files::private_folder(root)?;
        // Two at once would each make keys, and one of them sign with what the other has replaced.
        let _alone = files::exclusive(root)?;
        KeyStore::tidy(&root.join("keys"))?;
        let keys = KeyStore::create(&root.join("keys"), passphrase)?;
        let operator = keys.get_or_make(OPERATOR, KeyPairType::Operator)?;
        let signing = keys.get_or_make(OPERATOR_SIGNING, KeyPairType::Operator)?;
        let system = keys.get_or_make(SYSTEM, KeyPairType::Account)?;
        // An operator that is strict about signing keys wants them of accounts as well.
        let system_signing = keys.get_or_make(SYSTEM_SIGNING, KeyPairType::Account)?;
        let path = root.join("operator.jwt");
        if !path.exists() {
            let claims = Operator {
                signing_keys: vec![signing.public_key()],
                system_account: system.public_key(),
                strict_signing_key_usage: true,
            };
            let token = Claims::new("millrace", &operator.public_key(), claims).sign(&operator)?;
            files::write_private(&path, token.as_bytes())?;
        }
        let path = root.join("system.jwt");
        if !path.exists() {
            let limits = AccountLimits { disallow_bearer: true, ..AccountLimits::default() };
            let signing_keys = [system_signing.public_key()].into();
            let claims = Account { limits, signing_keys, ..Account::default() };
            let token = Claims::new("SYS", &system.public_key(), claims).sign(&signing)?;
            files::write_private(&path, token.as_bytes())?;
        }
        let path = root.join("system.creds");
        if !path.exists() {
            files::write_private(
                &path,
                system_credentials(&system.public_key(), &system_signing)?.as_bytes(),
            )?;
        }
        Self::open(root, passphrase)
    }

    /// Opens an installation that is there.
    ///
    /// # Errors
    ///
    /// When it is not, or its keys cannot be read, or its tokens belong to other keys.
    pub fn open(root: &Path, passphrase: Option<&str>) -> Result<Self, HomeError> {
        let keys = KeyStore::open(&root.join("keys"), passphrase)?;
        let token = |name: &str| -> Result<String, HomeError> {
            let bytes = files::read_private(&root.join(name))?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let (operator_jwt, system_jwt) = (token("operator.jwt")?, token("system.jwt")?);
        let operator = Claims::<Operator>::verify(&operator_jwt)?;
        let system = Claims::<Account>::verify(&system_jwt)?;
        let home = Self {
            root: root.to_owned(),
            keys,
            operator_jwt,
            system_jwt,
            system: system.sub.clone(),
        };
        if operator.sub != home.key(OPERATOR, KeyPairType::Operator)?.public_key() {
            return Err(HomeError::Foreign(root.join("operator.jwt")));
        }
        let signing = home.operator_signing()?.public_key();
        if !operator.nats.claims.signing_keys.contains(&signing)
            || system.iss != signing
            || operator.nats.claims.system_account != system.sub
        {
            return Err(HomeError::Foreign(root.join("system.jwt")));
        }
        Ok(home)
    }

    /// Writes all keys anew under another passphrase, or with none. A platform that runs with the old ones has to be started anew.
    ///
    /// # Errors
    ///
    /// When a key cannot be read or written; then nothing was changed.
    pub fn reseal(&mut self, passphrase: Option<&str>) -> Result<(), HomeError> {
        let _alone = files::exclusive(&self.root)?;
        self.keys = self.keys.reseal(passphrase)?;
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its private keys.
    #[must_use]
    pub fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The operator's token, which a server is configured with.
    #[must_use]
    pub fn operator_jwt(&self) -> &str {
        &self.operator_jwt
    }

    /// The system account's token, which a server is configured with.
    #[must_use]
    pub fn system_jwt(&self) -> &str {
        &self.system_jwt
    }

    /// Public key of the system account.
    #[must_use]
    pub fn system_account(&self) -> &str {
        &self.system
    }

    /// Credentials of the system account's user, who may push accounts and see servers.
    #[must_use]
    pub fn system_creds(&self) -> PathBuf {
        self.root.join("system.creds")
    }

    /// Folder for the server's own copy of all accounts.
    #[must_use]
    pub fn jwt_folder(&self) -> PathBuf {
        self.root.join("jwt")
    }

    /// Folder of the tenants.
    #[must_use]
    pub fn tenants_folder(&self) -> PathBuf {
        self.root.join("tenants")
    }

    /// Folder of the certificates.
    #[must_use]
    pub fn tls_folder(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// The key that signs accounts.
    ///
    /// # Errors
    ///
    /// When it is missing or cannot be read.
    pub fn operator_signing(&self) -> Result<KeyPair, KeyError> {
        self.key(OPERATOR_SIGNING, KeyPairType::Operator)
    }

    fn key(&self, name: &str, kind: KeyPairType) -> Result<KeyPair, KeyError> {
        let missing = || KeyError::Missing(self.root.join("keys").join(name));
        self.keys.get(name, &kind)?.ok_or_else(missing)
    }
}

fn system_credentials(account: &str, signing: &KeyPair) -> Result<String, HomeError> {
    let user = KeyPair::new_user();
    let claims = User {
        permissions: Permissions {
            publish: Subjects { allow: vec!["$SYS.REQ.>".to_owned()], deny: Vec::new() },
            subscribe: Subjects {
                allow: vec![
                    "_INBOX.>".to_owned(),
                    "$SYS.ACCOUNT.>".to_owned(),
                    "$SYS.SERVER.>".to_owned(),
                ],
                deny: Vec::new(),
            },
            responses: None,
        },
        issuer_account: account.to_owned(),
        ..User::default()
    };
    let token = Claims::new("millrace", &user.public_key(), claims).sign(signing)?;
    let seed = user.seed().map_err(|e| JwtError::Sign(e.to_string()))?;
    Ok(credentials(&token, &seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_make_it_at_once_have_the_same() {
        for round in 0..8 {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("lattice");
            let start = std::sync::Barrier::new(4);
            let passphrase = (round == 0).then_some("p");
            let made = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    let home = Home::create(&root, passphrase).unwrap();
                    start.wait();
                    let ca = crate::ca::Authority::create(&home.tls_folder()).unwrap();
                    let tls = ca.server("nats", &["localhost".to_owned()]).unwrap();
                    let certificate = std::fs::read_to_string(tls.certificate).unwrap();
                    let trusted = std::fs::read_to_string(ca.file()).unwrap();
                    let system = std::fs::read_to_string(home.system_creds()).unwrap();
                    let operator = home.operator_jwt().to_owned();
                    (operator, home.system_jwt().to_owned(), system, certificate, trusted)
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
            });
            assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
            Home::open(&root, passphrase).unwrap();
        }
    }

    #[test]
    fn made_once_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("lattice");
        let home = Home::create(&root, Some("p")).unwrap();
        let again = Home::create(&root, Some("p")).unwrap();
        assert_eq!(home.operator_jwt(), again.operator_jwt());
        assert_eq!(home.system_account(), again.system_account());
        assert!(Home::open(&root, Some("q")).is_err());
        // Tokens of another installation.
        let other = Home::create(&folder.path().join("other"), None).unwrap();
        std::fs::copy(other.root().join("operator.jwt"), root.join("operator.jwt")).unwrap();
        assert!(matches!(Home::open(&root, Some("p")), Err(HomeError::Foreign(_))));
    }
}
