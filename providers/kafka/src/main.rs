//! Kafka as a wasmCloud capability provider.

use millrace_kafka::Kafka;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Kafka>(env!("CARGO_PKG_VERSION"))
}
