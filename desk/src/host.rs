//! What a stage may import, implemented in this process. A stage that wants anything else is not instantiated: what a step
//! is not granted was taken away from it when its stage was composed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_grants::{Failure, FailureKind, Grant, Reply, Request, Use};
use millrace_pipeline::Time;
use serde::Serialize;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime::{Result, StoreContextMut};

/// Most log lines of one call that are kept.
const LINES: usize = 1_000;

/// Longest log line that is kept, in bytes.
const LINE: usize = 4_096;

/// Most random bytes that are made at once.
const RANDOM: u64 = 1 << 20;

/// What a step with grants finds around it: the same each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What the clock says.
    pub time: Time,
    /// Where random numbers begin.
    pub seed: u64,
    /// What the key-value buckets have, by bucket and key.
    pub kv: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// What servers answer, by method and URL, as `get http://api.example.com/limits`.
    pub http: BTreeMap<String, Response>,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { time: Time::DEFAULT, seed: 1, kv: BTreeMap::new(), http: BTreeMap::new() }
    }
}

/// A line that a step logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogLine {
    /// The stage.
    pub stage: String,
    /// How bad it is.
    pub level: Level,
    /// What the step calls the place it comes from.
    pub context: String,
    /// What it says.
    pub text: String,
}

/// How bad a log line is.
#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[component(enum)]
#[repr(u8)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Every detail.
    #[component(name = "trace")]
    Trace,
    /// For its author.
    #[component(name = "debug")]
    Debug,
    /// As it should be.
    #[component(name = "info")]
    Info,
    /// Perhaps not.
    #[component(name = "warn")]
    Warn,
    /// Not.
    #[component(name = "error")]
    Error,
    /// Not at all.
    #[component(name = "critical")]
    Critical,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// A message of the lattice.
#[derive(ComponentType, Lift, Lower, Debug, Clone)]
#[component(record)]
pub(crate) struct BrokerMessage {
    pub(crate) subject: String,
    pub(crate) body: Vec<u8>,
    #[component(name = "reply-to")]
    pub(crate) reply_to: Option<String>,
}

#[derive(ComponentType, Lift, Lower, Debug, Clone)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

#[derive(ComponentType, Lift, Lower, Debug, Clone, Copy)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// What moves on from call to call.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    time: u64,
    monotonic: u64,
    random: u64,
    kv: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    http: Arc<BTreeMap<String, Response>>,
}

impl From<&Setting> for Surroundings {
    fn from(setting: &Setting) -> Self {
        Self {
            time: setting.time.nanoseconds(),
            monotonic: 0,
            random: setting.seed,
            kv: setting.kv.clone(),
            http: Arc::new(setting.http.clone()),
        }
    }
}

impl Surroundings {
    /// What the clock says, in nanoseconds since the Unix epoch.
    pub(crate) const fn time(&self) -> u64 {
        self.time
    }

    /// SplitMix64: short, and good enough to test with.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// What lies outside: the buckets and servers of the setting.
    fn use_it(&mut self, what: Use) -> std::result::Result<Reply, Failure> {
        Ok(match what {
            Use::Get { bucket, keys } => {
                let values = self.kv.get(&bucket);
                let value = |key: &Vec<u8>| values.and_then(|values| values.get(key)).cloned();
                Reply::Values(keys.iter().map(value).collect())
            }
            Use::Set { bucket, key, value } => {
                self.kv.entry(bucket).or_default().insert(key, value);
                Reply::Done
            }
            Use::Delete { bucket, key } => {
                self.kv.entry(bucket).or_default().remove(&key);
                Reply::Done
            }
            Use::Http { method, url, .. } => {
                let name = format!("{method} {url}");
                let Some(Response { status, headers, body }) = self.http.get(&name) else {
                    let text = format!(
                        "nobody answers `{name}` at the desk; `http` of a test says what a server answers"
                    );
                    return Err(Failure { kind: FailureKind::Retry, text });
                };
                Reply::Http { status: *status, headers: headers.clone(), body: body.clone() }
            }
        })
    }

    /// A microsecond later at each look, so that nobody waits for ever for time to pass.
    fn monotonic(&mut self) -> u64 {
        self.monotonic = self.monotonic.saturating_add(1_000);
        self.monotonic
    }
}

/// The world of one call.
pub(crate) struct World {
    pub(crate) stage: Arc<str>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) surroundings: Surroundings,
    /// Subject and body.
    pub(crate) published: Vec<(String, Vec<u8>)>,
    pub(crate) log: Vec<LogLine>,
}

/// The grants of each step of a stage.
pub(crate) type Grants = BTreeMap<String, BTreeSet<Grant>>;

impl World {
    /// Answers a request as the conduit does.
    fn answer(&mut self, request: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
        let request = Request::decode(request)?;
        request.check(self.grants.get(&request.step).into_iter().flatten())?;
        self.surroundings.use_it(request.what)?.encode()
    }
}

type Store<'a> = StoreContextMut<'a, World>;

/// Everything that a stage may import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<World>> {
    let mut linker = Linker::new(engine);
    messaging(&mut linker)?;
    config(&mut linker)?;
    logging(&mut linker)?;
    clocks(&mut linker)?;
    random(&mut linker)?;
    Ok(linker)
}

fn messaging(linker: &mut Linker<World>) -> Result<()> {
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.2.0")?;
    consumer.func_wrap("publish", |mut store: Store<'_>, (message,): (BrokerMessage,)| {
        store.data_mut().published.push((message.subject, message.body));
        Ok((Ok::<(), String>(()),))
    })?;
    type Asked = (String, Vec<u8>, u32);
    consumer.func_wrap("request", |mut store: Store<'_>, (subject, body, _): Asked| {
        let answer = store.data_mut().answer(&body).map_err(|failure| failure.to_string());
        Ok((answer.map(|body| BrokerMessage { subject, body, reply_to: None }),))
    })
}

fn config(linker: &mut Linker<World>) -> Result<()> {
    type Got<T> = Result<(std::result::Result<T, ConfigError>,)>;
    let mut config = linker.instance("wasi:config/store@0.2.0-draft")?;
    config.func_wrap("get", |store: Store<'_>, (key,): (String,)| -> Got<Option<String>> {
        Ok((Ok(store.data().config.get(&key).cloned()),))
    })?;
    config.func_wrap("get-all", |store: Store<'_>, (): ()| -> Got<Vec<(String, String)>> {
        let all = store.data().config.iter();
        Ok((Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()),))
    })
}

fn logging(linker: &mut Linker<World>) -> Result<()> {
    let mut logging = linker.instance("wasi:logging/logging@0.1.0-draft")?;
    logging.func_wrap(
        "log",
        |mut store: Store<'_>, (level, context, text): (Level, String, String)| {
            let world = store.data_mut();
            if world.log.len() < LINES {
                let stage = world.stage.to_string();
                let (context, text) = (shortened(context), shortened(text));
                world.log.push(LogLine { stage, level, context, text });
            }
            Ok(())
        },
    )
}

fn shortened(mut text: String) -> String {
    if text.len() > LINE {
        let end = (0..=LINE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// The host offers 0.2.6; a step may be built against any 0.2.
fn clocks(linker: &mut Linker<World>) -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.6")?;
    wall.func_wrap("now", |store: Store<'_>, (): ()| {
        let time = store.data().surroundings.time;
        let nanoseconds = u32::try_from(time % SECOND).unwrap_or(0);
        Ok((Datetime { seconds: time / SECOND, nanoseconds },))
    })?;
    wall.func_wrap("resolution", |_: Store<'_>, (): ()| {
        Ok((Datetime { seconds: 0, nanoseconds: 1 },))
    })?;
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.6")?;
    monotonic.func_wrap("now", |mut store: Store<'_>, (): ()| {
        Ok((store.data_mut().surroundings.monotonic(),))
    })?;
    monotonic.func_wrap("resolution", |_: Store<'_>, (): ()| Ok((1u64,)))
}

fn random(linker: &mut Linker<World>) -> Result<()> {
    let mut random = linker.instance("wasi:random/random@0.2.6")?;
    random.func_wrap("get-random-u64", |mut store: Store<'_>, (): ()| {
        Ok((store.data_mut().surroundings.random(),))
    })?;
    random.func_wrap("get-random-bytes", |mut store: Store<'_>, (length,): (u64,)| {
        if length > RANDOM {
            let text = format!("{length} random bytes at once, at most {RANDOM} are given");
            return Err(wasmtime::Error::msg(text));
        }
        let surroundings = &mut store.data_mut().surroundings;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            bytes.extend(surroundings.random().to_le_bytes());
        }
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        Ok((bytes,))
    })
}
