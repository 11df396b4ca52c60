//! Links that the host's messages missed.
//!
//! A host tells a provider of its links twice: all at once when it starts the
//! provider, and each as it changes. A link made in between, while the provider
//! is starting, reaches it neither way, and its stage would publish to nobody.
//! And the SDK takes a put that overtakes the deletion before it for a repeated
//! one. So the provider looks at the lattice's own list: often at first, then now and
//! then. A link counts as missed (or as gone) when two looks in a row say so,
//! because a change may just be on its way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_kit::Direction;
use wasmcloud_control_interface::{Client, ClientBuilder, Link};

use crate::links::{Key, Links};
use crate::{Config, Connector};

/// Between looks: soon after the start, then the last one for ever.
const LOOKS: [Duration; 6] = [
    Duration::from_millis(300),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(5),
];

/// Compares the lattice's links with the provider's, for ever.
pub(crate) async fn run<C: Connector>(
    nats: async_nats::Client,
    lattice: String,
    provider: String,
    links: Arc<Links<C>>,
) {
    let control = ClientBuilder::new(nats).lattice(lattice).build();
    let mut pauses = LOOKS.into_iter();
    let mut pause = Duration::ZERO;
    let mut suspects: HashSet<Key> = HashSet::new();
    loop {
        pause = pauses.next().unwrap_or(pause);
        tokio::time::sleep(pause).await;
        let Some(listed) = list(&control, &provider).await else { continue };
        let known = links.keys();
        let amiss: HashSet<Key> = listed
            .keys()
            .filter(|key| !known.contains(*key))
            .chain(known.iter().filter(|key| !listed.contains_key(*key)))
            .cloned()
            .collect();
        for key in amiss.intersection(&suspects) {
            match listed.get(key) {
                Some(names) => take_up(&control, key, names, &links).await,
                None => {
                    tracing::warn!(?key, "the lattice has this link no longer; draining it");
                    links.delete(key);
                }
            }
        }
        suspects = amiss;
    }
}

async fn take_up<C: Connector>(control: &Client, key: &Key, names: &[String], links: &Links<C>) {
    let mut config = Config::new();
    for name in names {
        match control.get_config(name).await.ok().and_then(|answer| answer.into_data()) {
            Some(values) => config.extend(values),
            // Without it the link would be another one: better at the next look.
            None => return,
        }
    }
    tracing::warn!(?key, "took up a link that the host's messages missed");
    links.put(key.clone(), config);
}

/// This provider's links by key, each with the names of its configurations;
/// `None` when the lattice did not answer.
async fn list(control: &Client, provider: &str) -> Option<HashMap<Key, Vec<String>>> {
    let listed = control.get_links().await.ok()?;
    // No data and success is an empty list; an answer without success is none.
    if !listed.succeeded() {
        return None;
    }
    let listed: Vec<Link> = listed.into_data().unwrap_or_default();
    Some(listed.iter().filter_map(|link| own(link, provider)).collect())
}

fn own(link: &Link, provider: &str) -> Option<(Key, Vec<String>)> {
    let key = |direction, component: &str| Key {
        direction,
        component: component.to_owned(),
        name: link.name().to_owned(),
    };
    if link.source_id() == provider {
        Some((key(Direction::Source, link.target()), link.source_config().clone()))
    } else if link.target() == provider {
        Some((key(Direction::Sink, link.source_id()), link.target_config().clone()))
    } else {
        None
    }
}
