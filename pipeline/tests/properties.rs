//! What holds for every pipeline: plans of random graphs, and texts of any
//! kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use millrace_pipeline::{
    Binding, Component, Document, Durable, Hosts, Input, Kind, Options, Output, Pipeline, Plan,
    RESULT, Sink, SinkBinding, Source, SourceBinding, StageInput, Step, load, load_with, plan,
};
use millrace_settings::Count;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// What a random graph is made of: for each step and sink its inputs, as
/// numbers that are mapped onto what comes before it.
#[derive(Debug, Clone)]
struct Shape {
    sources: usize,
    steps: Vec<(Vec<(prop::sample::Index, bool)>, bool)>,
    sinks: Vec<Vec<(prop::sample::Index, bool)>>,
}

fn inputs() -> impl Strategy<Value = Vec<(prop::sample::Index, bool)>> {
    prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.2)), 1..4)
}

fn shape() -> impl Strategy<Value = Shape> {
    let steps = prop::collection::vec((inputs(), prop::bool::weighted(0.2)), 0..12);
    let sinks = prop::collection::vec(inputs(), 1..4);
    (1..4usize, steps, sinks).prop_map(|(sources, steps, sinks)| Shape { sources, steps, sinks })
}

fn step_name(i: usize) -> String {
    // Some steps have the names that stages without steps would like.
    if i % 5 == 4 { format!("from-source-{}", i / 5) } else { format!("step-{:02}", 97 * i % 100) }
}

/// The names of the steps, each behind those that it takes from.
fn step_names(shape: &Shape) -> Vec<String> {
    (0..shape.steps.len()).map(step_name).collect()
}

fn pick(before: &[String], choice: &[(prop::sample::Index, bool)]) -> Vec<Input> {
    let mut seen = BTreeSet::new();
    choice
        .iter()
        .map(|(index, durable)| (index.get(before).clone(), *durable))
        .filter(|(name, _)| seen.insert(name.clone()))
        .map(|(name, durable)| Input { name, durable: durable.then(Durable::default) })
        .collect()
}

fn pipeline(shape: &Shape) -> Pipeline {
    let address = |topic: &str| {
        BTreeMap::from([
            ("url".to_owned(), "mqtt://localhost".to_owned()),
            ("topic".to_owned(), topic.to_owned()),
        ])
    };
    let mut before: Vec<String> = (0..shape.sources).map(|i| format!("source-{i}")).collect();
    let sources: BTreeMap<String, Source> =
        before.iter().map(|name| (name.clone(), Source::default())).collect();
    let mut steps = BTreeMap::new();
    for (i, (choice, scaled)) in shape.steps.iter().enumerate() {
        let name = step_name(i);
        // Each fourth is a branch, whose messages are those of its arms.
        let arms: &[&str] = if i % 4 == 3 { &["left", "right", "up"] } else { &[] };
        // Some have a state, and take from one; some need no component.
        let kind = match (arms.is_empty(), i % 7) {
            (false, _) => Kind::Branch,
            (true, 2) => Kind::Accumulate,
            (true, 4) => Kind::DeDuplicate,
            (true, 5) => Kind::Throttle,
            (true, 6) => Kind::Concatenate,
            (true, 3) => Kind::Monolithic,
            (true, _) => Kind::Map,
        };
        let mut from = pick(&before, choice);
        if kind.has_state() {
            from.truncate(1);
        }
        let settings: &[(&str, &str)] = match kind {
            Kind::DeDuplicate => &[("by", "payload"), ("within", "1m")],
            Kind::Throttle => &[("per", "1m")],
            _ => &[],
        };
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let window = kind.has_windows().then(|| ("tumbling".to_owned(), "10s".to_owned()));
        let component = if kind.settings().is_none() { "c" } else { "" };
        let step = Step {
            kind,
            component: component.to_owned(),
            settings: settings.iter().map(own).collect(),
            description: None,
            arms: arms.iter().copied().map(str::to_owned).collect(),
            from,
            window: window.into_iter().collect(),
            config: BTreeMap::new(),
            grants: Vec::new(),
            memory: None,
            instances: scaled.then(|| Count::new(7).unwrap()),
        };
        match arms {
            [] => before.push(name.clone()),
            _ => before.extend(arms.iter().map(|arm| format!("{name}.{arm}"))),
        }
        steps.insert(name, step);
    }
    let mut sinks: BTreeMap<String, Sink> = shape
        .sinks
        .iter()
        .enumerate()
        .map(|(i, choice)| {
            (format!("sink-{i}"), Sink { from: pick(&before, choice), description: None })
        })
        .collect();
    // Whatever nobody takes goes to the first sink.
    let taken: BTreeSet<String> = steps
        .values()
        .flat_map(|step| &step.from)
        .chain(sinks.values().flat_map(|sink| &sink.from))
        .map(|input| input.name.clone())
        .collect();
    let rest = before.iter().filter(|name| !taken.contains(*name));
    let first = sinks.get_mut("sink-0").unwrap();
    first.from.extend(rest.map(|name| Input { name: name.clone(), durable: None }));
    let binding = Binding {
        parameters: BTreeMap::new(),
        sources: sources
            .keys()
            .map(|name| {
                let settings = address("a");
                (
                    name.clone(),
                    SourceBinding {
                        connector: "mqtt".to_owned(),
                        settings,
                        delivery: BTreeMap::new(),
                    },
                )
            })
            .collect(),
        sinks: sinks
            .keys()
            .map(|name| {
                (name.clone(), SinkBinding { connector: "mqtt".to_owned(), settings: address("b") })
            })
            .collect(),
        components: if steps.values().all(|step| step.component.is_empty()) {
            BTreeMap::new()
        } else {
            BTreeMap::from([(
                "c".to_owned(),
                Component { file: "c.wasm".to_owned(), ..Component::default() },
            )])
        },
        pipelines: BTreeMap::new(),
        servers: BTreeMap::new(),
        hosts: Hosts::default(),
        placement: BTreeMap::new(),
    };
    Pipeline {
        millrace: "v1alpha1".to_owned(),
        pipeline: "random".to_owned(),
        version: "0.1.0".to_owned(),
        description: None,
        parameters: BTreeMap::new(),
        sources,
        steps,
        calls: BTreeMap::new(),
        sinks,
        rollout: BTreeMap::new(),
        binding: Some(binding),
        tests: BTreeMap::new(),
    }
}

/// A definition as a text: JSON is YAML.
fn text(pipeline: &Pipeline) -> String {
    json(pipeline).to_string()
}

fn json(pipeline: &Pipeline) -> Value {
    let inputs = |from: &[Input]| -> Value {
        let input =
            |input: &Input| json!({ "name": input.name, "durable": input.durable.is_some() });
        from.iter().map(input).collect()
    };
    let step = |(name, step): (&String, &Step)| {
        let what = match step.kind.settings() {
            Some(_) => json!(step.settings),
            None => json!(step.component),
        };
        let mut written = json!({ step.kind.as_str(): what, "from": inputs(&step.from) });
        let mut put = |field: &str, there: bool, value: Value| {
            if there {
                written[field] = value;
            }
        };
        put("arms", !step.arms.is_empty(), json!(step.arms));
        put("window", !step.window.is_empty(), json!(step.window));
        put("instances", step.instances.is_some(), json!(step.instances.map(|n| n.get())));
        (name.clone(), written)
    };
    let binding = pipeline.binding.as_ref().unwrap();
    let source = |(name, source): (&String, &SourceBinding)| {
        (name.clone(), json!({ source.connector.as_str(): source.settings }))
    };
    let sink = |(name, sink): (&String, &SinkBinding)| {
        (name.clone(), json!({ sink.connector.as_str(): sink.settings }))
    };
    json!({
        "millrace": pipeline.millrace,
        "pipeline": pipeline.pipeline,
        "version": pipeline.version,
        "sources": pipeline.sources.keys().collect::<Vec<_>>(),
        "steps": pipeline.steps.iter().map(step).collect::<Map<_, _>>(),
        "sinks": pipeline.sinks.iter().map(|(name, sink)| {
            (name.clone(), json!({ "from": inputs(&sink.from) }))
        }).collect::<Map<_, _>>(),
        "binding": {
            "sources": binding.sources.iter().map(source).collect::<Map<_, _>>(),
            "sinks": binding.sinks.iter().map(sink).collect::<Map<_, _>>(),
            "components": binding.components,
        },
    })
}

/// The same pipeline in two files: the steps `cut` are those of a sub-pipeline. `through` says which of what the rest takes
/// goes straight through it all the same.
fn in_two(whole: &Pipeline, cut: &BTreeSet<String>, through: &[bool]) -> (Value, Value) {
    let (mut inner, mut outer) = (json(whole), json(whole));
    let inside = |name: &str| cut.contains(name.split('.').next().unwrap());
    // What comes in has a name there.
    let mut given: Vec<String> = Vec::new();
    let place = |all: &mut Vec<String>, name: &str| {
        let known = all.iter().position(|other| other == name);
        known.unwrap_or_else(|| {
            all.push(name.to_owned());
            all.len() - 1
        })
    };
    let short = |name: &str| name.strip_prefix("cut-").unwrap().to_owned();
    let mut steps = Map::new();
    for name in cut {
        let mut step = inner["steps"][name].clone();
        for input in step["from"].as_array_mut().unwrap() {
            let from = input["name"].as_str().unwrap().to_owned();
            input["name"] = match inside(&from) {
                true => short(&from).into(),
                false => format!("in-{}", place(&mut given, &from)).into(),
            };
        }
        steps.insert(short(name), step);
        outer["steps"].as_object_mut().unwrap().remove(name);
    }
    // Those before it do not take from it, those behind may.
    let before: BTreeSet<String> = reaching(whole, &given);
    let mut taken: Vec<String> = Vec::new();
    for section in ["steps", "sinks"] {
        for (name, node) in outer[section].as_object_mut().unwrap() {
            for input in node["from"].as_array_mut().unwrap() {
                let from = input["name"].as_str().unwrap().to_owned();
                let way = through[from.len() % through.len()];
                let goes_in = given.contains(&from) && !before.contains(name);
                if inside(&from) || way && goes_in {
                    input["name"] = format!("cut.out-{}", place(&mut taken, &from)).into();
                }
            }
        }
    }
    let named = |place: usize| format!("in-{place}");
    let sinks: Map<String, Value> = taken
        .iter()
        .enumerate()
        .map(|(place, from)| {
            let from = match given.iter().position(|other| other == from) {
                Some(place) => named(place),
                None => short(from),
            };
            (format!("out-{place}"), json!({ "from": from }))
        })
        .collect();
    let inputs: Map<String, Value> =
        given.iter().enumerate().map(|(place, name)| (named(place), json!(name))).collect();
    outer["steps"]["cut"] = json!({ "pipeline": "part", "inputs": inputs });
    outer["binding"]["pipelines"] = json!({ "part": { "file": "part.yaml" } });
    inner["pipeline"] = "part".into();
    inner["sources"] = given.iter().enumerate().map(|(place, _)| named(place)).collect();
    inner["steps"] = steps.into();
    inner["sinks"] = sinks.into();
    inner["binding"] = json!({ "components": inner["binding"]["components"] });
    (outer, inner)
}

/// The steps whose messages come to one of these names.
fn reaching(pipeline: &Pipeline, names: &[String]) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<String> =
        names.iter().map(|name| name.split('.').next().unwrap().to_owned()).collect();
    while let Some(name) = next.pop() {
        let Some(step) = pipeline.steps.get(&name) else { continue };
        if reached.insert(name) {
            next.extend(step.from.iter().map(|input| input.node().to_owned()));
        }
    }
    reached
}

/// Every way messages can take in the definition: source, steps, sink.
fn ways_drawn(pipeline: &Pipeline) -> BTreeSet<(String, String)> {
    let mut ways = BTreeSet::new();
    for (to, from) in pipeline
        .steps
        .iter()
        .map(|(name, step)| (name, &step.from))
        .chain(pipeline.sinks.iter().map(|(name, sink)| (name, &sink.from)))
    {
        ways.extend(from.iter().map(|input| (input.name.clone(), to.clone())));
    }
    ways
}

/// The same, out of the plan: neighbours inside stages, and across whatever
/// joins them. A stage without steps is a way through.
fn ways_planned(plan: &Plan) -> BTreeSet<(String, String)> {
    let mut ways = BTreeSet::new();
    let edges: BTreeMap<&str, _> =
        plan.edges.iter().map(|edge| (edge.name.as_str(), edge)).collect();
    let stages: BTreeMap<&str, _> =
        plan.stages.iter().map(|stage| (stage.name.as_str(), stage)).collect();
    for stage in &plan.stages {
        for pair in stage.steps.windows(2) {
            ways.insert((pair[0].name.clone(), pair[1].name.clone()));
        }
        // What comes in: the last step of the stage before, or a source.
        let mut entering = Vec::new();
        for input in &stage.inputs {
            match input {
                StageInput::Source(name) => entering.push(name.clone()),
                StageInput::Edge(name) => match stages[edges[name.as_str()].from.as_str()] {
                    before if before.steps.is_empty() => {
                        for input in &before.inputs {
                            let StageInput::Source(name) = input else {
                                panic!("an ingress behind an edge")
                            };
                            entering.push(name.clone());
                        }
                    }
                    before => {
                        let last = before.steps.last().unwrap();
                        let (from, _) = name.split_once('.').unwrap();
                        let arm = from.split_once('_').map(|(_, arm)| arm);
                        let parts = last.kind == Kind::Branch || last.kind.has_state();
                        assert_eq!(arm.is_some(), parts);
                        entering.push(match arm {
                            Some(RESULT) | None => last.name.clone(),
                            Some(arm) => format!("{}.{arm}", last.name),
                        });
                    }
                },
            }
        }
        if let Some(first) = stage.steps.first() {
            ways.extend(entering.iter().map(|from| (from.clone(), first.name.clone())));
        }
        if let Output::Sink(sink) = &stage.output {
            match stage.steps.last() {
                Some(last) => drop(ways.insert((last.name.clone(), sink.clone()))),
                None => ways.extend(entering.iter().map(|from| (from.clone(), sink.clone()))),
            }
        }
    }
    ways
}

/// Left, top, right and bottom of each box of a picture.
fn boxes(picture: &str) -> Vec<[f64; 4]> {
    let number = |line: &str, name: &str| -> f64 {
        let from = line.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
        line[from..].split('"').next().unwrap().parse().unwrap()
    };
    let boxes = picture.lines().filter(|line| line.starts_with("<rect class=\"box"));
    boxes
        .map(|line| {
            let (x, y) = (number(line, "x"), number(line, "y"));
            [x, y, x + number(line, "width"), y + number(line, "height")]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_picture_shows_everything_and_no_box_is_on_another(shape in shape()) {
        let plan = plan(&pipeline(&shape), Path::new("here")).unwrap();
        let picture = millrace_pipeline::svg(&plan);
        let boxes = boxes(&picture);
        prop_assert_eq!(boxes.len(), plan.sources.len() + plan.stages.len() + plan.sinks.len());
        for (number, one) in boxes.iter().enumerate() {
            for other in &boxes[number + 1..] {
                let apart = one[2] <= other[0] || other[2] <= one[0] || one[3] <= other[1] || other[3] <= one[1];
                prop_assert!(apart, "{one:?} and {other:?}\n{picture}");
            }
        }
        let arrows = picture.matches("<path class=\"line\"").count();
        let ends: usize = plan.stages.iter().map(|stage| {
            stage.inputs.len() + usize::from(matches!(stage.output, Output::Sink(_)))
        }).sum();
        prop_assert_eq!(arrows, ends);
        for step in plan.stages.iter().flat_map(|stage| &stage.steps) {
            let shown = format!("</tspan> {}</text>", step.name);
            prop_assert!(picture.contains(&shown), "{}", step.name);
        }
        for edge in &plan.edges {
            prop_assert!(picture.contains(&edge.name));
        }
    }

    #[test]
    fn plans_keep_the_graph(shape in shape()) {
        let pipeline = pipeline(&shape);
        let findings = millrace_pipeline::lint(&pipeline);
        prop_assert!(findings.is_empty(), "{findings:#?}");
        let plan = plan(&pipeline, Path::new("here")).unwrap();

        // Every step is in one stage.
        let planned: Vec<&str> =
            plan.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.name.as_str()).collect();
        let once: BTreeSet<&str> = planned.iter().copied().collect();
        prop_assert_eq!(planned.len(), once.len());
        prop_assert_eq!(once, pipeline.steps.keys().map(String::as_str).collect::<BTreeSet<_>>());

        // Stages have names of their own, that fit, and are called by someone.
        let names: BTreeSet<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        prop_assert_eq!(names.len(), plan.stages.len());
        prop_assert!(names.iter().all(|name| name.len() <= 40));
        prop_assert!(plan.stages.iter().all(|stage| !stage.inputs.is_empty()));

        // Edges join stages that list them, and each is listed once either side.
        let mut published = Vec::new();
        let mut taken = Vec::new();
        for stage in &plan.stages {
            if let Output::Edges(edges) = &stage.output {
                prop_assert!(!edges.is_empty());
                published.extend(edges.iter().map(|edge| (edge.clone(), stage.name.clone())));
            }
            for input in &stage.inputs {
                if let StageInput::Edge(edge) = input {
                    taken.push((edge.clone(), stage.name.clone()));
                }
            }
        }
        published.sort();
        taken.sort();
        let from: Vec<_> = plan.edges.iter().map(|edge| (edge.name.clone(), edge.from.clone())).collect();
        let to: Vec<_> = plan.edges.iter().map(|edge| (edge.name.clone(), edge.to.clone())).collect();
        prop_assert_eq!(published, from);
        prop_assert_eq!(taken, to);

        // A source calls one stage: it is one client of the outside.
        for source in &plan.sources {
            let called = StageInput::Source(source.name.clone());
            prop_assert_eq!(plan.stages.iter().filter(|stage| stage.inputs.contains(&called)).count(), 1);
            prop_assert!(names.contains(source.stage.as_str()));
        }
        prop_assert_eq!(plan.sources.len(), pipeline.sources.len());
        prop_assert_eq!(plan.sinks.len(), pipeline.sinks.len());

        // Nothing is lost of the graph, and nothing added.
        prop_assert_eq!(ways_planned(&plan), ways_drawn(&pipeline));

        // What the author asked to be durable is.
        for (to, input) in pipeline.steps.iter().flat_map(|(to, step)| step.from.iter().map(move |i| (to, i))) {
            if input.durable.is_some() {
                let before = pipeline.steps.get(input.node());
                let windows = before.is_some_and(|step| step.kind.has_state());
                let from = input.name.replace('.', "_") + if windows { "_result" } else { "" };
                let name = format!("{from}.{to}");
                prop_assert!(plan.edges.iter().any(|edge| edge.name == name));
            }
        }
    }

    #[test]
    fn the_same_definition_has_the_same_plan(shape in shape()) {
        let pipeline = pipeline(&shape);
        let first = serde_json::to_string(&plan(&pipeline, Path::new("")).unwrap()).unwrap();
        let second = serde_json::to_string(&plan(&pipeline, Path::new("")).unwrap()).unwrap();
        prop_assert_eq!(first, second);
    }

    /// A pipeline in two files is planned as the one that it is.
    #[test]
    fn a_sub_pipeline_is_planned_as_if_its_steps_stood_there(
        shape in shape(),
        first in any::<prop::sample::Index>(),
        last in any::<prop::sample::Index>(),
        through in prop::collection::vec(any::<bool>(), 3),
    ) {
        prop_assume!(!shape.steps.is_empty());
        let mut whole = pipeline(&shape);
        // Steps take from those made before them only: a piece out of that order feeds nothing that feeds it.
        let order = step_names(&shape);
        let (first, last) = (first.index(order.len()), last.index(order.len()));
        let cut: BTreeSet<&String> = order[first.min(last)..=first.max(last)].iter().collect();
        let renamed = |name: &str| {
            let node = name.split('.').next().unwrap().to_owned();
            if cut.contains(&node) { format!("cut-{name}") } else { name.to_owned() }
        };
        whole.steps = whole.steps.into_iter().map(|(name, step)| (renamed(&name), step)).collect();
        let from = whole.steps.values_mut().map(|step| &mut step.from);
        for input in from.chain(whole.sinks.values_mut().map(|sink| &mut sink.from)).flatten() {
            input.name = renamed(&input.name);
        }
        let cut: BTreeSet<String> = cut.iter().map(|name| renamed(name)).collect();
        let (outer, inner) = in_two(&whole, &cut, &through);
        let library = |file: &Path| {
            assert_eq!(file, Path::new("part.yaml"));
            Ok(inner.to_string())
        };
        let options = Options::default();
        let outer = outer.to_string();
        let document = Document { file: "whole.yaml", text: &outer };
        let loaded = load_with(document, None, &options, &library);
        prop_assert!(!loaded.has_errors(), "{}\n{outer}\n{inner}", loaded.render(false));
        let in_one = text(&whole);
        let one = load(Document { file: "whole.yaml", text: &in_one }, None, &options);
        prop_assert!(!one.has_errors(), "{}", one.render(false));
        prop_assert_eq!(loaded.plan().unwrap(), one.plan().unwrap());
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        let loaded = load(Document { file: "f", text: &text }, None, &Options::default());
        prop_assert!(loaded.has_errors());
        prop_assert!(!loaded.render(true).is_empty());
        prop_assert!(loaded.plan().is_err());
    }

    /// Texts that come near: lines of a right definition, shuffled and damaged.
    #[test]
    fn damaged_definitions_are_read_without_a_panic(
        cut in 0..SAMPLE.len(),
        length in 0..40usize,
        put in "[\\[\\]{}:,#&*!|>'\"%@` \n\ta-z0-9$é-]{0,12}",
    ) {
        let start = (0..=cut).rev().find(|at| SAMPLE.is_char_boundary(*at)).unwrap();
        let end = (start + length..=SAMPLE.len()).find(|at| SAMPLE.is_char_boundary(*at)).unwrap_or(SAMPLE.len());
        let text = format!("{}{put}{}", &SAMPLE[..start], &SAMPLE[end..]);
        let loaded = load(Document { file: "f", text: &text }, None, &Options::default());
        let _ = loaded.render(false);
        if !loaded.has_errors() && loaded.pipeline().is_some_and(|p| p.binding.is_some()) {
            prop_assert!(loaded.plan().is_ok());
        }
    }
}

const SAMPLE: &str = include_str!("../../samples/temperature-alerts/pipeline.yaml");

/// Five hundred steps, each with config, some of them wrong.
fn large(wrong: bool) -> String {
    let mut text = String::from(
        "millrace: v1alpha1\npipeline: large\nversion: 0.1.0\nsources: [machine]\nsteps:\n",
    );
    for i in 0..500 {
        let from = match i {
            0 => "machine".to_owned(),
            i if wrong && i % 3 == 0 => format!("stp-{}", i - 1),
            i => format!("step-{}", i - 1),
        };
        text += &format!(
            "  step-{i}:\n    map: convert\n    from: {from}\n    config: {{ field: value-{i}, limit: {i} }}\n"
        );
    }
    text += "sinks: { out: { from: step-499 } }\nbinding:\n  sources: { machine: { mqtt: { url: \"mqtt://localhost\", topic: a } } }\n";
    text + "  sinks: { out: { mqtt: { url: \"mqtt://localhost\", topic: b } } }\n  components: { convert: { file: c.wasm } }\n"
}

#[test]
fn five_hundred_steps_are_linted_at_once() {
    for (wrong, findings) in [(false, 0), (true, 166)] {
        let text = large(wrong);
        let start = Instant::now();
        let loaded = load(Document { file: "large.yaml", text: &text }, None, &Options::default());
        let linted = start.elapsed();
        let rendered = loaded.render(false).len();
        let shown = start.elapsed() - linted;
        println!(
            "500 steps, {} findings: lint {linted:?}, render {shown:?} ({rendered} bytes)",
            loaded.findings().len()
        );
        assert_eq!(loaded.findings().len(), findings, "{}", loaded.render(false));
        // The aim is 100 ms; the bound leaves room for a busy machine.
        assert!(linted.as_millis() < 1_000, "{linted:?}");
    }
}

/// What is cheap to send must be cheap to refuse.
#[test]
fn hostile_texts_are_refused_quickly() {
    let megabyte = 1 << 20;
    let texts = [
        "[".repeat(megabyte),
        "{".repeat(megabyte),
        "- ".repeat(megabyte / 2),
        "? ".repeat(megabyte / 2),
        "a:\n".repeat(megabyte / 3),
        "&a ".repeat(megabyte / 3),
        "!".repeat(megabyte),
        "\"".repeat(megabyte),
        format!("sources: [{}]", "a,".repeat(megabyte / 2 - 10)),
        (0..80_000).map(|i| format!("k{i}: v\n")).collect(),
        format!(
            "steps:\n{}",
            (0..30_000).map(|i| format!("  s{i}: {{ from: s{} }}\n", i + 1)).collect::<String>()
        ),
        format!("a: |\n{}", " \n".repeat(megabyte / 2 - 10)),
    ];
    for text in texts {
        let start = Instant::now();
        let loaded = load(Document { file: "f", text: &text }, None, &Options::default());
        let shown = loaded.render(false).len();
        let took = start.elapsed();
        println!(
            "{:?}...: {took:?}, {} findings, {shown} bytes",
            text.get(..12).unwrap(),
            loaded.findings().len()
        );
        assert!(loaded.has_errors());
        assert!(took.as_secs() < 5, "{took:?}");
    }
}
