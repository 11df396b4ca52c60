//! A message by itself, out of its batch.

use crate::error::WriteError;
use crate::read::Message;
use crate::write::{BatchWriter, Fields};

/// A message that borrows nothing: to compare it, to keep it, or to make one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedMessage {
    /// Event time, nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// Topic.
    pub topic: String,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Content type of the payload.
    pub content_type: Option<String>,
    /// Headers, in their order.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl From<&Message<'_>> for OwnedMessage {
    fn from(message: &Message<'_>) -> Self {
        let headers = message.headers();
        Self {
            timestamp: message.timestamp,
            topic: message.topic.to_owned(),
            key: message.key.map(<[u8]>::to_vec),
            content_type: message.content_type.map(str::to_owned),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            payload: message.payload.to_vec(),
        }
    }
}

impl OwnedMessage {
    /// Value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Appends it to a batch.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when it does not fit into the format.
    pub fn push(&self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        let fields = Fields {
            timestamp: self.timestamp,
            topic: &self.topic,
            content_type: self.content_type.as_deref(),
            key: self.key.as_deref(),
            payload: &self.payload,
        };
        writer
            .push(&fields, self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}
