//! The provider's half of the conduit: settings of links to publishers and
//! consumers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_grants::{FROM_KEY, LINK_KEY, SERVERS_KEY};
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source, WriteError};
use millrace_provider::{Config, Connector, FieldError, Platform, Sourced};
use millrace_settings::WithDelivery;
use millrace_settings::edge::{EdgeSettings, from_link};
use millrace_settings::window::{STATE, STATE_IDLE};

use crate::outside::{self, Http};
use crate::{Buckets, Consumer, Edge, Outside, Publisher, Spills, States};

/// The conduit as a connector.
#[derive(Debug)]
pub struct Conduit {
    platform: Platform,
    spills: Spills,
    states: States,
    buckets: Buckets,
    http: Http,
}

impl Connector for Conduit {
    const NAME: &'static str = "conduit";

    fn new(platform: Platform) -> Self {
        let buckets = Buckets::of(&platform.nats, &platform.lattice);
        Self {
            platform,
            spills: Spills::default(),
            states: States::default(),
            buckets,
            http: Http::new(),
        }
    }

    fn source(&self, link: &Link, config: &Config) -> Result<Sourced, FieldError> {
        let [pipeline, name, stage, _] = millrace_kit::link::NAME_KEYS;
        let also = [pipeline, name, stage, STATE, STATE_IDLE, FROM_KEY];
        let all = WithDelivery::<EdgeSettings>::from_flat(config, &also)?;
        let edge = self.edge(link, &link.names.name)?;
        let limits = Limits::from(&all.delivery);
        let consumer = Consumer::new(self.platform.nats.clone(), edge, all.settings, limits);
        // A number that the author wrote is that number; 1 asks for order.
        let adapts = all.delivery.in_flight.is_none();
        let consumer = match config.get(STATE) {
            Some(step) => consumer.with_state(step, &self.states, idle(config)?),
            None => consumer,
        };
        let consumer = match config.get(FROM_KEY) {
            Some(from) => consumer.telling(from),
            None => consumer,
        };
        let source: Box<dyn Source> = Box::new(if adapts { consumer.adaptive() } else { consumer });
        Ok(Sourced { source, delivery: all.delivery })
    }

    fn sink(
        &self,
        link: &Arc<Link>,
        config: &Config,
        _: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let [pipeline, name, stage, _] = millrace_kit::link::NAME_KEYS;
        let edges = from_link(config, &[pipeline, name, stage, LINK_KEY, SERVERS_KEY])?;
        let grants = outside::object(config, LINK_KEY)?;

        let edges = edges
            .into_iter()
            .map(|(name, settings)| Ok((self.edge(link, &name)?, settings)))
            .collect::<Result<Vec<_>, FieldError>>()?;
        let publisher = Publisher::open(
            &self.platform.nats,
            edges,
            Arc::clone(link),
            &self.spills,
            &self.states,
        );
        let http = self.http.for_servers(outside::object(config, SERVERS_KEY)?);
        let outside = Outside::new(grants, self.buckets.clone(), http, Arc::clone(link));
        Ok(Arc::new(Linked { publisher, outside }))
    }
}

/// What a stage is linked to: where its batches go, and who answers what it asks for.
struct Linked {
    publisher: Arc<Publisher>,
    outside: Outside,
}

impl Sink for Linked {
    fn write(&self, batch: Bytes) -> BoxFuture<'_, Result<(), WriteError>> {
        self.publisher.write(batch)
    }

    fn ask(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move { self.outside.answer(&request).await })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.publisher.close()
    }
}

fn idle(config: &Config) -> Result<Option<Duration>, FieldError> {
    let Some(text) = config.get(STATE_IDLE) else { return Ok(None) };
    let milliseconds = text.parse().map_err(|e| FieldError::invalid(STATE_IDLE, text, e))?;
    Ok(Some(Duration::from_millis(milliseconds)))
}

impl Conduit {
    fn edge(&self, link: &Link, name: &str) -> Result<Edge, FieldError> {
        Edge::new(&self.platform.lattice, &link.names.pipeline, name)
            .map_err(|error| FieldError::invalid("name", name, error))
    }
}
