//! A private authority for the certificates of a local platform. A real installation brings files of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::files::{self, FileError};
use crate::server::TlsFiles;

/// How long the authority's certificate counts, in days.
pub const AUTHORITY_DAYS: i64 = 3650;
/// How long a server's certificate counts, in days.
pub const SERVER_DAYS: i64 = 365;
/// A certificate is renewed when it has fewer days left.
pub const RENEW_DAYS: i64 = 30;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The authority's time is over.
    #[error(
        "the authority in {folder} expired {days} days ago: renew it, and give its new ca.pem to every machine that connects"
    )]
    Expired {
        /// Its folder.
        folder: PathBuf,
        /// Since when.
        days: i64,
    },
    /// A name or key that certificates cannot have.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The record beside a certificate.
    #[error("{0} is damaged: {1}. Remove it, and the certificate is made anew")]
    Damaged(PathBuf, serde_json::Error),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is kept beside a certificate, so that no certificate has to be taken apart to renew it.
#[derive(Serialize, Deserialize)]
struct Record {
    names: Vec<String>,
    /// Seconds since the Unix epoch.
    expires: i64,
}

/// A private authority in a folder: `ca.pem` is for everybody, `ca.key` for its owner alone.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    key: KeyPair,
    expires: i64,
}

impl Authority {
    /// Opens the folder's authority, and makes one where there is none.
    ///
    /// # Errors
    ///
    /// When the key is loose or damaged, or the folder cannot be written. An expired one opens, and signs nothing
    /// before it is renewed.
    pub fn create(folder: &Path) -> Result<Self, CaError> {
        files::private_folder(folder)?;
        let _alone = files::exclusive(folder)?;
        let path = folder.join("ca.key");
        if !path.exists() {
            files::write_private(&path, KeyPair::generate()?.serialize_pem().as_bytes())?;
        }
        let pem = files::read_private(&path)?;
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&pem))?;
        let mut authority = Self { folder: folder.to_owned(), key, expires: 0 };
        match record(&folder.join("ca.json"))? {
            Some(record) if authority.file().exists() => authority.expires = record.expires,
            _ => authority.renew(AUTHORITY_DAYS)?,
        }
        Ok(authority)
    }

    /// Its certificate, for those who connect.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// When its certificate ends, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires
    }

    /// Makes its certificate anew, with the same key, for a number of days from now. Those who connect need the new
    /// one; certificates that it has signed stay.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn renew(&mut self, days: i64) -> Result<(), CaError> {
        let until = OffsetDateTime::now_utc() + Duration::days(days);
        let mut params = authority()?;
        // A clock that is a little behind must not refuse it.
        params.not_before = OffsetDateTime::now_utc().min(until) - Duration::days(1);
        params.not_after = until;
        let certificate = params.self_signed(&self.key)?;
        files::write(&self.file(), certificate.pem().as_bytes(), 0o644)?;
        self.expires = until.unix_timestamp();
        write_record(&self.folder.join("ca.json"), Vec::new(), self.expires)
    }

    /// The certificate of a server that is known by names and addresses. The one that is there is kept while it has
    /// these names and more than [`RENEW_DAYS`] left; a running nats-server takes a new one at SIGHUP.
    ///
    /// # Errors
    ///
    /// When the authority has expired, a name is none, or the files cannot be written.
    pub fn server(&self, name: &str, names: &[String]) -> Result<TlsFiles, CaError> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.certify(name, names, usages)
    }

    /// The same for a server that is none of the cluster's: its certificate lets it in nowhere.
    ///
    /// # Errors
    ///
    /// As [`Authority::server`].
    pub fn web_server(&self, name: &str, names: &[String]) -> Result<TlsFiles, CaError> {
        self.certify(name, names, vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn certify(
        &self,
        name: &str,
        names: &[String],
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<TlsFiles, CaError> {
        let now = OffsetDateTime::now_utc();
        let over = now.unix_timestamp() - self.expires;
        if over >= 0 {
            return Err(CaError::Expired { folder: self.folder.clone(), days: over / 86_400 });
        }
        let tls = TlsFiles {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
            authority: self.file(),
        };
        let _alone = files::exclusive(&self.folder)?;
        let path = self.folder.join(format!("{name}.json"));
        let fresh = (now + Duration::days(RENEW_DAYS)).unix_timestamp();
        if let Some(record) = record(&path)?
            && record.names == names
            && (record.expires > fresh || record.expires >= self.expires)
            && tls.certificate.exists()
            && tls.key.exists()
        {
            return Ok(tls);
        }
        let mut params = CertificateParams::new([])?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let expires = (now + Duration::days(SERVER_DAYS)).unix_timestamp().min(self.expires);
        params.not_before = now - Duration::days(1);
        params.not_after = OffsetDateTime::from_unix_timestamp(expires).unwrap_or(now);
        let key = KeyPair::generate()?;
        let issuer = authority()?;
        let certificate = params.signed_by(&key, &Issuer::from_params(&issuer, &self.key))?;
        // The record last: without it both files are made again.
        files::remove(&path)?;
        files::write_private(&tls.key, key.serialize_pem().as_bytes())?;
        files::write(&tls.certificate, certificate.pem().as_bytes(), 0o644)?;
        write_record(&path, names.to_vec(), expires)?;
        Ok(tls)
    }
}

fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Millrace local authority");
    Ok(params)
}

fn record(path: &Path) -> Result<Option<Record>, CaError> {
    match files::read_private(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| CaError::Damaged(path.to_owned(), e)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write_record(path: &Path, names: Vec<String>, expires: i64) -> Result<(), CaError> {
    let bytes = serde_json::to_vec(&Record { names, expires })
        .map_err(|e| CaError::Damaged(path.to_owned(), e))?;
    Ok(files::write_private(path, &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_make_it_at_once_have_the_same_key() {
        for _ in 0..8 {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("tls");
            let start = std::sync::Barrier::new(4);
            let keys: Vec<String> = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    Authority::create(&folder).unwrap().key.serialize_pem()
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
        }
    }

    #[test]
    fn a_certificate_is_kept_until_its_names_change_and_none_is_signed_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let mut authority = Authority::create(&folder).unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let read = |tls: &TlsFiles| std::fs::read_to_string(&tls.certificate).unwrap();
        let first = read(&authority.server("server", &names).unwrap());
        let authority_again = Authority::create(&folder).unwrap();
        assert_eq!(read(&authority_again.server("server", &names).unwrap()), first);
        let other = authority.server("server", &["example.com".to_owned()]).unwrap();
        assert_ne!(read(&other), first);
        authority.renew(-1).unwrap();
        let error = authority.server("server", &names).unwrap_err();
        assert!(matches!(error, CaError::Expired { .. }), "{error}");
    }
}
