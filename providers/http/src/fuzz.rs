//! For the fuzz targets: what is private otherwise.

use bytes::Bytes;
use millrace_settings::http::{PathTemplate, Split};

use crate::{auth, path, read, split};

/// A template and a path, with a line break between them.
pub fn route(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (template, found) = text.split_once('\n').unwrap_or(("/a/{b}", text));
    let (Ok(template), Some(parts)) = (template.parse::<PathTemplate>(), path::parts(found)) else {
        return;
    };
    assert!(parts.iter().all(|part| !part.is_empty() && !part.contains('/')));
    assert_eq!(path::rank(&template).len(), template.parts().len());
    if path::matches(&template, &parts) {
        assert_eq!(path::named(&template, &parts).count(), template.names().count());
    }
}

/// The value of a header: of `Authorization`, of a signature, of a time.
pub fn header(bytes: &[u8]) {
    if let Some(user) = auth::user(bytes) {
        assert!(user.contains(&b':'));
    }
    let _ = auth::bearer(bytes);
    let _ = auth::of_body(bytes);
    let _ = auth::timestamped(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = read::time(text);
    }
}

/// A body, as lines and as an array: what is found is as it was, and an array of it is the same again.
pub fn body(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for how in [Split::None, Split::Lines, Split::JsonArray] {
        let Ok(pieces) = split::split(&body, how) else { continue };
        assert!(pieces.len() <= split::MESSAGES_MAX);
        if how != Split::JsonArray {
            continue;
        }
        let texts: Vec<&str> =
            pieces.iter().filter_map(|piece| std::str::from_utf8(piece).ok()).collect();
        let again = Bytes::from(format!("[{}]", texts.join(",")));
        assert_eq!(split::split(&again, how).as_ref(), Ok(&pieces));
    }
}
