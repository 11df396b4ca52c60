//! One look at a lattice: every host and every provider is asked, and what comes in time counts.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use futures::StreamExt as _;
use millrace_kit::ProviderStatus;
use millrace_kit::status::status_subject;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

/// After the last answer no other is waited for any longer than that. Nobody knows how many there will be.
const QUIET: Duration = Duration::from_millis(500);

/// Longest time of a look.
const LIMIT: Duration = Duration::from_secs(2);

/// Most answers of providers that are read, one for each pipeline of each provider.
const ANSWERS: usize = 10_000;

/// What answered.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Seen {
    /// Hosts that answered. None is a lattice that is away.
    pub(crate) hosts: usize,
    /// What the providers said, sorted.
    pub(crate) providers: Vec<ProviderStatus>,
}

/// Asks, and takes at most two seconds for it, whatever answers.
pub(crate) async fn look(nats: &Client, lattice: &str) -> Seen {
    // What is published without a connection is kept, and would reach the lattice with all the rest when there is one.
    if nats.connection_state() != State::Connected {
        return Seen::default();
    }
    let until = Instant::now() + LIMIT;
    match timeout_at(until, ask(nats, lattice)).await {
        Ok(Ok(answers)) => collect(answers, until).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot ask the lattice");
            Seen::default()
        }
        Err(_) => Seen::default(),
    }
}

/// Who answered.
enum Answer {
    Host,
    Provider(Message),
}

type Answers = futures::stream::BoxStream<'static, Answer>;

async fn ask(nats: &Client, lattice: &str) -> Result<Answers, async_nats::Error> {
    let hosts = ask_on(nats, format!("wasmbus.ctl.v1.{lattice}.host.ping")).await?;
    let providers = ask_on(nats, status_subject(lattice)).await?;
    nats.flush().await?;
    let hosts = real(hosts).map(|_| Answer::Host);
    let providers = real(providers).map(Answer::Provider);
    Ok(futures::stream::select(hosts, providers).boxed())
}

async fn ask_on(nats: &Client, subject: String) -> Result<Subscriber, async_nats::Error> {
    let inbox = nats.new_inbox();
    let answers = nats.subscribe(inbox.clone()).await?;
    nats.publish_with_reply(subject, inbox, Default::default()).await?;
    Ok(answers)
}

/// Without the server's own word that nobody listens.
fn real(answers: Subscriber) -> impl futures::Stream<Item = Message> + Send {
    answers.filter(|answer| std::future::ready(answer.status.is_none()))
}

async fn collect(mut answers: Answers, until: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut patience = until;
    while let Ok(Some(answer)) = timeout_at(patience, answers.next()).await {
        match answer {
            Answer::Host => seen.hosts += 1,
            Answer::Provider(message) => match serde_json::from_slice(&message.payload) {
                Ok(status) => seen.providers.push(status),
                Err(error) => tracing::debug!(%error, "a status that cannot be read"),
            },
        }
        if seen.providers.len() >= ANSWERS {
            break;
        }
        patience = until.min(Instant::now() + QUIET);
    }
    seen.providers.sort_by(|a, b| {
        (&a.pipeline, &a.provider, &a.host, &a.id).cmp(&(&b.pipeline, &b.provider, &b.host, &b.id))
    });
    seen
}
