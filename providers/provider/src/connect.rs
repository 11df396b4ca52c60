//! The provider's own connection to NATS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::ConnectOptions;
use rand::Rng;
use wasmcloud_core::HostData;

/// Silence after which the server is asked for a sign of life. Two of them
/// missing end the connection, so a server that hangs is noticed in 20 s.
const PING: Duration = Duration::from_secs(10);

/// Longest pause between attempts to reconnect.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// Connects with the host's address and credentials, and reconnects for ever:
/// a provider that ended when NATS is away would only be started again.
///
/// # Errors
///
/// When the credentials cannot be used or the address is none.
pub async fn connect(host: &HostData, name: &str) -> anyhow::Result<async_nats::Client> {
    let (jwt, seed) = (host.lattice_rpc_user_jwt.trim(), host.lattice_rpc_user_seed.trim());
    let options = if jwt.is_empty() || seed.is_empty() {
        ConnectOptions::new()
    } else {
        let key = Arc::new(
            nkeys::KeyPair::from_seed(seed).context("the host's seed for NATS cannot be used")?,
        );
        ConnectOptions::with_jwt(jwt.to_owned(), move |nonce| {
            let key = Arc::clone(&key);
            async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
        })
    };
    let url = if host.lattice_rpc_url.is_empty() {
        "nats://127.0.0.1:4222"
    } else {
        &host.lattice_rpc_url
    };
    options
        .name(format!("millrace-{name}"))
        .max_reconnects(None)
        .retry_on_initial_connect()
        .ping_interval(PING)
        .reconnect_delay_callback(pause)
        .connect(url)
        .await
        .with_context(|| format!("connecting to NATS at {url}"))
}

/// Doubling from 50 ms, jittered: all providers of a server lose it together.
fn pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    let bound = Duration::from_millis(50).saturating_mul(1 << doublings).min(RECONNECT_MAX);
    bound.mul_f64(rand::rng().random_range(0.5..=1.0))
}
