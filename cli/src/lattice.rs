//! Which lattice a command speaks to, and what is looked up there.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ErrorCode};
use millrace_access::{Access, AccessError};

/// Options of every command that speaks to a lattice.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// NATS server of the lattice.
    #[arg(
        long,
        env = "MILLRACE_NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL"
    )]
    pub(crate) nats_url: String,
    /// Name of the lattice [default: that of the tenant whose credentials are given, or `default`]
    #[arg(long, env = "MILLRACE_LATTICE", value_name = "NAME")]
    lattice: Option<String>,
    #[command(flatten)]
    pub(crate) access: AccessOptions,
    /// What the name came to be.
    #[arg(skip)]
    found: OnceLock<String>,
}

/// What is shown to a NATS server, and whom to trust as one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AccessOptions {
    /// File of credentials, as `millrace tenant creds` writes it.
    #[arg(long, env = "MILLRACE_CREDS", value_name = "FILE")]
    creds: Option<PathBuf>,
    /// Certificates (PEM) of the authority that signed the NATS server's. With it nothing is said without TLS.
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

impl AccessOptions {
    /// The same for a connection. A variable of the environment that is set to nothing is not set.
    pub(crate) fn access(&self) -> Access {
        let named = |path: &PathBuf| !path.as_os_str().is_empty();
        Access {
            creds: self.creds.clone().filter(named),
            tls_ca: self.tls_ca.clone().filter(named),
        }
    }
}

impl Options {
    /// Name of the lattice.
    pub(crate) fn name(&self) -> &str {
        self.found.get_or_init(|| match &self.lattice {
            Some(name) => name.clone(),
            // Where they cannot be read, connecting says so.
            None => match self.access.access().credentials() {
                Ok(Some(credentials)) => credentials.lattice().unwrap_or(DEFAULT).to_owned(),
                _ => DEFAULT.to_owned(),
            },
        })
    }

    /// Connects, with an error that says what to do.
    pub(crate) async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        let connected = self.access.access().connect("millrace", &self.nats_url).await;
        connected.map_err(|error| match error {
            AccessError::Unreachable { .. } => anyhow::anyhow!(
                "{error}. Start a local platform with `millrace up`, or name the server with --nats-url"
            ),
            other => other.into(),
        })
    }
}

/// Where nothing says otherwise.
const DEFAULT: &str = "default";

/// The stream of this name, if there is one.
pub(crate) async fn stream(js: &Context, name: &str) -> anyhow::Result<Option<Stream>> {
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(error).with_context(|| format!("could not open stream {name}")),
        },
    }
}
