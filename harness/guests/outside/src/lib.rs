//! Asks for what lies outside of a stage, in the name of one step.
//!
//! Each step that was granted something outside has an instance of its own, and composing the stage writes the step's name
//! into it, so a step cannot speak for another. Nothing is decided here: the provider behind the stage's link knows the grants,
//! and holds every request against them.
//!
//! What is read during one call of the stage is kept until its end: an instance lives for one call, a batch often has the
//! same key many times, and a step reads what it has written.
#![allow(
    unsafe_code,
    reason = "generated bindings, and the step's name is read as what it has become"
)]

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../../wit/deps/config",
            "../../../wit/deps/logging",
            "../../../wit/deps/messaging",
            "../../../wit/step",
            "../../../wit/stage",
        ],
        world: "millrace:stage/outside",
        generate_all,
    });
    use super::Outside;
    export!(Outside);
}

use std::cell::RefCell;
use std::collections::BTreeMap;

use bindings::exports::millrace::step::http::{Guest as Http, Request as HttpRequest, Response};
use bindings::exports::millrace::step::key_value::Guest as KeyValue;
use bindings::millrace::step::types::Error;
use bindings::wasmcloud::messaging::consumer;
use millrace_grants::{
    Failure, FailureKind, Reply, Request, Use, AWAY, KEYS_MAX, KEY_MAX, SUBJECT, TIMEOUT_MS,
};

/// Most bytes of values that are kept for the rest of a call.
const KEPT_MAX: usize = 4 * 1024 * 1024;

/// Most keys of one call of `get-many`.
const MANY_MAX: usize = 10_000;

/// Most bytes of values that one call of `get-many` gives: as much as a batch may have.
const MANY_BYTES: usize = 16 * 1024 * 1024;

/// The name of the step, which composing the stage writes over this, with a zero behind it.
#[used]
static STEP: [u8; 64] = *b"millrace: the name of the step is written here when composed....";

struct Outside;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { values: BTreeMap::new(), bytes: 0 }) };
}

/// What is known of buckets in this call.
struct Kept {
    values: BTreeMap<(String, Vec<u8>), Option<Vec<u8>>>,
    bytes: usize,
}

impl Kept {
    fn put(&mut self, bucket: &str, key: &[u8], value: Option<&[u8]>) {
        let place = (bucket.to_owned(), key.to_vec());
        let size =
            |value: Option<&[u8]>| bucket.len() + key.len() + value.map_or(0, <[u8]>::len) + 64;
        // Also when there is no room: what was known is not true any longer.
        if let Some(old) = self.values.remove(&place) {
            self.bytes = self.bytes.saturating_sub(size(old.as_deref()));
        }
        let bytes = size(value);
        if self.bytes.saturating_add(bytes) <= KEPT_MAX {
            self.bytes += bytes;
            self.values.insert(place, value.map(<[u8]>::to_vec));
        }
    }

    fn get(&self, bucket: &str, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.values.get(&(bucket.to_owned(), key.to_vec())).cloned()
    }
}

impl KeyValue for Outside {
    fn get(bucket: String, key: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        Ok(Self::get_many(bucket, vec![key])?.pop().flatten())
    }

    fn get_many(bucket: String, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Vec<u8>>>, Error> {
        if keys.len() > MANY_MAX {
            return Err(Error::InvalidArgument(format!(
                "{} keys at once; at most {MANY_MAX} are allowed",
                keys.len()
            )));
        }
        let mut found: BTreeMap<&[u8], Option<Vec<u8>>> = BTreeMap::new();
        let mut bytes = 0usize;
        let mut unknown: Vec<Vec<u8>> = Vec::new();
        for key in &keys {
            if key.len() > KEY_MAX {
                return Err(Error::InvalidArgument(format!(
                    "a key of {} bytes; at most {KEY_MAX} are allowed",
                    key.len()
                )));
            }
            if found.contains_key(key.as_slice()) {
                continue;
            }
            let known = KEPT.with_borrow(|kept| kept.get(&bucket, key));
            if known.is_none() {
                unknown.push(key.clone());
            }
            found.insert(key, known.flatten());
        }
        for chunk in unknown.chunks(KEYS_MAX) {
            let values = fetch(&bucket, chunk)?;
            bytes += values.iter().flatten().map(Vec::len).sum::<usize>();
            if bytes > MANY_BYTES {
                return Err(too_many_bytes());
            }
            for (key, value) in chunk.iter().zip(values) {
                KEPT.with_borrow_mut(|kept| kept.put(&bucket, key, value.as_deref()));
                if let Some(place) = found.get_mut(key.as_slice()) {
                    *place = value;
                }
            }
        }
        // A key that is named often has its value as often.
        let value = |key: &Vec<u8>| found.get(key.as_slice()).and_then(Option::as_deref);
        if keys.iter().filter_map(value).map(<[u8]>::len).sum::<usize>() > MANY_BYTES {
            return Err(too_many_bytes());
        }
        Ok(keys.iter().map(|key| value(key).map(<[u8]>::to_vec)).collect())
    }

    fn set(bucket: String, key: Vec<u8>, value: Vec<u8>) -> Result<(), Error> {
        ask(Use::Set { bucket: bucket.clone(), key: key.clone(), value: value.clone() })?;
        KEPT.with_borrow_mut(|kept| kept.put(&bucket, &key, Some(&value)));
        Ok(())
    }

    fn delete(bucket: String, key: Vec<u8>) -> Result<(), Error> {
        ask(Use::Delete { bucket: bucket.clone(), key: key.clone() })?;
        KEPT.with_borrow_mut(|kept| kept.put(&bucket, &key, None));
        Ok(())
    }
}

impl Http for Outside {
    fn send(request: HttpRequest) -> Result<Response, Error> {
        let HttpRequest { method, url, headers, body } = request;
        let method = method.to_ascii_lowercase();
        match ask(Use::Http { method, url, headers, body })? {
            Reply::Http { status, headers, body } => Ok(Response { status, headers, body }),
            _ => Err(Error::Retry(format!("{AWAY}the answer is to another request"))),
        }
    }
}

fn too_many_bytes() -> Error {
    Error::InvalidArgument(format!("values of more than {MANY_BYTES} bytes at once; ask for less"))
}

/// Values of keys; asked for in two halves where they do not fit into one answer.
fn fetch(bucket: &str, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    match request(Use::Get { bucket: bucket.to_owned(), keys: keys.to_vec() }) {
        Ok(Reply::Values(values)) => Ok(values),
        Err(Failure { kind: FailureKind::TooLarge, .. }) if keys.len() > 1 => {
            let (first, second) = keys.split_at(keys.len() / 2);
            let mut values = fetch(bucket, first)?;
            values.extend(fetch(bucket, second)?);
            Ok(values)
        }
        Ok(_) => Err(Error::Retry(format!("{AWAY}the answer is to another request"))),
        Err(failure) => Err(meaning(failure)),
    }
}

fn ask(what: Use) -> Result<Reply, Error> {
    request(what).map_err(meaning)
}

/// What a failure means for the message that is being processed.
fn meaning(Failure { kind, text }: Failure) -> Error {
    match kind {
        FailureKind::Retry => Error::Retry(text),
        FailureKind::Away => Error::Retry(format!("{AWAY}{text}")),
        FailureKind::Refused => Error::Internal(text),
        FailureKind::Invalid | FailureKind::TooLarge => Error::InvalidArgument(text),
    }
}

fn request(what: Use) -> Result<Reply, Failure> {
    let invalid = |text: String| Failure { kind: FailureKind::Invalid, text };
    let request = Request { step: step(), what };
    let body = request.encode().map_err(|error| invalid(error.to_string()))?;
    // Read here as it will be there: what is wrong need not travel.
    Request::decode(&body)?;
    let answer = consumer::request(SUBJECT, &body, TIMEOUT_MS)?;
    Reply::decode(&request.what, &answer.body)
        .map_err(|error| Failure { kind: FailureKind::Away, text: error.to_string() })
}

/// The step's name.
fn step() -> String {
    // SAFETY: a static of this program. Volatile, because the compiler knows another content than the one it has at run time.
    let bytes = unsafe { std::ptr::read_volatile(&raw const STEP) };
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}
