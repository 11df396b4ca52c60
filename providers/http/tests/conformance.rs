//! The HTTP source keeps the contract, with a client outside that sends each message until it is told that it is safe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millrace_conformance::{Abilities, Ability, Flat, Note, Outside, Peer, Role, Window};
use millrace_http::{Doors, HELD_BYTES, HttpSource, Patience};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_settings::http::SourceSettings;
use millrace_settings::{FieldError, from_flat};
use reqwest::StatusCode;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// Messages that the source may hold.
const HELD: u64 = 60;

/// Requests under way at once: more than the source may hold.
const REQUESTS: usize = 150;

const TOKEN: &str = "let-me-in";

/// Between two attempts to send a message.
const PAUSE: Duration = Duration::from_millis(50);

/// A sender with a queue that lasts longer than any source.
struct Sender {
    doors: Arc<Doors>,
    tokens: tempfile::NamedTempFile,
    place: u64,
    port: u16,
    queue: mpsc::UnboundedSender<Note>,
    sending: AbortHandle,
}

impl Sender {
    fn new() -> Self {
        let (queue, _) = mpsc::unbounded_channel();
        let sending = tokio::spawn(async {}).abort_handle();
        let doors = Arc::new(Doors::new(Patience::default()));
        let tokens = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tokens.path(), TOKEN).unwrap();
        Self { doors, tokens, place: 0, port: 0, queue, sending }
    }

    fn path(&self) -> String {
        format!("/conformance/{}", self.place)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

/// Sends each message until it is safe.
async fn send_all(mut queue: mpsc::UnboundedReceiver<Note>, url: String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let room = Arc::new(Semaphore::new(REQUESTS));
    let mut sent = JoinSet::new();
    while let Some(note) = queue.recv().await {
        let permit = Arc::clone(&room).acquire_owned().await.unwrap();
        let (client, url) = (client.clone(), url.clone());
        while sent.try_join_next().is_some() {}
        sent.spawn(async move {
            let _permit = permit;
            loop {
                let mut request = client.post(&url).bearer_auth(TOKEN).body(note.payload());
                for (name, value) in &note.headers {
                    request = request.header(name, value);
                }
                match request.send().await {
                    Ok(answer) if answer.status() == StatusCode::ACCEPTED => return,
                    Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {}
                    Ok(answer) => panic!("neither safe nor to come again: {answer:?}"),
                    // Nobody listens, or the connection was lost.
                    Err(_) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    while sent.join_next().await.is_some() {}
}

impl Peer for Sender {
    const CONNECTOR: &'static str = "http";

    fn abilities(&self) -> Abilities {
        const SERVER: &str = "the source is the server: clients come and go";
        const OWN: &str =
            "the source is the server: its own tests show who is let in, and over TLS";
        Abilities {
            source: Ability::Yes,
            sink: Ability::No("an HTTP source only reads"),
            outside: Outside::Log,
            headers: Ability::Yes,
            large: Ability::Yes,
            tls: Ability::No(OWN),
            mutual_tls: Ability::No(OWN),
            login: Ability::No(OWN),
            impossible: Ability::No("an HTTP source only reads"),
            leaves: Ability::No(SERVER),
        }
    }

    async fn fresh(&mut self) -> Result<()> {
        self.sending.abort();
        self.place += 1;
        self.port = millrace_peers::free_port()?;
        let (queue, waiting) = mpsc::unbounded_channel();
        self.queue = queue;
        let url = format!("http://127.0.0.1:{}{}", self.port, self.path());
        self.sending = tokio::spawn(send_all(waiting, url)).abort_handle();
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        bail!("clients come and go")
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn config(&self, _: Role) -> Flat {
        [
            ("path", self.path()),
            ("auth", "bearer".to_owned()),
            ("token-file", self.tokens.path().to_str().expect("a path in UTF-8").to_owned()),
            ("listen", format!("127.0.0.1:{}", self.port.max(1))),
            ("headers", "unit".to_owned()),
            ("window", HELD.to_string()),
            ("rate-limit", "1000000".to_owned()),
        ]
        .map(|(field, value)| (field.to_owned(), value))
        .into()
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        _: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        let settings: SourceSettings = from_flat(config, &[])?;
        Ok(Box::new(HttpSource::new(settings, limits, Arc::clone(&self.doors))))
    }

    fn sink(
        &self,
        _: &Flat,
        _: &Arc<Link>,
        _: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        Err(FieldError::invalid("connector", "http", "cannot be a sink"))
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        notes.iter().try_for_each(|note| self.queue.send(note.clone())).context("the sender ended")
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        bail!("an HTTP source only reads")
    }

    fn window(&self) -> Window {
        Window { messages: HELD, bytes: HELD_BYTES as u64 }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connector_keeps_its_contract() {
    millrace_conformance::all(&mut Sender::new()).await.unwrap();
}
