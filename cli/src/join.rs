//! Further hosts of a tenant on other machines: added where the platform is (`millrace tenant host`), and joined and left
//! where the host is to run (`millrace host`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::connection::State;
use millrace_access::{Access, AccessError};
use millrace_lattice_config::Role;
use millrace_lattice_config::join::{Joining, NewHost, ROLES, TOKEN_MAX};
use millrace_lattice_config::{Lock, class};
use millrace_platform::{find, kill_all_of};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::class::Classes;
use crate::hosts::{self, Memory};
use crate::tenant::{self, Options};
use crate::ui::Ui;

/// The folder of a joined host in the data folder.
const FOLDER: &str = "joined";

/// What it needs, in its folder: the content of the token.
const JOINING: &str = "host.json";

/// The certificates of the platform's authority, in its folder.
const AUTHORITY: &str = "ca.pem";

/// How often it is looked whether the connection that tells of refusals is there.
const LOOK: Duration = Duration::from_secs(1);

/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_secs(5);

/// A host first lets its providers drain.
const STOP: Duration = Duration::from_secs(30);

/// For a host that is left: until it has ended.
const LEAVE: Duration = Duration::from_secs(45);

/// Where the platform is.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OfTenant {
    /// Add a host on another machine, and print the token with which it joins. The token is a secret, and shown this once.
    #[command(
        after_help = "Examples:\n  millrace tenant host add acme hall-3 --label site=hall-3 > hall-3.token\n  millrace tenant host add acme hall-4 --class small --url tls://plant.example:4222\n\nOn the other machine:  millrace host join - < hall-3.token"
    )]
    Add {
        /// The tenant.
        tenant: String,
        /// The host's name, which is also its label `host`.
        host: String,
        /// A label, for placement; may be given several times.
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = tenant::label)]
        labels: Vec<(String, String)>,
        /// Its class: limits and devices, from classes.yaml beside the tenants.
        #[arg(long, value_name = "NAME")]
        class: Option<String>,
        /// The platform's NATS server, as that machine reaches it [default: the name that `millrace up --name` was given]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Show the hosts that were added.
    #[command(after_help = "Example:\n  millrace tenant host list acme")]
    List {
        /// The tenant.
        tenant: String,
        #[command(flatten)]
        options: Options,
    },
    /// End a host's users: its connections are cut, and its token counts no more.
    #[command(after_help = "Example:\n  millrace tenant host remove acme hall-3")]
    Remove {
        /// The tenant.
        tenant: String,
        /// The host.
        host: String,
        #[command(flatten)]
        options: Options,
    },
}

/// Where the host is.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Join a tenant's lattice with a token, and run a host there until Ctrl-C. Started again it needs no token.
    #[command(
        after_help = "Examples:\n  millrace host join --token-file hall-3.token\n  millrace host join - < hall-3.token\n  millrace host join                     again, with what is stored\n\nWhat its pipelines' settings name (`password-file`) has to be in the folder `joined/files` of the data folder."
    )]
    Join {
        /// The token, or `-` to read it from standard input, where no list of processes shows it.
        token: Option<String>,
        /// File with the token.
        #[arg(long, value_name = "FILE", conflicts_with = "token")]
        token_file: Option<PathBuf>,
        /// Do not keep this machine from the host and its providers: for a kernel without Landlock.
        #[arg(long)]
        unconfined: bool,
        /// Folder for what it stores.
        #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// End the host that joined, and remove what it stored. Files in `joined/files` stay.
    #[command(after_help = "Example:\n  millrace host leave")]
    Leave {
        /// Folder for what it stores.
        #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

pub(crate) async fn of_tenant(ui: Ui, command: OfTenant) -> anyhow::Result<()> {
    match command {
        OfTenant::Add { tenant, host, labels, class, url, options } => {
            let tenants = options.open()?;
            let mut labels: BTreeMap<String, String> = labels.into_iter().collect();
            let of_class = match class {
                Some(name) => {
                    let found = Classes::of(tenants.home().root())?.find(&name)?.clone();
                    labels.insert(class::LABEL.to_owned(), name);
                    found
                }
                None => class::Class::default(),
            };
            let authority = options.authority(&tenants).context(
                "without the authority of the server's certificate no other machine can trust it; name it with --tls-ca",
            )?;
            let authority = std::fs::read_to_string(&authority)
                .with_context(|| authority.display().to_string())?;
            let url = match url {
                Some(url) => url,
                None => own_url(ui, &tenants.home().tls_folder(), options.nats_url()),
            };
            let new = NewHost { url: url.clone(), authority, labels, class: of_class };
            let joining = tenants.add_host(&tenant, &host, new).await?;
            let token = joining.token();
            if ui.json {
                return ui.json(&serde_json::json!({
                    "tenant": tenant, "host": host, "url": url, "labels": joining.labels, "token": token,
                }));
            }
            ui.line(token);
            ui.step(format!(
                "{host} of {tenant} joins at {url} with this token: millrace host join -"
            ));
            Ok(())
        }
        OfTenant::List { tenant, options } => {
            let hosts = options.open()?.hosts(&tenant)?;
            if ui.json {
                return ui.json(&hosts);
            }
            if hosts.is_empty() {
                ui.step("no host was added; `millrace tenant host add` adds one");
            }
            for host in hosts {
                let users: Vec<String> =
                    host.users.iter().map(|user| format!("{} {}", user.role, user.id)).collect();
                ui.line(format!("{:<20} {}", host.host, users.join("  ")));
            }
            Ok(())
        }
        OfTenant::Remove { tenant, host, options } => {
            options.open()?.remove_host(&tenant, &host).await?;
            if ui.json {
                return ui.json(&serde_json::json!({ "tenant": tenant, "removed": host }));
            }
            ui.line(format!("{host} is no host of {tenant} any more; its token counts no more"));
            Ok(())
        }
    }
}

/// The server as other machines reach it: under the first name of its certificate that is not this machine's own.
fn own_url(ui: Ui, tls: &Path, nats_url: &str) -> String {
    let record = std::fs::read(tls.join("nats.json")).ok();
    let record = record.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    let names = record.as_ref().and_then(|record| record.get("names")?.as_array());
    let name = names
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .find(|name| !["localhost", "127.0.0.1", "::1"].contains(name));
    let port = nats_url.rsplit_once(':').map_or("4222", |(_, port)| port);
    let Some(name) = name else {
        ui.warn(
            "the platform is reached on this machine alone. Start it with `millrace up --tenants --name HOST`, or name the \
             server with --url",
        );
        return format!("tls://127.0.0.1:{port}");
    };
    match name.contains(':') {
        true => format!("tls://[{name}]:{port}"),
        false => format!("tls://{name}:{port}"),
    }
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Join { token, token_file, unconfined, data } => {
            let folder = crate::up::data_folder(data)?.join(FOLDER);
            let token = given(token.as_deref(), token_file.as_deref())?;
            join(ui, &folder, token.as_deref(), unconfined).await
        }
        Command::Leave { data } => leave(ui, &crate::up::data_folder(data)?.join(FOLDER)),
    }
}

/// The token, from wherever it is.
fn given(token: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let read = |from: &mut dyn std::io::Read| {
        let mut text = String::new();
        // One byte more shows that it is too long.
        from.take(TOKEN_MAX as u64 + 2).read_to_string(&mut text).map(|_| text)
    };
    match (token, file) {
        (Some("-"), _) => {
            Ok(Some(read(&mut std::io::stdin()).context("the token on standard input")?))
        }
        (Some(token), _) => Ok(Some(token.to_owned())),
        (None, Some(file)) => {
            let text = File::open(file).and_then(|mut open| read(&mut open));
            Ok(Some(text.with_context(|| file.display().to_string())?))
        }
        (None, None) => Ok(None),
    }
}

/// Held by the process that runs the host; or the text of the process that holds it.
fn lock(folder: &Path) -> anyhow::Result<Result<Lock, String>> {
    Ok(Lock::take(&folder.join("lock"), &std::process::id().to_string())?)
}

async fn join(ui: Ui, folder: &Path, token: Option<&str>, unconfined: bool) -> anyhow::Result<()> {
    let new: Option<Joining> = token.map(str::parse).transpose()?;
    ensure!(
        new.is_some() || folder.join(JOINING).is_file(),
        "this machine has joined nothing. `millrace tenant host add TENANT HOST`, where the platform is, prints a token: \
         millrace host join --token-file FILE"
    );
    private(folder)?;
    let Ok(_lock) = lock(folder)? else {
        bail!("a host runs here already; `millrace host leave` ends it")
    };
    let stored = read(folder)?;
    let joining = match (new, stored) {
        (Some(new), Some(old)) if (&new.lattice, &new.host) != (&old.lattice, &old.host) => bail!(
            "this machine is host {} of {}; `millrace host leave` first, or choose another folder with --data",
            old.host,
            old.lattice
        ),
        (Some(new), _) => {
            write(&folder.join(JOINING), &serde_json::to_vec(&new)?)?;
            new
        }
        (None, Some(old)) => old,
        (None, None) => bail!("this machine has joined nothing"),
    };
    ui.step(format!("{} joins {} at {}", joining.host, joining.lattice, joining.url));
    if unconfined {
        ui.warn("the host is not confined: who deploys in its lattice can read this user's files");
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut told = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    loop {
        let child = start(folder, &joining, unconfined)?;
        let access = Access {
            creds: Some(creds_file(folder, Role::HostControl)),
            tls_ca: Some(folder.join(AUTHORITY)),
        };
        if attend(ui, child, &joining, &access, &mut told).await? {
            return Ok(());
        }
        ui.warn(format!(
            "{} refuses host {}: it was removed, or {} is suspended. The host is ended, and starts again when it is taken; \
             `millrace host leave` ends that",
            joining.url, joining.host, joining.lattice
        ));
        tokio::select! {
            () = told() => return Ok(()),
            () = taken(&access, &joining.url) => ui.step(format!("{} is taken again", joining.host)),
        }
    }
}

/// Looks after a running host until it is told to end it, or the platform refuses the host's users, and ends it then. Answers
/// whether it was told to.
async fn attend(
    ui: Ui,
    mut child: tokio::process::Child,
    joining: &Joining,
    access: &Access,
    told: &mut impl AsyncFnMut(),
) -> anyhow::Result<bool> {
    let memory = Memory::default();
    let looking = tokio::spawn(memory.clone().look());
    let max_mib = joining.class.max_host_memory_mib.unwrap_or_else(hosts::default_memory_mib);
    let id = child.id();
    let is_told = tokio::select! {
        ended = child.wait() => bail!("the host ended by itself ({}); what it said is above", ended?),
        () = told() => true,
        () = refused(access, &joining.url) => false,
        held = memory.exceeded(id, max_mib) => {
            child.kill().await?;
            if let Some(id) = id {
                kill_all_of(id).await;
            }
            bail!("the host was ended: {}", hosts::too_much(held, max_mib));
        }
    };
    looking.abort();
    ui.step("ending");
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(is_told)
}

/// Comes back when the platform refuses the host's users, twice: a server that starts may not have all accounts yet. One that does
/// not answer refuses nobody.
async fn refused(access: &Access, url: &str) {
    let mut count = 0;
    while count < 2 {
        match access.connect("millrace host join", url).await {
            Ok(connection) => {
                count = 0;
                while connection.connection_state() == State::Connected {
                    tokio::time::sleep(LOOK).await;
                }
                // At once: it has just been cut.
                continue;
            }
            Err(AccessError::Refused { .. } | AccessError::Expired { .. }) => count += 1,
            Err(_) => count = 0,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Comes back when the platform takes the host's users.
async fn taken(access: &Access, url: &str) {
    while access.connect("millrace host join", url).await.is_err() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// The file of credentials of one of the host's users.
fn creds_file(folder: &Path, role: Role) -> PathBuf {
    folder.join("creds").join(format!("{role}.creds"))
}

/// Starts the host that was joined.
fn start(
    folder: &Path,
    joining: &Joining,
    unconfined: bool,
) -> anyhow::Result<tokio::process::Child> {
    let path = |name: &str| folder.join(name);
    // Providers are unpacked there, and what one of a host that was killed still runs from cannot be written over.
    let _ = std::fs::remove_dir_all(path("tmp"));
    for name in ["tmp", "files", "creds"] {
        private(&path(name))?;
    }
    write(&path(AUTHORITY), joining.authority.as_bytes())?;
    for role in ROLES {
        let text = joining.credentials.get(role.as_str()).context("credentials are missing")?;
        write(&creds_file(folder, role), text.as_bytes())?;
    }
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let creds =
        |part: &str, role: Role| option(&format!("{part}-creds"), &creds_file(folder, role));
    let mut arguments = vec![
        "--follow-parent".to_owned(),
        "--no-wadm".to_owned(),
        "--only-known".to_owned(),
        // A Ctrl-C at the terminal reaches this process alone, which ends the host in order.
        "--own-session".to_owned(),
        format!("--nats-url={}", joining.url),
        format!("--lattice={}", joining.lattice),
        format!("--label=host={}", joining.host),
        option("identity", &path("host.seed")),
        option("artifacts", &path("artifacts")),
        option("tls-ca", &path(AUTHORITY)),
        creds("ctl", Role::HostControl),
        creds("rpc", Role::HostRpc),
        creds("provider", Role::Provider),
    ];
    arguments.extend(joining.labels.iter().map(|(name, value)| format!("--label={name}={value}")));
    arguments.extend(hosts::share());
    arguments.extend(joining.class.limits());
    if !unconfined {
        arguments.push("--confine".to_owned());
        arguments.push(option("allow-read", &path("files")));
        arguments.extend(joining.class.devices.iter().map(|device| option("device", device)));
    }
    tokio::process::Command::new(find::host()?)
        .args(arguments)
        .env("TMPDIR", path("tmp"))
        .env_remove("MILLRACE_CREDS")
        .env_remove("MILLRACE_PASSPHRASE")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("millrace-host could not be started")
}

fn leave(ui: Ui, folder: &Path) -> anyhow::Result<()> {
    let joined = folder.is_dir().then(|| read(folder)).transpose()?.flatten();
    let joined = joined.context("this machine has joined nothing; --data names another folder")?;
    let mut held = lock(folder)?;
    if let Err(holder) = &held {
        let pid = holder.parse().ok().and_then(Pid::from_raw);
        let pid = pid.context("the host that runs here cannot be found; end it, and leave then")?;
        ui.step(format!("ending the host, process {pid}"));
        kill_process(pid, Signal::TERM).context("the host that runs here cannot be ended")?;
        let start = Instant::now();
        while held.is_err() {
            ensure!(start.elapsed() < LEAVE, "the host has not ended after {} s", LEAVE.as_secs());
            std::thread::sleep(Duration::from_millis(100));
            held = lock(folder)?;
        }
    }
    for name in ["creds", "tmp", "artifacts"] {
        gone(std::fs::remove_dir_all(folder.join(name)), folder)?;
    }
    // The last is what says that this machine has joined.
    for name in [AUTHORITY, "host.seed", "lock", JOINING] {
        gone(std::fs::remove_file(folder.join(name)), folder)?;
    }
    // What the operator put there stays.
    let _ = std::fs::remove_dir(folder.join("files"));
    let _ = std::fs::remove_dir(folder);
    let Joining { host, lattice, .. } = joined;
    if ui.json {
        return ui.json(&serde_json::json!({ "host": host, "left": lattice }));
    }
    ui.line(format!("{host} has left {lattice}"));
    ui.line(format!(
        "  millrace tenant host remove {lattice} {host}    where the platform is, ends its users"
    ));
    Ok(())
}

fn gone(removed: std::io::Result<()>, folder: &Path) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be cleared", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What was stored, if anything was.
fn read(folder: &Path) -> anyhow::Result<Option<Joining>> {
    let path = folder.join(JOINING);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let damaged = || format!("{} is damaged; remove it, and join with a token", path.display());
    let joining: Joining =
        serde_json::from_reader(file.take(2 * TOKEN_MAX as u64)).with_context(damaged)?;
    joining.check().with_context(damaged)?;
    Ok(Some(joining))
}

fn private(folder: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("could not make {}", folder.display()))
}

/// Writes a file for its owner alone beside its place, and moves it there.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("could not write {}", path.display()))
}
