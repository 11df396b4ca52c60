//! A message by itself, out of its batch.

use millrace_batch::{Batch, BatchWriter, Fields, WriteError};

/// What headers of dead letters begin with. They belong to the platform, and are no part of the message.
pub(crate) const DEAD: &str = "millrace-dead-";

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Event time, nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// Topic.
    pub topic: String,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Content type of the payload.
    pub content_type: Option<String>,
    /// Headers in order, without those of dead letters.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl From<&millrace_batch::Message<'_>> for Message {
    fn from(message: &millrace_batch::Message<'_>) -> Self {
        let own = message.headers().filter(|(name, _)| !name.starts_with(DEAD));
        Self {
            timestamp: message.timestamp,
            topic: message.topic.to_owned(),
            key: message.key.map(<[u8]>::to_vec),
            content_type: message.content_type.map(str::to_owned),
            headers: own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            payload: message.payload.to_vec(),
        }
    }
}

impl Message {
    /// Appends it to a batch.
    pub(crate) fn push(&self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        let fields = Fields {
            timestamp: self.timestamp,
            topic: &self.topic,
            content_type: self.content_type.as_deref(),
            key: self.key.as_deref(),
            payload: &self.payload,
        };
        writer.push(&fields, self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }

    /// Value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The message on one line, for people: the payload, then what else there is.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut also = Vec::new();
        if !self.topic.is_empty() {
            also.push(format!("topic {}", shown_text(&self.topic)));
        }
        if let Some(key) = &self.key {
            also.push(format!("key {}", shown_bytes(key)));
        }
        if let Some(kind) = &self.content_type {
            also.push(format!("content-type {}", shown_text(kind)));
        }
        for (name, value) in &self.headers {
            also.push(format!("{}: {}", shown_text(name), shown_text(value)));
        }
        let payload = shown_bytes(&self.payload);
        if also.is_empty() { payload } else { format!("{payload}  ({})", also.join(", ")) }
    }
}

/// Bytes for people: text if they are, else hexadecimal.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    match std::str::from_utf8(bytes) {
        Ok("") => "\"\"".to_owned(),
        Ok(text) => shown_text(text),
        Err(_) => {
            let hex: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
            let rest = if bytes.len() > SHOWN { "..." } else { "" };
            format!("hex {hex}{rest}")
        }
    }
}

/// A text on one line: shortened, control characters escaped.
pub(crate) fn shown_text(text: &str) -> String {
    const SHOWN: usize = 300;
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The messages of a batch. A body that is none has none: whoever calls has made it, or a stage has.
pub(crate) fn messages(body: &[u8]) -> Vec<Message> {
    let batch = Batch::open(body).ok();
    batch.iter().flat_map(Batch::messages).map(|message| Message::from(&message)).collect()
}
