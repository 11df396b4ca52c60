//! Trying a connection, without a lattice and without moving a message.
//!
//! `millrace pipeline dry-run` starts the executable of a connector with the
//! argument `try`, gives it one [`Trial`] as JSON on standard input, and reads
//! one [`Tried`] as a line of JSON from standard output. So the command line
//! has no client library of any protocol in it, and what is tried is what will
//! run.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use millrace_settings::FieldError;
use serde::{Deserialize, Serialize};

use crate::{Config, Connector};

/// The argument that makes a connector's executable try a connection.
pub const ARGUMENT: &str = "try";

/// Longest trial that is read, in bytes: the settings of a link are a tenth of it.
const TRIAL_MAX: u64 = 1 << 20;

/// What is to be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// Which half of the connector.
    pub side: Side,
    /// The link's settings, as the lattice carries them.
    pub settings: Config,
    /// Most milliseconds to wait.
    pub timeout_ms: u64,
}

/// Source or sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Reads from the outside.
    Source,
    /// Writes to it.
    Sink,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tried {
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What the other side said, when it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Why it cannot be used, otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
}

impl Tried {
    /// Times an attempt, and ends it after `timeout`.
    pub async fn of(
        timeout: Duration,
        attempt: impl Future<Output = Result<String, Failed>>,
    ) -> Self {
        let start = Instant::now();
        let result = tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
            Err(Failed::new(
                format!("no answer within {timeout:?}"),
                "look whether it runs, whether the address is right, and whether a firewall is between; --timeout waits \
                 longer",
            ))
        });
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        match result {
            Ok(said) => Self { took_us, said: Some(said), failed: None },
            Err(failed) => Self { took_us, said: None, failed: Some(failed) },
        }
    }
}

/// Why a connection cannot be used, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[error("{error}; {mend}")]
pub struct Failed {
    /// What was wrong.
    pub error: String,
    /// What to do about it.
    pub mend: String,
}

impl Failed {
    /// An error and its mend.
    pub fn new(error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { error: error.into(), mend: mend.into() }
    }

    /// An error of the network or of TLS, with the mend that its text shows.
    /// `setting` is where the address is written.
    pub fn to_reach(error: impl Into<String>, setting: &str) -> Self {
        let error = error.into();
        let has = |words: &[&str]| {
            let error = error.to_lowercase();
            words.iter().any(|word| error.contains(word))
        };
        let mend = if has(&["lookup address", "resolve", "name or service", "nodename"]) {
            format!("mend the host name in `{setting}`, or this machine's DNS")
        } else if has(&[
            "certificate required",
            "certificaterequired",
            "bad_certificate",
            "unknown ca",
            "unknownca",
        ]) {
            "name a certificate that the other side trusts in `tls-cert-file` and `tls-key-file`"
                .to_owned()
        } else if has(&["certificate", "unknownissuer", "notvalidforname"]) {
            format!(
                "name the authority that has signed the other side's certificate in `tls-ca-file`, and in `{setting}` \
                 the host that the certificate is for"
            )
        } else if has(&["refused"]) {
            format!("nothing listens there: start it, or mend `{setting}`")
        } else if has(&["unreachable", "no route"]) {
            "look at this machine's network: it has no way there".to_owned()
        } else if has(&["tls", "ssl", "handshake", "corrupt"]) {
            format!("look whether the other side speaks TLS at the port in `{setting}`")
        } else {
            format!(
                "look whether it runs, whether `{setting}` is right, and whether the port wants TLS"
            )
        };
        Self { error, mend }
    }
}

impl From<FieldError> for Failed {
    fn from(error: FieldError) -> Self {
        Self::new(format!("setting {error}"), "mend it in the binding")
    }
}

/// Whether this process was started to try a connection.
pub(crate) fn is_asked() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT)
}

/// Reads what to try, tries it, and writes what came of it.
pub(crate) fn run<C: Connector>() -> anyhow::Result<()> {
    let mut text = Vec::new();
    std::io::stdin().take(TRIAL_MAX).read_to_end(&mut text).context("reading what to try")?;
    let trial: Trial = serde_json::from_slice(&text).context("reading what to try")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let tried = runtime.block_on(attempt::<C>(&trial));
    let mut line = serde_json::to_vec(&tried)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line).context("writing what came of it")?;
    // A client library may still be waiting for an answer on a thread of its own.
    runtime.shutdown_background();
    Ok(())
}

/// Tries it.
pub async fn attempt<C: Connector>(trial: &Trial) -> Tried {
    let timeout = Duration::from_millis(trial.timeout_ms);
    match trial.side {
        Side::Source => Tried::of(timeout, C::try_source(&trial.settings)).await,
        Side::Sink => Tried::of(timeout, C::try_sink(&trial.settings)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mend_fits_the_error() {
        for (error, mend) in [
            ("Connection refused (os error 111)", "nothing listens there"),
            (
                "failed to lookup address information: Name or service not known",
                "host name in `url`",
            ),
            ("invalid peer certificate: UnknownIssuer", "`tls-ca-file`"),
            ("received fatal alert: CertificateRequired", "`tls-cert-file`"),
            ("Network is unreachable (os error 101)", "no way there"),
            ("something else", "`url` is right"),
        ] {
            let failed = Failed::to_reach(error, "url");
            assert!(failed.mend.contains(mend), "{error}: {}", failed.mend);
        }
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended() {
        let limit = Duration::from_millis(20);
        let tried = Tried::of(limit, std::future::pending()).await;
        assert!(tried.failed.unwrap().error.contains("20ms"));
        let tried = Tried::of(limit, async { Ok("here".to_owned()) }).await;
        assert_eq!(tried.said.as_deref(), Some("here"));
    }
}
