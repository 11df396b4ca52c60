//! Keys of a bucket. Those of customers are any bytes, and those of NATS key-value are parts of subjects: letters, digits and
//! `-`, `_`, `/`, `=` and `.`, with no dot at an end and no two in a row (NATS ADR-8). So every other byte is written as `=`
//! and two digits, as quoted-printable does.

/// Longest key, in bytes.
pub const KEY_MAX: usize = 1024;

/// What an empty key is written as: no other key is.
const EMPTY: &str = "=";

/// The key as key-value has it.
#[must_use]
pub fn encode(key: &[u8]) -> String {
    if key.is_empty() {
        return EMPTY.to_owned();
    }
    let mut text = String::with_capacity(key.len());
    for (place, &byte) in key.iter().enumerate() {
        let at_end = place == 0 || place + 1 == key.len();
        let plain = match byte {
            b'-' | b'_' | b'/' => true,
            b'.' => !at_end && !text.ends_with('.'),
            _ => byte.is_ascii_alphanumeric(),
        };
        if plain {
            text.push(char::from(byte));
        } else {
            text.push('=');
            let digit =
                |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0').to_ascii_uppercase();
            text.push(digit(byte >> 4));
            text.push(digit(byte & 15));
        }
    }
    text
}

/// The key again; of one that was written by others, as it is.
#[must_use]
pub fn decode(text: &str) -> Vec<u8> {
    if text == EMPTY {
        return Vec::new();
    }
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit =
            |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|n| u8::try_from(n).ok());
        match (first, digit(after.first()), digit(after.get(1))) {
            (b'=', Some(high), Some(low)) => {
                key.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                key.push(first);
                rest = after;
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_keys_stay_as_they_are() {
        for key in ["press-1", "plant/press_1/temperature", "a.b.c", "0017"] {
            assert_eq!(encode(key.as_bytes()), key);
        }
        assert_eq!(encode(b"press 1"), "press=201");
        assert_eq!(encode(b".a..b."), "=2Ea.=2Eb=2E");
        assert_eq!(encode(b"a=b*>"), "a=3Db=2A=3E");
        assert_eq!(encode(b""), "=");
    }

    proptest! {
        #[test]
        fn every_key_comes_back_and_is_one_that_nats_takes(key in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = encode(&key);
            prop_assert_eq!(decode(&text), key);
            let taken = |b: u8| b.is_ascii_alphanumeric() || b"-_/=.".contains(&b);
            prop_assert!(text.bytes().all(taken));
            prop_assert!(!text.is_empty() && !text.starts_with('.') && !text.ends_with('.') && !text.contains(".."));
        }

        #[test]
        fn two_keys_are_never_one(a in proptest::collection::vec(any::<u8>(), 0..6), b in proptest::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }

        #[test]
        fn any_text_is_decoded(text in ".{0,40}") {
            let _ = decode(&text);
        }
    }
}
