//! A message by itself, out of its batch.

use millrace_batch::Batch;
pub use millrace_batch::OwnedMessage as Message;

/// What headers of dead letters begin with. They belong to the platform, and are no part of the message.
pub(crate) const DEAD: &str = "millrace-dead-";

/// The message without what the platform said of it as a dead letter.
pub(crate) fn own(message: &millrace_batch::Message<'_>) -> Message {
    let mut own = Message::from(message);
    own.headers.retain(|(name, _)| !name.starts_with(DEAD));
    own
}

/// The message on one line, for people: the payload, then what else there is.
#[must_use]
pub fn shown(message: &Message) -> String {
    let mut also = Vec::new();
    if !message.topic.is_empty() {
        also.push(format!("topic {}", shown_text(&message.topic)));
    }
    if let Some(key) = &message.key {
        also.push(format!("key {}", shown_bytes(key)));
    }
    if let Some(kind) = &message.content_type {
        also.push(format!("content-type {}", shown_text(kind)));
    }
    for (name, value) in &message.headers {
        also.push(format!("{}: {}", shown_text(name), shown_text(value)));
    }
    let payload = shown_bytes(&message.payload);
    if also.is_empty() { payload } else { format!("{payload}  ({})", also.join(", ")) }
}

/// Bytes for people: text if they are, else hexadecimal.
#[must_use]
pub fn shown_bytes(bytes: &[u8]) -> String {
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
#[must_use]
pub fn shown_text(text: &str) -> String {
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
    batch.iter().flat_map(Batch::messages).map(|message| own(&message)).collect()
}
