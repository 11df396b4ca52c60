//! The provider's half of Kafka: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, Sink};
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::kafka::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{KafkaSink, KafkaSource};

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
        let source = KafkaSource::new(all.settings, limits, self.client_id(link));
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        Ok(KafkaSink::open(settings, self.client_id(link), Arc::clone(link), Arc::clone(dead)))
    }
}

impl Kafka {
    /// A name for a link that has none of its own: of the client, and of the
    /// group. The same after every restart, or the stored offsets would not be
    /// found again.
    fn client_id(&self, link: &Link) -> String {
        let names = &link.names;
        format!("millrace-{}-{}-{}-{}", self.lattice, names.pipeline, names.name, names.stage)
    }
}
