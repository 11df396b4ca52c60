//! A client that comes back: connecting with back-off, and what the link says
//! about it.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::{Backoff, Link};
use tokio::time::Instant;

use crate::client::{Client, Failure};

/// First and longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// One connection of a link.
pub(crate) struct Port {
    pub(crate) client: Client,
    link: Arc<Link>,
    url: String,
    backoff: Backoff,
    /// Not before this.
    retry_at: Option<Instant>,
    /// Why the last attempt failed.
    error: String,
    /// There was a connection that we did not end ourselves.
    lost: bool,
    /// What was told to the link last; none when it was told that all is well.
    told: Option<Option<String>>,
}

impl Port {
    pub(crate) fn new(client: Client, link: Arc<Link>, url: String) -> Self {
        Self {
            client,
            link,
            url,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            retry_at: None,
            error: String::new(),
            lost: false,
            told: None,
        }
    }

    /// A connection, made if there is none and it is time to try again.
    pub(crate) async fn ensure(&mut self) -> Result<(), Failure> {
        if self.client.is_connected() {
            return Ok(());
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return Err(Failure::Unconnected(self.error.clone()));
        }
        match self.client.connect().await {
            Ok(()) => {
                if std::mem::take(&mut self.lost) {
                    self.link.telemetry.reconnected();
                }
                self.retry_at = None;
                Ok(())
            }
            Err(error) => {
                self.was_useless(&error.to_string());
                Err(Failure::Unconnected(self.error.clone()))
            }
        }
    }

    /// Notes that a connection ended that should not have.
    pub(crate) const fn was_lost(&mut self) {
        self.lost = true;
    }

    /// There is no connection, or one that ends as soon as it is made: the next
    /// attempt waits.
    pub(crate) fn was_useless(&mut self, why: &str) {
        self.client.close();
        self.retry_at = Some(Instant::now() + self.backoff.next_pause());
        self.error = format!("{}: {why}", self.url);
        self.is_away(&self.error.clone());
    }

    /// Tells the link that the other side answers.
    pub(crate) fn is_there(&mut self) {
        self.backoff.reset();
        self.seems_there();
    }

    /// Tells the link that there is a connection; nobody was asked yet.
    pub(crate) fn seems_there(&mut self) {
        if self.told != Some(None) {
            self.told = Some(None);
            self.link.connected();
        }
    }

    /// Tells the link why nobody answers, once for each reason.
    pub(crate) fn is_away(&mut self, why: &str) {
        let told = matches!(&self.told, Some(Some(reason)) if reason == why);
        if !told {
            self.told = Some(Some(why.to_owned()));
            self.link.retrying(why);
        }
    }

    /// When the next attempt to connect may be made.
    pub(crate) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}
