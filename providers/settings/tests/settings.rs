//! Settings survive their flat map, and wrong values are named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millrace_settings::edge::{self, EdgeSettings, WhenFull};
use millrace_settings::flat;
use millrace_settings::flat::{FieldErrorKind, check_flat, field_names, from_flat, to_flat};
use millrace_settings::mqtt::{SinkSettings, SourceSettings, Version};
use millrace_settings::{
    BrokerUrl, Bytes, Count, Delivery, Duration, Qos, Settings, TopicFilter, TopicTemplate,
    WithDelivery, registry,
};
use proptest::prelude::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn source(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = map(&[("url", "mqtt://localhost"), ("topic", "a/#")]);
    all.extend(map(entries));
    all
}

#[test]
fn a_spill_says_how_much_it_takes_and_where_it_is() {
    let read = |pairs: &[(&str, &str)]| from_flat::<EdgeSettings, _>(&map(pairs), &[]);
    let (spill, bytes) = (("when-full", "spill"), ("spill-bytes", "100GiB"));
    let all = read(&[spill, bytes, ("spill-domain", "plant_2")]).unwrap();
    assert_eq!(all.spill_domain.as_deref(), Some("plant_2"));
    for (pairs, field, text) in [
        (&[spill][..], "when-full", "needs spill-bytes"),
        (&[bytes], "spill-bytes", "only with when-full: spill"),
        (&[("spill-domain", "plant")], "spill-domain", "only with when-full: spill"),
        (&[spill, bytes, ("max-age", "1h")], "max-age", "cannot be combined"),
        (&[spill, bytes, ("spill-domain", "a.b")], "spill-domain", "letters"),
        (&[spill, bytes, ("spill-domain", "")], "spill-domain", "letters"),
    ] {
        let error = read(pairs).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn defaults_are_those_documented() {
    let settings: SourceSettings = from_flat(&source(&[]), &[]).unwrap();
    assert_eq!(settings.url.to_string(), "mqtt://localhost:1883");
    assert_eq!(settings.qos, Qos::AtLeastOnce);
    assert_eq!(settings.version, Version::V5);
    assert_eq!(settings.keep_alive.get().as_secs(), 30);
    assert!(!settings.clean_session);

    let delivery: Delivery = from_flat(&map(&[]), &[]).unwrap();
    assert_eq!(delivery, Delivery::default());
    assert_eq!(delivery.batch_messages.get(), 500);
    assert_eq!(delivery.batch_bytes.get(), 256 * 1024);
    assert_eq!(delivery.linger.as_millis(), 5);
    assert_eq!(
        (delivery.in_flight.map(Count::get), delivery.attempts.get(), delivery.suspect_after.get()),
        (None, 5, 3)
    );

    let edge: EdgeSettings = from_flat(&map(&[]), &[]).unwrap();
    assert_eq!(
        (edge.max_bytes.get(), edge.max_age, edge.dedup_window.as_millis()),
        (64 << 20, None, 120_000)
    );
}

#[test]
fn a_hash_map_is_read_too() {
    let settings: HashMap<String, String> =
        source(&[("qos", "2"), ("version", "3.1.1")]).into_iter().collect();
    let settings: SourceSettings = from_flat(&settings, &[]).unwrap();
    assert_eq!((settings.qos, settings.version), (Qos::ExactlyOnce, Version::V311));
}

#[test]
fn other_keys_are_allowed_only_by_name() {
    let settings = source(&[("pipeline", "p"), ("name", "n")]);
    assert!(from_flat::<SourceSettings, _>(&settings, &["pipeline", "name"]).is_ok());
    let error = from_flat::<SourceSettings, _>(&settings, &["pipeline"]).unwrap_err();
    assert_eq!((error.field.as_str(), error.kind), ("name", FieldErrorKind::Unknown));
    assert_eq!(error.value, None, "the value of an unknown field may be a secret");
}

#[test]
fn errors_name_the_field_the_value_and_what_is_allowed() {
    for (field, value, message) in [
        ("qos", "3", "0 (at most once)"),
        ("version", "4", "3.1.1 or 5"),
        ("clean-session", "yes", "true or false"),
        ("keep-alive", "30", "a duration"),
        ("keep-alive", "0s", "from 1s to 18h"),
        ("receive-maximum", "0", "from 1 to 65535"),
        ("receive-maximum", "65536", "from 1 to 65535"),
        ("client-id", "", "1 to 65535 bytes"),
        ("topic", "a/#/b", "# alone and only as the last"),
        ("topic", "", "not be empty"),
        ("url", "mqtt://", "mqtt://host:port"),
        ("url", "mqtt://localhost/topic", "no path"),
    ] {
        let error = from_flat::<SourceSettings, _>(&source(&[(field, value)]), &[]).unwrap_err();
        assert_eq!((error.field.as_str(), error.value.as_deref()), (field, Some(value)), "{error}");
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.kind, FieldErrorKind::Invalid);
    }
    let error = from_flat::<SourceSettings, _>(&map(&[("topic", "a")]), &[]).unwrap_err();
    assert_eq!((error.field.as_str(), error.kind), ("url", FieldErrorKind::Missing));
}

#[test]
fn every_error_is_found_at_once() {
    let wrong = map(&[("topic", "a/#/b"), ("qos", "3"), ("colour", "red"), ("retain", "true")]);
    let found: BTreeSet<(String, FieldErrorKind)> = check_flat::<SourceSettings>(&wrong, &[])
        .into_iter()
        .map(|e| (e.field, e.kind))
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    let expected = [
        ("url", FieldErrorKind::Missing),
        ("topic", FieldErrorKind::Invalid),
        ("qos", FieldErrorKind::Invalid),
        ("colour", FieldErrorKind::Unknown),
        ("retain", FieldErrorKind::Unknown),
    ];
    assert_eq!(found, expected.map(|(field, kind)| (field.to_owned(), kind)).into_iter().collect());
}

#[test]
fn settings_that_need_one_another_say_so() {
    let tls = ("url", "mqtts://b");
    for (entries, field, message) in [
        (vec![("tls-ca-file", "/ca.pem")], "tls-ca-file", "mqtts://"),
        (vec![tls, ("tls-cert-file", "/c.pem")], "tls-cert-file", "needs a tls-key-file"),
        (vec![tls, ("tls-key-file", "/k.pem")], "tls-key-file", "needs a tls-cert-file"),
        (vec![tls, ("tls-ca-file", "")], "tls-ca-file", "must be a path"),
        (vec![("will-payload", "gone")], "will-payload", "needs a will-topic"),
        (vec![("will-qos", "1")], "will-qos", "needs a will-topic"),
        (vec![("will-retain", "false")], "will-retain", "needs a will-topic"),
        (vec![("will-topic", "a/+")], "will-topic", "must not contain + or #"),
        (vec![("share", "a/b")], "share", "must not contain /"),
        (vec![("share", "g"), ("topic", "$share/g/a")], "share", "$share"),
        (vec![("session-expiry", "0s")], "session-expiry", "from 1s to 365d"),
    ] {
        let error = from_flat::<SourceSettings, _>(&source(&entries), &[]).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    let all = [
        ("url", "wss://b/mqtt"),
        ("tls-ca-file", "/ca.pem"),
        ("tls-cert-file", "/c.pem"),
        ("tls-key-file", "/k.pem"),
        ("share", "line"),
        ("will-topic", "plant/gone"),
        ("will-payload", "source"),
        ("will-qos", "2"),
        ("will-retain", "true"),
    ];
    assert!(check_flat::<SourceSettings>(&source(&all), &[]).is_empty());
}

#[test]
fn a_password_in_the_address_is_refused_and_not_repeated() {
    for url in [
        "mqtt://me:s3cret@localhost",
        "mqtt://:s3cret@localhost:1883",
        "mqtts://me:s3cret@[::1]:8883",
    ] {
        let error = from_flat::<SourceSettings, _>(&source(&[("url", url)]), &[]).unwrap_err();
        assert!(error.message.contains("password-file"), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let error = from_flat::<Delivery, _>(&map(&[("backoff-min", "1m")]), &[]).unwrap_err();
    assert_eq!(error.field, "backoff-min");
    let error = from_flat::<EdgeSettings, _>(&map(&[("max-age", "1m")]), &[]).unwrap_err();
    assert_eq!(error.field, "dedup-window");
    let both = map(&[("when-full", "drop-oldest"), ("partitions", "4")]);
    let error = from_flat::<EdgeSettings, _>(&both, &[]).unwrap_err();
    assert_eq!(error.field, "partitions");
    let old = source(&[("version", "3.1.1"), ("password-file", "/p")]);
    assert_eq!(from_flat::<SourceSettings, _>(&old, &[]).unwrap_err().field, "password-file");
    let both = source(&[("version", "3.1.1"), ("password-file", "/p"), ("username", "u")]);
    assert!(from_flat::<SourceSettings, _>(&both, &[]).is_ok());
}

#[test]
fn settings_and_delivery_share_a_map() {
    let flat = source(&[("linger", "7ms"), ("pipeline", "p")]);
    let both = WithDelivery::<SourceSettings>::from_flat(&flat, &["pipeline"]).unwrap();
    assert_eq!(both.delivery.linger.as_millis(), 7);
    assert_eq!(WithDelivery::from_flat(&both.to_flat().unwrap(), &[]).unwrap(), both);
    let error =
        WithDelivery::<SourceSettings>::from_flat(&source(&[("lingr", "7ms")]), &[]).unwrap_err();
    assert_eq!(error.field, "lingr");
}

/// In one map two fields of a name would be one.
#[test]
fn delivery_has_no_name_in_common_with_what_it_stands_beside() {
    let delivery: BTreeSet<&str> = field_names::<Delivery>().iter().copied().collect();
    let link = ["pipeline", "name", "stage", "edges"];
    let mut beside = vec![("edge", registry::EDGE)];
    beside.extend(registry::CONNECTORS.iter().map(|connector| (connector.name, connector.source)));
    for (name, kind) in beside {
        let fields = (kind.fields)();
        assert!(!fields.is_empty());
        for field in fields.iter().chain(&link) {
            assert!(!delivery.contains(field), "{name} has {field}");
        }
    }
    for connector in registry::CONNECTORS {
        for kind in connector.kinds() {
            assert!(link.iter().all(|key| !(kind.fields)().contains(key)));
            for setting in [connector.identity, connector.identity_scope] {
                assert!(setting.is_empty() || (kind.fields)().contains(&setting));
            }
        }
    }
}

#[test]
fn a_link_to_the_conduit_carries_several_edges() {
    let large = EdgeSettings { max_bytes: Bytes::from_bytes(1 << 30), ..EdgeSettings::default() };
    let small =
        EdgeSettings { max_age: Some(Duration::from_millis(3_600_000)), ..EdgeSettings::default() };
    let mut link = edge::to_link([("a.b", &large), ("a.c", &small)]).unwrap();
    assert_eq!(link["edges"], "a.b,a.c");
    assert_eq!(link["a.b.max-bytes"], "1GiB");
    link.insert("pipeline".to_owned(), "p".to_owned());
    let read = edge::from_link(&link, &["pipeline"]).unwrap();
    assert_eq!(read, vec![("a.b".to_owned(), large), ("a.c".to_owned(), small)]);

    assert_eq!(edge::from_link(&link, &[]).unwrap_err().field, "pipeline");
    link.insert("a.c.max-bytes".to_owned(), "0".to_owned());
    assert_eq!(edge::from_link(&link, &["pipeline"]).unwrap_err().field, "a.c.max-bytes");
    assert_eq!(edge::from_link(&map(&[]), &[]).unwrap_err().field, "edges");
    assert_eq!(edge::from_link(&map(&[("edges", "a.b,,")]), &[]).unwrap_err().field, "edges");
}

#[test]
fn addresses_are_read_as_they_are_written() {
    for (text, tls, host, port) in [
        ("mqtt://localhost", false, "localhost", 1883),
        ("mqtts://plant.example", true, "plant.example", 8883),
        ("mqtt://[::1]:1999/", false, "::1", 1999),
        ("MQTT://10.0.0.1:1883", false, "10.0.0.1", 1883),
    ] {
        let url: BrokerUrl = text.parse().unwrap();
        assert_eq!((url.tls(), url.host(), url.port()), (tls, host, port), "{text}");
        assert_eq!(url.to_string().parse::<BrokerUrl>().unwrap(), url);
        assert!(!url.websocket() && url.path().is_empty());
    }
    for (text, tls, port, path) in [
        ("ws://broker", false, 80, "/"),
        ("ws://broker:9001/mqtt", false, 9001, "/mqtt"),
        ("wss://broker/a/b", true, 443, "/a/b"),
    ] {
        let url: BrokerUrl = text.parse().unwrap();
        let found = (url.tls(), url.websocket(), url.port(), url.path());
        assert_eq!(found, (tls, true, port, path), "{text}");
        assert_eq!(url.to_string().parse::<BrokerUrl>().unwrap(), url);
    }
    for text in [
        "",
        "localhost:1883",
        "http://localhost",
        "mqtt://localhost:0",
        "mqtt://localhost:99999",
        "mqtt://a?b",
        "mqtt://a#b",
        "mqtt://a/path",
        "ws://a/path?token=x",
        "wss://user:pass@a/path",
        "ws://",
    ] {
        assert!(text.parse::<BrokerUrl>().is_err(), "{text}");
    }
}

#[test]
fn topic_filters_follow_the_protocol() {
    for right in ["a", "/", "+", "#", "a/+/b", "a/#", "+/+", "$share/g/a/#", "$SYS/broker", "a b"] {
        assert!(right.parse::<TopicFilter>().is_ok(), "{right}");
    }
    let long = "a".repeat(65_536);
    for wrong in [
        "",
        "a+",
        "+a/b",
        "a/b#",
        "#/a",
        "a/#/b",
        "##",
        "a\0b",
        "$share/g",
        "$share//a",
        "$share/+/a",
        &long,
    ] {
        assert!(wrong.parse::<TopicFilter>().is_err(), "{wrong}");
    }
}

/// The headers of a message that has none.
fn none(_: &str) -> Option<&'static str> {
    None
}

#[test]
fn topics_are_made_from_templates() {
    let template: TopicTemplate = "plant/{key}/of/{topic}".parse().unwrap();
    assert_eq!(template.render("a/b", Some("k"), none).unwrap(), "plant/k/of/a/b");
    assert!(template.render("a", None, none).unwrap_err().to_string().contains("key"));
    assert!(template.render("a/+", Some("k"), none).is_err());
    assert!(template.render("a", Some("\0"), none).is_err());
    assert_eq!(template.literal(), None);
    assert_eq!("plant/alerts".parse::<TopicTemplate>().unwrap().literal(), Some("plant/alerts"));
    assert!("{topic}".parse::<TopicTemplate>().unwrap().render("", None, none).is_err());
    let line: TopicTemplate = "factory/{header:line}/alerts".parse().unwrap();
    assert_eq!(line.to_string(), "factory/{header:line}/alerts");
    let header = |name: &str| (name == "line").then_some("press");
    assert_eq!(line.render("t", None, header).unwrap(), "factory/press/alerts");
    assert!(line.render("t", None, none).unwrap_err().to_string().contains("header line"));
    assert!(line.render("t", None, |_| Some("a/+")).is_err());
    for wrong in [
        "",
        "a/+",
        "a/#",
        "{line}",
        "{header:}",
        "{header:a",
        "{header:{a}}",
        "{topic",
        "topic}",
        "{{topic}}",
        "a}b",
    ] {
        assert!(wrong.parse::<TopicTemplate>().is_err(), "{wrong}");
    }
}

#[test]
fn sizes_and_durations_are_printed_in_their_shortest_form() {
    type Size = Bytes<0, { u64::MAX }>;
    type Time = Duration<0, { u64::MAX }>;
    for (text, bytes, printed) in [
        ("0", 0, "0B"),
        ("1024", 1024, "1KiB"),
        ("1MB", 1_000_000, "1000000B"),
        ("64MiB", 64 << 20, "64MiB"),
        ("3B", 3, "3B"),
    ] {
        let size: Size = text.parse().unwrap();
        assert_eq!((size.get(), size.to_string().as_str()), (bytes, printed));
    }
    for (text, millis, printed) in [
        ("0ms", 0, "0ms"),
        ("60s", 60_000, "1m"),
        ("90m", 5_400_000, "90m"),
        ("7d", 604_800_000, "7d"),
    ] {
        let time: Time = text.parse().unwrap();
        assert_eq!((time.as_millis(), time.to_string().as_str()), (millis, printed));
    }
    for wrong in [
        "",
        "5",
        "s",
        "-5s",
        "5 s",
        "1.5s",
        "5S",
        "5sec",
        "99999999999999999999s",
        "999999999999999d",
    ] {
        assert!(wrong.parse::<Time>().is_err(), "{wrong}");
    }
    for wrong in ["", "-1", "1.5MiB", "1 MiB", "MiB", "1mib", "99999999999999999999"] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
}

fn round_trip<T: Settings + PartialEq + std::fmt::Debug>(settings: &T) {
    let flat = to_flat(settings).unwrap();
    assert_eq!(&from_flat::<T, _>(&flat, &[]).unwrap(), settings);
    assert!(check_flat::<T>(&flat, &[]).is_empty());
    let json = serde_json::to_string(settings).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), settings);
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn url() -> impl Strategy<Value = BrokerUrl> {
    "mqtts?://[a-z]{1,8}(\\.[a-z]{1,8})?(:[1-9][0-9]{0,3})?".prop_map(|text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sources_survive(
        url in url(), topic in "[a-z]{1,5}(/[+]){0,2}(/#)?", qos in qos(), old in any::<bool>(),
        client_id in proptest::option::of("\\PC{1,20}"), clean_session in any::<bool>(),
        keep_alive in 1_000..64_800_000u64, receive_maximum in 1..=65_535u64,
        username in proptest::option::of("\\PC{0,20}"),
        share in proptest::option::of("[a-z]{1,9}"), session_expiry in 1_000..31_536_000_000u64,
    ) {
        round_trip(&SourceSettings {
            url, topic: topic.parse().unwrap(), qos,
            version: if old { Version::V311 } else { Version::V5 },
            client_id, clean_session,
            keep_alive: Duration::from_millis(keep_alive),
            receive_maximum: Count::new(receive_maximum).unwrap(),
            username,
            password_file: (!old).then(|| "/run/secrets/mqtt".to_owned()),
            share: share.map(|share| share.parse().unwrap()),
            session_expiry: Duration::from_millis(session_expiry),
            tls_ca_file: None, tls_cert_file: None, tls_key_file: None,
            will_topic: Some("gone".parse().unwrap()), will_payload: None,
            will_qos: Some(qos), will_retain: Some(clean_session),
        });
    }

    #[test]
    fn sinks_survive(
        url in url(), topic in "[a-z/]{1,5}(\\{topic\\})?[a-z]{0,3}(\\{key\\})?", qos in qos(), retain in any::<bool>(),
        keep_alive in 1_000..64_800_000u64, in_flight in 1..=65_535u64,
    ) {
        round_trip(&SinkSettings {
            url, topic: topic.parse().unwrap(), qos, version: Version::V5, retain, client_id: None,
            keep_alive: Duration::from_millis(keep_alive),
            packet_max: None,
            in_flight: Count::new(in_flight).unwrap(),
            username: None, password_file: None,
            tls_ca_file: None, tls_cert_file: None, tls_key_file: None,
            will_topic: None, will_payload: None, will_qos: None, will_retain: None,
        });
    }

    #[test]
    fn delivery_survives(
        messages in 1..=10_000u64, bytes in 1024..=900 * 1024u64, linger in 0..=60_000u64, in_flight in proptest::option::of(1..=64u64),
        timeout in 100..=600_000u64, attempts in 1..=100u64, suspect in 1..=100u64, min in 1..=1_000u64, more in 0..=100_000u64,
    ) {
        round_trip(&Delivery {
            batch_messages: Count::new(messages).unwrap(),
            batch_bytes: Bytes::from_bytes(bytes),
            linger: Duration::from_millis(linger),
            in_flight: in_flight.map(|n| Count::new(n).unwrap()),
            call_timeout: Duration::from_millis(timeout),
            attempts: Count::new(attempts).unwrap(),
            suspect_after: Count::new(suspect).unwrap(),
            backoff_min: Duration::from_millis(min),
            backoff_max: Duration::from_millis(min + more),
        });
    }

    #[test]
    fn edges_survive(bytes in 1u64 << 20..1 << 40, age in proptest::option::of(1_000u64..31_536_000_000), window in 100u64..1_000, partitions in proptest::option::of(1u64..=64), rate in proptest::option::of(1u64..=10_000_000)) {
        round_trip(&EdgeSettings {
            max_bytes: Bytes::from_bytes(bytes),
            max_age: age.map(Duration::from_millis),
            when_full: if partitions.is_none() { WhenFull::DropOldest } else { WhenFull::Block },
            dedup_window: Duration::from_millis(window),
            partitions: partitions.map(|n| Count::new(n).unwrap()),
            max_rate: rate.map(|n| Count::new(n).unwrap()),
            history: age.map(|age| Duration::from_millis(age.max(60_000))),
            spill_bytes: None,
            spill_domain: None,
        });
        round_trip(&EdgeSettings {
            when_full: WhenFull::Spill,
            spill_bytes: Some(Bytes::from_bytes(bytes)),
            spill_domain: age.map(|_| "plant".to_owned()),
            ..EdgeSettings::default()
        });
    }

    #[test]
    fn any_map_is_read_without_a_panic(map in proptest::collection::btree_map("[a-z-]{1,12}|url|topic|qos|linger", "\\PC{0,20}", 0..8)) {
        for connector in registry::CONNECTORS {
            for kind in connector.kinds().chain([registry::EDGE, registry::DELIVERY]) {
                prop_assert_eq!((kind.check)(&map).is_empty(), (kind.complete)(&map).is_ok());
            }
        }
        let _ = edge::from_link(&map, &[]);
    }
}

/// Settings with things inside, as a Modbus device has.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Device {
    unit: Count<1, 247>,
    fields: BTreeMap<String, Field>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Field {
    address: Count<0, 65_535>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    #[serde(default)]
    signed: bool,
    pause: Option<Duration<1, 1_000>>,
}

impl Settings for Device {}

#[test]
fn lists_and_mappings_are_one_value_of_the_flat_map() {
    let text = r#"{"level":{"address":"7","scale":"0.5","pause":"10ms"},"pump":{"address":8,"signed":true}}"#;
    let flat = map(&[("unit", "3"), ("fields", text), ("names", r#"["a","5"]"#)]);
    let device: Device = from_flat(&flat, &[]).unwrap();
    assert_eq!(device.fields["level"].address.get(), 7);
    assert_eq!((device.fields["level"].scale, device.fields["pump"].signed), (Some(0.5), true));
    assert_eq!(device.names, ["a", "5"]);
    let again: Device = from_flat(&to_flat(&device).unwrap(), &[]).unwrap();
    assert_eq!(again, device);
    assert_eq!(
        flat::structured_names::<Device>(),
        ["fields".to_owned(), "names".to_owned()].into_iter().collect()
    );
    assert!(flat::structured_names::<SourceSettings>().is_empty());
}

#[test]
fn errors_inside_say_the_way_and_are_all_found() {
    let text = r#"{"a":{"address":"70000"},"b":{"scale":"x","address":"1"},"c":{},"d":{"address":1,"colour":"red"},"e":[]}"#;
    let flat = map(&[("unit", "300"), ("fields", text), ("names", "one")]);
    let found: BTreeMap<String, (FieldErrorKind, Option<String>)> =
        check_flat::<Device>(&flat, &[])
            .into_iter()
            .map(|e| (e.field, (e.kind, e.value)))
            .collect();
    let invalid = |value: &str| (FieldErrorKind::Invalid, Some(value.to_owned()));
    let expected = [
        ("unit", invalid("300")),
        ("names", invalid("one")),
        ("fields.a.address", invalid("70000")),
        ("fields.b.scale", invalid("x")),
        ("fields.c.address", (FieldErrorKind::Missing, None)),
        ("fields.d.colour", (FieldErrorKind::Unknown, None)),
        ("fields.e", invalid("[]")),
    ];
    assert_eq!(found, expected.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
}

#[test]
fn a_structure_of_any_depth_and_shape_is_refused_not_followed() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for text in [deep.as_str(), "null", "5", "{\"a\":null}", "{\"a\":{\"address\":[1]}}", "", "{"] {
        let flat = map(&[("unit", "3"), ("fields", text)]);
        assert!(from_flat::<Device, _>(&flat, &[]).is_err(), "{}", &text[..text.len().min(30)]);
        assert!(!check_flat::<Device>(&flat, &[]).is_empty());
    }
}
