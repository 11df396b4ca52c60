//! A device that is tried is read once and written never.

use millrace_modbus::Modbus;
use millrace_peers::{ModbusSlave, SlaveMode, SlaveUnit, free_port};
use millrace_provider::trial::{Failed, Side, Trial, Tried, attempt};
use serde_json::{Value, json};

async fn tried(side: Side, url: &str, fields: &Value) -> Tried {
    let pairs = [
        ("pipeline", "line"),
        ("name", "in"),
        ("stage", "clean"),
        ("url", url),
        ("fields", &fields.to_string()),
        ("timeout", "300ms"),
    ];
    let settings = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    attempt::<Modbus>(&Trial { side, settings, timeout_ms: 3_000 }).await
}

async fn failed(side: Side, url: &str, fields: &Value) -> Failed {
    let tried = tried(side, url, fields).await;
    let Some(failed) = tried.failed else { panic!("{fields}: {tried:?}") };
    println!("{failed}");
    failed
}

fn said(tried: Tried) -> String {
    tried.said.unwrap_or_else(|| panic!("{:?}", tried.failed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_reads_and_never_writes() {
    let units = [SlaveUnit::ascending(1, 20), SlaveUnit::ascending(2, 20)];
    for mode in [SlaveMode::Tcp, SlaveMode::RtuOverTcp] {
        let slave = ModbusSlave::start(mode, &units).unwrap();
        let fields = json!({
            "a": { "address": 1, "register": "holding" },
            "b": { "address": 2, "register": "holding", "unit": 2 },
        });
        assert_eq!(
            said(tried(Side::Source, &slave.url(), &fields).await),
            "all 2 units answer a read"
        );
        let granted = json!({ "pump": { "address": 3, "register": "coil" } });
        assert_eq!(
            said(tried(Side::Sink, &slave.url(), &granted).await),
            "the device answers a read"
        );
        let requests = slave.requests();
        assert_eq!(requests.len(), 3, "{requests:?}");
        // Unit, function, address and count: 1 to 4 are the functions that read.
        let function = |request: &String| request.split(' ').nth(1).unwrap().parse::<u8>().unwrap();
        assert!(requests.iter().all(|request| function(request) <= 4), "{requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_with_its_mend() {
    let slave = ModbusSlave::start(SlaveMode::Tcp, &[SlaveUnit::ascending(1, 20)]).unwrap();
    let url = slave.url();
    let far = json!({ "a": { "address": 500, "register": "holding" } });
    let address = failed(Side::Source, &url, &far).await;
    assert!(
        address.error.contains("exception 2") && address.mend.contains("`address`"),
        "{address}"
    );
    // A sink's device has answered, and need not let itself be read.
    let granted = said(tried(Side::Sink, &url, &far).await);
    assert!(granted.contains("which a sink does not need"), "{granted}");

    let elsewhere = json!({ "a": { "address": 1, "register": "holding", "unit": 9 } });
    for side in [Side::Source, Side::Sink] {
        let unit = failed(side, &url, &elsewhere).await;
        assert!(
            unit.error.contains("no answer within 300ms") && unit.mend.contains("`unit`"),
            "{unit}"
        );
        let nobody = format!("tcp://127.0.0.1:{}", free_port().unwrap());
        let refused = failed(side, &nobody, &far).await;
        assert!(refused.mend.contains("nothing listens there"), "{refused}");
        let line = failed(side, "rtu:///dev/not-there", &far).await;
        assert!(line.mend.contains("path in `url`"), "{line}");
    }
}
