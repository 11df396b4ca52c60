//! What someone waits for who writes a definition: that it is read and checked, and that its tests have run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use millrace_desk::{Cache, Engine, Options, Runtime, run_test};
use millrace_pipeline::{Document, Loaded};

use crate::deploy::component;
use crate::load::median;
use crate::progress;
use crate::report::{Aim, Row};

/// Steps of the definition that is checked.
const STEPS: usize = 500;

/// Messages of the test.
const MESSAGES: usize = 1_000;

/// Either takes at most so many milliseconds.
const AIM_MS: f64 = 100.0;

/// Measures both.
///
/// # Errors
///
/// The example components are not there, or a definition is wrong.
pub(crate) async fn measure(effort: crate::Effort) -> anyhow::Result<Vec<Row>> {
    progress("desk: a definition checked, a test run");
    let rounds = effort.rounds() * 3;
    Ok(vec![lint(rounds)?, test(rounds)?])
}

fn lint(rounds: usize) -> anyhow::Result<Row> {
    let definition = definition(STEPS, "map: pass-map", "");
    let taken = (0..rounds).map(|_| {
        let start = Instant::now();
        let loaded = load(&definition)?;
        let took = millis(start.elapsed());
        ensure!(!loaded.has_errors(), "{}", loaded.render(false));
        Ok(took)
    });
    let taken = taken.collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!("a definition of {STEPS} steps, checked");
    Ok(Row::new("desk", what, median(taken), "ms")
        .aim(Aim::AtMost(AIM_MS))
        .detail("KiB", definition.len() as f64 / 1024.0))
}

fn test(rounds: usize) -> anyhow::Result<Row> {
    let mut tests = String::from("tests:\n  all:\n    inputs:\n      machine:\n");
    for number in 0..MESSAGES {
        let _ = writeln!(tests, "        - {{ topic: plant/press, payload: \"{number}\" }}");
    }
    tests.push_str("    outputs:\n      sink:\n");
    for number in 0..MESSAGES {
        let _ = writeln!(tests, "        - {{ topic: plant/press, payload: \"{number}\" }}");
    }
    let definition = definition(5, "map: pass-map", &tests);
    let folder = tempfile::tempdir().context("could not make a folder for what is compiled")?;
    // As another process finds it: compiled already, and nothing in memory.
    let options = || Options { cache: Cache::At(folder.path().to_owned()), ..Options::default() };
    let (mut all, mut read, mut built, mut ran) = Default::default();
    for round in 0..=rounds {
        let engine = Engine::new(&options())?;
        let start = Instant::now();
        let loaded = load(&definition)?.at_the_desk();
        ensure!(!loaded.has_errors(), "{}", loaded.render(false));
        let reading = start.elapsed();
        let runtime = Runtime::build(&engine, loaded.desk_plan()?)?;
        let building = start.elapsed() - reading;
        let case = loaded.tests().first().ok_or_else(|| anyhow!("the test is gone"))?;
        let report = run_test(&runtime, case);
        let took = start.elapsed();
        ensure!(report.passed(), "{:?}", report.failures);
        // The first one compiles.
        if round > 0 {
            for (list, time) in [
                (&mut all, took),
                (&mut read, reading),
                (&mut built, building),
                (&mut ran, took - reading - building),
            ] {
                let list: &mut Vec<f64> = list;
                list.push(millis(time));
            }
        }
    }
    let what = format!("a test of {MESSAGES} messages through 5 steps, after the first compile");
    Ok(Row::new("desk", what, median(all), "ms")
        .aim(Aim::AtMost(AIM_MS))
        .detail("ms read", median(read))
        .detail("ms stages", median(built))
        .detail("ms run", median(ran)))
}

/// Steps in a row between a source and a sink.
fn definition(steps: usize, kind: &str, more: &str) -> String {
    let mut text = String::from(
        "millrace: v1alpha1\npipeline: bench\nversion: 0.1.0\nsources: [machine]\nsteps:\n",
    );
    let mut before = "machine".to_owned();
    for number in 0..steps {
        let _ = writeln!(text, "  step-{number}: {{ {kind}, from: {before} }}");
        before = format!("step-{number}");
    }
    let url = "mqtt://localhost:1883";
    let file = component("pass-map");
    let _ = write!(
        text,
        "sinks:\n  sink: {{ from: {before} }}\n\
         binding:\n  sources: {{ machine: {{ mqtt: {{ url: \"{url}\", topic: in }} }} }}\n  \
         sinks: {{ sink: {{ mqtt: {{ url: \"{url}\", topic: out }} }} }}\n  \
         components: {{ pass-map: {{ file: \"{file}\" }} }}\n{more}",
        file = file.display()
    );
    text
}

fn load(text: &str) -> anyhow::Result<Loaded> {
    let document = Document { file: "bench", text };
    Ok(millrace_pipeline::load(document, None, &Default::default()))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_are_measured() {
        let rows = measure(crate::Effort { quick: true }).await.unwrap();
        assert_eq!(rows.len(), 2);
        for row in &rows {
            assert!(row.value.is_finite() && row.value > 0.0, "{}", row.what);
        }
    }
}
