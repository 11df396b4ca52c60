//! Where a letter is to be given: the stage of today's version that has the step which refused it.

use anyhow::Context as _;
use millrace_wadm::DeployedStage;

use super::letter::Letter;

/// Where letters go instead of the stage that refused them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// A pipeline.
    pub(crate) pipeline: String,
    /// One of its stages; without it, the one with the step of the same name.
    pub(crate) stage: Option<String>,
}

impl std::str::FromStr for Elsewhere {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pipeline, stage) = match text.split_once('/') {
            Some((pipeline, stage)) => (pipeline, Some(stage.to_owned())),
            None => (text, None),
        };
        let names = std::iter::once(pipeline).chain(stage.as_deref());
        if !names.into_iter().all(millrace_kit::link::is_name) {
            return Err(format!("`{text}` is not PIPELINE or PIPELINE/STAGE"));
        }
        Ok(Self { pipeline: pipeline.to_owned(), stage })
    }
}

/// The stage of this name.
pub(crate) fn stage_named<'s>(
    stages: &'s [DeployedStage],
    pipeline: &str,
    name: &str,
) -> anyhow::Result<&'s DeployedStage> {
    stages.iter().find(|stage| stage.name == name).with_context(|| {
        let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
        let names = names.join(", ");
        format!(
            "pipeline `{pipeline}` has no stage `{name}`; it has {names}; --into {pipeline}/STAGE names one of them"
        )
    })
}

/// A stage, and the step in it that is the first for this letter, where it is not the stage's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route<'s> {
    /// The stage.
    pub(crate) stage: &'s DeployedStage,
    /// The step.
    pub(crate) enter: Option<&'s str>,
}

/// Why a letter can be given to no stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoute {
    /// The step is not there any more.
    #[error("the pipeline has no step `{0}` any more; --into PIPELINE/STAGE names another place")]
    Step(String),
    /// The stage is not there any more.
    #[error("the pipeline has no stage `{0}` any more; --into PIPELINE/STAGE names another place")]
    Stage(String),
    /// It was no step that refused it.
    #[error(
        "a source or a sink refused it, no step: a stage would process it a second time; --into PIPELINE/STAGE gives it \
         to a stage nevertheless"
    )]
    Connector,
}

impl NoRoute {
    /// A word for it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Step(_) => "no-step",
            Self::Stage(_) => "no-stage",
            Self::Connector => "connector",
        }
    }
}

/// Finds the place for a letter among the stages of a pipeline. `named` is the stage that it has to be.
pub(crate) fn route<'s>(
    stages: &'s [DeployedStage],
    named: Option<&'s DeployedStage>,
    letter: &Letter<'_>,
) -> Result<Route<'s>, NoRoute> {
    if let Some(stage) = named {
        let enter = letter.step.and_then(|step| later_step(stage, step));
        return Ok(Route { stage, enter });
    }
    match (letter.step, letter.kind) {
        (Some(step), _) => with_step(stages, step).ok_or_else(|| NoRoute::Step(step.to_owned())),
        // Connectors know no other kind, and callers of a stage not this one.
        (None, Some("invalid-argument" | "refused")) => Err(NoRoute::Connector),
        // What a stage was called with. A stage has the name of its first step, which may be in another stage now.
        (None, _) => stages
            .iter()
            .find(|stage| stage.name == letter.stage)
            .map(|stage| Route { stage, enter: None })
            .or_else(|| with_step(stages, letter.stage))
            .ok_or_else(|| NoRoute::Stage(letter.stage.to_owned())),
    }
}

fn with_step<'s>(stages: &'s [DeployedStage], step: &str) -> Option<Route<'s>> {
    let stage = stages.iter().find(|stage| stage.steps.iter().any(|s| s == step))?;
    Some(Route { stage, enter: later_step(stage, step) })
}

/// The step, where the stage has it and not as its first.
fn later_step<'s>(stage: &'s DeployedStage, step: &str) -> Option<&'s str> {
    stage.steps.iter().skip(1).find(|s| *s == step).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use millrace_batch::{Batch, BatchWriter, Fields};

    use super::super::store::Kept;
    use super::*;

    fn stage(name: &str, steps: &[&str]) -> DeployedStage {
        DeployedStage {
            name: name.to_owned(),
            id: format!("p-{name}-1"),
            steps: steps.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    /// Where a letter of this stage, step and kind goes: stage and step.
    fn goes(
        stages: &[DeployedStage],
        named: Option<&str>,
        letter: (&str, Option<&str>, &str),
    ) -> Result<(String, Option<String>), NoRoute> {
        let (from, step, kind) = letter;
        let mut headers = vec![("millrace-dead-stage", from), ("millrace-dead-kind", kind)];
        headers.extend(step.map(|step| ("millrace-dead-step", step)));
        let mut writer = BatchWriter::new([]).unwrap();
        writer.push(&Fields::default(), headers).unwrap();
        let bytes = writer.finish();
        let message = Batch::parse(&bytes).unwrap().messages().next().unwrap();
        let kept = Kept::of(1, "millrace.default.p.dead.from", bytes.clone().into());
        let named = named.and_then(|named| stages.iter().find(|stage| stage.name == named));
        let route = route(stages, named, &Letter::read(&kept, 0, message))?;
        Ok((route.stage.name.clone(), route.enter.map(str::to_owned)))
    }

    #[test]
    fn a_letter_goes_where_its_step_is_now() {
        let stages = [stage("a", &["a", "b"]), stage("c", &["c"]), stage("to-out", &[])];
        let to =
            |stage: &str, enter: Option<&str>| Ok((stage.to_owned(), enter.map(str::to_owned)));
        assert_eq!(goes(&stages, None, ("a", Some("a"), "internal")), to("a", None));
        assert_eq!(goes(&stages, None, ("a", Some("b"), "internal")), to("a", Some("b")));
        // It was in another stage when the letter was written.
        assert_eq!(goes(&stages, None, ("a", Some("c"), "internal")), to("c", None));
        assert_eq!(goes(&stages, None, ("b", None, "trap")), to("a", Some("b")));
        assert_eq!(goes(&stages, None, ("to-out", None, "retry")), to("to-out", None));
        // To a stage by name: at its step if it has it, and at its beginning otherwise.
        assert_eq!(goes(&stages, Some("a"), ("x", Some("b"), "internal")), to("a", Some("b")));
        assert_eq!(goes(&stages, Some("c"), ("x", Some("b"), "internal")), to("c", None));
        assert_eq!(goes(&stages, Some("c"), ("x", None, "invalid-argument")), to("c", None));
    }

    #[test]
    fn what_no_step_refused_or_no_stage_has_goes_nowhere() {
        let stages = [stage("a", &["a", "b"])];
        let nowhere = |letter| goes(&stages, None, letter).unwrap_err().name();
        assert_eq!(nowhere(("a", Some("gone"), "internal")), "no-step");
        assert_eq!(nowhere(("gone", None, "trap")), "no-stage");
        assert_eq!(nowhere(("a", None, "invalid-argument")), "connector");
        assert_eq!(nowhere(("a", None, "refused")), "connector");
    }

    #[test]
    fn another_place_is_a_pipeline_or_a_stage_of_it() {
        let into = |text: &str| text.parse::<Elsewhere>().map(|into| (into.pipeline, into.stage));
        assert_eq!(into("shadow"), Ok(("shadow".to_owned(), None)));
        assert_eq!(into("shadow/a"), Ok(("shadow".to_owned(), Some("a".to_owned()))));
        for wrong in ["", "/a", "shadow/", "a.b", "Shadow", "a/b/c"] {
            assert!(into(wrong).is_err(), "{wrong}");
        }
    }
}
