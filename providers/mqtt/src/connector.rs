//! The provider's half of MQTT: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, Sink};
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::mqtt::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{MqttSink, MqttSource};

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
        let source = MqttSource::new(all.settings, limits, self.client_id(link))?;
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        Ok(MqttSink::open(settings, self.client_id(link), Arc::clone(link), Arc::clone(dead))?)
    }
}

impl Mqtt {
    /// A client identifier for a link that names none. The same after every
    /// restart, or the session would not be found again.
    fn client_id(&self, link: &Link) -> String {
        let names = &link.names;
        format!("millrace-{}-{}-{}-{}", self.lattice, names.pipeline, names.name, names.stage)
    }
}
