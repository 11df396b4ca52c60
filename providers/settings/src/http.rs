//! Settings of the HTTP connector, which has sources only: it takes requests, and makes none.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::checks::{self, TlsFiles};
use crate::delivery::BATCH_BYTES_MAX;
use crate::flat::FieldError;
pub use crate::http_values::{
    HeaderName, HeaderNames, Listen, MediaTypes, Methods, Part, PathTemplate,
};
use crate::values::{Bytes, Count, Duration};

/// Longest body, in bytes. What is not split has to fit into a batch.
const BODY_MAX: u64 = 8 << 20;

/// Room that a message needs in a batch beside its body: topic, headers, key.
const MESSAGE_ROOM: u64 = 64 << 10;

/// The header that GitHub and many others sign with.
const SIGNATURE: &str = "x-hub-signature-256";

/// How a request shows that it may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Auth {
    /// It need not: everybody who reaches the address may send.
    None,
    /// `Authorization: Bearer` and a token.
    Bearer,
    /// `Authorization: Basic`: user and password.
    Basic,
    /// The body is signed with a shared key, HMAC-SHA256, as webhooks do.
    Hmac,
}

impl Auth {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bearer => "bearer",
            Self::Basic => "basic",
            Self::Hmac => "hmac",
        }
    }
}

/// What is signed, and how the header with the signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Signature {
    /// The body; the header is `sha256=` and the signature in hexadecimal, or the signature alone.
    #[default]
    Body,
    /// The time, a dot and the body; the header is `t=`, the time in seconds, `,v1=` and the signature in hexadecimal.
    Timestamped,
}

/// Whether a body is one message or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Split {
    /// One message.
    #[default]
    None,
    /// A message a line that is not empty, as in NDJSON.
    Lines,
    /// A message for each element of a JSON array.
    JsonArray,
}

/// Takes requests over HTTP. One is answered with 202 only when the pipeline has its messages safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSettings {
    /// Path of its requests: `/orders`. A part in braces stands for anything between two slashes and becomes a header of the
    /// message: `/machines/{machine}`. No two sources of one address have the same.
    pub path: PathTemplate,
    /// How a request shows that it may come in: `bearer`, `basic`, `hmac`, or `none`, which lets everybody in.
    pub auth: Auth,
    /// File with what is let in, one a line: tokens with `bearer`, `user:password` with `basic`, keys with `hmac`. Several,
    /// so that one can follow another. On the machine where the source runs; read again when it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Header with the signature, with `auth: hmac`. Without it `X-Hub-Signature-256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_header: Option<HeaderName>,
    /// What is signed, with `auth: hmac`: `body`, as GitHub does, or `timestamped`, as Stripe does. Without it `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// How far the time of a `timestamped` signature may be from now, from 1s to 1d. Without it 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_tolerance: Option<Duration<1_000, 86_400_000>>,
    /// Where the server listens, an IP address and a port: sources with the same address share it.
    #[serde(default = "listen")]
    pub listen: Listen,
    /// File with the server's certificate and those between it and its authority, in PEM; with it the server speaks TLS. On the
    /// machine where the source runs, read again when it has changed. The same for all sources of an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// File with the certificate's private key, in PEM and not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// Methods that are taken: `POST`, `PUT` or both.
    #[serde(default)]
    pub methods: Methods,
    /// Content types that are taken, such as `application/json` or `text/*`. Without it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_types: Option<MediaTypes>,
    /// Headers of the request that become headers of the message, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderNames>,
    /// Which header of the message is its key: a part of `path` or one of `headers`. A request without it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<HeaderName>,
    /// Header of the request with the time of its messages, in RFC 3339 or as seconds since 1970. Without it, or in a request
    /// that has none, the time of arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<HeaderName>,
    /// Whether a body is several messages: `none`, `lines` or `json-array`. At most 10000.
    #[serde(default)]
    pub split: Split,
    /// Longest body, from 1B to 8MiB; without `split` at most 836KiB, which fits into a batch.
    #[serde(default = "max_body_bytes")]
    pub max_body_bytes: Bytes<1, BODY_MAX>,
    /// Most requests a second that are let in, from 1 to 1000000; as many may come at once.
    #[serde(default = "rate_limit")]
    pub rate_limit: Count<1, 1_000_000>,
    /// Most requests a second of one client address, whether they are let in or not. Without it only `rate-limit` counts:
    /// behind a proxy all have its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_rate_limit: Option<Count<1, 1_000_000>>,
    /// How long a request waits until its messages are safe, from 100ms to 5m; then it is answered with 503.
    #[serde(default = "timeout")]
    pub timeout: Duration<100, 300_000>,
    /// How long a body may take to come, from 100ms to 5m.
    #[serde(default = "timeout")]
    pub read_timeout: Duration<100, 300_000>,
    /// Most messages taken and not yet safe. Beyond it requests are answered with 503.
    #[serde(default = "window")]
    pub window: Count<1, 100_000>,
}

const fn listen() -> Listen {
    Listen::DEFAULT
}

const fn max_body_bytes() -> Bytes<1, BODY_MAX> {
    Bytes::from_bytes(256 << 10)
}

const fn rate_limit() -> Count<1, 1_000_000> {
    Count::clamped(1_000)
}

const fn timeout() -> Duration<100, 300_000> {
    Duration::from_millis(10_000)
}

/// Room for the default of four batches of 500 in flight.
const fn window() -> Count<1, 100_000> {
    Count::clamped(2_000)
}

impl SourceSettings {
    /// The header with the signature.
    #[must_use]
    pub fn signature_header(&self) -> HeaderName {
        self.signature_header.clone().unwrap_or_else(|| HeaderName::known(SIGNATURE))
    }

    /// How far the time of a signature may be from now.
    #[must_use]
    pub fn tolerance(&self) -> std::time::Duration {
        self.signature_tolerance.map_or(std::time::Duration::from_mins(5), Duration::get)
    }

    fn check_auth(&self) -> Result<(), FieldError> {
        checks::path("token-file", self.token_file.as_deref())?;
        match (self.auth, &self.token_file) {
            (Auth::None, Some(file)) => {
                let message = "needs `auth`: bearer, basic or hmac";
                return Err(FieldError::invalid("token-file", file, message));
            }
            (auth @ (Auth::Bearer | Auth::Basic | Auth::Hmac), None) => {
                let message = "needs a `token-file`";
                return Err(FieldError::invalid("auth", auth.name(), message));
            }
            _ => {}
        }
        let needs = |field, value: String, what: &str| {
            Err(FieldError::invalid(field, &value, format!("needs `{what}`")))
        };
        if self.auth != Auth::Hmac {
            if let Some(header) = &self.signature_header {
                return needs("signature-header", header.to_string(), "auth: hmac");
            }
            if let Some(signature) = self.signature {
                let value = match signature {
                    Signature::Body => "body",
                    Signature::Timestamped => "timestamped",
                };
                return needs("signature", value.to_owned(), "auth: hmac");
            }
        }
        if let (Some(tolerance), None | Some(Signature::Body)) =
            (self.signature_tolerance, self.signature)
        {
            let value = tolerance.to_string();
            return needs("signature-tolerance", value, "signature: timestamped");
        }
        Ok(())
    }
}

impl Settings for SourceSettings {
    fn check(&self) -> Result<(), FieldError> {
        self.check_auth()?;
        let (cert, key) = (self.tls_cert_file.as_deref(), self.tls_key_file.as_deref());
        TlsFiles { ca: None, cert, key }.check(None)?;
        let listed = || self.headers.iter().flat_map(HeaderNames::iter);
        if let Some(twice) = self.path.names().find(|name| listed().any(|other| other == *name)) {
            let message = format!("must not name {twice}, which is a part of `path`");
            let value = self.headers.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(FieldError::invalid("headers", &value, message));
        }
        if let Some(key) = &self.key
            && !self.path.names().chain(listed()).any(|name| name == key.as_str())
        {
            let message = "must be a part of `path` or one of `headers`";
            return Err(FieldError::invalid("key", key.as_str(), message));
        }
        let most = BATCH_BYTES_MAX - MESSAGE_ROOM;
        if self.split == Split::None && self.max_body_bytes.get() > most {
            let message = format!("must be at most {}KiB without `split`", most >> 10);
            let value = self.max_body_bytes.to_string();
            return Err(FieldError::invalid("max-body-bytes", &value, message));
        }
        Ok(())
    }
}
