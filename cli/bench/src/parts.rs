//! What is measured with: batches, and stages of steps that pass everything on.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use millrace_batch::{BatchWriter, Fields};
use millrace_compose::{Artifact, Grant, Kind, StageSpec, StepSpec, compose};

use crate::deploy::component;

/// Messages in a batch, as sources make them unless told otherwise.
pub(crate) const BATCH: usize = 500;

/// Bytes of a message's payload, where nothing else is said.
pub(crate) const PAYLOAD: usize = 200;

/// Stands in a template for the batch's `id`, which is as long.
const ID: &str = "id-to-be-replaced-here";

/// A batch that is made again and again, each time with another `id`.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    body: Vec<u8>,
    id_at: usize,
}

impl Template {
    /// A batch of so many messages with payloads of so many bytes.
    pub(crate) fn new(messages: usize, payload: usize) -> anyhow::Result<Self> {
        Self::keyed(messages, payload, 0)
    }

    /// The same with so many keys in turns; 0 for none.
    pub(crate) fn keyed(messages: usize, payload: usize, keys: usize) -> anyhow::Result<Self> {
        let payload: Vec<u8> = (0..payload).map(|at| b'a' + (at % 26) as u8).collect();
        let body = batch(messages, &payload, keys)?;
        let id_at = body.windows(ID.len()).position(|bytes| bytes == ID.as_bytes());
        Ok(Self { id_at: id_at.context("the batch has lost its id")?, body })
    }

    /// The batch as it is.
    pub(crate) fn body(&self) -> Bytes {
        Bytes::from(self.body.clone())
    }

    /// The batch with an id that comes from the number, and the id.
    pub(crate) fn numbered(&self, number: usize) -> (Bytes, String) {
        let id = format!("{number:0width$}", width = ID.len());
        let mut body = self.body.clone();
        if let Some(place) = body.get_mut(self.id_at..self.id_at + id.len()) {
            place.copy_from_slice(id.as_bytes());
        }
        (Bytes::from(body), id)
    }
}

/// A batch of one message that tells when it was made.
pub(crate) fn probe(number: usize) -> anyhow::Result<Bytes> {
    let mut writer =
        BatchWriter::new([("id", format!("probe-{number}").as_str()), ("attempt", "1")])?;
    push(&mut writer, &[b'p'; PAYLOAD], now_ns(), None)?;
    Ok(Bytes::from(writer.finish()))
}

fn batch(messages: usize, payload: &[u8], keys: usize) -> anyhow::Result<Vec<u8>> {
    let mut writer = BatchWriter::new([("id", ID), ("attempt", "1")])?;
    for number in 0..messages {
        let key = number.checked_rem(keys).map(|key| format!("press-{key}"));
        push(&mut writer, payload, 0, key.as_deref())?;
    }
    Ok(writer.finish())
}

fn push(
    writer: &mut BatchWriter,
    payload: &[u8],
    timestamp: u64,
    key: Option<&str>,
) -> anyhow::Result<()> {
    let topic = "plant/press-1/temperature";
    let fields =
        Fields { timestamp, topic, key: key.map(str::as_bytes), payload, ..Fields::default() };
    Ok(writer.push(&fields, [])?)
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A stage of one step that passes everything on.
pub(crate) fn pass_stage(name: &str, kind: Kind) -> anyhow::Result<Artifact> {
    stage_of(name, kind, &format!("pass-{kind}"))
}

/// A stage of one step.
pub(crate) fn stage_of(name: &str, kind: Kind, step: &str) -> anyhow::Result<Artifact> {
    stage_from(name, kind, &component(step))
}

/// A stage of one step out of a file.
pub(crate) fn stage_from(name: &str, kind: Kind, file: &Path) -> anyhow::Result<Artifact> {
    stage(name, vec![step(name.to_owned(), kind, file)?])
}

/// A stage of one step that needs no component.
pub(crate) fn stage_without<const N: usize>(
    name: &str,
    kind: Kind,
    grants: [Grant; N],
) -> anyhow::Result<Artifact> {
    let (component, memory_max) = (None, None);
    let step =
        StepSpec { name: name.to_owned(), kind, component, grants: grants.into(), memory_max };
    stage(name, vec![step])
}

/// A stage of so many maps that pass everything on.
pub(crate) fn chain(name: &str, steps: usize) -> anyhow::Result<Artifact> {
    let file = component("pass-map");
    let steps = (0..steps).map(|at| step(format!("step-{at}"), Kind::Map, &file));
    stage(name, steps.collect::<anyhow::Result<_>>()?)
}

fn stage(name: &str, steps: Vec<StepSpec>) -> anyhow::Result<Artifact> {
    let spec = StageSpec { name: name.to_owned(), version: "0.1.0".to_owned(), steps };
    Ok(compose(&spec)?)
}

fn step(name: String, kind: Kind, file: &Path) -> anyhow::Result<StepSpec> {
    let component = std::fs::read(file).with_context(|| {
        format!("could not read {}; build it with `make build`", file.display())
    })?;
    Ok(StepSpec { name, kind, component: Some(component), grants: [].into(), memory_max: None })
}

/// What a stage of one step reads through wasi:config.
pub(crate) fn stage_config(pipeline: &str, stage: &str) -> [(String, String); 6] {
    [
        ("pipeline".to_owned(), pipeline.to_owned()),
        ("stage".to_owned(), stage.to_owned()),
        ("out-subject".to_owned(), format!("{pipeline}.out.{stage}")),
        ("dead-subject".to_owned(), format!("{pipeline}.dead.{stage}")),
        ("step.0.name".to_owned(), stage.to_owned()),
        // Where it is a branch.
        ("step.0.arms".to_owned(), "on".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use millrace_batch::Batch;

    use super::*;

    #[test]
    fn batches_from_one_template_differ_in_their_id_only() {
        let template = Template::new(3, 64).unwrap();
        let ((one, first), (two, second)) = (template.numbered(1), template.numbered(2));
        assert_ne!(first, second);
        let (one, two) = (Batch::parse(&one).unwrap(), Batch::parse(&two).unwrap());
        assert_eq!(one.header("id"), Some(first.as_str()));
        assert_eq!(two.header("id"), Some(second.as_str()));
        assert_eq!(one.len(), 3);
        assert!(one.messages().all(|message| message.payload.len() == 64));
    }
}
