//! Grants beside what is done with them.
//!
//! Of what a component imports: a step has what it needs, and no more than that. Composing decides about
//! every import (`millrace-compose`); here a definition is told before, with the place. Of what sinks write for a step: the sinks hold
//! each message against the step's grants (`millrace-kit`); here is said what can be known before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;

use millrace_grants::{Grant, Names, Place, Target};
use millrace_settings::{Settings, from_flat, gpio, kafka, modbus, mqtt, registry};

use crate::component;
use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::model::{Binding, Kind, Pipeline, Step};

/// Interfaces that a component is refused for without a grant, with how the grant is written. Clocks and random numbers are
/// not among them: what is built for WASI imports those as a matter of course, and is denied them inside.
const NEEDED: [(&str, &str); 4] = [
    ("wasi:logging/logging", "log"),
    ("wasi:config/store", "config"),
    ("millrace:step/key-value", "kv:BUCKET"),
    ("millrace:step/http", "http:METHOD:HOST"),
];

/// What steps are granted and do not use, and use without a grant.
pub(crate) fn issues(pipeline: &Pipeline, binding: &Binding, folder: &FilePath) -> Vec<Issue> {
    // The same component may be that of many steps.
    let mut imports: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    let mut issues = Vec::new();
    for (name, step) in &pipeline.steps {
        let Some(component) = binding.components.get(&step.component) else { continue };
        let read = imports
            .entry(&step.component)
            .or_insert_with(|| component::imports(&folder.join(&component.file)));
        // A file that is missing, or is no component, is reported as that.
        let Some(imports) = read else { continue };
        issues.extend(of_step(step, imports, &Path::of(["steps", name])));
    }
    issues
}

fn of_step(step: &Step, imports: &[String], path: &Path) -> Vec<Issue> {
    let has =
        |interface: &str| imports.iter().any(|import| import.split('@').next() == Some(interface));
    let mut issues = Vec::new();
    let mut open = Vec::new();
    for (index, text) in step.grants.iter().enumerate() {
        // What is no grant is reported as that.
        let Ok(grant) = text.parse::<Grant>() else { continue };
        if matches!(grant, Grant::Write(_)) {
            continue;
        }
        let interfaces = grant.interfaces();
        open.extend(interfaces);
        if !interfaces.iter().any(|interface| has(interface)) {
            let what = interfaces.join("` or `");
            let message = format!(
                "the component {} does not import `{what}`, for which {} is granted",
                quoted(&step.component),
                quoted(text)
            );
            let at = path.key("grants").index(index);
            let issue = Issue::warning("grant-without-use", at, Part::Value, message);
            issues.push(issue.mend("remove it: a step has what it needs"));
        }
    }
    for (interface, grant) in NEEDED {
        // A component that is a stage itself has the stage's configuration.
        let own = step.kind == Kind::Monolithic && interface == "wasi:config/store";
        if has(interface) && !own && !open.contains(&interface) {
            let message = format!(
                "the component {} imports `{interface}`, which is not granted",
                quoted(&step.component)
            );
            let issue = Issue::error("use-without-grant", path.clone(), Part::Key, message);
            issues.push(issue.mend(format!("add `{grant}` to its grants, or build it without")));
        }
    }
    issues
}

/// The places of a connector that a step was granted, each with its index.
pub(crate) fn places(grants: &[String], connector: &str) -> impl Iterator<Item = (usize, Place)> {
    grants.iter().enumerate().filter_map(move |(index, grant)| match grant.parse() {
        Ok(Grant::Write(place)) if place.connector() == connector => Some((index, place)),
        _ => None,
    })
}

/// The steps that answer for the messages of a source or step: the step itself if it runs a component, or else the nearest ones
/// before it that do. A source answers for itself.
pub(crate) fn writers<'a>(pipeline: &'a Pipeline, name: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![name]);
    while let Some(name) = waiting.pop() {
        let Some((name, step)) = pipeline.steps.get_key_value(name) else { continue };
        if step.kind.settings().is_none() {
            found.insert(name.as_str());
        } else if seen.insert(name) {
            waiting.extend(step.from.iter().map(|input| input.node()));
        }
    }
    found
}

/// What a sink's settings say of where it writes.
enum Writes {
    /// Always there.
    Topic(String),
    /// Where the message says, among these names.
    Among(BTreeSet<String>),
    /// Where the message says.
    Any,
}

/// Of settings that cannot be read, which is reported as that, anything.
fn writes(connector: &str, settings: &BTreeMap<String, String>) -> Writes {
    fn read<T: Settings>(settings: &BTreeMap<String, String>) -> Option<T> {
        from_flat(settings, &[]).ok()
    }
    let topic = |topic: &str| Writes::Topic(topic.to_owned());
    let found = match connector {
        "mqtt" => read::<mqtt::SinkSettings>(settings).and_then(|s| s.topic.literal().map(topic)),
        "kafka" => read::<kafka::SinkSettings>(settings).and_then(|s| s.topic.literal().map(topic)),
        "modbus" => read::<modbus::SinkSettings>(settings)
            .map(|s| Writes::Among(s.fields.keys().cloned().collect())),
        "gpio" => read::<gpio::SinkSettings>(settings)
            .map(|s| Writes::Among(s.lines.keys().cloned().collect())),
        _ => None,
    };
    found.unwrap_or(Writes::Any)
}

/// The one field or line that a place is, if it is one.
fn one(place: &Place) -> Option<&str> {
    match place {
        Place::ModbusField(names) | Place::Gpio(names) => Names::one(names),
        _ => None,
    }
}

/// What steps are granted of sinks beside what those sinks write.
pub(crate) fn of_sinks(pipeline: &Pipeline, binding: &Binding) -> Vec<Issue> {
    let mut issues = Vec::new();
    // The sinks of each step, with what they write.
    let mut sinks: BTreeMap<&str, Vec<(&str, &str, Writes)>> = BTreeMap::new();
    for (name, sink) in &pipeline.sinks {
        let Some(bound) = binding.sinks.get(name) else { continue };
        let steps: BTreeSet<&str> =
            sink.from.iter().flat_map(|input| writers(pipeline, input.node())).collect();
        for step in steps {
            let writes = writes(&bound.connector, &bound.settings);
            sinks.entry(step).or_default().push((name, &bound.connector, writes));
        }
    }
    for (name, step) in &pipeline.steps {
        let sinks = sinks.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let path = Path::of(["steps", name, "grants"]);
        for connector in registry::CONNECTORS.iter().map(|connector| connector.name) {
            let granted: Vec<(usize, Place)> = places(&step.grants, connector).collect();
            let own: Vec<_> = sinks.iter().filter(|(_, other, _)| *other == connector).collect();
            for (index, place) in &granted {
                let known = |writes: &Writes| match (writes, one(place)) {
                    (Writes::Among(names), Some(name)) => names.contains(name),
                    (Writes::Topic(topic), _) => place.allows(target(connector, topic)),
                    _ => true,
                };
                if own.iter().any(|(_, _, writes)| known(writes)) {
                    continue;
                }
                let message = match own.as_slice() {
                    [] => format!("no sink of {connector} takes its messages"),
                    [..] => format!("no sink of {connector} that takes its messages writes there"),
                };
                let at = path.index(*index);
                let issue = Issue::warning("grant-without-use", at, Part::Value, message);
                issues.push(issue.mend("remove it: a step has what it needs"));
            }
            for (sink, _, writes) in own {
                let Writes::Topic(topic) = writes else { continue };
                let allows = |(_, place): &(usize, Place)| place.allows(target(connector, topic));
                if granted.is_empty() || granted.iter().any(allows) {
                    continue;
                }
                let message = format!(
                    "the sink {} writes what the step {} gives it to {}, which the step is not granted",
                    quoted(sink),
                    quoted(name),
                    quoted(topic)
                );
                let issue = Issue::error("use-without-grant", path.clone(), Part::Key, message);
                let verb = if connector == "mqtt" { "publish" } else { "produce" };
                issues.push(issue.mend(format!("add `{connector}:{verb}:{topic}` to its grants")));
            }
        }
    }
    issues
}

fn target<'a>(connector: &str, topic: &'a str) -> Target<'a> {
    match connector {
        "kafka" => Target::Kafka(topic),
        _ => Target::Mqtt(topic),
    }
}
