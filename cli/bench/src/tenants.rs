//! A platform of many tenants, with the commands that its operator uses: how long a tenant takes to come and to go, and what
//! one costs that does nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::mqtt::{self, Ends};
use crate::report::Row;
use crate::{Effort, footprint, progress};

const PART: &str = "tenants";

/// How many are added in a row.
const IN_A_ROW: usize = 200;

/// Pipelines of the tenant that has some.
const PIPELINES: usize = 10;

/// Over which processor time is counted.
const WATCHED: Duration = Duration::from_secs(20);

/// After its start, until a process has what it needs and gave back what it did not.
const SETTLE: Duration = Duration::from_secs(5);

/// A host starts, and another thing comes to rest, within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures all rows.
///
/// # Errors
///
/// The platform does not start, a command fails, or a message does not arrive.
pub(crate) async fn measure(effort: Effort) -> anyhow::Result<Vec<Row>> {
    progress("tenants: added, in use, idle, suspended");
    let mut up = Up::start().await?;
    let rows = tokio::select! {
        rows = up.measure(effort) => rows,
        broken_off = broken_off() => broken_off.and_then(|()| bail!("broken off")),
    };
    up.stop().await;
    rows
}

/// Ctrl-C, or whoever asks this program to end: the platform is in a process group of its own. It ends also with a program that was
/// killed, but nobody removes its folder then.
async fn broken_off() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
        _ = terminate.recv() => Ok(()),
    }
}

/// A running `millrace up --tenants`.
struct Up {
    process: Child,
    millrace: PathBuf,
    folder: TempDir,
    url: String,
}

/// What a tenant's host and providers take.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Memory in MiB; what several processes share counts for each in part.
    mib: f64,
    /// The same as the processes' resident memory.
    resident_mib: f64,
}

impl Up {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("millrace-bench-")
            .tempdir()
            .context("no temporary folder")?;
        let port = millrace_platform::free_port(0)?;
        let millrace = std::env::current_exe().context("this program has no path")?;
        let mut process = millrace_platform::guarded(&millrace)
            .args(["up", "--tenants", "--json", "--nats-port", &port.to_string(), "--data"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start `millrace up --tenants`")?;
        let out = process.stdout.take().context("it has no output")?;
        let line = BufReader::new(out).lines().next_line().await?;
        ensure!(line.is_some(), "`millrace up --tenants` ended");
        Ok(Self { process, millrace, folder, url: format!("nats://127.0.0.1:{port}") })
    }

    /// Ends it in order, because its children would go on for a while.
    async fn stop(mut self) {
        drop(self.process.stdin.take());
        let _ = tokio::time::timeout(PATIENCE, self.process.wait()).await;
    }

    async fn measure(&mut self, effort: Effort) -> anyhow::Result<Vec<Row>> {
        let mut rows = vec![self.first_message().await?];
        let in_use = self.in_use().await?;
        let before = self.server()?;

        let count = effort.of(IN_A_ROW);
        let mut took = Vec::new();
        let start = Instant::now();
        for number in 0..count {
            let begun = Instant::now();
            self.run(&["tenant", "add", &format!("idle-{number}")]).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            if (number + 1) % 50 == 0 {
                progress(format_args!("tenants: {} of {count} added", number + 1));
            }
        }
        let all = start.elapsed();
        let names: Vec<String> = (0..count).map(|number| format!("idle-{number}")).collect();
        self.hosts(&names).await?;
        let up = start.elapsed();
        took.sort_by(f64::total_cmp);
        let middle = took.get(took.len() / 2).copied().unwrap_or_default();
        rows.push(
            Row::new(PART, format!("tenant add, each of {count} in a row"), middle, "ms")
                .detail("longest ms", took.last().copied().unwrap_or_default())
                .detail("all added after s", all.as_secs_f64())
                .detail("all hosts up after s", up.as_secs_f64()),
        );

        tokio::time::sleep(SETTLE).await;
        let idle = self.cost(&names)?;
        let used = processor_seconds(&self.all_processes()?);
        tokio::time::sleep(WATCHED).await;
        let busy = processor_seconds(&self.all_processes()?) - used;
        let of_core = busy / WATCHED.as_secs_f64() / (count as f64 + 1.0) * 100.0;
        let server = (self.server()? - before) / count as f64;
        let each = idle.mib + server;
        rows.push(
            Row::new(PART, "an idle tenant", each, "MiB")
                .detail("of it nats-server MiB", server)
                .detail("resident MiB", idle.resident_mib)
                .detail("of a core %", of_core),
        );
        let of_pipelines = in_use.mib + server;
        rows.push(
            Row::new(
                PART,
                format!("a tenant with {PIPELINES} pipelines at rest"),
                of_pipelines,
                "MiB",
            )
            .detail("resident MiB", in_use.resident_mib)
            .detail("of them fit into this machine's memory", machine_mib()? / of_pipelines),
        );

        let mut cut = Vec::new();
        for name in names.iter().take(10) {
            let answer = self.run(&["tenant", "suspend", name]).await?;
            cut.push(answer.get("cut_ms").and_then(Value::as_f64).context("a connection stayed")?);
        }
        cut.sort_by(f64::total_cmp);
        let middle = cut.get(cut.len() / 2).copied().unwrap_or_default();
        rows.push(
            Row::new(PART, "tenant suspend, until its last connection is gone", middle, "ms")
                .detail("longest ms", cut.last().copied().unwrap_or_default()),
        );
        Ok(rows)
    }

    /// From adding a tenant to the first message out of its pipeline.
    async fn first_message(&self) -> anyhow::Result<Row> {
        let mut ends = Ends::start().await?;
        let start = Instant::now();
        self.run(&["tenant", "add", "first"]).await?;
        let added = start.elapsed();
        self.hosts(&["first".to_owned()]).await?;
        let up = start.elapsed();
        self.deploy("first", ends.port, "bench", &["--no-wait"]).await?;
        let deployed = start.elapsed();
        ends.first().await?;
        let first = start.elapsed();
        // The brokers of both end with this process, and one tenant less is looked at.
        self.run(&["tenant", "suspend", "first"]).await?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Row::new(PART, "from `tenant add` to its first message", ms(first), "ms")
            .detail("added after ms", ms(added))
            .detail("host up after ms", ms(up))
            .detail("deployed after ms", ms(deployed)))
    }

    /// What a tenant with pipelines takes that have nothing to do.
    async fn in_use(&self) -> anyhow::Result<Cost> {
        let ends = Ends::start().await?;
        self.run(&["tenant", "add", "busy"]).await?;
        self.hosts(&["busy".to_owned()]).await?;
        for number in 0..PIPELINES {
            let name = format!("bench-{number}");
            self.deploy("busy", ends.port, &name, &["--watch", "0s"]).await?;
        }
        tokio::time::sleep(SETTLE).await;
        let cost = self.cost(&["busy".to_owned()])?;
        self.run(&["tenant", "suspend", "busy"]).await?;
        Ok(cost)
    }

    async fn deploy(
        &self,
        tenant: &str,
        port: u16,
        name: &str,
        more: &[&str],
    ) -> anyhow::Result<()> {
        let (definition, binding) = mqtt::texts(port, name);
        let write = |what: &str, text: &str| {
            let file = self.folder.path().join(format!("{name}-{what}.yaml"));
            std::fs::write(&file, text)
                .with_context(|| format!("could not write {}", file.display()))?;
            anyhow::Ok(file.display().to_string())
        };
        let (definition, binding) = (write("pipeline", &definition)?, write("binding", &binding)?);
        let creds = self.lattices().join("tenants").join(tenant).join("creds/control.creds");
        let creds = creds.display().to_string();
        let deploy = ["pipeline", "deploy", &definition, "--binding", &binding, "--creds", &creds];
        self.run(&[&deploy, more].concat()).await.map(drop)
    }

    fn lattices(&self) -> PathBuf {
        self.folder.path().join("lattices")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.millrace);
        command
            .args(arguments)
            .arg("--json")
            .env("MILLRACE_NATS_URL", &self.url)
            .env("MILLRACE_DATA", self.folder.path())
            .env("MILLRACE_TLS_CA", self.lattices().join("tls/ca.pem"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs a command that has to do it; answers what it prints.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.command(arguments);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`millrace {}`: {said}", arguments.join(" "));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until there is a host for each of the tenants.
    async fn hosts(&self, names: &[String]) -> anyhow::Result<()> {
        let start = Instant::now();
        let is_up = |name: &String| {
            let log = self.folder.path().join("hosts").join(name).join("host.log");
            std::fs::read_to_string(log).is_ok_and(|log| log.contains("host is up"))
        };
        // Each log is read until it says so, and not again.
        let mut left: Vec<&String> = names.iter().collect();
        while let Some(first) = left.first() {
            ensure!(
                start.elapsed() < PATIENCE,
                "{} of {} hosts did not start, that of {first} among them",
                left.len(),
                names.len()
            );
            if is_up(first) {
                left.retain(|name| !is_up(name));
                continue;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What the processes of these tenants take, for one of them.
    fn cost(&self, names: &[String]) -> anyhow::Result<Cost> {
        let folders: Vec<PathBuf> =
            names.iter().map(|name| self.folder.path().join("hosts").join(name)).collect();
        let mut sum = Cost::default();
        for process in self.all_processes()? {
            // A host names its folder among its arguments, and its providers run from there.
            let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let exe = std::fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
            if folders.iter().any(|folder| exe.starts_with(folder) || names_below(&words, folder)) {
                sum.mib += footprint::shared_mib(process)?;
                sum.resident_mib += footprint::resident_mib(process)?;
            }
        }
        let count = names.len() as f64;
        Ok(Cost { mib: sum.mib / count, resident_mib: sum.resident_mib / count })
    }

    /// Memory of nats-server, in MiB.
    fn server(&self) -> anyhow::Result<f64> {
        let is_server = |process: &u32| {
            let exe = std::fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
            exe.file_name() == Some(OsStr::new("nats-server"))
        };
        let server = self.all_processes()?.into_iter().find(is_server);
        footprint::resident_mib(server.context("no nats-server runs")?)
    }

    /// All processes below `up`.
    fn all_processes(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = vec![self.process.id().context("`millrace up` has ended")?];
        let mut next = 0;
        while let Some(parent) = all.get(next).copied() {
            all.extend(footprint::children(parent)?.into_iter().map(|(_, id)| id));
            next += 1;
        }
        Ok(all)
    }
}

/// Whether one of the arguments is below the folder.
fn names_below(words: &[u8], folder: &Path) -> bool {
    words
        .split(|byte| *byte == 0)
        .any(|word| String::from_utf8_lossy(word).contains(&format!("{}/", folder.display())))
}

/// Processor time that processes have used, in seconds (fields 14 and 15 of `/proc/PID/stat`, proc_pid_stat(5), in ticks of
/// a hundredth of a second).
fn processor_seconds(processes: &[u32]) -> f64 {
    let ticks = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name in brackets may have blanks.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>()
    };
    processes.iter().map(ticks).sum::<f64>() / 100.0
}

/// Memory of this machine, in MiB.
fn machine_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("could not read /proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: f64 =
        total.context("/proc/meminfo has no total")?.trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
