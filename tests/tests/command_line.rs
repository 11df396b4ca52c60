//! The command line as a user meets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use millrace_peers::{Mosquitto, NatsOptions, NatsServer};
use millrace_platform::find;
use millrace_tests::{ALERTS, LATTICE, Machine, Plant, hot, millrace};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["demo", "--for", "8s", "--rate", "500", "--json"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["lost"], 0, "{summary}");
    assert!(summary["alerts"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["dead_letters"], summary["garbled"], "{summary}");
    assert!(summary["garbled"].as_u64().unwrap() > 0, "{summary}");
    // The loop runs: filled at least once and emptied at least once, and never far beyond its limits.
    assert!(summary["pump_switches"].as_u64().unwrap() >= 3, "{summary}");
    let level = |name: &str| summary[name].as_f64().unwrap();
    assert!(level("pump_level_min") > 5.0 && level("pump_level_max") < 95.0, "{summary}");

    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "files left behind: {left:?}");
    let left = processes_with(folder.path());
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

/// Ended by Ctrl-C under load: what was taken is finished or comes again, nothing is left running, and the pipeline
/// goes on at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_ended_and_started_again_loses_nothing() {
    let plant = Plant::start().await;
    let alerts = plant.collect("plant/alerts").await;
    let mut machine = Machine::connect(&plant);
    let data = tempfile::tempdir().unwrap();
    let port = millrace_peers::free_port().unwrap();

    let up = start_up(port, data.path());
    let url = format!("nats://127.0.0.1:{port}");
    let file = plant.define("alerts.yaml", ALERTS);
    let deployed = millrace(&url, &["pipeline", "deploy", file.to_str().unwrap()]).await;
    assert_eq!(deployed.code, 0, "{deployed:?}");
    let end = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        end_up(up).await
    };
    let (ended, ()) = tokio::join!(end, machine.readings(0..1500, 500));
    assert!(ended.success(), "{ended:?}");
    let left = processes_with(data.path());
    assert!(left.is_empty(), "processes left behind: {left:?}");

    let up = start_up(port, data.path());
    machine.readings(1500..2000, 500).await;
    machine.acknowledged().await;
    alerts.wait_for(&hot(0..2000), Duration::from_secs(60)).await;
    assert_eq!(alerts.seqs(), hot(0..2000));
    println!("2000 readings in, 1000 alerts out, {} duplicates", alerts.duplicates());
    assert!(end_up(up).await.success());
    plant.stop().await;
}

/// `millrace up`, ready.
fn start_up(port: u16, data: &Path) -> Child {
    let mut up = Command::new(find::home().join("bin/millrace"))
        .args(["up", "--json", "--lattice", LATTICE, "--nats-port", &port.to_string(), "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(up.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "`millrace up` ended");
    up
}

/// Sends what Ctrl-C sends, and waits for the end.
async fn end_up(mut up: Child) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(&up);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    tokio::task::spawn_blocking(move || up.wait().unwrap()).await.unwrap()
}

/// Command lines of processes that mention the folder.
fn processes_with(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder.to_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_replays_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("readings.csv");
    let rows =
        (0..300).map(|n| format!("2026-01-01 00:{:02}:{:02},{}\n", n / 60, n % 60, 70 + n % 50));
    std::fs::write(&file, format!("timestamp,value\n{}", rows.collect::<String>())).unwrap();
    let answer = millrace(
        "",
        &["demo", "--replay", file.to_str().unwrap(), "--limit", "45.3", "--for", "60s"],
    )
    .await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let summary = answer.json();
    // Above 45.3 C is above 113.54 F: 114 to 119, six times.
    assert_eq!((&summary["readings"], &summary["alerts"]), (&300.into(), &36.into()), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tap_shows_what_passes_a_durable_edge() {
    let plant = Plant::start().await;
    plant.deploy(&plant.define("alerts.yaml", ALERTS)).await;
    let mut machine = Machine::connect(&plant);
    let arguments =
        ["pipeline", "tap", "alerts", "--edge", "celsius.too-hot", "--count", "5", "--for", "30s"];
    let (tapped, ()) = tokio::join!(plant.millrace(&arguments), machine.readings(0..1000, 200));
    assert_eq!(tapped.code, 0, "{tapped:?}");
    let lines: Vec<serde_json::Value> =
        tapped.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 5, "{tapped:?}");
    for line in &lines {
        assert_eq!(line["topic"], "plant/m1/temperature");
        assert!(line["payload"].as_str().unwrap().contains("celsius"), "{line}");
        let headers = line["batch"].as_str();
        assert!(headers.is_some(), "a batch on an edge has an id: {line}");
    }
    plant.stop().await;
}

#[test]
fn the_tests_of_a_pipeline_run_without_a_lattice() {
    let folder = tempfile::tempdir().unwrap();
    let sample = find::home().join("samples/temperature-alerts/pipeline.yaml");
    let text = std::fs::read_to_string(&sample).unwrap();
    let components = find::home().join("components");
    let text = text.replace("../../components", components.to_str().unwrap());
    let file = folder.path().join("pipeline.yaml");
    let test = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(find::home().join("bin/millrace"))
            .args(["pipeline", "test"])
            .arg(&file)
            .args(more)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), said)
    };
    let (code, said, errors) = test(&text, &["--coverage", "--junit", "results.xml"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.contains("3 passed") && said.contains("too-hot"), "{said}");
    assert!(!said.contains('\x1b'), "colour without a terminal: {said:?}");
    let xml = std::fs::read_to_string(folder.path().join("results.xml")).unwrap();
    assert!(xml.contains("tests=\"3\" failures=\"0\""), "{xml}");

    let wrong = text.replace("celsius: 100 }", "celsius: 99 }");
    let (code, said, _) = test(&wrong, &["--json", "--only", "hot-is-told"]);
    let result: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &result["failed"], &result["passed"]), (Some(1), &1.into(), &0.into()));
    let difference = &result["pipelines"][0]["tests"][0]["failures"][0]["differences"][0];
    assert_eq!(difference["path"], "payload.celsius", "{result}");

    let (graph, _) = text.split_once("tests:").unwrap();
    let (code, _, errors) = test(graph, &[]);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("has no tests"), "{errors}");
}

/// Two brokers that answer and one that does not, a lattice with room and one without, and nothing that is there
/// afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tries_every_connection_and_makes_nothing() {
    let account = "accounts {
  plant { users: [{ user: plant, password: s3cret }], jetstream: { max_file: 1GB, max_mem: 1MB } }
}
";
    let with = |config| NatsOptions { config, ..NatsOptions::default() };
    let nats = NatsServer::start_with(&with(format!("{account}no_auth_user: plant\n"))).unwrap();
    let url = nats.url().replace("nats://", "nats://plant:s3cret@");
    let mosquitto = Mosquitto::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let components = find::home().join("components");
    let text = ALERTS.replace("{components}", components.to_str().unwrap());
    let file = folder.path().join("pipeline.yaml");
    let (file_name, broker) = (file.to_str().unwrap().to_owned(), mosquitto.url());
    let dry_run = async |text: &str, url: &str| {
        std::fs::write(&file, text).unwrap();
        millrace(url, &["pipeline", "dry-run", &file_name, "--timeout", "3s"]).await
    };
    let of = |report: &serde_json::Value, kind: &str, name: &str| {
        let all = report["connections"].as_array().unwrap().iter();
        let mut own = all.filter(|one| one["kind"] == kind && one["name"] == name);
        own.next().unwrap_or_else(|| panic!("no {kind} {name}: {report}")).clone()
    };

    let good = dry_run(&text.replace("{url}", &broker), &url).await;
    assert_eq!(good.code, 0, "{good:?}");
    let report = good.json();
    assert_eq!(report["connections"].as_array().unwrap().len(), 4, "{report}");
    for (kind, name) in [
        ("source", "machine"),
        ("sink", "alerts"),
        ("lattice", "test"),
        ("edge", "celsius.too-hot"),
    ] {
        assert_eq!(of(&report, kind, name)["ok"], true, "{report}");
    }
    assert!(!good.stdout.contains("s3cret"), "{}", good.stdout);

    // The second of the two brokers is not there: both are told.
    let nobody = format!("mqtt://127.0.0.1:{}", millrace_peers::free_port().unwrap());
    let (source, sink) = text.split_once("sinks:\n    alerts").unwrap();
    let half = format!("{source}sinks:\n    alerts{}", sink.replace("{url}", &nobody));
    let half = half.replace("{url}", &broker);
    let bad = dry_run(&half, &url).await;
    assert_eq!(bad.code, 1, "{bad:?}");
    let report = bad.json();
    assert_eq!(of(&report, "source", "machine")["ok"], true, "{report}");
    let failed = of(&report, "sink", "alerts");
    assert_eq!((&failed["ok"], &failed["address"]), (&false.into(), &nobody.as_str().into()));
    assert!(
        failed["failed"]["mend"].as_str().unwrap().contains("nothing listens there"),
        "{failed}"
    );
    // And for people, without colours where there is no terminal.
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["pipeline", "dry-run", &file_name, "--nats-url", &url])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("ok     source   machine") && said.contains("failed sink     alerts"),
        "{said}"
    );
    assert!(
        said.contains("mend: ") && !said.contains('\x1b') && !said.contains("s3cret"),
        "{said}"
    );

    // More than the account may have: 256 MiB of dead letters and the edge.
    let large = text.replace("durable: true", "durable: { max-bytes: 900MiB }");
    let full = dry_run(&large.replace("{url}", &broker), &url).await;
    assert_eq!(full.code, 1, "{full:?}");
    let lattice = of(&full.json(), "lattice", "test");
    let error = lattice["failed"]["error"].as_str().unwrap();
    assert!(
        error.contains("no room for durable edges and dead letters: 1156.0 MiB more"),
        "{error}"
    );

    let closed = NatsServer::start_with(&with(account.to_owned())).unwrap();
    let refused = dry_run(&text.replace("{url}", &broker), &closed.url()).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let report = refused.json();
    let lattice = of(&report, "lattice", "test");
    assert!(lattice["failed"]["mend"].as_str().unwrap().contains("no_auth_user"), "{lattice}");
    assert_eq!(of(&report, "edge", "celsius.too-hot")["ok"], false, "{report}");
    assert_eq!(of(&report, "sink", "alerts")["ok"], true, "{report}");

    // A bucket that a step looks up in: how many keys it has is told.
    let named = text
        .replace("steps:\n", "steps:\n  named: { enrich: { bucket: machines, by: payload.id, into: payload.machine }, from: machine }\n")
        .replace("fahrenheit-to-celsius, from: machine", "fahrenheit-to-celsius, from: named");
    let looked = dry_run(&named.replace("{url}", &broker), &url).await;
    assert_eq!(looked.code, 0, "{looked:?}");
    let bucket = of(&looked.json(), "bucket", "machines");
    assert!(bucket["said"].as_str().unwrap().contains("millrace kv set machines"), "{bucket}");

    let mistaken = dry_run(&text.replace("filter: above-limit", "filter: nowhere"), &url).await;
    assert_eq!(mistaken.code, 3, "{mistaken:?}");

    let client = async_nats::connect(&url).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let account = jetstream.query_account().await.unwrap();
    assert_eq!((account.streams, account.consumers), (0, 0), "something was made");
    // Nothing was subscribed to or published at the broker either.
    let log = mosquitto.log();
    assert!(!log.contains("SUBSCRIBE from") && !log.contains("PUBLISH from"), "{log}");
}

#[test]
fn doctor_and_set_up_know_the_same_steps() {
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks: BTreeSet<&str> =
        checks.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    let set_up = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/setup");
    let output = Command::new(set_up).arg("--list").output().unwrap();
    let steps = String::from_utf8(output.stdout).unwrap();
    for step in steps.lines() {
        assert!(checks.contains(step), "`{step}` is a step of set-up that doctor does not check");
    }
    assert!(steps.lines().count() >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_help_with_an_example() {
    let commands = [
        &["demo"][..],
        &["up"],
        &["pipeline", "lint"],
        &["pipeline", "test"],
        &["pipeline", "dry-run"],
        &["pipeline", "plan"],
        &["pipeline", "build"],
        &["pipeline", "manifest"],
        &["pipeline", "deploy"],
        &["pipeline", "status"],
        &["pipeline", "history"],
        &["pipeline", "tap"],
        &["pipeline", "undeploy"],
        &["provider", "pack"],
        &["tenant", "host", "add"],
        &["host", "join"],
        &["host", "leave"],
        &["dead", "list"],
        &["dead", "show"],
        &["dead", "replay"],
        &["dead", "drop"],
        &["metrics"],
        &["bench"],
        &["chaos"],
        &["completion"],
    ];
    for command in commands {
        let output = Command::new(find::home().join("bin/millrace"))
            .args(command)
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Example"), "{command:?}: {help}");
        assert!(!help.contains('\x1b'), "colour without a terminal: {help:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(find::home().join("bin/millrace"))
            .args(["completion", shell])
            .output()
            .unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("undeploy"), "{shell}");
    }
}
