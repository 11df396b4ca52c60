//! Settings of the HTTP connector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

use millrace_settings::flat::{FieldErrorKind, check_flat, from_flat, to_flat};
use millrace_settings::http::{
    Auth, HeaderNames, MediaTypes, Methods, PathTemplate, SourceSettings, Split,
};
use millrace_settings::registry;
use proptest::prelude::*;

fn source(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let start = [("path", "/machines/{machine}"), ("auth", "bearer"), ("token-file", "/run/t")];
    start.iter().chain(entries).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn read(entries: &[(&str, &str)]) -> SourceSettings {
    from_flat(&source(entries), &[]).unwrap()
}

#[test]
fn defaults_are_those_documented() {
    let settings = read(&[]);
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8480");
    assert_eq!(settings.methods.iter().collect::<Vec<_>>(), ["POST"]);
    assert_eq!((settings.split, settings.max_body_bytes.get()), (Split::None, 256 << 10));
    assert_eq!((settings.rate_limit.get(), settings.client_rate_limit), (1_000, None));
    assert_eq!((settings.timeout.as_millis(), settings.read_timeout.as_millis()), (10_000, 10_000));
    assert_eq!(settings.window.get(), 2_000);
    assert_eq!(settings.signature_header().as_str(), "x-hub-signature-256");
    assert_eq!(settings.tolerance().as_secs(), 300);
    let written = to_flat(&settings).unwrap();
    assert_eq!(from_flat::<SourceSettings, _>(&written, &[]).unwrap(), settings);
}

#[test]
fn letting_everybody_in_has_to_be_said() {
    let mut without = source(&[]);
    without.remove("auth");
    let errors = check_flat::<SourceSettings>(&without, &[]);
    assert_eq!((errors[0].field.as_str(), errors[0].kind), ("auth", FieldErrorKind::Missing));
    let mut none = source(&[("auth", "none")]);
    assert!(check_flat::<SourceSettings>(&none, &[])[0].message.contains("needs `auth`"));
    none.remove("token-file");
    assert_eq!(from_flat::<SourceSettings, _>(&none, &[]).unwrap().auth, Auth::None);
    for auth in ["bearer", "basic", "hmac"] {
        none.insert("auth".to_owned(), auth.to_owned());
        let errors = check_flat::<SourceSettings>(&none, &[]);
        assert_eq!(errors[0].to_string(), format!("auth: needs a `token-file` (found \"{auth}\")"));
    }
}

#[test]
fn errors_name_the_field_and_what_is_allowed() {
    for (field, value, message) in [
        ("path", "orders", "begins with a slash"),
        ("path", "/", "begins with a slash"),
        ("path", "/a//b", "empty parts"),
        ("path", "/a/", "no slash at the end"),
        ("path", "/a/../b", ". or .."),
        ("path", "/a b", "letters, digits"),
        ("path", "/%41", "letters, digits"),
        ("path", "/{A}", "lower-case"),
        ("path", "/{a}/{a}", "only once"),
        ("listen", "localhost:80", "IP address"),
        ("listen", "127.0.0.1:0", "1 to 65535"),
        ("listen", "127.0.0.1", "IP address"),
        ("methods", "GET", "POST, PUT"),
        ("methods", "[\"POST\",\"POST\"]", "only once"),
        ("headers", "Authorization", "credentials"),
        ("headers", "millrace-arm", "Millrace's own"),
        ("headers", "a,A", "only once"),
        ("headers", "machine", "part of `path`"),
        ("headers", "a b", "name of a header"),
        ("key", "shop", "part of `path`"),
        ("content-types", "json", "media type"),
        ("content-types", "*/*", "media type"),
        ("signature-header", "x-signed", "needs `auth: hmac`"),
        ("signature", "timestamped", "needs `auth: hmac`"),
        ("signature-tolerance", "1m", "needs `signature: timestamped`"),
        ("tls-key-file", "/k", "needs a tls-cert-file"),
        ("max-body-bytes", "1MiB", "at most 836KiB without `split`"),
        ("max-body-bytes", "9MiB", "from 1B to 8MiB"),
        ("rate-limit", "0", "from 1"),
        ("token-file", "", "a path"),
        ("auth", "open", "unknown variant"),
    ] {
        let errors = check_flat::<SourceSettings>(&source(&[(field, value)]), &[]);
        let error = errors.first().unwrap_or_else(|| panic!("{field}: {value} is taken"));
        assert_eq!(error.field, field, "{value}: {error}");
        assert!(error.message.contains(message), "{field}: {value}: {error}");
    }
    let split = [("max-body-bytes", "8MiB"), ("split", "lines")];
    assert!(check_flat::<SourceSettings>(&source(&split), &[]).is_empty());
}

#[test]
fn a_key_is_a_part_of_the_path_or_a_listed_header() {
    assert_eq!(read(&[("key", "machine")]).key.unwrap().as_str(), "machine");
    assert_eq!(read(&[("key", "X-Shop"), ("headers", "X-Shop")]).key.unwrap().as_str(), "x-shop");
}

#[test]
fn paths_are_the_same_whatever_their_parts_are_called() {
    let same = |a: &str, b: &str| {
        a.parse::<PathTemplate>().unwrap().is_same(&b.parse::<PathTemplate>().unwrap())
    };
    assert!(same("/a/{x}", "/a/{y}") && same("/a", "/a"));
    assert!(!same("/a/{x}", "/a/b") && !same("/a", "/A") && !same("/a", "/a/b"));
}

#[test]
fn content_types_are_compared_without_parameters() {
    let types: MediaTypes = "application/json, text/*".parse().unwrap();
    for taken in ["application/json", "Application/JSON; charset=utf-8", "text/plain"] {
        assert!(types.takes(taken), "{taken}");
    }
    for other in ["application/jsonp", "text/", "text", "", "image/png", "ä/b"] {
        assert!(!types.takes(other), "{other}");
    }
}

#[test]
fn it_has_no_sink() {
    assert!(registry::connector("http").unwrap().sink.is_none());
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_the_same(text in "/[a-z{}/%.-]{0,20}|[A-Za-z,*/\\[\\]\" -]{0,20}") {
        if let Ok(path) = text.parse::<PathTemplate>() {
            prop_assert_eq!(path.to_string().parse::<PathTemplate>().unwrap(), path);
        }
        if let Ok(names) = text.parse::<HeaderNames>() {
            prop_assert_eq!(names.to_string().parse::<HeaderNames>().unwrap(), names);
        }
        if let Ok(types) = text.parse::<MediaTypes>() {
            prop_assert_eq!(types.to_string().parse::<MediaTypes>().unwrap(), types);
        }
        if let Ok(methods) = text.parse::<Methods>() {
            prop_assert_eq!(methods.to_string().parse::<Methods>().unwrap(), methods);
        }
    }
}
