//! Accounts on running servers: pushed, looked up and deleted by a user of the system account.
//!
//! Subjects and answers are those of nats-server's full resolver (server/accounts.go, server/events.go).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use millrace_access::{Access, Credentials};
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::jwt::{Account, Claims, Deletion, JwtError};

/// How long servers have to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to listen for servers of the cluster that have not answered yet.
const QUIET: Duration = Duration::from_millis(250);
/// No cluster has more.
const MAX_SERVERS: usize = 1024;

/// Where a server is, and how it is trusted.
#[derive(Debug, Clone)]
pub struct Address {
    /// Its URL; several with commas between.
    pub url: String,
    /// File of the authority that signed its certificate. TLS is required then.
    pub authority: Option<PathBuf>,
}

impl Address {
    /// A server without TLS.
    #[must_use]
    pub fn plain(url: &str) -> Self {
        Self { url: url.to_owned(), authority: None }
    }

    /// Connects as the user of a credentials file's text.
    ///
    /// # Errors
    ///
    /// When the server is not there, its certificate is not trusted, or it refuses the user.
    pub async fn connect(&self, name: &str, credentials: &str) -> Result<Client, ResolverError> {
        let wrong = |reason: String| ResolverError::Connect { url: self.url.clone(), reason };
        let credentials = Credentials::parse(credentials)
            .map_err(|e| wrong(format!("the credentials are damaged: {e}")))?;
        let access = Access { creds: None, tls_ca: self.authority.clone() };
        let options = access
            .options_as(Some(&credentials))
            .map_err(|e| wrong(e.to_string()))?
            .name(name)
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE));
        let urls: Vec<&str> = self.url.split(',').map(str::trim).collect();
        options.connect(urls).await.map_err(|e| {
            let mut reason = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(cause) = source {
                reason = format!("{reason}: {cause}");
                source = cause.source();
            }
            wrong(reason)
        })
    }
}

/// Why an account is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// No connection.
    #[error("could not connect to NATS at {url}: {reason}")]
    Connect {
        /// The server's address.
        url: String,
        /// What it, or the network, said.
        reason: String,
    },
    /// Nobody answered.
    #[error(
        "no NATS server answered {what} in {PATIENCE:?}: it has no full resolver, or the user is none of its system account"
    )]
    Silent {
        /// What was asked.
        what: &'static str,
    },
    /// The folder of accounts.
    #[error(
        "NATS server {server} could not write its folder of accounts: {reason}. See that the resolver's `dir` exists, has room, and belongs to the server's user"
    )]
    Folder {
        /// Name of the server.
        server: String,
        /// What it said.
        reason: String,
    },
    /// A server refused.
    #[error("NATS server {server} refused {what}: {reason}")]
    Refused {
        /// Name of the server.
        server: String,
        /// What was asked.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// A server answered something else.
    #[error("a NATS server answered {what} with something else: {reason}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// Why it could not be read.
        reason: String,
    },
    /// A token.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// The connection broke.
    #[error("the connection to NATS broke: {0}")]
    Broken(String),
}

/// What an account uses now, over all servers that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Usage {
    /// Connections.
    pub connections: i64,
    /// Leaf nodes.
    pub leaf_nodes: i64,
    /// Subscriptions.
    pub subscriptions: i64,
    /// Bytes of JetStream in memory.
    pub memory: i64,
    /// Bytes of JetStream on disk.
    pub disk: i64,
    /// Streams.
    pub streams: i64,
    /// Consumers.
    pub consumers: i64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    server: Option<Named>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
}

/// The resolvers of all servers that one connection reaches.
#[derive(Debug, Clone)]
pub struct Resolver {
    client: Client,
    count: Arc<OnceCell<usize>>,
}

impl Resolver {
    /// Over a connection of a user of the system account.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, count: Arc::default() }
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Names of the servers that answer now.
    ///
    /// # Errors
    ///
    /// When none does.
    pub async fn servers(&self) -> Result<BTreeSet<String>, ResolverError> {
        let what = "a ping";
        let answers = self.ask("$SYS.REQ.SERVER.PING", Vec::new(), what, usize::MAX).await?;
        Ok(answers.into_iter().map(|(server, _)| server).collect())
    }

    /// How many servers there were when it was asked first: looking takes a silence.
    pub(crate) async fn count(&self) -> Result<usize, ResolverError> {
        let count = async || Ok(self.servers().await?.len());
        self.count.get_or_try_init(count).await.copied()
    }

    /// Gives an account's token to all servers; each has written it when this returns.
    /// A server that is away takes it from the others when it is back.
    ///
    /// # Errors
    ///
    /// When one refuses, its folder cannot be written, or none answers.
    pub async fn push(&self, token: &str) -> Result<usize, ResolverError> {
        let claims = Claims::<Account>::verify(token)?;
        let what = "an account";
        let servers = self.count().await?;
        let answers =
            self.ask("$SYS.REQ.CLAIMS.UPDATE", token.as_bytes().to_vec(), what, servers).await?;
        for (server, answer) in &answers {
            accepted(server, what, answer)?;
        }
        // The server answers before its own connections know: an account that it has in memory is renewed at once,
        // one that it has not is read at the next connection.
        let kept = self.lookup(&claims.sub).await?;
        if kept.as_deref() != Some(token) {
            let reason = "it has another token for this account".to_owned();
            return Err(ResolverError::Refused { server: "that answered".into(), what, reason });
        }
        Ok(answers.len())
    }

    /// An account's token as the servers have it.
    ///
    /// # Errors
    ///
    /// When none answers.
    pub async fn lookup(&self, account: &str) -> Result<Option<String>, ResolverError> {
        let what = "the look-up of an account";
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
        let answer = tokio::time::timeout(PATIENCE, self.client.request(subject, "".into()))
            .await
            .map_err(|_| ResolverError::Silent { what })?
            .map_err(|e| ResolverError::Broken(e.to_string()))?;
        let token = String::from_utf8_lossy(&answer.payload).trim().to_owned();
        Ok(if token.is_empty() { None } else { Some(token) })
    }

    /// Public keys of all accounts that the servers have.
    ///
    /// # Errors
    ///
    /// When one refuses or none answers.
    pub async fn list(&self) -> Result<BTreeSet<String>, ResolverError> {
        let what = "the list of accounts";
        let servers = self.count().await?;
        let mut accounts = BTreeSet::new();
        for (server, answer) in self.ask("$SYS.REQ.CLAIMS.LIST", Vec::new(), what, servers).await? {
            let data = accepted(&server, what, &answer)?;
            let names = data.as_array().map(Vec::as_slice).unwrap_or_default();
            accounts.extend(names.iter().filter_map(|name| name.as_str().map(str::to_owned)));
        }
        Ok(accounts)
    }

    /// Has all servers forget an account, and cut its connections. Its streams stay on their disks.
    ///
    /// # Errors
    ///
    /// When one refuses or none answers.
    pub async fn delete(&self, account: &str, operator: &KeyPair) -> Result<(), ResolverError> {
        let what = "the deletion of an account";
        let deletion = Deletion { accounts: vec![account.to_owned()] };
        let token = Claims::new("delete", &operator.public_key(), deletion).sign(operator)?;
        let servers = self.count().await?;
        let answers = self.ask("$SYS.REQ.CLAIMS.DELETE", token.into_bytes(), what, servers).await?;
        for (server, answer) in &answers {
            accepted(server, what, answer)?;
        }
        Ok(())
    }

    /// What an account uses.
    ///
    /// # Errors
    ///
    /// When no server answers.
    pub async fn usage(&self, account: &str) -> Result<Usage, ResolverError> {
        let what = "the use of an account";
        let servers = self.count().await?;
        let number =
            |value: &Value, name: &str| value.get(name).and_then(Value::as_i64).unwrap_or(0);
        let mut usage = Usage::default();
        let payload = format!("{{\"accounts\":[\"{account}\"],\"include_unused\":true}}");
        let subject = "$SYS.REQ.ACCOUNT.PING.STATZ";
        for (server, answer) in self.ask(subject, payload.into_bytes(), what, servers).await? {
            let data = accepted(&server, what, &answer)?;
            let rows = data.get("account_statz").and_then(Value::as_array);
            for row in rows.map(Vec::as_slice).unwrap_or_default() {
                usage.connections += number(row, "conns");
                usage.leaf_nodes += number(row, "leafnodes");
                usage.subscriptions += number(row, "num_subscriptions");
            }
        }
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.JSZ");
        let payload = b"{\"streams\":true,\"config\":false}".to_vec();
        let mut streams = BTreeSet::new();
        for (_, answer) in self.ask(&subject, payload, what, servers).await? {
            // A server that has nothing of this account answers with an error.
            let row = &answer.data;
            if !row.is_null() {
                usage.memory += number(row, "memory");
                usage.disk += number(row, "storage");
                let rows = row.get("stream_detail").and_then(Value::as_array);
                for stream in rows.map(Vec::as_slice).unwrap_or_default() {
                    let name = stream.get("name").and_then(Value::as_str).unwrap_or_default();
                    // A stream with replicas is in the answers of several servers.
                    if streams.insert(name.to_owned()) {
                        usage.streams += 1;
                        let state = stream.get("state").unwrap_or(&Value::Null);
                        usage.consumers += number(state, "consumer_count");
                    }
                }
            }
        }
        Ok(usage)
    }

    /// Asks all servers, until as many have answered as are there; after that, or a silence, with what came.
    async fn ask(
        &self,
        subject: &str,
        payload: Vec<u8>,
        what: &'static str,
        servers: usize,
    ) -> Result<Vec<(String, Answer)>, ResolverError> {
        let broken = |e: String| ResolverError::Broken(e);
        let inbox = self.client.new_inbox();
        let mut answers =
            self.client.subscribe(inbox.clone()).await.map_err(|e| broken(e.to_string()))?;
        self.client
            .publish_with_reply(subject.to_owned(), inbox, payload.into())
            .await
            .map_err(|e| broken(e.to_string()))?;
        let end = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        while found.len() < servers.min(MAX_SERVERS) {
            // Whoever counts the servers waits for a silence; whoever knows how many there are waits for them.
            let until = if found.is_empty() || servers != usize::MAX {
                end
            } else {
                end.min(Instant::now() + QUIET)
            };
            let Ok(Some(message)) = timeout_at(until, answers.next()).await else { break };
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            let answer: Answer = serde_json::from_slice(&message.payload)
                .map_err(|e| ResolverError::Answer { what, reason: e.to_string() })?;
            let named = answer.server.as_ref();
            let server = named.map(|s| if s.name.is_empty() { &s.id } else { &s.name });
            found.push((server.cloned().unwrap_or_default(), answer));
        }
        if found.is_empty() {
            return Err(ResolverError::Silent { what });
        }
        Ok(found)
    }
}

fn accepted<'a>(
    server: &str,
    what: &'static str,
    answer: &'a Answer,
) -> Result<&'a Value, ResolverError> {
    let Some(error) = &answer.error else { return Ok(&answer.data) };
    let field = error.get("description").or_else(|| error.get("message")).and_then(Value::as_str);
    let reason = field.map_or_else(|| error.to_string(), str::to_owned);
    let server = server.to_owned();
    // What the operating system says about files, as Go words it.
    let disk = [
        "no such file",
        "permission denied",
        "no space",
        "read-only",
        "not a directory",
        "input/output",
    ];
    if disk.iter().any(|words| reason.contains(words)) {
        return Err(ResolverError::Folder { server, reason });
    }
    Err(ResolverError::Refused { server, what, reason })
}
