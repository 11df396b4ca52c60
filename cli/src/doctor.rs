//! `millrace doctor`: the same checks that `scripts/setup` makes, and those of the installation itself.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use millrace_platform::find;
use millrace_settings::registry::CONNECTORS;
use serde::Serialize;

use crate::ui::Ui;

/// One thing the platform needs.
#[derive(Debug, Serialize)]
struct Check {
    /// Its name; the same as the step of `scripts/setup` that mends it, where there is one.
    name: &'static str,
    /// What it is needed for: `run` pipelines, `build` the platform or steps, or `test` it.
    needed_to: &'static str,
    ok: bool,
    /// What was found, or what is wrong.
    found: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// Exits with 1 when something needed to run is missing.
pub(crate) async fn run(ui: Ui) -> anyhow::Result<ExitCode> {
    let checks = vec![
        nats_server(),
        host(),
        providers(),
        memory_limits(),
        rust(),
        c_compiler(),
        librdkafka(),
        wasm_targets(),
        python_step(),
        javascript_step(),
        editor(),
        patches(),
        mosquitto(),
        pymodbus(),
        schemathesis(),
        socat(),
        faketime(),
        iproute(),
        kafka(),
        gpio_vm(),
    ];
    let runs = checks.iter().all(|c| c.ok || c.needed_to != "run");
    if ui.json {
        ui.json(&checks)?;
    } else {
        show(ui, &checks);
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(ui: Ui, checks: &[Check]) {
    for check in checks {
        let mark = match (check.ok, check.needed_to) {
            (true, _) => ui.green("ok     "),
            (false, "run") => ui.red("missing"),
            (false, _) => ui.yellow("missing"),
        };
        ui.line(format!("{mark} {:<15} {}", check.name, check.found));
        if let Some(mend) = &check.mend {
            ui.line(format!(
                "        {:<15} needed to {}; mend it with: {}",
                "",
                check.needed_to,
                ui.bold(mend)
            ));
        }
    }
    let missing = checks.iter().filter(|c| !c.ok).count();
    match missing {
        0 => ui.line("nothing is missing"),
        n => ui.line(format!("{n} of {} missing", checks.len())),
    }
}

fn check(
    name: &'static str,
    needed_to: &'static str,
    result: Result<String, impl ToString>,
    mend: &str,
) -> Check {
    match result {
        Ok(found) => Check { name, needed_to, ok: true, found, mend: None },
        Err(e) => {
            Check { name, needed_to, ok: false, found: e.to_string(), mend: Some(mend.to_owned()) }
        }
    }
}

fn nats_server() -> Check {
    let found = find::nats_server()
        .map(|path| format!("{} ({})", find::nats_version(&path), path.display()));
    check("nats-server", "run", found, "scripts/setup nats-server")
}

fn host() -> Check {
    check("host", "run", find::host().map(|p| p.display().to_string()), "make build")
}

fn providers() -> Check {
    let connectors = CONNECTORS.iter().map(|connector| connector.name);
    let found: Result<Vec<PathBuf>, _> =
        std::iter::once("conduit").chain(connectors).map(find::provider).collect();
    let found = found.map(|paths| {
        paths
            .iter()
            .filter_map(|p| p.file_name())
            .map(|n| n.to_string_lossy())
            .collect::<Vec<_>>()
            .join(", ")
    });
    check("providers", "run", found, "make build")
}

/// The host enforces the memory limit by reserving address space, and refuses to start where it cannot.
fn memory_limits() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let (result, mend) = match (limit, overcommit.trim()) {
        (Some(limit), _) => {
            (Err(format!("address space is limited to {} MiB", limit >> 20)), "ulimit -v unlimited")
        }
        (None, "2") => {
            (Err("vm.overcommit_memory is 2".to_owned()), "sysctl vm.overcommit_memory=0")
        }
        (None, _) => (Ok("address space can be reserved".to_owned()), ""),
    };
    check("memory-limits", "run", result, mend)
}

/// First line of what a command prints.
fn first_line(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String, String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|_| format!("no {} found", program.display()))?;
    let text = String::from_utf8_lossy(if output.stdout.is_empty() {
        &output.stderr
    } else {
        &output.stdout
    });
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn rust() -> Check {
    let found = first_line("rustc", &["-V"]).and_then(|line| {
        let version = line.split(' ').nth(1).unwrap_or_default();
        let mut parts = version.split('.').map(str::parse::<u64>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (1, 95) => Ok(line.clone()),
            _ => Err(format!("{line}: 1.95 or newer is needed")),
        }
    });
    check("rust", "build", found, "rustup update stable")
}

fn c_compiler() -> Check {
    let found = first_line("cc", &["--version"])
        .and_then(|cc| first_line("make", &["--version"]).map(|_| cc))
        .and_then(|cc| first_line("patch", &["--version"]).map(|_| cc));
    check("c-compiler", "build", found, "apt-get install gcc libc6-dev make patch")
}

/// What the Kafka connector's library is built with.
fn librdkafka() -> Check {
    let version = |library| {
        first_line("pkg-config", &["--modversion", library]).and_then(|line| {
            let known = line.starts_with(|c: char| c.is_ascii_digit());
            if known { Ok(line) } else { Err(format!("no {library} to build with found")) }
        })
    };
    let found = first_line("c++", &["--version"])
        .and_then(|_| Ok((version("openssl")?, version("zlib")?)))
        .map(|(openssl, zlib)| format!("OpenSSL {openssl}, zlib {zlib}"));
    check("librdkafka", "build", found, "apt-get install g++ pkg-config libssl-dev zlib1g-dev")
}

/// The set-up step leaves behind which toolchain it found or made.
fn wasm_targets() -> Check {
    let installed = || {
        let listed =
            Command::new("rustup").args(["target", "list", "--installed"]).output().ok()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        ["wasm32-wasip2", "wasm32-unknown-unknown"]
            .iter()
            .all(|target| text.lines().any(|line| line == *target))
            .then(|| "wasm32-wasip2, wasm32-unknown-unknown".to_owned())
    };
    let fallback = || {
        let rustc = find::tools().parent()?.join("wasm-toolchain/toolchain/bin/rustc");
        rustc.is_file().then(|| format!("{} (fallback)", rustc.display()))
    };
    let found = installed().or_else(fallback).ok_or("the Rust toolchain has no wasm targets");
    check("wasm-targets", "build", found, "scripts/setup wasm-targets")
}

/// What steps in Python are built with; also found in a step's own folder.
fn python_step() -> Check {
    let tools = millrace_step::Tools::new(find::tools().with_file_name("languages"));
    let found = tools.python(Path::new("")).map_err(|error| error.to_string()).and_then(|tool| {
        let version = first_line(&tool, &["--version"])?;
        Ok(format!("{version} ({})", tool.display()))
    });
    check("python-step", "build", found, "scripts/setup python-step")
}

/// The same of JavaScript.
fn javascript_step() -> Check {
    let tools = millrace_step::Tools::new(find::tools().with_file_name("languages"));
    let found = tools.javascript(Path::new("")).map_err(|error| error.to_string());
    let found = found.and_then(|tool| {
        let node = first_line("node", &["--version"])?;
        Ok(format!("{} (Node.js {node})", tool.display()))
    });
    check("javascript-step", "build", found, "scripts/setup javascript-step")
}

/// The language server that the schema is held against.
fn editor() -> Check {
    let package = find::tools()
        .with_file_name("editor")
        .join("node_modules/yaml-language-server/package.json");
    let version = |text: String| {
        let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        format!(
            "yaml-language-server {}",
            package.get("version").and_then(|version| version.as_str()).unwrap_or("of no version")
        )
    };
    let found = std::fs::read_to_string(&package).map(version);
    let found = found.map_err(|error| format!("{}: {error}", package.display()));
    check("editor", "test", found, "scripts/setup editor")
}

fn patches() -> Check {
    // Built into this executable: what matters on a machine that runs it is that it was built with the mend.
    check("patches", "build", Ok::<_, String>("built in".to_owned()), "scripts/setup patches")
}

fn mosquitto() -> Check {
    let found = find::mosquitto().map(|path| {
        let version = first_line(&path, &["-h"]).unwrap_or_default();
        format!("{version} ({})", path.display())
    });
    check("mosquitto", "test", found, "scripts/setup mosquitto")
}

fn pymodbus() -> Check {
    let version = ["-c", "import pymodbus, serial; print('pymodbus', pymodbus.__version__)"];
    python_package("pymodbus", "python3", &version)
}

fn schemathesis() -> Check {
    python_package("schemathesis", "schemathesis", &["--version"])
}

/// A package in a virtual environment of its own, where set-up puts it; its first line begins with its name.
fn python_package(name: &'static str, program: &str, version: &[&str]) -> Check {
    let program = find::tools().join(name).join("bin").join(program);
    let found = first_line(&program, version).and_then(|line| match line.starts_with(name) {
        true => Ok(format!("{line} ({})", program.display())),
        false => Err(format!("no {name} in {}", program.display())),
    });
    check(name, "test", found, &format!("scripts/setup {name}"))
}

fn socat() -> Check {
    let found = Command::new("socat").arg("-V").output().map_err(|_| "no socat found".to_owned());
    let found = found.map(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find(|line| line.starts_with("socat version"));
        version.unwrap_or("socat").to_owned()
    });
    check("socat", "test", found, "scripts/setup socat")
}

fn faketime() -> Check {
    let found = find::libfaketime().map(|library| library.display().to_string());
    let found = found.ok_or_else(|| "no libfaketimeMT.so.1 found".to_owned());
    check("faketime", "test", found, "scripts/setup faketime")
}

fn iproute() -> Check {
    let found = first_line("tc", &["-V"]).and_then(|_| first_line("ip", &["-V"]));
    check("iproute", "test", found, "scripts/setup iproute")
}

/// Set-up puts the archives of Java there, and last the list they were taken by.
fn kafka() -> Check {
    let jars = find::tools().join("kafka");
    let found = first_line("java", &["-version"]).and_then(|java| {
        if jars.join("pom.xml").is_file() {
            Ok(format!("{} ({java})", jars.display()))
        } else {
            Err(format!("no Kafka in {}", jars.display()))
        }
    });
    check("kafka", "test", found, "scripts/setup kafka")
}

/// The virtual machine with simulated GPIO lines. It is made for one processor.
fn gpio_vm() -> Check {
    let kernel = find::tools().join("gpio-vm/version");
    let disk = find::tools().join("gpio-vm/nats.modules");
    let found = match cfg!(target_arch = "x86_64") {
        true => first_line("qemu-system-x86_64", &["--version"]).and_then(|qemu| {
            std::fs::read_to_string(&kernel)
                .and_then(|version| std::fs::metadata(&disk).map(|_| version))
                .map(|version| format!("{qemu}; Linux {}", version.trim()))
                .map_err(|_| {
                    format!(
                        "no kernel with its modules in {}",
                        find::tools().join("gpio-vm").display()
                    )
                })
        }),
        false => Ok("GPIO is not tested on this processor".to_owned()),
    };
    check("gpio-vm", "test", found, "scripts/setup gpio-vm")
}
