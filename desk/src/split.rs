//! The same pipeline with every step a stage of its own: what fusing must not change, and a way to see what each step does.

use millrace_pipeline::{Edge, Output, Plan, Reason, Stage, StageInput};

/// The plan with a durable edge between all steps. Stages are called as their steps are.
#[must_use]
pub fn split(plan: &Plan) -> Plan {
    let mut apart = Plan { stages: Vec::new(), ..plan.clone() };
    for stage in &plan.stages {
        let mut inputs = stage.inputs.clone();
        let mut steps = stage.steps.iter().peekable();
        let mut first = None;
        while let Some(step) = steps.next() {
            // The first keeps the stage's name, by which edges and sources know it. It is the step's.
            let name = if first.is_none() { &stage.name } else { &step.name };
            first.get_or_insert(name);
            let own = std::mem::take(&mut inputs);
            let output = match steps.peek() {
                None => stage.output.clone(),
                Some(next) => {
                    let edge = format!("{}.{}", step.name, next.name);
                    inputs = vec![StageInput::Edge(edge.clone())];
                    apart.edges.push(between(&edge, name, &next.name));
                    Output::Edges(vec![edge])
                }
            };
            apart.stages.push(Stage {
                writers: Default::default(),
                name: name.clone(),
                steps: vec![step.clone()],
                inputs: own,
                output,
                instances: stage.instances,
            });
        }
        if stage.steps.is_empty() {
            apart.stages.push(stage.clone());
        }
    }
    apart.edges.sort_by(|a, b| a.name.cmp(&b.name));
    publishers(&mut apart);
    apart
}

/// Writes down anew which stage publishes where: the last step does, not the first.
fn publishers(plan: &mut Plan) {
    for edge in &mut plan.edges {
        let publishes = |stage: &&Stage| matches!(&stage.output, Output::Edges(names) if names.contains(&edge.name));
        if let Some(stage) = plan.stages.iter().find(publishes) {
            edge.from.clone_from(&stage.name);
        }
    }
    for sink in &mut plan.sinks {
        let output = Output::Sink(sink.name.clone());
        let writers = plan.stages.iter().filter(|stage| stage.output == output);
        sink.stages = writers.map(|stage| stage.name.clone()).collect();
    }
}

fn between(name: &str, from: &str, to: &str) -> Edge {
    Edge {
        name: name.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        reason: Reason::Durable,
        state: None,
        settings: Default::default(),
        delivery: Default::default(),
    }
}
