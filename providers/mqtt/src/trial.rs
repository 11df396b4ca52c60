//! Trying a connection: connect, hear what the broker says, say goodbye.
//!
//! Under a client identifier of its own, so that a client that runs under the
//! settings' one stays connected; with a clean session and without a will, so
//! that the broker keeps nothing. Nothing is subscribed: a subscription
//! takes messages, of a share from others.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::telemetry::now_ns;
use millrace_provider::trial::Failed;
use millrace_settings::mqtt::{Client as Settings, SinkSettings, SourceSettings, Version};

use crate::client::{self, Events, Happened, Options, Session, Takes};
use crate::secrets::References;

/// How long DISCONNECT and the connection's end may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// Tries a source's connection.
pub(crate) async fn source(settings: &SourceSettings) -> Result<String, Failed> {
    let takes = connect(settings.client(), settings.keep_alive.get()).await?;
    let qos = settings.qos.min(takes.qos).number();
    Ok(format!("the broker lets this client in; MQTT {}, QoS {qos}", number(settings.version)))
}

/// Tries a sink's connection, and whether the broker takes what the settings
/// ask for.
pub(crate) async fn sink(settings: &SinkSettings) -> Result<String, Failed> {
    let takes = connect(settings.client(), settings.keep_alive.get()).await?;
    if settings.qos > takes.qos {
        let most = takes.qos.number();
        let error = format!("the broker takes no QoS above {most}");
        return Err(Failed::new(error, format!("set `qos` to {most}")));
    }
    if settings.retain && !takes.retain {
        return Err(Failed::new("the broker keeps no messages", "set `retain` to false"));
    }
    let qos = settings.qos.number();
    Ok(format!("the broker lets this client in; MQTT {}, QoS {qos}", number(settings.version)))
}

const fn number(version: Version) -> &'static str {
    match version {
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}

async fn connect(settings: Settings<'_>, keep_alive: Duration) -> Result<Takes, Failed> {
    client::check(settings.url)?;
    let options = Options {
        url: settings.url.clone(),
        version: settings.version,
        // Short: an old broker may take 23 characters and no more.
        client_id: format!("try-{:x}-{:x}", std::process::id(), now_ns() & 0xffff_ffff),
        keep_alive,
        session: Session::Clean,
        receive_maximum: 1,
        in_flight: 1,
        will: None,
        linger: Arc::default(),
    };
    let secrets = References::of(&settings)
        .read()
        .await
        .map_err(|error| Failed::new(error, "mend the file or the setting that names it"))?;
    let (client, mut events) = client::open(&options)?;
    events.arm(&options.url, secrets);
    let takes = loop {
        match events.next().await {
            Ok(Happened::Connected { takes, .. }) => break takes,
            Ok(_) => {}
            Err(error) => return Err(refused(error, &settings)),
        }
    };
    client.disconnect();
    let _ = tokio::time::timeout(GOODBYE, end(&mut events)).await;
    drop(events);
    let _ = tokio::time::timeout(GOODBYE, options.linger.closed()).await;
    Ok(takes)
}

async fn end(events: &mut Events) {
    while events.next().await.is_ok() {}
}

/// What the client library says, with what would mend it.
fn refused(error: String, settings: &Settings<'_>) -> Failed {
    let words = error.to_lowercase();
    let has = |some: &[&str]| some.iter().any(|word| words.contains(word));
    if has(&[
        "badusernamepassword",
        "notauthorized",
        "bad user name",
        "not authorized",
        "badauthentication",
    ]) {
        let mend = match settings.username {
            Some(user) => format!(
                "mend `username` ({user}) and what is in `password-file`, or let the user in at the broker"
            ),
            None => {
                "give `username` and `password-file`, or let clients in without them at the broker"
                    .to_owned()
            }
        };
        return Failed::new(error, mend);
    }
    if has(&["protocolversion", "protocol version"]) {
        let other = if settings.version == Version::V5 { Version::V311 } else { Version::V5 };
        return Failed::new(error, format!("set `version` to {}", number(other)));
    }
    if has(&["identifier", "banned"]) {
        let mend = "the broker takes known client identifiers only: dry-run has one of its own, which it has to let in";
        return Failed::new(error, mend);
    }
    Failed::to_reach(error, "url")
}
