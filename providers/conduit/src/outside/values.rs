//! Values by key, in buckets of the lattice: key-value buckets of NATS, which the steps of all its pipelines share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{CreateKeyValueErrorKind, GetStreamErrorKind};
use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use millrace_grants::{Failure, FailureKind, REQUEST_MAX, VALUE_MAX, decode_key, encode_key};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// How long the server may take for a request of a step. Below what the step's side waits (`millrace-grants`).
const ANSWER: Duration = Duration::from_millis(2_500);

/// Most bytes of a bucket that is made here. JetStream counts it as taken, however little is in it.
const BYTES_MAX: i64 = 64 * 1024 * 1024;

/// Values that are read at once for one request.
const AT_ONCE: usize = 16;

/// Requests that are worked on at once, of all stages together: what they hold is bounded by it.
const ALL_AT_ONCE: usize = 64;

/// The buckets of a lattice. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Buckets {
    js: Context,
    lattice: String,
    open: Arc<Mutex<HashMap<String, Store>>>,
    permits: Arc<Semaphore>,
}

/// The store is away, or does not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bucket `{bucket}`: {reason}")]
pub struct BucketsError {
    bucket: String,
    reason: String,
    too_large: bool,
}

impl From<BucketsError> for Failure {
    fn from(error: BucketsError) -> Self {
        let kind = if error.too_large { FailureKind::TooLarge } else { FailureKind::Away };
        Self { kind, text: error.to_string() }
    }
}

impl Buckets {
    /// Those of this lattice.
    #[must_use]
    pub fn of(client: &async_nats::Client, lattice: &str) -> Self {
        let mut js = jetstream::new(client.clone());
        js.set_timeout(ANSWER);
        let permits = Arc::new(Semaphore::new(ALL_AT_ONCE));
        Self { js, lattice: lattice.to_owned(), open: Arc::default(), permits }
    }

    /// Name of the NATS key-value bucket that has the values of a bucket. Nothing of a pipeline begins like it, whatever the
    /// pipeline is called.
    #[must_use]
    pub fn name(lattice: &str, bucket: &str) -> String {
        format!("MILLRACE-KV_{lattice}_{bucket}")
    }

    /// The values of some keys, in their order: of a bucket that is not there, none.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the values have more bytes together than an answer may.
    pub async fn get(
        &self,
        bucket: &str,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, BucketsError> {
        let _permit = self.permits.acquire().await.map_err(|error| self.failed(bucket, &error))?;
        let Some(store) = self.there(bucket).await? else { return Ok(vec![None; keys.len()]) };
        // Each once, however often it is named.
        let names: Vec<String> = keys.iter().map(|key| encode_key(key)).collect();
        let mut found: BTreeMap<String, Option<Vec<u8>>> =
            names.iter().map(|name| (name.clone(), None)).collect();
        let wanted: Vec<String> = found.keys().cloned().collect();
        let read = async {
            let mut values = futures::stream::iter(wanted)
                .map(|name| {
                    let store = store.clone();
                    async move { (store.get(&name).await, name) }
                })
                .buffer_unordered(AT_ONCE);
            let mut bytes = 0usize;
            while let Some((value, name)) = values.next().await {
                let value = value.map_err(|error| error.to_string())?;
                bytes += value.as_ref().map_or(0, |value| value.len());
                if bytes > REQUEST_MAX {
                    return Ok(false);
                }
                found.insert(name, value.map(Vec::from));
            }
            Ok::<bool, String>(true)
        };
        if !self.within(bucket, read).await? {
            return Err(BucketsError {
                bucket: bucket.to_owned(),
                reason: format!("values of more than {REQUEST_MAX} bytes at once"),
                too_large: true,
            });
        }
        Ok(names.iter().map(|name| found.get(name).cloned().flatten()).collect())
    }

    /// Gives a key a value, of at most [`VALUE_MAX`] bytes. Makes the bucket where it is missing.
    ///
    /// # Errors
    ///
    /// The store does not answer, or has no room.
    pub async fn set(&self, bucket: &str, key: &[u8], value: Bytes) -> Result<(), BucketsError> {
        let _permit = self.permits.acquire().await.map_err(|error| self.failed(bucket, &error))?;
        let store = match self.there(bucket).await? {
            Some(store) => store,
            None => self.make(bucket).await?,
        };
        let put = store.put(encode_key(key), value);
        self.within(bucket, put).await.map(drop)
    }

    /// Takes the value of a key away.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn delete(&self, bucket: &str, key: &[u8]) -> Result<(), BucketsError> {
        let _permit = self.permits.acquire().await.map_err(|error| self.failed(bucket, &error))?;
        let Some(store) = self.there(bucket).await? else { return Ok(()) };
        let purged = store.purge(encode_key(key));
        self.within(bucket, purged).await
    }

    /// All keys of a bucket; none of one that is not there.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn keys(&self, bucket: &str) -> Result<Vec<Vec<u8>>, BucketsError> {
        let Some(store) = self.there(bucket).await? else { return Ok(Vec::new()) };
        let keys = store.keys().await.map_err(|error| self.failed(bucket, &error))?;
        let keys: Vec<String> = keys.try_collect().await.map_err(|e| self.failed(bucket, &e))?;
        Ok(keys.iter().map(|key| decode_key(key)).collect())
    }

    /// Takes a whole bucket away.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn remove(&self, bucket: &str) -> Result<(), BucketsError> {
        if self.there(bucket).await?.is_some() {
            let removed = self.js.delete_key_value(Self::name(&self.lattice, bucket));
            self.within(bucket, removed).await?;
            self.open.lock().remove(bucket);
        }
        Ok(())
    }

    /// The names of the buckets that there are.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn list(&self) -> Result<Vec<String>, BucketsError> {
        let prefix = format!("KV_{}", Self::name(&self.lattice, ""));
        let mut names = self.js.stream_names();
        let mut found = Vec::new();
        while let Some(name) = names.next().await {
            let name = name.map_err(|error| self.failed("*", &error))?;
            found.extend(name.strip_prefix(&prefix).map(str::to_owned));
        }
        found.sort();
        Ok(found)
    }

    /// The bucket, where it is there.
    async fn there(&self, bucket: &str) -> Result<Option<Store>, BucketsError> {
        if let Some(store) = self.open.lock().get(bucket).cloned() {
            return Ok(Some(store));
        }
        let name = Self::name(&self.lattice, bucket);
        let found = async {
            match self.js.get_stream(format!("KV_{name}")).await {
                Ok(_) => self.js.get_key_value(&name).await.map(Some).map_err(|e| e.to_string()),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(e)
                        if e.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(error.to_string()),
                },
            }
        };
        let store = self.within(bucket, found).await?;
        if let Some(store) = &store {
            self.open.lock().insert(bucket.to_owned(), store.clone());
        }
        Ok(store)
    }

    async fn make(&self, bucket: &str) -> Result<Store, BucketsError> {
        let name = Self::name(&self.lattice, bucket);
        let config = kv::Config {
            bucket: name.clone(),
            description: "values that steps read and write".to_owned(),
            history: 1,
            max_value_size: i32::try_from(VALUE_MAX).unwrap_or(i32::MAX),
            max_bytes: BYTES_MAX,
            storage: StorageType::File,
            num_replicas: 1,
            ..kv::Config::default()
        };
        let made = async {
            match self.js.create_key_value(config).await {
                // Somebody else was faster.
                Err(error) if error.kind() == CreateKeyValueErrorKind::BucketCreate => {
                    self.js.get_key_value(&name).await.map_err(|_| error.to_string())
                }
                made => made.map_err(|error| error.to_string()),
            }
        };
        let store = self.within(bucket, made).await?;
        self.open.lock().insert(bucket.to_owned(), store.clone());
        Ok(store)
    }

    async fn within<T, E: std::fmt::Display>(
        &self,
        bucket: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BucketsError> {
        match tokio::time::timeout(ANSWER, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(bucket, &error)),
            Err(_) => Err(self.failed(bucket, &format_args!("no answer within {ANSWER:?}"))),
        }
    }

    fn failed(&self, bucket: &str, reason: &dyn std::fmt::Display) -> BucketsError {
        // It may be gone: it is looked for again.
        self.open.lock().remove(bucket);
        BucketsError { bucket: bucket.to_owned(), reason: reason.to_string(), too_large: false }
    }
}
