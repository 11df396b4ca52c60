//! Modbus as a wasmCloud capability provider.

use millrace_modbus::Modbus;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Modbus>(env!("CARGO_PKG_VERSION"))
}
