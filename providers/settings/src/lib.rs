//! The settings of every connector and edge.
//!
//! One model serves three readers: lint (are the author's values right?), the
//! published JSON Schema (what does an editor offer?) and the providers (what
//! does the link's flat map of strings mean?). Keeping it in one crate, apart
//! from any protocol library, is what keeps the three from disagreeing.
//!
//! A value that is out of range cannot be constructed: the bounds are part of
//! the types in [`values`], so whoever holds a settings struct need not check
//! it again. What concerns two fields at once is in [`Settings::check`].
//!
//! Credentials are never part of the settings, only references to them, so
//! every settings struct may be printed, stored and sent.

mod checks;
pub mod delivery;
pub mod edge;
pub mod flat;
pub mod gpio;
pub mod http;
mod http_values;
pub mod kafka;
pub mod kafka_values;
mod list;
pub mod modbus;
pub mod mqtt;
mod nested;
pub mod operators;
pub mod registry;
pub mod rollout;
pub mod server;
pub mod values;
pub mod window;

pub use delivery::{Delivery, WithDelivery};
pub use flat::{FieldError, from_flat, to_flat};
pub use rollout::Rollout;
pub use server::Server;
pub use values::{
    BrokerUrl, Bytes, Count, Duration, Percent, Qos, ShareName, TopicFilter, TopicTemplate,
};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A settings struct: its fields are scalars, lists or mappings, described by its schema.
pub trait Settings: Serialize + DeserializeOwned + JsonSchema {
    /// Checks what concerns more than one field, after each field was found
    /// right by itself.
    ///
    /// # Errors
    ///
    /// Names the field the author should change first.
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }
}
