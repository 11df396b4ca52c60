//! Log-in and TLS, right and wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;
mod trial;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::*;
use millrace_kit::{Sink, State, WriteError};
use millrace_peers::{KAFKA_USER, Kafka};

/// A file with this text, for as long as the folder lives.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// A token that nobody has signed, as the broker takes them.
fn token(seconds: u64) -> String {
    let now = millrace_kit::telemetry::now_ms() / 1_000;
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let head = part(r#"{"alg":"none"}"#.to_owned());
    let claims = format!(r#"{{"sub":"press","iat":{now},"exp":{}}}"#, now + seconds);
    format!("{head}.{}.", part(claims))
}

/// One message through a sink and a source with these settings.
async fn goes_round(kafka: &Kafka, brokers: &str, pairs: &[(&str, &str)]) {
    let name = unique("secure");
    topic(kafka, &name, 1, &[]).await;
    let near = Near::open();
    let with = |field| -> Vec<(&str, &str)> {
        pairs.iter().copied().chain([(field, name.as_str())]).collect()
    };
    let source = source(brokers, &near, &with("topics")).await;
    let (sink, _) = sink(brokers, &near, &with("topic")).await;
    sink.write(batch(["x".to_owned()])).await.unwrap();
    near.until(1, Duration::from_secs(20)).await;
    source.drain().await;
    sink.close().await;
}

/// Source and sink retry, for a reason with these words, and a write fails.
async fn refused(brokers: &str, pairs: &[(&str, &str)], words: &str) {
    let near = Near::open();
    let with =
        |field| -> Vec<(&str, &str)> { pairs.iter().copied().chain([(field, "t")]).collect() };
    let source = start_source(brokers, &near, &with("topics"));
    let (sink, link) = start_sink(brokers, &near, &with("topic"));
    for link in [&source.link, &link] {
        let error = retries_with(link, words).await;
        println!("{error}");
        assert!(!error.contains(KAFKA_USER.1), "no password in it: {error}");
    }
    let error = sink.write(batch(["x".to_owned()])).await.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }), "{error:?}");
    source.drain().await;
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mechanism_logs_in_with_and_without_tls() {
    let kafka = kafka();
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", &format!("{}\n", KAFKA_USER.1));
    let token = file(&folder, "token", &token(3_600));
    let ca = kafka.certificates().path("ca.pem");
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512", "oauthbearer"] {
        let mut pairs = vec![("sasl", mechanism)];
        if mechanism == "oauthbearer" {
            pairs.push(("token-file", &token));
        } else {
            pairs.extend([("username", KAFKA_USER.0), ("password-file", &password)]);
        }
        goes_round(kafka, &kafka.brokers_sasl(), &pairs).await;
        pairs.extend([("tls", "true"), ("tls-ca-file", ca.as_str())]);
        goes_round(kafka, &kafka.brokers_sasl_tls(), &pairs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_clear_status_and_a_right_one_is_taken_up() {
    let kafka = kafka();
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "wrong");
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let pairs = [("sasl", mechanism), ("username", KAFKA_USER.0), ("password-file", &password)];
        refused(&kafka.brokers_sasl(), &pairs, "uthentication").await;
    }
    let name = unique("mended");
    topic(kafka, &name, 1, &[]).await;
    let near = Near::open();
    let pairs = [
        ("sasl", "scram-sha-256"),
        ("username", KAFKA_USER.0),
        ("password-file", &password),
        ("topics", &name),
    ];
    let source = start_source(&kafka.brokers_sasl(), &near, &pairs);
    retries_with(&source.link, "uthentication").await;
    std::fs::remove_file(&password).unwrap();
    let error = retries_with(&source.link, "password-file").await;
    assert!(error.contains(&password), "{error}");
    file(&folder, "password", KAFKA_USER.1);
    reaches(&source.link, State::Connected).await;
    source.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_or_is_none_is_refused() {
    let kafka = kafka();
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone").to_string_lossy().into_owned();
    let pairs = [("sasl", "oauthbearer"), ("token-file", gone.as_str())];
    refused(&kafka.brokers_sasl(), &pairs, "token-file").await;
    let nonsense = file(&folder, "nonsense", "no.token");
    let pairs = [("sasl", "oauthbearer"), ("token-file", nonsense.as_str())];
    refused(&kafka.brokers_sasl(), &pairs, "uthentication").await;
    let old = file(&folder, "old", &token(0));
    let pairs = [("sasl", "oauthbearer"), ("token-file", old.as_str())];
    refused(&kafka.brokers_sasl(), &pairs, "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_mutual_tls_go_round() {
    let kafka = kafka();
    let path = |name| kafka.certificates().path(name);
    let (ca, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let mut pairs = vec![("tls", "true"), ("tls-ca-file", ca.as_str())];
    goes_round(kafka, &kafka.brokers_tls(), &pairs).await;
    pairs.extend([("tls-cert-file", certificate.as_str()), ("tls-key-file", key.as_str())]);
    goes_round(kafka, &kafka.brokers_mutual_tls(), &pairs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_is_a_clear_status() {
    let kafka = kafka();
    let path = |name| kafka.certificates().path(name);
    let ca = path("ca.pem");
    let tls = ("tls", "true");
    // Nobody we trust has signed it.
    let stranger = path("stranger-ca.pem");
    let pairs = [tls, ("tls-ca-file", stranger.as_str())];
    refused(&kafka.brokers_tls(), &pairs, "certificate verify failed").await;
    // The authorities of the system do not know it either.
    refused(&kafka.brokers_tls(), &[tls], "certificate verify failed").await;
    // It is for another name.
    let pairs = [tls, ("tls-ca-file", ca.as_str())];
    refused(&kafka.brokers_tls_other_name(), &pairs, "certificate verify failed").await;
    // TLS where there is none, and none where there is.
    refused(&kafka.brokers(), &pairs, "").await;
    refused(&kafka.brokers_tls(), &[], "").await;
    // Files that are not there, or not what they should be.
    let gone = path("gone.pem");
    refused(&kafka.brokers_tls(), &[tls, ("tls-ca-file", &gone)], "tls-ca-file").await;
    let key = path("client.key");
    refused(&kafka.brokers_tls(), &[tls, ("tls-ca-file", &key)], "ssl.ca.location").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_wrong_or_none_is_refused_by_the_broker() {
    let kafka = kafka();
    let path = |name: &str| kafka.certificates().path(name);
    let ca = path("ca.pem");
    let tls = [("tls", "true"), ("tls-ca-file", ca.as_str())];
    refused(&kafka.brokers_mutual_tls(), &tls, "SSL").await;
    for name in ["client-expired", "client-stranger"] {
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let mut pairs = tls.to_vec();
        pairs.extend([("tls-cert-file", certificate.as_str()), ("tls-key-file", key.as_str())]);
        refused(&kafka.brokers_mutual_tls(), &pairs, "SSL").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_certificate_has_expired_is_refused_until_it_has_another() {
    let mut kafka = Kafka::start().unwrap();
    let ca = kafka.certificates().path("ca.pem");
    let good = std::fs::read_to_string(kafka.certificates().path("server.pem")).unwrap();
    let pairs = [("tls", "true"), ("tls-ca-file", ca.as_str()), ("topic", "line")];
    let near = Near::open();
    let (sink, link) = sink(&kafka.brokers_tls(), &near, &pairs).await;
    for bad in [kafka.certificates().expired_server(), kafka.certificates().other_server()]
        .map(str::to_owned)
    {
        kafka.stop().unwrap();
        kafka.use_server_certificate(&bad).unwrap();
        kafka.restart().unwrap();
        let error = retries_with(&link, "has expired, is for another name").await;
        assert!(error.contains("tls-ca-file"), "{error}");
    }
    kafka.stop().unwrap();
    kafka.use_server_certificate(&good).unwrap();
    kafka.restart().unwrap();
    reaches(&link, State::Connected).await;
    topic(&kafka, "line", 1, &[]).await;
    write(&sink, batch(["x".to_owned()])).await;
    sink.close().await;
}
