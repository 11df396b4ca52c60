//! Certificates for tests: authorities, and what they sign.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use time::{Duration, OffsetDateTime};

use crate::PeerError;

/// When a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Valid,
    /// Until yesterday.
    Expired,
}

/// Files of one certificate, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An authority that signs certificates, and writes them into one folder.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
    file: PathBuf,
}

impl Authority {
    /// A new authority. Its certificate is `<name>.pem` in the folder.
    ///
    /// # Errors
    ///
    /// When the key cannot be made or the file cannot be written.
    pub fn new(folder: &Path, name: &str) -> Result<Self, PeerError> {
        let mut params = CertificateParams::new([]).map_err(wrong)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.self_signed(&key).map_err(wrong)?;
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, certificate.pem())?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, folder: folder.to_owned(), name: name.to_owned(), file })
    }

    /// Its own certificate, for those who are to trust it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for a host (a name, or an address in digits) or, as a
    /// client's, for the name of a client. It is new at each call.
    ///
    /// # Errors
    ///
    /// When it cannot be made or written.
    pub fn sign(&self, host: &str, validity: Validity) -> Result<Identity, PeerError> {
        let mut params = CertificateParams::new([]).map_err(wrong)?;
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(wrong)?),
        };
        params.subject_alt_names.push(name);
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let (from, until) = match validity {
            Validity::Valid => (-1, 30),
            Validity::Expired => (-30, -1),
        };
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(from);
        params.not_after = now + Duration::days(until);
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let stem = format!("{}-{host}-{validity:?}", self.name);
        let identity = Identity {
            certificate: self.folder.join(format!("{stem}.pem")),
            key: self.folder.join(format!("{stem}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem())?;
        std::fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

fn wrong(error: rcgen::Error) -> PeerError {
    PeerError::Certificate(error.to_string())
}
