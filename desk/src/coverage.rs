//! What each step does with the messages of tests. Steps that are fused hand on inside of one call, so the tests are run
//! once more with every step a stage of its own; that the results are the same is what fusing promises.

use millrace_pipeline::{Case, Kind};
use serde::Serialize;

use crate::runtime::{BuildError, Count, Runtime};
use crate::test::{given, play};

/// What the steps of a pipeline did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Coverage {
    /// Each step, in the order of the flow.
    pub steps: Vec<StepCoverage>,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepCoverage {
    /// The step.
    pub step: String,
    /// What it is.
    pub kind: Kind,
    /// Whether what it does not let through goes to somebody, and is not dropped.
    pub hands_over: bool,
    /// Whether a message came to it.
    pub reached: bool,
    /// Messages that came to it.
    pub received: usize,
    /// Those of them that something came of.
    pub passed: usize,
    /// Those that it dropped.
    pub dropped: usize,
    /// Those that it rejected.
    pub rejected: usize,
    /// Messages that it gave on: as many as passed, or any number for a flat-map.
    pub made: usize,
}

impl StepCoverage {
    /// What its kind can do and no message made it do.
    #[must_use]
    pub fn never(&self) -> Vec<&'static str> {
        let may_drop = match self.kind {
            Kind::Filter | Kind::FlatMap => true,
            Kind::DeDuplicate | Kind::Throttle => !self.hands_over,
            _ => false,
        };
        let may_reject =
            !matches!(self.kind, Kind::Throttle | Kind::Concatenate | Kind::Monolithic);
        let all = [
            ("passed", self.passed == 0),
            ("dropped", may_drop && self.dropped == 0),
            ("rejected", may_reject && self.rejected == 0),
        ];
        all.into_iter().filter(|(_, never)| *never).map(|(what, _)| what).collect()
    }
}

/// Runs tests for what the steps do. Tests that cannot be run count for as far as they came.
///
/// # Errors
///
/// When a step cannot be a stage of its own.
pub fn coverage(runtime: &Runtime, cases: &[&Case]) -> Result<Coverage, BuildError> {
    let apart = runtime.apart()?;
    let mut counts: std::collections::BTreeMap<String, Count> = Default::default();
    for case in cases {
        let Ok(inputs) = given(case) else { continue };
        let mut session = apart.session(&crate::test::setting(case));
        session.count();
        // What cannot be run has been said by the test itself.
        let _ = play(&mut session, case, &inputs);
        for (stage, count) in session.end().counts {
            let sum = counts.entry(stage).or_default();
            sum.received += count.received;
            sum.passed += count.passed;
            sum.dropped += count.dropped;
            sum.rejected += count.rejected;
            sum.made += count.made;
        }
    }
    let steps = apart.plan().stages.iter().flat_map(|stage| &stage.steps).map(|step| {
        let count = counts.get(&step.name).copied().unwrap_or_default();
        StepCoverage {
            step: step.name.clone(),
            kind: step.kind,
            hands_over: step
                .kind
                .side_arm()
                .is_some_and(|side| step.arms.iter().any(|a| a == side)),
            reached: count.received > 0,
            received: count.received,
            passed: count.passed,
            dropped: count.dropped,
            rejected: count.rejected,
            made: count.made,
        }
    });
    Ok(Coverage { steps: steps.collect() })
}
