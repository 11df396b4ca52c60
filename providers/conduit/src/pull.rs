//! Pulls that bring what is there.
//!
//! The client's own pulls run ahead, or end without saying that they heard
//! nothing. A partition needs to know which batches it was given in one go.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{Context, Message};
use async_nats::{Client, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::time::timeout;

use crate::edge::GROUP_BYTES;

/// How long a pull waits for a first batch.
const WAIT: Duration = Duration::from_secs(30);

/// How often JetStream says that a pull is waiting. After twice this in silence
/// the server or the consumer is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What is there comes within this time.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Pulls from one consumer.
pub(crate) struct Puller {
    client: Client,
    js: Context,
    subject: String,
}

impl Puller {
    /// In the JetStream domain `domain`, or the server's own.
    pub(crate) fn new(client: &Client, domain: Option<&str>, stream: &str, consumer: &str) -> Self {
        let domain = domain.map(|domain| format!("{domain}.")).unwrap_or_default();
        Self {
            js: async_nats::jetstream::new(client.clone()),
            client: client.clone(),
            subject: format!("$JS.{domain}API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        }
    }

    /// What is there, at most `most`, without waiting for more.
    pub(crate) async fn there(&self, most: usize) -> Result<Vec<Message>, String> {
        let request = BatchConfig {
            batch: most,
            no_wait: true,
            max_bytes: GROUP_BYTES,
            ..BatchConfig::default()
        };
        self.pull(&request, AT_ONCE).await
    }

    /// Waits a while for one, at most `most`.
    pub(crate) async fn one(&self, most: Duration) -> Result<Option<Message>, String> {
        let wait = most.min(WAIT);
        let request = BatchConfig {
            batch: 1,
            expires: Some(wait),
            // JetStream wants more than two of them in a pull.
            idle_heartbeat: HEARTBEAT.min(wait / 4),
            ..BatchConfig::default()
        };
        Ok(self.pull(&request, HEARTBEAT * 2).await?.pop())
    }

    async fn pull(&self, request: &BatchConfig, silence: Duration) -> Result<Vec<Message>, String> {
        let body = serde_json::to_vec(request).map_err(|e| e.to_string())?;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
        self.client
            .publish_with_reply(self.subject.clone(), inbox, body.into())
            .await
            .map_err(|e| e.to_string())?;
        self.collect(&mut answers, request.batch, silence).await
    }

    async fn collect(
        &self,
        answers: &mut Subscriber,
        most: usize,
        silence: Duration,
    ) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        while messages.len() < most {
            let answer = timeout(silence, answers.next()).await;
            let message = answer
                .map_err(|_| format!("JetStream has been silent for {silence:?}"))?
                .ok_or("the connection is closed")?;
            match message.status {
                None | Some(StatusCode::OK) => {
                    messages.push(Message { message, context: self.js.clone() });
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                // Nothing (more) is there.
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                // What is next does not fit into this pull.
                Some(_) if !messages.is_empty() => break,
                Some(status) => {
                    let why = message.description.unwrap_or_default();
                    return Err(format!("the pull was refused: {status} {why}"));
                }
            }
        }
        Ok(messages)
    }
}
