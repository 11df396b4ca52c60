//! One conduit at a time hands an edge on.
//!
//! A host that stands still, or is cut off, has its conduit started a second
//! time elsewhere while the first one may go on. Both would take the edge's
//! batches from each other: nothing would be lost, but much come twice. So a
//! conduit **holds** an edge, and another waits until nobody does.
//!
//! The hold is kept by word of mouth, on a subject of the edge, and not in a
//! store: what nobody speaks for is free, whatever a clock says.
//!
//! - `ask <id>`, a request: who has it? The holder answers with a claim.
//! - `held <term> <id>`, a claim: by the holder every two seconds, and when
//!   asked.
//! - `want <id>`: the answer of somebody who is about to take it. The lowest id
//!   goes first.
//!
//! A holder whose process has ended has no subscription, so that NATS says so
//! at once; one that is silent for [`SILENT`] is taken over from, with a higher
//! term. Of two holders the one with the higher term (of the same, the higher
//! id) goes on, and the other steps back when it hears of that, at once where
//! both reach the server. For that moment both hand on, which costs repeats.
//!
//! Whoever listens to everything (`nats sub '>'`) is taken for one who is there
//! and silent: an edge then begins [`SILENT`] later.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use millrace_kit::CancellationToken;
use millrace_kit::id::BatchIds;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

/// How often a holder says that it is there.
const CLAIM: Duration = Duration::from_secs(2);

/// One who is there and says nothing for so long has lost it.
const SILENT: Duration = Duration::from_secs(7);

/// How long answers to a question are waited for.
const ANSWER: Duration = Duration::from_secs(1);

/// How long others who want it are listened to.
const OTHERS: Duration = Duration::from_millis(250);

/// After an outage of the server a holder has come back within this time: pauses between tries are shorter.
const COMES_BACK: Duration = Duration::from_secs(4);

/// Between two questions. Short, because a new version of a stage waits here until the one before is done.
const PAUSE: Duration = Duration::from_millis(250);

/// The most that is read of a word: what else is sent there is not ours.
const WORD_MAX: usize = 128;

/// What is said on the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Ask { id: String },
    Held { term: u64, id: String },
    Want { id: String },
}

impl Word {
    fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= WORD_MAX)?;
        let mut parts = text.split(' ');
        let word = match parts.next()? {
            "ask" => Self::Ask { id: parts.next()?.to_owned() },
            "held" => {
                Self::Held { term: parts.next()?.parse().ok()?, id: parts.next()?.to_owned() }
            }
            "want" => Self::Want { id: parts.next()?.to_owned() },
            _ => return None,
        };
        parts.next().is_none().then_some(word)
    }

    fn write(&self) -> String {
        match self {
            Self::Ask { id } => format!("ask {id}"),
            Self::Held { term, id } => format!("held {term} {id}"),
            Self::Want { id } => format!("want {id}"),
        }
    }
}

/// Somebody who wants to hold an edge.
#[derive(Debug)]
pub(crate) struct Hold {
    client: Client,
    subject: String,
    id: String,
}

/// The edge is held until this is dropped or lost.
#[derive(Debug)]
pub(crate) struct Held {
    lost: CancellationToken,
    speaker: JoinHandle<()>,
}

impl Held {
    /// Waits until somebody else holds it.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.speaker.abort();
    }
}

/// What an attempt has come to.
enum Attempt {
    Taken(Held),
    /// Somebody has it, or goes first. The term, if it is known.
    Waiting(Option<u64>),
    /// Somebody is there who says nothing, or the server is not there.
    Silence,
}

impl Hold {
    pub(crate) fn new(client: Client, subject: String) -> Self {
        let id = BatchIds::default().next_id();
        Self { client, subject, id }
    }

    /// Waits until nobody else holds the edge.
    pub(crate) async fn take(&self) -> Held {
        let mut term: u64 = 0;
        let mut heard = Instant::now();
        let mut away: Option<Instant> = None;
        loop {
            // Who is not heard while the server is away is not silent, and may need a moment longer to come back.
            if self.client.connection_state() != State::Connected {
                away = Some(Instant::now());
            }
            if away.is_some_and(|away| away.elapsed() < COMES_BACK) {
                heard = Instant::now();
                sleep(PAUSE).await;
                continue;
            }
            match self.attempt(term).await {
                Ok(Attempt::Taken(held)) => return held,
                Ok(Attempt::Waiting(of)) => {
                    term = of.unwrap_or(term);
                    heard = Instant::now();
                }
                Ok(Attempt::Silence) if heard.elapsed() >= SILENT => {
                    if let Ok(held) = self.begin(term.saturating_add(1)).await {
                        tracing::warn!(subject = self.subject, "taken over from one who is silent");
                        return held;
                    }
                }
                Ok(Attempt::Silence) => {}
                // Nobody can be heard.
                Err(error) => {
                    tracing::debug!(%error, "could not ask who holds {}", self.subject);
                    heard = Instant::now();
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt(&self, term: u64) -> Result<Attempt, async_nats::Error> {
        let ask = Word::Ask { id: self.id.clone() }.write();
        let asked = self.client.request(self.subject.clone(), ask.into());
        match timeout(ANSWER, asked).await {
            // There is not even one who could answer.
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {}
            Ok(Err(error)) if error.kind() == RequestErrorKind::TimedOut => {
                return Ok(Attempt::Silence);
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Ok(Attempt::Silence),
            Ok(Ok(answer)) => {
                return Ok(match Word::read(&answer.payload) {
                    Some(Word::Held { term, .. }) => Attempt::Waiting(Some(term)),
                    Some(Word::Want { .. }) => Attempt::Waiting(None),
                    // Somebody who has nothing to do with it answers.
                    _ => Attempt::Silence,
                });
            }
        }
        let mut heard = self.client.subscribe(self.subject.clone()).await?;
        self.client.flush().await?;
        if self.another_goes_first(&mut heard).await? {
            return Ok(Attempt::Waiting(None));
        }
        Ok(Attempt::Taken(self.speak(heard, term)))
    }

    /// Tells who else wants it, and listens whether one of them goes first.
    async fn another_goes_first(&self, heard: &mut Subscriber) -> Result<bool, async_nats::Error> {
        self.say(Word::Want { id: self.id.clone() }).await?;
        let until = Instant::now() + OTHERS;
        while let Ok(Some(message)) = timeout_at(until, heard.next()).await {
            match Word::read(&message.payload) {
                Some(Word::Held { id, .. }) if id != self.id => return Ok(true),
                Some(Word::Want { id }) if id < self.id => return Ok(true),
                // One who began later has not heard of us.
                Some(Word::Want { id }) if id != self.id => {
                    self.say(Word::Want { id: self.id.clone() }).await?;
                }
                Some(Word::Ask { id }) if id != self.id => {
                    self.answer(&message, Word::Want { id: self.id.clone() }).await?;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    async fn begin(&self, term: u64) -> Result<Held, async_nats::Error> {
        let heard = self.client.subscribe(self.subject.clone()).await?;
        Ok(self.speak(heard, term))
    }

    fn speak(&self, heard: Subscriber, term: u64) -> Held {
        let lost = CancellationToken::new();
        let speaker = Speaker {
            client: self.client.clone(),
            subject: self.subject.clone(),
            term,
            id: self.id.clone(),
            lost: lost.clone(),
        };
        Held { lost, speaker: tokio::spawn(speaker.run(heard)) }
    }

    async fn say(&self, word: Word) -> Result<(), async_nats::Error> {
        Ok(self.client.publish(self.subject.clone(), word.write().into()).await?)
    }

    async fn answer(&self, to: &Message, word: Word) -> Result<(), async_nats::Error> {
        let Some(reply) = to.reply.clone() else { return Ok(()) };
        Ok(self.client.publish(reply, word.write().into()).await?)
    }
}

/// Speaks for a holder.
struct Speaker {
    client: Client,
    subject: String,
    term: u64,
    id: String,
    lost: CancellationToken,
}

impl Speaker {
    async fn run(self, mut heard: Subscriber) {
        let mut claim = interval(CLAIM);
        claim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let to = tokio::select! {
                _ = claim.tick() => async_nats::Subject::from(self.subject.as_str()),
                message = heard.next() => match message {
                    None => return self.lost.cancel(),
                    Some(message) => match (Word::read(&message.payload), message.reply) {
                        (Some(Word::Held { term, id }), _) if self.yields_to(term, &id) => {
                            tracing::warn!(subject = self.subject, "another one holds the edge");
                            return self.lost.cancel();
                        }
                        // Whoever wants it, or thinks that he has it, hears that it is held.
                        (Some(Word::Want { .. }), _) => self.subject.as_str().into(),
                        (Some(Word::Held { id, .. }), _) if id != self.id => {
                            self.subject.as_str().into()
                        }
                        (Some(Word::Ask { .. }), Some(reply)) => reply,
                        _ => continue,
                    },
                },
            };
            let word = Word::Held { term: self.term, id: self.id.clone() }.write();
            // Without a connection it is said again soon.
            if let Err(error) = self.client.publish(to, word.into()).await {
                tracing::debug!(%error, "could not say who holds {}", self.subject);
            }
        }
    }

    fn yields_to(&self, term: u64, id: &str) -> bool {
        id != self.id && (term, id) > (self.term, self.id.as_str())
    }
}
