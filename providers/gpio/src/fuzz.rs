//! For the fuzz targets: what is private otherwise.

/// A message's topic, up to the first line break, and its payload.
pub fn command(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (topic, payload) = bytes.split_at(end);
    let Ok(topic) = std::str::from_utf8(topic) else { return };
    if let Err(unclear) = crate::command::read(topic, payload) {
        // It goes into a header of the dead letter.
        assert!(unclear.to_string().len() < 1_000);
    }
}
