//! What a language costs: the same steps in Rust, Python and JavaScript, as `millrace step new` writes them, each the only one
//! of a stage in this process. They are built here; a language whose tool is missing is left out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_compose::Kind;
use millrace_platform::find;
use millrace_step::{KINDS, Language, Project, Tools, build, create, read_samples};
use millrace_window::attach;

use crate::harness::{Subject, engine};
use crate::load::median;
use crate::parts::{self, BATCH, now_ns};
use crate::progress;
use crate::report::Row;

/// Rust first: the others are compared with it.
const LANGUAGES: [(Language, &str); 3] =
    [(Language::Rust, "Rust"), (Language::Javascript, "JavaScript"), (Language::Python, "Python")];

/// Measures each kind in each language.
///
/// # Errors
///
/// A step that was built does not run.
pub(crate) async fn measure(effort: crate::Effort) -> anyhow::Result<Vec<Row>> {
    measure_these(effort, &LANGUAGES, &KINDS).await
}

async fn measure_these(
    effort: crate::Effort,
    languages: &[(Language, &str)],
    kinds: &[Kind],
) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("could not make a folder for the steps")?;
    let tools = Tools::new(find::tools().with_file_name("languages"));
    let engine = engine()?;
    let mut rows = Vec::new();
    let mut rust = Vec::new();
    for &(language, name) in languages {
        for &kind in kinds {
            // An interpreter takes a quarter of a minute to compile.
            if effort.quick && language == Language::Python && kind != Kind::Map {
                progress("languages: Python of other kinds than map is left out with --quick");
                break;
            }
            progress(format_args!("languages: {kind} in {name}"));
            let project = project(folder.path(), language, kind)?;
            let built = match build(&project, &tools) {
                Ok(built) => built,
                Err(error) => {
                    progress(format_args!("languages: {name} is LEFT OUT: {error}"));
                    break;
                }
            };
            let step = Step::new(&engine, &project, &built.file)?;
            let (rounds, calls) = (effort.rounds(), effort.of(20));
            let (many, one) = (step.body(BATCH)?, step.body(1)?);
            let (mut all, mut alone) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                all.push(step.time(&many, calls).await?);
                alone.push(step.time(&one, calls).await?);
            }
            let us = median(all) / BATCH as f64;
            let what = format!("{kind} in {name}, batches of {BATCH}");
            let mut row = Row::new("languages", what, us, "us/message")
                .detail("us/call of one", median(alone))
                .detail("KiB", size_kib(&built.file)?);
            if language == Language::Rust {
                rust.push((kind, us));
            } else if let Some((_, rust)) = rust.iter().find(|(of, _)| *of == kind) {
                row = row.over(*rust);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

fn project(folder: &Path, language: Language, kind: Kind) -> anyhow::Result<Project> {
    let name = format!("{kind}-{language}");
    let folder = folder.join(&name);
    create(&folder, &name, language, kind)?;
    Ok(Project::read(&folder)?)
}

fn size_kib(file: &PathBuf) -> anyhow::Result<f64> {
    Ok(std::fs::metadata(file)?.len() as f64 / 1024.0)
}

/// A stage of one step, and the message that it is given.
struct Step {
    subject: Subject,
    kind: Kind,
    payload: Vec<u8>,
}

impl Step {
    fn new(engine: &wasmtime::Engine, project: &Project, file: &Path) -> anyhow::Result<Self> {
        let artifact = parts::stage_from("step", project.kind, file)?;
        let mut config: std::collections::BTreeMap<_, _> =
            parts::stage_config("bench", "step").into();
        let mut set = |name: &str, value: &str| config.insert(name.to_owned(), value.to_owned());
        match project.kind {
            Kind::Branch => {
                set("step.0.arms", &project.settings.arms.join(","));
            }
            Kind::Accumulate => {
                set("step.0.arms", "result");
                set("state-subject", "bench.state.step");
                set("step.0.window", "tumbling 10000000000");
            }
            _ => {}
        }
        for (name, value) in &project.settings.config {
            config.insert(format!("step.0.config.{name}"), value.clone());
        }
        let samples = read_samples(&project.samples())?;
        let first = samples.into_iter().next().context("a project without a sample")?;
        let subject = Subject::new("step", engine, &artifact.bytes, config)?;
        Ok(Self { subject, kind: project.kind, payload: first.payload })
    }

    fn body(&self, messages: usize) -> anyhow::Result<Bytes> {
        let mut writer = BatchWriter::new([("id", "languages"), ("attempt", "1")])?;
        for _ in 0..messages {
            let fields = Fields {
                timestamp: 1,
                topic: "plant/press-1",
                payload: &self.payload,
                ..Fields::default()
            };
            writer.push(&fields, [])?;
        }
        let body = writer.finish();
        if self.kind.has_state() {
            return Ok(Bytes::from(attach(&Batch::open(&body)?, &[], "step", now_ns(), false)?));
        }
        Ok(Bytes::from(body))
    }

    /// Microseconds a call. All that is published is one batch, or the state: nothing was refused.
    async fn time(&self, body: &Bytes, calls: usize) -> anyhow::Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            let published = self.subject.call(body).await?;
            ensure!(published.len() == 1, "{} batches were published", published.len());
            let dead = published.iter().any(|message| message.subject().contains(".dead."));
            ensure!(!dead, "the step refused its sample");
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the one that is quick to build.
    #[tokio::test]
    async fn a_language_is_measured() {
        let effort = crate::Effort { quick: true };
        let kinds = [Kind::Filter, Kind::Accumulate];
        let rows =
            measure_these(effort, &[(Language::Javascript, "JavaScript")], &kinds).await.unwrap();
        let whats: Vec<&str> = rows.iter().map(|row| row.what.as_str()).collect();
        assert_eq!(
            whats,
            ["filter in JavaScript, batches of 500", "accumulate in JavaScript, batches of 500"]
        );
        assert!(rows.iter().all(|row| row.value.is_finite() && row.value > 0.0));
    }
}
