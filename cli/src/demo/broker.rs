//! The demo's MQTT broker, in this process: nothing to install or to configure.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// From the start of the broker's thread to its first accepted connection.
const READY: Duration = Duration::from_secs(5);

/// Starts the broker on a free port of the loopback interface; it ends with the process.
pub(super) fn start() -> anyhow::Result<u16> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free port for the MQTT broker")?
        .port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut broker = Broker::new(configuration(address));
    std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            if let Err(e) = broker.start() {
                eprintln!("the MQTT broker ended: {e}");
            }
        })
        .context("could not start the MQTT broker's thread")?;
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(start.elapsed() < READY, "the MQTT broker did not answer on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(port)
}

fn configuration(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 500,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 500,
            // 40 MiB a topic: minutes of a demo whose pipeline is held up.
            max_segment_size: 4 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..Config::default()
    }
}
