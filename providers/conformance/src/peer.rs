//! What a connector's test provides: its real peer, and how to use it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_settings::FieldError;

use crate::stage::Seen;

/// Settings as a link's configuration carries them: field to value.
pub type Flat = BTreeMap<String, String>;

/// Which half of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It reads.
    Source,
    /// It writes.
    Sink,
}

/// Whether a connector has something. A no has its reason, which is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// It has, and is checked.
    Yes,
    /// It cannot have.
    No(&'static str),
}

/// What kind of thing is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// A log or a queue. What a source did not acknowledge comes again, and
    /// every message that a sink wrote can be read back.
    Log,
    /// A state: registers, lines. What was not looked at is gone, and of what
    /// a sink wrote the last can be read back.
    State {
        /// How many states the suite can tell apart: message number n is state
        /// n modulo this. At least 2.
        distinct: u64,
    },
}

/// What a connector has, as its test declares it. What it has not is skipped,
/// and the reason printed.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// It reads.
    pub source: Ability,
    /// It writes.
    pub sink: Ability,
    /// What is outside.
    pub outside: Outside,
    /// Carries headers in both directions.
    pub headers: Ability,
    /// Can take messages of [`LARGE`] bytes.
    pub large: Ability,
    /// TLS with the server's certificate checked.
    pub tls: Ability,
    /// TLS with a client certificate.
    pub mutual_tls: Ability,
    /// Logs in with `username` and `password-file`.
    pub login: Ability,
    /// Has messages that its sink can never write.
    pub impossible: Ability,
    /// The peer goes away and comes back, which the connector can see.
    pub leaves: Ability,
}

/// Bytes of a large message.
pub const LARGE: usize = 256 * 1024;

/// A message as the world outside has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// Its number, by which the suite knows it.
    pub number: u64,
    /// Its headers, where the protocol has them.
    pub headers: Vec<(String, String)>,
    /// Least size of the payload: the number in decimal, filled up with spaces.
    pub size: usize,
}

impl Note {
    /// A message with this number and nothing else.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// One of each number.
    #[must_use]
    pub fn all(numbers: Range<u64>) -> Vec<Self> {
        numbers.map(Self::new).collect()
    }

    /// The payload: the number in decimal, filled up with spaces.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut payload = self.number.to_string().into_bytes();
        payload.resize(payload.len().max(self.size), b' ');
        payload
    }

    /// The number in a payload made by [`Note::payload`].
    #[must_use]
    pub fn number_in(payload: &[u8]) -> Option<u64> {
        std::str::from_utf8(payload).ok()?.trim_end().parse().ok()
    }
}

/// How a peer presents itself over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// With a certificate that the configured authority signed, for the name
    /// that is connected to.
    Good,
    /// With one that another authority signed.
    Untrusted,
    /// With one that has expired.
    Expired,
    /// With one for another name.
    WrongName,
    /// Without TLS, on the same port.
    Plain,
    /// As `Good`, and asks for a client certificate, which the configuration
    /// names.
    Mutual,
    /// As `Mutual`, and the configuration names none.
    MutualWithout,
}

/// The most that a source of [`Peer::config`] may hold before it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Messages.
    pub messages: u64,
    /// Bytes of payload, one large message above counted in.
    pub bytes: u64,
}

/// The real peer of a connector, and the connector.
///
/// The suite uses it from one task. Waiting for something outside has a limit
/// of the implementation's own, of a few seconds.
#[allow(async_fn_in_trait, reason = "only the suite calls it, from one task")]
pub trait Peer {
    /// The connector's name in the registry of settings: `mqtt`.
    const CONNECTOR: &'static str;

    /// What it has.
    fn abilities(&self) -> Abilities;

    /// A clean place for the next check: the peer runs, lets everyone in, and
    /// nothing of an earlier check can be seen (a new topic, new registers).
    async fn fresh(&mut self) -> Result<()>;

    /// Starts the peer where it was, with what it keeps.
    async fn start(&mut self) -> Result<()>;

    /// Ends the peer in order. What is connected to it loses the connection.
    async fn stop(&mut self) -> Result<()>;

    /// What a status says of where the connector connects to, or a part of it.
    fn address(&self) -> String;

    /// The configuration of a source or sink for [`Peer::fresh`]'s place.
    fn config(&self, role: Role) -> Flat;

    /// A source of this configuration.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong.
    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        link: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError>;

    /// A sink of this configuration.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong.
    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError>;

    /// Makes these messages outside, for the source, and returns when the peer
    /// has them. Of a state each message is the next state.
    async fn produce(&mut self, notes: &[Note]) -> Result<()>;

    /// What sinks have written outside since [`Peer::fresh`], in any order; of
    /// a state only the last.
    async fn collect(&mut self) -> Result<Vec<Note>>;

    /// The number of a message that the source handed on.
    fn number(&self, seen: &Seen) -> Option<u64> {
        Note::number_in(&seen.payload)
    }

    /// What a sink is given to write this.
    fn message(&self, note: &Note) -> Seen {
        Seen {
            topic: "conformance".to_owned(),
            headers: note.headers.clone(),
            payload: note.payload(),
            ..Seen::default()
        }
    }

    /// The most that a source of [`Peer::config`] may hold.
    fn window(&self) -> Window;

    /// Has the peer present itself like this, on the address that
    /// [`Peer::tls_config`] names, in the same place.
    async fn serve_tls(&mut self, case: Tls) -> Result<()> {
        bail!("{case:?}: this connector has no TLS")
    }

    /// The configuration for it.
    fn tls_config(&self, role: Role, _case: Tls) -> Flat {
        self.config(role)
    }

    /// Has the peer let in only this user, in the same place.
    async fn require_login(&mut self, _user: &str, _password: &str) -> Result<()> {
        bail!("this connector has no login")
    }

    /// The configuration for it, without `username` and `password-file`.
    fn login_config(&self, role: Role) -> Flat {
        self.config(role)
    }

    /// A sink's configuration and a message that such a sink can never write,
    /// while it can write others.
    fn impossible(&self) -> Option<(Flat, Seen)> {
        None
    }

    /// Settings for which every text is right.
    fn free_text(&self, _role: Role) -> &'static [&'static str] {
        &[]
    }
}
