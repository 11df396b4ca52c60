//! Resident memory of the platform and of what is deployed on it, and the time from deploying to the first message.

use std::time::Duration;

use anyhow::Context as _;
use millrace_platform::Sync;

use crate::lab::Lab;
use crate::lattice::{Control, SINK, Sink, put_stage};
use crate::mqtt::Pipeline;
use crate::parts::probe;
use crate::progress;
use crate::report::Row;

/// After its start, until a process has what it needs and gave back what it did not.
const SETTLE: Duration = Duration::from_secs(3);

/// Stages of which the memory of one is computed.
const STAGES: u32 = 10;

/// Measures all rows.
///
/// # Errors
///
/// A server does not start, or a message does not arrive.
pub(crate) async fn measure() -> anyhow::Result<Vec<Row>> {
    progress("footprint: memory, and the time to the first message");
    let mut rows = Lab::host(Sync::Always, async |lab| memory(lab).await).await?;
    rows.extend(Lab::host(Sync::Always, async |lab| pipeline(lab).await).await?);
    Ok(rows)
}

async fn memory(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    tokio::time::sleep(SETTLE).await;
    let idle = resident_mib(lab.host_id()?)?;
    let nats = resident_mib(lab.nats_id()?)?;
    let control = Control::new(&lab.connect().await?).await?;
    let _sink = Sink::serve(lab).await?;
    // The first stage also brings in the compiler, which the others share.
    start_stage(lab, &control, "stage-0").await?;
    tokio::time::sleep(SETTLE).await;
    let one = resident_mib(lab.host_id()?)?;
    for number in 1..=STAGES {
        start_stage(lab, &control, &format!("stage-{number}")).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let all = resident_mib(lab.host_id()?)?;
    let each = (all - one) / f64::from(STAGES);
    Ok(vec![
        Row::new("footprint", "host and wadm, idle", idle, "MiB"),
        Row::new("footprint", "nats-server, idle", nats, "MiB"),
        Row::new("footprint", "first stage", one - idle, "MiB"),
        Row::new("footprint", format!("each of {STAGES} further stages"), each, "MiB"),
    ])
}

/// Starts a stage and calls it once.
async fn start_stage(lab: &Lab, control: &Control, name: &str) -> anyhow::Result<()> {
    let source = put_stage(lab, control, name).await?;
    control.link(&format!("bench-{name}"), SINK, "default", "consumer", None, None).await?;
    source.ready(&probe(0)?).await
}

async fn pipeline(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let pipeline = Pipeline::deploy(lab).await?;
    let times = pipeline.times;
    tokio::time::sleep(SETTLE).await;
    let mut rows = vec![
        Row::new(
            "footprint",
            "deploy to first message, two stages",
            millis(times.first_message),
            "ms",
        )
        .detail("of it building ms", millis(times.build))
        .detail("all running after ms", millis(times.running)),
        Row::new(
            "footprint",
            "host and wadm with a pipeline of two stages",
            resident_mib(lab.host_id()?)?,
            "MiB",
        ),
    ];
    let children = children(lab.host_id()?)?;
    for provider in ["conduit", "mqtt"] {
        // The host unpacks an archive to an executable named after the archive's path.
        let found =
            children.iter().find(|(name, _)| name.contains(&format!("_providers_{provider}_")));
        let (_, id) = found.with_context(|| format!("no {provider} among {children:?}"))?;
        rows.push(Row::new("footprint", format!("provider {provider}"), resident_mib(*id)?, "MiB"));
    }
    Ok(rows)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Resident memory of a process (`VmRSS` of proc_pid_status(5)).
pub(crate) fn resident_mib(id: u32) -> anyhow::Result<f64> {
    let kib = status_field(id, "VmRSS:").with_context(|| format!("process {id} has ended"))?;
    let kib: f64 = kib.trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Memory of a process where what it shares with others counts in part (`Pss` of proc_pid_smaps_rollup, proc_pid_smaps(5)).
pub(crate) fn shared_mib(id: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))
        .with_context(|| format!("the memory of process {id} cannot be looked at"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: f64 = kib.context("it has no such figure")?.trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Name of the executable and id of each child process.
pub(crate) fn children(parent: u32) -> anyhow::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("could not read /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if status_field(id, "PPid:") == Some(parent.to_string()) {
            let executable = std::fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
            let name = executable.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, id));
        }
    }
    found.sort();
    Ok(found)
}

fn status_field(id: u32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process_and_a_child() {
        let own = std::process::id();
        assert!(resident_mib(own).unwrap() > 0.5);
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let found = children(own).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|(_, id)| *id == child.id()), "{found:?}");
    }
}
