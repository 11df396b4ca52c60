//! The state of the connection, told to the link.
//!
//! librdkafka connects, reconnects and retries by itself, and says only when
//! every broker is gone. That a broker answers again is found out by asking
//! for metadata.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::{Backoff, Link};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::context::{Notes, Trouble};

/// How long one question for metadata may take.
pub(crate) const PROBE: Duration = Duration::from_secs(1);

/// What the connection is worth.
#[derive(Debug)]
pub(crate) struct Standing {
    link: Arc<Link>,
    notes: Arc<Notes>,
    /// A broker has answered, and not all have gone since.
    up: bool,
    /// The client can do its work: it is a member of the group, for example.
    ready: bool,
    /// Why a broker does not let us in.
    refused: Option<String>,
    /// Why a topic or the group cannot be used.
    standing: Option<String>,
    /// Why no broker can be reached, as last said.
    down: Option<String>,
    asking: Option<JoinHandle<Result<(), String>>>,
    ask_at: Instant,
    backoff: Backoff,
}

impl Standing {
    /// `ready`: whether it is enough that a broker answers.
    pub(crate) fn new(link: Arc<Link>, notes: Arc<Notes>, ready: bool) -> Self {
        Self {
            link,
            notes,
            up: false,
            ready,
            refused: None,
            standing: None,
            down: None,
            asking: None,
            ask_at: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(2)),
        }
    }

    /// Whether a broker has answered and is not known to be gone.
    pub(crate) const fn is_up(&self) -> bool {
        self.up
    }

    /// Takes up what the library has told. The reason, when the client has to
    /// be made anew.
    pub(crate) fn hear(&mut self) -> Option<String> {
        while let Some(trouble) = self.notes.next_trouble() {
            match trouble {
                Trouble::Fatal(text) => return Some(text),
                Trouble::Notice(text) => self.link.noticed(text),
                Trouble::Standing(text) => {
                    self.link.retrying(&text);
                    self.standing = Some(text);
                }
                Trouble::Refused(text) => self.refused = Some(text),
                // Said many times a second while it lasts. The first is news; after it, an attempt is a question of
                // ours without an answer.
                Trouble::Down(text) => {
                    if self.up || self.down.is_none() {
                        self.link.retrying(&text);
                    }
                    self.up = false;
                    self.down = Some(text);
                }
            }
        }
        // As long as other brokers are there, one that refuses is no reason to
        // give up what is under way with them.
        self.refused.take_if(|_| !self.up)
    }

    /// The client can do its work, and what stood in its way is over.
    pub(crate) fn works(&mut self) {
        if !self.ready || self.standing.is_some() {
            self.ready = true;
            self.standing = None;
            self.tell();
        }
    }

    /// Asks whether a broker answers, when that is not known. `ask` blocks, for
    /// up to [`PROBE`], on a thread of its own.
    pub(crate) async fn ask<F>(&mut self, ask: impl FnOnce() -> F)
    where
        F: FnOnce() -> Result<(), String> + Send + 'static,
    {
        match self.asking.take() {
            Some(asking) if !asking.is_finished() => self.asking = Some(asking),
            Some(asking) => match asking.await {
                Ok(Ok(())) => self.answered(),
                _ => {
                    if let Some(text) = &self.down {
                        self.link.retrying(text);
                    }
                    self.ask_at = Instant::now() + self.backoff.next_pause();
                }
            },
            None if !self.up && Instant::now() >= self.ask_at => {
                let (ask, wake) = (ask(), Arc::clone(&self.notes.wake));
                self.asking = Some(tokio::task::spawn_blocking(move || {
                    let answer = ask();
                    wake.notify_one();
                    answer
                }));
            }
            None => {}
        }
    }

    /// When to look again: after a tick, or when the next question is due. Were
    /// it looked at by ticks alone, links that were made together would ask
    /// together, whatever their pauses.
    pub(crate) fn next_look(&self, tick: Duration) -> Instant {
        let tick = Instant::now() + tick;
        if self.up || self.asking.is_some() { tick } else { tick.min(self.ask_at) }
    }

    fn answered(&mut self) {
        self.backoff.reset();
        if !self.up {
            self.up = true;
            self.down = None;
            self.refused = None;
            self.tell();
        }
    }

    fn tell(&self) {
        if self.up && self.ready && self.standing.is_none() {
            self.link.connected();
        }
    }
}
