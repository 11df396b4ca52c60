//! One test of a definition: run, and judged.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_pipeline::{Case, Order, Payload, TestMessage, TestReject, TestResponse, Time};
use serde::Serialize;

use crate::compare::{Difference, Lists, Mismatch};
use crate::host::{LogLine, Response, Setting};
use crate::json::Rules;
use crate::message::{Message, shown, shown_bytes, shown_text};
use crate::runtime::{Letter, Run, RunError, Runtime, Session};

/// What the clocks say unless the test says something else.
pub(crate) const TIME: Time = Time::DEFAULT;

/// Largest file of messages, in bytes.
const FILE: u64 = 64 * 1024 * 1024;

/// Most differences of one message that are told.
const TOLD: usize = 10;

/// What came of a test.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Name of the test.
    pub name: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The file it is written in.
    pub file: String,
    /// The line.
    pub line: usize,
    /// How long it took.
    #[serde(rename = "took-us", serialize_with = "microseconds")]
    pub took: Duration,
    /// What was not as it should be. Empty when the test has passed.
    pub failures: Vec<Failure>,
    /// What steps logged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
}

fn microseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

impl Report {
    /// Whether everything was as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Where messages were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// What came to a sink.
    Sink(String),
    /// What a step rejected.
    Step(String),
    /// What a stage did not answer, where it could not be found out which step it was.
    Stage(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sink(name) => write!(f, "sink {name}"),
            Self::Step(name) => write!(f, "step {name}"),
            Self::Stage(name) => write!(f, "stage {name}"),
        }
    }
}

/// One thing that was not as it should be. Messages are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Failure {
    /// A message is not the one that was expected.
    Differs {
        /// Where.
        place: Place,
        /// Number of the expected message.
        expected: usize,
        /// Number of the message that came.
        got: usize,
        /// What differs, the first of it.
        differences: Vec<Difference>,
        /// What differs beyond that.
        more: usize,
        /// The message that came.
        message: String,
    },
    /// An expected message did not come.
    Missing {
        /// Where.
        place: Place,
        /// Its number.
        expected: usize,
        /// The message.
        message: String,
    },
    /// A message came that was not expected.
    Unexpected {
        /// Where.
        place: Place,
        /// Its number.
        got: usize,
        /// The message.
        message: String,
    },
    /// All messages came, in another order.
    OtherOrder {
        /// Where.
        place: Place,
    },
    /// The test could not be run.
    Error {
        /// Why.
        text: String,
    },
}

/// What a line of a failure is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// What is wrong.
    Heading,
    /// What was expected.
    Expected,
    /// What came.
    Got,
    /// Something beside it.
    Note,
}

impl Failure {
    /// The failure for people, line by line. The first says what is wrong, the others belong under it.
    #[must_use]
    pub fn lines(&self) -> Vec<(Tone, String)> {
        let heading = |text: String| (Tone::Heading, text);
        match self {
            Self::Differs { place, expected, got, differences, more, message } => {
                let which = match (place, expected == got) {
                    (Place::Sink(_), true) => format!("message {expected} differs"),
                    (Place::Sink(_), false) => {
                        format!("message {got} is not the expected message {expected}")
                    }
                    _ => format!("rejected message {got} is not the expected one ({expected})"),
                };
                let mut lines = vec![heading(format!("{place}: {which}"))];
                for difference in differences {
                    let Difference { path, expected, got } = difference;
                    let nothing = || "nothing".to_owned();
                    let expected = expected.clone().unwrap_or_else(nothing);
                    lines.push((Tone::Expected, format!("- {path}: {expected}")));
                    let got = got.clone().unwrap_or_else(nothing);
                    lines.push((Tone::Got, format!("+ {path}: {got}")));
                }
                if *more > 0 {
                    lines.push((Tone::Note, format!("and {more} more")));
                }
                lines.push((Tone::Note, format!("the message: {message}")));
                lines
            }
            Self::Missing { place, expected, message } => {
                let what = match place {
                    Place::Sink(_) => format!("message {expected} did not come"),
                    _ => format!("message {expected} was not rejected"),
                };
                vec![heading(format!("{place}: {what}")), (Tone::Expected, format!("- {message}"))]
            }
            Self::Unexpected { place, got, message } => {
                let what = match place {
                    Place::Sink(_) => format!("message {got} was not expected"),
                    _ => "a message was rejected that should not be".to_owned(),
                };
                vec![heading(format!("{place}: {what}")), (Tone::Got, format!("+ {message}"))]
            }
            Self::OtherOrder { place } => vec![
                heading(format!("{place}: the expected messages came in another order")),
                (Tone::Note, "`order: any` in the test allows any".to_owned()),
            ],
            Self::Error { text } => vec![heading(text.clone())],
        }
    }
}

/// Runs a test.
#[must_use]
pub fn run_test(runtime: &Runtime, case: &Case) -> Report {
    let start = Instant::now();
    let (failures, log) = match judged(runtime, case) {
        Ok(done) => done,
        Err(error) => (vec![Failure::Error { text: error.to_string() }], Vec::new()),
    };
    Report {
        name: case.name.clone(),
        description: case.test.description.clone(),
        file: case.location.file.clone(),
        line: case.location.line,
        took: start.elapsed(),
        failures,
        log,
    }
}

fn judged(runtime: &Runtime, case: &Case) -> Result<(Vec<Failure>, Vec<LogLine>), FileError> {
    let inputs = given(case)?;
    let expected = Expected::of(case)?;
    let setting = setting(case);
    let mut session = runtime.session(&setting);
    let ran = play(&mut session, case, &inputs);
    let Run { sinks, letters, log, .. } = session.end();
    let failures = match ran {
        Ok(()) => expected.judge(&sinks, &letters),
        Err(error) => vec![Failure::Error { text: error.to_string() }],
    };
    Ok((failures, log))
}

/// What a test's steps find around them.
pub(crate) fn setting(case: &Case) -> Setting {
    let bytes =
        |(key, value): (&String, &String)| (key.clone().into_bytes(), value.clone().into_bytes());
    let buckets = case.test.kv.iter();
    let kv = buckets.map(|(name, values)| (name.clone(), values.iter().map(bytes).collect()));
    let response = |given: &TestResponse| Response {
        status: given.status.map_or(200, |status| u16::try_from(status.get()).unwrap_or(u16::MAX)),
        headers: given.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
        body: match &given.payload {
            Some(Payload::Json(json)) => json.to_string().into_bytes(),
            Some(Payload::Text(text)) => text.clone().into_bytes(),
            Some(Payload::Hex(hex)) => hex.0.clone(),
            Some(Payload::File(_)) | None => Vec::new(),
        },
    };
    Setting {
        time: case.test.time.unwrap_or(TIME),
        kv: kv.collect(),
        http: case.test.http.iter().map(|(name, given)| (name.clone(), response(given))).collect(),
        ..Setting::default()
    }
}

/// Gives a test's messages, and lets its time go on.
pub(crate) fn play(
    session: &mut Session<'_>,
    case: &Case,
    inputs: &[(String, Vec<Message>)],
) -> Result<(), RunError> {
    for (source, messages) in inputs {
        session.give(source, messages)?;
        session.settle()?;
    }
    case.test.until.map_or(Ok(()), |time| session.wait_until(time))
}

/// A file of messages cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("could not read {file}: {source}", file = .0.display(), source = .1)]
    Read(PathBuf, std::io::Error),
    #[error("{file} has more than {FILE} bytes", file = .0.display())]
    TooLong(PathBuf),
}

/// The messages of a test by source.
pub(crate) fn given(case: &Case) -> Result<Vec<(String, Vec<Message>)>, FileError> {
    let time = case.test.time.unwrap_or(TIME);
    let mut inputs = Vec::new();
    for (source, messages) in &case.test.inputs {
        let mut all = Vec::new();
        for message in messages {
            for payload in payloads(message, &case.folder)? {
                all.push(Message {
                    timestamp: message.timestamp.unwrap_or(time).nanoseconds(),
                    topic: message.topic.clone().unwrap_or_default(),
                    key: message.key.clone().map(String::into_bytes),
                    content_type: message.content_type.clone(),
                    headers: message.headers.clone().into_iter().collect(),
                    payload: payload.unwrap_or_default().bytes(),
                });
            }
        }
        inputs.push((source.clone(), all));
    }
    Ok(inputs)
}

/// What a payload is, once files are read.
#[derive(Debug, Clone)]
enum Content {
    Json(serde_json::Value),
    Text(String),
    Bytes(Vec<u8>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Json(value) => shown_text(&value.to_string()),
            Self::Text(text) => shown_bytes(text.as_bytes()),
            Self::Bytes(bytes) => format!("hex {}", hex(bytes)),
        }
    }

    fn differences(&self, got: &[u8], rules: &Rules) -> Vec<Difference> {
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        match self {
            Self::Json(wanted) => match json(got) {
                Some(got) => rules.differences(wanted, &got),
                None => {
                    let got = format!("{}, which is not JSON", shown_bytes(got));
                    vec![Difference::new("payload", Some(self.shown()), Some(got))]
                }
            },
            Self::Text(text) => match (json(text.as_bytes()), json(got)) {
                (Some(wanted), Some(got)) => rules.differences(&wanted, &got),
                _ => text_difference(text, got).into_iter().collect(),
            },
            Self::Bytes(wanted) if wanted == got => Vec::new(),
            Self::Bytes(wanted) => bytes_difference(wanted, got),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let hex: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN { hex + "..." } else { hex }
}

/// The first line that differs.
fn text_difference(wanted: &str, got: &[u8]) -> Option<Difference> {
    let Ok(text) = std::str::from_utf8(got) else {
        return Some(Difference::new(
            "payload",
            Some(shown_bytes(wanted.as_bytes())),
            Some(shown_bytes(got)),
        ));
    };
    if wanted == text {
        return None;
    }
    let (mut one, mut other) = (wanted.split('\n'), text.split('\n'));
    let several = wanted.contains('\n') || text.contains('\n');
    let quoted = |line: &str| format!("\"{}\"", shown_text(line));
    (1..).find_map(|number| {
        let (wanted, got) = (one.next(), other.next());
        if wanted == got && wanted.is_some() {
            return None;
        }
        let path = if several { format!("payload, line {number}") } else { "payload".to_owned() };
        Some(Difference::new(&path, wanted.map(quoted), got.map(quoted)))
    })
}

/// The first byte that differs, with some around it.
fn bytes_difference(wanted: &[u8], got: &[u8]) -> Vec<Difference> {
    let at = wanted.iter().zip(got).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(4);
    let part = |bytes: &[u8]| match bytes.get(from..) {
        Some([]) | None => None,
        Some(rest) => Some(format!("hex {}", hex(rest))),
    };
    vec![Difference::new(&format!("payload, byte {at} (from {from} on)"), part(wanted), part(got))]
}

/// The contents of a message of a test: none where it has none, several out of a file of lines.
fn payloads(message: &TestMessage, folder: &Path) -> Result<Vec<Option<Content>>, FileError> {
    Ok(match &message.payload {
        None => vec![None],
        Some(Payload::Json(value)) => vec![Some(Content::Json(value.clone()))],
        Some(Payload::Text(text)) => vec![Some(Content::Text(text.clone()))],
        Some(Payload::Hex(bytes)) => vec![Some(Content::Bytes(bytes.0.clone()))],
        Some(Payload::File(file)) => {
            let path = folder.join(file);
            let content = content_of(read(&path)?);
            match content {
                Content::Text(text) if path.extension().is_some_and(|e| e == "jsonl") => {
                    let lines = text.lines().filter(|line| !line.trim().is_empty());
                    lines.map(|line| Some(Content::Text(line.to_owned()))).collect()
                }
                whole => vec![Some(whole)],
            }
        }
    })
}

fn content_of(bytes: Vec<u8>) -> Content {
    String::from_utf8(bytes).map_or_else(|e| Content::Bytes(e.into_bytes()), Content::Text)
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let error = |source| FileError::Read(path.to_owned(), source);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(FILE + 1).read_to_end(&mut bytes).map_err(error)?;
    match bytes.len() as u64 > FILE {
        true => Err(FileError::TooLong(path.to_owned())),
        false => Ok(bytes),
    }
}

/// A message that has to come: the fields that are given, and no others.
#[derive(Debug, Clone)]
struct Wanted<'t> {
    message: &'t TestMessage,
    payload: Option<Content>,
}

impl Wanted<'_> {
    fn all<'t>(
        messages: impl IntoIterator<Item = &'t TestMessage>,
        folder: &Path,
    ) -> Result<Vec<Wanted<'t>>, FileError> {
        let mut all = Vec::new();
        for message in messages {
            let payloads = payloads(message, folder)?.into_iter();
            all.extend(payloads.map(|payload| Wanted { message, payload }));
        }
        Ok(all)
    }

    fn differences(&self, got: &Message, rules: &Rules) -> Vec<Difference> {
        let wanted = self.message;
        let mut found = match &self.payload {
            Some(payload) => payload.differences(&got.payload, rules),
            None => Vec::new(),
        };
        let mut text = |path: &str, wanted: Option<&str>, got: Option<String>| {
            if let Some(wanted) = wanted
                && got.as_deref() != Some(wanted)
            {
                let got = got.map(|got| shown_text(&got));
                found.push(Difference::new(path, Some(shown_text(wanted)), got));
            }
        };
        text("topic", wanted.topic.as_deref(), Some(got.topic.clone()));
        let key = got.key.as_deref().map(|key| match std::str::from_utf8(key) {
            Ok(key) => key.to_owned(),
            Err(_) => shown_bytes(key),
        });
        text("key", wanted.key.as_deref(), key);
        text("content-type", wanted.content_type.as_deref(), got.content_type.clone());
        let wanted_time = wanted.timestamp.map(|time| time.to_string());
        let got_time = Time::from_nanoseconds(got.timestamp).to_string();
        text("timestamp", wanted_time.as_deref(), Some(got_time));
        for (name, value) in &wanted.headers {
            let got = got.header(name).map(str::to_owned);
            text(&format!("headers.{name}"), Some(value), got);
        }
        found
    }

    fn shown(&self) -> String {
        let wanted = self.message;
        let payload = self.payload.as_ref().map(Content::shown);
        let mut also = Vec::new();
        also.extend(wanted.topic.as_ref().map(|topic| format!("topic {}", shown_text(topic))));
        also.extend(wanted.key.as_ref().map(|key| format!("key {}", shown_text(key))));
        let kind = wanted.content_type.as_ref();
        also.extend(kind.map(|kind| format!("content-type {}", shown_text(kind))));
        also.extend(wanted.timestamp.map(|time| format!("timestamp {time}")));
        let headers = wanted.headers.iter();
        also.extend(headers.map(|(n, v)| format!("{}: {}", shown_text(n), shown_text(v))));
        match (payload, also.as_slice()) {
            (Some(payload), []) => payload,
            (Some(payload), also) => format!("{payload}  ({})", also.join(", ")),
            (None, []) => "any message".to_owned(),
            (None, also) => format!("any payload  ({})", also.join(", ")),
        }
    }
}

/// What a test asks for, with its files read.
struct Expected<'t> {
    order: Order,
    rules: Rules,
    sinks: Vec<(&'t str, Vec<Wanted<'t>>)>,
    steps: BTreeMap<&'t str, Vec<(&'t TestReject, Wanted<'t>)>>,
}

impl<'t> Expected<'t> {
    fn of(case: &'t Case) -> Result<Self, FileError> {
        let test = &case.test;
        let mut sinks = Vec::new();
        for (sink, messages) in &test.outputs {
            sinks.push((sink.as_str(), Wanted::all(messages, &case.folder)?));
        }
        let mut steps: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (step, rejects) in &test.rejected {
            let all = steps.entry(step.as_str()).or_default();
            for reject in rejects {
                let wanted = Wanted::all([&reject.message], &case.folder)?;
                all.extend(wanted.into_iter().map(|wanted| (reject, wanted)));
            }
        }
        let tolerance = test.tolerance.unwrap_or_default().get();
        let rules = Rules::new(&test.ignore, &test.select, tolerance);
        Ok(Self { order: test.order, rules, sinks, steps })
    }

    fn judge(&self, sinks: &BTreeMap<String, Vec<Message>>, letters: &[Letter]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for (sink, wanted) in &self.sinks {
            let got = sinks.get(*sink).map(Vec::as_slice).unwrap_or_default();
            failures.extend(self.compared(
                &Place::Sink((*sink).to_owned()),
                (wanted, Wanted::shown),
                (got, shown),
                |wanted, got| wanted.differences(got, &self.rules),
            ));
        }
        let mut rejected: BTreeMap<Option<&str>, Vec<&Letter>> = BTreeMap::new();
        for letter in letters {
            rejected.entry(letter.step.as_deref()).or_default().push(letter);
        }
        let named = self.steps.keys().map(|step| Some(*step));
        let unnamed =
            rejected.keys().filter(|step| step.is_none_or(|s| !self.steps.contains_key(s)));
        for step in named.chain(unnamed.copied()) {
            let got = rejected.get(&step).map(Vec::as_slice).unwrap_or_default();
            let wanted = step.and_then(|step| self.steps.get(step));
            let place = match (step, got) {
                (Some(step), _) => Place::Step(step.to_owned()),
                (None, [letter, ..]) => Place::Stage(letter.stage.clone()),
                (None, []) => continue,
            };
            failures.extend(self.compared(
                &place,
                (wanted.map(Vec::as_slice).unwrap_or_default(), shown_reject),
                (got, |letter| shown_letter(letter)),
                |(reject, wanted), letter| {
                    let mut found = reject_differences(reject, letter);
                    found.extend(wanted.differences(&letter.message, &self.rules));
                    found
                },
            ));
        }
        failures
    }

    /// What is wrong with the messages of one place.
    fn compared<W, G>(
        &self,
        place: &Place,
        (wanted, shown_wanted): (&[W], impl Fn(&W) -> String),
        (got, shown_got): (&[G], impl Fn(&G) -> String),
        differences: impl Fn(&W, &G) -> Vec<Difference>,
    ) -> Vec<Failure> {
        let between = |expected: usize, at: usize| match (wanted.get(expected), got.get(at)) {
            (Some(wanted), Some(got)) => differences(wanted, got),
            _ => Vec::new(),
        };
        let lists = Lists {
            expected: wanted.len(),
            got: got.len(),
            differences: |expected, at| between(expected, at).len(),
        };
        let found = match self.order {
            Order::Kept => lists.in_order(),
            Order::Any => lists.in_any_order(),
        };
        let wanted_at = |at: usize| wanted.get(at).map(&shown_wanted).unwrap_or_default();
        let got_at = |at: usize| got.get(at).map(&shown_got).unwrap_or_default();
        let place = || place.clone();
        let failure = |mismatch: Mismatch| match mismatch {
            Mismatch::Differs { expected, got } => {
                let mut differences = between(expected, got);
                let more = differences.len().saturating_sub(TOLD);
                differences.truncate(TOLD);
                Failure::Differs {
                    place: place(),
                    expected: expected + 1,
                    got: got + 1,
                    differences,
                    more,
                    message: got_at(got),
                }
            }
            Mismatch::Missing(expected) => Failure::Missing {
                place: place(),
                expected: expected + 1,
                message: wanted_at(expected),
            },
            Mismatch::Unexpected(got) => {
                Failure::Unexpected { place: place(), got: got + 1, message: got_at(got) }
            }
            Mismatch::OtherOrder => Failure::OtherOrder { place: place() },
        };
        found.into_iter().map(failure).collect()
    }
}

fn reject_differences(wanted: &TestReject, got: &Letter) -> Vec<Difference> {
    let mut found = Vec::new();
    if let Some(kind) = wanted.kind.map(|kind| kind.as_str())
        && kind != got.kind
    {
        found.push(Difference::new("kind", Some(kind.to_owned()), Some(got.kind.clone())));
    }
    if let Some(text) = &wanted.text
        && !got.text.contains(text.as_str())
    {
        let part = format!("a text with \"{}\"", shown_text(text));
        found.push(Difference::new(
            "text",
            Some(part),
            Some(format!("\"{}\"", shown_text(&got.text))),
        ));
    }
    found
}

fn shown_reject((reject, wanted): &(&TestReject, Wanted<'_>)) -> String {
    let kind = reject.kind.map(|kind| format!("{}: ", kind.as_str())).unwrap_or_default();
    let text = reject.text.as_deref().map(|text| format!("{}: ", shown_text(text)));
    format!("{kind}{}{}", text.unwrap_or_default(), wanted.shown())
}

fn shown_letter(letter: &Letter) -> String {
    format!("{}: {}: {}", letter.kind, shown_text(&letter.text), shown(&letter.message))
}
