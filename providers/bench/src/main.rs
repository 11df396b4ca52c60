//! What each connector costs beside the plain client library doing the same work in the same process against the same
//! real peer, which is another process. `millrace bench` runs this and takes its rows.
//!
//! Figures are processor time of this process a message, user and system: what else runs on the machine, the peer with
//! it, changes it little. Of several rounds the least counts: everything else is others' work.

mod common;
mod kafka;
mod modbus;
mod mqtt;
mod through;

use std::io::Write as _;

use clap::Parser;
use millrace_bench::report::Row;

/// What is measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Connector {
    /// Apache Kafka: source and sink apart, and a whole pipeline from topic to topic.
    Kafka,
    /// Mosquitto.
    Mqtt,
    /// A Modbus slave made with pymodbus.
    Modbus,
}

/// Measures a connector beside its plain client library; prints rows as JSON.
///
/// `millrace bench --only kafka,mqtt,modbus` shows them as a table.
#[derive(Debug, Parser)]
#[command(name = "millrace-bench-connectors", version)]
struct Args {
    /// Which.
    #[arg(value_enum)]
    connector: Connector,
    /// A tenth of the work.
    #[arg(long)]
    quick: bool,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("error").with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let rows: Vec<Row> = runtime.block_on(async {
        match args.connector {
            Connector::Kafka => {
                let mut rows = kafka::measure(args.quick).await?;
                rows.extend(through::measure(args.quick).await?);
                anyhow::Ok(rows)
            }
            Connector::Mqtt => mqtt::measure(args.quick).await,
            Connector::Modbus => modbus::measure(args.quick).await,
        }
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&rows)?)?;
    Ok(())
}
