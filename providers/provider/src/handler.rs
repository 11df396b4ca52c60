//! What the SDK calls. Everything here returns at once.

use std::sync::Arc;

use bytes::Bytes;
use millrace_kit::{Direction, State};
use wasmcloud_provider_sdk::provider::ProviderConnection;
use wasmcloud_provider_sdk::{
    Context, HealthCheckRequest, HealthCheckResponse, LinkConfig, LinkDeleteInfo, Provider,
    ProviderInitConfig,
};

use crate::bindings::exports::wasmcloud::messaging::consumer;
use crate::bindings::wasmcloud::messaging::types::BrokerMessage;
use crate::links::{DRAIN, Key, Links};
use crate::{Config, Connector};

/// The SDK's view of the provider.
pub(crate) struct Handler<C>(pub(crate) Arc<Links<C>>);

// Derived, it would ask for `C: Clone`.
impl<C> Clone for Handler<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connector> Provider for Handler<C> {
    async fn init(&self, _: impl ProviderInitConfig) -> anyhow::Result<()> {
        Ok(())
    }

    async fn receive_link_config_as_source(&self, link: LinkConfig<'_>) -> anyhow::Result<()> {
        self.0.put(key(Direction::Source, link.target_id, link.link_name), config(&link));
        Ok(())
    }

    async fn receive_link_config_as_target(&self, link: LinkConfig<'_>) -> anyhow::Result<()> {
        self.0.put(key(Direction::Sink, link.source_id, link.link_name), config(&link));
        Ok(())
    }

    async fn delete_link_as_source(&self, info: impl LinkDeleteInfo) -> anyhow::Result<()> {
        self.0.delete(&key(Direction::Source, info.get_target_id(), info.get_link_name()));
        Ok(())
    }

    async fn delete_link_as_target(&self, info: impl LinkDeleteInfo) -> anyhow::Result<()> {
        self.0.delete(&key(Direction::Sink, info.get_source_id(), info.get_link_name()));
        Ok(())
    }

    // An unhealthy answer or an error would have the host restart a process
    // that only waits for a broker. The links' states are in the status.
    async fn health_request(&self, _: &HealthCheckRequest) -> anyhow::Result<HealthCheckResponse> {
        let links = self.0.statuses();
        let working = links.iter().filter(|(_, link)| link.state == State::Connected).count();
        let message = format!("{working} of {} links connected", links.len());
        Ok(HealthCheckResponse { healthy: true, message: Some(message) })
    }

    async fn shutdown(&self) -> anyhow::Result<()> {
        self.0.drain_all(DRAIN).await;
        Ok(())
    }
}

impl<C: Connector> consumer::Handler<Option<Context>> for Handler<C> {
    async fn request(
        &self,
        context: Option<Context>,
        subject: String,
        body: Bytes,
        _: u32,
    ) -> anyhow::Result<Result<BrokerMessage, String>> {
        let component = context.and_then(|context| context.component).unwrap_or_default();
        let answer = self.0.ask(&component, body).await;
        Ok(answer.map(|body| BrokerMessage { subject, body, reply_to: None }))
    }

    async fn publish(
        &self,
        context: Option<Context>,
        message: BrokerMessage,
    ) -> anyhow::Result<Result<(), String>> {
        let component = context.and_then(|context| context.component).unwrap_or_default();
        Ok(self.0.publish(&component, &message.subject, message.body).await)
    }
}

fn key(direction: Direction, component: &str, name: &str) -> Key {
    Key { direction, component: component.to_owned(), name: name.to_owned() }
}

fn config(link: &LinkConfig<'_>) -> Config {
    link.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Who this provider is, for the status.
pub(crate) fn identity(connection: &ProviderConnection) -> (String, String) {
    (connection.provider_key().to_owned(), connection.host_id.clone())
}
