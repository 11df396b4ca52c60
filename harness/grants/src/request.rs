//! A request of a stage for what lies outside of it, and the answer. Both are batches: the same bounds and the same reader as
//! for everything else that travels.

use std::fmt;

use millrace_batch::{Batch, BatchWriter, Fields, ReadError, WriteError};

use crate::grant::{Access, Grant};
use crate::key::KEY_MAX;
use crate::url::{Authority, UrlError};

/// Subject of requests. They go along the stage's link, whatever it says.
pub const SUBJECT: &str = "millrace.use";

/// Key of a link's settings: a JSON object of the grants of each step that has any, as its provider is told.
pub const LINK_KEY: &str = "grants";

/// Key of the settings of a stage's link to a sink: a JSON object of the sources and steps before the sink, each with an object of
/// the steps whose grants its messages are held to.
pub const WRITERS_KEY: &str = "writers";

/// Key of the settings of an edge before a sink: the source or step that its batches are of, which the stage is told.
pub const FROM_KEY: &str = "from";

/// Key of a link's settings: a JSON object of what is known of servers, by the names that grants have for them.
pub const SERVERS_KEY: &str = "servers";

/// How long a request may take in milliseconds. Below what the host gives a call out of a stage: past that the stage would
/// trap, and a trap looks like the messages' fault.
pub const TIMEOUT_MS: u32 = 3_000;

/// Most keys of one request.
pub const KEYS_MAX: usize = 500;

/// Largest request or answer, in bytes: it has to fit into a message of NATS.
pub const REQUEST_MAX: usize = 900 * 1024;

/// Largest value of a key and largest content of a request or response of HTTP, in bytes.
pub const VALUE_MAX: usize = 512 * 1024;

/// Most headers of a request of HTTP.
const HEADERS_MAX: usize = 64;

/// What an error of the type `retry` begins with that is not the step's own: who does what it asked for is away. Its batch
/// waits, as for everything else that is away, and is not tried so many times. A step that says so itself waits as well.
pub const AWAY: &str = "away: ";

/// Header fields that are about the connection (RFC 9110, section 7.6.1) or say where the request goes: not a step's.
const OWN: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Whether this is a header field that a step may send (RFC 9110, sections 5.1 and 5.5).
fn header_is_right(name: &str, value: &str) -> Result<(), RequestError> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(RequestError::Shape(
            "the name of a header field has other characters than it may",
        ));
    }
    if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(RequestError::Shape("a header field about the connection is the platform's"));
    }
    if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err(RequestError::Shape("the value of a header field has control characters"));
    }
    Ok(())
}

const USE: &str = "use";
const STEP: &str = "step";
const BUCKET: &str = "bucket";
const METHOD: &str = "method";

/// What a message of an answer is called that has a value, and one that has none.
const FOUND: &str = "found";
const ABSENT: &str = "absent";

/// A request: what a step wants to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the step, as the harness says: a composed step cannot say another.
    pub step: String,
    /// What it wants.
    pub what: Use,
}

/// Something outside that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// The values of some keys.
    Get {
        /// The bucket.
        bucket: String,
        /// The keys: 1 to [`KEYS_MAX`].
        keys: Vec<Vec<u8>>,
    },
    /// Another value for a key.
    Set {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// No value for a key.
    Delete {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Vec<u8>,
    },
    /// A request of HTTP.
    Http {
        /// The method, in lower case.
        method: String,
        /// The URL.
        url: String,
        /// Header fields.
        headers: Vec<(String, String)>,
        /// The content.
        body: Vec<u8>,
    },
}

/// A request that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a batch.
    #[error("{0}")]
    Batch(#[from] ReadError),
    /// Too much of something, or something is not there.
    #[error("{0}")]
    Shape(&'static str),
    /// Not a URL that can be used.
    #[error("{0}")]
    Url(#[from] UrlError),
}

/// A request that is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not granted to step `{step}`; the grant would be `{grant}`")]
pub struct Refused {
    /// The step.
    pub step: String,
    /// What it wanted, for people.
    pub what: String,
    /// What would allow it.
    pub grant: String,
}

impl Request {
    /// The bytes of the request.
    ///
    /// # Errors
    ///
    /// Something in it is too long.
    pub fn encode(&self) -> Result<Vec<u8>, WriteError> {
        let (name, extra) = match &self.what {
            Use::Get { bucket, .. } => ("kv-get", (BUCKET, bucket)),
            Use::Set { bucket, .. } => ("kv-set", (BUCKET, bucket)),
            Use::Delete { bucket, .. } => ("kv-delete", (BUCKET, bucket)),
            Use::Http { method, .. } => ("http", (METHOD, method)),
        };
        let headers = [(USE, name), (STEP, self.step.as_str()), (extra.0, extra.1.as_str())];
        let mut writer = BatchWriter::new(headers)?;
        match &self.what {
            Use::Get { keys, .. } => {
                for key in keys {
                    writer.push(&Fields { key: Some(key), ..Fields::default() }, [])?;
                }
            }
            Use::Set { key, value, .. } => {
                let fields = Fields { key: Some(key), payload: value, ..Fields::default() };
                writer.push(&fields, [])?;
            }
            Use::Delete { key, .. } => {
                writer.push(&Fields { key: Some(key), ..Fields::default() }, [])?;
            }
            Use::Http { url, headers, body, .. } => {
                let fields = Fields { topic: url, payload: body, ..Fields::default() };
                writer.push(&fields, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())))?;
            }
        }
        Ok(writer.finish())
    }

    /// Reads a request. The bytes may be anybody's.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        const NO_KEY: RequestError = RequestError::Shape("a request for a key has none");
        if bytes.len() > REQUEST_MAX {
            return Err(RequestError::Shape("the request is larger than 900 KiB"));
        }
        let batch = Batch::parse(bytes)?;
        let header = |name| batch.header(name).unwrap_or_default().to_owned();
        let mut messages = batch.messages();
        let key = |key: Option<&[u8]>| {
            let key = key.ok_or(NO_KEY)?;
            if key.len() > KEY_MAX {
                return Err(RequestError::Shape("a key is longer than 1 KiB"));
            }
            Ok(key.to_vec())
        };
        let what = match batch.header(USE) {
            Some("kv-get") => {
                if batch.is_empty() || batch.len() > KEYS_MAX {
                    return Err(RequestError::Shape("1 to 500 keys can be asked for at once"));
                }
                let keys = messages.map(|m| key(m.key)).collect::<Result<_, _>>()?;
                return Ok(Self {
                    step: header(STEP),
                    what: Use::Get { bucket: header(BUCKET), keys },
                });
            }
            Some("kv-set") => {
                let message = messages.next().ok_or(NO_KEY)?;
                if message.payload.len() > VALUE_MAX {
                    return Err(RequestError::Shape("the value is larger than 512 KiB"));
                }
                let value = message.payload.to_vec();
                Use::Set { bucket: header(BUCKET), key: key(message.key)?, value }
            }
            Some("kv-delete") => {
                let message = messages.next().ok_or(NO_KEY)?;
                Use::Delete { bucket: header(BUCKET), key: key(message.key)? }
            }
            Some("http") => {
                let message = messages.next().ok_or(RequestError::Shape("a request has no URL"))?;
                if message.payload.len() > VALUE_MAX || message.headers().count() > HEADERS_MAX {
                    return Err(RequestError::Shape(
                        "a request of HTTP has at most 64 headers and 512 KiB of content",
                    ));
                }
                Authority::of_url(message.topic)?;
                message.headers().try_for_each(|(name, value)| header_is_right(name, value))?;
                let headers = message.headers().map(|(n, v)| (n.to_owned(), v.to_owned()));
                Use::Http {
                    method: header(METHOD),
                    url: message.topic.to_owned(),
                    headers: headers.collect(),
                    body: message.payload.to_vec(),
                }
            }
            _ => return Err(RequestError::Shape("this is no request that is known")),
        };
        if messages.next().is_some() {
            return Err(RequestError::Shape("this request is for one thing at a time"));
        }
        Ok(Self { step: header(STEP), what })
    }

    /// Holds the request against what its step was granted.
    ///
    /// # Errors
    ///
    /// It is not granted; the error says what would be.
    pub fn check<'g>(&self, grants: impl IntoIterator<Item = &'g Grant>) -> Result<(), Refused> {
        let mut grants = grants.into_iter();
        let allowed = match &self.what {
            Use::Get { bucket, .. } => {
                grants.any(|g| matches!(g, Grant::KeyValue { bucket: own, .. } if own == bucket))
            }
            Use::Set { bucket, .. } | Use::Delete { bucket, .. } => grants.any(|grant| {
                matches!(grant, Grant::KeyValue { access: Access::Write, bucket: own } if own == bucket)
            }),
            Use::Http { method, url, .. } => Authority::of_url(url).is_ok_and(|server| {
                grants.any(|grant| {
                    matches!(grant, Grant::Http { method: own, server: granted }
                        if own == method && granted.allows(&server, url))
                })
            }),
        };
        if allowed {
            return Ok(());
        }
        Err(Refused { step: shown(&self.step), what: self.what.to_string(), grant: self.grant() })
    }

    /// The grant that would allow it, as a definition writes it.
    fn grant(&self) -> String {
        match &self.what {
            Use::Get { bucket, .. } => format!("kv:read:{}", shown(bucket)),
            Use::Set { bucket, .. } | Use::Delete { bucket, .. } => format!("kv:{}", shown(bucket)),
            Use::Http { method, url, .. } => {
                let server = Authority::of_url(url).map(|server| {
                    let implied = if url.starts_with("https:") { 443 } else { 80 };
                    let port = server.port.filter(|port| *port != implied);
                    Authority { port, ..server }.to_string()
                });
                format!("http:{}:{}", shown(method), server.unwrap_or_else(|_| "HOST".to_owned()))
            }
        }
    }
}

/// What is used, for people: no content, and of a URL only the server, because the rest may be confidential.
impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { bucket, .. } => write!(f, "reading of bucket `{}`", shown(bucket)),
            Self::Set { bucket, .. } | Self::Delete { bucket, .. } => {
                write!(f, "changing bucket `{}`", shown(bucket))
            }
            Self::Http { method, url, .. } => match Authority::of_url(url) {
                Ok(server) => write!(f, "{} to `{server}`", shown(method).to_uppercase()),
                Err(error) => write!(f, "{} to a URL ({error})", shown(method).to_uppercase()),
            },
        }
    }
}

/// A text of a step, for a message of one line.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Values, in the order of the keys; `None` for a key without one.
    Values(Vec<Option<Vec<u8>>>),
    /// It is done.
    Done,
    /// A response of HTTP.
    Http {
        /// Status code.
        status: u16,
        /// Header fields.
        headers: Vec<(String, String)>,
        /// The content.
        body: Vec<u8>,
    },
}

impl Reply {
    /// The bytes of the answer.
    ///
    /// # Errors
    ///
    /// [`FailureKind::TooLarge`], when it does not fit into a message.
    pub fn encode(&self) -> Result<Vec<u8>, Failure> {
        let too_large = |what: &dyn fmt::Display| Failure {
            kind: FailureKind::TooLarge,
            text: format!("the answer cannot be sent: {what}"),
        };
        let bytes = self.write().map_err(|error| too_large(&error))?;
        if bytes.len() > REQUEST_MAX {
            return Err(too_large(&format_args!("it is {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = BatchWriter::new([])?;
        match self {
            Self::Values(values) => {
                for value in values {
                    let topic = if value.is_some() { FOUND } else { ABSENT };
                    let payload = value.as_deref().unwrap_or_default();
                    writer.push(&Fields { topic, payload, ..Fields::default() }, [])?;
                }
            }
            Self::Done => {}
            Self::Http { status, headers, body } => {
                let status = status.to_string();
                let fields = Fields { topic: &status, payload: body, ..Fields::default() };
                writer.push(&fields, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())))?;
            }
        }
        Ok(writer.finish())
    }

    /// Reads the answer to a request.
    ///
    /// # Errors
    ///
    /// It is none to this request.
    pub fn decode(what: &Use, bytes: &[u8]) -> Result<Self, RequestError> {
        const OTHER: RequestError = RequestError::Shape("this is no answer to the request");
        let batch = Batch::parse(bytes)?;
        let mut messages = batch.messages();
        match what {
            Use::Get { keys, .. } if batch.len() == keys.len() => {
                let value = |m: millrace_batch::Message<'_>| match m.topic {
                    FOUND => Some(m.payload.to_vec()),
                    _ => None,
                };
                Ok(Self::Values(messages.map(value).collect()))
            }
            Use::Set { .. } | Use::Delete { .. } if batch.is_empty() => Ok(Self::Done),
            Use::Http { .. } => {
                let message = messages.next().ok_or(OTHER)?;
                Ok(Self::Http {
                    status: message.topic.parse().map_err(|_| OTHER)?,
                    headers: message.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                    body: message.payload.to_vec(),
                })
            }
            _ => Err(OTHER),
        }
    }
}

/// Why a request came to nothing. As text it is `<kind>: <text>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", kind.name())]
pub struct Failure {
    /// What it means for the message that is being processed.
    pub kind: FailureKind,
    /// For people.
    pub text: String,
}

/// What a failed request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Not granted.
    Refused,
    /// It cannot be done as it is.
    Invalid,
    /// It was not done, and may be another time, or never: the server was too slow.
    Retry,
    /// Who does it is away: nothing that is asked for can be done now.
    Away,
    /// What would come back does not fit into a message: ask for less.
    TooLarge,
}

impl FailureKind {
    const ALL: [Self; 5] = [Self::Refused, Self::Invalid, Self::Retry, Self::Away, Self::TooLarge];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Retry => "retry",
            Self::Away => "away",
            Self::TooLarge => "too-large",
        }
    }
}

impl From<String> for Failure {
    /// A text that is none of a failure is of somebody in between: then it cannot be done now.
    fn from(text: String) -> Self {
        let known = text.split_once(": ").and_then(|(kind, text)| {
            let kind = FailureKind::ALL.into_iter().find(|known| known.name() == kind)?;
            Some(Self { kind, text: text.to_owned() })
        });
        known.unwrap_or(Self { kind: FailureKind::Away, text })
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self { kind: FailureKind::Invalid, text: error.to_string() }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { kind: FailureKind::Refused, text: refused.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_use() -> impl Strategy<Value = Use> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        prop_oneof![
            ("[ab]", proptest::collection::vec(bytes(), 1..5))
                .prop_map(|(bucket, keys)| Use::Get { bucket, keys }),
            ("[ab]", bytes(), bytes()).prop_map(|(bucket, key, value)| Use::Set {
                bucket,
                key,
                value
            }),
            ("[ab]", bytes()).prop_map(|(bucket, key)| Use::Delete { bucket, key }),
            ("get|post|trace", "https?://[ab](:80|:443)?/[a-z]{0,9}", bytes()).prop_map(
                |(method, url, body)| Use::Http {
                    method,
                    url,
                    headers: vec![("accept".to_owned(), "*/*".to_owned())],
                    body,
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_request_comes_back(step in "[a-z-]{0,40}", what in any_use()) {
            let request = Request { step, what };
            prop_assert_eq!(Request::decode(&request.encode().unwrap()).unwrap(), request);
        }

        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            for what in [Use::Delete { bucket: "a".into(), key: vec![] }, Use::Get { bucket: "a".into(), keys: vec![vec![]] }] {
                let _ = Reply::decode(&what, &bytes);
            }
        }

        /// What one step is granted no other request gets.
        #[test]
        fn only_what_is_granted_is_allowed(what in any_use(), other in any_use()) {
            let request = |what: &Use| Request { step: "s".to_owned(), what: what.clone() };
            let grant: Grant = match request(&what).grant().parse() {
                Ok(grant) => grant,
                // Not a method that can be granted.
                Err(_) => return Ok(()),
            };
            prop_assert_eq!(request(&what).check([&grant]), Ok(()));
            prop_assert!(request(&what).check([]).is_err());
            let same = request(&other).check([&grant]).is_ok();
            let least = request(&other).grant().parse::<Grant>();
            // A grant that writes reads as well.
            let reads = matches!((&grant, &least), (Grant::KeyValue { bucket: a, .. }, Ok(Grant::KeyValue { access: Access::Read, bucket: b })) if a == b);
            // The same server in another spelling: a grant without a port is for those of both schemes.
            let server = |what: &Use| match what {
                Use::Http { method, url, .. } => {
                    let asked = Authority::of_url(url).unwrap();
                    Some((method.clone(), asked.host, asked.port))
                }
                _ => None,
            };
            let http = match &grant {
                Grant::Http { method, server: granted } => server(&other).is_some_and(|(m, h, port)| {
                    let implied = if matches!(&other, Use::Http { url, .. } if url.starts_with("https")) { 443 } else { 80 };
                    m == *method && h == granted.host && port == Some(granted.port.unwrap_or(implied))
                }),
                _ => false,
            };
            prop_assert_eq!(same, least.as_ref() == Ok(&grant) || reads || http);
        }
    }

    #[test]
    fn answers_come_back_to_their_request() {
        let get = Use::Get { bucket: "a".into(), keys: vec![b"x".to_vec(), b"y".to_vec()] };
        let values = Reply::Values(vec![Some(Vec::new()), None]);
        let bytes = values.encode().unwrap();
        assert_eq!(Reply::decode(&get, &bytes).unwrap(), values);
        let one = Use::Get { bucket: "a".into(), keys: vec![b"x".to_vec()] };
        assert!(Reply::decode(&one, &bytes).is_err());
        let http = Use::Http {
            method: "get".into(),
            url: "http://a/".into(),
            headers: vec![],
            body: vec![],
        };
        let response = Reply::Http {
            status: 404,
            headers: vec![("a".into(), "b".into())],
            body: b"no".to_vec(),
        };
        assert_eq!(Reply::decode(&http, &response.encode().unwrap()).unwrap(), response);
        assert!(Reply::decode(&http, &bytes).is_err());
        let large = Reply::Values(vec![Some(vec![0; REQUEST_MAX])]);
        assert_eq!(large.encode().unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn a_request_out_of_bounds_is_refused() {
        let refused = |what| {
            let bytes = Request { step: "s".into(), what }.encode().unwrap();
            Request::decode(&bytes).unwrap_err().to_string()
        };
        let keys =
            |count, length| Use::Get { bucket: "a".into(), keys: vec![vec![0; length]; count] };
        assert!(refused(keys(0, 1)).contains("1 to 500 keys"));
        assert!(refused(keys(KEYS_MAX + 1, 1)).contains("1 to 500 keys"));
        assert!(refused(keys(1, KEY_MAX + 1)).contains("longer than 1 KiB"));
        let value = vec![0; VALUE_MAX + 1];
        assert!(refused(Use::Set { bucket: "a".into(), key: vec![], value: value.clone() })
            .contains("larger than 512 KiB"));
        let http = |url: &str, headers, body| Use::Http {
            method: "get".into(),
            url: url.into(),
            headers,
            body,
        };
        assert!(refused(http("http://a", vec![], value)).contains("512 KiB of content"));
        let many = vec![("a".to_owned(), "b".to_owned()); HEADERS_MAX + 1];
        assert!(refused(http("http://a", many, vec![])).contains("at most 64 headers"));
        assert!(refused(http("http://a@b", vec![], vec![])).contains("with a user in it"));
        for (name, value) in
            [("Host", "b"), ("te", ""), ("", "x"), ("a b", "x"), ("a", "x\r\nHost: b"), ("a", "\0")]
        {
            let headers = vec![(name.to_owned(), value.to_owned())];
            assert!(refused(http("http://a/", headers, vec![])).contains("header field"), "{name}");
        }
    }

    #[test]
    fn failures_are_text_and_back() {
        for kind in FailureKind::ALL {
            let failure = Failure { kind, text: "what: it was".to_owned() };
            assert_eq!(Failure::from(failure.to_string()), failure);
        }
        let lattice = Failure::from("no responders".to_owned());
        assert_eq!(lattice.kind, FailureKind::Away);
    }

    #[test]
    fn a_refusal_says_the_grant_and_no_more_of_the_url_than_the_server() {
        let request = Request {
            step: "fetch".to_owned(),
            what: Use::Http {
                method: "post".into(),
                url: "https://api.example:444/v1?token=secret".into(),
                headers: vec![],
                body: vec![],
            },
        };
        let text = request.check([]).unwrap_err().to_string();
        assert_eq!(
            text,
            "POST to `api.example:444` is not granted to step `fetch`; the grant would be `http:post:api.example:444`"
        );
    }
}
