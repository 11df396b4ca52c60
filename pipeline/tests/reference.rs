//! The reference of the language, docs/reference.md, is made of the model: of its schema, its kinds and its connectors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use millrace_pipeline::{Kind, Pipeline, TEXT_MAX, VERSION, schema};
use millrace_settings::registry;
use serde_json::Value;

/// A section: its title, and the schema of an object.
struct Section {
    title: String,
    schema: Value,
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let text = reference();
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    assert!(is == text, "docs/reference.md is not current: run the tests with MILLRACE_BLESS=1");
}

/// Every link inside leads to a heading, and every field of the schema is there.
#[test]
fn the_reference_is_whole() {
    let text = reference();
    let anchors: BTreeSet<String> = text
        .lines()
        .filter_map(|line| Some(anchor(line.trim_start_matches('#').strip_prefix(' ')?)))
        .collect();
    for link in text.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(anchors.contains(link), "#{link} leads nowhere");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let file = link.split('#').next().unwrap();
        assert!(file.is_empty() || folder.join(file).is_file(), "{link} leads nowhere");
    }
    let mut missing = Vec::new();
    fields(&schema(), &mut |name| {
        if !text.contains(&format!("| `{name}` |")) {
            missing.push(name.to_owned());
        }
    });
    assert!(missing.is_empty(), "{missing:?}");
}

/// The names of all fields, but for those of connectors, which have pages of their own.
fn fields(schema: &Value, found: &mut impl FnMut(&str)) {
    fn walk(value: &Value, found: &mut impl FnMut(&str)) {
        match value {
            Value::Object(map) => {
                for name in map
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flat_map(|p| p.keys())
                {
                    found(name);
                }
                map.values().for_each(|inside| walk(inside, found));
            }
            Value::Array(items) => items.iter().for_each(|inside| walk(inside, found)),
            _ => {}
        }
    }
    let mut own = schema.clone();
    let of_connectors = connector_definitions(schema);
    own["definitions"].as_object_mut().unwrap().retain(|name, _| !of_connectors.contains(name));
    walk(&own, found);
}

/// The definitions that only connectors refer to.
fn connector_definitions(schema: &Value) -> BTreeSet<String> {
    let definitions = &schema["definitions"];
    let mut found = BTreeSet::new();
    let mut waiting: Vec<String> = Vec::new();
    for binding in ["SourceBinding", "SinkBinding"] {
        for connector in registry::CONNECTORS {
            referred(&definitions[binding]["properties"][connector.name], &mut waiting);
        }
    }
    while let Some(name) = waiting.pop() {
        if name != "Delivery" && found.insert(name.clone()) {
            referred(&definitions[&name], &mut waiting);
        }
    }
    found
}

fn referred(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                names.push(name.rsplit('/').next().unwrap().to_owned());
            }
            map.values().for_each(|inside| referred(inside, names));
        }
        Value::Array(items) => items.iter().for_each(|inside| referred(inside, names)),
        _ => {}
    }
}

/// What a heading is called in a link.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// The title of a definition's section.
fn title(definition: &str) -> String {
    let words = match definition {
        "Call" => "Call of a sub-pipeline",
        "Component" => "Component of a binding",
        "Durable" => "Durable edge",
        "Source" => "Source of the graph",
        "Sink" => "Sink of the graph",
        "SourceBinding" => "Source of a binding",
        "SinkBinding" => "Sink of a binding",
        "SubPipeline" => "File of a sub-pipeline",
        "Rollout" => "Roll-out",
        other => other,
    };
    words.to_owned()
}

fn reference() -> String {
    let schema = schema();
    let mut writer = Writer { schema: &schema, waiting: Vec::new(), seen: BTreeSet::new() };
    let mut root = schema.clone();
    root.as_object_mut().unwrap().remove("definitions");
    let mut sections =
        vec![(Section { title: "Definition".to_owned(), schema: root }, String::new())];
    sections[0].1 = writer.table(&sections[0].0);
    // In the order in which fields lead to them.
    let mut at = 0;
    while at < writer.waiting.len() {
        let section = Section {
            title: writer.waiting[at].title.clone(),
            schema: writer.waiting[at].schema.clone(),
        };
        let table = writer.table(&section);
        sections.push((section, table));
        at += 1;
    }
    let mut text = format!(
        "# Reference of the pipeline language\n\n\
         Every field of a definition, made of the model itself: do not change this page by hand. What the fields are for, with\n\
         examples, is in [pipeline.md](pipeline.md). The same for editors: [pipeline.schema.json](pipeline.schema.json).\n\n\
         The version of the language is `{VERSION}`. A file is UTF-8 and has {} KiB at most. Where a value is no name, `${{name}}`\n\
         may stand for it or in it: see [parameters](pipeline.md#parameters).\n\n## Contents\n\n",
        TEXT_MAX / 1024
    );
    for title in sections.iter().map(|(section, _)| section.title.as_str()).chain([
        "Kinds of steps",
        "Connectors",
        "Values",
    ]) {
        let _ = writeln!(text, "- [{title}](#{})", anchor(title));
    }
    for (section, table) in &sections {
        let _ = write!(text, "\n## {}\n\n", section.title);
        let of_binding = section.title.ends_with("of a binding");
        let about = section.schema["description"].as_str();
        let about = about.or(of_binding.then_some("Exactly one connector with its settings."));
        if let Some(about) = about {
            let end = if table.is_empty() { "\n" } else { "\n\n" };
            let _ = write!(text, "{}{end}", sentence(about));
        }
        text += table;
    }
    text += "\n## Kinds of steps\n\nA step has exactly one of these fields, or `pipeline`, which makes it the call of another pipeline.\n\n";
    text += "| kind | value | keeps a state | arms | meaning |\n|---|---|---|---|---|\n";
    for kind in Kind::ALL {
        let value = if kind.settings().is_some() { "settings" } else { "name of a component" };
        let state = if kind.has_state() { "yes" } else { "" };
        let arms = match (kind, kind.side_arm()) {
            (Kind::Branch, _) => "those of `arms`".to_owned(),
            (_, Some(arm)) => format!("`{arm}`"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| `{kind}` | {value} | {state} | {arms} | {} |",
            cell(kind.description())
        );
    }
    text += "\n## Connectors\n\nA source or sink of a binding has exactly one, under its name. Each has a page with its settings.\n\n";
    text += "| connector | settings of a source | settings of a sink |\n|---|---|---|\n";
    for connector in registry::CONNECTORS {
        let list = |kind: &registry::Kind| {
            (kind.fields)().iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
        };
        let name = connector.name;
        let _ = writeln!(
            text,
            "| [{name}](connectors/{name}.md) | {} | {} |",
            list(&connector.source),
            connector.sink.as_ref().map_or_else(|| "none: it only reads".to_owned(), list)
        );
    }
    text += "\n## Values\n\n| value | written as |\n|---|---|\n\
        | name | lower-case letters, digits and hyphens, a letter first, 40 characters at most |\n\
        | name or arm | a name, or two with a dot between: `step.arm` |\n\
        | duration | a whole number and a unit: `ms`, `s`, `m`, `h` or `d` |\n\
        | size | a whole number with or without a unit: `B`, `KiB`, `MiB`, `GiB`, `KB`, `MB` or `GB` |\n\
        | single value | text, a number, `true` or `false` |\n\
        | time | a date and a time of day with its zone: `2026-01-01T00:00:00Z` |\n";
    text
}

struct Writer<'a> {
    schema: &'a Value,
    /// The sections that fields have led to, each once.
    waiting: Vec<Section>,
    seen: BTreeSet<String>,
}

impl Writer<'_> {
    fn table(&mut self, section: &Section) -> String {
        let schema = without_use(&section.schema).clone();
        if let Some(choices) = schema["anyOf"].as_array() {
            return self.choices(&section.title, choices);
        }
        let Some(properties) = schema["properties"].as_object() else {
            return String::new();
        };
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut names: Vec<&String> = properties.keys().collect();
        names.sort_by_key(|name| (rank(name), !required.contains(&name.as_str()), name.as_str()));
        let mut text =
            String::from("| field | value | | default | meaning |\n|---|---|---|---|---|\n");
        for name in names {
            let property = &properties[name];
            let must = if required.contains(&name.as_str()) { "required" } else { "" };
            let default = match without_use(property).get("default").or(property.get("default")) {
                Some(Value::String(text)) => format!("`{text}`"),
                Some(Value::Object(_)) | Some(Value::Null) | None => String::new(),
                Some(other) => format!("`{other}`"),
            };
            let connector = registry::CONNECTORS.iter().find(|connector| connector.name == name);
            let is_binding = section.title.ends_with("of a binding");
            let value = match connector.filter(|_| is_binding) {
                Some(connector) => format!("[settings](connectors/{}.md)", connector.name),
                None => self.value(property, &inside(&section.title, name)),
            };
            let about = property["description"].as_str().unwrap_or_default();
            let _ = writeln!(text, "| `{name}` | {value} | {must} | {default} | {} |", cell(about));
        }
        text
    }

    fn choices(&mut self, of: &str, choices: &[Value]) -> String {
        let mut text = String::new();
        for choice in choices {
            let _ = match choice.get("properties") {
                None => writeln!(
                    text,
                    "Either {}: {}\n",
                    self.value(choice, of),
                    lower(choice["description"].as_str().unwrap_or_default())
                ),
                Some(_) => write!(
                    text,
                    "Or a mapping:\n\n{}",
                    self.table(&Section { title: of.to_owned(), schema: choice.clone() })
                ),
            };
        }
        text
    }

    /// A link to the section of an object.
    fn section(&mut self, title: &str, schema: &Value) -> String {
        if self.seen.insert(title.to_owned()) {
            self.waiting.push(Section { title: title.to_owned(), schema: schema.clone() });
        }
        format!("[{}](#{})", lower(title), anchor(title))
    }

    /// What one may write, in a few words. `here` is the title of an object that is described in place.
    fn value(&mut self, schema: &Value, here: &str) -> String {
        let schema = without_use(schema);
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap();
            let definition = self.schema["definitions"][name].clone();
            return self.section(&title(name), &definition);
        }
        if let Some(word) = known_pattern(schema) {
            return word.to_owned();
        }
        match schema["title"].as_str() {
            Some(title @ ("duration" | "size")) => return format!("[{title}](#values)"),
            Some(title) => return title.to_owned(),
            None => {}
        }
        if let Some(choices) = schema["enum"].as_array() {
            return listed(choices.iter());
        }
        if let Some(choice) = schema.get("const") {
            return if choice.is_null() {
                "nothing".to_owned()
            } else {
                listed(std::iter::once(choice))
            };
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            let Some(choices) =
                schema[key].as_array().filter(|_| schema.get("properties").is_none())
            else {
                continue;
            };
            let consts: Vec<&Value> =
                choices.iter().filter_map(|choice| choice.get("const")).collect();
            if consts.len() == choices.len() {
                return listed(consts.into_iter());
            }
            let mut words: Vec<String> = Vec::new();
            for choice in choices {
                let word = self.value(choice, here);
                if !words.contains(&word) {
                    words.push(word);
                }
            }
            if !words.is_empty() {
                return words.join(" or ");
            }
        }
        match &schema["type"] {
            Value::Array(types) => {
                let single = ["string", "number", "boolean"];
                let names: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
                match names.iter().all(|name| single.contains(name)) {
                    true if names.len() == 3 => "single value".to_owned(),
                    true => names.iter().map(|name| word(name)).collect::<Vec<_>>().join(" or "),
                    false => "any value".to_owned(),
                }
            }
            Value::String(name) => match name.as_str() {
                "array" => format!("list of {}", plural(&self.value(&schema["items"], here))),
                "object" => self.object(schema, here),
                "integer" | "number" => {
                    match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
                        (Some(_), Some(_)) => {
                            format!("{} to {}", schema["minimum"], schema["maximum"])
                        }
                        (Some(_), None) => format!("{} or more", schema["minimum"]),
                        _ => word(name).to_owned(),
                    }
                }
                "string" if schema["format"] == "date-time" => "[time](#values)".to_owned(),
                other => word(other).to_owned(),
            },
            _ => "any value".to_owned(),
        }
    }

    fn object(&mut self, schema: &Value, here: &str) -> String {
        if schema.get("properties").is_some()
            || schema["additionalProperties"] == false && schema.get("patternProperties").is_none()
        {
            return self.section(here, schema);
        }
        let patterns = schema["patternProperties"].as_object();
        let inside = patterns.and_then(|patterns| patterns.values().next());
        match inside.or(schema.get("additionalProperties")) {
            Some(inside) if inside.is_object() => {
                format!("names, each with {}", self.value(inside, here))
            }
            _ => "names and values".to_owned(),
        }
    }
}

/// The title of an object that a field has, where it has no name of its own.
fn inside(section: &str, field: &str) -> String {
    match (section, field) {
        ("Step", kind) => format!("Settings of {kind}"),
        ("Test", "inputs") => "Message that is given".to_owned(),
        ("Test", "outputs") => "Message that is expected".to_owned(),
        ("Test", "rejected") => "Message that is rejected".to_owned(),
        ("Test", "http") => "Answer of a server".to_owned(),
        _ => format!("{field} of {}", lower(section)),
    }
}

/// The place of a field in its table: what it is called, what it does, from whom, and the rest by name.
fn rank(name: &str) -> usize {
    let kind = Kind::ALL.iter().position(|kind| kind.as_str() == name);
    Pipeline::FIELDS
        .iter()
        .position(|first| *first == name)
        .or(kind.map(|at| at + 20))
        .unwrap_or(100)
}

/// A schema without the choice of a parameter in its place.
fn without_use(schema: &Value) -> &Value {
    match schema["anyOf"].as_array().map(Vec::as_slice) {
        Some([rule, used]) if used["pattern"] == r"\$\{" => without_use_title(schema, rule),
        _ => schema,
    }
}

fn without_use_title<'v>(schema: &'v Value, rule: &'v Value) -> &'v Value {
    // What it is called stands beside the choices.
    if schema["title"].is_string() { schema } else { rule }
}

fn known_pattern(schema: &Value) -> Option<&'static str> {
    let pattern = schema["pattern"].as_str()?;
    Some(match pattern {
        "^[a-z][a-z0-9-]{0,39}$" => "[name](#values)",
        pattern if pattern.starts_with("^[a-z][a-z0-9-]{0,39}(\\.") => "[name or arm](#values)",
        pattern if pattern.starts_with("^sha256:") => "`sha256:` and 64 digits",
        pattern if pattern.starts_with("^(0|[1-9][0-9]*)") => "three numbers: `1.2.3`",
        pattern if pattern.starts_with("^payload") => "`payload` and a way in it: `payload.a.*.b`",
        pattern if pattern.contains('%') => "share: `5%`",
        _ => return None,
    })
}

fn word(name: &str) -> &'static str {
    match name {
        "string" => "text",
        "number" => "number",
        "integer" => "whole number",
        "boolean" => "`true` or `false`",
        _ => "any value",
    }
}

fn listed<'v>(choices: impl Iterator<Item = &'v Value>) -> String {
    let choices: Vec<String> =
        choices.map(|c| format!("`{}`", c.to_string().replace('"', ""))).collect();
    choices.join(", ")
}

fn plural(one: &str) -> String {
    match one {
        "text" => "texts".to_owned(),
        "single value" => "single values".to_owned(),
        "[name](#values)" => "[names](#values)".to_owned(),
        other => other.to_owned(),
    }
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A text in a table.
fn cell(text: &str) -> String {
    sentence(text).replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
