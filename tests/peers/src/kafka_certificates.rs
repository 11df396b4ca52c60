//! Certificates for a broker and its clients, good and bad, as PEM files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

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
    pub(crate) fn make(folder: &Path) -> io::Result<Self> {
        let all = || -> Result<Self, rcgen::Error> {
            let ca = authority("millrace test authority")?;
            let stranger = authority("an authority nobody trusts")?;
            let write = |name: &str, pem: &str| fs::write(folder.join(name), pem);
            let io = |_| rcgen::Error::CouldNotParseCertificate;
            write("ca.pem", &ca.pem).map_err(io)?;
            write("stranger-ca.pem", &stranger.pem).map_err(io)?;
            let joined = |issued: Issued| [issued.key, issued.certificate].concat();
            let good = joined(ca.issue("localhost", false)?);
            write("server.pem", &good).map_err(io)?;
            for (name, issued) in [
                ("client", ca.issue("press", false)?),
                ("client-expired", ca.issue("press", true)?),
                ("client-stranger", stranger.issue("press", false)?),
            ] {
                write(&format!("{name}.pem"), &issued.certificate).map_err(io)?;
                write(&format!("{name}.key"), &issued.key).map_err(io)?;
            }
            Ok(Self {
                folder: folder.to_owned(),
                good,
                untrusted: joined(stranger.issue("localhost", false)?),
                expired: joined(ca.issue("localhost", true)?),
                other_name: joined(ca.issue("elsewhere.example", false)?),
            })
        };
        all().map_err(io::Error::other)
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

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Issued {
    certificate: String,
    key: String,
}

fn authority(name: &str) -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok(Authority { issuer: Issuer::new(params, key), pem })
}

impl Authority {
    fn issue(&self, name: &str, expired: bool) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}
