//! Kafka as source and as sink, over librdkafka.
//!
//! **Source.** A member of a consumer group, or a reader of partitions named by
//! hand, that pushes each record into the kit's inlet. An offset is stored only
//! when the record and all before it in its partition are safe downstream
//! (`marks`). A partition that the group takes away is given back when what
//! is in flight of it is safe, or after a limit (`assignment`). Back-pressure:
//! while the inlet has no room nothing is polled, the library's own queue fills
//! up to `fetch-bytes`, and it stops asking the brokers; if that lasts, the
//! partitions are paused, so that polling goes on and the group keeps us.
//!
//! **Sink.** An idempotent producer with `acks=all`. A write is answered when
//! every record has its delivery report.
//!
//! **Threads.** librdkafka has its own. Its queue says when it is no longer
//! empty, and the source's task then takes what is there without waiting, so no
//! thread of ours blocks in a poll. [`PARTITION`], [`OFFSET`], [`NULL_VALUE`]
//! and [`CONTENT_TYPE`] are the headers with a meaning.
//!
//! | module | its part |
//! |---|---|
//! | `client`, `token` | how a client is made; files read |
//! | `context` | what the library tells, noted for its owner |
//! | `standing` | the state of the connection, told to the link |
//! | `fields` | records to messages and back |
//! | `source`, `assignment`, `marks` | the source |
//! | `sink`, `writes` | the sink |

mod assignment;
mod client;
mod context;
mod fields;
#[cfg(fuzzing)]
pub mod fuzz;
mod marks;
mod sink;
mod source;
mod standing;
mod token;
mod writes;

#[cfg(feature = "provider")]
mod connector;
#[cfg(feature = "provider")]
mod trial;

#[cfg(feature = "provider")]
pub use connector::Kafka;
pub use sink::KafkaSink;
pub use source::KafkaSource;

/// Header with the number of the partition a record was read from.
pub const PARTITION: &str = "kafka-partition";
/// Header with the offset a record was read at.
pub const OFFSET: &str = "kafka-offset";
/// Header that says, with the value `true`, that a record's value was null
/// (a tombstone) and not empty.
pub const NULL_VALUE: &str = "kafka-null-value";
/// Header of a record that is a message's content type.
pub const CONTENT_TYPE: &str = "content-type";
