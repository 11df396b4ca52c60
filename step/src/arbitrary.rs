//! Any bytes into a step. A step may refuse a message; it must not trap, and not run into its limits. Where it does, the
//! batch is halved until the message is alone, and the message made as small as it can be.

use std::time::{Duration, Instant};

use millrace_desk::{Answer, Message};
use millrace_pipeline::Time;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::trial::{Trial, TrialError};
use crate::windows::Kept;

/// Messages of one call. Several, because what one leaves behind may trip the next.
const BATCH: usize = 32;

/// Longest string of a message, as the batch format has it.
const STRING: usize = 65_534;

/// Most calls to make a case smaller, and most time: a case that runs into the time limit costs that each time.
const TRIES: usize = 400;
const PATIENCE: Duration = Duration::from_secs(60);

/// How a call ended that should not have ended so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It trapped.
    Trap(String),
    /// It ran into the time limit.
    Timeout(Duration),
    /// A step with state gave something else when it was called again with the same.
    Differs,
}

/// The smallest case found that ends so.
#[derive(Debug, Clone)]
pub struct Case {
    /// How it ends.
    pub ended: Ended,
    /// The messages, in one call. Mostly one.
    pub messages: Vec<Message>,
    /// Calls that were made to find it.
    pub tries: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Where the random numbers began: the same seed gives the same messages.
    pub seed: u64,
    /// Messages that were given.
    pub cases: usize,
    /// How many of them the step refused with an error.
    pub refused: usize,
    /// How long it took, without making a case smaller.
    pub took: Duration,
    /// What trapped, if something has.
    pub case: Option<Case>,
    /// Of a step with state, when it has taken a sample: what it keeps of many messages.
    pub kept: Option<Kept>,
}

impl Findings {
    /// Whether nothing was found.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.case.is_none() && !self.kept.is_some_and(|kept| kept.grows)
    }
}

/// Gives a step `cases` messages of any content, the first of them like the samples.
///
/// # Errors
///
/// When the step does not take its configuration.
pub fn arbitrary(
    trial: &Trial,
    samples: &[Message],
    seed: u64,
    cases: usize,
) -> Result<Findings, TrialError> {
    let mut random = StdRng::seed_from_u64(seed);
    let kept = if trial.has_state() { trial.kept(samples)? } else { None };
    let mut findings =
        Findings { seed, cases: 0, refused: 0, took: Duration::ZERO, case: None, kept };
    let start = Instant::now();
    while findings.cases < cases {
        let count = BATCH.min(cases - findings.cases);
        let mut batch: Vec<Message> = (0..count).map(|_| message(&mut random, samples)).collect();
        if trial.has_state() && !random.random_ratio(1, 4) {
            // One far ahead would make those behind it late, and a step is not given them.
            for message in &mut batch {
                let day = 24 * 3_600 * 1_000_000_000;
                message.timestamp = Time::DEFAULT.nanoseconds() + message.timestamp % day;
            }
        }
        let mut tried = give(trial, &batch)?;
        findings.cases += count;
        // Asking for a retry ends the call, so that what comes after it was not looked at.
        if tried.retry {
            tried.refused = 0;
            for message in &batch {
                let alone = give(trial, std::slice::from_ref(message))?;
                tried.refused += alone.refused + usize::from(alone.retry);
                if let Some(ended) = alone.ended {
                    findings.took = start.elapsed();
                    let batch = vec![message.clone()];
                    findings.case = Some(Search::new(trial).smallest(batch, ended)?);
                    return Ok(findings);
                }
            }
        }
        findings.refused += tried.refused;
        if let Some(ended) = tried.ended {
            findings.took = start.elapsed();
            findings.case = Some(Search::new(trial).smallest(batch, ended)?);
            return Ok(findings);
        }
    }
    findings.took = start.elapsed();
    Ok(findings)
}

struct Given {
    refused: usize,
    retry: bool,
    ended: Option<Ended>,
}

fn give(trial: &Trial, messages: &[Message]) -> Result<Given, TrialError> {
    if trial.has_state() {
        let (refused, retry, ended) = trial.fold_all(messages)?;
        return Ok(Given { refused, retry, ended });
    }
    let outcome = trial.call(messages)?;
    let refused = trial.rejected(&outcome);
    let (retry, ended) = match outcome.answer {
        Answer::Done => (false, None),
        Answer::Refused(text) => (text.starts_with("retry"), None),
        Answer::Trap(text) => (false, Some(Ended::Trap(text))),
        Answer::Timeout(limit) => (false, Some(Ended::Timeout(limit))),
    };
    Ok(Given { refused, retry, ended })
}

/// The search for the smallest case.
struct Search<'t> {
    trial: &'t Trial,
    start: Instant,
    tries: usize,
}

impl<'t> Search<'t> {
    fn new(trial: &'t Trial) -> Self {
        Self { trial, start: Instant::now(), tries: 0 }
    }

    /// How a call ends with these; nothing where it ends well, or there is no more patience.
    fn ends(&mut self, messages: &[Message]) -> Result<Option<Ended>, TrialError> {
        if self.tries >= TRIES || self.start.elapsed() > PATIENCE {
            return Ok(None);
        }
        self.tries += 1;
        Ok(give(self.trial, messages)?.ended)
    }

    fn smallest(
        mut self,
        mut messages: Vec<Message>,
        mut ended: Ended,
    ) -> Result<Case, TrialError> {
        while messages.len() > 1 {
            let (first, second) = messages.split_at(messages.len() / 2);
            let (first, second) = (first.to_vec(), second.to_vec());
            if let Some(so) = self.ends(&first)? {
                (messages, ended) = (first, so);
            } else if let Some(so) = self.ends(&second)? {
                (messages, ended) = (second, so);
            } else {
                break;
            }
        }
        if let [only] = messages.as_slice() {
            let mut only = only.clone();
            ended = self.shrink(&mut only, ended)?;
            messages = vec![only];
        }
        Ok(Case { ended, messages, tries: self.tries })
    }

    /// Takes away from a message what it traps without.
    fn shrink(&mut self, message: &mut Message, mut ended: Ended) -> Result<Ended, TrialError> {
        let simpler: [fn(&mut Message); 5] = [
            |m| m.headers.clear(),
            |m| m.key = None,
            |m| m.content_type = None,
            |m| m.topic.clear(),
            |m| m.timestamp = Time::DEFAULT.nanoseconds(),
        ];
        for change in simpler {
            let mut other = message.clone();
            change(&mut other);
            if other != *message
                && let Some(so) = self.ends(std::slice::from_ref(&other))?
            {
                (*message, ended) = (other, so);
            }
        }
        // Ever smaller pieces of the payload.
        let mut piece = message.payload.len();
        while piece > 0 {
            let mut at = 0;
            while at < message.payload.len() {
                let end = (at + piece).min(message.payload.len());
                let mut other = message.clone();
                other.payload.drain(at..end);
                match self.ends(std::slice::from_ref(&other))? {
                    Some(so) => (*message, ended) = (other, so),
                    None => at = end,
                }
            }
            piece /= 2;
        }
        Ok(ended)
    }
}

/// A message of any content.
fn message(random: &mut StdRng, samples: &[Message]) -> Message {
    let like = samples.choose(random).cloned();
    let mut message = match like {
        // Near to what is right is where most goes wrong.
        Some(sample) if !random.random_ratio(1, 3) => {
            let payload = mutated(random, &sample.payload);
            Message { payload, ..sample }
        }
        _ => Message {
            timestamp: Time::DEFAULT.nanoseconds(),
            payload: payload(random),
            ..Message::default()
        },
    };
    if random.random_ratio(1, 3) {
        message.topic = string(random);
    }
    if random.random_ratio(1, 3) {
        message.key = (!random.random_ratio(1, 3)).then(|| bytes(random, 40));
    }
    if random.random_ratio(1, 4) {
        message.content_type = (!random.random_ratio(1, 3)).then(|| string(random));
    }
    if random.random_ratio(1, 3) {
        let count = random.random_range(0..6);
        message.headers = (0..count).map(|_| (string(random), string(random))).collect();
    }
    if random.random_ratio(1, 4) {
        // The last is in the year 2262: as far as a signed count of nanoseconds goes.
        let times = [0, 1, 999_999_999, i64::MAX as u64, random.random::<u64>() >> 1];
        message.timestamp = times.choose(random).copied().unwrap_or(0);
    }
    message
}

const ODD: [&str; 30] = [
    "",
    " ",
    "\n",
    "0",
    "-0",
    "-1",
    "1e308",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[",
    "{\"",
    "9007199254740993",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "0x10",
    "1_000",
    "1,5",
    "\u{feff}1",
    "\0",
    "٣",
    "e\u{301}\u{202e}",
    "%s%n",
];

fn payload(random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..8) {
        0 => Vec::new(),
        1 | 2 => bytes(random, 64),
        3 => bytes(random, 64 * 1024),
        4 => string(random).into_bytes(),
        5 => odd(random).into_bytes(),
        6 => {
            // Deeper than a reader of JSON with a stack may go.
            let depth = random.random_range(0..3_000);
            "[".repeat(depth).into_bytes()
        }
        _ => json(random, 4).to_string().into_bytes(),
    }
}

/// Fewer bytes than so many.
fn bytes(random: &mut StdRng, many: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..many)];
    random.fill(bytes.as_mut_slice());
    bytes
}

fn odd(random: &mut StdRng) -> String {
    ODD.choose(random).copied().unwrap_or_default().to_owned()
}

fn string(random: &mut StdRng) -> String {
    match random.random_range(0..6) {
        0 => String::new(),
        1 => odd(random),
        2 => {
            let length = random.random_range(0..20);
            (0..length).map(|_| char::from(random.random_range(b' '..=b'~'))).collect()
        }
        3 => {
            let length = random.random_range(0..20);
            (0..length).map(|_| random.random::<char>()).collect()
        }
        4 => "plant/press-1/temperature".to_owned(),
        _ if random.random_ratio(1, 8) => "x".repeat(STRING),
        _ => "x".to_owned(),
    }
}

fn json(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => Value::Bool(random.random()),
        2 => Value::from(random.random::<u64>()),
        3 => Value::from(random.random::<i64>()),
        4 => Value::from(f64::from_bits(random.random())),
        5 => Value::from(string(random)),
        6 | 7 => {
            let count = random.random_range(0..4);
            let fields = (0..count).map(|_| (string(random), json(random, depth - 1)));
            Value::Object(fields.collect())
        }
        _ => {
            let count = random.random_range(0..4);
            Value::Array((0..count).map(|_| json(random, depth - 1)).collect())
        }
    }
}

/// A sample with something changed in it: in its JSON where it is some, else in its bytes.
fn mutated(random: &mut StdRng, payload: &[u8]) -> Vec<u8> {
    if !random.random_ratio(1, 3)
        && let Ok(mut value) = serde_json::from_slice::<Value>(payload)
    {
        change(random, &mut value, 4);
        return value.to_string().into_bytes();
    }
    let mut bytes = payload.to_vec();
    for _ in 0..=random.random_range(0..3) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            3 => {
                let odd = odd(random).into_bytes();
                bytes.splice(at..at, odd);
            }
            _ => {
                let tail = bytes.split_off(at);
                bytes.extend(tail.repeat(2));
            }
        }
    }
    bytes
}

/// Puts something else in one place of a JSON value, or takes a field away.
fn change(random: &mut StdRng, value: &mut Value, depth: usize) {
    let inside = depth > 0 && !random.random_ratio(1, 4);
    match value {
        Value::Object(fields) if inside && !fields.is_empty() => {
            let place = random.random_range(0..fields.len());
            let Some(name) = fields.keys().nth(place).cloned() else { return };
            if random.random_ratio(1, 4) {
                fields.remove(&name);
            } else if let Some(field) = fields.get_mut(&name) {
                change(random, field, depth - 1);
            }
        }
        Value::Array(items) if inside && !items.is_empty() => {
            if let Some(item) = items.choose_mut(random) {
                change(random, item, depth - 1);
            }
        }
        other => *other = json(random, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_messages() {
        let samples = [Message { payload: b"{\"value\":1}".to_vec(), ..Message::default() }];
        let all = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..200).map(|_| message(&mut random, &samples)).collect::<Vec<_>>()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        assert!(all(7).iter().all(|m| m.topic.len() <= STRING));
        assert!(all(7).iter().any(|m| std::str::from_utf8(&m.payload).is_err()));
    }
}
