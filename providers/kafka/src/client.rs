//! How a client of librdkafka is made: addresses, TLS, log-in.
//!
//! librdkafka reads certificates and passwords once, when a client is made. So
//! files are read anew by making the client anew, which source and sink do when
//! a broker refuses who they are.

use std::path::Path;

use millrace_settings::kafka::{Access, Sasl};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// Longest password or token read from a file, in bytes.
const SECRET_MAX: u64 = 65_535;

/// Largest answer taken from a broker, in bytes. A record larger than a batch
/// has to come through to be dead-lettered.
const RECEIVE_MAX: &str = "268435456";

/// The properties that source and sink have in common, with files read now.
///
/// # Errors
///
/// When a file cannot be read. The text names the setting.
pub(crate) async fn config(access: &Access, client_id: &str) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", access.brokers.to_string())
        .set("client.id", access.client_id.as_deref().unwrap_or(client_id))
        .set("receive.message.max.bytes", RECEIVE_MAX)
        .set("socket.keepalive.enable", "true")
        // A broker that is there and does not answer is given up after this.
        .set("socket.timeout.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        .set("topic.metadata.refresh.interval.ms", "10000")
        // Nothing is told to the brokers that nobody asked for (KIP-714).
        .set("enable.metrics.push", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    let protocol = match (access.tls, access.sasl.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    let files = [
        ("tls-ca-file", "ssl.ca.location", &access.tls_ca_file),
        ("tls-cert-file", "ssl.certificate.location", &access.tls_cert_file),
        ("tls-key-file", "ssl.key.location", &access.tls_key_file),
    ];
    for (setting, property, file) in files {
        if let Some(file) = file {
            readable(setting, file).await?;
            config.set(property, file);
        }
    }
    match access.sasl {
        Some(Sasl::Oauthbearer) => {
            config.set("sasl.mechanisms", "OAUTHBEARER");
        }
        Some(mechanism) => {
            config
                .set("sasl.mechanisms", mechanism_name(mechanism))
                .set("sasl.username", access.username.as_deref().unwrap_or_default())
                .set("sasl.password", password(access).await?);
        }
        None => {}
    }
    Ok(config)
}

const fn mechanism_name(sasl: Sasl) -> &'static str {
    match sasl {
        Sasl::Plain => "PLAIN",
        Sasl::ScramSha256 => "SCRAM-SHA-256",
        Sasl::ScramSha512 => "SCRAM-SHA-512",
        Sasl::Oauthbearer => "OAUTHBEARER",
    }
}

/// librdkafka's own words for a file it cannot read do not name the setting.
async fn readable(setting: &str, file: &str) -> Result<(), String> {
    match tokio::fs::read(file).await {
        Ok(text) if text.is_empty() => Err(format!("{setting} {file}: is empty")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{setting} {file}: {error}")),
    }
}

async fn password(access: &Access) -> Result<String, String> {
    let file = access.password_file.clone().unwrap_or_default();
    let read = tokio::task::spawn_blocking(move || {
        secret(Path::new(&file)).map_err(|error| format!("password-file {file}: {error}"))
    });
    read.await.map_err(|error| error.to_string())?
}

/// A password or token as it is in its file now, without a final line break.
pub(crate) fn secret(file: &Path) -> Result<String, String> {
    let length = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
    if length > SECRET_MAX {
        return Err(format!("is longer than {SECRET_MAX} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("contains a null character".to_owned());
    }
    Ok(text.to_owned())
}
