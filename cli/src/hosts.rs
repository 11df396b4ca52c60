//! One host, with wadm, for each active tenant: started when the tenant comes, ended when it goes, started again when it
//! ended by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use millrace_access::Access;
use millrace_lattice_config::Role;
use millrace_lattice_config::class::{self, Class};
use millrace_lattice_config::tenants::{Record, State, Tenants};
use millrace_platform::{Host, HostOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::class::Classes;
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
    /// Keep the machine from them.
    pub(crate) confined: bool,
}

impl Plan {
    /// The arguments of a tenant's host: its class's are in the place of those of all.
    fn arguments(
        &self,
        tenants: &Tenants,
        record: &Record,
        of_class: &Class,
    ) -> anyhow::Result<Vec<String>> {
        let mut all = over(&self.arguments, &of_class.limits());
        all.extend(record.labels.iter().map(|(name, value)| format!("--label={name}={value}")));
        // Whoever may deploy in a lattice could have it run a provider of his own.
        all.push("--only-known".to_owned());
        if self.confined {
            all.push("--confine".to_owned());
            all.push(format!("--allow-read={}", tenants.files_folder(&record.name)?.display()));
            all.extend(of_class.devices.iter().map(|path| format!("--device={}", path.display())));
        }
        Ok(all)
    }

    fn options(&self, tenant: &str, wanted: &Wanted) -> HostOptions {
        let parts = [
            ("ctl", Role::HostControl),
            ("rpc", Role::HostRpc),
            ("provider", Role::Provider),
            ("wadm", Role::Wadm),
        ];
        let mut arguments = wanted.arguments.clone();
        for (part, role) in parts {
            if let Some(file) = wanted.creds.get(&role) {
                arguments.push(format!("--{part}-creds={}", file.display()));
            }
        }
        HostOptions {
            nats_url: self.nats_url.clone(),
            lattice: tenant.to_owned(),
            access: Access {
                creds: wanted.creds.get(&Role::Control).cloned(),
                tls_ca: Some(self.tls_ca.clone()),
            },
            dir: self.dir.join(tenant),
            arguments,
            through: Vec::new(),
        }
    }
}

/// Arguments, with others in the place of those of the same name.
fn over(all: &[String], own: &[String]) -> Vec<String> {
    let name = |argument: &str| argument.split('=').next().map(str::to_owned);
    let is_own = |argument: &String| own.iter().any(|own| name(own) == name(argument));
    all.iter().filter(|argument| !is_own(argument)).chain(own).cloned().collect()
}

/// How a tenant's host is to run.
#[derive(PartialEq, Eq)]
struct Wanted {
    /// The files of credentials of its parts.
    creds: BTreeMap<Role, PathBuf>,
    /// When the newest of them was written.
    written: Option<SystemTime>,
    arguments: Vec<String>,
}

/// A host that is looked after.
struct Kept {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// As it was started.
    wanted: Wanted,
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
        match wanted(&tenants, &plan) {
            Ok((wanted, errors)) => {
                // Once each: the folder is looked at twice a second.
                for error in errors.difference(&left_out) {
                    ui.warn(format!("a tenant is left out: {error}"));
                }
                left_out = errors;
                let is_other = |name: &str, own: &Kept| {
                    wanted
                        .get(name)
                        .is_none_or(|new| new.as_ref().is_some_and(|new| *new != own.wanted))
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
                for (name, new) in wanted {
                    if let Some(new) = new.filter(|_| !going.contains_key(&name)) {
                        kept.entry(name).or_insert_with_key(|name| start(ui, name, &plan, new));
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

/// The active tenants, each with how its host is to run, or without where that is not known: then one that runs goes on. And
/// why it is not known, and why others cannot be read.
type Active = (BTreeMap<String, Option<Wanted>>, BTreeSet<String>);

fn wanted(tenants: &Tenants, plan: &Plan) -> anyhow::Result<Active> {
    let mut all = BTreeMap::new();
    let (records, errors) = tenants.scan()?;
    let mut errors: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    let classes = Classes::of(tenants.home().root());
    for record in records.into_iter().filter(|record| record.state == State::Active) {
        let found = match (record.labels.get(class::LABEL), &classes) {
            (None, _) => Ok(Class::default()),
            (Some(name), Ok(classes)) => classes.find(name).cloned(),
            (Some(_), Err(error)) => Err(anyhow::anyhow!("{error:#}")),
        };
        let one = found.and_then(|of_class| one(tenants, plan, &record, &of_class));
        if let Err(error) = &one {
            errors.insert(format!("{}: {error:#}", record.name));
        }
        all.insert(record.name, one.ok());
    }
    Ok((all, errors))
}

fn one(
    tenants: &Tenants,
    plan: &Plan,
    record: &Record,
    of_class: &Class,
) -> anyhow::Result<Wanted> {
    let mut creds = BTreeMap::new();
    for role in Role::ALL {
        let file = tenants.creds_file(&record.name, role)?;
        if file.is_file() {
            creds.insert(role, file);
        }
    }
    // One that was added by an older release has none.
    let files = tenants.files_folder(&record.name)?;
    if !files.is_dir() {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&files);
        made.with_context(|| format!("could not make {}", files.display()))?;
    }
    let arguments = plan.arguments(tenants, record, of_class)?;
    Ok(Wanted { written: written(&creds), creds, arguments })
}

/// How the host of a tenant is to run, without looking after it.
pub(crate) fn options(
    tenants: &Tenants,
    plan: &Plan,
    record: &Record,
) -> anyhow::Result<HostOptions> {
    Ok(plan.options(&record.name, &one(tenants, plan, record, &Class::default())?))
}

/// When the newest of the files was written.
fn written(creds: &BTreeMap<Role, PathBuf>) -> Option<SystemTime> {
    let at = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
    creds.values().filter_map(at).max()
}

fn start(ui: Ui, name: &str, plan: &Plan, wanted: Wanted) -> Kept {
    let (stop, stopped) = watch::channel(false);
    let options = plan.options(name, &wanted);
    let task = tokio::spawn(run(ui, name.to_owned(), options, stopped));
    Kept { stop, task, wanted }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_class_take_the_place_of_those_of_all() {
        let all = ["--max-memory-mib=256", "--max-call-seconds=10"].map(str::to_owned);
        let small = Class { max_memory_mib: Some(64), ..Class::default() };
        assert_eq!(over(&all, &small.limits()), ["--max-call-seconds=10", "--max-memory-mib=64"]);
        assert_eq!(over(&all, &Class::default().limits()), all);
    }
}
