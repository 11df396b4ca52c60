//! Records of tenants, and what makes them true: provisioning, limits, suspension, users, removal.
//!
//! A tenant's folder has its record (`tenant.json`), the credentials of the platform's own users (`creds/ROLE.creds`)
//! and what was done to it (`journal.jsonl`). A host needs the folder and nothing else.
//!
//! Everything that changes a tenant holds the installation's lock, writes its record before and after each step, and
//! can be called again after an interruption.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::connection;
use async_nats::jetstream::context::{Publish, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{self, kv, stream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Lock};
use crate::home::{Home, HomeError};
use crate::jwt::{
    Account, AccountLimits, Claims, EVERYBODY, JwtError, UNLIMITED, User, credentials,
    read_credentials,
};
use crate::keys::KeyError;
use crate::names::{self, NameError};
use crate::resolver::{Address, Resolver, ResolverError, Usage};
use crate::roles::{
    AUDIT_STREAM, AUDIT_USER_STREAM, Role, audit_subject, audit_user_subject, inbox, permissions,
};
use crate::tokens::{TokenError, Tokens};

/// How long the platform's own user for provisioning counts.
const ADMIN_SECONDS: i64 = 300;
/// How long a suspension waits for the last connection to be gone.
const CUT: Duration = Duration::from_secs(5);
/// No folder has more tenants.
const MAX_TENANTS: usize = 100_000;
/// Header of an audit log's entry: the operator's signature of it, in base64.
const SIGNATURE: &str = "Millrace-Signature";
/// What the inboxes of the platform's own connections begin with.
const PLATFORM_INBOX: &str = "_INBOX_platform";
/// How long a tenant's own account may take to keep an entry of its audit log. The journal has it in any case.
const AUDIT_PATIENCE: Duration = Duration::from_secs(3);
/// A journal that has so many bytes takes nothing more of what was refused.
const JOURNAL_MAX: u64 = 64 << 20;
/// Longest outcome of an entry, in characters.
const OUTCOME_MAX: usize = 400;
/// A user whose token has ended is no longer kept among the revoked when it ended so long ago, in seconds: clocks differ.
const ENDED: i64 = 86_400;
/// Most users and revocations of a tenant together, before it gets no further users. All of them revoked fit into a token that
/// servers take, so that a revocation is never refused.
const MAX_USERS: usize = 2000;
/// The same for exchanging the platform's users.
const MAX_REVOCATIONS: usize = 2400;
/// A server that is given an account which it had forgotten finds that account's streams on its disk one after the other, while it
/// answers already. When none has come up for so long, there are no more.
const RECOVERY: Duration = Duration::from_secs(2);
/// A connection to the servers is used again for so long.
const REUSE: Duration = Duration::from_secs(10);
/// How long servers may take to give JetStream to an account that is new.
const TAKEN_UP: Duration = Duration::from_secs(3);
/// Longest name of who is at work, in characters.
const WHO_MAX: usize = 200;
/// Most labels of a tenant, and most characters of a label's name and value.
const LABELS_MAX: usize = 32;
const LABEL_NAME_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 200;
const AUDIT_BYTES: i64 = 32 << 20;
const AUDIT_USER_BYTES: i64 = 8 << 20;

/// Why something could not be done to a tenant.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// A name that no tenant may have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is none of this name.
    #[error("there is no tenant {0:?}")]
    Unknown(String),
    /// The name is taken.
    #[error("there is a tenant {name:?} already, {state}: {mend}")]
    Taken {
        /// The name.
        name: String,
        /// Its state.
        state: State,
        /// What to do instead.
        mend: &'static str,
    },
    /// It is in another state.
    #[error("tenant {name:?} is {state}: {mend}")]
    State {
        /// The name.
        name: String,
        /// Its state.
        state: State,
        /// What to do first.
        mend: &'static str,
    },
    /// A limit with which no lattice works.
    #[error(
        "limit {what}: {value} is too small, a lattice needs at least {least} (or -1 for no limit)"
    )]
    LimitTooSmall {
        /// Which one.
        what: &'static str,
        /// What was given.
        value: i64,
        /// What is needed.
        least: i64,
    },
    /// More is in use than the new limits allow.
    #[error(
        "the new limits are below what is in use: {0}. Force it, and nothing more is accepted until it is less"
    )]
    BelowUse(String),
    /// Somebody else is at work.
    #[error("somebody else changes tenants here: {holder}. Try again when they are done")]
    Busy {
        /// Who has the lock.
        holder: String,
    },
    /// The caller's progress said to stop.
    #[error("interrupted after {0:?}: the same command goes on from there")]
    Interrupted(Step),
    /// A step failed, and what the steps before it had made is gone.
    #[error("could not add tenant {name:?}, at {step:?}: {source}. Nothing of it is left")]
    RolledBack {
        /// The name.
        name: String,
        /// Where.
        step: Step,
        /// Why.
        source: Box<TenantError>,
    },
    /// A step failed, and so did taking back the steps before it.
    #[error(
        "could not add tenant {name:?}, at {step:?}: {source}. Nor could all be taken back: {left}. The same command goes on from there, `remove` with purge takes it away"
    )]
    NotRolledBack {
        /// The name.
        name: String,
        /// Where.
        step: Step,
        /// Why.
        source: Box<TenantError>,
        /// Why not.
        left: Box<TenantError>,
    },
    /// Its users and revocations fill its token.
    #[error(
        "tenant {name:?} has {count} users and revocations, and no more fit into its account's token. `millrace tenant rotate \
         {name} --signing` ends all users and forgets the revocations; users with an end (--ttl) are forgotten a day after it"
    )]
    TooManyUsers {
        /// The tenant.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// Labels that a tenant cannot have.
    #[error(
        "label {0:?} cannot be: at most {LABELS_MAX} labels, names of 1 to {LABEL_NAME_MAX} characters, values up to {LABEL_VALUE_MAX}"
    )]
    Label(String),
    /// The servers know it as purged.
    #[error(
        "tenant {0:?} was purged after this backup was made. `millrace tenant remove {0} --purge` takes its record away; add it \
         anew under the same name if it is to come back"
    )]
    Purged(String),
    /// A host cannot be added or removed.
    #[error("host {host}: {reason}")]
    Host {
        /// Its name.
        host: String,
        /// Why.
        reason: String,
    },
    /// A user that is not the tenant's.
    #[error("tenant {tenant:?} has no user {user:?}")]
    UnknownUser {
        /// The tenant.
        tenant: String,
        /// What was given.
        user: String,
    },
    /// A user that is none of the tenant's engineers or viewers.
    #[error(
        "that is a user of the platform's own parts, or of a host: who manages all tenants ends those"
    )]
    NotAPerson,
    /// A label of a user that would be taken for another's, or is none.
    #[error(
        "a user's label has no control characters, and does not begin with `host:` or `platform `, which hosts and the platform's \
         own parts have"
    )]
    UserLabel,
    /// The server does not keep to the account's limits.
    #[error("JetStream of tenant {name:?}: {reason}")]
    JetStream {
        /// The tenant.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing that a page of an audit log ended with.
    #[error("{0:?} is no cursor: give the `next` of the page before, or none to begin anew")]
    Cursor(String),
    /// The record.
    #[error("{path} is damaged: {reason}. Restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The installation.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A token.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// The tokens of the control API.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The servers.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
}

/// How a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Being added, or left in the middle of it.
    Provisioning,
    /// At work.
    Active,
    /// Kept, and nobody may connect.
    Suspended,
    /// Suspended, and purged after a time.
    Removing,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Removing => "being removed",
        })
    }
}

/// The steps of adding a tenant, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The account's keys.
    Keys,
    /// The account is on the servers.
    Push,
    /// Users and their credentials files.
    Users,
    /// JetStream is there, with the account's limits.
    JetStream,
    /// The lattice's buckets.
    Buckets,
    /// The streams of the audit log.
    Audit,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Keys, Self::Push, Self::Users, Self::JetStream, Self::Buckets, Self::Audit];
}

/// What a tenant may use. -1 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Connections at once. A host takes about ten, a provider two.
    pub connections: i64,
    /// Leaf nodes at once.
    pub leaf_nodes: i64,
    /// Subscriptions of one connection: NATS bounds no sum of them.
    pub subscriptions: i64,
    /// Bytes of one message.
    pub payload: i64,
    /// Bytes of JetStream on disk.
    pub disk: i64,
    /// Bytes of JetStream in memory.
    pub memory: i64,
    /// Streams; each durable edge and each bucket is one, the lattice itself has about twelve.
    pub streams: i64,
    /// Consumers of one stream: NATS bounds no sum of them.
    pub consumers: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200,
            leaf_nodes: 10,
            subscriptions: 20_000,
            payload: 1 << 20,
            disk: 1 << 30,
            memory: 64 << 20,
            streams: 500,
            consumers: 2000,
        }
    }
}

impl Limits {
    /// Refuses limits with which no lattice works.
    ///
    /// # Errors
    ///
    /// When one is too small.
    pub fn check(&self) -> Result<(), TenantError> {
        let all = [
            ("connections", self.connections, 16),
            ("leaf-nodes", self.leaf_nodes, 0),
            ("subscriptions", self.subscriptions, 500),
            ("payload", self.payload, 64 << 10),
            ("disk", self.disk, 64 << 20),
            ("memory", self.memory, 1 << 20),
            ("streams", self.streams, 16),
            ("consumers", self.consumers, 16),
        ];
        for (what, value, least) in all {
            if value != UNLIMITED && value < least {
                return Err(TenantError::LimitTooSmall { what, value, least });
            }
        }
        Ok(())
    }

    /// What is used beyond these limits, in words.
    #[must_use]
    pub fn exceeded(&self, usage: &Usage) -> Vec<String> {
        [
            ("connections", self.connections, usage.connections),
            ("leaf-nodes", self.leaf_nodes, usage.leaf_nodes),
            ("subscriptions", self.subscriptions, usage.subscriptions),
            ("disk", self.disk, usage.disk),
            ("memory", self.memory, usage.memory),
            ("streams", self.streams, usage.streams),
            ("consumers", self.consumers, usage.consumers),
        ]
        .into_iter()
        .filter(|(_, limit, used)| *limit != UNLIMITED && used > limit)
        .map(|(what, limit, used)| format!("{what} {used} of {limit}"))
        .collect()
    }
}

/// A user, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserRecord {
    /// Public key.
    pub id: String,
    /// What it may.
    pub role: Role,
    /// Who has it, in words.
    pub label: String,
    /// Whether its credentials are the file `creds/ROLE.creds`.
    pub platform: bool,
    /// Number of the signing key that signed it.
    pub signing: u32,
    /// Seconds since the Unix epoch.
    pub issued: i64,
    /// Seconds since the Unix epoch; 0 for never.
    pub expires: i64,
}

/// A tenant, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its lattice's name.
    pub lattice: String,
    /// Public key of its account; empty before the first step.
    pub account: String,
    /// How it is.
    pub state: State,
    /// What it may use.
    pub limits: Limits,
    /// Free words, for placement and for people.
    pub labels: BTreeMap<String, String>,
    /// Its users, without those that were revoked.
    pub users: Vec<UserRecord>,
    /// Public key of a user: what was issued to it until this time does not count.
    pub revocations: BTreeMap<String, i64>,
    /// Of these, who has a token that ends by itself: when, in seconds since the Unix epoch. A day later the revocation is
    /// forgotten.
    #[serde(default)]
    pub revocation_ends: BTreeMap<String, i64>,
    /// Number of the signing key for new users.
    pub signing: u32,
    /// Number of the one before, while it is being replaced.
    pub signing_before: Option<u32>,
    /// Since when nobody may connect.
    pub suspended: Option<i64>,
    /// When it may be purged.
    pub purge_after: Option<i64>,
    /// When it was added.
    pub created: i64,
    /// Steps done of adding it.
    pub done: Vec<Step>,
    /// Counts changes of the record.
    pub revision: u64,
    /// When the account's token says that it was issued that was pushed last, in seconds since the Unix epoch. Each has a later
    /// time than the one before, also when the clock was set back: servers of a cluster keep the latest of two.
    #[serde(default)]
    pub pushed: i64,
}

impl Record {
    /// Forgets revocations of those whose tokens have ended by themselves.
    fn forget_ended(&mut self, now: i64) {
        let Self { revocations, revocation_ends, .. } = self;
        revocation_ends.retain(|id, end| {
            let counts = end.saturating_add(ENDED) > now;
            if !counts {
                revocations.remove(id);
            }
            counts
        });
    }

    /// Ends a user: what was issued to it does not count any more.
    fn revoke(&mut self, user: &UserRecord, now: i64) {
        self.revocations.insert(user.id.clone(), ended_at(user, now));
        if user.expires != 0 {
            self.revocation_ends.insert(user.id.clone(), user.expires);
        }
    }
}

/// A tenant's limits beside its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The record.
    pub record: Record,
    /// What it uses now.
    pub usage: Usage,
}

/// One entry of an audit log, or of the journal in a tenant's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since the Unix epoch.
    pub time: i64,
    /// Who.
    pub who: String,
    /// Did what, such as `tenant.suspend`.
    pub what: String,
    /// To what.
    pub subject: String,
    /// `ok`, or the reason why not.
    pub outcome: String,
    /// Whether the tenant's own engineers wrote it, who can write anything: the platform's are signed.
    #[serde(default, skip_deserializing)]
    pub by_tenant: bool,
}

/// New credentials.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The user.
    pub user: UserRecord,
    /// The credentials file's text.
    pub credentials: String,
}

/// What came of exchanging keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Users whose credentials count no more, and who need new ones. Those of the platform itself have them.
    pub ended: Vec<UserRecord>,
}

/// Is told of each step of [`Tenants::add`] when it is done, and may say to stop there.
pub type Progress<'a> = &'a mut (dyn FnMut(Step) -> ControlFlow<()> + Send);

/// All tenants of an installation.
#[derive(Debug, Clone)]
pub struct Tenants {
    home: Home,
    address: Address,
    who: String,
    replicas: usize,
    clock: fn() -> i64,
    /// The connection to the servers, and since when.
    connection: Arc<Mutex<Option<(Instant, Resolver)>>>,
    /// Records as they were read last: who looks for changes does so often.
    read: Arc<Mutex<BTreeMap<String, (Stamp, Record)>>>,
}

/// By which a file that was replaced is told from the one before: its number, time, size and mode.
type Stamp = (u64, i64, i64, u64, u32);

/// What came of pushing accounts.
#[derive(Debug, Default)]
pub struct Pushed {
    /// The tenants whose accounts were others on the servers than in their records.
    pub tenants: Vec<String>,
    /// Those that could not be pushed, and why.
    pub failed: Vec<(String, TenantError)>,
}

/// An account that was purged, as it is kept in `removed/`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Grave {
    name: String,
    account: String,
    pushed: i64,
}

impl Tenants {
    /// The tenants of an installation whose server has an address. `who` stands in journals and audit logs.
    #[must_use]
    pub fn new(home: Home, address: Address, who: &str) -> Self {
        let who = who.chars().take(WHO_MAX).collect();
        let (connection, read) = (Arc::default(), Arc::default());
        Self { home, address, who, replicas: 1, clock: crate::now, connection, read }
    }

    /// The same tenants, changed by somebody else: with the same connection, and the same records read already.
    #[must_use]
    pub fn with_who(&self, who: &str) -> Self {
        Self { who: who.chars().take(WHO_MAX).collect(), ..self.clone() }
    }

    /// Another clock than the machine's: seconds since the Unix epoch.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> i64) -> Self {
        self.clock = clock;
        self
    }

    pub(crate) fn now(&self) -> i64 {
        (self.clock)()
    }

    /// How many servers of a cluster keep the lattice's buckets and the audit log.
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas.max(1);
        self
    }

    /// The installation.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// A tenant's folder.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn folder(&self, name: &str) -> Result<PathBuf, TenantError> {
        names::check(name)?;
        Ok(self.home.tenants_folder().join(name))
    }

    /// The credentials file of one of the platform's own users of a tenant.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn creds_file(&self, name: &str, role: Role) -> Result<PathBuf, TenantError> {
        Ok(self.folder(name)?.join("creds").join(format!("{role}.creds")))
    }

    /// The folder of files that settings of the tenant's pipelines may name (passwords, authorities, keys): all that a
    /// confined host and its providers can read beside the system's. The platform's operator puts them there.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn files_folder(&self, name: &str) -> Result<PathBuf, TenantError> {
        Ok(self.folder(name)?.join("files"))
    }

    /// All records, by name.
    ///
    /// # Errors
    ///
    /// When the folder or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Record>, TenantError> {
        let (records, errors) = self.scan()?;
        errors.into_iter().next().map_or(Ok(records), Err)
    }

    /// The records that can be read, by name, and why the others cannot: one that is damaged is no reason to leave the other
    /// tenants alone. A record is read again only when its file is another one, so this may be called often.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn scan(&self) -> Result<(Vec<Record>, Vec<TenantError>), TenantError> {
        let folder = self.home.tenants_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(e) => return Err(FileError::io("list", &folder)(e).into()),
        };
        let mut found = BTreeSet::new();
        for entry in entries.take(MAX_TENANTS) {
            let entry = entry.map_err(FileError::io("list", &folder))?;
            if let Ok(name) = entry.file_name().into_string()
                && names::check(&name).is_ok()
            {
                found.insert(name);
            }
        }
        let (mut records, mut errors) = (Vec::new(), Vec::new());
        let known = std::mem::take(&mut *lock(&self.read));
        let mut now = BTreeMap::new();
        for name in found {
            // Before it is read: when it is replaced in between, it is read again next time.
            let stamp = stamp(&folder.join(&name).join("tenant.json"));
            if let Some(stamp) = stamp
                && let Some((before, record)) = known.get(&name)
                && *before == stamp
            {
                now.insert(name, (stamp, record.clone()));
                records.push(record.clone());
                continue;
            }
            match self.read(&name) {
                Ok(record) => {
                    if let (Some(stamp), Some(record)) = (stamp, &record) {
                        now.insert(name, (stamp, record.clone()));
                    }
                    records.extend(record);
                }
                Err(error) => errors.push(error),
            }
        }
        *lock(&self.read) = now;
        Ok((records, errors))
    }

    /// A tenant's record.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<Record, TenantError> {
        self.read(name)?.ok_or_else(|| TenantError::Unknown(name.to_owned()))
    }

    /// A tenant's record, and what it uses now.
    ///
    /// # Errors
    ///
    /// As [`Tenants::get`], and when no server answers.
    pub async fn show(&self, name: &str) -> Result<Shown, TenantError> {
        let record = self.get(name)?;
        let usage = self.resolver().await?.usage(&record.account).await?;
        Ok(Shown { record, usage })
    }

    /// Adds a tenant: keys, account, users, buckets, audit log. One that is there with the same limits and labels is
    /// left as it is; one that was left in the middle is finished. When a step fails, what it and the steps before it
    /// made is taken away again.
    ///
    /// # Errors
    ///
    /// When the name cannot be had, a limit is too small, somebody else is at work, or a step fails.
    pub async fn add(
        &self,
        name: &str,
        limits: &Limits,
        labels: &BTreeMap<String, String>,
        progress: Progress<'_>,
    ) -> Result<Record, TenantError> {
        let done = self.try_add(name, limits, labels, progress).await;
        self.refused(name, "tenant.add", done)
    }

    async fn try_add(
        &self,
        name: &str,
        limits: &Limits,
        labels: &BTreeMap<String, String>,
        progress: Progress<'_>,
    ) -> Result<Record, TenantError> {
        names::check(name)?;
        limits.check()?;
        check_labels(labels)?;
        let _lock = self.lock(&format!("add {name}"))?;
        let found = self.read(name)?;
        if let Some(record) = &found
            && record.state != State::Provisioning
        {
            let same = &record.limits == limits && &record.labels == labels;
            if record.state == State::Active && same {
                return Ok(record.clone());
            }
            let mend = match record.state {
                State::Active => "change its limits with `limits`",
                _ => "`resume` it, or `remove` it with purge first",
            };
            return Err(TenantError::Taken { name: name.to_owned(), state: record.state, mend });
        }
        // Before anything is made: without a server there would be nothing but something to take back.
        let resolver = self.resolver().await?;
        let mut record = found.unwrap_or_else(|| Record {
            name: name.to_owned(),
            lattice: name.to_owned(),
            account: String::new(),
            state: State::Provisioning,
            limits: limits.clone(),
            labels: labels.clone(),
            users: Vec::new(),
            revocations: BTreeMap::new(),
            revocation_ends: BTreeMap::new(),
            signing: 1,
            signing_before: None,
            suspended: None,
            purge_after: None,
            created: self.now(),
            done: Vec::new(),
            revision: 0,
            pushed: 0,
        });
        limits.clone_into(&mut record.limits);
        labels.clone_into(&mut record.labels);
        for step in Step::ALL {
            // Keys, account and users again in any case: the limits may be others than at the last try.
            let again = matches!(step, Step::Keys | Step::Push | Step::Users);
            if again || !record.done.contains(&step) {
                if let Err(source) = self.step(step, &mut record, &resolver).await {
                    let (name, source) = (name.to_owned(), Box::new(source));
                    return Err(
                        match self.take_back(&mut record, &resolver, Duration::ZERO).await {
                            Ok(()) => TenantError::RolledBack { name, step, source },
                            Err(left) => TenantError::NotRolledBack {
                                name,
                                step,
                                source,
                                left: Box::new(left),
                            },
                        },
                    );
                }
                if !record.done.contains(&step) {
                    record.done.push(step);
                }
                self.write(&mut record)?;
            }
            if progress(step).is_break() {
                return Err(TenantError::Interrupted(step));
            }
        }
        record.state = State::Active;
        self.write(&mut record)?;
        self.audit(&record, "tenant.add", name, "ok").await?;
        Ok(record)
    }

    async fn step(
        &self,
        step: Step,
        record: &mut Record,
        resolver: &Resolver,
    ) -> Result<(), TenantError> {
        match step {
            Step::Keys => {
                // The record first: what is made after it is found again.
                self.write(record)?;
                let keys = self.home.keys();
                let account = keys.get_or_make(&account_key(&record.name), KeyPairType::Account)?;
                keys.get_or_make(&signing_key(&record.name, record.signing), KeyPairType::Account)?;
                record.account = account.public_key();
            }
            Step::Push => self.push(record, resolver).await?,
            Step::Users => {
                self.platform_users(record)?;
                files::private_folder(&self.files_folder(&record.name)?)?;
            }
            Step::JetStream => {
                let js = jetstream::new(self.admin(record).await?);
                let began = Instant::now();
                let found = loop {
                    match js.query_account().await {
                        Ok(found) => break found,
                        // The account is on every server, and the one that leads JetStream may not have taken it up yet.
                        Err(e) if is_not_enabled(&e) && began.elapsed() < TAKEN_UP => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        Err(e) => {
                            let reason = format!(
                                "{e}. Do the limits of all tenants fit into the server's `max_file_store` and `max_memory_store`?"
                            );
                            return Err(TenantError::JetStream {
                                name: record.name.clone(),
                                reason,
                            });
                        }
                    }
                };
                let limits = found.limits;
                let wanted = [record.limits.disk, record.limits.memory, record.limits.streams];
                let given = [limits.max_storage, limits.max_memory, limits.max_streams];
                let given = given.map(|limit| limit.unwrap_or(UNLIMITED));
                if wanted != given {
                    let reason = format!(
                        "the server gives {given:?} (disk, memory, streams), not {wanted:?}"
                    );
                    return Err(TenantError::JetStream { name: record.name.clone(), reason });
                }
            }
            Step::Buckets => {
                let js = jetstream::new(self.admin(record).await?);
                for bucket in ["LATTICEDATA", "CONFIGDATA"] {
                    let bucket = format!("{bucket}_{}", record.lattice);
                    // A host makes one as well where there is none, with settings of its own.
                    if js.get_key_value(&bucket).await.is_ok() {
                        continue;
                    }
                    let config =
                        kv::Config { bucket, num_replicas: self.replicas, ..kv::Config::default() };
                    js.create_key_value(config).await.map_err(|e| wrong(record, &e))?;
                }
            }
            Step::Audit => {
                let js = jetstream::new(self.admin(record).await?);
                let streams = [
                    (AUDIT_STREAM, audit_subject(&record.lattice), AUDIT_BYTES),
                    (AUDIT_USER_STREAM, audit_user_subject(&record.lattice), AUDIT_USER_BYTES),
                ];
                for (name, subject, max_bytes) in streams {
                    let config = stream::Config {
                        name: name.to_owned(),
                        subjects: vec![subject],
                        max_bytes,
                        deny_delete: true,
                        deny_purge: true,
                        num_replicas: self.replicas,
                        ..stream::Config::default()
                    };
                    js.get_or_create_stream(config).await.map_err(|e| wrong(record, &e))?;
                }
            }
        }
        Ok(())
    }

    /// Takes everything of a tenant that is not active away again.
    async fn take_back(
        &self,
        record: &mut Record,
        resolver: &Resolver,
        quiet: Duration,
    ) -> Result<(), TenantError> {
        if record.done.contains(&Step::Push) {
            self.forget(record, resolver, quiet).await?;
        } else if !record.account.is_empty() {
            // Some servers may have taken it. One that is left has no users, and nobody has its keys.
            let signing = self.home.operator_signing()?;
            let _ = resolver.delete(&record.account, &signing).await;
        }
        self.home.keys().remove(&account_folder(&record.name))?;
        Ok(files::remove_folder(&self.folder(&record.name)?)?)
    }

    /// Streams and account, from the servers. There are no more streams when none came up for a while.
    async fn forget(
        &self,
        record: &mut Record,
        resolver: &Resolver,
        quiet: Duration,
    ) -> Result<(), TenantError> {
        let is_new = record.state == State::Provisioning;
        if is_new && resolver.lookup(&record.account).await?.is_none() {
            return Ok(());
        }
        // What JetStream keeps is not deleted with an account. Before that step there is nothing; without keys, which go after
        // the streams, there is nothing any more.
        if record.done.contains(&Step::JetStream) && self.has_keys(record)? {
            let js = jetstream::new(self.admin(record).await?);
            let mut last = Instant::now();
            loop {
                let names: Vec<String> =
                    js.stream_names().try_collect().await.map_err(|e| wrong(record, &e))?;
                for name in &names {
                    js.delete_stream(name).await.map_err(|e| wrong(record, &e))?;
                    last = Instant::now();
                }
                if last.elapsed() >= quiet {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if is_new {
            // Nobody ever had its keys or a user of it.
            return Ok(resolver.delete(&record.account, &self.home.operator_signing()?).await?);
        }
        self.bury(record, resolver).await
    }

    /// Puts a token that lets nobody in into the place of an account's, for good. Servers that have forgotten an account take
    /// it back from one that was away; of two tokens they keep the later one.
    async fn bury(&self, record: &mut Record, resolver: &Resolver) -> Result<(), TenantError> {
        self.later(record, resolver).await?;
        let Record { name, account, pushed, .. } = record.clone();
        let grave = Grave { name, account, pushed };
        let removed = self.removed_folder()?;
        let path = removed.join(format!("{}-{}.json", record.name, self.now()));
        let bytes = serde_json::to_vec_pretty(&grave)
            .map_err(|e| TenantError::Damaged { path: path.clone(), reason: e.to_string() })?;
        files::write_private(&path, &bytes)?;
        resolver.push(&self.tombstone(&grave)?).await?;
        Ok(())
    }

    fn tombstone(&self, grave: &Grave) -> Result<String, TenantError> {
        let mut claims = Claims::new(&grave.name, &grave.account, nobody(grave.pushed));
        claims.iat = grave.pushed;
        Ok(claims.sign(&self.home.operator_signing()?)?)
    }

    fn removed_folder(&self) -> Result<PathBuf, TenantError> {
        let removed = self.home.root().join("removed");
        files::private_folder(&removed)?;
        Ok(removed)
    }

    fn has_keys(&self, record: &Record) -> Result<bool, TenantError> {
        let name = signing_key(&record.name, record.signing);
        Ok(self.home.keys().get(&name, &KeyPairType::Account)?.is_some())
    }

    /// Pushes a tenant's account, where the servers have another than the record says or none: after a restore of this
    /// installation or of theirs. What they have that is newer than the record still counts: revocations and a suspension.
    /// Makes the tenant's buckets and audit log as well, where they are not there. Whether the account was pushed.
    ///
    /// # Errors
    ///
    /// When there is no such tenant, it was purged, or no server answers.
    pub async fn push_one(&self, name: &str) -> Result<bool, TenantError> {
        let done = self.try_push_one(name).await;
        self.refused(name, "account.push", done)
    }

    async fn try_push_one(&self, name: &str) -> Result<bool, TenantError> {
        let _lock = self.lock(&format!("push {name}"))?;
        let resolver = self.resolver().await?;
        let mut record = self.get(name)?;
        if record.state == State::Provisioning {
            return Err(state_error(name, record.state));
        }
        let pushed = self.push_if_other(&mut record, &resolver).await?;
        self.furnish(&mut record, &resolver).await?;
        Ok(pushed)
    }

    /// Makes what an active tenant has to have in JetStream and does not have any more: after a restore without JetStream's files.
    async fn furnish(&self, record: &mut Record, resolver: &Resolver) -> Result<(), TenantError> {
        if record.state == State::Active {
            for step in [Step::JetStream, Step::Buckets, Step::Audit] {
                self.step(step, record, resolver).await?;
            }
        }
        Ok(())
    }

    /// Pushes the accounts of all tenants that servers have otherwise than the records say, as [`Tenants::push_one`], and
    /// those of purged ones. One that fails does not keep the others from it. It asks once for each tenant.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, somebody else is at work, or no server answers.
    pub async fn push_all(&self) -> Result<Pushed, TenantError> {
        let _lock = self.lock("push all")?;
        let resolver = self.resolver().await?;
        let mut pushed = Pushed::default();
        for mut record in self.scan()?.0 {
            // One that was not wholly added is pushed when that goes on.
            if record.state == State::Provisioning {
                continue;
            }
            match self.push_if_other(&mut record, &resolver).await {
                Ok(true) => match self.furnish(&mut record, &resolver).await {
                    Ok(()) => pushed.tenants.push(record.name),
                    Err(error) => pushed.failed.push((record.name, error)),
                },
                Ok(false) => {}
                Err(error) => pushed.failed.push((record.name, error)),
            }
        }
        for grave in self.graves()? {
            let done = async {
                let there = token_claims(resolver.lookup(&grave.account).await?)?;
                if there.is_none_or(|there| there.iat < grave.pushed) {
                    resolver.push(&self.tombstone(&grave)?).await?;
                }
                Ok::<(), TenantError>(())
            };
            if let Err(error) = done.await {
                pushed.failed.push((grave.name.clone(), error));
            }
        }
        Ok(pushed)
    }

    fn graves(&self) -> Result<Vec<Grave>, TenantError> {
        let folder = self.removed_folder()?;
        let mut graves = Vec::new();
        for entry in
            std::fs::read_dir(&folder).map_err(FileError::io("list", &folder))?.take(MAX_TENANTS)
        {
            let path = entry.map_err(FileError::io("list", &folder))?.path();
            if path.extension().is_some_and(|end| end == "json") {
                let grave = serde_json::from_slice(&files::read_private(&path)?)
                    .map_err(|e| TenantError::Damaged { path, reason: e.to_string() })?;
                graves.push(grave);
            }
        }
        Ok(graves)
    }

    async fn push_if_other(
        &self,
        record: &mut Record,
        resolver: &Resolver,
    ) -> Result<bool, TenantError> {
        let there = token_claims(resolver.lookup(&record.account).await?)?;
        if let Some(there) = &there
            && there.iat > record.pushed
        {
            let account = &there.nats.claims;
            if account.limits.conn == 0 && account.signing_keys.is_empty() {
                return Err(TenantError::Purged(record.name.clone()));
            }
            for (user, time) in &account.revocations {
                if user == EVERYBODY {
                    if record.state == State::Active {
                        record.state = State::Suspended;
                    }
                    record.suspended = record.suspended.max(Some(*time));
                } else {
                    let own = record.revocations.entry(user.clone()).or_insert(*time);
                    *own = (*own).max(*time);
                    record.users.retain(|own| own.id != *user || own.issued > *time);
                }
            }
            record.pushed = there.iat;
            self.write(record)?;
        }
        let connections = connections(record);
        if there.is_some_and(|there| {
            self.account(record, connections).is_ok_and(|account| account == there.nats.claims)
        }) {
            return Ok(false);
        }
        self.push(record, resolver).await?;
        self.journal_alone(record, "account.push", &record.name, "pushed anew")?;
        Ok(true)
    }

    /// Changes limits: to what is made of those that it has while nobody else changes them.
    ///
    /// # Errors
    ///
    /// When more is in use than they allow and it is not forced, or one is too small.
    pub async fn limits(
        &self,
        name: &str,
        change: impl FnOnce(&Limits) -> Limits + Send,
        force: bool,
    ) -> Result<Record, TenantError> {
        let done = self.try_limits(name, change, force).await;
        self.refused(name, "tenant.limits", done)
    }

    async fn try_limits(
        &self,
        name: &str,
        change: impl FnOnce(&Limits) -> Limits + Send,
        force: bool,
    ) -> Result<Record, TenantError> {
        let _lock = self.lock(&format!("limits {name}"))?;
        let mut record = self.active(name)?;
        let limits = change(&record.limits);
        limits.check()?;
        let resolver = self.resolver().await?;
        if !force {
            let exceeded = limits.exceeded(&resolver.usage(&record.account).await?);
            if !exceeded.is_empty() {
                return Err(TenantError::BelowUse(exceeded.join(", ")));
            }
        }
        record.limits = limits;
        self.push(&mut record, &resolver).await?;
        self.write(&mut record)?;
        self.audit(&record, "tenant.limits", name, "ok").await?;
        Ok(record)
    }

    /// Whether a tenant can have these limits and labels.
    ///
    /// # Errors
    ///
    /// When a limit is too small, or a label cannot be.
    pub fn check(limits: &Limits, labels: &BTreeMap<String, String>) -> Result<(), TenantError> {
        limits.check()?;
        check_labels(labels)
    }

    /// Changes labels: all that are there are exchanged for these. A host is started anew with them.
    ///
    /// # Errors
    ///
    /// When there is no such tenant, it is being provisioned, or a label cannot be.
    pub async fn labels(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Record, TenantError> {
        let done = self.try_labels(name, labels).await;
        self.refused(name, "tenant.labels", done)
    }

    async fn try_labels(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Record, TenantError> {
        check_labels(labels)?;
        let _lock = self.lock(&format!("labels {name}"))?;
        let mut record = self.get(name)?;
        if record.state == State::Provisioning {
            return Err(state_error(name, record.state));
        }
        labels.clone_into(&mut record.labels);
        self.write(&mut record)?;
        match record.state {
            State::Active => self.audit(&record, "tenant.labels", name, "ok").await?,
            // Nobody can write into its account.
            _ => self.journal_alone(&record, "tenant.labels", name, "suspended")?,
        }
        Ok(record)
    }

    /// Cuts all connections of a tenant and refuses new ones; its data stays. Says how long it took from the push until the last
    /// connection was gone, `None` when one was still there after five seconds.
    ///
    /// # Errors
    ///
    /// When there is no such tenant or no server answers.
    pub async fn suspend(&self, name: &str) -> Result<Option<Duration>, TenantError> {
        let done = self.try_suspend(name).await;
        self.refused(name, "tenant.suspend", done)
    }

    async fn try_suspend(&self, name: &str) -> Result<Option<Duration>, TenantError> {
        let _lock = self.lock(&format!("suspend {name}"))?;
        let mut record = self.get(name)?;
        match record.state {
            State::Active | State::Suspended => {}
            state => return Err(state_error(name, state)),
        }
        self.stop(&mut record, State::Suspended, "tenant.suspend").await
    }

    async fn stop(
        &self,
        record: &mut Record,
        state: State,
        what: &str,
    ) -> Result<Option<Duration>, TenantError> {
        let resolver = self.resolver().await?;
        match record.suspended {
            // Afterwards nobody can write into the account any more.
            None => self.audit(record, what, &record.name, "ok").await?,
            Some(_) => self.journal_alone(record, what, &record.name, "suspended")?,
        }
        // Also those whose users were issued while a clock was ahead.
        let now = self.now();
        let newest = record.users.iter().map(|user| ended_at(user, now)).max();
        record.suspended = Some(newest.unwrap_or_default().max(now));
        record.state = state;
        // The record first: a supervisor that reads it stops the hosts, which would try to connect for ever.
        self.write(record)?;
        // Looking for servers takes a silence, and is not part of the time that is measured.
        resolver.count().await?;
        let begun = Instant::now();
        self.push(record, &resolver).await?;
        while begun.elapsed() < CUT {
            if resolver.usage(&record.account).await?.connections == 0 {
                return Ok(Some(begun.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(None)
    }

    /// Lets a suspended tenant work again, also one that is being removed.
    ///
    /// # Errors
    ///
    /// When it is being provisioned, or no server answers.
    pub async fn resume(&self, name: &str) -> Result<Record, TenantError> {
        let done = self.try_resume(name).await;
        self.refused(name, "tenant.resume", done)
    }

    async fn try_resume(&self, name: &str) -> Result<Record, TenantError> {
        let _lock = self.lock(&format!("resume {name}"))?;
        let mut record = self.get(name)?;
        if record.state == State::Provisioning {
            return Err(state_error(name, record.state));
        }
        record.suspended = None;
        record.purge_after = None;
        record.state = State::Active;
        // The record first: one that says suspended would be purged while its users are at work.
        self.write(&mut record)?;
        self.push(&mut record, &self.resolver().await?).await?;
        self.audit(&record, "tenant.resume", name, "ok").await?;
        Ok(record)
    }

    /// Suspends a tenant, to be purged after a time of grace; until then [`Tenants::resume`] brings it back.
    ///
    /// # Errors
    ///
    /// As [`Tenants::suspend`].
    pub async fn remove(&self, name: &str, grace: Duration) -> Result<Record, TenantError> {
        let done = self.try_remove(name, grace).await;
        self.refused(name, "tenant.remove", done)
    }

    async fn try_remove(&self, name: &str, grace: Duration) -> Result<Record, TenantError> {
        let _lock = self.lock(&format!("remove {name}"))?;
        let mut record = self.get(name)?;
        if record.state == State::Provisioning {
            return Err(state_error(name, record.state));
        }
        let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        record.purge_after = Some(self.now().saturating_add(grace));
        self.stop(&mut record, State::Removing, "tenant.remove").await?;
        Ok(record)
    }

    /// Deletes a tenant now: streams, account, users, keys. Its journal is kept, in `removed/`.
    ///
    /// # Errors
    ///
    /// When it is active, or no server answers. It can be called again.
    pub async fn purge(&self, name: &str) -> Result<(), TenantError> {
        let done = self.try_purge(name).await;
        self.refused(name, "tenant.purge", done)
    }

    async fn try_purge(&self, name: &str) -> Result<(), TenantError> {
        let is_meant = |record: &Record| record.state != State::Active;
        if self.purge_if(name, is_meant).await? {
            Ok(())
        } else {
            Err(state_error(name, State::Active))
        }
    }

    /// Purges a tenant if it is meant, which is asked while nobody else can change it. Whether it was.
    async fn purge_if(
        &self,
        name: &str,
        is_meant: impl Fn(&Record) -> bool,
    ) -> Result<bool, TenantError> {
        let _lock = self.lock(&format!("purge {name}"))?;
        let mut record = self.get(name)?;
        if !is_meant(&record) {
            return Ok(false);
        }
        let resolver = self.resolver().await?;
        let mut quiet = Duration::ZERO;
        if record.done.contains(&Step::Push) && self.has_keys(&record)? {
            if resolver.lookup(&record.account).await?.is_none() {
                quiet = RECOVERY;
            }
            // One connection, for the platform alone: every other user stays refused. Also where the servers know nothing of
            // the account any more: its streams are on their disks.
            self.push_with(&mut record, 1, &resolver).await?;
        }
        self.journal(&record, "tenant.purge", name, "ok")?;
        let journal = self.folder(name)?.join("journal.jsonl");
        files::keep_copy(&journal, &self.removed_folder()?, &format!("{name}-{}", self.now()))?;
        // A tenant of the same name is another one.
        Tokens::new(&self.home).forget(&record.account)?;
        self.take_back(&mut record, &resolver, quiet).await?;
        Ok(true)
    }

    /// Purges every tenant whose time of grace is over, and names them.
    ///
    /// # Errors
    ///
    /// As [`Tenants::purge`], for the first that could not be purged; the others were.
    pub async fn sweep(&self) -> Result<Vec<String>, TenantError> {
        let is_due = |record: &Record| {
            let over = record.purge_after.is_some_and(|time| time <= self.now());
            record.state == State::Removing && over
        };
        let (mut purged, mut failed) = (Vec::new(), None);
        for record in self.scan()?.0.into_iter().filter(is_due) {
            match self.purge_if(&record.name, is_due).await {
                Ok(true) => purged.push(record.name),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(purged), Err)
    }

    /// A new user, for somebody outside of the platform.
    ///
    /// # Errors
    ///
    /// When the tenant is not active.
    pub async fn creds(
        &self,
        name: &str,
        role: Role,
        label: &str,
        ttl: Option<Duration>,
    ) -> Result<Issued, TenantError> {
        let own = ["host:", "platform "].iter().any(|own| label.starts_with(own));
        let done = match own || label.chars().any(char::is_control) {
            true => Err(TenantError::UserLabel),
            false => self.try_creds(name, role, label, ttl).await,
        };
        self.refused(name, "user.add", done)
    }

    /// A new user of a further host.
    pub(crate) async fn creds_of_host(
        &self,
        name: &str,
        role: Role,
        label: &str,
    ) -> Result<Issued, TenantError> {
        let done = self.try_creds(name, role, label, None).await;
        self.refused(name, "user.add", done)
    }

    async fn try_creds(
        &self,
        name: &str,
        role: Role,
        label: &str,
        ttl: Option<Duration>,
    ) -> Result<Issued, TenantError> {
        let _lock = self.lock(&format!("creds {name}"))?;
        let mut record = self.active(name)?;
        let now = self.now();
        let ttl = ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1));
        let expires = ttl.map_or(0, |ttl| now.saturating_add(ttl));
        // Who has expired says nothing any more.
        record.users.retain(|user| user.expires == 0 || user.expires > now);
        record.forget_ended(now);
        room(&record, MAX_USERS)?;
        let (user, credentials) = self.issue(&record, role, label, false, expires)?;
        record.users.push(user.clone());
        self.write(&mut record)?;
        self.audit(&record, "user.add", &format!("{role} {}", user.id), "ok").await?;
        Ok(Issued { user, credentials })
    }

    /// Ends a user, by its public key or its label: live connections are cut, and it cannot return.
    ///
    /// # Errors
    ///
    /// When there is no such user, or no server answers.
    pub async fn revoke(&self, name: &str, user: &str) -> Result<Vec<UserRecord>, TenantError> {
        let done = self.try_revoke(name, user, false).await;
        self.refused(name, "user.revoke", done)
    }

    /// The same, if it is an engineer or a viewer: who ends one of the platform's own parts, or of a host's, has to be the platform's
    /// operator.
    ///
    /// # Errors
    ///
    /// As [`Tenants::revoke`], and when one of those that are meant is another ([`TenantError::NotAPerson`]).
    pub async fn revoke_person(
        &self,
        name: &str,
        user: &str,
    ) -> Result<Vec<UserRecord>, TenantError> {
        let done = self.try_revoke(name, user, true).await;
        self.refused(name, "user.revoke", done)
    }

    async fn try_revoke(
        &self,
        name: &str,
        user: &str,
        person: bool,
    ) -> Result<Vec<UserRecord>, TenantError> {
        let _lock = self.lock(&format!("revoke {name}"))?;
        let mut record = self.active(name)?;
        let (ended, kept): (Vec<_>, Vec<_>) =
            record.users.drain(..).partition(|found| found.id == user || found.label == user);
        record.users = kept;
        let is_person = |user: &UserRecord| {
            !user.platform && matches!(user.role, Role::Operator | Role::Viewer)
        };
        if person && !ended.iter().all(is_person) {
            return Err(TenantError::NotAPerson);
        }
        if ended.is_empty() {
            let (tenant, user) = (name.to_owned(), user.chars().take(80).collect());
            return Err(TenantError::UnknownUser { tenant, user });
        }
        let now = self.now();
        record.forget_ended(now);
        for user in &ended {
            record.revoke(user, now);
            if user.platform {
                files::remove(&self.creds_file(name, user.role)?)?;
            }
        }
        // The record first: with it the next push, whatever for, ends them too.
        self.write(&mut record)?;
        self.push(&mut record, &self.resolver().await?).await?;
        let ids: Vec<&str> = ended.iter().map(|user| user.id.as_str()).collect();
        self.audit_all(&record, "user.revoke", &ids).await?;
        Ok(ended)
    }

    /// New users for the platform itself, in its credentials files; the old ones are revoked. A host has to be
    /// started anew to use them.
    ///
    /// # Errors
    ///
    /// When the tenant is not active, or no server answers.
    pub async fn rotate_users(&self, name: &str) -> Result<Rotated, TenantError> {
        let done = self.try_rotate_users(name).await;
        self.refused(name, "user.rotate", done)
    }

    async fn try_rotate_users(&self, name: &str) -> Result<Rotated, TenantError> {
        let _lock = self.lock(&format!("rotate {name}"))?;
        let mut record = self.active(name)?;
        let now = self.now();
        record.forget_ended(now);
        room(&record, MAX_REVOCATIONS)?;
        let (old, kept): (Vec<_>, Vec<_>) = record.users.drain(..).partition(|user| user.platform);
        record.users = kept;
        for user in &old {
            files::remove(&self.creds_file(name, user.role)?)?;
            record.revoke(user, now);
        }
        self.platform_users(&mut record)?;
        self.write(&mut record)?;
        self.push(&mut record, &self.resolver().await?).await?;
        self.audit(&record, "user.rotate", name, "ok").await?;
        Ok(Rotated { ended: Vec::new() })
    }

    /// A new signing key for an account, new users for the platform, then the old key is taken away: what it signed
    /// counts no more. Called again after an interruption it goes on.
    ///
    /// # Errors
    ///
    /// When the tenant is not active, or no server answers.
    pub async fn rotate_signing(&self, name: &str) -> Result<Rotated, TenantError> {
        let done = self.try_rotate_signing(name).await;
        self.refused(name, "account.rotate", done)
    }

    async fn try_rotate_signing(&self, name: &str) -> Result<Rotated, TenantError> {
        let _lock = self.lock(&format!("rotate {name}"))?;
        let mut record = self.active(name)?;
        let resolver = self.resolver().await?;
        let resumed = record.signing_before.is_some();
        let before = match record.signing_before {
            Some(before) => before,
            None => {
                let before = record.signing;
                record.signing_before = Some(before);
                record.signing += 1;
                before
            }
        };
        let keys = self.home.keys();
        keys.get_or_make(&signing_key(name, record.signing), KeyPairType::Account)?;
        self.write(&mut record)?;
        // Both keys count while users are exchanged.
        self.push(&mut record, &resolver).await?;
        let (ended, kept): (Vec<_>, Vec<_>) =
            record.users.drain(..).partition(|user| user.signing <= before);
        record.users = kept;
        for user in ended.iter().filter(|user| user.platform) {
            files::remove(&self.creds_file(name, user.role)?)?;
        }
        self.platform_users(&mut record)?;
        record.signing_before = None;
        // All that was revoked until now was signed by keys that count no more. Not so where this goes on with what was
        // interrupted: between the two somebody may have been given the new key's signature and been revoked.
        if !resumed {
            record.revocations.clear();
            record.revocation_ends.clear();
        }
        self.push(&mut record, &resolver).await?;
        self.write(&mut record)?;
        keys.remove(&signing_key(name, before))?;
        self.audit(&record, "account.rotate", name, "ok").await?;
        Ok(Rotated { ended: ended.into_iter().filter(|user| !user.platform).collect() })
    }

    /// Writes into the journal in a tenant's folder, and into the audit log in its account: who did what to which pipeline or
    /// artifact. What the account does not take, for want of room or connections, is in the journal alone, with the reason.
    ///
    /// # Errors
    ///
    /// When the journal cannot be written.
    pub async fn audit(
        &self,
        record: &Record,
        what: &str,
        subject: &str,
        outcome: &str,
    ) -> Result<(), TenantError> {
        let entry = self.journal(record, what, subject, outcome)?;
        // What was done is done, and stands in the journal: a tenant that has used up its limits cannot keep it from being done
        // by having no room for the entry.
        let kept = tokio::time::timeout(AUDIT_PATIENCE, self.keep(record, &entry)).await;
        let error = match kept {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => no_answer(),
        };
        self.journal_alone(record, what, subject, &error)
    }

    /// The same for many subjects, over one connection and within the time of one.
    async fn audit_all(
        &self,
        record: &Record,
        what: &str,
        subjects: &[&str],
    ) -> Result<(), TenantError> {
        let mut left = Vec::new();
        for subject in subjects {
            left.push(self.journal(record, what, subject, "ok")?);
        }
        left.reverse();
        let all = async {
            let js = jetstream::new(self.admin(record).await?);
            while let Some(entry) = left.last() {
                self.keep_with(&js, record, entry).await?;
                left.pop();
            }
            Ok::<_, TenantError>(())
        };
        let error = match tokio::time::timeout(AUDIT_PATIENCE, all).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => no_answer(),
        };
        for entry in left.iter().rev() {
            self.journal_alone(record, what, &entry.subject, &error)?;
        }
        Ok(())
    }

    /// Writes what was done into the journal, which alone has it: a page of an active tenant's log shows it from there.
    fn journal_alone(
        &self,
        record: &Record,
        what: &str,
        subject: &str,
        reason: &str,
    ) -> Result<(), TenantError> {
        let reason: String = reason.chars().take(OUTCOME_MAX).collect();
        self.journal(record, what, subject, &format!("ok, in the journal alone: {reason}"))?;
        Ok(())
    }

    /// Whether what is refused to a tenant, or fails, is still written into its journal: there is an end to it, because nobody
    /// who is refused may fill the platform's disk.
    #[must_use]
    pub fn keeps_refusals(&self, name: &str) -> bool {
        self.folder(name).is_ok_and(|folder| {
            let journal = std::fs::metadata(folder.join("journal.jsonl"));
            folder.is_dir() && journal.map_or(0, |about| about.len()) < JOURNAL_MAX
        })
    }

    /// Writes what was refused, or failed, into the tenant's journal, where there is one. Not into its account: its own log has
    /// what was done, and must not be filled by what was not.
    fn refused<T>(
        &self,
        name: &str,
        what: &str,
        done: Result<T, TenantError>,
    ) -> Result<T, TenantError> {
        if let Err(error) = &done
            && let Ok(Some(record)) = self.read(name)
            && self.keeps_refusals(name)
        {
            let reason: String = error.to_string().chars().take(OUTCOME_MAX).collect();
            if let Err(error) = self.journal(&record, what, name, &format!("refused: {reason}")) {
                // The caller is told of the reason itself.
                let _ = error;
            }
        }
        done
    }

    /// Keeps an entry in the tenant's own account.
    async fn keep(&self, record: &Record, entry: &Entry) -> Result<(), TenantError> {
        let js = jetstream::new(self.admin(record).await?);
        self.keep_with(&js, record, entry).await
    }

    /// The same with a connection that is there.
    async fn keep_with(
        &self,
        js: &jetstream::Context,
        record: &Record,
        entry: &Entry,
    ) -> Result<(), TenantError> {
        let bytes = Bytes::from(json(entry)?);
        let mut stream = js.get_stream(AUDIT_STREAM).await.map_err(|e| wrong(record, &e))?;
        let mut tries = 0;
        loop {
            let last = stream.info().await.map_err(|e| wrong(record, &e))?.state.last_sequence;
            let signed = signed_text(&record.lattice, last.saturating_add(1), &bytes);
            let signature = self.home.operator_signing()?.sign(&signed);
            let signature = signature.map_err(|e| JwtError::Sign(e.to_string()))?;
            let publish = Publish::build()
                .payload(bytes.clone())
                .header(SIGNATURE, STANDARD.encode(signature).as_str())
                .expected_last_sequence(last);
            let sent = js.send_publish(audit_subject(&record.lattice), publish).await;
            match sent.map_err(|e| wrong(record, &e))?.await {
                Ok(_) => return Ok(()),
                // Somebody else has written meanwhile.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence && tries < 10 => {
                    tries += 1;
                }
                Err(error) => return Err(wrong(record, &error)),
            }
        }
    }

    fn journal(
        &self,
        record: &Record,
        what: &str,
        subject: &str,
        outcome: &str,
    ) -> Result<Entry, TenantError> {
        let entry = Entry {
            time: self.now(),
            who: self.who.clone(),
            what: what.to_owned(),
            subject: subject.to_owned(),
            outcome: outcome.to_owned(),
            by_tenant: false,
        };
        let path = self.folder(&record.name)?.join("journal.jsonl");
        files::append_line(&path, &json(&entry)?)?;
        Ok(entry)
    }

    /// A connection into the account that may do everything there, for a few minutes.
    pub(crate) async fn admin(&self, record: &Record) -> Result<Client, TenantError> {
        let user = KeyPair::new_user();
        let mut claims = Claims::new("millrace provisioning", &user.public_key(), User::default());
        claims.nats.claims.issuer_account = record.account.clone();
        // Answers go where no engineer may listen, or answer in another's place.
        claims.nats.tags.push(format!("inbox:{PLATFORM_INBOX}"));
        // The server compares it with its own clock.
        claims.exp = crate::now() + ADMIN_SECONDS;
        // While everybody is revoked, it has to be issued after that.
        claims.iat = claims.iat.max(record.suspended.map_or(0, |time| time + 1));
        let token = claims.sign(&self.signing(record)?)?;
        let seed = user.seed().map_err(|e| JwtError::Sign(e.to_string()))?;
        Ok(self.address.connect("millrace provisioning", &credentials(&token, &seed)).await?)
    }

    /// The servers, over the connection that is there, if it is not old: how many they are takes a silence to find out.
    async fn resolver(&self) -> Result<Resolver, TenantError> {
        if let Some((since, resolver)) = &*lock(&self.connection)
            && since.elapsed() < REUSE
            && resolver.client().connection_state() == connection::State::Connected
        {
            return Ok(resolver.clone());
        }
        let creds = files::read_private(&self.home.system_creds())?;
        let creds = String::from_utf8_lossy(&creds);
        let resolver = Resolver::new(self.address.connect("millrace tenants", &creds).await?);
        *lock(&self.connection) = Some((Instant::now(), resolver.clone()));
        Ok(resolver)
    }

    /// Gives the account to the servers as the record has it.
    async fn push(&self, record: &mut Record, resolver: &Resolver) -> Result<(), TenantError> {
        self.push_with(record, connections(record), resolver).await
    }

    async fn push_with(
        &self,
        record: &mut Record,
        connections: i64,
        resolver: &Resolver,
    ) -> Result<(), TenantError> {
        self.later(record, resolver).await?;
        let mut claims =
            Claims::new(&record.name, &record.account, self.account(record, connections)?);
        claims.iat = record.pushed;
        resolver.push(&claims.sign(&self.home.operator_signing()?)?).await?;
        Ok(())
    }

    /// A time for the next token: now, or later than that of any before, whatever the clock says.
    async fn later(&self, record: &mut Record, resolver: &Resolver) -> Result<(), TenantError> {
        // What the servers have can be newer than a record that was restored. Without an answer the push itself fails.
        let there =
            resolver.lookup(&record.account).await.ok().and_then(|token| token_claims(token).ok());
        let before = there.flatten().map_or(0, |there| there.iat).max(record.pushed);
        record.pushed = self.now().max(before.saturating_add(1));
        // Into the record as it is on the disk: what else the caller changes, it writes when it is true.
        if let Some(mut stored) = self.read(&record.name)? {
            stored.pushed = record.pushed;
            self.write(&mut stored)?;
            record.revision = stored.revision;
        }
        Ok(())
    }

    /// The account: all of it follows from the record.
    fn account(&self, record: &Record, connections: i64) -> Result<Account, TenantError> {
        let limits = &record.limits;
        let mut signing_keys = BTreeSet::new();
        for number in [Some(record.signing), record.signing_before].into_iter().flatten() {
            signing_keys.insert(self.signing_numbered(record, number)?.public_key());
        }
        let mut record_now = record.clone();
        record_now.forget_ended(self.now());
        let mut revocations = record_now.revocations;
        if let Some(time) = record.suspended {
            revocations.insert(EVERYBODY.to_owned(), time);
        }
        Ok(Account {
            limits: AccountLimits {
                subs: limits.subscriptions,
                payload: limits.payload,
                // Nothing is shared between tenants.
                imports: 0,
                exports: 0,
                conn: connections,
                leaf: limits.leaf_nodes,
                disallow_bearer: true,
                mem_storage: limits.memory,
                disk_storage: limits.disk,
                streams: limits.streams,
                consumer: limits.consumers,
                max_ack_pending: UNLIMITED,
                ..AccountLimits::default()
            },
            signing_keys,
            revocations,
            ..Account::default()
        })
    }

    fn signing(&self, record: &Record) -> Result<KeyPair, TenantError> {
        self.signing_numbered(record, record.signing)
    }

    fn signing_numbered(&self, record: &Record, number: u32) -> Result<KeyPair, TenantError> {
        let name = signing_key(&record.name, number);
        let key = self.home.keys().get(&name, &KeyPairType::Account)?;
        Ok(key.ok_or_else(|| KeyError::Missing(self.home.root().join("keys").join(name)))?)
    }

    /// Sees that each role has a user whose credentials are in its file.
    fn platform_users(&self, record: &mut Record) -> Result<(), TenantError> {
        for role in Role::ALL {
            let path = self.creds_file(&record.name, role)?;
            let there = match files::read_private(&path) {
                Ok(text) => read_credentials(&String::from_utf8_lossy(&text)).ok(),
                Err(error) if error.is_missing() => None,
                Err(error) => return Err(error.into()),
            };
            let known = |user: &UserRecord| {
                let issued = there.as_ref().is_some_and(|(claims, ..)| claims.sub == user.id);
                user.platform && user.role == role && issued
            };
            if record.users.iter().any(known) {
                continue;
            }
            let (user, text) = self.issue(record, role, &format!("platform {role}"), true, 0)?;
            if let Some(folder) = path.parent() {
                files::private_folder(folder)?;
            }
            files::write_private(&path, text.as_bytes())?;
            // A file that an interrupted run left, whose user nobody knows, is replaced with its user.
            record.users.retain(|user| !(user.platform && user.role == role));
            record.users.push(user);
        }
        Ok(())
    }

    fn issue(
        &self,
        record: &Record,
        role: Role,
        label: &str,
        platform: bool,
        expires: i64,
    ) -> Result<(UserRecord, String), TenantError> {
        let key = KeyPair::new_user();
        let user = User {
            permissions: permissions(role, &record.lattice),
            issuer_account: record.account.clone(),
            ..User::default()
        };
        let name = format!("{} {role}", record.name);
        let mut claims = Claims::new(&name, &key.public_key(), user);
        claims.iat = self.now();
        claims.exp = expires;
        // With the key that signs the platform's entries of the audit log, which whoever reads it has to know from elsewhere.
        let signer = self.home.operator_signing()?.public_key();
        claims.nats.tags = vec![
            format!("lattice:{}", record.lattice),
            format!("role:{role}"),
            format!("audit:{signer}"),
        ];
        if inbox(role) != "_INBOX" {
            claims.nats.tags.push(format!("inbox:{}", inbox(role)));
        }
        let token = claims.sign(&self.signing(record)?)?;
        let seed = key.seed().map_err(|e| JwtError::Sign(e.to_string()))?;
        let user = UserRecord {
            id: key.public_key(),
            role,
            label: label.chars().take(200).collect(),
            platform,
            signing: record.signing,
            issued: claims.iat,
            expires,
        };
        Ok((user, credentials(&token, &seed)))
    }

    fn active(&self, name: &str) -> Result<Record, TenantError> {
        let record = self.get(name)?;
        if record.state == State::Active {
            Ok(record)
        } else {
            Err(state_error(name, record.state))
        }
    }

    fn read(&self, name: &str) -> Result<Option<Record>, TenantError> {
        let path = self.folder(name)?.join("tenant.json");
        let bytes = match files::read_private(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |reason: String| TenantError::Damaged { path: path.clone(), reason };
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.name != name {
            return Err(damaged(format!("it is the record of {:?}", record.name)));
        }
        Ok(Some(record))
    }

    fn write(&self, record: &mut Record) -> Result<(), TenantError> {
        record.revision += 1;
        let folder = self.folder(&record.name)?;
        files::private_folder(&folder)?;
        let path = folder.join("tenant.json");
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|e| TenantError::Damaged { path: path.clone(), reason: e.to_string() })?;
        Ok(files::write_private(&path, &bytes)?)
    }

    /// Nobody else changes tenants while it is held, also no other process.
    fn lock(&self, what: &str) -> Result<Lock, TenantError> {
        let path = self.home.root().join("lock");
        let who = format!("{} ({what}), process {}", self.who, std::process::id());
        Lock::take(&path, &who)?.map_err(|holder| TenantError::Busy { holder })
    }
}

/// Whether the account has no JetStream, or none yet.
fn is_not_enabled(error: &jetstream::context::AccountError) -> bool {
    matches!(
        error.kind(),
        jetstream::context::AccountErrorKind::JetStream(e)
            if e.error_code() == jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
    )
}

/// The entry in a message of one of an audit log's streams, if it is one.
pub(crate) fn entry_of(
    operator: &KeyPair,
    lattice: &str,
    by_tenant: bool,
    message: &StreamMessage,
) -> Option<Entry> {
    // The platform's are signed: a consumer delivers to any subject, so an engineer of the tenant can have something put there.
    let signature = message.headers.get(SIGNATURE).map(|value| value.as_str());
    let signature = signature.and_then(|text| STANDARD.decode(text).ok());
    let signed = signed_text(lattice, message.sequence, &message.payload);
    if !by_tenant && signature.is_none_or(|bytes| operator.verify(&signed, &bytes).is_err()) {
        return None;
    }
    // What an engineer of the tenant wrote need not be an entry.
    let entry = serde_json::from_slice::<Entry>(&message.payload).ok()?;
    Some(Entry { by_tenant, ..entry })
}

/// What is signed of an entry: with the lattice and its number in the stream, so that it counts nowhere else, and once.
fn signed_text(lattice: &str, sequence: u64, entry: &[u8]) -> Vec<u8> {
    [format!("millrace-audit\n{lattice}\n{sequence}\n").as_bytes(), entry].concat()
}

/// From when on a user does not count: now, or when it was issued by a clock that was ahead of this one.
fn ended_at(user: &UserRecord, now: i64) -> i64 {
    now.max(user.issued)
}

fn no_answer() -> String {
    format!("no answer within {AUDIT_PATIENCE:?}")
}

/// Connections of a tenant's account.
fn connections(record: &Record) -> i64 {
    if record.suspended.is_some() { 0 } else { record.limits.connections }
}

/// The account of nobody: no connections, no users, nothing of JetStream.
fn nobody(until: i64) -> Account {
    Account {
        limits: AccountLimits {
            subs: 0,
            imports: 0,
            exports: 0,
            conn: 0,
            leaf: 0,
            disallow_bearer: true,
            ..AccountLimits::default()
        },
        revocations: [(EVERYBODY.to_owned(), until)].into(),
        ..Account::default()
    }
}

fn token_claims(token: Option<String>) -> Result<Option<Claims<Account>>, JwtError> {
    token.map(|token| Claims::verify(&token)).transpose()
}

/// Whether there is room for another user, and its revocation.
fn room(record: &Record, most: usize) -> Result<(), TenantError> {
    let count = record.users.len() + record.revocations.len();
    if count < most {
        return Ok(());
    }
    Err(TenantError::TooManyUsers { name: record.name.clone(), count })
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), TenantError> {
    let is_good = |(name, value): &(&String, &String)| {
        let (name, value) = (name.chars().count(), value.chars().count());
        (1..=LABEL_NAME_MAX).contains(&name) && value <= LABEL_VALUE_MAX
    };
    let bad = labels.iter().find(|label| !is_good(label)).or_else(|| labels.iter().nth(LABELS_MAX));
    match bad {
        Some((name, _)) => Err(TenantError::Label(name.chars().take(80).collect())),
        None => Ok(()),
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.ino(), about.mtime(), about.mtime_nsec(), about.len(), about.mode()))
}

/// Nobody panics while holding one of these; what is in them is whole in any case.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn account_folder(name: &str) -> String {
    format!("accounts/{name}")
}

fn account_key(name: &str) -> String {
    format!("accounts/{name}/account.nk")
}

fn signing_key(name: &str, number: u32) -> String {
    format!("accounts/{name}/signing-{number}.nk")
}

pub(crate) fn state_error(name: &str, state: State) -> TenantError {
    let mend = match state {
        State::Provisioning => "finish it with `add`, or take it away with `remove` and purge",
        State::Active => "`remove` it first",
        State::Suspended | State::Removing => "`resume` it first",
    };
    TenantError::State { name: name.to_owned(), state, mend }
}

fn wrong(record: &Record, error: &dyn std::fmt::Display) -> TenantError {
    TenantError::JetStream { name: record.name.clone(), reason: error.to_string() }
}

fn json(entry: &Entry) -> Result<Vec<u8>, TenantError> {
    serde_json::to_vec(entry).map_err(|e| TenantError::Jwt(JwtError::Form(e.to_string())))
}
