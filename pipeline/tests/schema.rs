//! The published JSON Schema is the model's, and agrees with lint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use granit_parser::{Event, Parser, ScalarStyle};
use millrace_pipeline::{Document, Options, Severity, binding_schema, load, schema};
use serde_json::{Map, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn expect_current(file: &str, actual: &str) {
    let path = root().join("docs").join(file);
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "docs/{file} is not current: run the tests with MILLRACE_BLESS=1");
}

#[test]
fn the_published_schemas_are_current() {
    expect_current(
        "pipeline.schema.json",
        &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"),
    );
    expect_current(
        "binding.schema.json",
        &(serde_json::to_string_pretty(&binding_schema()).unwrap() + "\n"),
    );
}

#[test]
fn every_field_is_described() {
    fn walk(value: &Value, path: &str, missing: &mut Vec<String>) {
        if let Some(Value::Object(properties)) = value.get("properties") {
            for (name, property) in properties {
                if property.get("description").is_none() {
                    missing.push(format!("{path}/{name}"));
                }
            }
        }
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, v)| walk(v, &format!("{path}/{key}"), missing))
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, path, missing)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    walk(&schema(), "", &mut missing);
    walk(&binding_schema(), "", &mut missing);
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn valid_definitions_validate() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let golden = root().join("pipeline/tests/golden/valid");
    let mut files: Vec<PathBuf> =
        fs::read_dir(golden).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.push(root().join("samples/temperature-alerts/pipeline.yaml"));
    for path in files {
        let value = value_of(&fs::read_to_string(&path).unwrap()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
    let binding =
        fs::read_to_string(root().join("pipeline/tests/golden/binding/good.yaml")).unwrap();
    assert!(
        jsonschema::validator_for(&binding_schema())
            .unwrap()
            .is_valid(&value_of(&binding).unwrap())
    );
}

/// Where a mistake is one of form, an editor shows it too.
#[test]
fn mistakes_of_form_do_not_validate() {
    const OF_FORM: [&str; 6] = [
        "unknown-field",
        "missing-field",
        "wrong-type",
        "step-kind",
        "unknown-grant",
        "config-value",
    ];
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut compared = 0;
    for entry in fs::read_dir(root().join("pipeline/tests/golden/invalid")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let loaded = load(Document { file: "p.yaml", text: &text }, None, &Options::default());
        let rules: BTreeSet<&str> = loaded
            .findings()
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| f.rule)
            .collect();
        let Some(value) = value_of(&text) else { continue };
        if rules.iter().any(|rule| OF_FORM.contains(rule)) {
            assert!(!validator.is_valid(&value), "{} validates", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared}");
}

/// YAML as JSON, the way an editor sees it (YAML 1.2 core schema). Nothing for
/// what is not one document.
fn value_of(text: &str) -> Option<Value> {
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let done = match event.ok()?.0 {
            Event::Scalar(text, ScalarStyle::Plain, ..) => match &*text {
                "" | "~" | "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                plain => match serde_json::from_str::<serde_json::Number>(plain) {
                    Ok(number) => Value::Number(number),
                    Err(_) => Value::String(plain.to_owned()),
                },
            },
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop()? {
                Open::List(items) => Value::Array(items),
                Open::Map(map, _) => Value::Object(map),
            },
            Event::Alias(_) => return None,
            Event::DocumentStart(..) if root.is_some() => return None,
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::List(items)) => items.push(done),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) => drop(map.insert(key, done)),
                None => *key = Some(done.as_str()?.to_owned()),
            },
        }
    }
    root
}
