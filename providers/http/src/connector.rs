//! The provider's half of HTTP: settings of links to sources.

use std::sync::Arc;

use millrace_kit::link::NAME_KEYS;
use millrace_kit::{Limits, Link};
use millrace_provider::trial::Failed;
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::WithDelivery;
use millrace_settings::http::SourceSettings;

use crate::{Doors, HttpSource, trial};

/// HTTP as a connector.
#[derive(Debug)]
pub struct Http {
    doors: Arc<Doors>,
}

impl Connector for Http {
    const NAME: &'static str = "http";

    fn new(_: Platform) -> Self {
        Self { doors: Arc::default() }
    }

    fn source(&self, _: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let all = WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?;
        let limits = Limits::from(&all.delivery);
        let source = HttpSource::new(all.settings, limits, Arc::clone(&self.doors));
        Ok(Sourced { source: Box::new(source), delivery: all.delivery })
    }

    async fn try_source(config: &Config) -> Result<String, Failed> {
        trial::source(&WithDelivery::<SourceSettings>::from_flat(config, &NAME_KEYS)?.settings)
            .await
    }
}
