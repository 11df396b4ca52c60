//! The conduit as a wasmCloud capability provider.

use millrace_conduit::Conduit;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Conduit>(env!("CARGO_PKG_VERSION"))
}
