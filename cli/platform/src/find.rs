//! Where the platform's executables and archives are.
//!
//! An installation is one folder: `bin/` with `millrace` and `millrace-host`, `providers/` with the provider archives.
//! `MILLRACE_HOME` names it; otherwise it is the folder above the one this executable is in.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::PlatformError;

/// Oldest nats-server that serves, as (major, minor).
const OLDEST_NATS: (u64, u64) = (2, 10);

/// The folder of the installation.
#[must_use]
pub fn home() -> PathBuf {
    if let Some(home) = std::env::var_os("MILLRACE_HOME") {
        return PathBuf::from(home);
    }
    let exe = std::env::current_exe().unwrap_or_default();
    exe.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default()
}

/// Where set-up keeps the tools it installed: `$MILLRACE_CACHE/tools` or `~/.cache/millrace/tools`.
#[must_use]
pub fn tools() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    set("MILLRACE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("millrace")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/millrace")))
        .unwrap_or_default()
        .join("tools")
}

/// The first of the candidates that is a file.
fn first(what: &str, looked: Vec<PathBuf>, mend: &str) -> Result<PathBuf, PlatformError> {
    match looked.iter().find(|p| p.is_file()) {
        Some(found) => Ok(found.clone()),
        None => {
            Err(PlatformError::NotFound { what: what.to_owned(), looked, mend: mend.to_owned() })
        }
    }
}

fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(move |dir| dir.join(name))
        .filter(|p| p.is_file())
        .collect::<Vec<_>>()
        .into_iter()
}

/// An executable of the installation.
///
/// # Errors
///
/// When it is neither in the installation nor beside this executable.
pub fn program(name: &str) -> Result<PathBuf, PlatformError> {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().unwrap_or(Path::new("")).join(name);
    first(name, vec![home().join("bin").join(name), beside], "Build it with `make build`")
}

/// The host's executable.
///
/// # Errors
///
/// As [`program`].
pub fn host() -> Result<PathBuf, PlatformError> {
    program("millrace-host")
}

/// The archive of a provider, as an absolute path: wasmCloud takes no other.
///
/// # Errors
///
/// When there is none of that name.
pub fn provider(name: &str) -> Result<PathBuf, PlatformError> {
    let path = home().join("providers").join(format!("{name}.par.gz"));
    let path = path.canonicalize().unwrap_or(path);
    first(&format!("the archive of provider `{name}`"), vec![path], "Build it with `make build`")
}

/// A nats-server of a version that serves: `MILLRACE_NATS_SERVER`, then the one set-up installed, then the PATH's.
///
/// # Errors
///
/// When there is none, or the only ones are too old.
pub fn nats_server() -> Result<PathBuf, PlatformError> {
    let named = std::env::var_os("MILLRACE_NATS_SERVER").map(PathBuf::from);
    let candidates: Vec<PathBuf> = match named {
        Some(named) => vec![named],
        None => {
            std::iter::once(tools().join("nats-server")).chain(on_path("nats-server")).collect()
        }
    };
    let mut old = None;
    for path in candidates.iter().filter(|p| p.is_file()) {
        let found = nats_version(path);
        if new_enough(&found) {
            return Ok(path.clone());
        }
        old.get_or_insert(PlatformError::NatsVersion { path: path.clone(), found });
    }
    match old {
        Some(error) => Err(error),
        None => first("nats-server", candidates, "Install it with `scripts/setup nats-server`"),
    }
}

/// The version a nats-server says of itself, such as `2.15.2`.
#[must_use]
pub fn nats_version(path: &Path) -> String {
    let output = Command::new(path).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    match text.trim().rsplit_once('v') {
        Some((_, version)) => version.to_owned(),
        None => "of unknown version".to_owned(),
    }
}

fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u64>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_NATS)
}

/// Mosquitto, which the tests run against.
///
/// # Errors
///
/// When it is not installed.
pub fn mosquitto() -> Result<PathBuf, PlatformError> {
    first("mosquitto", on_path("mosquitto").collect(), "Install it with `scripts/setup mosquitto`")
}

/// libfaketime, which shows programs another time than the machine's: for tests. In the threaded form, where the system's
/// package puts it.
#[must_use]
pub fn libfaketime() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let kinds = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let below: Vec<PathBuf> = kinds.flatten().flatten().map(|entry| entry.path()).collect();
    let names = ["faketime/libfaketimeMT.so.1", "libfaketimeMT.so.1"];
    let all = folders.iter().chain(&below);
    all.flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}
