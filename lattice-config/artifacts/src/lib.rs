//! The artifacts of a lattice: composed stages, kept in its JetStream under the SHA-256 of their bytes.
//!
//! Whoever deploys puts them there with the credentials he has anyway, and every host of the lattice takes them from there,
//! on whichever machine it is. No registry, no shared folder, and no path of one machine in a manifest. What a host takes
//! is what its digest says, whoever wrote it.
//!
//! Store of lattice `L`: the key-value bucket `MILLRACE_L_artifacts`.
//!
//! | key | value |
//! |---|---|
//! | `info.DIGEST` | JSON: bytes, parts. Written last: an artifact without it is not there |
//! | `part.DIGEST.N` | its bytes, [`PART`] at a time |
//! | `use.PIPELINE.DIGEST` | JSON: when a pipeline was last deployed with it, in milliseconds since 1970 |
//!
//! An artifact that no pipeline uses is removed, and so is what is left of one that was put or removed in part
//! ([`Store::keep`]).

pub mod installed;
mod reference;

use std::collections::BTreeSet;
use std::time::SystemTime;

use async_nats::Client;
use async_nats::jetstream::{self, kv};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use reference::{NoReference, Reference};

/// Bytes of one part. The smallest limit of a tenant's messages is 64 KiB.
pub const PART: usize = 60 * 1024;

/// Largest artifact, in bytes: what a host takes as well.
pub const BYTES_MAX: u64 = 50 * 1024 * 1024;

/// How many parts are under way at once.
const UNDER_WAY: usize = 32;

/// Why an artifact is not put, or not there.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It is larger than [`BYTES_MAX`].
    #[error(
        "an artifact of {0} bytes is larger than {BYTES_MAX} bytes, the most that a host takes"
    )]
    TooLarge(u64),
    /// The lattice has none of this digest.
    #[error(
        "lattice `{lattice}` has no artifact {digest}. `millrace pipeline deploy` puts it there; it is removed with the last \
         pipeline that uses it"
    )]
    Missing {
        /// The lattice.
        lattice: String,
        /// Its digest.
        digest: String,
    },
    /// What is kept under the digest is something else.
    #[error(
        "what lattice `{lattice}` keeps as artifact {digest} is not that: {what}. Undeploy the pipelines that use it, \
         and deploy them once more"
    )]
    Damaged {
        /// The lattice.
        lattice: String,
        /// The digest.
        digest: String,
        /// What is wrong.
        what: String,
    },
    /// JetStream does not answer, or refuses.
    #[error("could not {what} the artifacts of lattice `{lattice}`: {cause}{mend}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// The lattice.
        lattice: String,
        /// What was answered.
        cause: String,
        /// What to do, where that is known.
        mend: &'static str,
    },
}

/// What is known of an artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Info {
    bytes: u64,
    parts: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Use {
    at: u64,
}

/// The artifacts of one lattice.
#[derive(Debug, Clone)]
pub struct Store {
    lattice: String,
    kv: kv::Store,
}

/// Name of the bucket of a lattice.
#[must_use]
pub fn bucket(lattice: &str) -> String {
    format!("MILLRACE_{lattice}_artifacts")
}

/// SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// The store of a lattice, made when there is none.
    ///
    /// # Errors
    ///
    /// JetStream does not answer, or refuses.
    pub async fn open(nats: &Client, lattice: &str) -> Result<Self, ArtifactError> {
        let js = jetstream::new(nats.clone());
        if let Ok(kv) = js.get_key_value(bucket(lattice)).await {
            return Ok(Self { lattice: lattice.to_owned(), kv });
        }
        let config = kv::Config {
            bucket: bucket(lattice),
            description: "Stages of Millrace's pipelines, by their digests".to_owned(),
            history: 1,
            ..kv::Config::default()
        };
        let kv = match js.create_key_value(config).await {
            Ok(kv) => kv,
            // Somebody else was faster, or it cannot be had.
            Err(made) => js
                .get_key_value(bucket(lattice))
                .await
                .map_err(|_| error("make room for", lattice, &made))?,
        };
        Ok(Self { lattice: lattice.to_owned(), kv })
    }

    /// The same where it is there already; none where nobody has put anything.
    ///
    /// # Errors
    ///
    /// JetStream does not answer, or refuses.
    pub async fn existing(nats: &Client, lattice: &str) -> Result<Option<Self>, ArtifactError> {
        let js = jetstream::new(nats.clone());
        match js.get_stream(format!("KV_{}", bucket(lattice))).await {
            Ok(_) => Self::open(nats, lattice).await.map(Some),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(error("find", lattice, &e)),
        }
    }

    /// Puts an artifact, for a pipeline, unless it is there; answers its digest, and whether it was put.
    ///
    /// # Errors
    ///
    /// It is too large; JetStream does not answer, or refuses.
    pub async fn put(&self, pipeline: &str, bytes: Bytes) -> Result<(String, bool), ArtifactError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > BYTES_MAX {
            return Err(ArtifactError::TooLarge(size));
        }
        let digest = digest(&bytes);
        // Before looking: who removes looks for uses again after it has made the artifact unfindable.
        let used = Use { at: millis(SystemTime::now()) };
        self.write(format!("use.{pipeline}.{digest}"), json(&used)).await?;
        if let Some(info) = self.info(&digest).await?.filter(|info| info.bytes == size) {
            // One that has lost a part is put once more.
            let parts = self.last_words(&format!("part.{digest}.*")).await?.len();
            if u64::try_from(parts).unwrap_or(u64::MAX) == info.parts {
                return Ok((digest, false));
            }
        }
        let parts: Vec<Bytes> = (0..bytes.len())
            .step_by(PART)
            .map(|from| bytes.slice(from..from.saturating_add(PART).min(bytes.len())))
            .collect();
        let info = Info { bytes: size, parts: u64::try_from(parts.len()).unwrap_or(u64::MAX) };
        let writes = parts
            .into_iter()
            .enumerate()
            .map(|(n, part)| self.write(format!("part.{digest}.{n}"), part));
        futures::stream::iter(writes).buffered(UNDER_WAY).try_collect::<()>().await?;
        self.write(format!("info.{digest}"), json(&info)).await?;
        Ok((digest, true))
    }

    /// An artifact's bytes, whose digest is looked at.
    ///
    /// # Errors
    ///
    /// It is not there, or something else is; JetStream does not answer, or refuses.
    pub async fn get(&self, digest: &str) -> Result<Bytes, ArtifactError> {
        let lattice = &self.lattice;
        let missing =
            || ArtifactError::Missing { lattice: lattice.clone(), digest: digest.to_owned() };
        let damaged = |what: String| ArtifactError::Damaged {
            lattice: lattice.clone(),
            digest: digest.to_owned(),
            what,
        };
        if !reference::is_digest(digest) {
            return Err(missing());
        }
        let info = self.info(digest).await?.ok_or_else(missing)?;
        // What is written there is foreign: it decides over no more memory than an artifact may have.
        let expected = info.bytes.div_ceil(u64::try_from(PART).unwrap_or(u64::MAX));
        if info.bytes > BYTES_MAX || info.parts != expected {
            return Err(damaged(format!(
                "it says of itself {} bytes in {} parts",
                info.bytes, info.parts
            )));
        }
        let reads = (0..info.parts).map(|n| {
            let key = format!("part.{digest}.{n}");
            async move { self.kv.get(key).await.map_err(|e| error("read", lattice, &e)) }
        });
        let mut reads = futures::stream::iter(reads).buffered(UNDER_WAY);
        let mut bytes = BytesMut::new();
        while let Some(part) = reads.try_next().await? {
            let part = part.ok_or_else(|| damaged("a part is missing".to_owned()))?;
            if part.len() > PART {
                return Err(damaged("a part is too large".to_owned()));
            }
            bytes.extend_from_slice(&part);
        }
        let found = self::digest(&bytes);
        match found == digest {
            true => Ok(bytes.freeze()),
            false => Err(damaged(format!("its digest is {found}"))),
        }
    }

    /// The digests that a pipeline uses.
    ///
    /// # Errors
    ///
    /// JetStream does not answer, or refuses.
    pub async fn used_by(&self, pipeline: &str) -> Result<BTreeSet<String>, ArtifactError> {
        Ok(self.last_words(&format!("use.{pipeline}.*")).await?.into_iter().collect())
    }

    /// A pipeline uses no more than these, and what it was given since a time: somebody may be deploying it. What no pipeline
    /// uses any more is removed. Answers how many artifacts were.
    ///
    /// # Errors
    ///
    /// JetStream does not answer, or refuses.
    pub async fn keep(
        &self,
        pipeline: &str,
        those: &BTreeSet<String>,
        since: SystemTime,
    ) -> Result<usize, ArtifactError> {
        for digest in self.used_by(pipeline).await?.difference(those) {
            let key = format!("use.{pipeline}.{digest}");
            let entry = self.kv.entry(&key).await;
            let Some(entry) = entry.map_err(|e| error("read", &self.lattice, &e))? else {
                continue;
            };
            let used = serde_json::from_slice::<Use>(&entry.value);
            if used.map_or(true, |used| used.at < millis(since)) {
                // Up to what was looked at: it may be used anew at this moment.
                self.purge(&key, entry.revision.saturating_add(1)).await?;
            }
        }
        // All that is there, also what an interrupted put or removal has left.
        let mut all: BTreeSet<String> = self.last_words("info.*").await?.into_iter().collect();
        all.extend(self.words("part.*.*", 1).await?);
        let used: BTreeSet<String> = self.last_words("use.*.*").await?.into_iter().collect();
        let mut removed = 0_usize;
        for digest in all.difference(&used) {
            removed = removed.saturating_add(usize::from(self.remove_unused(digest).await?));
        }
        Ok(removed)
    }

    /// Removes an artifact that nobody uses. Somebody may put it at the same time: who puts says that it is used before
    /// he looks whether it is there, and here uses are looked for after it was made unfindable; so one sees the other.
    async fn remove_unused(&self, digest: &str) -> Result<bool, ArtifactError> {
        let uses = format!("use.*.{digest}");
        let key = format!("info.{digest}");
        let info = self.kv.entry(&key).await.map_err(|e| error("read", &self.lattice, &e))?;
        if let Some(info) = &info {
            // Not one that is written after this look.
            self.purge(&key, info.revision.saturating_add(1)).await?;
        }
        let mut stream = self.kv.stream.clone();
        let state = stream.info().await.map_err(|e| error("count", &self.lattice, &e))?;
        let last = state.state.last_sequence;
        if !self.last_words(&uses).await?.is_empty() {
            if let Some(info) = info {
                self.write(key, info.value).await?;
            }
            return Ok(false);
        }
        // Parts that are put from now on are of an artifact that is there again.
        self.purge(&format!("part.{digest}.*"), last.saturating_add(1)).await?;
        Ok(info.is_some())
    }

    async fn info(&self, digest: &str) -> Result<Option<Info>, ArtifactError> {
        let value = self.kv.get(format!("info.{digest}")).await;
        let value = value.map_err(|e| error("read", &self.lattice, &e))?;
        Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    async fn write(&self, key: String, value: Bytes) -> Result<(), ArtifactError> {
        self.kv.put(key, value).await.map(drop).map_err(|e| error("write", &self.lattice, &e))
    }

    /// The last words of the keys that fit a pattern.
    async fn last_words(&self, pattern: &str) -> Result<Vec<String>, ArtifactError> {
        self.words(pattern, 0).await
    }

    /// A word of each key that fits a pattern, counted from the last.
    async fn words(&self, pattern: &str, from_last: usize) -> Result<Vec<String>, ArtifactError> {
        let subject = format!("{}{pattern}", self.kv.prefix);
        let listed = self.kv.stream.info_with_subjects(subject).await;
        let listed = listed.map_err(|e| error("list", &self.lattice, &e))?;
        let names: Vec<(String, usize)> =
            listed.try_collect().await.map_err(|e| error("list", &self.lattice, &e))?;
        let word = |(name, _): (String, usize)| name.rsplit('.').nth(from_last).map(str::to_owned);
        Ok(names.into_iter().filter_map(word).collect())
    }

    /// Removes keys without a trace, those written before a sequence.
    async fn purge(&self, pattern: &str, before: u64) -> Result<(), ArtifactError> {
        let purge = self.kv.stream.purge().filter(format!("{}{pattern}", self.kv.prefix));
        let purged = purge.sequence(before).await;
        purged.map(drop).map_err(|e| error("remove", &self.lattice, &e))
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn json(value: &impl Serialize) -> Bytes {
    // Numbers in a structure always become text.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(e) if e.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn error(what: &'static str, lattice: &str, cause: &dyn std::error::Error) -> ArtifactError {
    let mut text = cause.to_string();
    let mut below = cause.source();
    while let Some(error) = below {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        below = error.source();
    }
    let mend = match text.contains("resource limits exceeded") || text.contains("maximum bytes") {
        true => {
            ". The tenant's disk is used up: `millrace tenant limits` gives it more, and undeploying a pipeline that is not needed makes room"
        }
        false => "",
    };
    ArtifactError::Store { what, lattice: lattice.to_owned(), cause: text, mend }
}
