//! Looks after roll-outs where wadm runs: a new version that fails is rolled back although nobody is there.

use std::time::Duration;

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_secs(2);

/// Carries out the roll-outs of the lattice for as long as it is polled.
pub(crate) async fn watch(nats_url: String, lattice: String) {
    loop {
        let options = async_nats::ConnectOptions::new().name("millrace-host roll-outs");
        match options.connect(&nats_url).await {
            Ok(nats) => millrace_wadm::watcher::watch(nats, &lattice).await,
            Err(error) => tracing::debug!(%error, "cannot look for roll-outs"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
