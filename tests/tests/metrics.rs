//! What the platform counts, as Prometheus reads it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millrace_peers::{Mosquitto, NatsServer};
use millrace_platform::find;
use millrace_tests::{ALERTS, LATTICE, Machine, Plant, hot};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);

/// A look at a lattice takes two seconds at most; the rest is for a busy machine.
const ANSWERED: Duration = Duration::from_secs(4);

/// One metric of a page.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    series: Vec<(BTreeMap<String, String>, f64)>,
}

/// Reads the text format (version 0.0.4) and takes nothing that its specification does not have: each family in one
/// piece after its HELP and TYPE, no series twice, counters called `_total`, classes of a histogram in their order. Of a
/// histogram its count is kept.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has an end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = String::new();
    let mut described = String::new();
    // Of a histogram: its classes so far.
    let mut classes: Vec<(f64, f64)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "{name} comes in two pieces");
            assert!(!help.trim().is_empty(), "{line}");
            name.clone_into(&mut described);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, described, "help and type belong together");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(is_name(name, ":"), "{line}");
            name.clone_into(&mut now);
            let family = Family { kind: kind.to_owned(), series: Vec::new() };
            assert!(families.insert(now.clone(), family).is_none(), "{line}");
        } else {
            let (name, mut labels, value) = sample(line);
            let family = families.get_mut(&now).unwrap();
            if family.kind == "histogram" {
                match name.strip_prefix(&now) {
                    Some("_bucket") => {
                        let bound: f64 = labels.remove("le").unwrap().parse().unwrap();
                        let grows = classes.last().is_none_or(|(b, v)| *b < bound && *v <= value);
                        assert!(grows, "{line}");
                        classes.push((bound, value));
                        continue;
                    }
                    Some("_sum") => continue,
                    Some("_count") => {
                        assert_eq!(classes.last(), Some(&(f64::INFINITY, value)), "{line}");
                        classes.clear();
                    }
                    _ => panic!("a sample stands in its family: {line}"),
                }
            } else {
                assert_eq!(name, now, "a sample stands in its family: {line}");
            }
            assert!(family.series.iter().all(|(l, _)| *l != labels), "twice: {line}");
            assert!(family.kind == "gauge" || value >= 0.0, "{line}");
            family.series.push((labels, value));
        }
    }
    assert!(families.values().all(|family| !family.series.is_empty()));
    families
}

fn is_name(name: &str, also: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || also.contains(c);
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// `name{label="value",...} value`
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, mut rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    let mut labels = BTreeMap::new();
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(label, "") && !label.starts_with("__"), "{line}");
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("no end of a label: {line}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("no such escape {other:?}: {line}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|e| panic!("{e}: {line}")))
}

/// What is between the two.
struct Scrape(BTreeMap<String, Family>);

impl Scrape {
    /// The value of the one series with these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = self.0.get(name).unwrap_or_else(|| panic!("no {name}"));
        let fits = |has: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| has.get(*label).is_some_and(|v| v == value))
        };
        let found: Vec<_> = family.series.iter().filter(|(has, _)| fits(has)).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].1
    }
}

/// `millrace metrics --listen` at a free port.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    async fn start(nats_url: &str) -> Self {
        Self::run(&["metrics", "--listen", "127.0.0.1:0", "--nats-url", nats_url, "--json"]).await
    }

    /// A command whose first line is JSON that says where its metrics are.
    async fn run(arguments: &[&str]) -> Self {
        let mut process = Command::new(find::home().join("bin/millrace"))
            .args(arguments)
            .env("MILLRACE_LATTICE", LATTICE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("it says where it listens");
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = said["metrics"].as_str().unwrap_or_else(|| panic!("{line}"));
        let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
        Self { process, address: address.to_owned() }
    }

    /// Sends these bytes; answers head and body when the server has closed the connection.
    async fn send(&self, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A server that has refused what it has not read to the end may also reset the connection.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.to_owned(), body.to_owned())
    }

    async fn scrape(&self) -> Scrape {
        let start = Instant::now();
        let (head, body) = self.send(b"GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(start.elapsed() < ANSWERED, "it took {:?}", start.elapsed());
        Scrape(parse(&body))
    }

    /// Scrapes until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Scrape) -> bool) -> Scrape {
        let start = Instant::now();
        loop {
            let scrape = self.scrape().await;
            if holds(&scrape) {
                return scrape;
            }
            assert!(start.elapsed() < PATIENCE, "not {what}: {:#?}", scrape.0);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Name, type and labels of what the page describes.
fn documented() -> BTreeSet<(String, String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `millrace_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let mut labels: Vec<&str> = cells[3].split(", ").collect();
        labels.sort_unstable();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), labels.join(", "))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_what_waits_while_a_broker_is_away() {
    let plant = Plant::start().await;
    let mut far = Mosquitto::start().unwrap();
    // The second address is the sink's.
    let (before, after) = ALERTS.rsplit_once("{url}").unwrap();
    // What a step may ask for is counted from 0 on.
    let granted = "map: fahrenheit-to-celsius, grants: [\"kv:read:limits\"],";
    let text =
        format!("{before}{}{after}", far.url()).replace("map: fahrenheit-to-celsius,", granted);
    assert!(text.contains(granted));
    plant.deploy(&plant.define("alerts.yaml", &text)).await;
    let server = Server::start(&plant.nats_url()).await;
    let mut machine = Machine::connect(&plant);
    machine.readings(0..100, 500).await;
    let edge = [("edge", "celsius.too-hot"), ("pipeline", "alerts"), ("lattice", LATTICE)];
    let sink = [("link", "alerts"), ("direction", "sink"), ("connector", "mqtt")];
    let source = [("link", "machine"), ("direction", "source"), ("connector", "mqtt")];
    let sent = "millrace_link_sent_messages_total";
    let good = server
        .until("all through", |s| {
            s.value(sent, &sink) >= 50.0 && s.value("millrace_edge_queue_batches", &edge) == 0.0
        })
        .await;
    assert_eq!(good.value("millrace_up", &[("lattice", LATTICE)]), 1.0);
    assert_eq!(good.value("millrace_hosts", &[]), 1.0);
    assert_eq!(good.value("millrace_link_up", &sink), 1.0);
    assert_eq!(good.value("millrace_link_received_messages_total", &source), 100.0);
    assert_eq!(good.value("millrace_edge_queue_limit_bytes", &edge), 67_108_864.0);
    assert_eq!(good.value("millrace_edge_queue_oldest_age_seconds", &edge), 0.0);
    assert!(good.value("millrace_link_max_acknowledgement_seconds", &source) > 0.0);

    far.stop().unwrap();
    let (age, waiting) = ("millrace_edge_queue_oldest_age_seconds", "millrace_edge_queue_bytes");
    machine.readings(100..600, 500).await;
    let first = server.until("something waits", |s| s.value(age, &edge) > 0.0).await;
    machine.readings(600..1100, 500).await;
    let then = server
        .until("more waits, for longer", |s| {
            s.value(age, &edge) >= first.value(age, &edge) + 2.0
                && s.value(waiting, &edge) > first.value(waiting, &edge)
                && s.value("millrace_link_up", &sink) == 0.0
                && s.value("millrace_link_received_messages_total", &source) == 1100.0
        })
        .await;
    assert!(then.value(age, &edge) < 30.0, "{}", then.value(age, &edge));
    let mut failed = sink.to_vec();
    failed.push(("kind", "connection"));
    assert!(then.value("millrace_link_errors_total", &failed) > 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = then.value("millrace_link_last_error_timestamp_seconds", &sink);
    assert!((now.as_secs_f64() - at).abs() < 60.0, "{at}");

    // The page lists what there is, and nothing else.
    let found: BTreeSet<_> = then
        .0
        .iter()
        .map(|(name, family)| {
            let labels: Vec<&str> = family.series[0].0.keys().map(String::as_str).collect();
            (name.clone(), family.kind.clone(), labels.join(", "))
        })
        .collect();
    assert_eq!(found, documented());

    far.restart().unwrap();
    let end = server
        .until("all through", |s| {
            s.value(sent, &sink) >= 550.0 && s.value("millrace_edge_queue_batches", &edge) == 0.0
        })
        .await;
    assert_eq!(end.value("millrace_link_up", &sink), 1.0);
    assert!(end.value("millrace_link_reconnects_total", &sink) >= 1.0);
    assert!(hot(0..1100).len() == 550);

    // The same once, by command, as text and as JSON.
    let output = Command::new(find::home().join("bin/millrace"))
        .args(["metrics", "--nats-url", &plant.nats_url(), "--lattice", LATTICE])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let once = Scrape(parse(&String::from_utf8(output.stdout).unwrap()));
    assert_eq!(once.value(sent, &sink), end.value(sent, &sink));
    let json = plant.millrace(&["metrics"]).await.json();
    assert_eq!(json["hosts"], 1, "{json}");
    assert!(json["providers"].as_array().unwrap().len() >= 2, "{json}");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lattice_that_does_not_answer_is_down_and_nobody_waits() {
    let mut nats = NatsServer::start().unwrap();
    let server = Server::start(&nats.url()).await;
    let up = |scrape: &Scrape| scrape.value("millrace_up", &[("lattice", LATTICE)]);
    assert_eq!(up(&server.scrape().await), 0.0, "no host");

    // A host is what answers for one.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut pings = client.subscribe(format!("wasmbus.ctl.v1.{LATTICE}.host.ping")).await.unwrap();
    let mut asked = client.subscribe(format!("millrace.{LATTICE}.status")).await.unwrap();
    client.flush().await.unwrap();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(ping) = pings.next().await {
            answering.publish(ping.reply.unwrap(), "{}".into()).await.unwrap();
        }
    });
    server.until("up", |s| up(s) == 1.0).await;

    // Many who ask at the same time are one question to the lattice.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    while futures::FutureExt::now_or_never(asked.next()).is_some() {}
    let all = futures::future::join_all((0..100).map(|_| server.scrape())).await;
    assert!(all.iter().all(|s| up(s) == 1.0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut questions = 0;
    while futures::FutureExt::now_or_never(asked.next()).is_some() {
        questions += 1;
    }
    assert!((1..=3).contains(&questions), "{questions} questions for 100 requests");

    nats.freeze(true).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(up(&server.scrape().await), 0.0, "a server that stands still");
    nats.freeze(false).unwrap();
    server.until("up again", |s| up(s) == 1.0).await;
    nats.kill().unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut away = server;
    assert_eq!(up(&away.scrape().await), 0.0, "a server that is gone");
    let once = millrace_tests::millrace(&nats.url(), &["metrics"]).await;
    assert_eq!((once.code, &once.json()["hosts"]), (1, &0.into()), "{once:?}");
    assert!(once.stderr.contains("millrace up"), "{once:?}");
    nats.restart().unwrap();
    away.until("up after all", |s| up(s) == 1.0).await;
    away.process.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_to_small_requests_only() {
    // Nobody is there to ask: it serves all the same.
    let nobody = millrace_peers::free_port().unwrap();
    let server = Server::start(&format!("nats://127.0.0.1:{nobody}")).await;
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: m\r\nContent-Length: 9999999\r\n\r\nx", "405"),
        ("HEAD /metrics HTTP/1.1\r\nHost: m\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nHost: m\r\n\r\n", "404"),
        ("GET /metrics/../secrets HTTP/1.1\r\nHost: m\r\n\r\n", "404"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (head, _) = server.send(request.as_bytes()).await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{request:?}: {head}");
    }
    let (head, _) = server.send(b"POST /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert!(head.contains("allow: GET"), "{head}");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let (head, _) = server.send(long.as_bytes()).await;
    assert!(!head.starts_with("HTTP/1.1 200"), "{head}");

    // More than there is room for that begin a request and do not end it, and then one that asks.
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHos").await.unwrap();
        slow.push(stream);
    }
    let start = Instant::now();
    let (head, body) = server.send(b"GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(Scrape(parse(&body)).value("millrace_up", &[]), 0.0);
    // Three seconds for sixteen of them.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    drop(slow);

    for (arguments, words) in [
        (["metrics", "--listen", &server.address], ["in use", "--listen"]),
        (["up", "--metrics", &server.address], ["in use", "--metrics"]),
        (["metrics", "--listen", "nowhere"], ["address and a port", "--listen"]),
    ] {
        let refused = millrace_tests::millrace("nats://127.0.0.1:1", &arguments).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_platform_serves_its_metrics() {
    let data = tempfile::tempdir().unwrap();
    let port = millrace_peers::free_port().unwrap().to_string();
    let folder = data.path().to_str().unwrap();
    let up = ["up", "--nats-port", &port, "--data", folder, "--metrics", "127.0.0.1:0", "--json"];
    let mut server = Server::run(&up).await;
    let scrape = server.until("up", |s| s.value("millrace_up", &[]) == 1.0).await;
    assert_eq!(scrape.value("millrace_hosts", &[("lattice", LATTICE)]), 1.0);
    let pid = rustix::process::Pid::from_raw(server.process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.process.wait().await.unwrap().success());
}
