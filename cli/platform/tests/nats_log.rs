//! The log of a real nats-server, which strangers fill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use millrace_platform::{LogLimits, NatsOptions, NatsServer, Sync};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_server_takes_no_more_room_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let log = LogLimits { bytes: 20_000, files: 3 };
    let dir = folder.path().to_owned();
    let options = NatsOptions { port: 0, dir, sync: Sync::Always, log };
    let server = NatsServer::start(&options).await.unwrap();
    let address = server.url().trim_start_matches("nats://").to_owned();
    // Each is an error in the log.
    for n in 0..600 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(format!("NONSENSE-{n}-{}\r\n", "x".repeat(100)).as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    server.stop().await;
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let logs: Vec<_> = files
        .filter(|file| file.file_name().to_string_lossy().starts_with("nats.log"))
        .map(|file| std::fs::read_to_string(file.path()).unwrap())
        .collect();
    assert!((2..=3).contains(&logs.len()), "{}", logs.len());
    assert!(logs.iter().all(|text| text.len() < 22_000));
    // The newest is there, and the oldest is not.
    let all = logs.concat();
    assert!(all.contains("NONSENSE-599") || all.contains("Server Exiting"), "{all}");
    assert!(!all.contains("Starting nats-server"), "{all}");
}
