//! `millrace bench` alone, without building the rest of the command line.
//!
//! ```text
//! cargo run -p millrace-bench --example bench -- --only harness
//! ```

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    args: millrace_bench::Args,
}

fn main() -> anyhow::Result<()> {
    // Without a subscriber wRPC renders whole payloads as text that nobody reads.
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::ERROR).init();
    let cli = Cli::parse();
    millrace_bench::run(&cli.args, cli.json)
}
