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
use millrace_tests::neighbour::{Far, NEIGHBOUR};
use millrace_tests::{ALERTS, Answer, Collector, Machine, mqtt, subscribe, until};
use nkeys::KeyPair;
use rumqttc::QoS;
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;
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
            log: Default::default(),
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
    /// Where the control API is, where it was asked for.
    api: String,
    mosquitto: Mosquitto,
}

impl Up {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = millrace_peers::free_port().unwrap();
        let mut process = std::process::Command::new(find::home().join("bin/millrace"))
            .args(["up", "--tenants", "--json", "--nats-port", &port.to_string(), "--data"])
            .arg(folder.path())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "`millrace up` ended");
        let said: Value = serde_json::from_str(&line).unwrap();
        let api = said["api"].as_str().unwrap_or_default().to_owned();
        let mosquitto = Mosquitto::start_with("allow_anonymous true\n").unwrap();
        Self { process, folder, url: format!("nats://127.0.0.1:{port}"), api, mosquitto }
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
    // What the engineer did is in the tenant's log, as hers, with the digest of each artifact.
    let audit = up.tenant(&["audit", "acme"]).await;
    let deployed: Vec<&Value> =
        audit.as_array().unwrap().iter().filter(|e| e["what"] == "pipeline.deploy").collect();
    assert_eq!(deployed.len(), 1, "{audit}");
    assert_eq!(deployed[0]["by_tenant"], json!(true));
    let shown = up.tenant(&["show", "acme"]).await.to_string();
    let who = deployed[0]["who"].as_str().unwrap();
    let (_, key) = who.rsplit_once(' ').unwrap();
    assert!(who.starts_with("acme operator U") && shown.contains(key), "{who}: {shown}");
    let subject = deployed[0]["subject"].as_str().unwrap();
    assert!(subject.starts_with("alerts 0.1.0-") && subject.contains("@sha256:"), "{subject}");
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

/// Over HTTP as with the command line: the tenant gets its host, its pipelines run, and its audit log says who did what. Its engineers
/// read that log with their own files, follow it, and keep it in a file that goes on where it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_added_over_http_works_and_its_log_is_kept() {
    let up = Up::start_with(&["--api", "127.0.0.1:0"]);
    // The server's certificate is near its end from now on.
    let tls = up.folder.path().join("lattices/tls");
    let certificate = || std::fs::read(tls.join("nats.pem")).unwrap();
    let (was, record) = (certificate(), std::fs::read_to_string(tls.join("nats.json")).unwrap());
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["expires"] = json!(record["expires"].as_i64().unwrap() - 360 * 86_400);
    std::fs::write(tls.join("nats.json"), record.to_string()).unwrap();
    let token = up.run(None, &["api", "token", "add", "ci", "--role", "admin"]).await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    let http = reqwest::Client::new();
    let call = async |method: reqwest::Method, path: &str, body: Value| {
        let call = http.request(method, format!("{}/v1/tenants/acme{path}", up.api));
        let call = call.bearer_auth(&token).header("content-type", "application/json");
        let answer = call.body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    let added = call(reqwest::Method::PUT, "", json!({ "labels": { "site": "hall-3" } })).await;
    assert_eq!((added.0, &added.1["state"]), (201, &json!("active")), "{added:?}");
    let user = json!({ "role": "operator", "label": "anna" });
    let (status, issued) = call(reqwest::Method::POST, "/users", user).await;
    assert_eq!(status, 201, "{issued}");
    let anna = up.folder.path().join("anna.creds");
    std::fs::write(&anna, issued["credentials"].as_str().unwrap()).unwrap();
    std::fs::set_permissions(&anna, std::fs::Permissions::from_mode(0o600)).unwrap();
    up.works(&anna).await;
    let file = define(up.folder.path(), &up.mosquitto, "acme");
    let deployed = up.run(Some(&anna), &["pipeline", "deploy", file.to_str().unwrap()]).await;
    assert_eq!(deployed.code, 0, "{deployed:?}");
    let collector = collect(&up.mosquitto, "acme").await;
    publish(&up.mosquitto, "acme", 0..100).await;
    collector.wait_for(&millrace_tests::hot(0..100), PATIENCE).await;

    let what = |answer: &Answer| -> Vec<(String, String)> {
        let entries = answer.json();
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|e| (e["log"].as_str().unwrap().into(), e["what"].as_str().unwrap().into()))
            .collect()
    };
    let pair = |log: &str, what: &str| (log.to_owned(), what.to_owned());
    let seen = up.run(Some(&anna), &["audit"]).await;
    let all = what(&seen);
    for wanted in [
        pair("platform", "tenant.add"),
        pair("platform", "user.add"),
        pair("tenant", "pipeline.deploy"),
    ] {
        assert!(all.contains(&wanted), "{seen:?}");
    }
    assert!(seen.stdout.contains("api token ci"), "{seen:?}");
    let about = up.run(Some(&anna), &["audit", "--pipeline", "alerts", "--since", "1h"]).await;
    assert_eq!(what(&about), [pair("tenant", "pipeline.deploy")], "{about:?}");
    assert_eq!(what(&up.run(Some(&anna), &["audit", "--pipeline", "alert"]).await), []);
    let set = up.run(Some(&anna), &["kv", "set", "limits", "m1", "secret-80"]).await;
    assert_eq!(set.code, 0, "{set:?}");
    let seen = up.run(Some(&anna), &["audit"]).await;
    let all = what(&seen);
    assert!(all.contains(&pair("tenant", "kv.set")), "{seen:?}");
    assert!(seen.stdout.contains("limits m1") && !seen.stdout.contains("secret-80"), "{seen:?}");
    let later = up.run(Some(&anna), &["audit", "--since", "2999-01-01T00:00:00Z"]).await;
    assert_eq!(what(&later), []);

    // Kept in a file, twice: each entry stands there once.
    let kept = up.folder.path().join("acme.csv");
    let keep = ["audit", "--out", kept.to_str().unwrap()];
    let first = up.run(Some(&anna), &keep).await.json()["added"].as_u64().unwrap();
    assert_eq!(first, all.len() as u64);
    assert_eq!(up.run(Some(&anna), &keep).await.json()["added"], 0);
    let mut following = Command::new(find::home().join("bin/millrace"))
        .args(["audit", "--follow", "--json", "--nats-url", &up.url, "--creds"])
        .arg(&anna)
        .env("MILLRACE_TLS_CA", up.ca())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let gone = up.run(Some(&anna), &["pipeline", "undeploy", "alerts"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");
    assert_eq!(up.run(Some(&anna), &keep).await.json()["added"], 1);
    let text = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(text.lines().count(), all.len() + 2, "{text}");
    assert!(
        text.lines().last().unwrap().contains("\"pipeline.undeploy\",\"alerts\",\"ok\""),
        "{text}"
    );
    let mut lines = tokio::io::BufReader::new(following.stdout.take().unwrap()).lines();
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("pipeline.undeploy") {
                return;
            }
        }
        panic!("it ended");
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();

    // Suspended over HTTP: the engineer is out, and the platform's journal can be read and says so.
    assert_eq!(call(reqwest::Method::POST, "/suspend", json!({})).await.0, 200);
    let out = up.run(Some(&anna), &["audit"]).await;
    assert!(out.code != 0 && out.stderr.contains("suspended"), "{out:?}");
    let journal = up.run(None, &["tenant", "audit", "acme"]).await;
    assert!(what(&journal).contains(&pair("journal", "tenant.suspend")), "{journal:?}");
    until("the certificate is renewed", PATIENCE, async || certificate() != was).await;
    until("nats-server takes it", PATIENCE, async || {
        up.log("lattices/nats/nats.log").contains("Reloaded: tls")
    })
    .await;
    // A token that is revoked is none.
    assert_eq!(up.run(None, &["api", "token", "revoke", "ci"]).await.code, 0);
    assert_eq!(call(reqwest::Method::GET, "", json!({})).await.0, 401);
    let platform = what(&up.run(None, &["tenant", "audit"]).await);
    assert_eq!(platform, [pair("journal", "token.add"), pair("journal", "token.revoke")]);
}

/// The ordinary command line of wasmCloud with nothing but a tenant's credentials: it deploys providers and a pipeline, which moves
/// messages, and takes them away; of another tenant's lattice it sees nothing; a viewer's file and a revoked one change nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs wash, which takes minutes to build: make wash"]
async fn wash_works_with_a_tenants_file_against_its_lattice_alone() {
    let program = millrace_peers::wash().unwrap();
    let up = Up::start();
    for tenant in ["acme", "beta"] {
        up.tenant(&["add", tenant]).await;
    }
    let anna = up.creds("acme", &["--label", "anna"]).await;
    let viewer = up.creds("acme", &["--role", "viewer"]).await;
    let otto = up.creds("beta", &["--label", "otto"]).await;
    up.works(&anna).await;
    up.works(&otto).await;
    let home = up.folder.path().join("wash");
    std::fs::create_dir(&home).unwrap();
    let port = up.url.rsplit_once(':').unwrap().1;
    let wash = async |creds: &Path, lattice: &str, arguments: &[&str]| -> Answer {
        let output = Command::new(&program)
            .args(["--output", "json"])
            .args(arguments)
            .env("HOME", &home)
            .env("WASMCLOUD_CTL_HOST", "127.0.0.1")
            .env("WASMCLOUD_CTL_PORT", port)
            .env("WASMCLOUD_LATTICE", lattice)
            .env("WASH_CTL_CREDS", creds)
            .env("WASH_CTL_TLS_CA_FILE", up.ca())
            .current_dir(up.folder.path())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        output.into()
    };
    // Of its words the last is JSON; the first use says hello after it.
    let said = |answer: &Answer| -> Value {
        let mut all = serde_json::Deserializer::from_str(&answer.stdout).into_iter::<Value>();
        all.next().unwrap_or_else(|| panic!("{answer:?}")).unwrap_or_else(|_| panic!("{answer:?}"))
    };
    let hosts = said(&wash(&anna, "acme", &["get", "hosts"]).await);
    assert_eq!(hosts["hosts"].as_array().unwrap().len(), 1, "{hosts}");
    assert_eq!(hosts["hosts"][0]["lattice"], "acme");

    let file = define(up.folder.path(), &up.mosquitto, "acme");
    let manifests = [
        ("mqtt.json", vec!["provider", "manifest", "mqtt", "--installed"]),
        ("conduit.json", vec!["provider", "manifest", "conduit", "--installed"]),
        ("alerts.json", vec!["pipeline", "manifest", file.to_str().unwrap(), "--store"]),
    ];
    for (name, arguments) in &manifests {
        let manifest = up.run(Some(&anna), arguments).await;
        assert_eq!(manifest.code, 0, "{manifest:?}");
        std::fs::write(up.folder.path().join(name), &manifest.stdout).unwrap();
        let valid = wash(&anna, "acme", &["app", "validate", name]).await;
        assert_eq!(valid.code, 0, "{valid:?}");
        let deployed = wash(&anna, "acme", &["app", "deploy", name]).await;
        assert_eq!(said(&deployed)["deployed"], true, "{deployed:?}");
    }
    let states = async || {
        let list = said(&wash(&anna, "acme", &["app", "list"]).await);
        let all = list["applications"].as_array().unwrap().clone();
        let state = |app: Value| (app["name"].as_str().unwrap().to_owned(), app["status"].clone());
        all.into_iter().map(state).collect::<Vec<_>>()
    };
    until("wash says that all three are deployed", PATIENCE, async || {
        let states = states().await;
        states.len() == 3 && states.iter().all(|(_, state)| state == "deployed")
    })
    .await;
    let collector = collect(&up.mosquitto, "acme").await;
    publish(&up.mosquitto, "acme", 0..100).await;
    collector.wait_for(&millrace_tests::hot(0..100), PATIENCE).await;
    let links = said(&wash(&anna, "acme", &["get", "links"]).await);
    assert!(links.to_string().contains("alerts"), "{links}");
    // Both command lines agree.
    let status = up.run(Some(&anna), &["pipeline", "status", "alerts"]).await;
    assert_eq!(status.code, 0, "{status:?}");

    // Another tenant's lattice: nothing is seen, nothing is changed, from either side.
    for (creds, lattice) in [(&anna, "beta"), (&otto, "acme")] {
        let hosts = said(&wash(creds, lattice, &["get", "hosts"]).await);
        assert_eq!(hosts["hosts"], json!([]), "{hosts}");
        let apps = wash(creds, lattice, &["app", "list"]).await;
        assert!(!apps.stdout.contains("alerts"), "{apps:?}");
        wash(creds, lattice, &["app", "delete", "alerts"]).await;
    }
    wash(&viewer, "acme", &["app", "undeploy", "alerts"]).await;
    wash(&viewer, "acme", &["app", "delete", "alerts"]).await;
    assert!(states().await.iter().any(|(name, state)| name == "alerts" && state == "deployed"));
    publish(&up.mosquitto, "acme", 100..200).await;
    collector.wait_for(&millrace_tests::hot(0..200), PATIENCE).await;

    let undeployed = wash(&anna, "acme", &["app", "undeploy", "alerts"]).await;
    assert_eq!(undeployed.code, 0, "{undeployed:?}");
    let deleted = wash(&anna, "acme", &["app", "delete", "alerts"]).await;
    assert_eq!(said(&deleted)["deleted"], true, "{deleted:?}");
    until("wash says that it is gone", PATIENCE, async || states().await.len() == 2).await;
    let status = up.run(Some(&anna), &["pipeline", "status", "alerts"]).await;
    assert_ne!(status.code, 0, "{status:?}");

    up.tenant(&["revoke", "acme", "anna"]).await;
    let refused = wash(&anna, "acme", &["get", "hosts"]).await;
    assert!(refused.code != 0 && !refused.stdout.contains("friendly_name"), "{refused:?}");
}

/// A pipeline with a source for each file, which names it as its password.
fn reads(folder: &Path, mosquitto: &Mosquitto, files: &[(&str, PathBuf)]) -> PathBuf {
    let all = |line: &dyn Fn(&str, &Path) -> String| -> String {
        files.iter().map(|(name, file)| line(name, file)).collect()
    };
    let url = mosquitto.url();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let text = format!(
        "millrace: v1alpha1\npipeline: reads\nversion: 0.1.0\nsources: [{}]\nsteps:\n{}sinks:\n{}binding:\n  sources:\n{}  \
         sinks:\n{}  components:\n    pass: {{ file: {:?} }}\n",
        names.join(", "),
        all(&|name, _| format!("  s-{name}: {{ filter: pass, from: {name} }}\n")),
        all(&|name, _| format!("  o-{name}: {{ from: s-{name} }}\n")),
        all(&|name, file| format!(
            "    {name}: {{ mqtt: {{ url: {url:?}, topic: in/{name}, username: anna, password-file: {file:?} }} }}\n"
        )),
        all(&|name, _| format!(
            "    o-{name}: {{ mqtt: {{ url: {url:?}, topic: out/{name} }} }}\n"
        )),
        find::home().join("components/pass-filter.wasm"),
    );
    let file = folder.join("reads.yaml");
    std::fs::write(&file, text).unwrap();
    file
}

/// The links of a pipeline by name, with their states and errors.
fn links(status: &Value) -> std::collections::BTreeMap<String, (String, String)> {
    let links = status["links"].as_array().unwrap().iter();
    let links = links.flat_map(|provider| provider["links"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    links.map(|l| (text(&l["name"]), (text(&l["state"]), text(&l["error"])))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_an_engineer_name_files_and_the_kernel_gives_only_those_of_the_tenant() {
    let up = Up::start();
    for tenant in ["acme", "beta"] {
        up.tenant(&["add", tenant]).await;
    }
    let anna = up.creds("acme", &["--label", "anna"]).await;
    up.works(&anna).await;
    let lattices = up.folder.path().join("lattices");
    let own = lattices.join("tenants/acme/files/password");
    let betas = lattices.join("tenants/beta/files/password");
    let around = lattices.join("tenants/acme/files/../../beta/files/password");
    for file in [&own, &betas] {
        std::fs::write(file, "secret").unwrap();
    }
    let foreign = [
        ("key", lattices.join("keys/operator.nk")),
        ("authority", lattices.join("tls/ca.key")),
        ("system", lattices.join("system.creds")),
        ("record", lattices.join("tenants/acme/tenant.json")),
        ("user", lattices.join("tenants/beta/creds/operator.creds")),
        ("platform", lattices.join("tenants/acme/creds/control.creds")),
        ("its-host", lattices.join("tenants/acme/creds/host-control.creds")),
        ("its-wadm", lattices.join("tenants/acme/creds/wadm.creds")),
        ("its-provider", lattices.join("tenants/acme/creds/provider.creds")),
        ("file", betas),
        ("around", around),
        ("host", up.folder.path().join("hosts/beta/host.seed")),
        ("seed", up.folder.path().join("hosts/acme/host.seed")),
        ("parent", PathBuf::from(format!("/proc/{}/environ", up.process.id()))),
        ("users", PathBuf::from("/etc/passwd")),
        ("shadow", PathBuf::from("/etc/shadow")),
    ];
    let mut files = foreign.to_vec();
    files.push(("own", own));
    let file = reads(up.folder.path(), &up.mosquitto, &files);
    let deploy =
        ["pipeline", "deploy", file.to_str().unwrap(), "--timeout", "60s", "--watch", "0s"];
    let deployed = up.run(Some(&anna), &deploy).await;
    assert_ne!(deployed.code, 0, "{deployed:?}");
    let found = async || {
        let status = up.run(Some(&anna), &["pipeline", "status", "reads"]).await;
        serde_json::from_str(&status.stdout).map(|status| links(&status)).unwrap_or_default()
    };
    until("every link says how it is", PATIENCE, async || {
        let found = found().await;
        let says = |(state, _): &(String, String)| state != "connecting";
        files.iter().all(|(name, _)| found.get(*name).is_some_and(says))
    })
    .await;
    let found = found().await;
    assert_eq!(found["own"], ("connected".to_owned(), String::new()));
    let read: Vec<_> = foreign
        .iter()
        .filter(|(name, file)| {
            let (state, error) = &found[*name];
            let refused =
                error.contains("Permission denied") && error.contains(file.to_str().unwrap());
            state == "connected" || !refused
        })
        .map(|(name, _)| (name, &found[*name]))
        .collect();
    println!("{} files of others named, {} of them read", foreign.len(), read.len());
    assert!(read.is_empty(), "{read:?}");
    let log = up.log("hosts/acme/host.log");
    assert!(log.contains("confined"), "{log}");
}

/// `millrace host join`, with a data folder of another machine.
struct Joined {
    process: std::process::Child,
    data: PathBuf,
}

impl Joined {
    fn start(data: &Path, token: Option<&Path>) -> Self {
        let mut command = std::process::Command::new(find::home().join("bin/millrace"));
        command.args(["host", "join", "--data"]).arg(data);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        let log =
            std::fs::File::options().create(true).append(true).open(data.join("log")).unwrap();
        let process = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { process, data: data.to_owned() }
    }

    /// How many hosts it runs now.
    fn hosts(&self) -> usize {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let children = threads.flatten().map(|thread| thread.path().join("children"));
        let children = children.filter_map(|file| std::fs::read_to_string(file).ok());
        children.map(|list| list.split_whitespace().count()).sum()
    }

    /// What the lattice calls it, once it has a key.
    async fn id(&self) -> String {
        let seed = self.data.join("joined/host.seed");
        until("the host has a key", PATIENCE, async || seed.is_file()).await;
        KeyPair::from_seed(std::fs::read_to_string(seed).unwrap().trim()).unwrap().public_key()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_on_another_machine_joins_with_a_token_runs_what_is_placed_there_and_leaves() {
    let up = Up::start();
    up.tenant(&["add", "acme"]).await;
    let anna = up.creds("acme", &["--label", "anna"]).await;
    up.works(&anna).await;
    let there = tempfile::tempdir().unwrap();
    let away = async |arguments: &[&str]| -> Answer {
        let output = Command::new(find::home().join("bin/millrace"))
            .args(["--json", "host"])
            .args(arguments)
            .arg("--data")
            .arg(there.path())
            .stdin(Stdio::null())
            .output();
        output.await.unwrap().into()
    };
    // Nobody joins without a token, or with half of one.
    let none = away(&["join"]).await;
    assert!(none.stderr.contains("has joined nothing"), "{none:?}");
    let half = away(&["join", "mr1.eyJob3N0Ijo"]).await;
    assert!(half.stderr.contains("no token of a host"), "{half:?}");

    std::fs::write(
        up.folder.path().join("lattices/classes.yaml"),
        "small: { max-memory-mib: 64 }\n",
    )
    .unwrap();
    let add = ["host", "add", "acme", "hall-3", "--label", "site=hall-3", "--class", "small"];
    let added = up.tenant(&add).await;
    assert_eq!(added["labels"], json!({ "site": "hall-3", "class": "small" }), "{added}");
    let again = up.run(None, &[&["tenant"], &add[..]].concat()).await;
    assert!(again.stderr.contains("it is there already"), "{again:?}");
    let token = there.path().join("token");
    std::fs::write(&token, added["token"].as_str().unwrap()).unwrap();

    let joined = Joined::start(there.path(), Some(&token));
    let id = joined.id().await;
    let text = std::fs::read_to_string(define(up.folder.path(), &up.mosquitto, "acme")).unwrap();
    let placed =
        text.replace("binding:\n", "binding:\n  placement: { site: hall-3, class: small }\n");
    let file = up.folder.path().join("placed.yaml");
    std::fs::write(&file, placed).unwrap();
    let deployed = up.run(Some(&anna), &["pipeline", "deploy", file.to_str().unwrap()]).await;
    let log = || std::fs::read_to_string(there.path().join("log")).unwrap();
    assert_eq!(deployed.code, 0, "{deployed:?}\n{}", log());
    let alerts = collect(&up.mosquitto, "acme").await;
    publish(&up.mosquitto, "acme", 0..100).await;
    alerts.wait_for(&millrace_tests::hot(0..100), PATIENCE).await;
    let stages = async || -> Vec<(u64, Value)> {
        let status = up.run(Some(&anna), &["pipeline", "status", "alerts"]).await.json();
        let stages = status["stages"].as_array().unwrap().iter();
        stages.map(|stage| (stage["running"].as_u64().unwrap(), stage["hosts"].clone())).collect()
    };
    let running = stages().await;
    assert!(running.iter().all(|(_, hosts)| *hosts == json!([id])), "{running:?}");
    assert!(log().contains("confined"), "{}", log());
    // A second one does not start beside it.
    let second = away(&["join"]).await;
    assert!(second.stderr.contains("runs here already"), "{second:?}");

    // Started again it needs no token, and is the same host.
    drop(joined);
    let joined = Joined::start(there.path(), None);
    assert_eq!(joined.id().await, id);
    publish(&up.mosquitto, "acme", 100..200).await;
    alerts.wait_for(&millrace_tests::hot(0..200), PATIENCE).await;

    // While its tenant is suspended it does not run, and nothing has to be done there for it to run again.
    up.tenant(&["suspend", "acme"]).await;
    until("the host is ended", PATIENCE, async || {
        log().contains("is suspended") && joined.hosts() == 0
    })
    .await;
    up.tenant(&["resume", "acme"]).await;
    until("the host is taken again", PATIENCE, async || joined.hosts() == 1).await;
    assert_eq!(joined.id().await, id);
    publish(&up.mosquitto, "acme", 200..300).await;
    alerts.wait_for(&millrace_tests::hot(0..300), PATIENCE).await;

    // It leaves: nothing that was stored is left, and what was placed there alone runs nowhere.
    let left = away(&["leave"]).await;
    assert_eq!(
        (left.code, left.json()),
        (0, json!({ "host": "hall-3", "left": "acme" })),
        "{left:?}"
    );
    drop(joined);
    assert!(!there.path().join("joined").exists());
    until("the stages run nowhere", PATIENCE, async || {
        stages().await.iter().all(|(running, _)| *running == 0)
    })
    .await;

    // Its users are ended, and the token with them.
    assert_eq!(up.tenant(&["host", "list", "acme"]).await[0]["host"], "hall-3");
    up.tenant(&["host", "remove", "acme", "hall-3"]).await;
    assert_eq!(up.tenant(&["host", "list", "acme"]).await, json!([]));
    let refused = away(&["join", "--token-file", token.to_str().unwrap()]).await;
    assert!(refused.stderr.contains("refuses the credentials"), "{refused:?}");
    let gone = up.run(None, &["tenant", "host", "remove", "acme", "hall-3"]).await;
    assert!(gone.stderr.contains("no such host"), "{gone:?}");
    // Added anew it is another one.
    up.tenant(&["host", "add", "acme", "hall-3"]).await;
}

/// How much later a message of a tenant may come out, in its 99th percentile, while another one's host does all it can.
const BOUND: Duration = Duration::from_millis(750);

/// A step that spins, takes memory, traps and returns what cannot be sent, as its messages say.
const LOUD: &str = r#"
millrace: v1alpha1
pipeline: loud
version: 0.1.0
sources: [wild]
steps:
  misbehave: { map: misbehaves, from: { name: wild, durable: true } }
sinks:
  done: { from: misbehave }
binding:
  sources:
    wild: { mqtt: { url: "{url}", topic: loud/wild, qos: 1 } }
  sinks:
    done: { mqtt: { url: "{url}", topic: loud/done, qos: 1 } }
  components:
    misbehaves: { file: "{components}/misbehaves.wasm" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_uses_the_machine_up_costs_another_little() {
    let platform = Up::start();
    for (tenant, text) in [("quiet", NEIGHBOUR), ("loud", LOUD)] {
        platform.tenant(&["add", tenant]).await;
        let creds = platform.creds(tenant, &[]).await;
        platform.works(&creds).await;
        let components = find::home().join("components");
        let text = text
            .replace("{url}", &platform.mosquitto.url())
            .replace("{components}", components.to_str().unwrap());
        let file = platform.folder.path().join(format!("{tenant}.yaml"));
        std::fs::write(&file, text).unwrap();
        let deploy = ["pipeline", "deploy", "--watch", "0s", file.to_str().unwrap()];
        let deployed = platform.run(Some(&creds), &deploy).await;
        assert_eq!(deployed.code, 0, "{tenant}: {deployed:?}");
    }
    let port = platform.mosquitto.port();
    let far = Far::subscribe(mqtt(port, "far")).await;
    let mut machine = Machine::on(mqtt(port, "near"));
    far.latency(&mut machine, 0..200).await;
    let (quiet_middle, quiet) = far.latency(&mut machine, 1_000..1_800).await;

    // Sixteen calls that spin are under way at any time, each until its ten seconds are over, on a machine of a few cores.
    let mut other = Machine::on(mqtt(port, "wild"));
    for (n, what) in ["spin", "grow", "spin", "huge"].iter().cycle().take(64).enumerate() {
        other.publish("loud/wild", format!("{what} #{n}.")).await;
    }
    other.acknowledged().await;
    let (noisy_middle, noisy) = far.latency(&mut machine, 2_000..3_500).await;
    println!(
        "a tenant's messages took {quiet_middle:.0?} in the middle and {quiet:.0?} in the 99th percentile; beside a tenant \
         that uses the machine up {noisy_middle:.0?} and {noisy:.0?}"
    );
    assert!(noisy <= quiet + BOUND, "{noisy:?} beside another tenant, {quiet:?} without");
    assert_eq!(far.strange(), Vec::<String>::new());
}

/// The process of a tenant's host.
fn host_of(tenant: &str) -> Option<u32> {
    let is_it = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words[0].ends_with(b"/millrace-host")
            && words.windows(2).any(|pair| pair == [b"--lattice".as_slice(), tenant.as_bytes()])
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_too_much_memory_is_ended_and_comes_back_and_no_other() {
    let up = Up::start();
    let classes = up.folder.path().join("lattices/classes.yaml");
    std::fs::write(&classes, "small: { max-host-memory-mib: 80, nice: 7 }\n").unwrap();
    up.tenant(&["add", "hungry", "--label", "class=small"]).await;
    up.tenant(&["add", "modest"]).await;
    for tenant in ["hungry", "modest"] {
        let creds = up.creds(tenant, &[]).await;
        up.works(&creds).await;
        let file = define(up.folder.path(), &up.mosquitto, tenant);
        if tenant == "hungry" {
            let components = find::home().join("components");
            let text = LOUD.replace("{url}", &up.mosquitto.url());
            let text = text.replace("{components}", components.to_str().unwrap());
            std::fs::write(&file, text).unwrap();
        }
        let deploy = ["pipeline", "deploy", "--watch", "0s", file.to_str().unwrap()];
        let deployed = up.run(Some(&creds), &deploy).await;
        assert_eq!(deployed.code, 0, "{tenant}: {deployed:?}");
    }
    let alerts = collect(&up.mosquitto, "modest").await;
    publish(&up.mosquitto, "modest", 0..50).await;
    alerts.wait_for(&millrace_tests::hot(0..50), PATIENCE).await;

    // Each in a session of its own, and before the others when memory is short.
    let (hungry, modest) = (host_of("hungry").unwrap(), host_of("modest").unwrap());
    let session_and_nice = |pid: u32| -> (u32, i32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (words[3].parse().unwrap(), words[16].parse().unwrap())
    };
    let (_, own) = session_and_nice(std::process::id());
    for (pid, nice) in [(hungry, own.max(7)), (modest, own)] {
        assert_eq!(session_and_nice(pid), (pid, nice));
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(score.trim(), "500");
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let file = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
        assert!(file.contains("536870912"), "{file}");
    }

    let mut machine = Machine::on(mqtt(up.mosquitto.port(), "wild"));
    let mut ended = Value::Null;
    let start = std::time::Instant::now();
    let mut sent = 50;
    while ended.is_null() {
        assert!(
            start.elapsed() < PATIENCE,
            "it was not ended: {}",
            up.log("hosts/hungry/host.log")
        );
        for n in 0..16 {
            machine.publish("loud/wild", format!("grow #{n}.")).await;
        }
        publish(&up.mosquitto, "modest", sent..sent + 20).await;
        sent += 20;
        ended = up.tenant(&["show", "hungry"]).await["host_ended"].clone();
    }
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.contains("may have 80 (max-host-memory-mib"), "{ended}");
    println!("ended after {:?}: {reason}", start.elapsed());
    alerts.wait_for(&millrace_tests::hot(0..sent), PATIENCE).await;
    let noted = async || up.tenant(&["audit", "hungry"]).await.to_string().contains("host.ended");
    until("it is in the audit log", PATIENCE, noted).await;
    let audit = up.tenant(&["audit", "hungry"]).await;
    let entry = audit.as_array().unwrap().iter().find(|entry| entry["what"] == "host.ended");
    assert_eq!(entry.unwrap()["by_tenant"], json!(false), "{audit}");
    assert!(entry.unwrap()["outcome"].as_str().unwrap().contains("may have 80"), "{audit}");

    // With more it comes back, and goes on with what is there.
    std::fs::write(&classes, "small: { max-host-memory-mib: 8192 }\n").unwrap();
    let (seen, mut done) = tokio::sync::watch::channel(false);
    let take = move |payload: &[u8]| {
        if payload == b"all is well" {
            seen.send_replace(true);
        }
    };
    subscribe(mqtt(up.mosquitto.port(), "done"), "loud/done", take).await;
    machine.publish("loud/wild", "all is well".to_owned()).await;
    let wait = done.wait_for(|seen| *seen);
    tokio::time::timeout(PATIENCE * 2, wait).await.expect("it works again").unwrap();
    assert_ne!(host_of("hungry").unwrap(), hungry);
    assert_eq!(host_of("modest"), Some(modest), "the other was ended as well");
    assert_eq!(up.tenant(&["show", "modest"]).await["host_ended"], Value::Null);
}
