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

use millrace_pipeline::{Document, Options, load};
use millrace_settings::registry::{self, Kind};
use schemars::generate::SchemaSettings;
use serde_json::Value;

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pipeline.md")
}

#[test]
fn the_examples_are_right() {
    let text = fs::read_to_string(reference()).unwrap();
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .filter(|example| example.starts_with("millrace:"))
        .collect();
    assert_eq!(examples.len(), 4);
    let graph = Document { file: "pipeline.md", text: examples[0] };
    for example in &examples {
        let document = Document { file: "pipeline.md", text: example };
        let loaded = match example.contains("sources:\n") && !example.contains("version:") {
            true => load(graph, Some(document), &Options::default()),
            false => load(document, None, &Options::default()),
        };
        assert!(loaded.findings().is_empty(), "{}", loaded.render(false));
        assert!(loaded.plan().is_ok());
    }
}

/// Each connector's page begins with a whole pipeline.
#[test]
fn the_examples_of_connectors_are_right() {
    let pages = fs::read_dir(reference().with_file_name("connectors")).unwrap();
    for page in pages.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&page).unwrap();
        let example = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
        let document = Document { file: "example", text: example.unwrap() };
        let loaded = load(document, None, &Options::default());
        assert!(loaded.findings().is_empty(), "{}: {}", page.display(), loaded.render(false));
        assert!(loaded.plan().is_ok());
    }
}

#[test]
fn the_tables_of_settings_are_current() {
    let text = fs::read_to_string(reference()).unwrap();
    let mut current = with_table(&text, "edge", &registry::EDGE);
    current = with_table(&current, "delivery", &registry::DELIVERY);
    for connector in registry::CONNECTORS {
        current = with_table(&current, &format!("{} source", connector.name), &connector.source);
        current = with_table(&current, &format!("{} sink", connector.name), &connector.sink);
    }
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        fs::write(reference(), &current).unwrap();
        return;
    }
    assert!(
        text == current,
        "docs/pipeline.md is not current: run the tests with MILLRACE_BLESS=1"
    );
}

/// The text with the table of these settings between its marks.
fn with_table(text: &str, name: &str, kind: &Kind) -> String {
    let mark = format!("<!-- settings: {name} -->\n");
    let (before, rest) =
        text.split_once(&mark).unwrap_or_else(|| panic!("no {mark} in the reference"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{mark}\n{}\n<!-- end -->{after}", table(kind))
}

fn table(kind: &Kind) -> String {
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = (kind.schema)(&mut generator).to_value();
    let name = root["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let schema = generator.definitions()[&name].clone();
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|r| r.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut table = String::from("| setting | value | default | meaning |\n|---|---|---|---|\n");
    for field in (kind.fields)() {
        let property = &schema["properties"][*field];
        let default = match &property["default"] {
            _ if required.contains(field) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let meaning = property["description"].as_str().unwrap().replace('\n', " ");
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
    if let Some(choices) = find(property, "oneOf").and_then(Value::as_array) {
        let choices: Vec<&str> = choices.iter().filter_map(|c| c["const"].as_str()).collect();
        return choices.join(", ");
    }
    match (find(property, "minimum"), find(property, "maximum")) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        _ if property["type"] == "boolean" => "true, false".to_owned(),
        _ if property["type"] == "object" => "mapping".to_owned(),
        _ => "text".to_owned(),
    }
}

/// A key of the property or, where it may be absent, of what it is otherwise.
fn find<'v>(property: &'v Value, key: &str) -> Option<&'v Value> {
    property
        .get(key)
        .or_else(|| property.get("anyOf")?.as_array()?.iter().find_map(|choice| choice.get(key)))
}
