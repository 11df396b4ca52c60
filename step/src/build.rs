//! The component of a folder, made with its language's tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millrace_pipeline::with_component_version;

use crate::project::{Language, Project};
use crate::tool::{ToolError, Tools};

const TARGET: &str = "wasm32-wasip2";

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The tool is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Rust cannot build components here.
    #[error("the Rust toolchain has no target {TARGET}; get it with: rustup target add {TARGET}")]
    Target,
    /// The tool could not be started.
    #[error("could not start {tool}: {source}", tool = tool.display())]
    Start {
        /// The tool.
        tool: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The tool has failed.
    #[error("{tool} has failed; it says:\n{output}")]
    Failed {
        /// The tool.
        tool: String,
        /// What it said.
        output: String,
    },
    /// The tool has done its work and left nothing.
    #[error("{tool} made no component: {mend}")]
    Nothing {
        /// The tool.
        tool: String,
        /// What may mend it.
        mend: String,
    },
    /// A file could not be written.
    #[error("could not write {file}: {source}", file = file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A component that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The file.
    pub file: PathBuf,
    /// How long it took.
    pub took: Duration,
}

/// Builds the component of a project.
///
/// # Errors
///
/// [`BuildError`]; what the tool said is part of it.
pub fn build(project: &Project, tools: &Tools) -> Result<Built, BuildError> {
    let start = Instant::now();
    let file = project.component();
    let out = file.with_extension("new");
    let folder = file.parent().unwrap_or(Path::new(""));
    let failed = |source| BuildError::Write { file: file.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // Absolute, because the tools run in the project's folder.
    let out = std::path::absolute(&out).map_err(failed)?;
    match project.language {
        Language::Rust => rust(project, tools, &out)?,
        Language::Python => python(project, tools, &out)?,
        Language::Javascript => javascript(project, tools, &out)?,
    }
    if let Some(version) = &project.version {
        let component = std::fs::read(&out).map_err(failed)?;
        std::fs::write(&out, with_component_version(component, version)).map_err(failed)?;
    }
    // At once, so that nobody reads half a component.
    std::fs::rename(&out, &file).map_err(failed)?;
    Ok(Built { file, took: start.elapsed() })
}

fn rust(project: &Project, tools: &Tools, out: &Path) -> Result<(), BuildError> {
    let cargo = tools.cargo()?;
    let toolchain = toolchain(tools, &project.folder)?;
    let mut command = Command::new(&cargo);
    command.args(toolchain).args(["build", "--release", "--target", TARGET]);
    command.arg("--message-format=json-render-diagnostics");
    // Flags meant for native code would also reach the component.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    // Where this process was started by cargo, these are about another package.
    for name in ["RUSTC", "RUSTDOC", "CARGO", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    let said = run(&cargo, command, project)?;
    let made = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let made = made.filter(|line| line.get("reason").is_some_and(|r| r == "compiler-artifact"));
    let mut files = made.filter_map(|line| {
        let files = line.get("filenames")?.as_array()?.clone();
        files.iter().filter_map(|f| f.as_str()).find(|f| f.ends_with(".wasm")).map(PathBuf::from)
    });
    let file = files.next_back().ok_or_else(|| BuildError::Nothing {
        tool: "cargo".to_owned(),
        mend: "write `[lib]` and `crate-type = [\"cdylib\"]` into Cargo.toml".to_owned(),
    })?;
    std::fs::copy(&file, out)
        .map(drop)
        .map_err(|source| BuildError::Write { file: out.to_owned(), source })
}

/// The toolchain that has the target: the active one, or the one that set-up has made.
fn toolchain(tools: &Tools, folder: &Path) -> Result<Option<&'static str>, BuildError> {
    let asked = Command::new("rustc").args(["--print", "sysroot"]).current_dir(folder).output();
    let Ok(asked) = asked else { return Ok(None) };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(None);
    }
    let own = tools.languages.with_file_name("wasm-toolchain").join("toolchain/bin/rustc");
    if own.is_file() { Ok(Some("+millrace-wasm")) } else { Err(BuildError::Target) }
}

fn world(project: &Project) -> String {
    format!("{}-step", project.kind)
}

fn python(project: &Project, tools: &Tools, out: &Path) -> Result<(), BuildError> {
    let tool = tools.python(&project.folder)?;
    let mut command = Command::new(&tool);
    command.args(["-d", "wit", "-w", &world(project), "componentize", "-s", "app", "-o"]).arg(out);
    // What it compiles on the way is of no use here.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    run(&tool, command, project).map(drop)
}

fn javascript(project: &Project, tools: &Tools, out: &Path) -> Result<(), BuildError> {
    let tool = tools.javascript(&project.folder)?;
    let mut command = Command::new(&tool);
    command.args(["--wit", "wit", "--world", &world(project), "--js", "app.js"]);
    command.args(["--stub-wasi", "--opt-size", "--sync", "--minify", "--output"]).arg(out);
    run(&tool, command, project).map(drop)
}

/// Runs a tool in the project's folder. What it said on standard output.
fn run(tool: &Path, mut command: Command, project: &Project) -> Result<String, BuildError> {
    let output = command
        .current_dir(&project.folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::Start { tool: tool.to_owned(), source })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let name = tool.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Rust's is for programs; the others say things on either.
    let said = if project.language == Language::Rust { said } else { format!("{stdout}{said}") };
    Err(BuildError::Failed { tool: name, output: said.trim().to_owned() })
}
