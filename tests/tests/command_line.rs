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
        &["pipeline", "plan"],
        &["pipeline", "build"],
        &["pipeline", "manifest"],
        &["pipeline", "deploy"],
        &["pipeline", "status"],
        &["pipeline", "history"],
        &["pipeline", "tap"],
        &["pipeline", "undeploy"],
        &["provider", "pack"],
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
