//! Keeps a sink connected.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::{Backoff, Link};
use millrace_settings::Qos;
use parking_lot::Mutex;

use crate::client::{self, Client, Events, Happened, Options, Takes};
use crate::secrets::References;

/// How long DISCONNECT may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the connection's task and the writes share.
pub(crate) struct Keeper {
    pub(crate) link: Arc<Link>,
    /// What the sink asks of a broker.
    qos: Qos,
    retain: bool,
    /// Present while connected.
    client: Mutex<Option<(Client, Takes)>>,
}

impl Keeper {
    pub(crate) fn new(link: Arc<Link>, qos: Qos, retain: bool) -> Self {
        Self { link, qos, retain, client: Mutex::new(None) }
    }

    /// The client, while it is connected, and what its broker takes.
    pub(crate) fn connected(&self) -> Option<(Client, Takes)> {
        self.client.lock().clone()
    }

    /// Connects again and again, until the link is drained.
    pub(crate) async fn keep_connected(self: Arc<Self>, options: Options, references: References) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut before = false;
        while !self.link.drain.is_cancelled() {
            let error = match (references.read().await, client::open(&options)) {
                (Ok(secrets), Ok((client, mut events))) => {
                    events.arm(&options.url, secrets);
                    self.connection(&client, &mut events, &mut before, &mut backoff).await
                }
                (Err(error), _) => Some(error),
                (_, Err(error)) => Some(error.to_string()),
            };
            *self.client.lock() = None;
            let Some(error) = error else { return options.linger.closed().await };
            self.link.retrying(format_args!("{}: {error}", options.url));
            tokio::select! {
                () = backoff.wait() => {}
                () = self.link.drain.cancelled() => {}
            }
        }
    }

    /// One connection until it is lost, or until the link is drained (none).
    async fn connection(
        &self,
        client: &Client,
        events: &mut Events,
        before: &mut bool,
        backoff: &mut Backoff,
    ) -> Option<String> {
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Ok(Happened::Connected { takes, .. }) => {
                        if let Some(error) = self.cannot(takes) {
                            client.disconnect();
                            let _ = tokio::time::timeout(GOODBYE, goodbye(events)).await;
                            return Some(error);
                        }
                        if *before {
                            self.link.telemetry.reconnected();
                        }
                        *before = true;
                        backoff.reset();
                        *self.client.lock() = Some((client.clone(), takes));
                        self.link.connected();
                    }
                    Ok(_) => {}
                    Err(error) => return Some(error),
                },
                () = self.link.drain.cancelled() => break,
            }
        }
        client.disconnect();
        let _ = tokio::time::timeout(GOODBYE, goodbye(events)).await;
        None
    }

    /// What this broker does not take of what the settings ask for.
    fn cannot(&self, takes: Takes) -> Option<String> {
        if self.qos > takes.qos {
            let most = takes.qos.number();
            return Some(format!("the broker takes no QoS above {most}: set qos to {most}"));
        }
        (self.retain && !takes.retain)
            .then(|| "the broker keeps no messages: set retain to false".to_owned())
    }
}

async fn goodbye(events: &mut Events) {
    while events.next().await.is_ok() {}
}
