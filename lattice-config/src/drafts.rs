//! Drafts: texts of pipelines that somebody is at work on, and that need not make sense yet.
//!
//! They are files in the tenant's folder on the platform, not in the tenant's account: what somebody is drawing can be saved while
//! NATS is away. A draft has a revision that grows with each save, and is saved only by who has seen the newest one, so that two
//! people do not overwrite each other's work unseen.
//!
//! `drafts/PIPELINE.draft` is a line of JSON about it and then the text.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::{self, FileError};
use crate::names;
use crate::tenants::{Record, State, TenantError, Tenants, state_error};

/// Longest text, in bytes: as long as a definition may be.
pub const TEXT_MAX: usize = 1 << 20;
/// Most drafts of a tenant.
pub const DRAFTS_MAX: usize = 200;
/// Who goes on saving one draft is written down once in this time, in seconds.
const NOTED_EVERY: i64 = 3600;
/// Longest first line of a file, in bytes.
const ABOUT_MAX: u64 = 4096;
/// What the files end with.
const ENDING: &str = ".draft";

/// Why a draft is not read, saved or deleted.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// No pipeline can be called that.
    #[error(
        "{0:?} cannot be a pipeline's name: a small letter first, then small letters, digits and hyphens, at most {max} in all",
        max = names::MAX_LENGTH
    )]
    Name(String),
    /// The text is longer than a definition may be.
    #[error("the text has {0} bytes, and a definition has at most {TEXT_MAX}")]
    TooLong(usize),
    /// There are too many.
    #[error("there are {DRAFTS_MAX} drafts already: delete those that nobody needs")]
    TooMany,
    /// There is none.
    #[error("there is no draft of {0}")]
    Unknown(String),
    /// Somebody else has saved, or deleted, it since.
    #[error("{told}", told = changed(.0.as_ref()))]
    Changed(Option<Saved>),
    /// The tenant.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is none that was written here.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn changed(saved: Option<&Saved>) -> String {
    match saved {
        Some(saved) => format!("{} has saved it since, as revision {}", saved.by, saved.revision),
        None => "it has been deleted since".to_owned(),
    }
}

/// What is known of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Saved {
    /// Who saved it last.
    pub by: String,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// Its number, which grows with each save.
    pub revision: u64,
    /// SHA-256 of the text, in hexadecimal.
    pub digest: String,
    /// When the one who saved it last was written down in the audit log.
    noted: i64,
}

impl Saved {
    /// What a draft is told from others of its name by, also from one that was deleted: revision and digest.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("{}-{}", self.revision, self.digest.get(..16).unwrap_or(&self.digest))
    }
}

/// A draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its text, which need not be a definition.
    pub text: String,
    /// What is known of it.
    pub saved: Saved,
}

/// What has to be there for a text to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over<'a> {
    /// Nothing: it is a new one.
    Nothing,
    /// What has this [tag](Saved::tag).
    Tag(&'a str),
}

/// The drafts of all tenants. Each call works on the disk, and waits while somebody else changes drafts of the same tenant.
#[derive(Debug, Clone)]
pub struct Drafts(Tenants);

impl Drafts {
    /// Those of an installation.
    #[must_use]
    pub fn new(tenants: &Tenants) -> Self {
        Self(tenants.clone())
    }

    /// All drafts of a tenant, by the pipeline's name. Files that cannot be read are left out.
    ///
    /// # Errors
    ///
    /// When there is no such tenant, or its folder cannot be read.
    pub fn list(&self, tenant: &str) -> Result<Vec<(String, Saved)>, DraftError> {
        self.0.get(tenant)?;
        let folder = self.folder(tenant)?;
        let mut all = Vec::new();
        for name in names_in(&folder)? {
            if let Ok(saved) = about(&path(&folder, &name)) {
                all.push((name, saved));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    /// A draft.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn get(&self, tenant: &str, pipeline: &str) -> Result<Draft, DraftError> {
        check(pipeline)?;
        self.0.get(tenant)?;
        let draft = read(&self.folder(tenant)?, pipeline)?;
        draft.ok_or_else(|| DraftError::Unknown(pipeline.to_owned()))
    }

    /// Saves a text over what the caller has seen. Says what is known of it now, and whether it is to be written down: once when
    /// somebody begins, and then once an hour.
    ///
    /// # Errors
    ///
    /// When something else is there than the caller has seen ([`DraftError::Changed`]), the text is too long, there are too many
    /// drafts, the tenant is not active, or the file cannot be written.
    pub fn save(
        &self,
        tenant: &str,
        pipeline: &str,
        text: &str,
        over: Over<'_>,
        by: &str,
    ) -> Result<(Saved, bool), DraftError> {
        check(pipeline)?;
        if text.len() > TEXT_MAX {
            return Err(DraftError::TooLong(text.len()));
        }
        self.active(tenant)?;
        let folder = self.folder(tenant)?;
        make(&folder)?;
        let _alone = files::exclusive(&folder)?;
        let before = match read(&folder, pipeline) {
            // What cannot be read can be replaced by who says that it is a new one.
            Err(DraftError::Damaged { .. }) => None,
            before => before?.map(|draft| draft.saved),
        };
        match (over, &before) {
            (Over::Nothing, None) => {
                if names_in(&folder)?.len() >= DRAFTS_MAX {
                    return Err(DraftError::TooMany);
                }
            }
            (Over::Tag(tag), Some(saved)) if saved.tag() == tag => {}
            _ => return Err(DraftError::Changed(before)),
        }
        let now = self.0.now();
        let last = before.as_ref().filter(|saved| saved.by == by).map(|saved| saved.noted);
        // Also when the clock was set back.
        let note = last.is_none_or(|at| !(at..at.saturating_add(NOTED_EVERY)).contains(&now));
        let saved = Saved {
            by: by.to_owned(),
            at: now,
            revision: before.map_or(0, |saved| saved.revision).saturating_add(1),
            digest: HEXLOWER.encode(&Sha256::digest(text.as_bytes())),
            noted: last.filter(|_| !note).unwrap_or(now),
        };
        let path = path(&folder, pipeline);
        let mut bytes = serde_json::to_vec(&saved)
            .map_err(|e| DraftError::Damaged { path: path.clone(), reason: e.to_string() })?;
        bytes.push(b'\n');
        bytes.extend_from_slice(text.as_bytes());
        files::write_private(&path, &bytes)?;
        Ok((saved, note))
    }

    /// Deletes what the caller has seen.
    ///
    /// # Errors
    ///
    /// When there is none, something else is there ([`DraftError::Changed`]), the tenant is not active, or the file cannot be
    /// removed.
    pub fn delete(&self, tenant: &str, pipeline: &str, tag: &str) -> Result<(), DraftError> {
        check(pipeline)?;
        self.active(tenant)?;
        let folder = self.folder(tenant)?;
        let unknown = || DraftError::Unknown(pipeline.to_owned());
        if !folder.is_dir() {
            return Err(unknown());
        }
        let _alone = files::exclusive(&folder)?;
        let saved = read(&folder, pipeline)?.ok_or_else(unknown)?.saved;
        if saved.tag() != tag {
            return Err(DraftError::Changed(Some(saved)));
        }
        Ok(files::remove(&path(&folder, pipeline))?)
    }

    fn active(&self, tenant: &str) -> Result<Record, DraftError> {
        let record = self.0.get(tenant)?;
        match record.state {
            State::Active => Ok(record),
            state => Err(state_error(tenant, state).into()),
        }
    }

    fn folder(&self, tenant: &str) -> Result<PathBuf, DraftError> {
        Ok(self.0.folder(tenant)?.join("drafts"))
    }
}

/// Not its parents: a tenant that is deleted meanwhile does not come back.
fn make(folder: &Path) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(FileError::io("make", folder)(error))
        }
        _ => Ok(()),
    }
}

fn check(pipeline: &str) -> Result<(), DraftError> {
    match names::has_form(pipeline) {
        true => Ok(()),
        false => Err(DraftError::Name(pipeline.chars().take(80).collect())),
    }
}

fn path(folder: &Path, pipeline: &str) -> PathBuf {
    folder.join(format!("{pipeline}{ENDING}"))
}

fn names_in(folder: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::io("read", folder)(error)),
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_str()?.strip_suffix(ENDING)?.to_owned();
        names::has_form(&name).then_some(name)
    });
    Ok(names.collect())
}

/// What stands in the first line.
fn about(path: &Path) -> Result<Saved, DraftError> {
    let damaged =
        |e: serde_json::Error| DraftError::Damaged { path: path.to_owned(), reason: e.to_string() };
    let mut line = Vec::new();
    let read = |file: File| BufReader::new(file.take(ABOUT_MAX)).read_until(b'\n', &mut line);
    File::open(path).and_then(read).map_err(FileError::io("read", path))?;
    serde_json::from_slice(&line).map_err(damaged)
}

fn read(folder: &Path, pipeline: &str) -> Result<Option<Draft>, DraftError> {
    let path = path(folder, pipeline);
    let bytes = match files::read_private(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |reason: String| DraftError::Damaged { path: path.clone(), reason };
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let about = parts.next().unwrap_or_default();
    let saved: Saved = serde_json::from_slice(about).map_err(|e| damaged(e.to_string()))?;
    let text = parts.next().unwrap_or_default().to_vec();
    let text = String::from_utf8(text).map_err(|e| damaged(e.to_string()))?;
    Ok(Some(Draft { text, saved }))
}
