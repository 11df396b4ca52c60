//! Which lattice a command speaks to.

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
