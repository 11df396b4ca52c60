//! `millrace tenant`: customers of a platform, each in a NATS account and a lattice of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use millrace_lattice_config::resolver::{Address, Usage};
use millrace_lattice_config::tenants::{Limits, Pushed, Record, State, Tenants};
use millrace_lattice_config::{Home, Role, names};
use serde::{Deserialize, Serialize};

use crate::audit;
use crate::hosts::Ended;
use crate::ui::{Ui, human_size, human_time};

/// The folder of keys and tenants in a data folder.
const FOLDER: &str = "lattices";

/// Holds the passphrase of the keys, where they have one. Not an option: a list of processes shows those.
const PASSPHRASE: &str = "MILLRACE_PASSPHRASE";
/// The one that they get instead.
const NEW_PASSPHRASE: &str = "MILLRACE_NEW_PASSPHRASE";

/// Largest file of a tenant that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;

/// Most tenants of a folder that is applied.
const FILES_MAX: usize = 10_000;

/// Options of every command about tenants.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The platform's data folder, where its keys and tenants are.
    #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The platform's NATS server.
    #[arg(
        long,
        env = "MILLRACE_NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL"
    )]
    nats_url: String,
    /// Certificates (PEM) of the authority that signed the server's [default: the one in the data folder, if there is one]
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// Limits that are to be others than they are, or than by default. -1 is no limit.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct LimitOptions {
    /// Connections at once.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    connections: Option<i64>,
    /// Leaf nodes at once.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    leaf_nodes: Option<i64>,
    /// Subscriptions of one connection.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    subscriptions: Option<i64>,
    /// Bytes of one message.
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    payload: Option<i64>,
    /// Bytes of streams on disk.
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    disk: Option<i64>,
    /// Bytes of streams in memory.
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Streams.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    streams: Option<i64>,
    /// Consumers of one stream.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    consumers: Option<i64>,
}

impl LimitOptions {
    fn over(&self, limits: Limits) -> Limits {
        Limits {
            connections: self.connections.unwrap_or(limits.connections),
            leaf_nodes: self.leaf_nodes.unwrap_or(limits.leaf_nodes),
            subscriptions: self.subscriptions.unwrap_or(limits.subscriptions),
            payload: self.payload.unwrap_or(limits.payload),
            disk: self.disk.unwrap_or(limits.disk),
            memory: self.memory.unwrap_or(limits.memory),
            streams: self.streams.unwrap_or(limits.streams),
            consumers: self.consumers.unwrap_or(limits.consumers),
        }
    }
}

/// Work with tenants: each is a NATS account with a lattice, users and limits of its own.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a tenant: account, users, limits, buckets of its lattice. `millrace up --tenants` then starts its host.
    #[command(
        after_help = "Examples:\n  millrace tenant add acme\n  millrace tenant add acme --disk 5368709120 --label site=hall-3\n\n\
                      It can be called again: what was interrupted is finished, what is there stays as it is."
    )]
    Add {
        /// Its name, which is also that of its lattice.
        name: String,
        #[command(flatten)]
        limits: LimitOptions,
        /// A label; may be given several times.
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        #[command(flatten)]
        options: Options,
    },
    /// Show all tenants.
    #[command(after_help = "Example:\n  millrace tenant list")]
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Show a tenant: its state, users, and limits beside what it uses.
    #[command(after_help = "Example:\n  millrace tenant show acme")]
    Show {
        /// The tenant.
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Change a tenant's limits. Those that are not named stay.
    #[command(after_help = "Example:\n  millrace tenant limits acme --streams 1000")]
    Limits {
        /// The tenant.
        name: String,
        #[command(flatten)]
        limits: LimitOptions,
        /// Also below what is in use.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Cut all connections of a tenant and refuse new ones. Its data stays.
    #[command(after_help = "Example:\n  millrace tenant suspend acme")]
    Suspend {
        /// The tenant.
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Let a suspended tenant work again, also one that is being removed.
    #[command(after_help = "Example:\n  millrace tenant resume acme")]
    Resume {
        /// The tenant.
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Suspend a tenant, and delete it after a time of grace.
    #[command(
        after_help = "Examples:\n  millrace tenant remove acme                gone in a week; `resume` brings it back\n  millrace tenant remove acme --purge        gone now, with all its data"
    )]
    Remove {
        /// The tenant.
        name: String,
        /// Time of grace.
        #[arg(long, value_name = "TIME", default_value = "168h", value_parser = millrace_platform::parse_time)]
        grace: Duration,
        /// Delete it now.
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Write a file of credentials of a new user, for `millrace --creds`, `wash` and NATS' clients.
    #[command(
        after_help = "Examples:\n  millrace tenant creds acme --label anna --out anna.creds\n  millrace tenant creds acme --role viewer --ttl 12h > viewer.creds"
    )]
    Creds {
        /// The tenant.
        name: String,
        /// What the user may do: operator (an engineer), viewer, or one of the platform's parts.
        #[arg(long, default_value = "operator")]
        role: Role,
        /// Whose it is: `revoke` knows the user by it.
        #[arg(long, default_value = "")]
        label: String,
        /// They end after this time.
        #[arg(long, value_name = "TIME", value_parser = millrace_platform::parse_time)]
        ttl: Option<Duration>,
        /// Write them here, readable by the owner alone, in place of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        options: Options,
    },
    /// End a user: its connections are cut, and it cannot return.
    #[command(after_help = "Example:\n  millrace tenant revoke acme anna")]
    Revoke {
        /// The tenant.
        name: String,
        /// The user's label or public key, as `show` names it.
        user: String,
        #[command(flatten)]
        options: Options,
    },
    /// Exchange the users of the platform's parts, or with --signing the key that signs users, and all users with it.
    #[command(
        after_help = "Examples:\n  millrace tenant rotate acme\n  millrace tenant rotate acme --signing\n\n`millrace up` starts the tenant's host anew with the new ones."
    )]
    Rotate {
        /// The tenant.
        name: String,
        /// The signing key as well. Files that were given to people end with it.
        #[arg(long)]
        signing: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Encrypt the platform's keys under another passphrase, or no longer. Not while `millrace up` runs.
    #[command(
        after_help = "Examples:\n  MILLRACE_NEW_PASSPHRASE=... millrace tenant passphrase\n  MILLRACE_PASSPHRASE=old MILLRACE_NEW_PASSPHRASE=new millrace tenant passphrase\n  MILLRACE_PASSPHRASE=old millrace tenant passphrase --plain"
    )]
    Passphrase {
        /// Keep the keys unencrypted from now on.
        #[arg(long)]
        plain: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Push accounts that the servers have otherwise than the records say, as after a restore. `millrace up --tenants` does so
    /// when it starts.
    #[command(
        after_help = "Examples:\n  millrace tenant push\n  millrace tenant push acme\n\nWhat the servers have that is newer stays: who was revoked or suspended since the backup."
    )]
    Push {
        /// The tenant [default: all]
        name: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Make tenants as they are declared in a folder, one YAML file each. Shows the difference first.
    #[command(
        after_help = "Examples:\n  millrace tenant apply tenants/             what would change\n  millrace tenant apply tenants/ --yes       and do it\n\n\
                      tenants/acme.yaml:\n  tenant: acme\n  labels: { site: hall-3 }\n  limits: { disk: 5368709120, streams: 200 }\n\n\
                      A tenant that has no file stays as it is; `suspended: true` suspends one."
    )]
    Apply {
        /// The folder.
        folder: PathBuf,
        /// Do it.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Further hosts of a tenant, on other machines.
    #[command(subcommand)]
    Host(crate::join::OfTenant),
    /// Print a tenant's audit log: who did what, oldest first.
    #[command(
        after_help = "Examples:\n  millrace tenant audit acme --since 2d\n  millrace tenant audit acme --pipeline alerts --follow\n  millrace tenant audit acme --out acme.csv          what is new, appended\n  millrace --json tenant audit acme > acme-audit.json\n  millrace tenant audit                  the platform's own: tokens of the API, passphrases\n\nOf a tenant that is suspended it is the journal on the platform's disk."
    )]
    Audit {
        /// The tenant [default: none; what was done to the platform itself, such as tokens that were made]
        name: Option<String>,
        #[command(flatten)]
        wanted: audit::Wanted,
        #[command(flatten)]
        options: Options,
    },
}

pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE, as in site=hall-3")),
    }
}

/// The folder of keys and tenants.
pub(crate) fn root(data: &Path) -> PathBuf {
    data.join(FOLDER)
}

/// The installation in a platform's data folder.
pub(crate) fn open_home(data: Option<PathBuf>) -> anyhow::Result<Home> {
    let data = crate::up::data_folder(data)?;
    let root = root(&data);
    anyhow::ensure!(
        root.is_dir(),
        "there is no platform with tenants in {}. `millrace up --tenants` makes one; --data names another folder",
        data.display()
    );
    Ok(Home::open(&root, passphrase().as_deref())?)
}

/// The passphrase of the keys.
pub(crate) fn passphrase() -> Option<String> {
    std::env::var(PASSPHRASE).ok().filter(|text| !text.is_empty())
}

/// Who is at work, for the audit log.
pub(crate) fn who() -> String {
    let user =
        ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

impl Options {
    /// Why the tenant's host ended last, if it ever did by itself.
    fn ended(&self, tenant: &str) -> anyhow::Result<Option<Ended>> {
        Ok(Ended::of(&crate::up::data_folder(self.data.clone())?, tenant))
    }

    pub(crate) fn open(&self) -> anyhow::Result<Tenants> {
        let home = open_home(self.data.clone())?;
        let authority = self.authority_of(&home);
        Ok(Tenants::new(home, Address { url: self.nats_url.clone(), authority }, &who()))
    }

    fn authority_of(&self, home: &Home) -> Option<PathBuf> {
        let own = home.tls_folder().join("ca.pem");
        self.tls_ca.clone().or_else(|| own.is_file().then_some(own))
    }

    /// The authority of the server's certificate.
    pub(crate) fn authority(&self, tenants: &Tenants) -> Option<PathBuf> {
        self.authority_of(tenants.home())
    }

    /// The platform's NATS server.
    pub(crate) fn nats_url(&self) -> &str {
        &self.nats_url
    }
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { name, limits, labels, options } => {
            let limits = limits.over(Limits::default());
            let record =
                add(ui, &options.open()?, &name, &limits, &labels.into_iter().collect()).await?;
            if ui.json {
                return ui.json(&record);
            }
            ui.line(format!("{} is {}", ui.bold(&record.name), record.state));
            ui.line(format!(
                "  millrace tenant creds {name} --out {name}.creds    for its engineers"
            ));
            Ok(())
        }
        Command::List { options } => {
            let (records, errors) = options.open()?.scan()?;
            errors.iter().for_each(|error| ui.warn(error));
            if ui.json {
                return ui.json(&records);
            }
            if records.is_empty() {
                ui.step("there are no tenants; `millrace tenant add` makes one");
            }
            records.iter().for_each(|record| line(ui, record));
            Ok(())
        }
        Command::Show { name, options } => {
            let tenants = options.open()?;
            let shown = tenants.show(&name).await?;
            let ended = options.ended(&name)?;
            if ui.json {
                let mut shown = serde_json::to_value(&shown)?;
                if let Some(shown) = shown.as_object_mut() {
                    shown.insert("host_ended".to_owned(), serde_json::to_value(&ended)?);
                }
                return ui.json(&shown);
            }
            line(ui, &shown.record);
            ui.line(format!("  files          {}", tenants.files_folder(&name)?.display()));
            if let Some(Ended { at, reason, times }) = ended {
                let at = date(at);
                ui.line(format!(
                    "  host           ended by itself at {at}, {times} in a row: {reason}"
                ));
            }
            for (what, limit, used) in table(&shown.record.limits, &shown.usage) {
                ui.line(format!("  {what:<14} {used:>12} of {limit}"));
            }
            for user in &shown.record.users {
                let end = match user.expires {
                    0 => String::new(),
                    at => format!("  until {}", date(at)),
                };
                let label = user.label.escape_debug();
                ui.line(format!("  user {}  {} {label}{end}", user.id, user.role));
            }
            Ok(())
        }
        Command::Limits { name, limits, force, options } => {
            let tenants = options.open()?;
            let record = tenants.limits(&name, |now| limits.over(now.clone()), force).await?;
            done(ui, &record, "has its limits")
        }
        Command::Suspend { name, options } => {
            let took = options.open()?.suspend(&name).await?;
            if ui.json {
                return ui.json(&serde_json::json!({
                    "tenant": name, "cut_ms": took.map(|took| took.as_millis()),
                }));
            }
            match took {
                Some(took) => ui.line(format!("{name} is suspended; its last connection was gone after {}", human_time(took))),
                None => ui.warn(format!("{name} is suspended, and a connection of it is still there: look at it with `show`")),
            }
            Ok(())
        }
        Command::Resume { name, options } => {
            let record = options.open()?.resume(&name).await?;
            done(ui, &record, "is active again")
        }
        Command::Remove { name, grace, purge, options } => {
            let tenants = options.open()?;
            if purge {
                // One that was left in the middle of being added has no connections to cut.
                if tenants.get(&name)?.state != State::Provisioning {
                    tenants.remove(&name, Duration::ZERO).await?;
                }
                tenants.purge(&name).await?;
                if ui.json {
                    return ui.json(&serde_json::json!({ "tenant": name, "purged": true }));
                }
                ui.line(format!("{name} is gone, with all its data"));
                return Ok(());
            }
            let record = tenants.remove(&name, grace).await?;
            let when = record.purge_after.map(date).unwrap_or_default();
            done(
                ui,
                &record,
                &format!(
                    "is suspended, and deleted at {when}; `millrace tenant resume` brings it back"
                ),
            )
        }
        Command::Creds { name, role, label, ttl, out, options } => {
            let tenants = options.open()?;
            let issue = tenants.creds(&name, role, &label, ttl);
            let issued = match &out {
                Some(out) => {
                    written(out, async { Ok(issue.await?) }, |issued| &issued.credentials).await?
                }
                None => issue.await?,
            };
            if ui.json {
                let text = out.is_none().then_some(&issued.credentials);
                return ui.json(&serde_json::json!({
                    "tenant": name, "user": issued.user, "file": out, "credentials": text,
                }));
            }
            match out {
                Some(out) => {
                    ui.line(format!("{}: {role} of {name}, user {}", out.display(), issued.user.id))
                }
                None => ui.line(issued.credentials.trim_end()),
            }
            Ok(())
        }
        Command::Revoke { name, user, options } => {
            let ended = options.open()?.revoke(&name, &user).await?;
            if ui.json {
                return ui.json(&ended);
            }
            for user in &ended {
                ui.line(format!("{} {} is revoked", user.id, user.label.escape_debug()));
            }
            Ok(())
        }
        Command::Rotate { name, signing, options } => {
            let tenants = options.open()?;
            let rotated = match signing {
                true => tenants.rotate_signing(&name).await?,
                false => tenants.rotate_users(&name).await?,
            };
            if ui.json {
                return ui.json(&serde_json::json!({ "tenant": name, "ended": rotated.ended }));
            }
            ui.line(format!("{name} has new users for the platform's parts"));
            for user in &rotated.ended {
                ui.line(format!(
                    "  {} {} needs new credentials",
                    user.id,
                    user.label.escape_debug()
                ));
            }
            Ok(())
        }
        Command::Passphrase { plain, options } => {
            let mut home = options.open()?.home().clone();
            if let Ok(pid) = std::fs::read_to_string(home.root().join("nats/nats.pid"))
                && let Ok(name) = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim()))
            {
                anyhow::ensure!(
                    name.trim() != "nats-server",
                    "the platform runs, with the passphrase that it was started with. End `millrace up`, and try again"
                );
            }
            let new = std::env::var(NEW_PASSPHRASE).ok().filter(|text| !text.is_empty());
            anyhow::ensure!(
                new.is_some() != plain,
                "give the new passphrase in {NEW_PASSPHRASE}, or --plain for none"
            );
            home.reseal(new.as_deref())?;
            audit::note_platform(&home, "keys.passphrase", if plain { "none" } else { "new" })?;
            let now = if plain { "are not encrypted any more" } else { "are encrypted anew" };
            if ui.json {
                return ui.json(&serde_json::json!({ "encrypted": !plain }));
            }
            ui.line(format!("the keys in {} {now}", home.root().join("keys").display()));
            Ok(())
        }
        Command::Host(command) => crate::join::of_tenant(ui, command).await,
        Command::Push { name, options } => {
            let tenants = options.open()?;
            let pushed = match name {
                None => tenants.push_all().await?,
                Some(name) => {
                    let pushed = tenants.push_one(&name).await?;
                    Pushed {
                        tenants: pushed.then_some(name).into_iter().collect(),
                        failed: Vec::new(),
                    }
                }
            };
            if ui.json {
                ui.json(&serde_json::json!({ "pushed": pushed.tenants }))?;
            } else if pushed.tenants.is_empty() {
                ui.line("the servers have what the records say");
            } else {
                pushed.tenants.iter().for_each(|name| ui.line(format!("{name} is pushed")));
            }
            pushed.failed.iter().for_each(|(name, error)| ui.warn(format!("{name}: {error}")));
            let failed = pushed.failed.len();
            anyhow::ensure!(failed == 0, "{failed} accounts could not be pushed");
            Ok(())
        }
        Command::Apply { folder, yes, options } => apply(ui, &options.open()?, &folder, yes).await,
        Command::Audit { name, wanted, options } => {
            let tenants = options.open()?;
            match name {
                Some(name) => {
                    audit::show(ui, audit::Source::Tenant(Box::new(tenants), name), wanted).await
                }
                None => audit::platform(ui, tenants.home(), &wanted),
            }
        }
    }
}

async fn add(
    ui: Ui,
    tenants: &Tenants,
    name: &str,
    limits: &Limits,
    labels: &BTreeMap<String, String>,
) -> anyhow::Result<Record> {
    let mut last = Instant::now();
    let mut progress = |step| {
        let step = serde_json::to_value(step).ok().and_then(|v| v.as_str().map(str::to_owned));
        ui.step(format!("{name}: {} ({})", step.unwrap_or_default(), human_time(last.elapsed())));
        last = Instant::now();
        ControlFlow::Continue(())
    };
    Ok(tenants.add(name, limits, labels, &mut progress).await?)
}

fn done(ui: Ui, record: &Record, what: &str) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(record);
    }
    ui.line(format!("{} {what}", record.name));
    Ok(())
}

fn line(ui: Ui, record: &Record) {
    let state = match record.state {
        State::Active => ui.green(record.state),
        State::Provisioning => ui.yellow(record.state),
        State::Suspended | State::Removing => ui.red(record.state),
    };
    let labels: Vec<String> = record.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let end = record.purge_after.map(|at| format!("deleted at {}", date(at))).unwrap_or_default();
    let text = format!("{:<20} {state}  {} {end}", record.name, labels.join(" "));
    ui.line(text.trim_end());
}

/// Limits beside use, in words.
fn table(limits: &Limits, usage: &Usage) -> [(&'static str, String, String); 8] {
    let number = |n: i64| n.to_string();
    let size = |n: i64| human_size(n.max(0).unsigned_abs());
    let most = |n: i64, show: &dyn Fn(i64) -> String| match n {
        -1 => "any number".to_owned(),
        n => show(n),
    };
    [
        ("connections", most(limits.connections, &number), number(usage.connections)),
        ("leaf nodes", most(limits.leaf_nodes, &number), number(usage.leaf_nodes)),
        ("subscriptions", most(limits.subscriptions, &number), number(usage.subscriptions)),
        ("disk", most(limits.disk, &size), size(usage.disk)),
        ("memory", most(limits.memory, &size), size(usage.memory)),
        ("streams", most(limits.streams, &number), number(usage.streams)),
        ("consumers", most(limits.consumers, &number), number(usage.consumers)),
        ("payload", most(limits.payload, &size), "-".to_owned()),
    ]
}

/// Seconds since the Unix epoch as a date.
pub(crate) fn date(at: i64) -> String {
    chrono::DateTime::from_timestamp(at, 0).map_or_else(|| at.to_string(), |at| at.to_rfc3339())
}

/// Writes what is made into a new file that only its owner may read. The file comes first: of credentials that cannot be kept no user
/// would be left that nobody has.
async fn written<T>(
    file: &Path,
    make: impl Future<Output = anyhow::Result<T>>,
    text: impl Fn(&T) -> &str,
) -> anyhow::Result<T> {
    let failed = || format!("could not write {}", file.display());
    let opened = std::fs::File::options().write(true).create_new(true).mode(0o600).open(file);
    let mut open = opened.with_context(failed)?;
    match make.await {
        Ok(made) => {
            open.write_all(text(&made).as_bytes()).with_context(failed)?;
            Ok(made)
        }
        Err(error) => {
            let _ = std::fs::remove_file(file);
            Err(error)
        }
    }
}

/// A tenant as a file declares it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Declared {
    tenant: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    suspended: bool,
}

/// What has to be done to one tenant.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
enum Change {
    Add { tenant: String },
    Limits { tenant: String, what: Vec<String> },
    Labels { tenant: String, what: Vec<String> },
    Suspend { tenant: String },
    Resume { tenant: String },
}

/// The tenants that a folder declares.
fn declared(folder: &Path) -> anyhow::Result<Vec<Declared>> {
    let unreadable = || format!("could not read {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)?.take(FILES_MAX) {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            files.push(path);
        }
    }
    anyhow::ensure!(!files.is_empty(), "{} has no .yaml files", folder.display());
    files.sort();
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let unreadable = || format!("could not read {}", file.display());
        let size = std::fs::metadata(&file).with_context(unreadable)?.len();
        anyhow::ensure!(size <= FILE_MAX, "{} is larger than {FILE_MAX} bytes", file.display());
        let text = std::fs::read_to_string(&file).with_context(unreadable)?;
        let one: Declared = serde_saphyr::from_str(&text).with_context(unreadable)?;
        names::check(&one.tenant).with_context(unreadable)?;
        one.limits.check().with_context(unreadable)?;
        anyhow::ensure!(
            seen.insert(one.tenant.clone()),
            "{}: tenant {} is in two files",
            file.display(),
            one.tenant
        );
        all.push(one);
    }
    Ok(all)
}

/// What is to be done so that a tenant is as it is declared.
fn changes(declared: &Declared, found: Option<&Record>) -> anyhow::Result<Vec<Change>> {
    let tenant = declared.tenant.clone();
    let mut all = Vec::new();
    let state = found.map(|record| record.state);
    match found {
        None | Some(Record { state: State::Provisioning, .. }) => {
            all.push(Change::Add { tenant: tenant.clone() })
        }
        Some(record) => {
            let what = relabelled(&record.labels, &declared.labels);
            if !what.is_empty() {
                all.push(Change::Labels { tenant: tenant.clone(), what });
            }
            let what = differences(&record.limits, &declared.limits)?;
            // Limits are those of an active tenant.
            if !what.is_empty() || (state != Some(State::Active) && !declared.suspended) {
                if state != Some(State::Active) {
                    all.push(Change::Resume { tenant: tenant.clone() });
                }
                if !what.is_empty() {
                    all.push(Change::Limits { tenant: tenant.clone(), what });
                }
            }
        }
    }
    // Labels alone change in any state.
    let woken = all.iter().any(|change| !matches!(change, Change::Labels { .. }));
    let active = woken || state == Some(State::Active);
    if declared.suspended && active {
        all.push(Change::Suspend { tenant });
    }
    Ok(all)
}

/// The labels that are others, in words.
fn relabelled(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let change = |name: &String| match (from.get(name), to.get(name)) {
        (Some(old), Some(new)) if old != new => Some(format!("{name}: {old} -> {new}")),
        (Some(old), None) => Some(format!("{name}: {old} -> none")),
        (None, Some(new)) => Some(format!("{name}: none -> {new}")),
        _ => None,
    };
    names.into_iter().filter_map(change).collect()
}

/// The limits that are others, in words.
fn differences(from: &Limits, to: &Limits) -> anyhow::Result<Vec<String>> {
    let (from, to) = (serde_json::to_value(from)?, serde_json::to_value(to)?);
    let fields = to.as_object().into_iter().flatten();
    let changed = fields.filter_map(|(name, new)| {
        let old = from.get(name)?;
        (old != new).then(|| format!("{name}: {old} -> {new}"))
    });
    Ok(changed.collect())
}

async fn apply(ui: Ui, tenants: &Tenants, folder: &Path, yes: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let records = tenants.list()?;
    for one in declared(folder)? {
        let found = records.iter().find(|record| record.name == one.tenant);
        let changes = changes(&one, found)?;
        all.push((one, changes));
    }
    let wanted: Vec<&Change> = all.iter().flat_map(|(_, changes)| changes).collect();
    if ui.json {
        ui.json(&serde_json::json!({ "changes": wanted, "applied": yes }))?;
    } else {
        for change in &wanted {
            match change {
                Change::Add { tenant } => ui.line(format!("{} {tenant}", ui.green("+ add"))),
                Change::Limits { tenant, what } => {
                    ui.line(format!("{} {tenant}: {}", ui.yellow("~ limits"), what.join(", ")));
                }
                Change::Labels { tenant, what } => {
                    ui.line(format!("{} {tenant}: {}", ui.yellow("~ labels"), what.join(", ")));
                }
                Change::Suspend { tenant } => ui.line(format!("{} {tenant}", ui.red("- suspend"))),
                Change::Resume { tenant } => ui.line(format!("{} {tenant}", ui.green("+ resume"))),
            }
        }
        if wanted.is_empty() {
            ui.line("nothing changes");
        } else if !yes {
            ui.step("nothing was done; --yes does it");
        }
    }
    if !yes {
        return Ok(());
    }
    for (one, changes) in &all {
        for change in changes {
            match change {
                Change::Add { tenant } => {
                    add(ui, tenants, tenant, &one.limits, &one.labels).await?;
                }
                Change::Limits { tenant, .. } => {
                    tenants.limits(tenant, |_| one.limits.clone(), false).await?;
                }
                Change::Labels { tenant, .. } => {
                    tenants.labels(tenant, &one.labels).await?;
                }
                Change::Suspend { tenant } => {
                    tenants.suspend(tenant).await?;
                }
                Change::Resume { tenant } => {
                    tenants.resume(tenant).await?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_made_and_what_is_not_made_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("anna.creds");
        let mut made = 0;
        let failing = async { Err::<String, _>(anyhow::anyhow!("no server answers")) };
        written(&file, failing, |text| text).await.unwrap_err();
        assert!(!file.exists());
        for _ in 0..2 {
            let make = async {
                made += 1;
                Ok("secret".to_owned())
            };
            let _ = written(&file, make, |text| text).await;
        }
        assert_eq!((made, std::fs::read_to_string(&file).unwrap().as_str()), (1, "secret"));
    }

    #[test]
    fn what_is_declared_twice_odd_or_unknown_is_refused_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(declared(folder.path()).unwrap_err().to_string().contains("no .yaml files"));
        put("a.yaml", "tenant: acme\nlimits: { streams: 200 }\n");
        put("notes.txt", "not a tenant");
        let found = declared(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].limits.streams, found[0].limits.disk), (200, Limits::default().disk));
        for text in [
            "tenant: acme\n",
            "tenant: Acme\n",
            "tenant: b\nlimit: {}\n",
            "tenant: b\nlimits: { streams: 1 }\n",
        ] {
            put("b.yaml", text);
            let error = format!("{:#}", declared(folder.path()).unwrap_err());
            assert!(error.contains("b.yaml"), "{text}: {error}");
        }
    }

    #[test]
    fn labels_that_are_others_are_shown() {
        let labels = |text: &[(&str, &str)]| {
            text.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let from = labels(&[("class", "edge"), ("old", "x"), ("site", "a")]);
        let to = labels(&[("class", "edge"), ("new", "y"), ("site", "b")]);
        assert_eq!(relabelled(&from, &to), ["new: none -> y", "old: x -> none", "site: a -> b"]);
        assert!(relabelled(&to, &to).is_empty());
    }

    #[test]
    fn a_tenant_that_is_not_there_is_added_and_then_suspended_if_that_is_declared() {
        let one = Declared {
            tenant: "acme".into(),
            labels: BTreeMap::new(),
            limits: Limits::default(),
            suspended: true,
        };
        let tenant = || "acme".to_owned();
        assert_eq!(
            changes(&one, None).unwrap(),
            [Change::Add { tenant: tenant() }, Change::Suspend { tenant: tenant() }]
        );
        let more = Limits { streams: 501, ..Limits::default() };
        assert_eq!(differences(&Limits::default(), &more).unwrap(), ["streams: 500 -> 501"]);
    }
}
