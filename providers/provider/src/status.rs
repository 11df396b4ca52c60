//! Answers on the status subjects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use millrace_kit::status::{pipeline_status_subject, status_subject};
use millrace_kit::{Backoff, LinkStatus, ProviderStatus};
use tokio::time::Instant;

use crate::Connector;
use crate::links::Links;

/// What is the same in every answer.
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) version: &'static str,
    pub(crate) started: Instant,
}

/// Answers status requests for as long as the process lives.
pub(crate) async fn answer<C: Connector>(
    client: Client,
    lattice: String,
    links: Arc<Links<C>>,
    identity: Identity,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        match subscribe(&client, &lattice).await {
            Ok(requests) => serve(&client, requests, &links, &identity).await,
            Err(error) => tracing::warn!(%error, "cannot subscribe to the status subjects"),
        }
        backoff.wait().await;
    }
}

type Requests = futures::stream::Select<Subscriber, Subscriber>;

async fn subscribe(client: &Client, lattice: &str) -> Result<Requests, async_nats::SubscribeError> {
    let all = client.subscribe(status_subject(lattice)).await?;
    let one = client.subscribe(pipeline_status_subject(lattice, "*")).await?;
    Ok(futures::stream::select(all, one))
}

async fn serve<C: Connector>(
    client: &Client,
    mut requests: Requests,
    links: &Links<C>,
    identity: &Identity,
) {
    while let Some(Message { subject, reply: Some(reply), .. }) = requests.next().await {
        // `millrace.<lattice>.status[.<pipeline>]`
        let wanted = subject.as_str().split('.').nth(3);
        for status in statuses::<C>(links.statuses(), identity, wanted) {
            let Ok(body) = serde_json::to_vec(&status) else { continue };
            if let Err(error) = client.publish(reply.clone(), body.into()).await {
                tracing::debug!(%error, "status not sent");
            }
        }
    }
}

/// One status a pipeline. A provider without links answers who asks for all:
/// it is there, and that is worth seeing.
fn statuses<C: Connector>(
    links: Vec<(String, LinkStatus)>,
    identity: &Identity,
    wanted: Option<&str>,
) -> Vec<ProviderStatus> {
    let mut pipelines: BTreeMap<String, Vec<LinkStatus>> = BTreeMap::new();
    for (pipeline, link) in links {
        if wanted.is_none_or(|wanted| wanted == pipeline) {
            pipelines.entry(pipeline).or_default().push(link);
        }
    }
    if pipelines.is_empty() && wanted.is_none() {
        pipelines.insert(String::new(), Vec::new());
    }
    let status = |(pipeline, mut links): (String, Vec<LinkStatus>)| {
        links.sort_by(|a, b| a.name.cmp(&b.name));
        ProviderStatus {
            provider: C::NAME.to_owned(),
            id: identity.id.clone(),
            host: identity.host.clone(),
            pipeline,
            version: identity.version.to_owned(),
            uptime_s: identity.started.elapsed().as_secs(),
            links,
        }
    };
    pipelines.into_iter().map(status).collect()
}
