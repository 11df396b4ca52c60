//! The table of connectors: what lint, schema and documentation go through, so
//! that a new connector is one entry here.

use std::collections::BTreeSet;

use schemars::{Schema, SchemaGenerator};

use crate::flat::{self, FieldError, Flat};
use crate::{Settings, edge, gpio, http, kafka, modbus, mqtt};

/// One connector.
#[derive(Debug, Clone, Copy)]
pub struct Connector {
    /// The name the author writes: `mqtt`.
    pub name: &'static str,
    /// What it connects to, for people.
    pub title: &'static str,
    /// Settings when it reads.
    pub source: Kind,
    /// Settings when it writes. Absent where it only reads.
    pub sink: Option<Kind>,
    /// The setting that names this client to the outside. Two clients of one
    /// `identity_scope` must not share it. Empty when there is none.
    pub identity: &'static str,
    /// The setting within whose value `identity` must be unique. Empty when
    /// there is none.
    pub identity_scope: &'static str,
}

/// One settings struct, with its type forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Everything wrong with a flat map as these settings.
    pub check: fn(&Flat) -> Vec<FieldError>,
    /// The flat map with every default written out.
    ///
    /// # Errors
    ///
    /// The first field that is unknown, missing or not allowed.
    pub complete: fn(&Flat) -> Result<Flat, FieldError>,
    /// The names of the fields.
    pub fields: fn() -> &'static [&'static str],
    /// The names of those that are lists or mappings.
    pub structured: fn() -> BTreeSet<String>,
    /// JSON Schema of the settings.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Connector {
    /// Its settings as a source and, where it has them, as a sink.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        std::iter::once(self.source).chain(self.sink)
    }
}

impl Kind {
    const fn of<T: Settings>() -> Self {
        Self {
            check: |map| flat::check_flat::<T>(map, &[]),
            complete: |map| flat::to_flat(&flat::from_flat::<T, _>(map, &[])?),
            fields: flat::field_names::<T>,
            structured: flat::structured_names::<T>,
            schema: |generator| generator.subschema_for::<T>(),
        }
    }
}

/// Every connector there is, by name.
pub const CONNECTORS: &[Connector] = &[
    Connector {
        name: "kafka",
        title: "Kafka cluster",
        source: Kind::of::<kafka::SourceSettings>(),
        sink: Some(Kind::of::<kafka::SinkSettings>()),
        // Clients may share a client identifier, and are meant to share a group.
        identity: "",
        identity_scope: "",
    },
    Connector {
        name: "modbus",
        title: "Modbus devices",
        source: Kind::of::<modbus::SourceSettings>(),
        sink: Some(Kind::of::<modbus::SinkSettings>()),
        // A Modbus client has no name.
        identity: "",
        identity_scope: "",
    },
    Connector {
        name: "mqtt",
        title: "MQTT broker",
        source: Kind::of::<mqtt::SourceSettings>(),
        sink: Some(Kind::of::<mqtt::SinkSettings>()),
        identity: "client-id",
        identity_scope: "url",
    },
    // Two links that want one line are told apart by the kernel: the second
    // is refused, and its status says who has the line.
    Connector {
        name: "gpio",
        title: "GPIO lines",
        source: Kind::of::<gpio::SourceSettings>(),
        sink: Some(Kind::of::<gpio::SinkSettings>()),
        identity: "",
        identity_scope: "",
    },
    // Two links that want one path are told apart by the server: the second
    // is refused, and its status says who has the path.
    Connector {
        name: "http",
        title: "HTTP server",
        source: Kind::of::<http::SourceSettings>(),
        sink: None,
        identity: "",
        identity_scope: "",
    },
];

/// The settings of durable edges.
pub const EDGE: Kind = Kind::of::<edge::EdgeSettings>();

/// The settings of delivery.
pub const DELIVERY: Kind = Kind::of::<crate::Delivery>();

/// The settings of roll-outs.
pub const ROLLOUT: Kind = Kind::of::<crate::Rollout>();

/// The settings of servers of HTTP.
pub const SERVER: Kind = Kind::of::<crate::Server>();

/// The settings of windows.
pub const WINDOW: Kind = Kind::of::<crate::window::Window>();

/// The settings of a `de-duplicate`.
pub const DE_DUPLICATE: Kind = Kind::of::<crate::operators::DeDuplicate>();

/// The settings of a `throttle`.
pub const THROTTLE: Kind = Kind::of::<crate::operators::Throttle>();

/// The settings of an `enrich`.
pub const ENRICH: Kind = Kind::of::<crate::operators::Enrich>();

/// The settings of a `concatenate`: none.
pub const CONCATENATE: Kind = Kind::of::<crate::operators::Concatenate>();

/// The connector of this name.
#[must_use]
pub fn connector(name: &str) -> Option<&'static Connector> {
    CONNECTORS.iter().find(|connector| connector.name == name)
}
