//! GPIO as a wasmCloud capability provider.

use millrace_gpio::Gpio;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Gpio>(env!("CARGO_PKG_VERSION"))
}
