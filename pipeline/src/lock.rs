//! The lock file of a definition: which components and which harness it was made of.
//!
//! A definition names files, and files change. The lock says what was in them, so that the same definition with the same
//! lock makes the same artifacts everywhere, and a change is one that somebody wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path as FilePath;

use serde::{Deserialize, Serialize};

use crate::component::{ComponentFile, ComponentFileError, is_digest};
use crate::model::Pipeline;

/// Version of the form of a lock file.
const FORMAT: u32 = 1;

/// Longest lock file that is read, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// What a lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// Version of the form: 1.
    pub millrace_lock: u32,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The components that its steps use, by name.
    pub components: BTreeMap<String, LockedComponent>,
    /// The sub-pipelines that are put in, by the names of the steps that call them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub pipelines: BTreeMap<String, LockedPipeline>,
    /// What composing puts around them.
    pub harness: LockedHarness,
}

/// A component as it was when it was locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedComponent {
    /// Its file, as the binding has it.
    pub file: String,
    /// The version that it said it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// `sha256:` and the SHA-256 of its bytes.
    pub digest: String,
}

/// The definition of a sub-pipeline as it was when it was locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedPipeline {
    /// Its file, as the binding has it.
    pub file: String,
    /// `sha256:` and the SHA-256 of its text.
    pub digest: String,
}

/// The harness as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedHarness {
    /// Its version.
    pub version: String,
    /// The digests of its parts, by name.
    pub parts: BTreeMap<String, String>,
}

/// Why a text is no lock file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LockError(String);

impl Lock {
    /// What a pipeline is made of now. Files of components are from `folder`.
    ///
    /// # Errors
    ///
    /// When the file of a component cannot be read.
    pub fn of(
        pipeline: &Pipeline,
        folder: &FilePath,
        harness: LockedHarness,
    ) -> Result<Self, ComponentFileError> {
        let bound = pipeline.binding.as_ref().map(|binding| &binding.components);
        let mut components = BTreeMap::new();
        for name in pipeline.steps.values().map(|step| &step.component) {
            let Some(component) = bound.and_then(|bound| bound.get(name)) else { continue };
            if components.contains_key(name) {
                continue;
            }
            let ComponentFile { digest, version } =
                ComponentFile::read(&folder.join(&component.file))?;
            let file = component.file.clone();
            components.insert(name.clone(), LockedComponent { file, version, digest });
        }
        let (pipeline, pipelines) = (pipeline.pipeline.clone(), BTreeMap::new());
        Ok(Self { millrace_lock: FORMAT, pipeline, components, pipelines, harness })
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    ///
    /// When it is none, with what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, LockError> {
        if text.len() > TEXT_MAX {
            return Err(LockError(format!("it is longer than {TEXT_MAX} bytes")));
        }
        let lock: Self = serde_json::from_slice(text).map_err(|e| LockError(e.to_string()))?;
        if lock.millrace_lock != FORMAT {
            let form = lock.millrace_lock;
            return Err(LockError(format!("its form is {form}, and this version reads {FORMAT}")));
        }
        let components = lock.components.iter().map(|(name, one)| (name, &one.digest));
        let pipelines = lock.pipelines.iter().map(|(name, one)| (name, &one.digest));
        let mut digests = components.chain(pipelines).chain(&lock.harness.parts);
        match digests.find(|(_, digest)| !is_digest(digest)) {
            Some((name, _)) => Err(LockError(format!("the digest of `{name}` is none"))),
            None => Ok(lock),
        }
    }

    /// The text of the lock file. The same lock gives the same bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Maps with texts as keys, texts and a number: it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// In what `now` is another than this.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        if self.pipeline != now.pipeline {
            let (locked, now) = (self.pipeline.clone(), now.pipeline.clone());
            return vec![Difference::OtherPipeline { locked, now }];
        }
        let mut differences = Vec::new();
        for (name, component) in &now.components {
            let component = component.clone();
            let name = name.clone();
            match self.components.get(&name) {
                None => differences.push(Difference::NotLocked { name, file: component.file }),
                Some(locked) if *locked != component => {
                    differences.push(Difference::Changed {
                        name,
                        locked: locked.clone(),
                        now: component,
                    });
                }
                Some(_) => {}
            }
        }
        let unused = self.components.keys().filter(|name| !now.components.contains_key(*name));
        differences.extend(unused.map(|name| Difference::NotUsed { name: name.clone() }));
        for (name, now) in &now.pipelines {
            let locked = self.pipelines.get(name);
            if locked != Some(now) {
                let (locked, now) = (locked.cloned(), Some(now.clone()));
                differences.push(Difference::Pipeline { name: name.clone(), locked, now });
            }
        }
        for (name, locked) in &self.pipelines {
            if !now.pipelines.contains_key(name) {
                let (locked, now) = (Some(locked.clone()), None);
                differences.push(Difference::Pipeline { name: name.clone(), locked, now });
            }
        }
        let (locked, harness) = (&self.harness, &now.harness);
        if locked.version != harness.version {
            let (locked, now) = (locked.version.clone(), harness.version.clone());
            differences.push(Difference::HarnessVersion { locked, now });
        } else {
            // Of one version only a build of this platform by hand has other parts.
            let names = locked.parts.keys().chain(harness.parts.keys());
            let names: std::collections::BTreeSet<&String> = names.collect();
            for name in names {
                let (locked, now) =
                    (locked.parts.get(name).cloned(), harness.parts.get(name).cloned());
                if locked != now {
                    differences.push(Difference::HarnessPart { name: name.clone(), locked, now });
                }
            }
        }
        differences
    }
}

/// In what a pipeline is another than its lock says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "difference")]
pub enum Difference {
    /// The lock is for another pipeline.
    OtherPipeline {
        /// The one in the lock.
        locked: String,
        /// This one.
        now: String,
    },
    /// A component that the lock does not have.
    NotLocked {
        /// Its name.
        name: String,
        /// Its file.
        file: String,
    },
    /// A component that only the lock has.
    NotUsed {
        /// Its name.
        name: String,
    },
    /// A component whose file is another, or has other bytes.
    Changed {
        /// Its name.
        name: String,
        /// What the lock says.
        locked: LockedComponent,
        /// What it is.
        now: LockedComponent,
    },
    /// A sub-pipeline whose file is another, or has another text, or that only one of the two has.
    Pipeline {
        /// The step that calls it.
        name: String,
        /// What the lock says.
        locked: Option<LockedPipeline>,
        /// What it is.
        now: Option<LockedPipeline>,
    },
    /// A harness of another version.
    HarnessVersion {
        /// The one in the lock.
        locked: String,
        /// This one.
        now: String,
    },
    /// A harness of the same version and other parts.
    HarnessPart {
        /// Name of the part.
        name: String,
        /// Its digest in the lock, if it is there.
        locked: Option<String>,
        /// Its digest.
        now: Option<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPipeline { locked, now } => {
                write!(f, "the lock is for the pipeline `{locked}`, not for `{now}`")
            }
            Self::NotLocked { name, file } => {
                write!(f, "the component `{name}` ({file}) is not in the lock")
            }
            Self::NotUsed { name } => {
                write!(f, "the lock has the component `{name}`, which no step uses")
            }
            Self::Changed { name, locked, now } if locked.digest == now.digest => {
                write!(
                    f,
                    "the component `{name}` is {}, and the lock has it as {}",
                    now.file, locked.file
                )
            }
            Self::Changed { name, locked, now } => {
                let version = |one: &LockedComponent| {
                    let version = one.version.as_ref().filter(|_| locked.version != now.version);
                    version.map(|version| format!(", version {version}")).unwrap_or_default()
                };
                write!(
                    f,
                    "the component `{name}` ({}) is {}{}, and the lock has {}{}",
                    now.file,
                    now.digest,
                    version(now),
                    locked.digest,
                    version(locked)
                )
            }
            Self::Pipeline { name, locked, now } => match (locked, now) {
                (Some(locked), Some(now)) if locked.digest == now.digest => {
                    let (now, locked) = (&now.file, &locked.file);
                    write!(
                        f,
                        "the sub-pipeline of `{name}` is {now}, and the lock has it as {locked}"
                    )
                }
                (Some(locked), Some(now)) => {
                    let LockedPipeline { file, digest } = now;
                    let locked = &locked.digest;
                    write!(
                        f,
                        "the sub-pipeline of `{name}` ({file}) is {digest}, and the lock has {locked}"
                    )
                }
                (None, Some(now)) => {
                    write!(f, "the sub-pipeline of `{name}` ({}) is not in the lock", now.file)
                }
                _ => write!(f, "the lock has a sub-pipeline of `{name}`, which calls none"),
            },
            Self::HarnessVersion { locked, now } => {
                write!(
                    f,
                    "the harness of this platform is version {now}, and the lock has {locked}"
                )
            }
            Self::HarnessPart { name, locked, now } => {
                let digest = |digest: &Option<String>| digest.clone().unwrap_or("none".to_owned());
                write!(
                    f,
                    "the part `{name}` of the harness is {}, and the lock has {}",
                    digest(now),
                    digest(locked)
                )
            }
        }
    }
}
