//! A cluster that is tried has no group, no topic and no offset more than before.

use std::time::Duration;

use millrace_kafka::Kafka as Connector;
use millrace_peers::{KAFKA_USER, Kafka, KafkaOptions};
use millrace_provider::trial::{Failed, Side, Trial, Tried, attempt};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::common::{fill, kafka, topic, unique};

async fn tried(side: Side, brokers: &str, pairs: &[(&str, &str)]) -> Tried {
    let names = [("pipeline", "line"), ("name", "in"), ("stage", "clean"), ("brokers", brokers)];
    let settings = pairs.iter().chain(&names).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    attempt::<Connector>(&Trial { side, settings: settings.collect(), timeout_ms: 10_000 }).await
}

async fn failed(side: Side, brokers: &str, pairs: &[(&str, &str)]) -> Failed {
    let tried = tried(side, brokers, pairs).await;
    let Some(failed) = tried.failed else { panic!("{pairs:?}: {tried:?}") };
    println!("{failed}");
    failed
}

fn said(tried: Tried) -> String {
    tried.said.unwrap_or_else(|| panic!("{:?}", tried.failed))
}

/// Groups and topics of a broker.
fn there(kafka: &Kafka) -> (Vec<String>, Vec<String>) {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let limit = Duration::from_secs(10);
    let groups = consumer.fetch_group_list(None, limit).unwrap();
    let groups = groups.groups().iter().map(|group| group.name().to_owned()).collect();
    let topics = consumer.fetch_metadata(None, limit).unwrap();
    let mut topics: Vec<_> = topics.topics().iter().map(|t| t.name().to_owned()).collect();
    topics.sort();
    (groups, topics)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_finds_the_topic_and_leaves_nothing_behind() {
    let kafka = Kafka::start().unwrap();
    let (one, two) = (unique("one"), unique("two"));
    topic(&kafka, &one, 3, &[]).await;
    topic(&kafka, &two, 1, &[]).await;
    fill(&kafka, &one, 3, 0..10);
    let before = there(&kafka);
    let brokers = kafka.brokers();
    let both = format!("{one},{two}");
    let found = tried(Side::Source, &brokers, &[("topics", &both), ("group", "never")]).await;
    assert_eq!(said(found), "1 broker answers; all 2 topics are there, 4 partitions");
    let found = said(tried(Side::Sink, &brokers, &[("topic", &one)]).await);
    assert_eq!(found, "1 broker answers; the topic is there, 3 partitions");
    let template = said(tried(Side::Sink, &brokers, &[("topic", "{topic}")]).await);
    assert!(template.contains("depends on the message"), "{template}");
    let pattern = said(tried(Side::Source, &brokers, &[("topics", "^on.*")]).await);
    assert!(pattern.contains("pattern"), "{pattern}");

    let missing =
        failed(Side::Source, &brokers, &[("topics", "not-there"), ("group", "never")]).await;
    assert!(
        missing.error.contains("no topic not-there") && missing.mend.contains("`topics`"),
        "{missing}"
    );
    let partition =
        failed(Side::Source, &brokers, &[("topics", &one), ("partitions", "0,7")]).await;
    assert!(partition.error.contains("3 partitions, and no 7"), "{partition}");
    // Whether a sink's topic comes into being is the broker's choice.
    let sink = tried(Side::Sink, &brokers, &[("topic", "not-there")]).await;
    println!("{sink:?}");
    assert_eq!(there(&kafka), before, "neither a group nor a topic");
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_the_broker_makes_the_topic_of_a_sink_is_told() {
    for makes in [true, false] {
        let properties = format!("auto.create.topics.enable={makes}\n");
        let kafka =
            Kafka::start_with(KafkaOptions { properties, ..KafkaOptions::default() }).unwrap();
        let tried = tried(Side::Sink, &kafka.brokers(), &[("topic", "not-there")]).await;
        if makes {
            assert!(said(tried).contains("the broker creates it at the first message"));
        } else {
            let failed = tried.failed.unwrap();
            assert!(failed.error.contains("the broker creates none"), "{failed}");
        }
        assert!(!there(&kafka).1.contains(&"not-there".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_with_its_mend() {
    let kafka = kafka();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong").unwrap();
    let password = password.to_str().unwrap();
    for (side, field) in [(Side::Source, "topics"), (Side::Sink, "topic")] {
        let refused = failed(side, "127.0.0.1:1", &[(field, "x")]).await;
        assert!(refused.mend.contains("nothing listens there"), "{refused}");
        let login = [
            (field, "x"),
            ("sasl", "scram-sha-256"),
            ("username", KAFKA_USER.0),
            ("password-file", password),
        ];
        let wrong = failed(side, &kafka.brokers_sasl(), &login).await;
        assert!(wrong.mend.contains("`username`"), "{wrong}");
        let untrusted = failed(side, &kafka.brokers_tls(), &[(field, "x"), ("tls", "true")]).await;
        assert!(untrusted.mend.contains("`tls-ca-file`"), "{untrusted}");
        let plain = failed(side, &kafka.brokers_tls(), &[(field, "x")]).await;
        assert!(!plain.mend.is_empty(), "{plain}");
    }
}
