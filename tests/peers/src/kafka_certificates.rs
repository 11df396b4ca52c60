//! Certificates for a broker and its clients, good and bad, as PEM files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::PeerError;
use crate::certificates::{Authority, Identity, Validity};

/// Files in the folder of a peer.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    good: String,
    expired: String,
    other_name: String,
    untrusted: String,
}

impl Certificates {
    /// Makes an authority, a server's certificate for `localhost`, a client's,
    /// and an authority that nobody trusts with a client of its own.
    pub(crate) fn make(folder: &Path) -> Result<Self, PeerError> {
        let ca = Authority::new(folder, "ca")?;
        let stranger = Authority::new(folder, "stranger-ca")?;
        let (valid, expired) = (Validity::Valid, Validity::Expired);
        let good = joined(&ca.sign("localhost", valid)?)?;
        fs::write(folder.join("server.pem"), &good)?;
        for (name, identity) in [
            ("client", ca.sign("press", valid)?),
            ("client-expired", ca.sign("press", expired)?),
            ("client-stranger", stranger.sign("press", valid)?),
        ] {
            fs::rename(identity.certificate, folder.join(format!("{name}.pem")))?;
            fs::rename(identity.key, folder.join(format!("{name}.key")))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            good,
            untrusted: joined(&stranger.sign("localhost", valid)?)?,
            expired: joined(&ca.sign("localhost", expired)?)?,
            other_name: joined(&ca.sign("elsewhere.example", valid)?)?,
        })
    }

    /// The path of a file: `ca.pem`, `stranger-ca.pem`, and `client`,
    /// `client-expired` and `client-stranger`, each with `.pem` and `.key`.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// The server's key and certificate at its first start.
    #[must_use]
    pub fn good_server(&self) -> &str {
        &self.good
    }

    /// A server's key and certificate from an authority that nobody trusts.
    #[must_use]
    pub fn untrusted_server(&self) -> &str {
        &self.untrusted
    }

    /// A server's key and certificate that has expired.
    #[must_use]
    pub fn expired_server(&self) -> &str {
        &self.expired
    }

    /// A server's key and certificate for another host.
    #[must_use]
    pub fn other_server(&self) -> &str {
        &self.other_name
    }
}

/// Key and certificate in one text, as Kafka's key store takes them.
fn joined(identity: &Identity) -> io::Result<String> {
    Ok(fs::read_to_string(&identity.key)? + &fs::read_to_string(&identity.certificate)?)
}
