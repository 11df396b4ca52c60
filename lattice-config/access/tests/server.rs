//! Connections to a real server, and what is said when there are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_access::{Access, AccessError};
use millrace_peers::{Authority, Identity, NatsOptions, NatsServer, Validity};
use nkeys::KeyPair;

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn credentials(folder: &Path, claims: &str) -> PathBuf {
    let (path, key) = (folder.join("user.creds"), KeyPair::new_user());
    let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let seed = key.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    private(&path, &text);
    path
}

async fn refused(access: &Access, url: &str) -> AccessError {
    access.connect("test", url).await.expect_err("no connection")
}

#[tokio::test]
async fn without_credentials_a_server_that_wants_some_says_so() {
    let config = "authorization { user: a, password: b }".to_owned();
    let server = NatsServer::start_with(&NatsOptions { config, ..Default::default() }).unwrap();
    let error = refused(&Access::default(), &server.url()).await;
    assert!(matches!(error, AccessError::Wanted { .. }), "{error}");
    assert!(error.to_string().contains("--creds"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let creds = credentials(folder.path(), r#"{"name":"eve"}"#);
    let error = refused(&Access { creds: Some(creds), tls_ca: None }, &server.url()).await;
    assert!(error.to_string().contains("refuses the credentials of user `eve`"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_serve_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let of = |creds: &Path| Access { creds: Some(creds.to_owned()), tls_ca: None };
    let nobody = "nats://127.0.0.1:1";

    let error = refused(&of(&folder.path().join("none")), nobody).await;
    assert!(matches!(error, AccessError::File { .. }), "{error}");

    let past = credentials(folder.path(), r#"{"exp":1000}"#);
    let error = refused(&of(&past), nobody).await;
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(error.to_string().contains("millrace tenant creds"), "{error}");

    let future = credentials(folder.path(), r#"{"nbf":99999999999}"#);
    let error = refused(&of(&future), nobody).await;
    assert!(error.to_string().contains("clock"), "{error}");

    let loose = credentials(folder.path(), "{}");
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = refused(&of(&loose), nobody).await;
    assert!(error.to_string().contains("chmod 600"), "{error}");

    private(&loose, &"x".repeat(1 << 20));
    let error = refused(&of(&loose), nobody).await;
    assert!(error.to_string().contains("larger"), "{error}");
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_alone() {
    let folder = tempfile::tempdir().unwrap();
    let own = Authority::new(folder.path(), "own").unwrap();
    let other = Authority::new(folder.path(), "other").unwrap();
    let of = |ca: &Path| Access { creds: None, tls_ca: Some(ca.to_owned()) };
    let serve = |identity: &Identity| {
        let (certificate, key) = (&identity.certificate, &identity.key);
        let config = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
        NatsServer::start_with(&NatsOptions { config, ..Default::default() }).unwrap()
    };

    let server = serve(&own.sign("127.0.0.1", Validity::Valid).unwrap());
    of(own.file()).connect("test", &server.url()).await.unwrap();
    let error = refused(&of(other.file()), &server.url()).await;
    assert!(error.to_string().contains("Another authority signed"), "{error}");
    let error = refused(&Access::default(), &server.url()).await;
    assert!(error.to_string().contains("with --tls-ca"), "{error}");

    let old = serve(&own.sign("127.0.0.1", Validity::Expired).unwrap());
    let error = refused(&of(own.file()), &old.url()).await;
    assert!(error.to_string().contains("certificate has expired"), "{error}");
    let elsewhere = serve(&own.sign("127.0.0.2", Validity::Valid).unwrap());
    let error = refused(&of(own.file()), &elsewhere.url()).await;
    assert!(error.to_string().contains("for another name"), "{error}");

    // A server that could be anybody gets no word of it.
    let plain = NatsServer::start().unwrap();
    let error = refused(&of(own.file()), &plain.url()).await;
    assert!(error.to_string().contains("does not speak TLS"), "{error}");

    let empty = folder.path().join("empty.pem");
    private(&empty, "nothing");
    let error = refused(&of(&empty), &server.url()).await;
    assert!(error.to_string().contains("holds no certificate"), "{error}");
    assert_eq!(of(own.file()).url("nats://a:1"), "tls://a:1");
    assert_eq!(Access::default().url("nats://a:1"), "nats://a:1");
}
