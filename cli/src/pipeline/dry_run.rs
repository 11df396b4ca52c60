//! `millrace pipeline dry-run`: whether everything that a definition names answers, without moving a message.
//!
//! Sources and sinks are tried by the executables of their connectors, which are in the archives of the installation: this
//! program has no client of any protocol in it, and what is tried is what will run. The lattice and its JetStream are
//! tried from here. Nothing is consumed, subscribed to, written or made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context as _;
use async_nats::jetstream;
use futures::StreamExt as _;
use millrace_access::AccessError;
use millrace_conduit::{Buckets, Edge};
use millrace_grants::Grant;
use millrace_pipeline::Plan;
use millrace_platform::find;
use millrace_provider::dead::KEPT_BYTES;
use millrace_provider::trial::{ARGUMENT, Failed, Side, Trial, Tried};
use provider_archive::ProviderArchive;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::Definition;
use crate::lattice;
use crate::ui::{Ui, human_size, human_time};

/// How long the executable of a connector may take to start and to end, beside what it waits for.
const START: Duration = Duration::from_secs(10);

/// Longest answer of a connector's executable, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// Connections tried at once.
const AT_ONCE: usize = 32;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    definition: Definition,
    #[command(flatten)]
    lattice: lattice::Options,
    /// Give a connection up after this time.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = millrace_platform::parse_time)]
    timeout: Duration,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Source,
    Sink,
    Lattice,
    Edge,
    Bucket,
}

/// A connection that was tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Connection {
    kind: Kind,
    name: String,
    connector: String,
    /// Where, without secrets.
    address: String,
    ok: bool,
    #[serde(flatten)]
    tried: Tried,
}

impl Connection {
    fn new(kind: Kind, name: &str, connector: &str, address: String, tried: Tried) -> Self {
        let (name, connector) = (name.to_owned(), connector.to_owned());
        Self { kind, name, connector, address, ok: tried.failed.is_none(), tried }
    }
}

/// All that was tried.
#[derive(Debug, Serialize)]
struct Report<'a> {
    pipeline: &'a str,
    ok: bool,
    connections: Vec<Connection>,
}

pub(crate) async fn run(ui: Ui, args: &Args) -> anyhow::Result<()> {
    let plan = super::sound(ui, &args.definition)?.plan()?;
    let connectors = outside(&plan, args.timeout)?;
    let (mut connections, mut lattice) = tokio::join!(
        connectors.collect::<Vec<_>>(),
        on_lattice(&plan, &args.lattice, args.timeout)
    );
    // In the order of the definition, not in that of the answers.
    connections.sort_by_key(|(place, _)| *place);
    let mut all: Vec<Connection> = connections.into_iter().map(|(_, one)| one).collect();
    all.append(&mut lattice);
    let report =
        Report { pipeline: &plan.pipeline, ok: all.iter().all(|one| one.ok), connections: all };
    if ui.json {
        ui.json(&report)?;
    } else {
        report.connections.iter().for_each(|one| show(ui, one));
    }
    if report.ok { Ok(()) } else { Err(crate::NotAnswered.into()) }
}

fn show(ui: Ui, connection: &Connection) {
    let kind = match connection.kind {
        Kind::Source => "source",
        Kind::Sink => "sink",
        Kind::Lattice => "lattice",
        Kind::Edge => "edge",
        Kind::Bucket => "bucket",
    };
    let state = if connection.ok { ui.green("ok    ") } else { ui.red("failed") };
    let took = human_time(Duration::from_micros(connection.tried.took_us));
    let name = format!("{:<16}", connection.name);
    ui.line(format!(
        "{state} {kind:<8} {} {} {}  {}",
        ui.bold(name),
        connection.connector,
        connection.address,
        ui.dim(took)
    ));
    if let Some(said) = &connection.tried.said {
        ui.line(format!("       {said}"));
    }
    if let Some(Failed { error, mend }) = &connection.tried.failed {
        ui.line(format!("       {error}"));
        ui.line(format!("       {}", ui.yellow(format!("mend: {mend}"))));
    }
}

/// Tries sources and sinks at the same time; each with its place.
fn outside(
    plan: &Plan,
    timeout: Duration,
) -> anyhow::Result<impl futures::Stream<Item = (usize, Connection)>> {
    let mut wanted = Vec::new();
    for source in &plan.sources {
        let mut settings = source.settings.clone();
        settings.extend(millrace_settings::to_flat(&source.delivery)?);
        wanted.push((Kind::Source, &source.name, &source.connector, &source.stage, settings));
    }
    for sink in &plan.sinks {
        let stage = sink.stages.first().unwrap_or(&sink.name);
        wanted.push((Kind::Sink, &sink.name, &sink.connector, stage, sink.settings.clone()));
    }
    let mut trials = Vec::new();
    for (place, (kind, name, connector, stage, mut settings)) in wanted.into_iter().enumerate() {
        let address = address(&settings);
        let names = [("pipeline", &plan.pipeline), ("name", name), ("stage", stage)];
        settings.extend(names.map(|(key, value)| (key.to_owned(), value.clone())));
        let side = if matches!(kind, Kind::Source) { Side::Source } else { Side::Sink };
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let trial = Trial { side, settings, timeout_ms };
        let (name, connector) = (name.clone(), connector.clone());
        trials.push((place, kind, name, connector, address, trial));
    }
    let limit = timeout.saturating_add(START);
    let each = futures::stream::iter(trials).map(move |(place, kind, name, connector, address, trial)| async move {
        let tried = tried_by(&connector, &trial, limit).await.unwrap_or_else(|error| Tried {
            took_us: 0,
            said: None,
            failed: Some(Failed::new(
                format!("{error:#}"),
                "it is the installation that is at fault, not the address: `make build` makes it anew",
            )),
        });
        (place, Connection::new(kind, &name, &connector, address, tried))
    });
    Ok(each.buffer_unordered(AT_ONCE))
}

/// Where the settings of a link lead to. They hold no secrets, only the names of files with them.
fn address(settings: &BTreeMap<String, String>) -> String {
    let named = ["url", "brokers", "listen"].into_iter().find_map(|name| settings.get(name));
    named.cloned().unwrap_or_else(|| "this machine".to_owned())
}

/// Has the executable of a connector try it.
async fn tried_by(connector: &str, trial: &Trial, limit: Duration) -> anyhow::Result<Tried> {
    let program = executable(connector).await?;
    let mut child = Command::new(&program)
        .arg(ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let text = serde_json::to_vec(trial)?;
    let (mut input, mut output) = (child.stdin.take(), child.stdout.take());
    let asked = async {
        if let Some(input) = &mut input {
            input.write_all(&text).await?;
        }
        drop(input.take());
        let mut answer = Vec::new();
        if let Some(output) = output.take() {
            output.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        }
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(limit, asked)
        .await
        .with_context(|| format!("{} did not end", program.display()))??;
    serde_json::from_slice(&answer)
        .with_context(|| format!("{} gave no answer: is it of this version?", program.display()))
}

/// The executable of a connector, out of its archive: unpacked into the cache the first time.
async fn executable(connector: &str) -> anyhow::Result<PathBuf> {
    // One at a time: a file that is still open for writing cannot be started, and links of one connector share it.
    static UNPACKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = UNPACKING.lock().await;
    let archive = find::provider(connector)?;
    let unreadable = || format!("could not read {}", archive.display());
    let about = std::fs::metadata(&archive).with_context(unreadable)?;
    let written = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let name = archive.file_name().and_then(|name| name.to_str()).unwrap_or(connector);
    let name = name.trim_end_matches(".par.gz");
    let stamp = format!("{name}-{}-{:x}", about.len(), written.unwrap_or_default().as_nanos());
    let folder = find::tools().with_file_name("providers");
    let file = folder.join(stamp);
    if file.is_file() {
        return Ok(file);
    }
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let opened = ProviderArchive::try_load_target_from_file(&archive, &target).await;
    let opened = opened.map_err(|e| anyhow::anyhow!("{}: {e}", unreadable()))?;
    let bytes = opened.target_bytes(&target).with_context(|| {
        format!("{} has nothing for this machine ({target})", archive.display())
    })?;
    unpack(&folder, &file, &bytes)
        .with_context(|| format!("could not write {}", file.display()))?;
    forget(&folder, connector, &file);
    Ok(file)
}

/// Written beside and moved into place: somebody else may be unpacking it.
fn unpack(folder: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder)?;
    let new = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(new.path(), bytes)?;
    std::fs::set_permissions(new.path(), std::fs::Permissions::from_mode(0o755))?;
    // Closed before it is there to be started.
    new.into_temp_path().persist(file)?;
    Ok(())
}

/// Removes what older archives of a connector were unpacked to and nobody has used for a day.
fn forget(folder: &Path, connector: &str, but: &Path) {
    const DAY: Duration = Duration::from_secs(86_400);
    let prefix = format!("{connector}-");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_own = entry.file_name().to_string_lossy().starts_with(&prefix);
        let old = entry.metadata().and_then(|about| about.modified()).ok();
        let old = old.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > DAY);
        if is_own && old && entry.path() != but {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Tries the lattice's NATS server and JetStream, and what the durable edges need of it.
async fn on_lattice(plan: &Plan, options: &lattice::Options, timeout: Duration) -> Vec<Connection> {
    let address = without_secrets(&options.nats_url);
    let mut needs = Needs::default();
    let tried = Tried::of(timeout, look(plan, options, &mut needs)).await;
    let mut all =
        vec![Connection::new(Kind::Lattice, options.name(), "nats", address.clone(), tried)];
    let edges = plan.edges.iter().map(|edge| (Kind::Edge, edge.name.clone(), "jetstream"));
    let buckets = buckets(plan).into_iter().map(|name| (Kind::Bucket, name, "key-value"));
    for (kind, name, connector) in edges.chain(buckets) {
        // What is left out when the time is up was not reached either.
        let tried = needs.found.remove(&name).unwrap_or_else(|| Tried {
            took_us: 0,
            said: None,
            failed: Some(Failed::new("JetStream was not reached", "see `lattice`")),
        });
        all.push(Connection::new(kind, &name, connector, address.clone(), tried));
    }
    all
}

/// The buckets that steps are let at. No edge has such a name: theirs have a dot.
fn buckets(plan: &Plan) -> BTreeSet<String> {
    let grants = plan.stages.iter().flat_map(|stage| &stage.steps).flat_map(|step| &step.grants);
    let buckets = grants.filter_map(|grant| match grant.parse() {
        Ok(Grant::KeyValue { bucket, .. }) => Some(bucket),
        _ => None,
    });
    buckets.collect()
}

/// What was found out of edges and buckets, by name.
#[derive(Default)]
struct Needs {
    found: BTreeMap<String, Tried>,
}

/// Connects, asks JetStream for the account's limits, and looks for the streams.
async fn look(
    plan: &Plan,
    options: &lattice::Options,
    needs: &mut Needs,
) -> Result<String, Failed> {
    let access = options.access.access();
    let connected = access.connect("millrace dry-run", &options.nats_url).await;
    let nats = connected.map_err(|error| match error {
        AccessError::Unreachable { cause, .. } => {
            let mut failed = Failed::to_reach(cause, "--nats-url");
            failed.mend.push_str("; `millrace up` starts a local platform");
            failed
        }
        // It says what to do.
        AccessError::Wanted { .. } => Failed::new(
            "authorization violation",
            "name a file of credentials with --creds, or let in clients without: `no_auth_user` in the server's \
             configuration names their user",
        ),
        other => {
            let text = other.to_string();
            let (said, mend) = text.split_once(". ").unwrap_or((&text, "look at --creds and --tls-ca"));
            Failed::new(said, mend)
        }
    })?;
    let js = jetstream::new(nats.clone());
    let account = Account::of(&js).await?;
    let mut new = 0;
    let (dead, _) =
        bytes_of(&js, &format!("MILLRACE_{}_{}_dead", options.name(), plan.pipeline)).await?;
    if dead.is_none() {
        new += KEPT_BYTES.unsigned_abs();
    }
    for edge in &plan.edges {
        let start = Instant::now();
        let result = edge_needs(&js, &nats, options, plan, edge).await.map(|(more, said)| {
            new += more;
            said
        });
        needs.found.insert(edge.name.clone(), tried(start, result));
    }
    for bucket in buckets(plan) {
        let start = Instant::now();
        let stream = format!("KV_{}", Buckets::name(options.name(), &bucket));
        let result = bytes_of(&js, &stream).await.map(|(found, values)| match found {
            Some(_) => format!("it is there, {values} keys in it"),
            None => format!("it is not there yet: `millrace kv set {bucket} KEY VALUE` makes it"),
        });
        needs.found.insert(bucket, tried(start, result));
    }
    account.has_room_for(new)
}

/// A result with the time that it took.
fn tried(start: Instant, result: Result<String, Failed>) -> Tried {
    let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (said, failed) =
        result.map_or_else(|failed| (None, Some(failed)), |said| (Some(said), None));
    Tried { took_us, said, failed }
}

/// How many bytes more an edge reserves than now, and what is there of it.
async fn edge_needs(
    js: &jetstream::Context,
    nats: &async_nats::Client,
    options: &lattice::Options,
    plan: &Plan,
    edge: &millrace_pipeline::Edge,
) -> Result<(u64, String), Failed> {
    let own = Edge::new(options.name(), &plan.pipeline, &edge.name)
        .map_err(|error| Failed::new(error.to_string(), "mend the name"))?;
    let (mut more, mut said) = (0, Vec::new());
    for (name, bytes, domain) in own.streams(&edge.settings) {
        let there = domain.as_deref().map(|domain| jetstream::with_domain(nats.clone(), domain));
        let (found, waiting) =
            bytes_of(there.as_ref().unwrap_or(js), &name).await.map_err(|mut failed| {
                if let Some(domain) = &domain {
                    failed.error = format!("JetStream domain {domain}: {}", failed.error);
                    "look at `spill-domain`, and at the server of that domain"
                        .clone_into(&mut failed.mend);
                }
                failed
            })?;
        if domain.is_none() {
            more += bytes.saturating_sub(found.unwrap_or_default());
        }
        said.push(match found {
            Some(_) => format!("{name} is there, {waiting} messages in it"),
            None => format!("{name} is made when it is deployed, {} at most", human_size(bytes)),
        });
    }
    Ok((more, said.join("; ")))
}

/// The greatest size and the messages of a stream, if it is there.
async fn bytes_of(js: &jetstream::Context, name: &str) -> Result<(Option<u64>, u64), Failed> {
    let found = lattice::stream(js, name).await.map_err(|error| {
        Failed::new(
            format!("{error:#}"),
            "let this user ask JetStream for its streams (`$JS.API.STREAM.INFO.>`)",
        )
    })?;
    Ok(found.map_or((None, 0), |stream| {
        let info = stream.cached_info();
        (Some(info.config.max_bytes.max(0).unsigned_abs()), info.state.messages)
    }))
}

/// What JetStream allows this account.
struct Account {
    /// Most bytes on disk; none where there is no limit.
    most: Option<u64>,
    /// Bytes that streams have reserved already.
    reserved: u64,
}

impl Account {
    async fn of(js: &jetstream::Context) -> Result<Self, Failed> {
        let off = |error: String| {
            Failed::new(
                format!("JetStream does not answer: {error}"),
                "start the server with JetStream (`nats-server --jetstream`), and enable it for this account",
            )
        };
        // The client library's own form of it leaves out what is reserved.
        let answer: jetstream::response::Response<serde_json::Value> =
            js.request("INFO", &serde_json::json!({})).await.map_err(|e| off(e.to_string()))?;
        let info = match answer {
            jetstream::response::Response::Ok(info) => info,
            jetstream::response::Response::Err { error } => return Err(off(error.to_string())),
        };
        // With tiers the limits are by number of copies; edges have one.
        let info = info.pointer("/tiers/R1").unwrap_or(&info);
        let number = |path: &str| info.pointer(path).and_then(serde_json::Value::as_i64);
        Ok(Self {
            most: number("/limits/max_storage").filter(|most| *most >= 0).map(i64::unsigned_abs),
            reserved: number("/reserved_storage")
                .or(number("/storage"))
                .unwrap_or(0)
                .unsigned_abs(),
        })
    }

    fn has_room_for(&self, new: u64) -> Result<String, Failed> {
        let wanted = human_size(new);
        let Some(most) = self.most else {
            return Ok(format!(
                "JetStream answers; {wanted} more on disk, and this account has no limit"
            ));
        };
        let left = most.saturating_sub(self.reserved);
        let room = format!("of {} this account has {} left", human_size(most), human_size(left));
        if new > left {
            let mend =
                "raise the account's limit at the server, or lower `max-bytes` of durable edges";
            return Err(Failed::new(
                format!("no room for durable edges and dead letters: {wanted} more, {room}"),
                mend,
            ));
        }
        Ok(format!("JetStream answers; {wanted} more on disk, {room}"))
    }
}

/// An address without user, password or token.
fn without_secrets(url: &str) -> String {
    let one = |url: &str| match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
        }
        None => url.to_owned(),
    };
    url.split(',').map(|part| one(part.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(without_secrets("nats://plant:s3cret@host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("tls://token@a, nats://b:1"), "tls://a,nats://b:1");
        assert_eq!(without_secrets("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }

    #[test]
    fn room_is_what_is_not_reserved() {
        let account = |most| Account { most, reserved: 60 << 20 };
        assert!(account(None).has_room_for(1 << 40).is_ok());
        assert!(account(Some(100 << 20)).has_room_for(40 << 20).is_ok());
        let failed = account(Some(100 << 20)).has_room_for(41 << 20).unwrap_err();
        assert!(failed.error.contains("of 100.0 MiB this account has 40.0 MiB left"), "{failed}");
    }
}
