//! The provider's half of Modbus: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, Sink};
use millrace_provider::trial::Failed;
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::modbus::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{ModbusSink, ModbusSource, trial};

/// Modbus as a connector.
#[derive(Debug)]
pub struct Modbus;

impl Connector for Modbus {
    const NAME: &'static str = "modbus";

    fn new(_: Platform) -> Self {
        Self
    }

    fn source(&self, _: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        let limits = Limits::from(&all.delivery);
        let source = ModbusSource::new(all.settings, limits)?;
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        Ok(ModbusSink::open(settings, Arc::clone(link), Arc::clone(dead))?)
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
