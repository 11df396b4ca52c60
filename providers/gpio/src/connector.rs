//! The provider's half of GPIO: settings of links to sources and sinks.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{DeadLetters, Limits, Link, LinkNames, Sink};
use millrace_provider::trial::Failed;
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::gpio::{SinkSettings, SourceSettings};
use millrace_settings::{WithDelivery, from_flat};

use crate::{GpioSink, GpioSource, trial};

/// GPIO as a connector.
#[derive(Debug)]
pub struct Gpio;

impl Connector for Gpio {
    const NAME: &'static str = "gpio";

    fn new(_: Platform) -> Self {
        Self
    }

    fn source(&self, _: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        let limits = Limits::from(&all.delivery);
        let source = GpioSource::new(all.settings, limits);
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings: SinkSettings = from_flat(config, &NAME_KEYS)?;
        match GpioSink::open(settings, Arc::clone(link), Arc::clone(dead)) {
            Ok(sink) => Ok(sink),
            Err(error) => Err(FieldError::invalid("lines", "", format!("no thread: {error}"))),
        }
    }

    async fn try_source(config: &Config) -> Result<String, Failed> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        trial::source(all.settings, LinkNames::from_flat(config)?).await
    }

    async fn try_sink(config: &Config) -> Result<String, Failed> {
        trial::sink(from_flat(config, &NAME_KEYS)?, LinkNames::from_flat(config)?).await
    }
}
