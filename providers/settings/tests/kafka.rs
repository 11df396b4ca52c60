//! Settings of the Kafka connector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

use millrace_settings::flat::{check_flat, from_flat, to_flat};
use millrace_settings::kafka::{
    Compression, IsolationLevel, Partitioner, Sasl, SinkSettings, SourceSettings,
};
use millrace_settings::kafka_values::{Brokers, KafkaTopic, Partitions, Start, Topics};
use millrace_settings::{Settings, registry};
use proptest::prelude::*;

fn map(start: &[(&str, &str)], entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    start.iter().chain(entries).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn source(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    map(&[("brokers", "localhost"), ("topics", "plant")], entries)
}

fn sink(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    map(&[("brokers", "localhost"), ("topic", "plant")], entries)
}

#[test]
fn defaults_are_those_documented() {
    let settings: SourceSettings = from_flat(&source(&[]), &[]).unwrap();
    assert_eq!(settings.brokers.to_string(), "localhost:9092");
    assert_eq!((settings.start, settings.group), (Start::Earliest, None));
    assert_eq!(settings.isolation_level, IsolationLevel::ReadCommitted);
    assert_eq!(settings.session_timeout.get().as_secs(), 10);
    assert_eq!((settings.window.get(), settings.fetch_bytes.get()), (4_000, 16 << 20));
    assert_eq!(settings.fetch_wait.as_millis(), 500);
    assert!(!settings.coordinates && !settings.tls && settings.sasl.is_none());
    let settings: SinkSettings = from_flat(&sink(&[]), &[]).unwrap();
    assert_eq!(settings.compression, Compression::None);
    assert_eq!(settings.partitioner, Partitioner::Murmur2Random);
    assert_eq!((settings.linger.as_millis(), settings.message_timeout.as_millis()), (5, 2_500));
    assert_eq!(settings.batch_bytes.get(), 512 * 1_024);
}

#[test]
fn errors_name_the_field_and_what_is_allowed() {
    for (field, value, message) in [
        ("brokers", "kafka://a:9092", "without a scheme"),
        ("brokers", "me:s3cret@a:9092", "password-file"),
        ("brokers", "a:0", "1 to 65535"),
        ("brokers", "a,,b", "host:port"),
        ("brokers", "", "host:port"),
        ("topics", "a/b", "not '/'"),
        ("topics", "a,a", "only once"),
        ("topics", "..", "cannot be"),
        ("start", "yesterday", "RFC 3339"),
        ("start", "1969-01-01T00:00:00Z", "before 1970"),
        ("partitions", "1-", "such as 0,1,5-7"),
        ("partitions", "5-1", "such as 0,1,5-7"),
        ("partitions", "0-999999", "at most 1000"),
        ("isolation-level", "none", "read-committed"),
        ("session-timeout", "5s", "from 6s to 30m"),
        ("window", "0", "from 1 to 1000000"),
        ("fetch-bytes", "1KiB", "from 64KiB to 128MiB"),
        ("fetch-wait", "6s", "from 1ms to 5s"),
        ("coordinates", "yes", "true or false"),
        ("group", "", "1 to 255"),
        ("sasl", "gssapi", "scram-sha-256"),
    ] {
        let error = from_flat::<SourceSettings, _>(&source(&[(field, value)]), &[]).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(!error.to_string().contains("s3cret") || value.contains("s3cret"));
    }
    for (field, value, message) in [
        ("topic", "a b", "letters, digits"),
        ("topic", "{line}", "{topic} and {key}"),
        ("topic", "a{topic", "{topic} and {key}"),
        ("topic", "", "not be empty"),
        ("compression", "brotli", "zstd"),
        ("partitioner", "round-robin", "murmur2-random"),
        ("linger", "2s", "from 0ms to 1s"),
        ("batch-bytes", "17MiB", "from 1KiB to 16MiB"),
        ("message-timeout", "30s", "from 500ms to 2500ms"),
    ] {
        let error = from_flat::<SinkSettings, _>(&sink(&[(field, value)]), &[]).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let scram = [("sasl", "scram-sha-256"), ("username", "u"), ("password-file", "/p")];
    for (entries, field) in [
        (vec![("topics", "^a"), ("partitions", "0")], "partitions"),
        (
            vec![("fetch-bytes", "64KiB"), ("partition-fetch-bytes", "1MiB")],
            "partition-fetch-bytes",
        ),
        (vec![("tls-ca-file", "/ca")], "tls-ca-file"),
        (vec![("tls", "true"), ("tls-cert-file", "/c")], "tls-cert-file"),
        (vec![("tls", "true"), ("tls-key-file", "/k")], "tls-key-file"),
        (vec![("username", "u")], "username"),
        (vec![("password-file", "/p")], "password-file"),
        (vec![("sasl", "plain"), ("username", "u")], "sasl"),
        (vec![("sasl", "oauthbearer")], "sasl"),
        (vec![("sasl", "oauthbearer"), ("token-file", "/t"), ("username", "u")], "username"),
        ([&scram[..], &[("token-file", "/t")]].concat(), "token-file"),
        ([&scram[..2], &[("password-file", "")]].concat(), "password-file"),
    ] {
        let error = from_flat::<SourceSettings, _>(&source(&entries), &[]).unwrap_err();
        assert_eq!(error.field, field, "{entries:?}: {error}");
    }
    let settings: SourceSettings = from_flat(&source(&scram), &[]).unwrap();
    assert_eq!(settings.sasl, Some(Sasl::ScramSha256));
    let token = [("sasl", "oauthbearer"), ("token-file", "/t"), ("tls", "true")];
    assert!(from_flat::<SinkSettings, _>(&sink(&token), &[]).is_ok());
}

#[test]
fn lists_are_text_or_lists() {
    for text in ["a:1,b", "a:1 , b:9092", r#"["a:1","b"]"#] {
        assert_eq!(text.parse::<Brokers>().unwrap().to_string(), "a:1,b:9092");
    }
    assert_eq!("[::1]:7,[::2]".parse::<Brokers>().unwrap().to_string(), "[::1]:7,[::2]:9092");
    let json = serde_json::json!({ "brokers": ["a", "b:1"], "topics": ["x", "^y{1,2}"], "partitions": null });
    let settings: SourceSettings = serde_json::from_value(json).unwrap();
    assert_eq!(settings.brokers.to_string(), "a:9092,b:1");
    assert_eq!(settings.topics.iter().collect::<Vec<_>>(), ["x", "^y{1,2}"]);
    round_trip(&settings);
    let pattern: Topics = "^a,b{1,2}$".parse().unwrap();
    assert_eq!(pattern.iter().collect::<Vec<_>>(), ["^a,b{1,2}$"]);
    for text in ["7,0-2,1", "0,1,2,7", "[0,1,2,7]", r#"["0-2","7"]"#] {
        assert_eq!(text.parse::<Partitions>().unwrap().to_string(), "0-2,7", "{text}");
    }
}

#[test]
fn times_are_read_with_their_zone() {
    for (text, printed) in [
        ("2026-11-21T04:00:00+01:00", "2026-11-21T03:00:00Z"),
        ("2026-11-21T03:00:00.5Z", "2026-11-21T03:00:00.500Z"),
        ("latest", "latest"),
    ] {
        let start: Start = text.parse().unwrap();
        assert_eq!(start.to_string(), printed);
        assert_eq!(printed.parse::<Start>().unwrap(), start);
    }
}

#[test]
fn topics_are_made_from_templates() {
    let template: KafkaTopic = "plant.{key}.of.{topic}".parse().unwrap();
    let mut made = "old".to_owned();
    template.render("a/b c", Some("k\u{e4}"), &mut made).unwrap();
    assert_eq!(made, "plant.k_.of.a.b_c");
    assert!(template.render("a", None, &mut made).unwrap_err().to_string().contains("key"));
    assert!(template.render(&"a".repeat(249), Some("k"), &mut made).is_err());
    let bare: KafkaTopic = "{topic}".parse().unwrap();
    for wrong in ["", ".", "..", "/"] {
        assert!(bare.render(wrong, None, &mut made).is_err(), "{wrong}");
    }
    assert_eq!(bare.literal(), None);
    assert_eq!("plant".parse::<KafkaTopic>().unwrap().literal(), Some("plant"));
}

fn round_trip<T: Settings + PartialEq + std::fmt::Debug>(settings: &T) {
    let flat = to_flat(settings).unwrap();
    assert_eq!(&from_flat::<T, _>(&flat, &[]).unwrap(), settings);
    assert!(check_flat::<T>(&flat, &[]).is_empty());
    let json = serde_json::to_string(settings).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), settings);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_survives(
        brokers in "[a-z]{1,8}(:[1-9][0-9]{0,3})?(,[a-z.]{1,8}){0,2}", topics in "(\\^)?[a-z._-]{3,9}",
        millis in 0..4_000_000_000_000_i64, partitions in proptest::collection::btree_set(0..30_u8, 1..9),
    ) {
        let list: Vec<String> = partitions.iter().map(u8::to_string).collect();
        let mut entries = source(&[("brokers", &brokers), ("topics", &topics)]);
        entries.insert("start".to_owned(), Start::At(millis).to_string());
        if !topics.starts_with('^') {
            entries.insert("partitions".to_owned(), list.join(","));
        }
        let settings: SourceSettings = from_flat(&entries, &[]).unwrap();
        prop_assert_eq!(settings.start, Start::At(millis));
        round_trip(&settings);
    }

    #[test]
    fn any_text_is_read_without_a_panic(
        field in "brokers|topics|topic|start|partitions|group", text in "\\PC{0,20}|[\\[\\]\",0-9{}a-z:-]{0,20}",
    ) {
        let connector = registry::connector("kafka").unwrap();
        for (kind, start) in [(connector.source, source(&[])), (connector.sink.unwrap(), sink(&[]))] {
            let mut all = start;
            all.insert(field.clone(), text.clone());
            prop_assert_eq!((kind.check)(&all).is_empty(), (kind.complete)(&all).is_ok());
        }
    }

    #[test]
    fn a_topic_that_is_made_is_one_that_kafka_takes(topic in "\\PC{0,40}", key in "\\PC{0,20}") {
        let template: KafkaTopic = "{topic}-{key}".parse().unwrap();
        let mut made = String::new();
        template.render(&topic, Some(&key), &mut made).unwrap();
        prop_assert!(made.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
    }
}
