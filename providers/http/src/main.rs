//! HTTP as a wasmCloud capability provider.

use millrace_http::Http;

fn main() -> anyhow::Result<()> {
    millrace_provider::run::<Http>(env!("CARGO_PKG_VERSION"))
}
