//! `millrace demo`: the main job on one machine, with nothing to configure. Starts NATS, an MQTT broker and a pump behind a
//! Modbus device, and adds two tenants, each with a lattice, host and wadm of its own. The pipeline of the one makes alerts
//! of what a machine publishes, in two steps with a durable edge between them; that of the other closes a loop, reads the
//! level of the pump's tank and switches the pump. At the end it looks what the one can see of the other.

mod broker;
mod machine;
mod pump;
mod watch;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use machine::{Published, Readings};
use millrace_lattice_config::tenants::Limits;
use millrace_pipeline::{Document, Plan};
use millrace_platform::{Host, LogLimits, NatsServer, Sync, find, free_port};
use millrace_wadm::Applications;
use pump::Pump;
use serde::Serialize;
use tokio::sync::{mpsc, watch as progress};
use watch::{Alert, DeadLetter, Seen};

use crate::hosts;
use crate::installation::Installation;
use crate::pipeline::build;
use crate::ui::{Ui, human_time};

/// Options of the demo.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace demo                              until Ctrl-C
  millrace demo --for 20s                    ends by itself; exits with 1 when a message was lost
  millrace demo --replay readings.csv        a `timestamp,value` file as the machine, values in degrees Fahrenheit
  millrace demo --rate 5000 --for 30s --json

It ends everything it started and leaves nothing behind.")]
pub(crate) struct Args {
    /// End after this time, as 20s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = millrace_platform::parse_time)]
    time: Option<Duration>,
    /// Replay a two-column `timestamp,value` file instead of simulating a machine.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Readings a second.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Alert above this temperature in degrees Celsius [default: 85, or what one reading in a hundred of the file is
    /// above].
    #[arg(long, value_name = "CELSIUS", allow_negative_numbers = true)]
    limit: Option<f64>,
}

/// Whose machine publishes over MQTT, and whose pump it is.
const TENANTS: [&str; 2] = ["acme", "globex"];
const PIPELINE: &str = "temperature-alerts";
const PUMP_PIPELINE: &str = "pump-control";

/// Limits of the tank's level that the pump's pipeline keeps, in percent.
const LEVELS: (f64, f64) = (30.0, 70.0);

/// The loop switches the pump about every second; this long without is a loop that does not run.
const PUMP_SILENCE: Duration = Duration::from_secs(6);

/// From the last thing seen to the end of waiting for what is still under way.
const DRAIN: Duration = Duration::from_secs(15);

/// Most alerts shown a second; all are counted.
const SHOWN_A_SECOND: u32 = 5;

/// What a run came to.
#[derive(Debug, Serialize)]
struct Summary {
    seconds: f64,
    readings: u64,
    readings_per_second: f64,
    alerts_expected: u64,
    alerts: u64,
    lost: u64,
    duplicates: u64,
    garbled: u64,
    dead_letters: u64,
    latency_p50_us: Option<u64>,
    latency_p99_us: Option<u64>,
    pump_switches: u64,
    pump_level_min: Option<f64>,
    pump_level_max: Option<f64>,
    pump_reaction_p50_us: Option<u64>,
    /// Streams of the other tenant that each of the two sees.
    seen_of_the_other: usize,
    deploy_to_running_ms: u64,
    start_ms: u64,
}

pub(crate) async fn run(ui: Ui, args: Args) -> anyhow::Result<ExitCode> {
    let values = args.replay.as_deref().map(machine::read_file).transpose()?;
    let limit = args.limit.unwrap_or_else(|| values.as_deref().map_or(85.0, machine::ninety_ninth));
    let readings = match values {
        Some(values) => Readings::Replayed { rate: args.rate, values },
        None => Readings::Simulated { rate: args.rate },
    };
    let folder = tempfile::Builder::new()
        .prefix("millrace-demo-")
        .tempdir()
        .context("no temporary folder")?;
    let mut platform = Platform::default();
    // Whatever happens on the way, and Ctrl-C too: what was started is ended.
    let result = tokio::select! {
        result = show(ui, &args, readings, limit, folder.path(), &mut platform) => result,
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    ui.step("ending");
    platform.stop().await;
    let Some(summary) = result? else { return Ok(ExitCode::SUCCESS) };
    report(ui, &summary)?;
    let whole = summary.lost == 0 && summary.dead_letters >= summary.garbled;
    if !whole {
        ui.error(format!(
            "{} of {} alerts and {} of {} dead letters did not arrive",
            summary.lost,
            summary.alerts_expected,
            summary.garbled.saturating_sub(summary.dead_letters),
            summary.garbled
        ));
    }
    let runs = summary.pump_switches > 1 || summary.seconds < PUMP_SILENCE.as_secs_f64();
    if !runs {
        ui.error(format!("the pump was switched {} times only", summary.pump_switches));
    }
    let apart = summary.seen_of_the_other == 0;
    if !apart {
        ui.error(format!("the tenants see {} streams of each other", summary.seen_of_the_other));
    }
    Ok(if whole && runs && apart { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Platform {
    hosts: Vec<Host>,
    nats: Option<NatsServer>,
}

impl Platform {
    async fn stop(self) {
        futures::future::join_all(self.hosts.into_iter().map(Host::stop)).await;
        if let Some(nats) = self.nats {
            nats.stop().await;
        }
    }
}

/// A tenant whose host runs, and a connection that may do in its lattice what the platform may.
struct Tenant {
    name: &'static str,
    nats: async_nats::Client,
}

impl Tenant {
    fn applications(&self) -> Applications {
        Applications::new(self.nats.clone(), self.name)
    }

    /// Puts a pipeline on its lattice, and waits until it runs.
    async fn deploy(&self, plan: &Plan) -> anyhow::Result<()> {
        let deployment = build::stored(&self.nats, self.name, plan).await?;
        let applications = self.applications();
        applications.deploy(&deployment).await?;
        applications.wait_running(&plan.pipeline, Duration::from_secs(60), |_| {}).await?;
        Ok(())
    }

    /// Names of the streams that it can see.
    async fn streams(&self) -> anyhow::Result<Vec<String>> {
        let names = async_nats::jetstream::new(self.nats.clone()).stream_names();
        names.try_collect().await.context("could not list the streams of a tenant")
    }
}

/// Starts the server, adds the tenants and starts their hosts.
async fn two_tenants(
    ui: Ui,
    folder: &Path,
    platform: &mut Platform,
) -> anyhow::Result<[Tenant; 2]> {
    let port = free_port(0)?;
    let Installation { nats, nats_url, tls_ca, tenants, .. } =
        Installation::start(ui, folder, port, Sync::Always, LogLimits::default(), &[]).await?;
    platform.nats = Some(nats);
    // Its tenants are this user's own.
    let confined = millrace_confine::possible().is_ok();
    let plan = hosts::Plan {
        nats_url: nats_url.clone(),
        tls_ca,
        dir: hosts::folder(folder),
        arguments: Vec::new(),
        confined,
        max_memory_mib: hosts::default_memory_mib(),
        log: LogLimits::default(),
    };
    let mut started = Vec::new();
    for name in TENANTS {
        ui.step(format!("adding tenant {name}: account, users, lattice"));
        let mut go_on = |_| ControlFlow::Continue(());
        let record = tenants.add(name, &Limits::default(), &BTreeMap::new(), &mut go_on).await?;
        ui.step(format!("starting host and wadm of {name}"));
        let options = hosts::options(&tenants, &plan, &record)?;
        platform.hosts.push(Host::start(&options).await?);
        let nats = options.access.connect("millrace demo", &nats_url).await?;
        started.push(Tenant { name, nats });
    }
    started.try_into().map_err(|_| anyhow::anyhow!("not two tenants"))
}

/// The whole of it, up to the summary; `None` when it was ended before the machine ran.
async fn show(
    ui: Ui,
    args: &Args,
    readings: Readings,
    limit: f64,
    folder: &Path,
    platform: &mut Platform,
) -> anyhow::Result<Option<Summary>> {
    let start = Instant::now();
    let [acme, globex] = two_tenants(ui, folder, platform).await?;
    let port = broker::start()?;
    let start_ms = millis(start.elapsed());

    let deploying = Instant::now();
    ui.step(format!("deploying pipelines {PIPELINE} and {PUMP_PIPELINE}"));
    let pump = Pump::start(LEVELS).await?;
    let (alerts, control) = (alerts_plan(ui, port, limit)?, pump_plan(ui, pump.port)?);
    tokio::try_join!(acme.deploy(&alerts), globex.deploy(&control))?;
    let deploy_to_running_ms = millis(deploying.elapsed());

    let alerts = watch::alerts(port).await?;
    let letters = watch::dead_letters(&acme.nats, acme.name, PIPELINE).await?;
    if !ui.json {
        ui.line(format!(
            "{}: machine -mqtt-> {} -durable edge-> {} -mqtt-> alerts above {limit:.1} C; MQTT on port {port}",
            acme.name,
            ui.bold("celsius"),
            ui.bold("too-hot")
        ));
        ui.line(format!(
            "{}: tank -modbus-> {} -modbus-> pump, between {} and {} %; Modbus on port {}",
            globex.name,
            ui.bold("keep-level"),
            LEVELS.0,
            LEVELS.1,
            pump.port
        ));
    }
    let (published, progress) = progress::channel(Published::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let machine = tokio::spawn(machine::run(port, limit, readings, published, stopped));
    let running = Instant::now();
    let mut view = View { ui, limit, progress, seen: Seen::new(), shown: 0, pump };
    let told_to_stop = until(args.time);
    view.watch(alerts, letters, told_to_stop, &stop).await;
    machine.await.context("the machine ended badly")??;
    let mut summary = view.summary(running.elapsed(), deploy_to_running_ms, start_ms);
    summary.seen_of_the_other = seen(&acme, &globex).await?;
    Ok(Some(summary))
}

/// How many streams each of the two sees that are in the other's lattice: their names say whose they are.
async fn seen(one: &Tenant, other: &Tenant) -> anyhow::Result<usize> {
    let (of_one, of_other) = (one.streams().await?, other.streams().await?);
    anyhow::ensure!(!of_one.is_empty() && !of_other.is_empty(), "a tenant has no streams");
    let is_of = |name: &str, tenant: &Tenant| name.split('_').any(|word| word == tenant.name);
    let seen = of_one.iter().filter(|name| is_of(name, other)).count();
    Ok(seen.saturating_add(of_other.iter().filter(|name| is_of(name, one)).count()))
}

/// Returns after the time, or at Ctrl-C when there is none to wait for.
async fn until(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => drop(tokio::signal::ctrl_c().await),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The alerts' pipeline with this limit, bound to the demo's broker.
fn alerts_plan(ui: Ui, port: u16, limit: f64) -> anyhow::Result<Plan> {
    let url = format!("mqtt://127.0.0.1:{port}");
    // No pings: this broker answers them late on a busy connection, which the clients take for a dead one.
    let binding = format!(
        r#"  sources:
    machine: {{ mqtt: {{ url: "{url}", topic: plant/+/temperature, version: "3.1.1", keep-alive: 12h }} }}
  sinks:
    alerts: {{ mqtt: {{ url: "{url}", topic: plant/alerts, version: "3.1.1", keep-alive: 12h }} }}
"#
    );
    let components = ["fahrenheit-to-celsius", "above-limit"];
    let limit = ("too-hot", "limit", format!("{limit:.4}"));
    sample_plan(ui, PIPELINE, &binding, &components, &[limit])
}

/// The pump's pipeline, bound to the demo's device.
fn pump_plan(ui: Ui, port: u16) -> anyhow::Result<Plan> {
    let binding = format!(
        r#"  sources:
    tank:
      modbus:
        url: "tcp://127.0.0.1:{port}"
        interval: 100ms
        fields: {{ level: {{ address: 30001, type: UINT16, scale: 0.1 }} }}
  sinks:
    relay:
      modbus:
        url: "tcp://127.0.0.1:{port}"
        fields: {{ pump: {{ address: 0x0000, register: coil, type: BIT }} }}
"#
    );
    let config =
        [("low", LEVELS.0), ("high", LEVELS.1)].map(|(n, v)| ("keep-level", n, v.to_string()));
    sample_plan(ui, PUMP_PIPELINE, &binding, &["on-off-control"], &config)
}

/// The plan of a sample of the installation with another binding, and with these values (step, name, value) in its steps'
/// configuration.
fn sample_plan(
    ui: Ui,
    name: &str,
    binding: &str,
    components: &[&str],
    config: &[(&str, &str, String)],
) -> anyhow::Result<Plan> {
    let home = find::home();
    let sample = home.join("samples").join(name).join("pipeline.yaml");
    let text = std::fs::read_to_string(&sample).with_context(|| {
        format!("the demo's pipeline {} is missing; build it with `make build`", sample.display())
    })?;
    let files = components.iter().map(|name| {
        let file = home.join("components").join(format!("{name}.wasm"));
        format!("    {name}: {{ file: {file:?} }}\n")
    });
    let files: String = files.collect();
    let binding = format!("millrace: v1alpha1\nbinding:\n{binding}  components:\n{files}");
    let file = sample.to_string_lossy();
    let loaded = millrace_pipeline::load(
        Document { file: &file, text: &text },
        Some(Document { file: "the demo's binding", text: &binding }),
        &Default::default(),
    );
    if loaded.has_errors() {
        eprintln!("{}", loaded.render(ui.color));
    }
    let mut pipeline = loaded.pipeline().context("the demo's pipeline cannot be read")?.clone();
    for (step, name, value) in config {
        let found = pipeline.steps.get_mut(*step);
        let found = found.with_context(|| format!("the demo's pipeline has no step `{step}`"))?;
        found.config.insert((*name).to_owned(), value.clone());
    }
    Ok(millrace_pipeline::plan(&pipeline, &home)?)
}

/// What is shown while the machine runs.
struct View {
    ui: Ui,
    limit: f64,
    progress: progress::Receiver<Published>,
    seen: Seen,
    /// Alerts shown in this second.
    shown: u32,
    pump: Pump,
}

impl View {
    /// Shows until told to stop, then tells the machine, and waits for what is under way.
    async fn watch(
        &mut self,
        mut alerts: mpsc::Receiver<Alert>,
        mut letters: mpsc::Receiver<DeadLetter>,
        told_to_stop: impl Future<Output = ()>,
        stop: &tokio::sync::watch::Sender<bool>,
    ) {
        tokio::pin!(told_to_stop);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.tick().await;
        let mut before = Published::default();
        let mut stopping = false;
        loop {
            tokio::select! {
                Some(alert) = alerts.recv() => self.alert(&alert),
                Some(letter) = letters.recv() => self.letter(&letter),
                () = &mut told_to_stop, if !stopping => {
                    stopping = true;
                    // The machine may have ended by itself, at the end of its file.
                    let _ = stop.send(true);
                }
                _ = second.tick() => {
                    let now = self.progress.borrow().clone();
                    self.second(&now, now.readings - before.readings);
                    if now.finished && self.settled(&now) {
                        return;
                    }
                    before = now;
                }
            }
        }
    }

    /// True when everything expected has been seen, or nothing new for long enough.
    fn settled(&self, published: &Published) -> bool {
        let all =
            self.seen.alerts() >= published.alerts && self.seen.dead_letters >= published.garbled;
        all || self.seen.last.elapsed() > DRAIN
    }

    fn alert(&mut self, alert: &Alert) {
        self.seen.alert(alert);
        self.shown += 1;
        if self.ui.json || self.shown > SHOWN_A_SECOND {
            return;
        }
        self.ui.line(format!(
            "{}  {}  {:.1} C is above {:.1}  {}",
            self.ui.red("ALERT"),
            alert.machine,
            alert.celsius,
            self.limit,
            self.ui.dim(format!(
                "reading {}, {} from machine to alert",
                alert.seq,
                human_time(alert.latency)
            ))
        ));
    }

    fn letter(&mut self, letter: &DeadLetter) {
        self.seen.dead_letter();
        self.shown += 1;
        if self.ui.json || self.shown > SHOWN_A_SECOND {
            return;
        }
        let text: String = letter.text.chars().take(80).collect();
        self.ui.line(format!(
            "{}   step {}: {text}  {}",
            self.ui.yellow("DEAD"),
            letter.step,
            self.ui.dim(&letter.payload)
        ));
    }

    fn second(&mut self, published: &Published, rate: u64) {
        self.shown = 0;
        if self.ui.json {
            return;
        }
        let latency = match (self.seen.percentile(0.5), self.seen.percentile(0.99)) {
            (Some(p50), Some(p99)) => {
                format!("latency p50 {} p99 {}", human_time(p50), human_time(p99))
            }
            _ => "no alert yet".to_owned(),
        };
        self.ui.line(self.ui.dim(format!(
            "{rate}/s  {} readings, {} alerts of {}, {} dead letters of {}; {latency}",
            published.readings,
            self.seen.alerts(),
            published.alerts,
            self.seen.dead_letters,
            published.garbled
        )));
        let plant = self.pump.look();
        let state = if plant.pump { self.ui.green("on ") } else { self.ui.dim("off") };
        self.ui.line(format!(
            "{}  {} {:4.1} %  pump {state}  {}",
            self.ui.bold("TANK"),
            bar(plant.level),
            plant.level,
            self.ui.dim(format!("switched {} times", plant.switches))
        ));
    }

    fn summary(&self, took: Duration, deploy_to_running_ms: u64, start_ms: u64) -> Summary {
        let published = self.progress.borrow();
        let plant = self.pump.look();
        let us =
            |time: Option<Duration>| time.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
        Summary {
            seconds: took.as_secs_f64(),
            readings: published.readings,
            readings_per_second: published.readings as f64 / took.as_secs_f64(),
            alerts_expected: published.alerts,
            alerts: self.seen.alerts(),
            lost: published.alerts.saturating_sub(self.seen.alerts()),
            duplicates: self.seen.duplicates,
            garbled: published.garbled,
            dead_letters: self.seen.dead_letters,
            latency_p50_us: us(self.seen.percentile(0.5)),
            latency_p99_us: us(self.seen.percentile(0.99)),
            pump_switches: plant.switches,
            pump_level_min: plant.range.map(|(low, _)| low),
            pump_level_max: plant.range.map(|(_, high)| high),
            pump_reaction_p50_us: us(watch::percentile(&plant.delays, 0.5)),
            seen_of_the_other: 0,
            deploy_to_running_ms,
            start_ms,
        }
    }
}

/// A tank lying on its side, with its limits.
fn bar(percent: f64) -> String {
    let cell = |at: u32| {
        let at = f64::from(at) * 5.0;
        match at {
            _ if at < percent => '#',
            _ if at == LEVELS.0 || at == LEVELS.1 => '|',
            _ => '.',
        }
    };
    (0..20).map(cell).collect()
}

fn report(ui: Ui, summary: &Summary) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(summary);
    }
    let time =
        |us: Option<u64>| us.map_or("-".to_owned(), |us| human_time(Duration::from_micros(us)));
    ui.line(format!(
        "{} readings in {:.1} s ({:.0}/s)",
        summary.readings, summary.seconds, summary.readings_per_second
    ));
    ui.line(format!(
        "{} alerts of {}: {} lost, {} duplicates; latency p50 {}, p99 {}",
        summary.alerts,
        summary.alerts_expected,
        summary.lost,
        summary.duplicates,
        time(summary.latency_p50_us),
        time(summary.latency_p99_us)
    ));
    ui.line(format!("{} garbled readings, {} dead letters", summary.garbled, summary.dead_letters));
    if let (Some(low), Some(high)) = (summary.pump_level_min, summary.pump_level_max) {
        ui.line(format!(
            "pump switched {} times, tank between {low:.0} and {high:.0} %; p50 {} from a limit passed to the relay",
            summary.pump_switches,
            time(summary.pump_reaction_p50_us)
        ));
    }
    ui.line(format!(
        "tenants {}: each has seen {} streams of the other",
        TENANTS.join(" and "),
        summary.seen_of_the_other
    ));
    ui.line(format!(
        "platform up in {}, pipeline running {} after deploy",
        human_time(Duration::from_millis(summary.start_ms)),
        human_time(Duration::from_millis(summary.deploy_to_running_ms))
    ));
    Ok(())
}
