//! What the NATS server must be, checked before the host and wadm are started: neither says clearly what it misses.

use std::time::Duration;

use millrace_access::AccessError;

use crate::credentials::Part;

/// Key-value and consumer features that the host and wadm use are there since this version.
const OLDEST: (u64, u64) = (2, 10);

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NatsError {
    #[error("{0}. Start one with `nats-server -js`, or a whole local platform with `millrace up`")]
    Unreachable(AccessError),
    #[error("{0}")]
    Access(AccessError),
    #[error(
        "the NATS server at {url} is {found}, and 2.10 or newer is needed. Install a current one with `scripts/setup nats-server`"
    )]
    TooOld { url: String, found: String },
    #[error(
        "the NATS server at {url} runs without JetStream: {cause}. Start it with `-js` (or `jetstream {{}}` in its configuration)"
    )]
    NoJetStream { url: String, cause: String },
}

impl From<AccessError> for NatsError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Unreachable { .. } => Self::Unreachable(error),
            other => Self::Access(other),
        }
    }
}

/// Connects, and leaves again: credentials that are refused are better said here than by the libraries.
pub(crate) async fn check_access(url: &str, part: &Part) -> Result<(), NatsError> {
    Ok(connect(url, part).await.map(drop)?)
}

async fn connect(url: &str, part: &Part) -> Result<async_nats::Client, AccessError> {
    part.connect("millrace-host check", url).await
}

/// Connects, checks version and JetStream, and leaves again.
pub(crate) async fn check(url: &str, part: &Part) -> Result<(), NatsError> {
    let client = connect(url, part).await?;
    let found = client.server_info().version;
    if !new_enough(&found) {
        return Err(NatsError::TooOld { url: url.to_owned(), found });
    }
    let jetstream = async_nats::jetstream::new(client);
    match tokio::time::timeout(Duration::from_secs(5), jetstream.query_account()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(NatsError::NoJetStream { url: url.to_owned(), cause: e.to_string() }),
        Err(_) => {
            Err(NatsError::NoJetStream { url: url.to_owned(), cause: "no answer in 5 s".into() })
        }
    }
}

/// `2.10.3` or `2.12.0-beta.1`; what cannot be read is taken as too old.
fn new_enough(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(str::parse::<u64>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::new_enough;

    #[test]
    fn versions() {
        for (version, enough) in [
            ("2.10.0", true),
            ("2.15.2", true),
            ("3.0.0-beta.1", true),
            ("2.9.25", false),
            ("1.4.1", false),
            ("", false),
        ] {
            assert_eq!(new_enough(version), enough, "{version}");
        }
    }
}
