//! The JSON Schema of the language, made from the model and the connectors'
//! settings. Draft 7, because that is what YAML editors understand best.

use std::borrow::Cow;

use millrace_settings::registry::{self, Connector, Kind as SettingsKind};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::model::{
    Binding, Durable, GRANTS, Input, Kind, Pipeline, SinkBinding, Source, SourceBinding, VERSION,
};

/// JSON Schema of a pipeline definition.
#[must_use]
pub fn schema() -> Value {
    tidy(generator().into_root_schema_for::<Pipeline>().to_value())
}

/// JSON Schema of a file that holds only a binding.
#[must_use]
pub fn binding_schema() -> Value {
    tidy(generator().into_root_schema_for::<BindingFile>().to_value())
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().into_generator()
}

/// Takes out what comes from Rust and is not the language: that an optional
/// field might be null, and the line breaks of comments.
fn tidy(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(fields) => {
            if fields.get("default").is_some_and(Value::is_null) {
                fields.remove("default");
            }
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
                choices.retain(|choice| *choice != json!({ "type": "null" }));
                if let [only] = choices.as_slice() {
                    let only = json!([only]);
                    fields.remove("anyOf");
                    fields.insert("allOf".to_owned(), only);
                }
            }
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            fields.values_mut().for_each(|value| *value = tidy(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = tidy(item.take())),
        _ => {}
    }
    schema
}

/// What a pipeline's names mean in one environment, in a file of its own.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Millrace binding")]
#[expect(dead_code, reason = "only its schema is used; the file is read by hand")]
struct BindingFile {
    /// Version of the pipeline language: v1alpha1.
    #[schemars(schema_with = "language_version")]
    millrace: String,
    /// Name of the pipeline this is for.
    pipeline: Option<Name>,
    /// What each name means in this environment.
    binding: Binding,
}

/// A name, for the schema: the model keeps wrong ones too.
pub(crate) struct Name;

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$" })
    }
}

pub(crate) fn language_version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": [VERSION] })
}

pub(crate) fn semantic_version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$",
    })
}

pub(crate) fn sources(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    let source = generator.subschema_for::<Source>();
    json_schema!({ "anyOf": [
        { "type": "array", "items": name, "minItems": 1, "uniqueItems": true },
        {
            "type": "object",
            "minProperties": 1,
            "propertyNames": name,
            "additionalProperties": { "anyOf": [source, { "const": null }] },
        },
    ] })
}

pub(crate) fn inputs(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    let input = generator.subschema_for::<Input>();
    json_schema!({ "anyOf": [
        name,
        input,
        { "type": "array", "minItems": 1, "items": { "anyOf": [name, input] } },
    ] })
}

pub(crate) fn config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

pub(crate) fn grants(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "enum": GRANTS } })
}

pub(crate) fn hosts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["one", "every"] })
}

pub(crate) fn durable(generator: &mut SchemaGenerator) -> Schema {
    let settings = generator.subschema_for::<Durable>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, settings] })
}

pub(crate) fn rollout(generator: &mut SchemaGenerator) -> Schema {
    let settings = (registry::ROLLOUT.schema)(generator);
    json_schema!({ "allOf": [settings] })
}

/// Puts the kinds of step into a step's schema, exactly one of which it has.
pub(crate) fn add_kinds(step: &mut Schema) {
    let choice: Vec<Value> =
        Kind::ALL.iter().map(|kind| json!({ "required": [kind.as_str()] })).collect();
    step.insert("oneOf".to_owned(), Value::Array(choice));
    let Some(Value::Object(properties)) = step.get_mut("properties") else { return };
    for kind in Kind::ALL {
        let name = json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$", "description": kind.description() });
        properties.insert(kind.as_str().to_owned(), name);
    }
}

impl JsonSchema for Durable {
    fn schema_name() -> Cow<'static, str> {
        "Durable".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let delivery = described(
            "How batches reach the stage behind the edge.",
            &registry::DELIVERY,
            generator,
        );
        // The edge's own fields and `delivery` stand side by side, which a
        // reference to another closed object cannot express in draft 7.
        let mut schema =
            <millrace_settings::edge::EdgeSettings as JsonSchema>::json_schema(generator);
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.insert("delivery".to_owned(), delivery);
        }
        schema
    }
}

impl JsonSchema for SourceBinding {
    fn schema_name() -> Cow<'static, str> {
        "SourceBinding".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let delivery = described(
            "How batches are made and reach the first stage.",
            &registry::DELIVERY,
            generator,
        );
        connectors(generator, |connector| &connector.source, [("delivery".to_owned(), delivery)])
    }
}

impl JsonSchema for SinkBinding {
    fn schema_name() -> Cow<'static, str> {
        "SinkBinding".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        connectors(generator, |connector| &connector.sink, [])
    }
}

/// Exactly one connector with its settings, and `also` beside it.
fn connectors<const N: usize>(
    generator: &mut SchemaGenerator,
    side: fn(&Connector) -> &SettingsKind,
    also: [(String, Value); N],
) -> Schema {
    let mut properties = Map::from_iter(also);
    let mut choice = Vec::new();
    for connector in registry::CONNECTORS {
        let settings = described(connector.title, side(connector), generator);
        properties.insert(connector.name.to_owned(), settings);
        choice.push(json!({ "required": [connector.name] }));
    }
    json_schema!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "oneOf": choice,
    })
}

/// A reference to settings with a description beside it.
fn described(text: &str, settings: &SettingsKind, generator: &mut SchemaGenerator) -> Value {
    json!({ "description": text, "allOf": [(settings.schema)(generator)] })
}
