//! MQTT, 3.1.1 and 5, as source and as sink.
//!
//! **Source.** Subscribes and pushes each message into the kit's inlet. PUBACK
//! (QoS 1) and PUBREC (QoS 2) are sent only when the message is safe
//! downstream. Until then the broker holds it, so a crash of this process loses
//! nothing at QoS 1 and 2. They are sent in the order in which the messages
//! came, as the protocol wants it. Back-pressure: with MQTT 5 the broker sends no more
//! than `receive-maximum` unacknowledged messages; where it cannot be told
//! (3.1.1, and QoS 0) the socket is not read any more, which the broker notices
//! as TCP back-pressure. A stall that is longer than one and a half
//! `keep-alive` then ends the connection; the session is resumed after it.
//!
//! **Sink.** Publishes each message of a batch, a window of them in flight, and
//! answers ok only when every one has its PUBACK or PUBCOMP.
//!
//! **Duplicates** arise: at the source, when the connection is lost after a
//! message was taken and before it was acknowledged, at QoS 1 and 2 alike (the
//! broker sends it again; an acknowledgement that belongs to the old connection
//! is dropped). A QoS 2 message that was acknowledged on the old connection is
//! known within the process and not taken twice. At the sink, when a write
//! fails half-way and is made again, at every QoS.
//!
//! **Goodbyes.** What is closed is read to its end (module `linger`), or the
//! broker could lose the last acknowledgements. Passwords and certificates are
//! read at each connect (module `secrets`).
//!
//! **Fields.** Topic and payload are the message's. User properties are its
//! headers, the content type its content type (MQTT 5; 3.1.1 has neither, and
//! the sink leaves them out). The key travels as the user property
//! [`KEY_PROPERTY`], if it is UTF-8. The timestamp is the time of arrival.
//!
//! **The client library** is rumqttc-next 0.34 (the crates of its two protocol
//! versions), not rumqttc 0.25, for what reading both showed: 0.25 forgets at
//! every lost connection which QoS 2 packets it has answered, and takes the
//! PUBREL that the broker then repeats as a protocol error, so that a resumed
//! session with QoS 2 in flight disconnects for ever; it gives no handle on a
//! publish, so a sink would have to guess packet identifiers from events; and
//! it has `unwrap` and `unimplemented!` on paths a peer can reach. 0.34 answers
//! such a PUBREL, has tracked publishes, and keeps session state apart from
//! connection state. It is young and kept by one person, which is why it stays
//! behind the module `client`.

mod awaiting;
mod client;
mod keeper;
mod secrets;
mod sink;
mod source;

#[cfg(feature = "provider")]
mod connector;
#[cfg(feature = "provider")]
mod trial;

#[cfg(feature = "provider")]
pub use connector::Mqtt;
pub use sink::MqttSink;
pub use source::MqttSource;

/// User property that carries a message's key.
pub const KEY_PROPERTY: &str = "millrace-key";
