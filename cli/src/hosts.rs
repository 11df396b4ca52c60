//! One host, with wadm, for each active tenant: started when the tenant comes, ended when it goes, started again when it
//! ended by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use millrace_access::Access;
use millrace_lattice_config::Role;
use millrace_lattice_config::tenants::{State, Tenants};
use millrace_platform::{Host, HostOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ui::Ui;

/// Between looks at the tenants' folder.
const LOOK: Duration = Duration::from_millis(500);

/// Between looks for tenants whose time of grace is over.
const SWEEP: Duration = Duration::from_secs(60);

/// The first pause after a host ended by itself; then twice as long each time, up to the last.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// A host that ran so long begins with the first pause again.
const RAN: Duration = Duration::from_secs(120);

/// How hosts of tenants are started.
pub(crate) struct Plan {
    /// NATS server to connect to.
    pub(crate) nats_url: String,
    /// The authority of its certificate.
    pub(crate) tls_ca: PathBuf,
    /// Folder for the hosts' folders.
    pub(crate) dir: PathBuf,
    /// Further arguments of each.
    pub(crate) arguments: Vec<String>,
}

impl Plan {
    fn options(&self, tenant: &str, creds: &BTreeMap<Role, PathBuf>) -> HostOptions {
        let parts = [
            ("ctl", Role::HostControl),
            ("rpc", Role::HostRpc),
            ("provider", Role::Provider),
            ("wadm", Role::Wadm),
        ];
        let mut arguments = self.arguments.clone();
        for (part, role) in parts {
            if let Some(file) = creds.get(&role) {
                arguments.push(format!("--{part}-creds={}", file.display()));
            }
        }
        HostOptions {
            nats_url: self.nats_url.clone(),
            lattice: tenant.to_owned(),
            access: Access {
                creds: creds.get(&Role::Control).cloned(),
                tls_ca: Some(self.tls_ca.clone()),
            },
            dir: self.dir.join(tenant),
            arguments,
            through: Vec::new(),
        }
    }
}

/// The files of credentials of each tenant's parts.
type Wanted = BTreeMap<String, BTreeMap<Role, PathBuf>>;

/// A host that is looked after.
struct Kept {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// When the credentials were written that it was started with.
    written: Option<SystemTime>,
}

/// Looks after the hosts until told to stop, and ends them then.
pub(crate) async fn keep(ui: Ui, tenants: Tenants, plan: Plan, mut stop: watch::Receiver<bool>) {
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    // Those that were told to end. The others do not wait for them.
    let mut going: BTreeMap<String, Kept> = BTreeMap::new();
    let mut swept = Instant::now();
    let mut left_out = BTreeSet::new();
    while !*stop.borrow() {
        going.retain(|_, own| !own.task.is_finished());
        match wanted(&tenants) {
            Ok((wanted, errors)) => {
                // Once each: the folder is looked at twice a second.
                for error in errors {
                    if left_out.insert(error.clone()) {
                        ui.warn(format!("a tenant is left out: {error}"));
                    }
                }
                let is_other = |name: &str, own: &Kept| {
                    wanted.get(name).is_none_or(|creds| written(creds) != own.written)
                };
                let old: Vec<String> = kept
                    .iter()
                    .filter(|(name, own)| is_other(name, own))
                    .map(|(name, _)| name.clone())
                    .collect();
                for (name, own) in old.iter().filter_map(|name| kept.remove_entry(name)) {
                    ui.step(format!("ending the host of {name}"));
                    let _ = own.stop.send(true);
                    going.insert(name, own);
                }
                for (name, creds) in wanted {
                    if !going.contains_key(&name) {
                        kept.entry(name).or_insert_with_key(|name| start(ui, name, &plan, &creds));
                    }
                }
            }
            Err(error) => tracing::warn!("tenants cannot be read: {error:#}"),
        }
        if swept.elapsed() > SWEEP {
            swept = Instant::now();
            match tenants.sweep().await {
                Ok(gone) => {
                    gone.iter().for_each(|name| ui.step(format!("tenant {name} is deleted")));
                }
                Err(error) => tracing::warn!("a tenant was not deleted: {error:#}"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = told(&mut stop) => {}
        }
    }
    for own in kept.values() {
        let _ = own.stop.send(true);
    }
    for own in kept.into_values().chain(going.into_values()) {
        let _ = own.task.await;
    }
}

/// The active tenants, each with the files of credentials of its parts; and why others cannot be read.
fn wanted(tenants: &Tenants) -> anyhow::Result<(Wanted, Vec<String>)> {
    let mut all = BTreeMap::new();
    let (records, errors) = tenants.scan()?;
    for record in records {
        if record.state == State::Active {
            let mut creds = BTreeMap::new();
            for role in Role::ALL {
                let file = tenants.creds_file(&record.name, role)?;
                if file.is_file() {
                    creds.insert(role, file);
                }
            }
            all.insert(record.name, creds);
        }
    }
    Ok((all, errors.iter().map(ToString::to_string).collect()))
}

/// When the newest of the files was written.
fn written(creds: &BTreeMap<Role, PathBuf>) -> Option<SystemTime> {
    let at = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
    creds.values().filter_map(at).max()
}

fn start(ui: Ui, name: &str, plan: &Plan, creds: &BTreeMap<Role, PathBuf>) -> Kept {
    let (stop, stopped) = watch::channel(false);
    let options = plan.options(name, creds);
    let task = tokio::spawn(run(ui, name.to_owned(), options, stopped));
    Kept { stop, task, written: written(creds) }
}

/// Waits until it is told to stop, or nobody is there any more who could tell.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Runs a tenant's host, again and again.
async fn run(ui: Ui, name: String, options: HostOptions, mut stop: watch::Receiver<bool>) {
    let mut pause = AGAIN;
    loop {
        let begun = Instant::now();
        let started = tokio::select! {
            started = Host::start(&options) => started,
            () = told(&mut stop) => return,
        };
        let ended = match started {
            Ok(mut host) => {
                let took = begun.elapsed().as_secs_f64();
                ui.step(format!("the host of {name} is up, after {took:.1} s"));
                tokio::select! {
                    ended = host.ended_by_itself() => ended,
                    () = told(&mut stop) => {
                        host.stop().await;
                        return;
                    }
                }
            }
            Err(error) => error,
        };
        if begun.elapsed() > RAN {
            pause = AGAIN;
        }
        ui.warn(format!(
            "the host of {name} does not run; again in {} s: {ended}",
            pause.as_secs()
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => return,
        }
        pause = pause.saturating_mul(2).min(AGAIN_MAX);
    }
}

/// Where the hosts have their folders.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("hosts")
}
