//! The folder of a step. One file in it says what it is: `step.yaml`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use millrace_compose::{Grant, Kind};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::trial::Settings;

/// Name of the file.
pub const STEP_FILE: &str = "step.yaml";

/// Longest name, as in a pipeline.
const NAME: usize = 40;

/// What a step is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// Built with cargo.
    Rust,
    /// Built with componentize-py.
    Python,
    /// Built with componentize-qjs.
    Javascript,
}

impl Language {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Javascript];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|language| language.name() == text).ok_or_else(|| {
            format!(
                "no such language: `{text}`; there are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

/// What is wrong with a project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// There is no `step.yaml`.
    #[error("{folder} is no folder of a step: it has no {STEP_FILE}; `millrace step new` makes one that has", folder = folder.display())]
    NoFile {
        /// The folder.
        folder: PathBuf,
    },
    /// It cannot be read.
    #[error("could not read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It does not say what it has to.
    #[error("{file}: {what}", file = file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// What is wrong, and the mend.
        what: String,
    },
}

/// What `step.yaml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct StepFile {
    name: String,
    #[serde(default)]
    version: Option<String>,
    language: String,
    kind: String,
    #[serde(default)]
    arms: Vec<String>,
    #[serde(default)]
    window: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    config: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    grants: Vec<String>,
    #[serde(default)]
    memory: Option<String>,
}

/// The folder of a step.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder.
    pub folder: PathBuf,
    /// The step's name.
    pub name: String,
    /// The version that its component says it is.
    pub version: Option<Version>,
    /// What it is written in.
    pub language: Language,
    /// Its kind.
    pub kind: Kind,
    /// What a pipeline would say of it.
    pub settings: Settings,
}

impl Project {
    /// Reads the `step.yaml` of a folder.
    ///
    /// # Errors
    ///
    /// [`ProjectError`]: it is not there, or something in it is wrong.
    pub fn read(folder: &Path) -> Result<Self, ProjectError> {
        let file = folder.join(STEP_FILE);
        let text = std::fs::read_to_string(&file).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                ProjectError::NoFile { folder: folder.to_owned() }
            } else {
                ProjectError::Read { file: file.clone(), source }
            }
        })?;
        Self::of(folder, &text).map_err(|what| ProjectError::Wrong { file, what })
    }

    fn of(folder: &Path, text: &str) -> Result<Self, String> {
        let said: StepFile = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        check_name(&said.name)?;
        let kind: Kind =
            said.kind.parse().map_err(|e: millrace_compose::UnknownKind| e.to_string())?;
        let grants = said.grants.iter().map(|grant| grant.parse::<Grant>());
        let text = |(name, value)| match value {
            serde_json::Value::String(text) => (name, text),
            other => (name, other.to_string()),
        };
        let version = said.version.as_deref().map(|text| {
            let such = "write three numbers, such as `version: 0.1.0`";
            text.parse().map_err(|why| format!("`{text}` is not a semantic version: {why}; {such}"))
        });
        Ok(Self {
            folder: folder.to_owned(),
            version: version.transpose()?,
            language: said.language.parse()?,
            kind,
            settings: Settings {
                kind: Some(kind),
                arms: said.arms,
                window: said.window.into_iter().map(text).collect(),
                config: said.config.into_iter().map(text).collect(),
                grants: grants.collect::<Result<_, _>>().map_err(|e| e.to_string())?,
                memory: said.memory,
            },
            name: said.name,
        })
    }

    /// The component that building makes.
    #[must_use]
    pub fn component(&self) -> PathBuf {
        self.folder.join("build").join(&self.name).with_extension("wasm")
    }

    /// The file of its samples.
    #[must_use]
    pub fn samples(&self) -> PathBuf {
        self.folder.join("samples.jsonl")
    }
}

/// Whether a name can be that of a step.
///
/// # Errors
///
/// What is wrong with it, and the mend.
pub fn check_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let good = chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.len() <= NAME;
    if good {
        return Ok(());
    }
    let mut better: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(NAME)
        .collect();
    better.truncate(better.trim_end_matches('-').len());
    let such = if better.is_empty() { "to-celsius" } else { &better };
    Err(format!(
        "`{name}` cannot be the name of a step: it has to begin with a letter from a to z and go on with those, digits \
         and `-`, {NAME} characters at most, such as `{such}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(check_name("to-celsius-2"), Ok(()));
        for (wrong, such) in
            [("", "to-celsius"), ("ToCelsius", "`tocelsius`"), ("2x", "`x`"), ("a_b", "`a-b`")]
        {
            assert!(check_name(wrong).unwrap_err().contains(such), "{wrong}");
        }
        assert!(check_name(&"x".repeat(41)).is_err());
    }

    #[test]
    fn a_file_is_read() {
        let text = "name: hot\nlanguage: python\nkind: branch\narms: [a, b]\nwindow: { count: 5 }\nconfig: { limit: 80, unit: C }\ngrants: [log]\nmemory: 128MiB\n";
        let project = Project::of(Path::new("hot"), text).unwrap();
        assert_eq!(project.language, Language::Python);
        assert_eq!(project.settings.config["limit"], "80");
        assert_eq!(project.version, None);
        let text = text.replace("language", "version: 1.2.3\nlanguage");
        let project = Project::of(Path::new("hot"), &text).unwrap();
        assert_eq!(project.version, Some(Version::new(1, 2, 3)));
        assert_eq!(project.settings.window["count"], "5");
        assert_eq!(project.component(), Path::new("hot/build/hot.wasm"));
        for (wrong, says) in [
            ("name: hot", "missing field"),
            ("name: hot\nlanguage: rust\nkind: map\nversion: 1.2", "write three numbers"),
            ("name: hot\nlanguage: cobol\nkind: map", "no such language: `cobol`"),
            ("name: hot\nlanguage: rust\nkind: fold", "no such kind of step: `fold`"),
            ("name: Hot\nlanguage: rust\nkind: map", "such as `hot`"),
            ("name: hot\nlanguage: rust\nkind: map\nmemmory: 1", "memmory"),
        ] {
            let said = Project::of(Path::new("hot"), wrong).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
