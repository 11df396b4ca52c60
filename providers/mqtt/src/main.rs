//! MQTT as a wasmCloud capability provider.

use millrace_mqtt::Mqtt;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Mqtt>(env!("CARGO_PKG_VERSION"))
}
