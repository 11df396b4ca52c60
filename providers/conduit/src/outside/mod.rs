//! What lies outside of a stage, asked for in the name of its steps.
//!
//! What a step asks for is only known when it asks, so it is here that a request is held against what was granted: the link's
//! settings have the grants of each of the stage's steps. The harness says which step asks. A monolithic component can say
//! anything, and is the only step of its stage: nothing is granted to a name that is none of the link's.

mod http;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_grants::{Failure, FailureKind, Grant, Reply, Request, RequestError, TIMEOUT_MS, Use};
use millrace_kit::{Link, Used};
use millrace_settings::FieldError;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use http::Http;
pub use values::{Buckets, BucketsError};

/// Most requests of a stage that are worked on at once; more wait.
const AT_ONCE: usize = 16;

/// How long a request may take with its waiting: who asked has gone on after that.
const ANSWER: Duration = Duration::from_millis(TIMEOUT_MS as u64);

/// Answers requests of one stage.
#[derive(Debug)]
pub struct Outside {
    grants: BTreeMap<String, BTreeSet<Grant>>,
    buckets: Buckets,
    http: Http,
    link: Arc<Link>,
    permits: Semaphore,
}

/// A setting of a link that is a JSON object: the grants of each step ([`millrace_grants::LINK_KEY`]), or what is known of servers
/// ([`millrace_grants::SERVERS_KEY`]). Without it nothing.
///
/// # Errors
///
/// It cannot be read: names the key.
pub(crate) fn object<T: Default + DeserializeOwned>(
    config: &BTreeMap<String, String>,
    key: &str,
) -> Result<T, FieldError> {
    let Some(text) = config.get(key) else { return Ok(T::default()) };
    serde_json::from_str(text).map_err(|error| FieldError::invalid(key, text, error))
}

impl Outside {
    /// For a stage with these grants, by step.
    #[must_use]
    pub fn new(
        grants: BTreeMap<String, BTreeSet<Grant>>,
        buckets: Buckets,
        http: Http,
        link: Arc<Link>,
    ) -> Self {
        // From 0 on: of a counter that appears the first step is not seen.
        grants.keys().for_each(|step| link.telemetry.uses(step));
        Self { grants, buckets, http, link, permits: Semaphore::new(AT_ONCE) }
    }

    /// Answers a request: bytes of a [`Reply`], or the text of a [`Failure`].
    ///
    /// # Errors
    ///
    /// It is no request, is not granted, or cannot be answered.
    pub async fn answer(&self, request: &[u8]) -> Result<Bytes, String> {
        let request = match Request::decode(request) {
            Ok(request) => request,
            // Only a component that makes its requests itself sends what is none.
            Err(error) => return Err(self.unreadable(&error)),
        };
        let own = self.grants.get_key_value(&request.step);
        let step = own.map_or(self.link.names.stage.as_str(), |(step, _)| step);
        if let Err(refused) = request.check(own.into_iter().flat_map(|(_, grants)| grants)) {
            let text = refused.to_string();
            self.link.refused(step, &text);
            return Err(Failure::from(refused).to_string());
        }
        let answer = tokio::time::timeout(ANSWER, async {
            match self.permits.acquire().await {
                Ok(_permit) => self.use_it(&request.what).await,
                Err(closed) => Err(Failure { kind: FailureKind::Away, text: closed.to_string() }),
            }
        });
        let answer = answer.await.unwrap_or_else(|_| {
            let text = format!("{} took longer than {ANSWER:?}", request.what);
            Err(Failure { kind: FailureKind::Retry, text })
        });
        match answer.and_then(|reply| reply.encode()) {
            Ok(bytes) => {
                self.link.telemetry.used(step, Used::Done);
                Ok(bytes.into())
            }
            Err(failure) => {
                // What is asked for in parts is no failure.
                let in_parts = matches!(&request.what, Use::Get { keys, .. } if keys.len() > 1);
                if failure.kind != FailureKind::TooLarge || !in_parts {
                    let text = format!("{}: {}", request.what, failure.text);
                    self.link.telemetry.used(step, Used::Failed(&text));
                }
                Err(failure.to_string())
            }
        }
    }

    async fn use_it(&self, what: &Use) -> Result<Reply, Failure> {
        match what {
            Use::Get { bucket, keys } => Ok(Reply::Values(self.buckets.get(bucket, keys).await?)),
            Use::Set { bucket, key, value } => {
                self.buckets.set(bucket, key, Bytes::copy_from_slice(value)).await?;
                Ok(Reply::Done)
            }
            Use::Delete { bucket, key } => {
                self.buckets.delete(bucket, key).await?;
                Ok(Reply::Done)
            }
            Use::Http { method, url, headers, body } => {
                self.http.send(method, url, headers, body).await
            }
        }
    }

    fn unreadable(&self, error: &RequestError) -> String {
        let failure = Failure { kind: FailureKind::Invalid, text: error.to_string() };
        self.link.telemetry.used(&self.link.names.stage, Used::Failed(&failure.text));
        failure.to_string()
    }
}
