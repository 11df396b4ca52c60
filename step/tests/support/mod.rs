//! Projects in temporary folders, built with the real tools.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use millrace_compose::Kind;
use millrace_desk::{Cache, Engine, Options};
use millrace_step::{Built, Language, Project, Settings, Tools, Trial, build, create, inspect};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Of `make guests`.
pub fn example(name: &str) -> PathBuf {
    let file = root().join("build/components").join(name).with_extension("wasm");
    assert!(file.is_file(), "{}: run `make guests`", file.display());
    file
}

pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let cache = Cache::At(Path::new(env!("CARGO_TARGET_TMPDIR")).join("desk"));
        Engine::new(&Options { call_limit: Duration::from_secs(2), cache }).unwrap()
    })
}

/// As set-up has them: `scripts/setup python-step javascript-step`.
pub fn tools() -> Tools {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = set("MILLRACE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("millrace")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/millrace")));
    Tools::new(cache.unwrap().join("languages"))
}

/// A new project in a folder of its own.
pub fn project(folder: &Path, name: &str, language: Language, kind: Kind) -> Project {
    let folder = folder.join(name);
    create(&folder, name, language, kind).unwrap();
    if language == Language::Rust {
        // The versions that the sample is built with, so that nobody is asked for newer ones.
        let lock = root().join("samples/three-languages/above/Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let lock = lock.replace("name = \"above\"", &format!("name = \"{name}\""));
        std::fs::write(folder.join("Cargo.lock"), lock).unwrap();
    }
    Project::read(&folder).unwrap()
}

pub fn built(project: &Project) -> Built {
    let built = build(project, &tools()).unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{}: {} bytes in {:?}",
        project.name,
        std::fs::metadata(&built.file).unwrap().len(),
        built.took
    );
    built
}

pub fn trial(component: &Path, settings: &Settings) -> Trial {
    let bytes = std::fs::read(component).unwrap();
    let found = inspect(&bytes, &settings.grants.iter().cloned().collect(), None).unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    Trial::build(engine(), component, &found.kinds, settings)
        .unwrap_or_else(|error| panic!("{error}"))
}
