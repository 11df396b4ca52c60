//! Which providers the hosts of a lattice have.
//!
//! A host starts providers from its own installation alone, so one that is deployed from another release would be taken away,
//! and the new one never start. Every host answers here what it has, and who deploys asks before.
//!
//! The question is a request on `wasmbus.ctl.v1.LATTICE.millrace.installed`: beside wasmCloud's own of the control interface, because
//! hosts may listen there and whoever deploys may ask there. Every host answers with JSON, [`Installed`]. One that answers
//! wasmCloud's `host.ping` and not this is of an older release, or of wasmCloud.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Answers that come later are not waited for.
const LATEST: Duration = Duration::from_secs(2);

/// Once all hosts that are known have answered, another one is waited for so long.
const QUIET: Duration = Duration::from_millis(400);

/// Most hosts, and most providers of one, that are looked at: what is answered is foreign.
const HOSTS_MAX: usize = 1000;
const PROVIDERS_MAX: usize = 1000;

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The host's public key.
    pub host: String,
    /// Names of its archives, without their endings: `mqtt-0f3a9c1b`.
    pub providers: BTreeSet<String>,
}

/// A host of a lattice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatticeHost {
    /// Its public key.
    pub id: String,
    /// The name it has for people: its label `host`, or else what wasmCloud has called it.
    pub name: String,
    /// Archives of providers that it has; none where it does not say.
    pub providers: Option<BTreeSet<String>>,
}

/// No answers can be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not ask the hosts of lattice `{lattice}` which providers they have: {cause}")]
pub struct NotAsked {
    lattice: String,
    cause: String,
}

/// What wasmCloud's hosts answer when they are asked who is there.
#[derive(Deserialize)]
struct Pinged {
    response: Option<Host>,
}

#[derive(Deserialize)]
struct Host {
    id: String,
    #[serde(default)]
    friendly_name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn subject(lattice: &str) -> String {
    format!("wasmbus.ctl.v1.{lattice}.millrace.installed")
}

/// Answers for a host until the connection is closed. What it has is looked at for each answer: an upgrade may put new ones there.
///
/// # Errors
///
/// When nothing can be heard of the question.
pub async fn answer(
    nats: &Client,
    lattice: &str,
    host: &str,
    has: impl Fn() -> BTreeSet<String>,
) -> Result<(), NotAsked> {
    let mut asked = nats.subscribe(subject(lattice)).await.map_err(|e| error(lattice, &e))?;
    while let Some(Message { reply, .. }) = asked.next().await {
        let Some(reply) = reply else { continue };
        let installed = Installed { host: host.to_owned(), providers: has() };
        // Text in a structure always becomes JSON.
        let body = serde_json::to_vec(&installed).unwrap_or_default();
        // Who asked has gone, or the connection has: it asks again.
        let _ = nats.publish(reply, body.into()).await;
    }
    Ok(())
}

/// The hosts of a lattice, with what each has, in order of their names. It takes 0.4 s, and 2 s where a host does not say or nobody is there.
///
/// # Errors
///
/// When nothing can be asked.
pub async fn hosts(nats: &Client, lattice: &str) -> Result<Vec<LatticeHost>, NotAsked> {
    let wrong = |e: &dyn std::fmt::Display| error(lattice, e);
    let (pings, installed) = (nats.new_inbox(), nats.new_inbox());
    let mut pinged = nats.subscribe(pings.clone()).await.map_err(|e| wrong(&e))?;
    let mut told = nats.subscribe(installed.clone()).await.map_err(|e| wrong(&e))?;
    let ping = format!("wasmbus.ctl.v1.{lattice}.host.ping");
    for (subject, inbox) in [(ping, pings), (subject(lattice), installed)] {
        nats.publish_with_reply(subject, inbox, Vec::new().into()).await.map_err(|e| wrong(&e))?;
    }
    nats.flush().await.map_err(|e| wrong(&e))?;
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    let mut has: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let latest = Instant::now() + LATEST;
    loop {
        let complete = !there.is_empty() && there.keys().all(|id| has.contains_key(id));
        let until = if complete { latest.min(Instant::now() + QUIET) } else { latest };
        tokio::select! {
            Some(message) = pinged.next() => {
                let host = serde_json::from_slice::<Pinged>(&message.payload).ok();
                if let Some(host) = host.and_then(|pinged| pinged.response)
                    && there.len() < HOSTS_MAX
                {
                    let name = host.labels.get("host").unwrap_or(&host.friendly_name);
                    there.insert(host.id, name.chars().take(80).collect());
                }
            }
            Some(message) = told.next() => {
                if let Ok(one) = serde_json::from_slice::<Installed>(&message.payload)
                    && has.len() < HOSTS_MAX
                {
                    has.insert(one.host, one.providers.into_iter().take(PROVIDERS_MAX).collect());
                }
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    let mut hosts: Vec<LatticeHost> = there
        .into_iter()
        .map(|(id, name)| LatticeHost { providers: has.remove(&id), id, name })
        .collect();
    hosts.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(hosts)
}

fn error(lattice: &str, cause: &dyn std::fmt::Display) -> NotAsked {
    NotAsked { lattice: lattice.to_owned(), cause: cause.to_string() }
}
