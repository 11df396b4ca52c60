//! Which lattice a command speaks to, and what is looked up there.

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ErrorCode};

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
    /// Name of the lattice.
    #[arg(long, env = "MILLRACE_LATTICE", default_value = "default", value_name = "NAME")]
    pub(crate) lattice: String,
}

impl Options {
    /// Connects, with an error that says what to do.
    pub(crate) async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::ConnectOptions::new()
            .name("millrace")
            .connect(&self.nats_url)
            .await
            .map_err(|e| {
                anyhow::anyhow!(
                    "no NATS server answers at {}: {e}. Start a local platform with `millrace up`, or name the server \
                     with --nats-url",
                    self.nats_url
                )
            })
    }
}

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
