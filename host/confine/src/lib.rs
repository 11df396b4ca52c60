//! Keeps a process, and all that it starts, from everything of the machine but what it is given.
//!
//! A host runs native programs (providers) that read files which a tenant's engineer names. The user of the system who owns
//! the process is no border: the same one owns the operator's keys. So the kernel gets four rules that nobody can take back:
//!
//! - **Landlock** (<https://docs.kernel.org/userspace-api/landlock.html>): files are open where a rule says so, and nowhere
//!   else. A process in here cannot trace one outside, and, where the kernel knows how, neither signal one nor connect to
//!   its abstract sockets.
//! - **seccomp**: what Landlock leaves open. No sockets but those of networks, because a service behind a socket file (of
//!   Docker, of systemd) works for any process of the right user; no change of modes, owners and attributes of files; no
//!   namespaces, tracing, `io_uring`, and the like.
//! - **no new privileges**, and no capabilities, also for root.
//! - **no core dumps**: those have keys in them.
//!
//! [`Confinement::enforce`] has to be called before the process has a second thread.

mod calls;

use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetError, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The newest rules that are asked for; an older kernel has those that it knows.
const NEWEST: ABI = ABI::V9;

/// Libraries and the loader of programs: to read and to run.
const LIBRARIES: [&str; 8] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
];

/// Names of machines, certificates, time zones, and what the C library, TLS and the runtime ask the system. Nothing else of
/// `/etc`, and no other process in `/proc`.
const SYSTEM: [&str; 29] = [
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/usr/local/share/ca-certificates",
    "/usr/share",
    "/run/NetworkManager/resolv.conf",
    "/run/systemd/resolve",
    "/proc/cpuinfo",
    "/proc/meminfo",
    // With it memory of components is cleared by what was written of it.
    "/proc/self/pagemap",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Devices that are no machine's.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What a process is to be confined to. Beside it the system's libraries, certificates and names can be read.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    read: Vec<PathBuf>,
    run: Vec<PathBuf>,
    work: Vec<PathBuf>,
    devices: Vec<PathBuf>,
}

/// What the kernel enforces from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// Version of Landlock's rules: 1 (Linux 5.13) or newer.
    pub abi: i32,
}

impl Enforced {
    /// What a newer kernel would keep the process from, and this one does not; empty with version 6 (Linux 6.12) or newer.
    #[must_use]
    pub fn lacking(self) -> Vec<&'static str> {
        [
            (3, "truncating files of its user (Linux 6.2)"),
            (6, "signals to processes of its user (Linux 6.12)"),
        ]
        .into_iter()
        .filter(|(since, _)| self.abi < *since)
        .map(|(_, what)| what)
        .collect()
    }
}

/// The process is not confined, or not wholly: it has to end.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel cannot.
    #[error(
        "the kernel's Landlock cannot be used ({0}), so nothing would be kept from this process. Linux 5.13 or newer has it, \
         where `landlock` is among the names after `lsm=` on the kernel's command line (or in CONFIG_LSM)"
    )]
    NoLandlock(String),
    /// What is to be allowed is not there.
    #[error("{} cannot be allowed: {reason}. Name one that is there, and that this user may open", path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// Landlock refuses the rules.
    #[error("the kernel refuses the rules for files: {0}")]
    Rules(#[from] RulesetError),
    /// Seccomp refuses the rules.
    #[error("the kernel refuses the rules for system calls: {0}")]
    Calls(String),
    /// Capabilities or limits cannot be set.
    #[error("{what} cannot be given up: {source}")]
    Privileges {
        /// What.
        what: &'static str,
        /// The system's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Confinement {
    /// Nothing but the system's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This file, or all below this folder, can be read.
    pub fn read(&mut self, path: impl Into<PathBuf>) {
        self.read.push(path.into());
    }

    /// This file, or all below this folder, can be read and run.
    pub fn run(&mut self, path: impl Into<PathBuf>) {
        self.run.push(path.into());
    }

    /// Below this folder files can be made, changed, removed and run. The folder itself cannot be replaced, and nothing below
    /// it made that leads elsewhere (symbolic links) or is no file.
    pub fn work(&mut self, folder: impl Into<PathBuf>) {
        self.work.push(folder.into());
    }

    /// This device can be read, written and controlled. Found at its own path alone: one that is plugged in anew is another.
    pub fn device(&mut self, path: impl Into<PathBuf>) {
        self.devices.push(path.into());
    }

    /// Confines the thread that calls, and all threads and processes that it starts, for good.
    ///
    /// # Errors
    ///
    /// When something of it cannot be enforced. The process may be confined in part then, and should end.
    pub fn enforce(&self) -> Result<Enforced, ConfineError> {
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
            .map_err(privileges("core dumps"))?;
        let rules = self.rules()?;
        drop_capabilities()?;
        let status = rules.restrict_self()?;
        let abi = match status.landlock {
            LandlockStatus::NotEnabled => {
                return Err(ConfineError::NoLandlock("not enabled".to_owned()));
            }
            LandlockStatus::NotImplemented => {
                return Err(ConfineError::NoLandlock("not built in".to_owned()));
            }
            LandlockStatus::Available { effective_abi, kernel_abi } => {
                kernel_abi.unwrap_or(effective_abi as i32)
            }
        };
        if !status.no_new_privs {
            return Err(ConfineError::NoLandlock("privileges can still be gained".to_owned()));
        }
        calls::restrict()?;
        Ok(Enforced { abi })
    }

    fn rules(&self) -> Result<RulesetCreated, ConfineError> {
        let mut rules = handled()?.create().map_err(no_landlock)?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let run = read | AccessFs::Execute;
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        let work = run
            | device
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let system = |paths: &[&'static str]| {
            let there = paths.iter().map(Path::new).filter(|path| path.exists());
            there.map(Path::to_path_buf).collect::<Vec<_>>()
        };
        for (paths, access) in [
            (&system(&LIBRARIES), run),
            (&system(&SYSTEM), read),
            (&system(&DEVICES), device),
            (&self.read, read),
            (&self.run, run),
            (&self.work, work),
            (&self.devices, device | AccessFs::IoctlDev),
        ] {
            for path in paths {
                rules = allow(rules, path, access)?;
            }
        }
        // Chips of lines are looked for by name.
        if !self.devices.is_empty() {
            rules = allow(rules, Path::new("/dev"), AccessFs::ReadDir.into())?;
        }
        Ok(rules)
    }
}

/// Whether this kernel can confine: asked without confining anything.
///
/// # Errors
///
/// [`ConfineError::NoLandlock`], when it cannot.
pub fn possible() -> Result<(), ConfineError> {
    handled()?.create().map(drop).map_err(no_landlock)
}

/// What rules are for: the oldest kernel's, which are needed, and what newer ones have.
fn handled() -> Result<Ruleset, ConfineError> {
    Ok(Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(no_landlock)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?)
}

/// Allows this below a path. Only some rights mean anything for a file.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfineError> {
    let wrong = |reason: &dyn std::fmt::Display| ConfineError::Path {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let about = std::fs::metadata(path).map_err(|error| wrong(&error))?;
    let opened = PathFd::new(path).map_err(|error| wrong(&error))?;
    let access = if about.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    Ok(rules.add_rule(PathBeneath::new(opened, access))?)
}

fn no_landlock(error: RulesetError) -> ConfineError {
    ConfineError::NoLandlock(error.to_string())
}

fn privileges<E>(what: &'static str) -> impl Fn(E) -> ConfineError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| ConfineError::Privileges { what, source: Box::new(source) }
}

/// Gives up all capabilities, also for programs that are started later.
fn drop_capabilities() -> Result<(), ConfineError> {
    let wrong = privileges("capabilities");
    // Without this one the set cannot be made smaller, and no new privileges makes it count for nothing.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(&wrong)? {
        caps::clear(None, CapSet::Bounding).map_err(&wrong)?;
    }
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(&wrong)?;
    }
    Ok(())
}
