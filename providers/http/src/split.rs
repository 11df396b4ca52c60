//! One body, several messages.

use bytes::Bytes;
use millrace_settings::http::Split;
use serde::de::IgnoredAny;

/// Most messages of a body.
pub(crate) const MESSAGES_MAX: usize = 10_000;

/// Why a body has no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// More than [`MESSAGES_MAX`].
    TooMany,
    /// No JSON array.
    NoArray,
}

/// The messages of a body. None is an answer too: a body without lines, an empty array.
pub(crate) fn split(body: &Bytes, how: Split) -> Result<Vec<Bytes>, Wrong> {
    match how {
        Split::None => Ok(vec![body.clone()]),
        Split::Lines => lines(body),
        Split::JsonArray => elements(body),
    }
}

fn lines(body: &Bytes) -> Result<Vec<Bytes>, Wrong> {
    let mut found = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if found.len() == MESSAGES_MAX {
            return Err(Wrong::TooMany);
        }
        found.push(body.slice_ref(line));
    }
    Ok(found)
}

/// The elements as they are written, without a copy. The whole has to be right: of half an array nothing is taken.
fn elements(body: &Bytes) -> Result<Vec<Bytes>, Wrong> {
    let text = std::str::from_utf8(body).map_err(|_| Wrong::NoArray)?;
    let mut rest = trimmed(text).strip_prefix('[').map(trimmed).ok_or(Wrong::NoArray)?;
    let mut found = Vec::new();
    if let Some(after) = rest.strip_prefix(']') {
        return if trimmed(after).is_empty() { Ok(found) } else { Err(Wrong::NoArray) };
    }
    loop {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        let Some(Ok(_)) = values.next() else { return Err(Wrong::NoArray) };
        let (element, after) = rest.split_at_checked(values.byte_offset()).ok_or(Wrong::NoArray)?;
        if found.len() == MESSAGES_MAX {
            return Err(Wrong::TooMany);
        }
        found.push(body.slice_ref(element.as_bytes()));
        let after = trimmed(after);
        if let Some(next) = after.strip_prefix(',') {
            rest = trimmed(next);
        } else {
            let after = after.strip_prefix(']').ok_or(Wrong::NoArray)?;
            return if trimmed(after).is_empty() { Ok(found) } else { Err(Wrong::NoArray) };
        }
    }
}

/// Without the white space of JSON (RFC 8259, section 2) before it.
fn trimmed(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str, how: Split) -> Result<Vec<String>, Wrong> {
        let pieces = split(&Bytes::copy_from_slice(body.as_bytes()), how)?;
        Ok(pieces.iter().map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect())
    }

    #[test]
    fn lines_without_empty_ones() {
        let found = texts("{\"a\":1}\r\n\n  \n{\"a\":2}\n", Split::Lines).unwrap();
        assert_eq!(found, ["{\"a\":1}", "{\"a\":2}"]);
        assert!(texts("\n", Split::Lines).unwrap().is_empty());
        let many = "1\n".repeat(MESSAGES_MAX + 1);
        assert_eq!(texts(&many, Split::Lines), Err(Wrong::TooMany));
        assert_eq!(texts(&many[2..], Split::Lines).unwrap().len(), MESSAGES_MAX);
    }

    #[test]
    fn elements_as_they_are_written() {
        let found = texts(" [1, \"a,]\" ,{\"b\": [2]} , true]\n", Split::JsonArray).unwrap();
        assert_eq!(found, ["1", "\"a,]\"", "{\"b\": [2]}", "true"]);
        assert!(texts("[ ]", Split::JsonArray).unwrap().is_empty());
        for wrong in
            ["", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{}", "1", "[1]]", "[1] x", "[nul]"]
        {
            assert_eq!(texts(wrong, Split::JsonArray), Err(Wrong::NoArray), "{wrong}");
        }
        let deep = format!("[{}1{}]", "[".repeat(100_000), "]".repeat(100_000));
        let _ = texts(&deep, Split::JsonArray);
        let many = format!("[{}1]", "1,".repeat(MESSAGES_MAX));
        assert_eq!(texts(&many, Split::JsonArray), Err(Wrong::TooMany));
        let not_text = Bytes::from_static(b"[\"\xff\"]");
        assert_eq!(split(&not_text, Split::JsonArray), Err(Wrong::NoArray));
    }

    #[test]
    fn what_is_not_split_is_one() {
        assert_eq!(texts("[1,2]", Split::None).unwrap(), ["[1,2]"]);
        assert_eq!(texts("", Split::None).unwrap(), [""]);
    }
}
