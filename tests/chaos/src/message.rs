//! A message that shows its number, its key, and whether it is whole.

/// Messages of one key follow one another.
const KEYS: u64 = 50;

/// One in so many traps its step.
const TRAPS: u64 = 1_000;

/// What fills a message up.
const FILL: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr";

/// The key of a message.
pub(crate) fn key(number: u64) -> u64 {
    // By a walk that visits keys unevenly: neighbours differ, and some are rare.
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % KEYS
}

/// Whether the message traps the step that gets it.
pub(crate) const fn traps(number: u64) -> bool {
    number % TRAPS == TRAPS / 2
}

/// The message with this number.
pub(crate) fn write(number: u64) -> String {
    let what = if traps(number) { "trap" } else { "fine" };
    let body = format!(r#""seq":{number},"what":"{what}","fill":"{FILL}""#);
    format!(r#"{{{body},"sum":"{:016x}"}}"#, sum(body.as_bytes()))
}

/// The number of a message that is as it was written.
pub(crate) fn read(payload: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let number = value.get("seq")?.as_u64()?;
    (payload == write(number).as_bytes()).then_some(number)
}

/// FNV-1a, 64 bits (draft-eastlake-fnv-17).
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_not_whole_has_no_number() {
        let message = write(77).into_bytes();
        assert_eq!(read(&message), Some(77));
        for at in 0..message.len() {
            let mut other = message.clone();
            other[at] ^= 1;
            assert_ne!(read(&other), Some(77), "byte {at}");
        }
        assert_eq!(read(&message[..message.len() - 1]), None);
    }

    #[test]
    fn keys_are_few_and_all_of_them_are_used() {
        let mut seen: Vec<u64> = (0..10_000).map(key).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u64, KEYS);
    }
}
