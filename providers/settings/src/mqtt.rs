//! Settings of the MQTT connector, 3.1.1 and 5.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::flat::FieldError;
use crate::values::{BrokerUrl, Count, Duration, Qos, TopicFilter, TopicTemplate};

/// Longest client identifier, in bytes (MQTT 5.0, section 1.5.4).
const CLIENT_ID_MAX: usize = 65_535;

/// Protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Version {
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
}

impl<'de> Deserialize<'de> for Version {
    // By hand: in YAML `5` is a number and `3.1.1` is not.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Version;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("3.1.1 or 5")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Version, E> {
                match text {
                    "3.1.1" => Ok(Version::V311),
                    "5" => Ok(Version::V5),
                    _ => Err(E::custom("must be 3.1.1 or 5")),
                }
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Version, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": ["3.1.1", "5", 5] })
    }
}

/// Subscribes to topics of an MQTT broker. A message is acknowledged to the
/// broker only when the pipeline has it safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSettings {
    /// Address of the broker: `mqtt://host:port`, or `mqtts://` for TLS. The
    /// port is 1883, with TLS 8883, when left out.
    pub url: BrokerUrl,
    /// Topics to subscribe to: `+` stands for one level, `#` at the end for all
    /// that follow. `$share/<group>/<filter>` shares them with other clients.
    pub topic: TopicFilter,
    /// Quality of service asked for: 0 may lose messages, 1 and 2 do not.
    #[serde(default)]
    pub qos: Qos,
    /// Protocol version, 3.1.1 or 5.
    #[serde(default)]
    pub version: Version,
    /// Client identifier, unique at the broker. Without it, one made from the
    /// names of pipeline, source and stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whether the broker forgets the session when the connection ends. Then
    /// messages sent while the source is away are lost.
    #[serde(default)]
    pub clean_session: bool,
    /// Longest silence before a ping, from 1s to 18h.
    #[serde(default = "keep_alive")]
    pub keep_alive: KeepAlive,
    /// Most messages the broker may have sent and not had acknowledged.
    #[serde(default = "receive_maximum")]
    pub receive_maximum: Count<1, 65_535>,
    /// User name at the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, on the machine where the source runs. Read at
    /// each connect; a final line break is not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
}

/// Publishes to an MQTT broker. The stage before it goes on only when the
/// broker has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkSettings {
    /// Address of the broker: `mqtt://host:port`, or `mqtts://` for TLS. The
    /// port is 1883, with TLS 8883, when left out.
    pub url: BrokerUrl,
    /// Topic to publish to. `{topic}` and `{key}` stand for those of the
    /// message.
    pub topic: TopicTemplate,
    /// Quality of service: 0 may lose messages, 1 and 2 do not.
    #[serde(default)]
    pub qos: Qos,
    /// Protocol version, 3.1.1 or 5.
    #[serde(default)]
    pub version: Version,
    /// Whether the broker keeps the last message of each topic for later
    /// subscribers.
    #[serde(default)]
    pub retain: bool,
    /// Client identifier, unique at the broker. Without it, one made from the
    /// names of pipeline, sink and stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Longest silence before a ping, from 1s to 18h.
    #[serde(default = "keep_alive")]
    pub keep_alive: KeepAlive,
    /// Most messages published and not yet acknowledged by the broker.
    #[serde(default = "sink_in_flight")]
    pub in_flight: Count<1, 65_535>,
    /// User name at the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, on the machine where the sink runs. Read at each
    /// connect; a final line break is not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
}

/// MQTT carries it as seconds in 16 bits (MQTT 5.0, section 3.1.2.10): 18h is
/// the last whole hour below that.
pub type KeepAlive = Duration<1_000, 64_800_000>;

const fn keep_alive() -> KeepAlive {
    Duration::from_millis(30_000)
}

/// Room for the default of four batches of 500 in flight.
const fn receive_maximum() -> Count<1, 65_535> {
    Count::clamped(2_000)
}

const fn sink_in_flight() -> Count<1, 65_535> {
    Count::clamped(1_000)
}

impl Settings for SourceSettings {
    fn check(&self) -> Result<(), FieldError> {
        check_client(
            self.client_id.as_deref(),
            self.username.as_deref(),
            self.password_file.as_deref(),
            self.version,
        )
    }
}

impl Settings for SinkSettings {
    fn check(&self) -> Result<(), FieldError> {
        check_client(
            self.client_id.as_deref(),
            self.username.as_deref(),
            self.password_file.as_deref(),
            self.version,
        )
    }
}

/// What source and sink have in common.
fn check_client(
    client_id: Option<&str>,
    username: Option<&str>,
    password_file: Option<&str>,
    version: Version,
) -> Result<(), FieldError> {
    if let Some(id) = client_id
        && (id.is_empty() || id.len() > CLIENT_ID_MAX)
    {
        let message = format!("must be 1 to {CLIENT_ID_MAX} bytes; leave it out to have one made");
        return Err(FieldError::invalid("client-id", id, message));
    }
    match (username, password_file) {
        (_, Some("")) => Err(FieldError::invalid("password-file", "", "must be a path")),
        // MQTT 3.1.1, section 3.1.2.9: no password without a user name.
        (None, Some(path)) if version == Version::V311 => {
            Err(FieldError::invalid("password-file", path, "needs a username in MQTT 3.1.1"))
        }
        _ => Ok(()),
    }
}
