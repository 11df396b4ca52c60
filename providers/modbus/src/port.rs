//! A link's use of a client: connecting with back-off, a second try where the
//! first met a connection that had ended unseen, and what the link says of it.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::{Backoff, ErrorKind, Link};
use tokio::time::Instant;

use crate::client::{Answer, Client, Failure, Order, Shared, Timing, client};
use crate::transport::Transport;

/// First and longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A connection that ends so soon, and nobody has answered on it, is no better
/// than none.
const SHORT: Duration = Duration::from_secs(5);

/// One link's client.
pub(crate) struct Port {
    client: Shared,
    timing: Timing,
    link: Arc<Link>,
    url: String,
    backoff: Backoff,
    /// Not before this.
    retry_at: Option<Instant>,
    /// Why the last attempt failed.
    error: String,
    /// There was a connection that we did not end ourselves.
    lost: bool,
    /// Somebody has answered since the connection was made.
    used: bool,
    /// What was told to the link last; none when it was told that all is well.
    told: Option<Option<String>>,
}

impl Port {
    pub(crate) fn new(transport: &Transport, timing: Timing, link: Arc<Link>) -> Self {
        Self {
            client: client(transport),
            timing,
            link,
            url: transport.url.to_string(),
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            retry_at: None,
            error: String::new(),
            lost: false,
            used: false,
            told: None,
        }
    }

    pub(crate) const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Makes a unit do something. Connects if need be.
    ///
    /// A connection that was idle may have been closed by the device long ago,
    /// which shows only now: then the same is tried once more on a new one.
    /// Done twice, a read or a write is the same as done once.
    pub(crate) async fn ask(&mut self, unit: u8, order: &Order) -> Result<Answer, Failure> {
        let client = Arc::clone(&self.client);
        let mut client = client.lock().await;
        let old = self.connect(&mut client).await?;
        let mut result = client.ask(unit, order, &self.timing).await;
        if old && matches!(result, Err(Failure::Lost(_))) {
            self.lost = true;
            self.connect(&mut client).await?;
            result = client.ask(unit, order, &self.timing).await;
        }
        match &result {
            // A connection that ends as soon as it is made: the next waits.
            Err(Failure::Lost(why)) => self.has_no_use(why),
            Err(Failure::Timeout(_) | Failure::Malformed(_)) => self.lost = true,
            _ => {}
        }
        result
    }

    /// Makes a connection, if there is none and it is time to try again. One
    /// that the other side has closed is none.
    pub(crate) async fn ensure(&mut self) -> Result<(), Failure> {
        let client = Arc::clone(&self.client);
        let mut client = client.lock().await;
        if client.has_ended() {
            client.close();
            self.lost = true;
            // A device that closes every connection at once is not hammered. One
            // that closes idle connections is connected again.
            if !self.used && client.last().elapsed() < SHORT {
                self.has_no_use("the device closed the connection");
            }
        }
        self.connect(&mut client).await.map(drop)
    }

    /// Whether there was a connection already; one there is now.
    async fn connect(&mut self, client: &mut Client) -> Result<bool, Failure> {
        if client.is_connected() {
            return Ok(true);
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return Err(Failure::Unconnected(self.error.clone()));
        }
        match client.connect(&self.timing).await {
            Ok(()) => {
                if std::mem::take(&mut self.lost) {
                    self.link.telemetry.reconnected();
                }
                self.retry_at = None;
                self.used = false;
                Ok(false)
            }
            Err(error) => {
                self.has_no_use(&error.to_string());
                Err(Failure::Unconnected(self.error.clone()))
            }
        }
    }

    fn has_no_use(&mut self, why: &str) {
        self.lost = true;
        self.retry_at = Some(Instant::now() + self.backoff.next_pause());
        self.error = format!("{}: {why}", self.url);
        // Every attempt that failed is an error, told or not.
        if !self.is_away(&self.error.clone()) {
            self.link.telemetry.error(ErrorKind::Connection, &self.error);
        }
    }

    /// Ends the connection.
    pub(crate) async fn close(&mut self) {
        self.client.lock().await.close();
    }

    /// Tells the link that the other side answers.
    pub(crate) fn is_there(&mut self) {
        self.backoff.reset();
        self.used = true;
        self.seems_there();
    }

    /// Tells the link that there is a connection; nobody was asked yet.
    pub(crate) fn seems_there(&mut self) {
        if self.told != Some(None) {
            self.told = Some(None);
            self.link.connected();
        }
    }

    /// Tells the link why nobody answers, once for each reason. Whether it was
    /// told now.
    pub(crate) fn is_away(&mut self, why: &str) -> bool {
        let told = matches!(&self.told, Some(Some(reason)) if reason == why);
        if !told {
            self.told = Some(Some(why.to_owned()));
            self.link.retrying(why);
        }
        !told
    }

    /// When the next attempt to connect may be made.
    pub(crate) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}
