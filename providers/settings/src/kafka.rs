//! Settings of the Kafka connector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::checks::{self, TlsFiles};
use crate::flat::FieldError;
use crate::kafka_values::{Brokers, KafkaTopic, Partitions, Start, Topics};
use crate::values::{Bytes, Count, Duration};

/// Longest group or client identifier, in bytes: it is part of every request.
const ID_MAX: usize = 255;

/// How a client says who it is (SASL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Sasl {
    /// User name and password, sent as they are: use it with `tls`.
    Plain,
    /// Challenge and response with SHA-256 (RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// Challenge and response with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// A token that somebody else issued (RFC 7628).
    Oauthbearer,
}

/// What a source sees of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum IsolationLevel {
    /// Only what was committed.
    #[default]
    ReadCommitted,
    /// Everything, also what was or will be aborted.
    ReadUncommitted,
}

/// How record batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Small and slow.
    Gzip,
    /// Fast.
    Snappy,
    /// Fast.
    Lz4,
    /// Small and fairly fast.
    Zstd,
}

/// How a record's partition is chosen, by the names of librdkafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Partitioner {
    /// As Java clients do: by the key's hash, without a key any.
    #[default]
    Murmur2Random,
    /// By the key's hash as in Java clients; records without a key all in one.
    Murmur2,
    /// By the key's CRC-32, without a key any: the default of librdkafka.
    ConsistentRandom,
    /// By the key's CRC-32; records without a key all in one.
    Consistent,
    /// By the key's FNV-1a hash, without a key any: as in Go's Sarama.
    Fnv1aRandom,
    /// By the key's FNV-1a hash; records without a key all in one.
    Fnv1a,
    /// Any, also for records with a key.
    Random,
}

/// Reads topics of a Kafka cluster. An offset is stored in the group only when
/// the pipeline has the record, and all before it in its partition, safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSettings {
    /// Brokers to ask for the cluster: `host:port`, several separated by
    /// commas. The port is 9092 when left out.
    pub brokers: Brokers,
    /// Topics to read, several separated by commas, or one regular expression
    /// that begins with `^`.
    pub topics: Topics,
    /// Consumer group, 1 to 255 bytes: its members share the partitions, and
    /// offsets are stored in its name. Without it, one made from the names of
    /// pipeline, source and stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where a partition without a stored offset is read from: `earliest`,
    /// `latest`, or a time as in RFC 3339.
    #[serde(default)]
    pub start: Start,
    /// Partitions to read, such as `0,1,5-7`, the same of each topic. Then they
    /// are not shared out by the group. Only with topics by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Partitions>,
    /// Whether records of transactions are read before they are committed.
    #[serde(default)]
    pub isolation_level: IsolationLevel,
    /// Silence after which the group gives this member's partitions to others,
    /// from 6s to 30m. The broker may allow less.
    #[serde(default = "session_timeout")]
    pub session_timeout: Duration<6_000, 1_800_000>,
    /// Most records taken and not yet safe, 1 to 1000000.
    #[serde(default = "window")]
    pub window: Count<1, 1_000_000>,
    /// Most bytes fetched ahead and kept in memory, from 64KiB to 128MiB.
    #[serde(default = "fetch_bytes")]
    pub fetch_bytes: Bytes<65_536, { 128 << 20 }>,
    /// Most bytes asked for of one partition at once, from 1KiB to 128MiB; a
    /// larger record comes alone. Not above `fetch-bytes`.
    #[serde(default = "partition_fetch_bytes")]
    pub partition_fetch_bytes: Bytes<1_024, { 128 << 20 }>,
    /// How long a broker waits for records before it answers that there are
    /// none, from 1ms to 5s.
    #[serde(default = "fetch_wait")]
    pub fetch_wait: Duration<1, 5_000>,
    /// Whether messages get the headers `kafka-partition` and `kafka-offset`.
    #[serde(default)]
    pub coordinates: bool,
    /// Client identifier, 1 to 255 bytes, for the brokers' logs and quotas.
    /// Without it, one made from the names of pipeline, source and stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whether connections use TLS.
    #[serde(default)]
    pub tls: bool,
    /// File with the certificates of authorities to trust (PEM), where the
    /// source runs. Without it those of the system. Read when connecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<String>,
    /// File with this client's certificate (PEM), for brokers that ask for
    /// one. Needs `tls-key-file`. Read when connecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// File with the certificate's private key (PEM, not encrypted).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// How to log in. Without it, not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// User name at the brokers, for `plain` and `scram-sha-*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, on the machine where the source runs. Read when
    /// connecting; a final line break is not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// File with the token for `oauthbearer`. Read at each log-in, and again
    /// before the token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

/// Writes records to a Kafka cluster. The stage before it goes on only when all
/// in-sync replicas have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkSettings {
    /// Brokers to ask for the cluster: `host:port`, several separated by
    /// commas. The port is 9092 when left out.
    pub brokers: Brokers,
    /// Topic to write to. `{topic}` and `{key}` stand for those of the message;
    /// in them `/` becomes a dot, and what Kafka does not allow an underscore.
    pub topic: KafkaTopic,
    /// How records are compressed: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    #[serde(default)]
    pub compression: Compression,
    /// How a record's partition is chosen. The default puts a key where Java
    /// clients put it, and spreads records without a key.
    #[serde(default)]
    pub partitioner: Partitioner,
    /// How long a record waits for others to be sent with, from 0ms to 1s.
    #[serde(default = "sink_linger")]
    pub linger: Duration<0, 1_000>,
    /// Most bytes sent as one batch of records, from 1KiB to 16MiB. Not above
    /// what the brokers take (`message.max.bytes`).
    #[serde(default = "sink_batch_bytes")]
    pub batch_bytes: Bytes<1_024, { 16 << 20 }>,
    /// How long a record may wait for its acknowledgement before the write
    /// fails and is made again, from 500ms to 2500ms: a stage has to have its
    /// answer within a few seconds.
    #[serde(default = "message_timeout")]
    pub message_timeout: Duration<500, 2_500>,
    /// Client identifier, 1 to 255 bytes, for the brokers' logs and quotas.
    /// Without it, one made from the names of pipeline, sink and stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whether connections use TLS.
    #[serde(default)]
    pub tls: bool,
    /// File with the certificates of authorities to trust (PEM), where the sink
    /// runs. Without it those of the system. Read when connecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<String>,
    /// File with this client's certificate (PEM), for brokers that ask for
    /// one. Needs `tls-key-file`. Read when connecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// File with the certificate's private key (PEM, not encrypted).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// How to log in. Without it, not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// User name at the brokers, for `plain` and `scram-sha-*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, on the machine where the sink runs. Read when
    /// connecting; a final line break is not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// File with the token for `oauthbearer`. Read at each log-in, and again
    /// before the token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

const fn session_timeout() -> Duration<6_000, 1_800_000> {
    Duration::from_millis(10_000)
}

/// Twice the default of four batches of 500 in flight.
const fn window() -> Count<1, 1_000_000> {
    Count::clamped(4_000)
}

const fn fetch_bytes() -> Bytes<65_536, { 128 << 20 }> {
    Bytes::from_bytes(16 << 20)
}

const fn partition_fetch_bytes() -> Bytes<1_024, { 128 << 20 }> {
    Bytes::from_bytes(1 << 20)
}

const fn fetch_wait() -> Duration<1, 5_000> {
    Duration::from_millis(500)
}

const fn sink_linger() -> Duration<0, 1_000> {
    Duration::from_millis(5)
}

/// Below the brokers' default of 1 MiB.
const fn sink_batch_bytes() -> Bytes<1_024, { 16 << 20 }> {
    Bytes::from_bytes(512 * 1024)
}

const fn message_timeout() -> Duration<500, 2_500> {
    Duration::from_millis(2_500)
}

/// How to reach a cluster: what source and sink have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Brokers to ask for the cluster.
    pub brokers: Brokers,
    /// Client identifier, if one was given.
    pub client_id: Option<String>,
    /// Whether connections use TLS.
    pub tls: bool,
    /// Authorities to trust.
    pub tls_ca_file: Option<String>,
    /// This client's certificate.
    pub tls_cert_file: Option<String>,
    /// Its private key.
    pub tls_key_file: Option<String>,
    /// How to log in.
    pub sasl: Option<Sasl>,
    /// User name.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<String>,
    /// File with the token.
    pub token_file: Option<String>,
}

macro_rules! access {
    ($type:ty) => {
        impl $type {
            /// How to reach the cluster.
            #[must_use]
            pub fn access(&self) -> Access {
                Access {
                    brokers: self.brokers.clone(),
                    client_id: self.client_id.clone(),
                    tls: self.tls,
                    tls_ca_file: self.tls_ca_file.clone(),
                    tls_cert_file: self.tls_cert_file.clone(),
                    tls_key_file: self.tls_key_file.clone(),
                    sasl: self.sasl,
                    username: self.username.clone(),
                    password_file: self.password_file.clone(),
                    token_file: self.token_file.clone(),
                }
            }
        }
    };
}

access!(SourceSettings);
access!(SinkSettings);

impl Settings for SourceSettings {
    fn check(&self) -> Result<(), FieldError> {
        checks::id("group", self.group.as_deref(), ID_MAX)?;
        if let Some(partitions) = &self.partitions
            && self.topics.has_pattern()
        {
            let message = "needs topics by name: a regular expression is for groups";
            return Err(FieldError::invalid("partitions", &partitions.to_string(), message));
        }
        if self.partition_fetch_bytes.get() > self.fetch_bytes.get() {
            return Err(FieldError::invalid(
                "partition-fetch-bytes",
                &self.partition_fetch_bytes.to_string(),
                format!("must not be above fetch-bytes, which is {}", self.fetch_bytes),
            ));
        }
        self.access().check()
    }
}

impl Settings for SinkSettings {
    fn check(&self) -> Result<(), FieldError> {
        self.access().check()
    }
}

impl Access {
    fn check(&self) -> Result<(), FieldError> {
        checks::id("client-id", self.client_id.as_deref(), ID_MAX)?;
        let files = TlsFiles {
            ca: self.tls_ca_file.as_deref(),
            cert: self.tls_cert_file.as_deref(),
            key: self.tls_key_file.as_deref(),
        };
        files.check((!self.tls).then_some("needs tls: true"))?;
        checks::path("password-file", self.password_file.as_deref())?;
        checks::path("token-file", self.token_file.as_deref())?;
        self.check_sasl()
    }

    fn check_sasl(&self) -> Result<(), FieldError> {
        let sasl = match self.sasl {
            None => "",
            Some(Sasl::Plain) => "plain",
            Some(Sasl::ScramSha256) => "scram-sha-256",
            Some(Sasl::ScramSha512) => "scram-sha-512",
            Some(Sasl::Oauthbearer) => "oauthbearer",
        };
        let given = [
            ("username", &self.username),
            ("password-file", &self.password_file),
            ("token-file", &self.token_file),
        ];
        for (field, value) in given {
            let wanted = match self.sasl {
                None => false,
                Some(Sasl::Oauthbearer) => field == "token-file",
                Some(_) => field != "token-file",
            };
            match value {
                Some(value) if sasl.is_empty() => {
                    return Err(FieldError::invalid(field, value, "needs sasl: how to log in"));
                }
                Some(value) if !wanted => {
                    let message = format!("is not used with sasl: {sasl}");
                    return Err(FieldError::invalid(field, value, message));
                }
                Some(value) if value.is_empty() || value.contains('\0') => {
                    return Err(FieldError::invalid(field, "", "must not be empty"));
                }
                None if wanted => {
                    return Err(FieldError::invalid("sasl", sasl, format!("needs {field}")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
