//! For the fuzz targets: what is private otherwise.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_settings::from_flat;
use millrace_settings::modbus::{Register, SinkSettings};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

use crate::client::{Answer, Client, Order, Timing};
use crate::command::Granted;
use crate::transport::Transport;

/// A clock that goes on by itself where all wait: a time limit costs no time.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread")
});

/// The first byte chooses order and framing; what the device sends follows.
pub fn answer(bytes: &[u8]) {
    let Some((which, sent)) = bytes.split_first() else { return };
    let order = match which % 8 {
        0 => Order::Read(Register::Coil, 3, 10),
        1 => Order::Read(Register::Discrete, 0, 16),
        2 => Order::Read(Register::Holding, 0, 2),
        3 => Order::Read(Register::Input, 7, 125),
        4 => Order::Coil(1, true),
        5 => Order::Coils(1, vec![true; 9]),
        6 => Order::Word(2, 0xABCD),
        _ => Order::Words(2, vec![1, 2, 3]),
    };
    let timing = Timing {
        timeout: Duration::from_secs(1),
        pause_after_connect: Duration::ZERO,
        pause_between_requests: Duration::ZERO,
        busy_retries: u32::from(which >> 7),
    };
    RUNTIME.block_on(async {
        let (wire, mut device) = tokio::io::duplex(1 << 16);
        device.write_all(sent).await.expect("there is room");
        // Answers, and then neither closes nor says more; or closes.
        if which & 0x40 != 0 {
            device.shutdown().await.expect("nothing is lost");
        }
        let mut client = Client::attached(Transport::of_sink(&SETTINGS), wire, which & 0x20 != 0);
        match client.ask(1, &order, &timing).await {
            Ok(Answer::Bits(bits)) => {
                assert!(matches!(order, Order::Read(Register::Coil | Register::Discrete, _, count)
                    if bits.len() == usize::from(count).div_ceil(8) * 8));
            }
            Ok(Answer::Words(words)) => {
                assert!(matches!(order, Order::Read(Register::Holding | Register::Input, _, count)
                    if words.len() == usize::from(count)));
            }
            Ok(Answer::Done) => assert!(!matches!(order, Order::Read(..))),
            Err(crate::client::Failure::Exception(_)) => assert!(client.is_connected()),
            Err(_) => assert!(!client.is_connected(), "what is out of step is dropped"),
        }
    });
}

static SETTINGS: LazyLock<SinkSettings> = LazyLock::new(|| {
    let fields = r#"{
        "pump": {"address": "00001"},
        "speed": {"address": "40001", "min": 0, "max": 100},
        "set": {"address": "40010", "type": "float32", "scale": 0.1, "offset": 5, "min": -10},
        "long": {"address": "40020", "type": "int64", "byte-order": "CDAB"},
        "name": {"address": "40030", "type": "string(8)"}
    }"#;
    let flat = BTreeMap::from([
        ("url".to_owned(), "tcp://localhost".to_owned()),
        ("fields".to_owned(), fields.to_owned()),
    ]);
    from_flat(&flat, &[]).expect("settings without a fault")
});

static GRANTED: LazyLock<Granted> =
    LazyLock::new(|| Granted::new(&SETTINGS).expect("fields without a fault"));

/// A message's topic, up to the first line break, and its payload.
pub fn command(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (topic, payload) = bytes.split_at(end);
    let Ok(topic) = std::str::from_utf8(topic) else { return };
    let mut writer = BatchWriter::new([]).expect("no headers");
    let fields = Fields { topic, payload, ..Fields::default() };
    if writer.push(&fields, []).is_err() {
        return;
    }
    let body = writer.finish();
    let batch = Batch::parse(&body).expect("what was written can be read");
    let message = batch.messages().next().expect("one message");
    let Ok(command) = GRANTED.command(&message, &millrace_kit::Held::default()) else { return };
    // Nothing is written but to the addresses that are granted.
    match command.order {
        Order::Coil(address, _) => assert_eq!(address, 0),
        Order::Word(address, word) => {
            assert_eq!(address, 0);
            assert!(word <= 100, "within min and max");
        }
        Order::Words(address, words) => {
            let most = match address {
                9 => 2,
                19 | 29 => 4,
                _ => panic!("address {address}"),
            };
            assert_eq!(words.len(), most);
        }
        other => panic!("{other:?}"),
    }
}
