//! How a program gets onto a lattice: a file of credentials, and the authority behind the server's certificate.
//!
//! Apart from the keys of an installation (`millrace-lattice-config`), because the command line, the host and the local
//! platform only use what was issued there. Errors say what to do about them: credentials expire, are revoked, and lie in
//! files that others can read.

mod credentials;

use std::path::PathBuf;
use std::time::SystemTime;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions};

pub use credentials::Credentials;

/// What a connection shows and trusts. The default shows nothing, and trusts whom the machine trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// File of credentials, in NATS' format.
    pub creds: Option<PathBuf>,
    /// Certificates (PEM) of the authority that signed the server's. With it, nothing is said without TLS.
    pub tls_ca: Option<PathBuf>,
}

/// Why a text is no file of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotCredentials(&'static str);

/// Why a program does not get onto a lattice.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Others may read the credentials.
    #[error("{0} holds a key, and others may read it. Mend it with `chmod 600 {0}`", path.display())]
    Loose {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no credentials.
    #[error(
        "{} holds no credentials of NATS: {what}. `millrace tenant creds` writes such a file",
        path.display()
    )]
    NoCredentials {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        what: NotCredentials,
    },
    /// The file with the authority's certificates holds none.
    #[error("{} holds no certificate; --tls-ca takes a file in PEM format", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Their time is over.
    #[error(
        "the credentials in {} expired {} ago. `millrace tenant creds` writes new ones",
        path.display(),
        span(*seconds)
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Since when, in seconds.
        seconds: u64,
    },
    /// Their time has not begun.
    #[error(
        "the credentials in {} are valid only in {}. If they are new, the clock of this machine is slow: set it right",
        path.display(),
        span(*seconds)
    )]
    TooEarly {
        /// The file.
        path: PathBuf,
        /// Until when, in seconds.
        seconds: u64,
    },
    /// The server lets in nobody without credentials.
    #[error(
        "the NATS server at {url} wants credentials. Name a file of them with --creds; `millrace tenant creds` writes one"
    )]
    Wanted {
        /// The server.
        url: String,
    },
    /// The server does not take these.
    #[error(
        "the NATS server at {url} refuses the credentials of user `{user}` in {}. They were revoked or replaced, their \
         tenant is suspended or removed, or they are of another platform. `millrace tenant show` tells; `millrace tenant \
         creds` writes new ones",
        path.display()
    )]
    Refused {
        /// The server.
        url: String,
        /// Name of the user.
        user: String,
        /// The file.
        path: PathBuf,
    },
    /// The server's certificate does not hold, or it has none.
    #[error("no TLS with the NATS server at {url}: {cause}. {mend}")]
    Tls {
        /// The server.
        url: String,
        /// What was said.
        cause: String,
        /// What to do.
        mend: &'static str,
    },
    /// Nobody answers.
    #[error("no NATS server answers at {url}: {cause}")]
    Unreachable {
        /// The server.
        url: String,
        /// What was said.
        cause: String,
    },
}

/// Most bytes of a file of certificates.
const CERTIFICATES_MAX: u64 = 4 << 20;

impl Access {
    /// The credentials, where there are any.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or may be read by others, holds no credentials, or their time is over or has not begun.
    pub fn credentials(&self) -> Result<Option<Credentials>, AccessError> {
        let Some(path) = &self.creds else { return Ok(None) };
        let credentials = Credentials::read(path)?;
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let (begin, end) = credentials.valid();
        if let Some(seconds) = end.and_then(|end| now.checked_sub(end)) {
            return Err(AccessError::Expired { path: path.clone(), seconds });
        }
        if let Some(seconds) = begin.and_then(|begin| begin.checked_sub(now)).filter(|s| *s > 0) {
            return Err(AccessError::TooEarly { path: path.clone(), seconds });
        }
        Ok(Some(credentials))
    }

    /// Options of a connection with these credentials and this trust.
    ///
    /// # Errors
    ///
    /// As [`Access::credentials`], and when the file of certificates cannot be read or holds none.
    pub fn options(&self) -> Result<ConnectOptions, AccessError> {
        self.options_as(self.credentials()?.as_ref())
    }

    /// Options of a connection with this trust, as a user whose credentials are not in a file.
    ///
    /// # Errors
    ///
    /// When the file of certificates cannot be read or holds none.
    pub fn options_as(
        &self,
        credentials: Option<&Credentials>,
    ) -> Result<ConnectOptions, AccessError> {
        let mut options = match credentials {
            Some(credentials) => {
                let (jwt, key) = (credentials.jwt().to_owned(), credentials.key());
                let options = ConnectOptions::with_jwt(jwt, move |nonce| {
                    let key = std::sync::Arc::clone(&key);
                    async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
                });
                match credentials.inbox() {
                    Some(inbox) => options.custom_inbox_prefix(inbox),
                    None => options,
                }
            }
            None => ConnectOptions::new(),
        };
        if let Some(path) = &self.tls_ca {
            self.certificates()?;
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        Ok(options)
    }

    /// The text with the authority's certificates, where there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds no certificate.
    pub fn certificates(&self) -> Result<Option<String>, AccessError> {
        let Some(path) = &self.tls_ca else { return Ok(None) };
        let bytes = credentials::bounded(path, CERTIFICATES_MAX)?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(AccessError::NoCertificate { path: path.clone() });
        }
        Ok(Some(text))
    }

    /// The address for clients that know of TLS only by its scheme: `tls://` in place of `nats://`, where TLS is wanted.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        match (&self.tls_ca, url.split_once("://")) {
            (None, _) => url.to_owned(),
            (Some(_), Some(("nats", rest))) => format!("tls://{rest}"),
            (Some(_), Some(_)) => url.to_owned(),
            (Some(_), None) => format!("tls://{url}"),
        }
    }

    /// Connects, under a name that the server's lists show.
    ///
    /// # Errors
    ///
    /// As [`Access::options`], and when the server does not answer, or refuses.
    pub async fn connect(&self, name: &str, url: &str) -> Result<Client, AccessError> {
        self.connect_as(self.credentials()?.as_ref(), name, url).await
    }

    /// The same as a user whose credentials are not in a file, or have been read before.
    ///
    /// # Errors
    ///
    /// As [`Access::options_as`], and when the server does not answer, or refuses.
    pub async fn connect_as(
        &self,
        credentials: Option<&Credentials>,
        name: &str,
        url: &str,
    ) -> Result<Client, AccessError> {
        let options = self.options_as(credentials)?.name(name);
        options.connect(url).await.map_err(|error| self.explain(url, &error))
    }

    /// What a failed connection means, and its mend.
    #[must_use]
    pub fn explain(&self, url: &str, error: &ConnectError) -> AccessError {
        let (url, cause) = (url.to_owned(), error.to_string());
        let words = cause.to_lowercase();
        let refused = matches!(
            error.kind(),
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
        ) || words.contains("authorization")
            || words.contains("authentication")
            || words.contains("account");
        match &self.creds {
            None if refused => AccessError::Wanted { url },
            Some(path) if refused => {
                let user = Credentials::read(path).map(|own| own.name().to_owned());
                AccessError::Refused { url, user: user.unwrap_or_default(), path: path.clone() }
            }
            _ => match tls_mend(&words, self.tls_ca.is_some()) {
                Some(mend) => AccessError::Tls { url, cause, mend },
                None => AccessError::Unreachable { url, cause },
            },
        }
    }
}

/// What to do about an error of TLS, if it is one. The words are those of rustls.
fn tls_mend(words: &str, named: bool) -> Option<&'static str> {
    const NAME_IT: &str = "Name the authority's certificate with --tls-ca (a local platform keeps it in its data folder)";
    const OTHER: &str =
        "Another authority signed its certificate than the one in --tls-ca: name the right file";
    const OLD: &str =
        "Its certificate has expired, or this machine's clock is wrong: have the server's renewed";
    const ADDRESS: &str = "Its certificate is for another name: use the name that is in it, or have one made for this address";
    const PLAIN: &str =
        "It does not speak TLS: leave out --tls-ca, or give the server a certificate";
    if words.contains("notvalidforname") || words.contains("not valid for name") {
        return Some(ADDRESS);
    }
    if words.contains("expired") || words.contains("notvalidyet") {
        return Some(OLD);
    }
    if words.contains("certificate") || words.contains("unknownissuer") {
        return Some(if named { OTHER } else { NAME_IT });
    }
    let tls = ["tls", "handshake", "corrupt message", "invalidcontenttype"];
    match named && tls.iter().any(|word| words.contains(word)) {
        true => Some(PLAIN),
        false => None,
    }
}

/// A time in the unit that fits it.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
