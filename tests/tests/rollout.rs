//! A new version that takes over and fails is rolled back by the platform, whoever deployed it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use millrace_platform::find;
use millrace_tests::{Answer, Collector, DeadLetters, LATTICE, Machine, Plant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code of a deployment that was rolled back.
const ROLLED_BACK: i32 = 5;

/// A step that does as it is configured, behind a durable edge.
const GUARDED: &str = r#"
millrace: v1alpha1
pipeline: guarded
version: 0.1.0
sources: [machine]
steps:
  pass: { map: pass-map, from: machine }
  work: { map: misbehaves, from: { name: pass, durable: true }, config: {} }
sinks:
  results: { from: work }
rollout: { watch: 3s }
binding:
  sources:
    machine: { mqtt: { url: "{url}", topic: plant/in, qos: 1 } }
  sinks:
    results: { mqtt: { url: "{url}", topic: plant/results, qos: 1 } }
  components:
    pass-map: { file: "{components}/pass-map.wasm" }
    misbehaves: { file: "{components}/misbehaves.wasm" }
"#;

fn version(number: &str, config: &str) -> String {
    let text = GUARDED.replace("version: 0.1.0", &format!("version: {number}"));
    text.replace("config: {}", &format!("config: {{ {config} }}"))
}

/// A plant whose pipeline runs in its first version, and a machine that numbers its messages.
struct Running {
    plant: Plant,
    machine: Machine,
    sent: u64,
    results: Collector,
    letters: DeadLetters,
    first: String,
}

impl Running {
    async fn start() -> Self {
        let plant = Plant::start().await;
        let status = plant.deploy(&plant.define("guarded.yaml", GUARDED)).await;
        let first = status["version"].as_str().unwrap().to_owned();
        assert!(status["rollout"].is_null(), "the first version takes over from none: {status}");
        let results = plant.collect("plant/results").await;
        let letters = plant.dead_letters("guarded").await;
        let machine = Machine::connect(&plant);
        Self { plant, machine, sent: 0, results, letters, first }
    }

    async fn send(&mut self) {
        let payload = format!("{{\"seq\":{},\"what\":\"fine\"}}", self.sent);
        self.machine.publish("plant/in", payload).await;
        self.sent += 1;
    }

    /// Sends until that is done.
    async fn under_load<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return result,
                _ = tick.tick() => self.send().await,
            }
        }
    }

    /// Deploys another definition while messages flow.
    async fn deploy(&mut self, text: &str, arguments: &[&str]) -> Answer {
        let file = self.plant.define("guarded.yaml", text);
        let (url, arguments) = (self.plant.nats_url(), arguments.join(" "));
        self.under_load(async move {
            let file = file.to_str().unwrap();
            let mut all = vec!["pipeline", "deploy", file];
            all.extend(arguments.split_whitespace());
            millrace_tests::millrace(&url, &all).await
        })
        .await
    }

    async fn status(&self) -> serde_json::Value {
        self.plant.millrace(&["pipeline", "status", "guarded"]).await.json()
    }

    /// Everything that was sent is among the results or the dead letters; answers how many of the latter.
    async fn nothing_is_lost(&mut self) -> usize {
        self.machine.acknowledged().await;
        let start = Instant::now();
        loop {
            let dead: BTreeSet<u64> =
                self.letters.all().iter().map(|(payload, _)| seq(payload)).collect();
            let arrived: BTreeSet<u64> = self.results.seqs();
            let missing: Vec<u64> =
                (0..self.sent).filter(|n| !dead.contains(n) && !arrived.contains(n)).collect();
            if missing.is_empty() {
                let both = dead.intersection(&arrived).count();
                println!(
                    "{} in, {} out, {} dead letters, {both} both",
                    self.sent,
                    arrived.len(),
                    dead.len()
                );
                return dead.len();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} are lost: {:?}",
                missing.len(),
                missing.first()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn seq(payload: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
    value["seq"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_traps_is_rolled_back_by_itself_and_nothing_is_lost() {
    let mut running = Running::start().await;
    let answer = running.deploy(&version("0.2.0", "trap: plant/in"), &[]).await;
    assert_eq!(answer.code, ROLLED_BACK, "{answer:?}\n{}", running.plant.log());
    assert!(answer.stderr.contains("was rolled back"), "{answer:?}");
    assert!(answer.stderr.contains("stage `work`"), "it says why: {answer:?}");
    assert!(answer.stderr.contains("dead letters are kept"), "{answer:?}");

    let status = running.status().await;
    assert_eq!(status["version"], running.first.as_str(), "the old one runs: {status}");
    assert_eq!(answer.json()["version"], status["version"]);
    let rollout = &status["rollout"];
    assert_eq!(rollout["state"], "rolled-back", "{status}");
    assert_eq!(rollout["from"], running.first.as_str(), "{status}");
    assert!(rollout["to"].as_str().unwrap().starts_with("0.2.0-"), "{status}");
    assert!(rollout["reason"].as_str().unwrap().contains("stage `work`"), "{status}");

    let dead = running.nothing_is_lost().await;
    assert!(dead > 0, "what the new version trapped on is kept");
    // And all that comes now goes through the old version.
    let (before, sent) = (running.sent, running.sent + 50);
    while running.sent < sent {
        running.send().await;
    }
    running.results.wait_for(&(before..sent).collect(), PATIENCE).await;
    running.plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_does_not_start_is_rolled_back() {
    let mut running = Running::start().await;
    // Its source never connects.
    let nobody = millrace_peers::free_port().unwrap();
    let astray = version("0.2.0", "").replacen("{url}", &format!("mqtt://127.0.0.1:{nobody}"), 1);
    let answer = running.deploy(&astray, &["--timeout 4s"]).await;
    assert_eq!(answer.code, ROLLED_BACK, "{answer:?}\n{}", running.plant.log());
    assert!(answer.stderr.contains("mqtt `machine`"), "it says what: {answer:?}");
    assert!(answer.stderr.contains("refused"), "and why: {answer:?}");
    let status = running.status().await;
    assert_eq!(status["version"], running.first.as_str(), "{status}");
    assert_eq!(status["rollout"]["state"], "rolled-back", "{status}");

    // Its step refuses its configuration: everything runs, and nothing goes through.
    let answer = running.deploy(&version("0.3.0", "init: invalid"), &[]).await;
    assert_eq!(answer.code, ROLLED_BACK, "{answer:?}\n{}", running.plant.log());
    assert!(answer.stderr.contains("stage `work` has handed on nothing"), "{answer:?}");
    assert_eq!(running.status().await["version"], running.first.as_str());

    let dead = running.nothing_is_lost().await;
    assert_eq!(dead, 0, "no message was at fault");
    running.plant.stop().await;
}

/// Starts to deploy, and kills the command when the version is on its way.
async fn deploy_and_die(nats_url: &str, file: &Path) {
    let mut command = Command::new(find::home().join("bin/millrace"))
        .args(["pipeline", "deploy"])
        .arg(file)
        .env("MILLRACE_NATS_URL", nats_url)
        .env("MILLRACE_LATTICE", LATTICE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(command.stderr.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("deploying version") {
            return command.kill().await.unwrap();
        }
    }
    panic!("it ended by itself: {:?}", command.wait().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_stays_and_a_bad_one_goes_although_nobody_waits_for_it() {
    let mut running = Running::start().await;
    let answer = running.deploy(&version("0.2.0", "other: value"), &[]).await;
    assert_eq!(answer.code, 0, "{answer:?}\n{}", running.plant.log());
    let status = answer.json();
    assert_eq!(status["rollout"]["state"], "done", "{status}");
    assert_eq!(status["rollout"]["from"], running.first.as_str(), "{status}");
    let good = status["version"].as_str().unwrap().to_owned();
    assert!(good.starts_with("0.2.0-"), "{status}");

    let bad = running.plant.define("guarded.yaml", &version("0.3.0", "trap: plant/in"));
    let (url, start) = (running.plant.nats_url(), Instant::now());
    running.under_load(deploy_and_die(&url, &bad)).await;
    let ended = loop {
        running.under_load(tokio::time::sleep(Duration::from_millis(500))).await;
        let status = running.status().await;
        let state = status["rollout"]["state"].as_str().unwrap().to_owned();
        if status["rollout"]["from"] == good.as_str() && state == "rolled-back" {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "{status}\n{}", running.plant.log());
    };
    assert_eq!(ended["version"], good.as_str(), "{ended}");
    running.nothing_is_lost().await;

    let history = running.plant.millrace(&["pipeline", "history", "guarded"]).await.json();
    let states: Vec<&str> =
        history.as_array().unwrap().iter().map(|r| r["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "rolled-back"], "{history}");

    // Taken down with all that is known of it.
    let gone = running.plant.millrace(&["pipeline", "undeploy", "guarded", "--purge"]).await;
    assert_eq!(gone.code, 0, "{gone:?}");
    let history = running.plant.millrace(&["pipeline", "history", "guarded"]).await.json();
    assert_eq!(history, serde_json::json!([]));
    running.plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_whose_artifact_is_not_what_it_says_is_rolled_back() {
    let mut running = Running::start().await;
    let new = version("0.2.0", "other: value");
    let new = new.replace("/misbehaves.wasm", "/fahrenheit-to-celsius.wasm");
    let file = running.plant.define("guarded.yaml", &new);
    // Somebody has put other bytes under the digest that the new version will have.
    let out = tempfile::tempdir().unwrap();
    let build =
        ["pipeline", "build", file.to_str().unwrap(), "--out", out.path().to_str().unwrap()];
    let built = running.plant.millrace(&build).await.json();
    let built = built.as_array().unwrap().iter().find(|stage| stage["stage"] == "work").unwrap();
    let artifact = std::fs::read(built["file"].as_str().unwrap()).unwrap();
    let nats = async_nats::connect(running.plant.nats_url()).await.unwrap();
    let store = millrace_artifacts::Store::open(&nats, LATTICE).await.unwrap();
    let (digest, new) = store.put("other", artifact.into()).await.unwrap();
    assert_eq!(digest, built["digest"].as_str().unwrap());
    assert!(new, "the two versions differ");
    let jetstream = async_nats::jetstream::new(nats);
    let bucket = jetstream.get_key_value(millrace_artifacts::bucket(LATTICE)).await.unwrap();
    bucket.put(format!("part.{digest}.0"), "evil".into()).await.unwrap();

    let (url, path) = (running.plant.nats_url(), file.to_str().unwrap().to_owned());
    let deploy = async move {
        millrace_tests::millrace(&url, &["pipeline", "deploy", "--timeout", "5s", &path]).await
    };
    let answer = running.under_load(deploy).await;
    assert_eq!(answer.code, ROLLED_BACK, "{answer:?}\n{}", running.plant.log());

    let status = running.status().await;
    assert_eq!(status["version"], running.first.as_str(), "{status}");
    assert_eq!(status["rollout"]["state"], "rolled-back", "{status}");
    let reason = status["rollout"]["reason"].as_str().unwrap();
    assert!(reason.contains("stage `work`: 0 of"), "it says what: {reason}");
    assert!(reason.contains("is not that"), "and why: {reason}");
    assert!(reason.contains(&digest), "and of which: {reason}");
    assert_eq!(running.nothing_is_lost().await, 0, "no message was at fault");
    running.plant.stop().await;
}

/// The host's process is wadm's too: with it goes whoever watches, and what a watch has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_killed_in_the_middle_begins_anew_and_still_rolls_back() {
    const WATCH: Duration = Duration::from_secs(12);
    let mut running = Running::start().await;
    let watch = format!("--no-wait --watch {}s", WATCH.as_secs());
    let answer = running.deploy(&version("0.2.0", "other: value"), &[&watch]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let start = Instant::now();
    let first = loop {
        running.under_load(tokio::time::sleep(Duration::from_millis(100))).await;
        if running.status().await["rollout"]["state"] == "watching" {
            break Instant::now();
        }
        assert!(start.elapsed() < PATIENCE, "{}", running.plant.log());
    };
    running.under_load(tokio::time::sleep(WATCH / 2)).await;
    running.plant.kill_host().await;
    running.plant.start_host().await;

    // The first watch would be over.
    let over = (WATCH + Duration::from_secs(1)).saturating_sub(first.elapsed());
    running.under_load(tokio::time::sleep(over)).await;
    let status = running.status().await;
    assert_eq!(status["rollout"]["state"], "watching", "{:?}: {status}", first.elapsed());
    // Only now the new version fails.
    for _ in 0..60 {
        let payload = format!("{{\"seq\":{},\"what\":\"invalid\"}}", running.sent);
        running.machine.publish("plant/in", payload).await;
        running.sent += 1;
    }
    let ended = loop {
        running.under_load(tokio::time::sleep(Duration::from_millis(200))).await;
        let status = running.status().await;
        if status["rollout"]["state"] == "rolled-back" {
            break status;
        }
        let text = status["rollout"]["state"].as_str().unwrap();
        assert!(["watching", "rolling-back"].contains(&text), "{status}");
        assert!(first.elapsed() < PATIENCE, "{status}\n{}", running.plant.log());
    };
    assert_eq!(ended["version"], running.first.as_str(), "{ended}");
    assert!(ended["rollout"]["reason"].as_str().unwrap().contains("stage `work`"), "{ended}");
    assert_eq!(running.nothing_is_lost().await, 60, "those that the step refused, and no other");
    running.plant.stop().await;
}
