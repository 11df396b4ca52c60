//! A new folder of a step: it builds, has a sample and a unit test, and the contract in it.

use std::path::{Path, PathBuf};

use millrace_compose::Kind;

use crate::project::{Language, STEP_FILE, check_name};
use crate::tool::{COMPONENTIZE_PY, COMPONENTIZE_QJS};

/// Files of a folder, each with its text. With a kind of step: those of the folder in it for that kind, if there is one.
macro_rules! embedded {
    ($folder:literal, $kind:expr; $($file:literal),*) => {
        match $kind {
            Kind::Map => Some(embedded!(concat!($folder, "map/"); $($file),*)),
            Kind::Filter => Some(embedded!(concat!($folder, "filter/"); $($file),*)),
            Kind::FlatMap => Some(embedded!(concat!($folder, "flat-map/"); $($file),*)),
            Kind::Branch => Some(embedded!(concat!($folder, "branch/"); $($file),*)),
            Kind::Accumulate => Some(embedded!(concat!($folder, "accumulate/"); $($file),*)),
            Kind::Delay => Some(embedded!(concat!($folder, "delay/"); $($file),*)),
            Kind::Monolithic
            | Kind::DeDuplicate
            | Kind::Throttle
            | Kind::Concatenate
            | Kind::Enrich => None,
        }
    };
    ($folder:expr; $($file:literal),*) => {
        [$(($file, include_str!(concat!($folder, $file)))),*]
    };
}

/// The contract: names and texts of the files of `wit/step`.
pub const WIT: [(&str, &str); 8] = embedded!("../../wit/step/";
    "accumulate.wit", "branch.wit", "delay.wit", "filter.wit", "flat-map.wit", "map.wit", "outside.wit", "types.wit");

/// The kinds of which there is a project.
pub const KINDS: [Kind; 6] =
    [Kind::Map, Kind::Filter, Kind::FlatMap, Kind::Branch, Kind::Accumulate, Kind::Delay];

/// Why there is no new folder.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name cannot be one.
    #[error("{0}")]
    Name(String),
    /// Such a step has no component, or is written without the contract.
    #[error("there is no project of a step of kind `{0}`; there are {kinds}", kinds = KINDS.map(Kind::name).join(", "))]
    Kind(Kind),
    /// The folder is in use.
    #[error("{folder} is there and not empty; choose another folder with --dir, or another name", folder = .0.display())]
    NotEmpty(PathBuf),
    /// A file could not be written.
    #[error("could not write {file}: {source}", file = file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Writes a new project; answers the files, from its folder.
///
/// # Errors
///
/// [`CreateError`]. Nothing is overwritten.
pub fn create(
    folder: &Path,
    name: &str,
    language: Language,
    kind: Kind,
) -> Result<Vec<PathBuf>, CreateError> {
    check_name(name).map_err(CreateError::Name)?;
    let files = files(name, language, kind)?;
    let failed = |file: &Path, source| CreateError::Write { file: file.to_owned(), source };
    let empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !folder.exists(),
    };
    if !empty {
        return Err(CreateError::NotEmpty(folder.to_owned()));
    }
    for (path, text) in &files {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        }
        std::fs::write(&file, text).map_err(|source| failed(&file, source))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// The files of a new project, from its folder.
///
/// # Errors
///
/// When there is no project of such a step.
pub fn files(
    name: &str,
    language: Language,
    kind: Kind,
) -> Result<Vec<(PathBuf, String)>, CreateError> {
    let fill = |text: &str| {
        let (settings, _) = settings(kind);
        text.replace("{{name}}", name)
            .replace("{{kind}}", kind.name())
            .replace("{{language}}", language.name())
            .replace("{{settings}}", settings)
            .replace("{{tool-version}}", COMPONENTIZE_QJS.1)
    };
    let mut files: Vec<(PathBuf, String)> = vec![
        (STEP_FILE.into(), step_file(name, language, kind)),
        ("samples.jsonl".into(), samples(kind).to_owned()),
        (".gitignore".into(), include_str!("../templates/gitignore").to_owned()),
        ("README.md".into(), readme(&fill, language)),
    ];
    let sources: Option<Vec<(&str, &str)>> = match language {
        Language::Rust => {
            files
                .push(("Cargo.toml".into(), fill(include_str!("../templates/rust/Cargo.toml.in"))));
            embedded!("../templates/rust/", kind; "lib.rs")
                .map(|[(_, text)]| vec![("src/lib.rs", text)])
        }
        Language::Python => {
            embedded!("../templates/python/", kind; "app.py", "logic.py", "test_logic.py")
                .map(Vec::from)
        }
        Language::Javascript => {
            let package = include_str!("../templates/javascript/package.json.in");
            files.push(("package.json".into(), fill(package)));
            let text = include_str!("../templates/javascript/text.js");
            files.push(("text.js".into(), text.to_owned()));
            embedded!("../templates/javascript/", kind; "app.js", "logic.js", "logic.test.js")
                .map(Vec::from)
        }
    };
    let sources = sources.ok_or(CreateError::Kind(kind))?;
    files.extend(sources.into_iter().map(|(path, text)| (path.into(), text.to_owned())));
    files.extend(WIT.map(|(path, text)| (Path::new("wit").join(path), text.to_owned())));
    Ok(files)
}

/// What a pipeline says of the step: beside its name, and in `step.yaml`.
const fn settings(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Filter => (", config: { limit: 80 }", "config: { limit: 80 }\n"),
        Kind::Branch => (
            ", arms: [low, high], config: { limit: 80 }",
            "arms: [low, high]\nconfig: { limit: 80 }\n",
        ),
        Kind::Accumulate => (", window: { tumbling: 10s }", "window: { tumbling: 10s }\n"),
        _ => ("", ""),
    }
}

fn step_file(name: &str, language: Language, kind: Kind) -> String {
    let (_, settings) = settings(kind);
    format!(
        "# What `millrace step build` and `millrace step test` go by.\nname: {name}\nversion: 0.1.0\nlanguage: {language}\nkind: {kind}\n{settings}"
    )
}

const fn samples(kind: Kind) -> &'static str {
    match kind {
        Kind::Filter | Kind::Branch => {
            "{\"payload\":\"81.5\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"80\"}\n{\"payload\":\"fault\"}\n"
        }
        Kind::Accumulate => {
            "{\"payload\":\"20\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"22.5\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"fault\"}\n"
        }
        // The first is five seconds after the time of messages without one.
        Kind::Delay => {
            "{\"payload\":\"1767225605000,81.5\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"81.5\"}\n{\"hex\":\"ff\"}\n"
        }
        Kind::FlatMap => {
            "{\"payload\":\"one\\ntwo\\n\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"\"}\n{\"hex\":\"ff\"}\n"
        }
        _ => {
            "{\"payload\":\"hello\",\"topic\":\"plant/press-1\"}\n{\"payload\":\"\"}\n{\"hex\":\"ff\"}\n"
        }
    }
}

fn readme(fill: &impl Fn(&str) -> String, language: Language) -> String {
    let (unit_test, notes) = match language {
        Language::Rust => ("cargo test", "It needs the target of components: `rustup target add wasm32-wasip2`.".to_owned()),
        Language::Python => (
            "python3 -m unittest",
            format!(
                "It needs componentize-py: `pip install {}=={}`, into `.venv` or anywhere on the PATH. An exception other \
                 than `Err`, `print`, clocks, files and sockets end the call as a trap; `random` gives the same numbers each time.",
                COMPONENTIZE_PY.0, COMPONENTIZE_PY.1
            ),
        ),
        Language::Javascript => (
            "npm test",
            "It needs componentize-qjs: `npm install`. Whatever is thrown that is no `{ tag, val }` ends the call as a trap, \
             and so do `console.log` and clocks; `Math.random` gives the same numbers each time. `timestamp` is a number, so \
             a map that returns the message rounds it to about 200 ns."
                .to_owned(),
        ),
    };
    fill(include_str!("../templates/README.md.in"))
        .replace("{{unit-test}}", unit_test)
        .replace("{{notes}}", &notes)
}
