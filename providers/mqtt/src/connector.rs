//! The provider's half of MQTT: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, Sink};
use millrace_provider::trial::Failed;
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{MqttSink, MqttSource, trial};

/// MQTT as a connector.
#[derive(Debug)]
pub struct Mqtt {
    lattice: String,
}

impl Connector for Mqtt {
    const NAME: &'static str = "mqtt";

    fn new(platform: Platform) -> Self {
        Self { lattice: platform.lattice }
    }

    fn source(&self, link: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        let limits = Limits::from(&all.delivery);
        let source = MqttSource::new(all.settings, limits, link.names.client_id(&self.lattice))?;
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        let client_id = link.names.client_id(&self.lattice);
        Ok(MqttSink::open(settings, client_id, Arc::clone(link), Arc::clone(dead))?)
    }

    async fn try_source(config: &Config) -> Result<String, Failed> {
        trial::source(&WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?.settings)
            .await
    }

    async fn try_sink(config: &Config) -> Result<String, Failed> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        trial::sink(&settings).await
    }
}
