//! What is done beside wadm, by a process that stays: a new version that fails is rolled back although nobody is there, and
//! what wadm has lost sight of is asked for again.

use std::time::Duration;

use millrace_wadm::{keeper, watcher};

use crate::credentials::Part;

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_secs(2);

/// Looks after the lattice for as long as it is polled.
pub(crate) async fn watch(part: Part, nats_url: String, lattice: String) {
    loop {
        match part.connect("millrace-host beside wadm", &nats_url).await {
            Ok(nats) => {
                tokio::join!(watcher::watch(nats.clone(), &lattice), keeper::keep(nats, &lattice));
            }
            Err(error) => tracing::debug!(%error, "cannot look after the lattice"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
