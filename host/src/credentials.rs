//! What the host, its providers and wadm show to the NATS server, and whom they trust.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_access::{Access, AccessError, Credentials};

/// Credentials of this process. Each part of it can have a user of its own, who may do no more than that part does.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// File of credentials for all connections that have none of their own.
    #[arg(long, env = "MILLRACE_CREDS", value_name = "FILE")]
    creds: Option<PathBuf>,
    /// File of credentials of the host, for what controls it.
    #[arg(long, value_name = "FILE")]
    ctl_creds: Option<PathBuf>,
    /// File of credentials of the host, for calls between components and providers.
    #[arg(long, value_name = "FILE")]
    rpc_creds: Option<PathBuf>,
    /// File of credentials that the host gives its providers [default: those for calls]
    #[arg(long, value_name = "FILE")]
    provider_creds: Option<PathBuf>,
    /// File of credentials of wadm, and of what works beside it.
    #[arg(long, value_name = "FILE")]
    wadm_creds: Option<PathBuf>,
    /// Certificates (PEM) of the authority that signed the NATS server's. With it nothing is said without TLS.
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

impl Options {
    /// Reads all of them: confined, neither this process nor its providers can.
    pub(crate) fn read(&self) -> Result<Parts, AccessError> {
        let provider = self.provider_creds.as_ref().or(self.rpc_creds.as_ref());
        Ok(Parts {
            ctl: self.part(self.ctl_creds.as_ref())?,
            rpc: self.part(self.rpc_creds.as_ref())?,
            provider: self.part(provider)?,
            wadm: self.part(self.wadm_creds.as_ref())?,
        })
    }

    /// The authority's certificates, which are no secret.
    pub(crate) const fn tls_ca(&self) -> Option<&PathBuf> {
        self.tls_ca.as_ref()
    }

    fn part(&self, own: Option<&PathBuf>) -> Result<Part, AccessError> {
        let creds = own.or(self.creds.as_ref()).cloned();
        let access = Access { creds, tls_ca: self.tls_ca.clone() };
        Ok(Part { credentials: access.credentials()?, access })
    }
}

/// What the parts of this process show and trust.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The host's control connection.
    pub(crate) ctl: Part,
    /// The host's calls.
    pub(crate) rpc: Part,
    /// Providers.
    pub(crate) provider: Part,
    /// wadm.
    pub(crate) wadm: Part,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    access: Access,
    credentials: Option<Credentials>,
}

/// A JWT and its key, as the host takes them.
pub(crate) type Shown = (Option<String>, Option<std::sync::Arc<nkeys::KeyPair>>);

impl Part {
    /// What it shows.
    pub(crate) fn shown(&self) -> Shown {
        let credentials = self.credentials.as_ref();
        (credentials.map(|c| c.jwt().to_owned()), credentials.map(Credentials::key))
    }

    /// The authority that it trusts.
    pub(crate) const fn tls_ca(&self) -> Option<&PathBuf> {
        self.access.tls_ca.as_ref()
    }

    /// The address as the libraries below take it.
    pub(crate) fn url(&self, url: &str) -> String {
        self.access.url(url)
    }

    /// Connects.
    pub(crate) async fn connect(
        &self,
        name: &str,
        url: &str,
    ) -> Result<async_nats::Client, AccessError> {
        self.access.connect_as(self.credentials.as_ref(), name, url).await
    }
}

/// The variable that names the certificates which the libraries below trust: in this process and, as the host passes it
/// on, in its providers.
pub(crate) const TRUST: &str = "SSL_CERT_FILE";

/// Where this process keeps whom it trusts.
fn trust_file() -> PathBuf {
    std::env::temp_dir().join(format!("millrace-trust-{}.pem", std::process::id()))
}

/// Writes a file with the authority of the NATS server and all that this machine trusts; none where there is no such
/// authority, or this process has the file already.
///
/// The libraries of the host, and of providers, take no file with an authority, but all of them read this one. The others
/// have to be in it, because providers connect to brokers as well.
pub(crate) fn trust(options: &Options) -> anyhow::Result<Option<PathBuf>> {
    let file = trust_file();
    if std::env::var_os(TRUST).is_some_and(|now| Path::new(&now) == file) {
        return Ok(None);
    }
    let access = Access { creds: None, tls_ca: options.tls_ca.clone() };
    let Some(mut text) = access.certificates()? else { return Ok(None) };
    // Where some cannot be read, the others still count.
    for certificate in rustls_native_certs::load_native_certs().certs {
        text.push_str("\n-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(&certificate);
        for (place, letter) in encoded.chars().enumerate() {
            if place > 0 && place % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    // One of a process that had this number before.
    let _ = std::fs::remove_file(&file);
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .with_context(|| format!("could not write {}", file.display()))?;
    Ok(Some(file))
}

/// Removes the file of [`trust`].
pub(crate) fn forget() {
    let _ = std::fs::remove_file(trust_file());
}
