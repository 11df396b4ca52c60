//! The provider's half of Kafka: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, LinkNames, Sink};
use millrace_provider::trial::Failed;
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::kafka::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{KafkaSink, KafkaSource, trial};

/// Kafka as a connector.
#[derive(Debug)]
pub struct Kafka {
    lattice: String,
}

impl Connector for Kafka {
    const NAME: &'static str = "kafka";

    fn new(platform: Platform) -> Self {
        Self { lattice: platform.lattice }
    }

    fn source(&self, link: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        let limits = Limits::from(&all.delivery);
        let source = KafkaSource::new(all.settings, limits, link.names.client_id(&self.lattice));
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        let name = link.names.client_id(&self.lattice);
        Ok(KafkaSink::open(settings, name, Arc::clone(link), Arc::clone(dead)))
    }

    async fn try_source(config: &Config) -> Result<String, Failed> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        trial::source(all.settings, LinkNames::from_flat(config)?).await
    }

    async fn try_sink(config: &Config) -> Result<String, Failed> {
        trial::sink(from_flat(config, &NAME_KEYS)?, LinkNames::from_flat(config)?).await
    }
}
