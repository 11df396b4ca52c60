//! The tools of the languages: where they are looked for, and how to get one that is missing.

use std::path::{Path, PathBuf};

/// The tool for Python, in the version that is tested with.
pub const COMPONENTIZE_PY: (&str, &str) = ("componentize-py", "0.25.1");

/// The tool for JavaScript.
pub const COMPONENTIZE_QJS: (&str, &str) = ("componentize-qjs", "0.4.5");

/// A tool is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {tool} found in {looked}; get it with: {mend}", looked = looked.join(", "))]
pub struct ToolError {
    /// The tool.
    pub tool: String,
    /// Where it was looked for.
    pub looked: Vec<String>,
    /// The command that gets it.
    pub mend: String,
}

/// Where tools are looked for.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Where `scripts/setup` puts those of languages: `~/.cache/millrace/languages`.
    pub languages: PathBuf,
    /// The folders of PATH.
    pub path: Vec<PathBuf>,
}

impl Tools {
    /// Those of this process's PATH, and of a folder.
    #[must_use]
    pub fn new(languages: PathBuf) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { languages, path: std::env::split_paths(&path).collect() }
    }

    /// componentize-py.
    ///
    /// # Errors
    ///
    /// When it is nowhere.
    pub fn python(&self, project: &Path) -> Result<PathBuf, ToolError> {
        let (name, version) = COMPONENTIZE_PY;
        let near = [project.join(".venv/bin"), self.languages.join("python/bin")];
        self.find(name, &near, format!("pip install {name}=={version}"))
    }

    /// componentize-qjs.
    ///
    /// # Errors
    ///
    /// When it is nowhere.
    pub fn javascript(&self, project: &Path) -> Result<PathBuf, ToolError> {
        let (name, version) = COMPONENTIZE_QJS;
        let bin = "node_modules/.bin";
        let near = [project.join(bin), self.languages.join("javascript").join(bin)];
        self.find(name, &near, format!("npm install --save-dev {name}@{version}"))
    }

    /// cargo.
    ///
    /// # Errors
    ///
    /// When it is nowhere.
    pub fn cargo(&self) -> Result<PathBuf, ToolError> {
        self.find("cargo", &[], "rustup (rustup.rs)".to_owned())
    }

    fn find(&self, tool: &str, near: &[PathBuf], mend: String) -> Result<PathBuf, ToolError> {
        let found = near.iter().chain(&self.path).map(|folder| folder.join(tool));
        // Absolute, because it is started in the project's folder.
        let found =
            found.filter(|file| file.is_file()).find_map(|file| std::path::absolute(file).ok());
        found.ok_or_else(|| {
            let looked = near.iter().map(|folder| folder.display().to_string());
            ToolError {
                tool: tool.to_owned(),
                looked: looked.chain(["PATH".to_owned()]).collect(),
                mend,
            }
        })
    }
}
