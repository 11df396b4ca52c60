//! What a step may be granted, and how it asks for what lies outside of it.
//!
//! A step computes, and nothing else, unless its definition grants it something. What lies in the host's process (time,
//! random numbers, log lines) is decided when its stage is composed. What lies outside (key-value, HTTP) is asked of the
//! provider that its stage is linked to, which is told the grants of each step and holds every request against them: what a
//! step asks for is only known when it does. What a step gives to sinks, the sinks hold against its [`Place`]s.
//!
//! - [`Grant`]: what there is to be granted, and how a definition writes it
//! - [`Request`] and [`Reply`]: what goes between the harness of a stage and the provider: batches, as everywhere
//! - [`Refused`]: why a request is not granted
//!
//! The same code runs in the wasm harness, at the desk and in the provider.

mod grant;
mod key;
mod place;
mod request;
mod url;

pub use grant::{Access, Grant, UnknownGrant};
pub use key::{decode as decode_key, encode as encode_key, KEY_MAX};
pub use place::{Names, Place, PlaceError, Target, TopicFilter};
pub use request::{
    Failure, FailureKind, Refused, Reply, Request, RequestError, Use, AWAY, FROM_KEY, KEYS_MAX,
    LINK_KEY, REQUEST_MAX, SERVERS_KEY, SUBJECT, TIMEOUT_MS, VALUE_MAX, WRITERS_KEY,
};
pub use url::{Authority, UrlError};
