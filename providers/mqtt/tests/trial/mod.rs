//! A connection that is tried moves nothing and disturbs nobody.

use std::time::Duration;

use millrace_mqtt::Mqtt;
use millrace_peers::{Authority, Mosquitto, Validity, free_port};
use millrace_provider::trial::{Failed, Side, Trial, Tried, attempt};
use tokio::time::sleep;

use crate::common::rig::In;
use crate::common::{Collector, publish};

const SIDES: [Side; 2] = [Side::Source, Side::Sink];

async fn tried(side: Side, pairs: &[(&str, &str)]) -> Tried {
    let names = [("pipeline", "line"), ("name", "in"), ("stage", "clean")];
    let settings = pairs.iter().chain(&names).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    attempt::<Mqtt>(&Trial { side, settings: settings.collect(), timeout_ms: 2_000 }).await
}

/// Why it failed, and the mend.
async fn failed(side: Side, pairs: &[(&str, &str)]) -> Failed {
    let tried = tried(side, pairs).await;
    let Some(failed) = tried.failed else { panic!("{pairs:?}: {tried:?}") };
    println!("{failed}");
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_hears_the_broker_and_moves_nothing() {
    let (broker, outside) = crate::broker("allow_anonymous true");
    let url = broker.url();
    let collector = Collector::start(outside, "#").await.unwrap();
    for version in ["3.1.1", "5"] {
        for side in SIDES {
            let pairs = [
                ("url", url.as_str()),
                ("version", version),
                ("topic", "plant/x"),
                ("will-topic", "status"),
                ("will-payload", "gone"),
            ];
            let tried = tried(side, &pairs).await;
            let said = tried.said.unwrap_or_else(|| panic!("{:?}", tried.failed));
            assert!(said.contains(&format!("MQTT {version}")), "{said}");
        }
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(collector.letters(), [], "neither a message nor a will");
}

/// The settings of a pipeline that runs, with its client identifier and its session: it goes on, and has every message.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_leaves_a_client_that_runs_alone() {
    let (broker, outside) = crate::broker("allow_anonymous true");
    let url = broker.url();
    let pairs = [("url", url.as_str()), ("topic", "plant/x"), ("client-id", "press")];
    let running = In::connected("in", &pairs).await;
    publish(outside, crate::letters("plant/x", 0..50)).await.unwrap();
    for _ in 0..3 {
        assert!(tried(Side::Source, &pairs).await.failed.is_none());
    }
    publish(outside, crate::letters("plant/x", 50..100)).await.unwrap();
    running.sees(0..100).await;
    assert_eq!(running.link.status().counters.reconnects, 0);
    assert!(running.counts().values().all(|times| *times == 1), "{:?}", running.counts());
    // A session whose client is away keeps its messages for it.
    running.drain().await;
    publish(outside, crate::letters("plant/x", 100..110)).await.unwrap();
    assert!(tried(Side::Source, &pairs).await.failed.is_none());
    let again = In::connected("in", &pairs).await;
    again.sees(100..110).await;
    again.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_with_its_mend() {
    let folder = tempfile::tempdir().unwrap();
    let (users, password) = (folder.path().join("users"), folder.path().join("password"));
    millrace_peers::mosquitto_password(&users, "press", "right").unwrap();
    std::fs::write(&password, "wrong\n").unwrap();
    let (broker, _) =
        crate::broker(&format!("allow_anonymous false\npassword_file {}", users.display()));
    let (url, file) = (broker.url(), password.to_str().unwrap());
    let nobody = format!("mqtt://127.0.0.1:{}", free_port().unwrap());
    for side in SIDES {
        for version in ["3.1.1", "5"] {
            let pairs = [("url", url.as_str()), ("version", version), ("topic", "x")];
            let anonymous = failed(side, &pairs).await;
            assert!(anonymous.mend.contains("`username`"), "{anonymous}");
            let pairs =
                [pairs.as_slice(), &[("username", "press"), ("password-file", file)]].concat();
            let wrong = failed(side, &pairs).await;
            assert!(wrong.mend.contains("`username` (press)"), "{wrong}");
            assert!(!wrong.to_string().contains("wrong\n"), "no password in it: {wrong}");
        }
        let refused = failed(side, &[("url", &nobody), ("topic", "x")]).await;
        assert!(refused.mend.contains("nothing listens there"), "{refused}");
        let missing = [
            ("url", url.as_str()),
            ("topic", "x"),
            ("username", "press"),
            ("password-file", "/not/there"),
        ];
        assert!(failed(side, &missing).await.error.contains("password-file /not/there"));
    }
    std::fs::write(&password, "right\n").unwrap();
    let pairs =
        [("url", url.as_str()), ("topic", "x"), ("username", "press"), ("password-file", file)];
    assert!(tried(Side::Source, &pairs).await.failed.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = Authority::new(folder.path(), "trusted").unwrap();
    let unknown = Authority::new(folder.path(), "unknown").unwrap();
    let own = trusted.sign("localhost", Validity::Valid).unwrap();
    let port = free_port().unwrap();
    let _broker = Mosquitto::start_with(&format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
        own.certificate.display(),
        own.key.display(),
    ))
    .unwrap();
    let url = format!("mqtts://localhost:{port}");
    let with = |ca: &Authority| ca.file().to_str().unwrap().to_owned();
    let wrong =
        failed(Side::Sink, &[("url", &url), ("topic", "x"), ("tls-ca-file", &with(&unknown))])
            .await;
    assert!(wrong.mend.contains("`tls-ca-file`"), "{wrong}");
    let plain = failed(Side::Sink, &[("url", &url.replace("mqtts", "mqtt")), ("topic", "x")]).await;
    assert!(plain.mend.contains("`url`"), "{plain}");
    let right =
        tried(Side::Sink, &[("url", &url), ("topic", "x"), ("tls-ca-file", &with(&trusted))]).await;
    assert!(right.failed.is_none(), "{right:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_is_given_up() {
    let (broker, _) = crate::broker("allow_anonymous true");
    broker.freeze(true).unwrap();
    let silent = failed(Side::Source, &[("url", &broker.url()), ("topic", "x")]).await;
    assert!(silent.error.contains("no answer within 2s"), "{silent}");
}
