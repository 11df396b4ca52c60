//! Tenants: accounts of one NATS server, each with a lattice, a host and wadm of its own, over TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::TryStreamExt as _;
use millrace_access::Access;
use millrace_peers::{Authority, Mosquitto, NatsOptions, NatsServer, Validity};
use millrace_platform::{Host, HostOptions, find};
use millrace_tests::{ALERTS, Answer, Collector, mqtt, subscribe, until};
use nkeys::KeyPair;
use rumqttc::QoS;
use serde_json::{Value, json};
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds of users that the platform's own parts have, and one for people.
const USERS: [&str; 5] = ["ctl", "rpc", "provider", "wadm", "operator"];

/// A JWT of NATS: <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt>.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let claims = json!({
        "jti": format!("{name}-1"), "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject,
        "nats": nats,
    });
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn account(operator: &KeyPair, key: &KeyPair, name: &str, stored: i64) -> String {
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": stored, "disk_storage": stored, "streams": -1, "consumer": -1,
    });
    jwt(
        operator,
        &key.public_key(),
        name,
        &json!({ "type": "account", "version": 2, "limits": limits }),
    )
}

/// A server in operator mode with two tenants, and certificates by an authority that no machine trusts by itself.
struct Platform {
    nats: NatsServer,
    ca: PathBuf,
    mosquitto: Mosquitto,
    folder: tempfile::TempDir,
}

impl Platform {
    fn start(tenants: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "platform").unwrap();
        let server = authority.sign("127.0.0.1", Validity::Valid).unwrap();
        let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
        let mut accounts = vec![(system.public_key(), account(&operator, &system, "SYS", 0))];
        for tenant in tenants {
            let key = KeyPair::new_account();
            accounts.push((key.public_key(), account(&operator, &key, tenant, 1 << 30)));
            for user in USERS {
                credentials(&key, tenant, user, &file_of(folder.path(), tenant, user));
            }
        }
        let own =
            json!({ "type": "operator", "version": 2, "system_account": system.public_key() });
        let preload: String = accounts.iter().map(|(id, jwt)| format!("  {id}: {jwt}\n")).collect();
        let config = format!(
            "operator: {}\nresolver: MEMORY\nresolver_preload {{\n{preload}}}\ntls {{ cert_file: {:?}, key_file: {:?} }}\n",
            jwt(&operator, &operator.public_key(), "platform", &own),
            server.certificate,
            server.key,
        );
        let nats = NatsServer::start_with(&NatsOptions { config, ..Default::default() }).unwrap();
        let mosquitto = Mosquitto::start_with("allow_anonymous true\n").unwrap();
        Self { nats, ca: authority.file().to_owned(), mosquitto, folder }
    }

    fn creds(&self, tenant: &str, user: &str) -> PathBuf {
        file_of(self.folder.path(), tenant, user)
    }

    fn access(&self, tenant: &str) -> Access {
        let creds = self.creds(tenant, "operator");
        Access { creds: Some(creds), tls_ca: Some(self.ca.clone()) }
    }

    async fn host(&self, tenant: &str) -> Host {
        let creds = |user: &str| format!("--{user}-creds={}", self.creds(tenant, user).display());
        let options = HostOptions {
            nats_url: self.nats.url(),
            lattice: tenant.to_owned(),
            access: self.access(tenant),
            dir: self.folder.path().join(tenant),
            arguments: ["ctl", "rpc", "provider", "wadm"].map(creds).to_vec(),
            through: Vec::new(),
        };
        Host::start(&options).await.expect("host")
    }

    /// Runs `millrace` with a tenant's credentials. They name the lattice.
    async fn millrace(&self, tenant: &str, arguments: &[&str]) -> Answer {
        self.millrace_with(&self.creds(tenant, "operator"), arguments).await
    }

    async fn millrace_with(&self, creds: &Path, arguments: &[&str]) -> Answer {
        let output = Command::new(find::home().join("bin/millrace"))
            .args(arguments)
            .arg("--json")
            .env("MILLRACE_NATS_URL", self.nats.url())
            .env("MILLRACE_CREDS", creds)
            .env("MILLRACE_TLS_CA", &self.ca)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("millrace is installed: `make build`");
        output.into()
    }

    async fn streams(&self, tenant: &str) -> Vec<String> {
        let client = self.access(tenant).connect("test", &self.nats.url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        js.stream_names().try_collect().await.unwrap()
    }
}

/// The same pipeline for each tenant, between topics of its own.
fn define(folder: &Path, mosquitto: &Mosquitto, tenant: &str) -> PathBuf {
    let components = find::home().join("components");
    let text = ALERTS
        .replace("{url}", &mosquitto.url())
        .replace("{components}", components.to_str().unwrap())
        .replace("plant/", &format!("{tenant}/"));
    let file = folder.join(format!("{tenant}.yaml"));
    std::fs::write(&file, text).unwrap();
    file
}

async fn collect(mosquitto: &Mosquitto, tenant: &str) -> Collector {
    let collector = Collector::default();
    let own = collector.clone();
    let client = mqtt(mosquitto.port(), &format!("collector-{tenant}"));
    subscribe(client, &format!("{tenant}/alerts"), move |payload| own.take(payload)).await;
    collector
}

async fn publish(mosquitto: &Mosquitto, tenant: &str, seqs: std::ops::Range<u64>) {
    let name = format!("machine-{tenant}-{}", seqs.start);
    let (client, mut events) = mqtt(mosquitto.port(), &name);
    let sending = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    for seq in seqs {
        let reading = millrace_tests::reading(seq);
        let topic = format!("{tenant}/m1/temperature");
        client.publish(topic, QoS::AtLeastOnce, false, reading).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    sending.abort();
}

fn file_of(folder: &Path, tenant: &str, user: &str) -> PathBuf {
    folder.join(format!("{tenant}-{user}.creds"))
}

fn credentials(account: &KeyPair, tenant: &str, user: &str, file: &Path) {
    let key = KeyPair::new_user();
    let claims = json!({
        "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        "tags": [format!("lattice:{tenant}")],
    });
    let token = jwt(account, &key.public_key(), &format!("{tenant}-{user}"), &claims);
    let seed = key.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_run_the_same_pipeline_and_see_nothing_of_each_other() {
    const TENANTS: [&str; 2] = ["acme", "beta"];
    let platform = Platform::start(&TENANTS);
    let mut hosts = Vec::new();
    let mut collectors = Vec::new();
    for tenant in TENANTS {
        hosts.push(platform.host(tenant).await);
        let file = define(platform.folder.path(), &platform.mosquitto, tenant);
        let deployed =
            platform.millrace(tenant, &["pipeline", "deploy", file.to_str().unwrap()]).await;
        let log = std::fs::read_to_string(platform.folder.path().join(tenant).join("host.log"));
        assert_eq!(
            deployed.code,
            0,
            "{tenant}: {deployed:?}\n{}\n{}",
            log.unwrap(),
            platform.nats.log()
        );
        collectors.push(collect(&platform.mosquitto, tenant).await);
    }
    publish(&platform.mosquitto, "acme", 0..200).await;
    publish(&platform.mosquitto, "beta", 200..400).await;
    collectors[0].wait_for(&millrace_tests::hot(0..200), PATIENCE).await;
    collectors[1].wait_for(&millrace_tests::hot(200..400), PATIENCE).await;
    assert_eq!(collectors[0].seqs(), millrace_tests::hot(0..200));
    assert_eq!(collectors[1].seqs(), millrace_tests::hot(200..400));

    for (tenant, other) in [("acme", "beta"), ("beta", "acme")] {
        let streams = platform.streams(tenant).await;
        assert!(
            streams.contains(&format!("MILLRACE_{tenant}_alerts_celsius_too-hot")),
            "{streams:?}"
        );
        assert!(streams.iter().all(|name| !name.contains(other)), "{tenant}: {streams:?}");
        let seen = platform.millrace(tenant, &["metrics"]).await;
        assert_eq!(seen.code, 0, "{seen:?}");
        assert!(seen.stdout.contains(tenant) || seen.stdout.contains("alerts"), "{seen:?}");
        // The name of another's lattice is no way in.
        let seen = platform.millrace(tenant, &["metrics", "--lattice", other]).await;
        assert!(seen.stderr.contains("no host answers on lattice"), "{seen:?}");
        // Its own wadm answers to any name, and knows of nothing there.
        let seen = platform.millrace(tenant, &["provider", "list", "--lattice", other]).await;
        assert_eq!((seen.code, seen.json()), (0, json!([])), "{seen:?}");
    }
    let log = platform.nats.log();
    assert!(!log.to_lowercase().contains("violation"), "{log}");

    // Who shows nothing is told what to show.
    let nobody = platform.millrace_with(Path::new(""), &["provider", "list"]).await;
    assert!(nobody.stderr.contains("--creds"), "{nobody:?}");
    for host in hosts {
        host.stop().await;
    }
    let left = std::fs::read_dir(platform.folder.path().join("acme/tmp")).unwrap().flatten();
    let left: Vec<_> =
        left.map(|e| e.file_name()).filter(|n| n.to_string_lossy().contains("trust")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `millrace up --tenants` and what is done to tenants while it runs, with the platform's own roles.
struct Up {
    process: std::process::Child,
    folder: tempfile::TempDir,
    url: String,
    mosquitto: Mosquitto,
}

impl Up {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = millrace_peers::free_port().unwrap();
        let mut process = std::process::Command::new(find::home().join("bin/millrace"))
            .args(["up", "--tenants", "--json", "--nats-port", &port.to_string(), "--data"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "`millrace up` ended");
        let mosquitto = Mosquitto::start_with("allow_anonymous true\n").unwrap();
        Self { process, folder, url: format!("nats://127.0.0.1:{port}"), mosquitto }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("lattices/tls/ca.pem")
    }

    async fn run(&self, creds: Option<&Path>, arguments: &[&str]) -> Answer {
        let output = Command::new(find::home().join("bin/millrace"))
            .args(arguments)
            .arg("--json")
            .env("MILLRACE_NATS_URL", &self.url)
            .env("MILLRACE_DATA", self.folder.path())
            .env("MILLRACE_TLS_CA", self.ca())
            .env("MILLRACE_CREDS", creds.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        output.into()
    }

    /// Runs `millrace tenant`, which has to do it.
    async fn tenant(&self, arguments: &[&str]) -> Value {
        let answer = self.run(None, &[&["tenant"], arguments].concat()).await;
        assert_eq!(answer.code, 0, "{arguments:?}: {answer:?}");
        answer.json()
    }

    async fn creds(&self, tenant: &str, more: &[&str]) -> PathBuf {
        let file = self.folder.path().join(format!("{tenant}{}.creds", more.join("")));
        let to = ["creds", tenant, "--out", file.to_str().unwrap()];
        self.tenant(&[&to, more].concat()).await;
        file
    }

    /// Waits until a tenant's host and wadm answer to its engineer.
    async fn works(&self, creds: &Path) {
        until("the tenant's host answers", PATIENCE, async || {
            self.run(Some(creds), &["metrics"]).await.code == 0
        })
        .await;
    }

    fn log(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_come_work_are_suspended_and_go_while_the_platform_runs() {
    let up = Up::start();
    let mut engineers = Vec::new();
    for tenant in ["acme", "beta"] {
        let added = up.tenant(&["add", tenant]).await;
        assert_eq!(added["state"], "active", "{added}");
        engineers.push(up.creds(tenant, &["--label", "anna"]).await);
    }
    let mut collectors = Vec::new();
    for (tenant, creds) in ["acme", "beta"].iter().zip(&engineers) {
        up.works(creds).await;
        let file = define(up.folder.path(), &up.mosquitto, tenant);
        let deployed = up.run(Some(creds), &["pipeline", "deploy", file.to_str().unwrap()]).await;
        let log = up.log(&format!("hosts/{tenant}/host.log"));
        assert_eq!(deployed.code, 0, "{deployed:?}\n{log}\n{}", up.log("lattices/nats/nats.log"));
        collectors.push(collect(&up.mosquitto, tenant).await);
    }
    publish(&up.mosquitto, "acme", 0..100).await;
    publish(&up.mosquitto, "beta", 100..200).await;
    collectors[0].wait_for(&millrace_tests::hot(0..100), PATIENCE).await;
    collectors[1].wait_for(&millrace_tests::hot(100..200), PATIENCE).await;
    let status = up.run(Some(&engineers[0]), &["pipeline", "status", "alerts"]).await;
    assert_eq!(status.code, 0, "{status:?}");
    // No part of the platform tried what its role may not.
    let log = up.log("lattices/nats/nats.log");
    assert!(!log.to_lowercase().contains("violation"), "{log}");
    // Who tries is refused, and it is in the log.
    let viewer = up.creds("acme", &["--role", "viewer", "--ttl", "1h"]).await;
    let refused = up.run(Some(&viewer), &["kv", "set", "limits", "m1", "80"]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(up.log("lattices/nats/nats.log").to_lowercase().contains("violation"));

    // Suspended: cut off, and its host ends; the other one goes on.
    up.tenant(&["suspend", "acme"]).await;
    let refused = up.run(Some(&engineers[0]), &["metrics"]).await;
    assert!(refused.stderr.contains("refuses the credentials of user"), "{refused:?}");
    publish(&up.mosquitto, "beta", 200..300).await;
    collectors[1].wait_for(&millrace_tests::hot(100..300), PATIENCE).await;
    // Back again, with what came meanwhile.
    publish(&up.mosquitto, "acme", 100..200).await;
    up.tenant(&["resume", "acme"]).await;
    collectors[0].wait_for(&millrace_tests::hot(0..200), PATIENCE).await;

    // One engineer's file is revoked, and nobody else's.
    let other = up.creds("acme", &["--label", "otto"]).await;
    up.tenant(&["revoke", "acme", "anna"]).await;
    let refused = up.run(Some(&engineers[0]), &["metrics"]).await;
    assert!(refused.stderr.contains("refuses the credentials of user"), "{refused:?}");
    up.works(&other).await;

    up.tenant(&["remove", "acme", "--purge"]).await;
    let left = up.tenant(&["list"]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    publish(&up.mosquitto, "beta", 300..400).await;
    collectors[1].wait_for(&millrace_tests::hot(100..400), PATIENCE).await;
    // New users for the platform's parts: the host is started anew with them.
    up.tenant(&["rotate", "beta"]).await;
    publish(&up.mosquitto, "beta", 400..500).await;
    collectors[1].wait_for(&millrace_tests::hot(100..500), PATIENCE).await;
    assert_eq!(collectors[1].seqs(), millrace_tests::hot(100..500));

    // Declared in files: shown first, then done, and then there is nothing to do.
    let files = up.folder.path().join("declared");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("beta.yaml"), "tenant: beta\nlimits: { streams: 600 }\n").unwrap();
    std::fs::write(files.join("ceta.yaml"), "tenant: ceta\nlabels: { site: hall-3 }\n").unwrap();
    let folder = files.to_str().unwrap();
    let shown = up.tenant(&["apply", folder]).await;
    assert_eq!(shown["changes"][0]["what"], json!(["streams: 500 -> 600"]), "{shown}");
    assert_eq!(shown["changes"][1], json!({ "do": "add", "tenant": "ceta" }), "{shown}");
    assert_eq!(up.tenant(&["list"]).await.as_array().unwrap().len(), 1);
    up.tenant(&["apply", folder, "--yes"]).await;
    let beta = up.tenant(&["show", "beta"]).await;
    assert_eq!(beta["record"]["limits"]["streams"], 600, "{beta}");
    assert_eq!(up.tenant(&["apply", folder]).await["changes"], json!([]));
}
