//! What a connect shows of itself and trusts, read from files each time.
//!
//! The settings hold paths. Reading at each connect is what lets a password or
//! a certificate be renewed without a restart: whatever made the old one fail
//! has ended the connection, and the next one finds the new file.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millrace_settings::mqtt::Client as Settings;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Longest password read from a file, in bytes (MQTT 5.0, section 3.1.3.6).
const PASSWORD_MAX: u64 = 65_535;

/// Largest file of certificates, in bytes: a whole system's authorities are a
/// quarter of it.
const PEM_MAX: u64 = 1 << 20;

/// Where the secrets are.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    tls: bool,
    username: Option<String>,
    password_file: Option<String>,
    ca_file: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
}

/// The secrets as they are now. Without `Debug`: it would print them.
pub(crate) struct Secrets {
    /// User name and password.
    pub(crate) login: Option<(String, Bytes)>,
    /// Present when the connection uses TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl References {
    pub(crate) fn of(settings: &Settings<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            tls: settings.url.tls(),
            username: owned(settings.username),
            password_file: owned(settings.password_file),
            ca_file: owned(settings.tls_ca_file),
            cert_file: owned(settings.tls_cert_file),
            key_file: owned(settings.tls_key_file),
        }
    }

    /// Reads them.
    ///
    /// # Errors
    ///
    /// Names the setting and the file that cannot be used.
    pub(crate) async fn read(&self) -> Result<Secrets, String> {
        let login = self.login().await?;
        let tls = if self.tls { Some(Arc::new(self.tls().await?)) } else { None };
        Ok(Secrets { login, tls })
    }

    async fn login(&self) -> Result<Option<(String, Bytes)>, String> {
        let password = match &self.password_file {
            Some(file) => {
                let mut password = read("password-file", file, PASSWORD_MAX).await?;
                while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
                    password.pop();
                }
                password.into()
            }
            None => Bytes::new(),
        };
        let named = self.username.is_some() || self.password_file.is_some();
        Ok(named.then(|| (self.username.clone().unwrap_or_default(), password)))
    }

    async fn tls(&self) -> Result<ClientConfig, String> {
        let roots = match &self.ca_file {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls-ca-file", file).await? {
                    roots.add(certificate).map_err(|e| format!("tls-ca-file {file}: {e}"))?;
                }
                roots
            }
            None => system().await?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?
            .with_root_certificates(roots);
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let chain = certificates("tls-cert-file", cert).await?;
                let text = read("tls-key-file", key, PEM_MAX).await?;
                let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
                    PemError::NoItemsFound => {
                        format!("tls-key-file {key}: has no private key that is not encrypted")
                    }
                    other => format!("tls-key-file {key}: {other}"),
                })?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|e| format!("tls-cert-file {cert} and tls-key-file {key}: {e}"))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

async fn read(setting: &str, file: &str, most: u64) -> Result<Vec<u8>, String> {
    let error = |e: std::io::Error| format!("{setting} {file}: {e}");
    let found = tokio::fs::metadata(Path::new(file)).await.map_err(error)?;
    if found.len() > most {
        return Err(format!("{setting} {file}: is larger than {most} bytes"));
    }
    tokio::fs::read(file).await.map_err(error)
}

async fn certificates(setting: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(setting, file, PEM_MAX).await?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = read.map_err(|e| format!("{setting} {file}: {e}"))?;
    if found.is_empty() {
        return Err(format!("{setting} {file}: has no certificate in PEM"));
    }
    Ok(found)
}

/// The authorities the operating system trusts.
async fn system() -> Result<RootCertStore, String> {
    // Reads some hundred files.
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|e| format!("the system's certificates: {e}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = loaded.errors.first().map(|e| format!(": {e}")).unwrap_or_default();
        return Err(format!("this system has no certificates to trust{why}; name a tls-ca-file"));
    }
    Ok(roots)
}
