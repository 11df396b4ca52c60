//! The language reference is right: its examples have no findings, and its
//! tables of settings are the model's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::{Path, PathBuf};

use millrace_pipeline::{Document, Options, load, load_with};
use millrace_settings::registry::{self, Kind};
use schemars::generate::SchemaSettings;
use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn reference() -> PathBuf {
    docs().join("pipeline.md")
}

fn page(connector: &str) -> PathBuf {
    docs().join("connectors").join(format!("{connector}.md"))
}

/// Whole definitions among a page's examples.
fn examples(text: &str) -> Vec<&str> {
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.filter(|example| example.starts_with("millrace:")).collect()
}

#[test]
fn the_examples_are_right() {
    let text = fs::read_to_string(reference()).unwrap();
    let examples = examples(&text);
    assert_eq!(examples.len(), 7);
    // The one that another calls.
    let cleaning = examples.iter().find(|text| text.contains("pipeline: cleaning\n")).unwrap();
    let library = |file: &Path| {
        assert_eq!(file, Path::new("cleaning.yaml"));
        Ok((*cleaning).to_owned())
    };
    let graph = Document { file: "pipeline.md", text: examples[0] };
    for example in &examples {
        let document = Document { file: "pipeline.md", text: example };
        let loaded = match example.contains("sources:\n") && !example.contains("version:") {
            true => load(graph, Some(document), &Options::default()),
            false => load_with(document, None, &Options::default(), &library),
        };
        assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
        loaded.plan().unwrap();
    }
}

#[test]
fn every_connector_has_a_page_with_an_example_that_is_right() {
    for connector in registry::CONNECTORS {
        let file = format!("{}.md", connector.name);
        let text = fs::read_to_string(page(connector.name))
            .unwrap_or_else(|e| panic!("docs/connectors/{file}: {e}"));
        let examples = examples(&text);
        assert!(!examples.is_empty(), "docs/connectors/{file} has no complete example");
        for example in examples {
            let loaded = load(Document { file: &file, text: example }, None, &Options::default());
            assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
            assert!(loaded.plan().is_ok());
        }
    }
}

#[test]
fn the_tables_of_settings_are_current() {
    let mut tables = vec![
        (reference(), "edge", &registry::EDGE),
        (reference(), "window", &registry::WINDOW),
        (reference(), "de-duplicate", &registry::DE_DUPLICATE),
        (reference(), "enrich", &registry::ENRICH),
        (reference(), "server", &registry::SERVER),
        (reference(), "throttle", &registry::THROTTLE),
        (reference(), "delivery", &registry::DELIVERY),
        (reference(), "rollout", &registry::ROLLOUT),
    ];
    for connector in registry::CONNECTORS {
        tables.push((page(connector.name), "source", &connector.source));
        tables.extend(connector.sink.iter().map(|sink| (page(connector.name), "sink", sink)));
    }
    let mut old = Vec::new();
    for (file, name, kind) in tables {
        let text = fs::read_to_string(&file).unwrap();
        let current = with_table(&text, name, kind);
        if text != current && std::env::var_os("MILLRACE_BLESS").is_some() {
            fs::write(&file, &current).unwrap();
        } else if text != current {
            old.push((file, name));
        }
    }
    assert!(old.is_empty(), "not current, run the tests with MILLRACE_BLESS=1: {old:?}");
}

/// The text with the table of these settings between its marks.
fn with_table(text: &str, name: &str, kind: &Kind) -> String {
    let (start, end) =
        (format!("<!-- settings:{name} -->\n"), format!("<!-- /settings:{name} -->"));
    let (before, rest) =
        text.split_once(&start).unwrap_or_else(|| panic!("no {start} in the reference"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{before}{start}\n{}\n{end}{after}", tables(kind))
}

/// The table of the settings, and of each kind of thing inside them.
fn tables(kind: &Kind) -> String {
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = (kind.schema)(&mut generator).to_value();
    let definitions = generator.definitions().clone();
    let name = referred(&root).unwrap();
    let mut text = table(&definitions[&name], (kind.fields)());
    let mut shown = vec![name.clone()];
    let mut waiting = inside(&definitions[&name]);
    while let Some((field, name)) = waiting.pop() {
        let schema = &definitions[&name];
        if schema.get("properties").is_none() || shown.contains(&name) {
            continue;
        }
        let names: Vec<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        text += &format!("\nInside each of `{field}`:\n\n{}", table(schema, &names));
        waiting.extend(inside(schema));
        shown.push(name);
    }
    text
}

/// The definition that a schema refers to, directly or for what is in it.
fn referred(schema: &Value) -> Option<String> {
    let choices = ["allOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array());
    let own = schema.get("$ref").and_then(Value::as_str);
    own.map(|name| name.rsplit('/').next().unwrap().to_owned())
        .or_else(|| schema.get("additionalProperties").and_then(referred))
        .or_else(|| schema.get("items").and_then(referred))
        .or_else(|| choices.flatten().find_map(referred))
}

/// The properties that refer to a definition, and which.
fn inside(schema: &Value) -> Vec<(String, String)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter_map(|(name, property)| Some((name.clone(), referred(property)?))).collect()
}

fn table(schema: &Value, fields: &[&str]) -> String {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|r| r.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut table = String::from("| setting | value | default | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let property = &schema["properties"][*field];
        let default = match &property["default"] {
            _ if required.contains(field) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let description = property["description"].as_str();
        let description = description.unwrap_or_else(|| panic!("`{field}` has no description"));
        let meaning = description.replace('\n', " ").replace('|', "\\|");
        table += &format!("| `{field}` | {} | {default} | {meaning} |\n", value(property));
    }
    table
}

/// What one may write, in a word or two.
fn value(property: &Value) -> String {
    if let Some(title) = find(property, "title").and_then(Value::as_str) {
        return title.to_owned();
    }
    if let Some(choices) = find(property, "enum").and_then(Value::as_array) {
        let mut choices: Vec<String> =
            choices.iter().map(|c| c.to_string().replace('"', "")).collect();
        choices.dedup();
        return choices.join(", ");
    }
    let choices = find(property, "oneOf").and_then(Value::as_array);
    let consts: Vec<&str> =
        choices.into_iter().flatten().filter_map(|choice| choice["const"].as_str()).collect();
    if !consts.is_empty() {
        return consts.join(", ");
    }
    match (find(property, "minimum"), find(property, "maximum")) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        _ if property["type"] == "boolean" => "true, false".to_owned(),
        _ if is(property, "object") => "names and what each is".to_owned(),
        _ if is(property, "array") => "list".to_owned(),
        _ if is(property, "number") => "number".to_owned(),
        _ if is(property, "integer") => "whole number".to_owned(),
        _ => "text".to_owned(),
    }
}

/// Whether the property's type is this, or may be.
fn is(property: &Value, name: &str) -> bool {
    match &property["type"] {
        Value::Array(types) => types.iter().any(|t| t == name),
        one => one == name,
    }
}

/// A key of the property or, where it may be absent, of what it is otherwise.
fn find<'v>(property: &'v Value, key: &str) -> Option<&'v Value> {
    property
        .get(key)
        .or_else(|| property.get("anyOf")?.as_array()?.iter().find_map(|choice| choice.get(key)))
}
