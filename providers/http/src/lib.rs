//! HTTP as source: one server an address, whatever number of sources.
//!
//! **The way of a request.** A connection belongs to a server ([`Doors`] has one for each address); its path and method say
//! which source takes the request. Then, in this order and each with an answer of its own: the client's rate, who sends
//! (module `auth`), the source's rate, what is sent, whether there is room for it. Only then the body is read. Its messages
//! go to the source's task, which has the kit's inlet, and the request waits until all of them are safe: 202.
//!
//! **What is promised.** 202 means that every message of the request is taken by the next durable thing or kept as a dead
//! letter. Any other answer, or none, means that the client has to send again: some messages may have been taken, all may.
//! So clients see at-least-once delivery, and a header `Idempotency-Key`, which every message carries, lets a `de-duplicate`
//! make it once.
//!
//! **Memory is bounded** before anything is read: a connection has a head of at most [`HEAD_MAX`] bytes, connections are
//! bounded in all and by client, a body has its bytes set aside out of those of its source, and messages hold theirs until
//! they are safe. What finds no room is told 503 and when to come again.
//!
//! **Nothing is shown.** Of tokens only digests are kept, comparisons take the same time whatever is compared, and no answer
//! says why somebody is not let in.

mod answer;
mod auth;
mod door;
#[cfg(fuzzing)]
pub mod fuzz;
mod path;
mod rate;
mod read;
mod source;
mod split;
mod tls;
mod watched;
mod way;

#[cfg(feature = "provider")]
mod connector;
#[cfg(feature = "provider")]
mod trial;

#[cfg(feature = "provider")]
pub use connector::Http;
pub use door::{CLIENT_CONNECTIONS, CONNECTIONS, Doors, HEAD_MAX, Patience};
pub use source::{HELD_BYTES, HttpSource};
