//! Settings of the MQTT connector, 3.1.1 and 5.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::checks::{self, TlsFiles};
use crate::flat::FieldError;
use crate::values::{
    BrokerUrl, Bytes, Count, Duration, Qos, ShareName, TopicFilter, TopicTemplate, WillTopic,
};

/// Longest text or payload of CONNECT, in bytes (MQTT 5.0, section 1.5.4).
const TEXT_MAX: usize = 65_535;

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
    /// Address of the broker: `mqtt://host:port`, or over WebSocket
    /// `ws://host:port/path`; `mqtts://` and `wss://` with TLS. The port is 1883,
    /// with TLS 8883, for WebSocket 80 and 443, when left out.
    pub url: BrokerUrl,
    /// Topics to subscribe to: `+` stands for one level, `#` at the end for all
    /// that follow. `$share/<group>/<filter>` shares them with other clients, as
    /// `share` does.
    pub topic: TopicFilter,
    /// Shares the subscription with all clients that name the same group: each
    /// message goes to one of them. The broker must know shared subscriptions,
    /// which are a part of MQTT 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<ShareName>,
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
    /// How long the broker keeps the session, and the messages for it, while the
    /// source is away, from 1s to 365d. MQTT 5; in 3.1.1 the broker decides.
    #[serde(default = "session_expiry")]
    pub session_expiry: SessionExpiry,
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
    /// File with the authorities that may have signed the broker's certificate,
    /// in PEM, on the machine where the source runs, read at each connect. Without
    /// it, those of that machine's operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<String>,
    /// File with this client's certificate and those between it and its
    /// authority, in PEM, read at each connect. For brokers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// File with the certificate's private key, in PEM and not encrypted, read
    /// at each connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// Topic of the last will: what the broker publishes when the connection
    /// ends without a goodbye. Needed for the other settings of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_topic: Option<WillTopic>,
    /// Payload of the last will, a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_payload: Option<String>,
    /// Quality of service of the last will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_qos: Option<Qos>,
    /// Whether the broker keeps the last will for later subscribers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_retain: Option<bool>,
}

/// Publishes to an MQTT broker. The stage before it goes on only when the
/// broker has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkSettings {
    /// Address of the broker: `mqtt://host:port`, or over WebSocket
    /// `ws://host:port/path`; `mqtts://` and `wss://` with TLS. The port is 1883,
    /// with TLS 8883, for WebSocket 80 and 443, when left out.
    pub url: BrokerUrl,
    /// Topic to publish to. `{topic}`, `{key}` and `{header:name}` stand for
    /// those of the message.
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
    /// Largest packet that the broker takes, from 128B to 256MiB: a message that
    /// makes a larger one goes to the dead letters. An MQTT 5 broker says it
    /// itself; one of 3.1.1 ends the connection, and the message would be tried
    /// for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_max: Option<PacketMax>,
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
    /// File with the authorities that may have signed the broker's certificate,
    /// in PEM, on the machine where the sink runs, read at each connect. Without
    /// it, those of that machine's operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<String>,
    /// File with this client's certificate and those between it and its
    /// authority, in PEM, read at each connect. For brokers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// File with the certificate's private key, in PEM and not encrypted, read
    /// at each connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// Topic of the last will: what the broker publishes when the connection
    /// ends without a goodbye. Needed for the other settings of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_topic: Option<WillTopic>,
    /// Payload of the last will, a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_payload: Option<String>,
    /// Quality of service of the last will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_qos: Option<Qos>,
    /// Whether the broker keeps the last will for later subscribers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_retain: Option<bool>,
}

/// What the length in a packet's header can say, with the header (MQTT 5.0,
/// section 2.1.4).
pub type PacketMax = Bytes<128, 268_435_460>;

/// MQTT carries it as seconds in 16 bits (MQTT 5.0, section 3.1.2.10): 18h is
/// the last whole hour below that.
pub type KeepAlive = Duration<1_000, 64_800_000>;

/// MQTT 5 carries it as seconds in 32 bits (MQTT 5.0, section 3.1.2.11.2).
pub type SessionExpiry = Duration<1_000, 31_536_000_000>;

const fn session_expiry() -> SessionExpiry {
    Duration::from_millis(7 * 24 * 3_600_000)
}

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
        if let (Some(share), true) = (&self.share, self.topic.is_shared()) {
            let message = "must be left out when the topic begins with $share";
            return Err(FieldError::invalid("share", share.as_str(), message));
        }
        self.client().check()
    }
}

impl Settings for SinkSettings {
    fn check(&self) -> Result<(), FieldError> {
        self.client().check()
    }
}

/// What source and sink have in common: who the client is, and how it connects.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Address of the broker.
    pub url: &'a BrokerUrl,
    /// Protocol version.
    pub version: Version,
    /// Client identifier, if one is named.
    pub client_id: Option<&'a str>,
    /// User name.
    pub username: Option<&'a str>,
    /// File with the password.
    pub password_file: Option<&'a str>,
    /// File with authorities.
    pub tls_ca_file: Option<&'a str>,
    /// File with the client's certificate.
    pub tls_cert_file: Option<&'a str>,
    /// File with its key.
    pub tls_key_file: Option<&'a str>,
    /// Topic of the last will.
    pub will_topic: Option<&'a str>,
    /// Its payload.
    pub will_payload: Option<&'a str>,
    /// Its quality of service.
    pub will_qos: Option<Qos>,
    /// Whether it is kept.
    pub will_retain: Option<bool>,
}

macro_rules! client {
    ($($settings:ident)*) => {$(
        impl $settings {
            /// What source and sink have in common.
            #[must_use]
            pub fn client(&self) -> Client<'_> {
                Client {
                    url: &self.url,
                    version: self.version,
                    client_id: self.client_id.as_deref(),
                    username: self.username.as_deref(),
                    password_file: self.password_file.as_deref(),
                    tls_ca_file: self.tls_ca_file.as_deref(),
                    tls_cert_file: self.tls_cert_file.as_deref(),
                    tls_key_file: self.tls_key_file.as_deref(),
                    will_topic: self.will_topic.as_ref().map(WillTopic::as_str),
                    will_payload: self.will_payload.as_deref(),
                    will_qos: self.will_qos,
                    will_retain: self.will_retain,
                }
            }
        }
    )*};
}

client! { SourceSettings SinkSettings }

impl Client<'_> {
    /// Checks what concerns more than one of them.
    fn check(&self) -> Result<(), FieldError> {
        checks::id("client-id", self.client_id, TEXT_MAX)?;
        for (field, value) in [("username", self.username), ("will-payload", self.will_payload)] {
            if let Some(text) = value
                && text.len() > TEXT_MAX
            {
                let message = format!("must be at most {TEXT_MAX} bytes");
                return Err(FieldError::invalid(field, text, message));
            }
        }
        checks::path("password-file", self.password_file)?;
        match (self.username, self.password_file) {
            (Some(name), _) if name.contains('\0') => {
                Err(FieldError::invalid("username", name, "must not contain the null character"))
            }
            // MQTT 3.1.1, section 3.1.2.9: no password without a user name.
            (None, Some(path)) if self.version == Version::V311 => {
                Err(FieldError::invalid("password-file", path, "needs a username in MQTT 3.1.1"))
            }
            _ => Ok(()),
        }?;
        self.check_tls()?;
        self.check_will()
    }

    fn check_tls(&self) -> Result<(), FieldError> {
        let missing = "needs TLS: a url that begins with mqtts:// or wss://";
        let files =
            TlsFiles { ca: self.tls_ca_file, cert: self.tls_cert_file, key: self.tls_key_file };
        files.check((!self.url.tls()).then_some(missing))
    }

    fn check_will(&self) -> Result<(), FieldError> {
        if self.will_topic.is_some() {
            return Ok(());
        }
        let qos = self.will_qos.map(|qos| qos.number().to_string());
        let retain = self.will_retain.map(|retain| retain.to_string());
        let parts = [
            ("will-payload", self.will_payload),
            ("will-qos", qos.as_deref()),
            ("will-retain", retain.as_deref()),
        ];
        match parts.into_iter().find_map(|(field, value)| Some((field, value?))) {
            Some((field, value)) => Err(FieldError::invalid(field, value, "needs a will-topic")),
            None => Ok(()),
        }
    }
}
