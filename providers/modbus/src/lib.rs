//! Modbus over TCP, RTU and RTU over TCP, as source and as sink.
//!
//! **Source.** Fields are declared; [`plan`] groups them into reads. Every
//! interval the devices are asked, one request after the other on one
//! connection, and each field becomes a message: topic = name of the field,
//! key = its unit, timestamp = when the device answered, payload JSON
//! (`{"field","value","quality","time"}`, with `"reason"` unless the quality
//! is good), header [`INGEST_TIME`]. A device that does not answer gives
//! readings of bad quality. When the stage is slower than the readings, whole
//! cycles are skipped and counted: a device cannot be asked again for what was.
//!
//! **Sink.** A message names a field, by its topic or by `"field"` in its
//! payload, and a value. Only fields of the settings are written, only within
//! their `min` and `max`; everything else goes to the dead letters with the
//! reason. Ok is answered when the device has confirmed every write.
//!
//! **Duplicates** arise at the sink: a write whose answer was lost is made
//! again, with the same value.
//!
//! **The client library** is tokio-modbus; what it does not have (time limits,
//! checks of answers, dropping a connection that is out of step) is in the
//! module `client`, and whoever replaces the library replaces that module.
//!
//! [`codec`] is public for whoever plays a device.

mod client;
pub mod codec;
mod command;
#[cfg(fuzzing)]
pub mod fuzz;
mod memory;
pub mod plan;
mod poller;
mod port;
pub mod reading;
mod sink;
mod source;
mod transport;

#[cfg(feature = "provider")]
mod connector;
#[cfg(feature = "provider")]
mod trial;

#[cfg(feature = "provider")]
pub use connector::Modbus;
pub use sink::ModbusSink;
pub use source::ModbusSource;

/// Header of a reading: when it came into the pipeline, RFC 3339.
pub const INGEST_TIME: &str = "ingest-time";

/// Content type of a reading.
pub const CONTENT_TYPE: &str = "application/json";
