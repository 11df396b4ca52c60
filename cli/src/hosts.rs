//! One host, with wadm, for each active tenant: started when the tenant comes, ended when it goes, started again when it
//! ended by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use millrace_access::Access;
use millrace_lattice_config::Role;
use millrace_lattice_config::class::{self, Class};
use millrace_lattice_config::tenants::{Record, State, Tenants};
use millrace_platform::{Host, HostOptions, LogLimits, PlatformError, memory_of};
use serde::{Deserialize, Serialize};
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

/// Between looks at what hosts hold of the machine's memory.
const LOOK_MEMORY: Duration = Duration::from_secs(1);

/// What is put aside of the machine's memory for a host whose class says nothing, at most, in MiB: eight component instances of the
/// largest size that is allowed by default, which is far more than a pipeline of ordinary steps takes.
const HOST_MEMORY_MIB: u64 = 2048;

/// A host is taken before nats-server and this process when memory is short, as if it had half of the machine's.
const OOM_SCORE_ADJ: u32 = 500;

/// Largest file that a host or a provider writes, in MiB: as much as it keeps of stages.
const MAX_FILE_MIB: u32 = 512;

/// Files that changed so recently may change once more without looking different.
const SETTLED: Duration = Duration::from_secs(2);

/// Longest reason that is kept of a host that ended, in characters.
const REASON_MAX: usize = 400;

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
    /// Most memory of one with all that it has started, in MiB, unless its class says otherwise.
    pub(crate) max_memory_mib: u32,
    /// How much room the log of each may take.
    pub(crate) log: LogLimits,
}

/// Most memory of a host unless something else is said, in MiB: half of the machine's, and not more than 2 GiB.
pub(crate) fn default_memory_mib() -> u32 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let half =
        total.and_then(|kib| kib.parse::<u64>().ok()).map_or(HOST_MEMORY_MIB, |kib| kib / 2048);
    let least = u64::from(class::MIN_HOST_MEMORY_MIB);
    u32::try_from(half.clamp(least, HOST_MEMORY_MIB)).unwrap_or(class::MIN_HOST_MEMORY_MIB)
}

/// What each host of a tenant is told of its place beside others.
pub(crate) fn share() -> [String; 2] {
    [format!("--oom-score-adj={OOM_SCORE_ADJ}"), format!("--max-file-mib={MAX_FILE_MIB}")]
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
        all.extend(share());
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
            log: self.log,
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
    /// Most memory of the host and all that it has started, in MiB.
    max_memory_mib: u32,
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
    let mut known = Known::default();
    let memory = Memory::default();
    let looking = tokio::spawn(memory.clone().look());
    while !*stop.borrow() {
        going.retain(|_, own| !own.task.is_finished());
        match wanted(&tenants, &plan, &mut known) {
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
                        kept.entry(name).or_insert_with_key(|name| {
                            start(ui, &tenants, name, &plan, &memory, new)
                        });
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
    looking.abort();
}

/// The active tenants, each with how its host is to run, or without where that is not known: then one that runs goes on. And
/// why it is not known, and why others cannot be read.
type Active = (BTreeMap<String, Option<Wanted>>, BTreeSet<String>);

fn wanted(tenants: &Tenants, plan: &Plan, known: &mut Known) -> anyhow::Result<Active> {
    let mut all = BTreeMap::new();
    let (records, errors) = tenants.scan()?;
    let mut errors: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    let classes = known.classes(tenants.home().root());
    for record in records.into_iter().filter(|record| record.state == State::Active) {
        let found = match (record.labels.get(class::LABEL), &*classes) {
            (None, _) => Ok(Class::default()),
            (Some(name), Ok(classes)) => classes.find(name).cloned(),
            (Some(_), Err(error)) => Err(anyhow::anyhow!("{error:#}")),
        };
        let one = found.and_then(|of_class| one(tenants, plan, known, &record, &of_class));
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
    known: &mut Known,
    record: &Record,
    of_class: &Class,
) -> anyhow::Result<Wanted> {
    let (creds, written) = known.creds(tenants, &record.name)?;
    // One that was added by an older release has none.
    let files = tenants.files_folder(&record.name)?;
    if !files.is_dir() {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&files);
        made.with_context(|| format!("could not make {}", files.display()))?;
    }
    let arguments = plan.arguments(tenants, record, of_class)?;
    let max_memory_mib = of_class.max_host_memory_mib.unwrap_or(plan.max_memory_mib);
    Ok(Wanted { creds, written, arguments, max_memory_mib })
}

/// The files of credentials of a tenant's parts, and when the newest was written.
type Creds = (BTreeMap<Role, PathBuf>, Option<SystemTime>);

/// What was read, for as long as it is still that.
#[derive(Default)]
struct Known {
    classes: Option<(Content, Arc<anyhow::Result<Classes>>)>,
    creds: BTreeMap<String, (Content, Creds)>,
}

/// Which content a file or folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// It is not there.
    Missing,
    /// It changed just now, and may change once more without looking different.
    Fresh,
    /// Inode, times of its content and of itself, size.
    Settled(u64, (i64, i64), (i64, i64), u64),
}

impl Content {
    fn of(path: &Path) -> Self {
        let Ok(about) = std::fs::metadata(path) else { return Self::Missing };
        let age = about.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        match age {
            Some(age) if age > SETTLED => Self::Settled(
                about.ino(),
                (about.mtime(), about.mtime_nsec()),
                (about.ctime(), about.ctime_nsec()),
                about.len(),
            ),
            _ => Self::Fresh,
        }
    }

    /// Whether what was read when it was this is still what would be read now.
    fn is_still(self, now: Self) -> bool {
        self == now && now != Self::Fresh
    }
}

impl Known {
    fn classes(&mut self, root: &Path) -> Arc<anyhow::Result<Classes>> {
        let now = Content::of(&Classes::file(root));
        match &self.classes {
            Some((read, classes)) if read.is_still(now) => classes.clone(),
            _ => {
                let classes = Arc::new(Classes::of(root));
                self.classes = Some((now, classes.clone()));
                classes
            }
        }
    }

    /// Credentials are moved into their folder, which changes it.
    fn creds(&mut self, tenants: &Tenants, name: &str) -> anyhow::Result<Creds> {
        let file = tenants.creds_file(name, Role::Control)?;
        let now = file.parent().map_or(Content::Missing, Content::of);
        if let Some((read, creds)) = self.creds.get(name)
            && read.is_still(now)
        {
            return Ok(creds.clone());
        }
        let mut files = BTreeMap::new();
        for role in Role::ALL {
            let file = tenants.creds_file(name, role)?;
            if file.is_file() {
                files.insert(role, file);
            }
        }
        let creds = (files.clone(), written(&files));
        self.creds.insert(name.to_owned(), (now, creds.clone()));
        Ok(creds)
    }
}

/// How the host of a tenant is to run, without looking after it.
pub(crate) fn options(
    tenants: &Tenants,
    plan: &Plan,
    record: &Record,
) -> anyhow::Result<HostOptions> {
    let wanted = one(tenants, plan, &mut Known::default(), record, &Class::default())?;
    Ok(plan.options(&record.name, &wanted))
}

/// When the newest of the files was written.
fn written(creds: &BTreeMap<Role, PathBuf>) -> Option<SystemTime> {
    let at = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
    creds.values().filter_map(at).max()
}

fn start(
    ui: Ui,
    tenants: &Tenants,
    name: &str,
    plan: &Plan,
    memory: &Memory,
    wanted: Wanted,
) -> Kept {
    let (stop, stopped) = watch::channel(false);
    let of_tenant = OfTenant {
        ui,
        tenants: tenants.with_who("millrace up"),
        name: name.to_owned(),
        options: plan.options(name, &wanted),
        max_memory_mib: wanted.max_memory_mib,
    };
    let task = tokio::spawn(of_tenant.run(memory.clone(), stopped));
    Kept { stop, task, wanted }
}

/// What hosts hold of the machine's memory, in bytes by process id; looked at for all of them at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<BTreeMap<u32, u64>>>);

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<u32, u64>) -> T) -> T {
        // Nothing that is done with it can leave half of it.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks, again and again.
    pub(crate) async fn look(self) {
        loop {
            tokio::time::sleep(LOOK_MEMORY).await;
            let hosts: BTreeSet<u32> = self.with(|all| all.keys().copied().collect());
            let Ok(found) = tokio::task::spawn_blocking(move || memory_of(&hosts)).await else {
                continue;
            };
            self.with(|all| {
                for (host, held) in all {
                    *held = found.get(host).copied().unwrap_or_default();
                }
            });
        }
    }

    /// Waits until a host holds more than it may; answers how much, in MiB. For ever where it has ended.
    pub(crate) async fn exceeded(&self, host: Option<u32>, max_mib: u32) -> u64 {
        let Some(host) = host else { return std::future::pending().await };
        let watched = Watched { memory: self, host };
        self.with(|all| all.insert(host, 0));
        loop {
            tokio::time::sleep(LOOK_MEMORY).await;
            let held = self.with(|all| all.get(&watched.host).copied()).unwrap_or_default() >> 20;
            if held > u64::from(max_mib) {
                return held;
            }
        }
    }
}

/// A host that is looked at.
struct Watched<'a> {
    memory: &'a Memory,
    host: u32,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.memory.with(|all| all.remove(&self.host));
    }
}

/// Why a host was ended that held more than it may.
pub(crate) fn too_much(held_mib: u64, max_mib: u32) -> String {
    format!(
        "it held {held_mib} MiB of memory with all that it had started, and may have {max_mib} (max-host-memory-mib of its class, \
         or --max-host-memory-mib)"
    )
}

/// When and why a tenant's host ended last although nobody had told it to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Seconds since the Unix epoch.
    pub(crate) at: i64,
    pub(crate) reason: String,
    /// How often in a row, without two minutes between that it ran.
    pub(crate) times: u32,
}

impl Ended {
    fn file(folder: &Path) -> PathBuf {
        folder.join("ended.json")
    }

    /// Of a tenant's host, if it ever did.
    pub(crate) fn of(data: &Path, tenant: &str) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(&folder(data).join(tenant))).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, new) = (Self::file(folder), folder.join("ended.new"));
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(new, file)?)
    }
}

/// Waits until it is told to stop, or nobody is there any more who could tell.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// The host of a tenant.
struct OfTenant {
    ui: Ui,
    tenants: Tenants,
    name: String,
    options: HostOptions,
    max_memory_mib: u32,
}

impl OfTenant {
    /// Runs it, again and again.
    async fn run(self, memory: Memory, mut stop: watch::Receiver<bool>) {
        let (ui, name) = (self.ui, &self.name);
        let mut pause = AGAIN;
        let mut times = 0_u32;
        loop {
            let begun = Instant::now();
            let (reason, is_memory) = match Host::spawn(&self.options) {
                Ok(mut host) => {
                    let id = host.id();
                    tokio::select! {
                        ended = self.lives(&mut host, begun) => (ended.to_string(), false),
                        held = memory.exceeded(id, self.max_memory_mib) => {
                            // At once: what grows does not stop while it drains.
                            host.kill_with_all().await;
                            (too_much(held, self.max_memory_mib), true)
                        }
                        () = told(&mut stop) => {
                            host.stop().await;
                            return;
                        }
                    }
                }
                Err(error) => (error.to_string(), false),
            };
            if begun.elapsed() > RAN {
                (pause, times) = (AGAIN, 0);
            }
            times = times.saturating_add(1);
            ui.warn(format!(
                "the host of {name} does not run; again in {} s: {reason}",
                pause.as_secs()
            ));
            self.note(reason, is_memory, times);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = told(&mut stop) => return,
            }
            pause = pause.saturating_mul(2).min(AGAIN_MAX);
        }
    }

    /// Until it has ended, or has not come up.
    async fn lives(&self, host: &mut Host, begun: Instant) -> PlatformError {
        if let Err(error) = host.ready(&self.options).await {
            return error;
        }
        let took = begun.elapsed().as_secs_f64();
        self.ui.step(format!("the host of {} is up, after {took:.1} s", self.name));
        host.ended_by_itself().await
    }

    /// Keeps why it ended, for `tenant show`, and where it had taken too much also in the tenant's audit log: each time that is
    /// twice as often in a row as the last one there, so that a tenant cannot push out what else is in it.
    fn note(&self, reason: String, is_memory: bool, times: u32) {
        let line: String =
            reason.lines().next().unwrap_or_default().chars().take(REASON_MAX).collect();
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let at = i64::try_from(now).unwrap_or(i64::MAX);
        let ended = Ended { at, reason: line.clone(), times };
        if let Err(error) = ended.write(&self.options.dir) {
            tracing::warn!("why the host of {} ended is not kept: {error:#}", self.name);
        }
        if is_memory && times.is_power_of_two() {
            let (tenants, name) = (self.tenants.clone(), self.name.clone());
            // Beside: the server may take its time.
            tokio::spawn(async move {
                let outcome =
                    if times == 1 { line } else { format!("{line}; {times} times in a row") };
                let noted = match tenants.get(&name) {
                    Ok(record) => tenants.audit(&record, "host.ended", &name, &outcome).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = noted {
                    tracing::warn!(
                        "that the host of {name} was ended is not in its audit log: {error}"
                    );
                }
            });
        }
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
    fn classes_are_read_again_when_they_have_changed_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = Known::default();
        let none = known.classes(folder.path());
        assert!(none.as_ref().as_ref().unwrap().find("small").is_err());
        assert!(Arc::ptr_eq(&none, &known.classes(folder.path())));
        let file = Classes::file(folder.path());
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let open = std::fs::File::options().append(true).open(&file).unwrap();
            open.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        };
        let memory = |classes: &anyhow::Result<Classes>| {
            classes.as_ref().unwrap().find("small").unwrap().max_host_memory_mib
        };
        write("small: { max-host-memory-mib: 100 }\n");
        let first = known.classes(folder.path());
        assert_eq!(memory(&first), Some(100));
        assert!(Arc::ptr_eq(&first, &known.classes(folder.path())));
        // As long, and as old.
        write("small: { max-host-memory-mib: 200 }\n");
        assert_eq!(memory(&known.classes(folder.path())), Some(200));
        // What was written this moment may be written once more.
        std::fs::write(&file, "small: { max-host-memory-mib: 300 }\n").unwrap();
        let first = known.classes(folder.path());
        assert_eq!(memory(&first), Some(300));
        assert!(!Arc::ptr_eq(&first, &known.classes(folder.path())));
        std::fs::remove_file(&file).unwrap();
        assert!(known.classes(folder.path()).as_ref().as_ref().unwrap().find("small").is_err());
    }

    #[tokio::test]
    async fn a_host_that_holds_more_than_it_may_is_found_and_no_other() {
        let host = |kib: u32| {
            let hold = format!("x=$(head -c {} /dev/zero | tr '\\0' x); sleep 60", kib * 1024);
            let mut command = tokio::process::Command::new("sh");
            command.args(["-c", &hold]).process_group(0).kill_on_drop(true).spawn().unwrap()
        };
        let (small, large) = (host(1), host(100 << 10));
        let memory = Memory::default();
        let looking = tokio::spawn(memory.clone().look());
        let held = tokio::select! {
            held = memory.exceeded(large.id(), 64) => held,
            held = memory.exceeded(small.id(), 64) => panic!("the small one holds {held} MiB"),
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("it was not found"),
        };
        assert!((90..400).contains(&held), "{held}");
        // Nobody looks at those that are no longer waited for.
        assert!(memory.with(|all| all.is_empty()));
        looking.abort();
        for id in [small.id(), large.id()] {
            millrace_platform::kill_all_of(id.unwrap()).await;
        }
    }

    #[test]
    fn why_a_host_ended_is_kept() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Ended::of(data.path(), "acme"), None);
        let own = folder(data.path()).join("acme");
        std::fs::create_dir_all(&own).unwrap();
        let ended = Ended { at: 7, reason: too_much(300, 200), times: 2 };
        ended.write(&own).unwrap();
        assert_eq!(Ended::of(data.path(), "acme"), Some(ended));
    }

    #[test]
    fn the_limits_of_a_class_take_the_place_of_those_of_all() {
        let all = ["--max-memory-mib=256", "--max-call-seconds=10"].map(str::to_owned);
        let small = Class { max_memory_mib: Some(64), ..Class::default() };
        assert_eq!(over(&all, &small.limits()), ["--max-call-seconds=10", "--max-memory-mib=64"]);
        assert_eq!(over(&all, &Class::default().limits()), all);
    }
}
