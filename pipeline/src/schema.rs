//! The JSON Schema of the language, made from the model and the connectors'
//! settings. Draft 7, because that is what YAML editors understand best.

use std::borrow::Cow;
use std::collections::BTreeMap;

use millrace_grants::Grant;
use millrace_settings::registry::{self, Connector, Kind as SettingsKind};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::model::{
    Binding, Call, Durable, Input, Kind, Pipeline, SinkBinding, Source, SourceBinding, Step,
    VERSION,
};
use crate::parameters::{Parameter, ParameterType};
use crate::test::{RejectKind, Test};

/// JSON Schema of a pipeline definition.
#[must_use]
pub fn schema() -> Value {
    with_uses(tidy(generator().into_root_schema_for::<Pipeline>().to_value()))
}

/// JSON Schema of a file that holds only tests.
#[must_use]
pub fn tests_schema() -> Value {
    with_uses(tidy(generator().into_root_schema_for::<TestsFile>().to_value()))
}

/// JSON Schema of a file that holds only a binding.
#[must_use]
pub fn binding_schema() -> Value {
    with_uses(tidy(generator().into_root_schema_for::<BindingFile>().to_value()))
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

/// Pattern of names, also inside of longer patterns.
const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,39}";

/// Fields whose values are written out: no parameter stands there.
const WRITTEN_OUT: [&str; 6] =
    ["millrace", "pipeline", "version", "parameters", "sources", "grants"];

/// Lets a text with `${` stand wherever a parameter may: its value is looked at when it is known.
fn with_uses(mut schema: Value) -> Value {
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in fields {
            // At the top `sources` has names; in a binding it has settings.
            if !WRITTEN_OUT.contains(&name.as_str()) {
                open(property);
            }
        }
    }
    let definitions = schema.get_mut("definitions").and_then(Value::as_object_mut);
    for (name, definition) in definitions.into_iter().flatten() {
        if name != "Parameter" {
            open(definition);
        }
    }
    schema
}

/// Opens what is inside a schema, or the schema itself where it is one of single values.
fn open(schema: &mut Value) {
    if is_single(schema) {
        if is_bounded(schema) {
            let Some(fields) = schema.as_object_mut() else { return };
            let (about, rule): (Map<String, Value>, Map<String, Value>) = std::mem::take(fields)
                .into_iter()
                .partition(|(key, _)| matches!(key.as_str(), "title" | "description" | "default"));
            fields.extend(about);
            let used = json!({ "type": "string", "pattern": r"\$\{" });
            fields.insert("anyOf".to_owned(), json!([rule, used]));
        }
        return;
    }
    let Value::Object(fields) = schema else { return };
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => fields
                .iter_mut()
                .filter(|(name, _)| !matches!(name.as_str(), "grants" | "parameters"))
                .for_each(|(_, property)| open(property)),
            ("patternProperties", Value::Object(fields)) => fields.values_mut().for_each(open),
            ("anyOf" | "allOf" | "oneOf", Value::Array(choices)) => {
                choices.iter_mut().for_each(open);
            }
            ("items" | "additionalProperties", inside) => open(inside),
            _ => {}
        }
    }
}

/// Whether a schema is one of single values.
fn is_single(schema: &Value) -> bool {
    let single =
        |name: &Value| matches!(name.as_str(), Some("string" | "number" | "integer" | "boolean"));
    let kind = match schema.get("type") {
        Some(Value::Array(names)) => Some(names.iter().all(single)),
        Some(name) => Some(single(name)),
        None => None,
    };
    let choices =
        ["anyOf", "allOf", "oneOf"].into_iter().find_map(|key| schema.get(key)?.as_array());
    match (kind, choices) {
        (Some(kind), _) => kind,
        (None, Some(choices)) => !choices.is_empty() && choices.iter().all(is_single),
        (None, None) => schema.get("const").or(schema.get("enum")).is_some(),
    }
}

/// Whether not every text is right there, and what is right is no name.
fn is_bounded(schema: &Value) -> bool {
    let choices =
        ["anyOf", "allOf", "oneOf"].into_iter().find_map(|key| schema.get(key)?.as_array());
    if let Some(choices) = choices {
        return choices.iter().all(is_bounded);
    }
    let text = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        Some(name) => name == "string",
        None => false,
    };
    let bounds = ["pattern", "enum", "const", "format"];
    let is_name = schema.get("pattern").and_then(Value::as_str);
    let is_name = is_name.is_some_and(|pattern| pattern.starts_with(NAME_PATTERN));
    !is_name && (!text || bounds.iter().any(|bound| schema.get(bound).is_some()))
}

impl JsonSchema for Parameter {
    fn schema_name() -> Cow<'static, str> {
        "Parameter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let value = json!(["string", "number", "boolean"]);
        let ordered = json!(["string", "number"]);
        json_schema!({ "anyOf": [
            { "type": value, "description": "The value where none is given." },
            {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "type": {
                        "enum": ParameterType::ALL.map(ParameterType::as_str),
                        "description": "What its values are: that of the default, or text.",
                    },
                    "default": {
                        "type": value,
                        "description": "The value where none is given. Without it one has to be.",
                    },
                    "description": { "type": "string", "description": "What it is for, for people." },
                    "one-of": {
                        "type": "array",
                        "items": { "type": value },
                        "minItems": 1,
                        "description": "The only values there are.",
                    },
                    "min": {
                        "type": ordered,
                        "description": "The least value, of a number, a duration or a size.",
                    },
                    "max": {
                        "type": ordered,
                        "description": "The greatest value, of a number, a duration or a size.",
                    },
                },
            },
        ] })
    }
}

/// Values of parameters, by name.
pub(crate) fn parameter_values(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    json_schema!({
        "type": "object",
        "propertyNames": name,
        "additionalProperties": { "type": ["string", "number", "boolean"] },
    })
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

/// Tests of a pipeline, in a file of their own.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Millrace tests")]
#[expect(dead_code, reason = "only its schema is used; the file is read by hand")]
struct TestsFile {
    /// Version of the pipeline language: v1alpha1.
    #[schemars(schema_with = "language_version")]
    millrace: String,
    /// Name of the pipeline these are for.
    pipeline: Option<Name>,
    /// What has to come of which messages, by name.
    tests: BTreeMap<Name, Test>,
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

/// What messages are taken from: a name, or a branch's name and that of an arm.
pub(crate) fn origin(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}(\\.[a-z][a-z0-9-]{0,39})?$" })
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

pub(crate) fn version_requirement(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number"] })
}

pub(crate) fn component_digest(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" })
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

pub(crate) fn arms(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    json_schema!({ "type": "array", "items": name, "minItems": 1, "uniqueItems": true })
}

pub(crate) fn inputs(generator: &mut SchemaGenerator) -> Schema {
    let name = origin(generator);
    let input = generator.subschema_for::<Input>();
    json_schema!({ "anyOf": [
        name,
        input,
        { "type": "array", "minItems": 1, "items": { "anyOf": [name, input] } },
    ] })
}

/// Steps of the definition itself, and calls of other pipelines.
pub(crate) fn steps(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    let step = generator.subschema_for::<Step>();
    let call = generator.subschema_for::<Call>();
    json_schema!({
        "type": "object",
        "propertyNames": name,
        "additionalProperties": { "anyOf": [step, call] },
    })
}

/// What each source of a sub-pipeline stands for.
pub(crate) fn call_inputs(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    let inputs = inputs(generator);
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": name,
        "additionalProperties": inputs,
    })
}

/// A call takes from `from` or has `inputs`, and not both.
pub(crate) fn add_call_inputs(call: &mut Schema) {
    call.insert("oneOf".to_owned(), json!([{ "required": ["from"] }, { "required": ["inputs"] }]));
}

pub(crate) fn config(_: &mut SchemaGenerator) -> Schema {
    let types = ["string", "number", "boolean", "object", "array"];
    json_schema!({ "type": "object", "additionalProperties": { "type": types } })
}

pub(crate) fn grants(_: &mut SchemaGenerator) -> Schema {
    // The first half is what an editor offers.
    json_schema!({ "type": "array", "items": { "anyOf": [
        { "type": "string", "enum": ["clocks", "random", "log", "config"] },
        { "type": "string", "pattern": Grant::PATTERN, "examples": ["kv:limits", "http:get:api.example.com"] },
    ] } })
}

pub(crate) fn servers(generator: &mut SchemaGenerator) -> Schema {
    let server = (registry::SERVER.schema)(generator);
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z0-9.\\[\\]:_-]{1,260}$" },
        "additionalProperties": server,
    })
}

pub(crate) fn hosts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["one", "every"] })
}

pub(crate) fn placement(_: &mut SchemaGenerator) -> Schema {
    let label = "^[A-Za-z0-9._-]{1,63}$";
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": label },
        "additionalProperties": { "type": ["string", "integer", "boolean"], "pattern": label },
    })
}

pub(crate) fn durable(generator: &mut SchemaGenerator) -> Schema {
    let settings = generator.subschema_for::<Durable>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, settings] })
}

pub(crate) fn rollout(generator: &mut SchemaGenerator) -> Schema {
    let settings = (registry::ROLLOUT.schema)(generator);
    json_schema!({ "allOf": [settings] })
}

pub(crate) fn window(generator: &mut SchemaGenerator) -> Schema {
    let settings = (registry::WINDOW.schema)(generator);
    json_schema!({ "allOf": [settings] })
}

pub(crate) fn order(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["kept", "any"] })
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

pub(crate) fn tolerance(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "number", "minimum": 0 })
}

pub(crate) fn payload_paths(_: &mut SchemaGenerator) -> Schema {
    let path = r"^payload(\.[^.]+)*$";
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": path } })
}

/// What buckets have at the beginning of a test.
pub(crate) fn test_values(generator: &mut SchemaGenerator) -> Schema {
    let name = generator.subschema_for::<Name>();
    let value = json!({ "type": ["string", "number", "boolean", "object", "array"] });
    json_schema!({
        "type": "object",
        "propertyNames": name,
        "additionalProperties": { "type": "object", "additionalProperties": value },
    })
}

/// What servers answer in a test.
pub(crate) fn test_responses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": "^(get|head|post|put|patch|delete) https?://" },
        "additionalProperties": {
            "type": "object",
            "additionalProperties": false,
            "not": { "required": ["payload", "hex"] },
            "properties": {
                "status": {
                    "type": "integer", "minimum": 100, "maximum": 599, "default": 200,
                    "description": "Status code.",
                },
                "payload": content_as_payload(),
                "hex": content_as_hex(),
                "headers": {
                    "type": "object",
                    "additionalProperties": { "type": ["string", "number", "boolean"] },
                    "description": "Header fields.",
                },
            },
        },
    })
}

/// Messages of a test by the names of sources: each has a content.
pub(crate) fn given_messages(generator: &mut SchemaGenerator) -> Schema {
    let one: Vec<Value> = PAYLOAD.iter().map(|field| json!({ "required": [field] })).collect();
    messages(generator, Map::new(), json!({ "oneOf": one }))
}

/// Messages of a test by the names of sinks: only what is given is compared.
pub(crate) fn expected_messages(generator: &mut SchemaGenerator) -> Schema {
    messages(generator, Map::new(), at_most_one_payload())
}

/// Messages of a test by the names of the steps that reject them.
pub(crate) fn rejected_messages(generator: &mut SchemaGenerator) -> Schema {
    let kinds = RejectKind::ALL.map(RejectKind::as_str);
    let also = Map::from_iter([
        ("kind".to_owned(), json!({ "enum": kinds, "description": "Why it is rejected." })),
        ("text".to_owned(), described_scalar("What the reason has to contain.")),
    ]);
    messages(generator, also, at_most_one_payload())
}

/// The fields that say what a message contains.
const PAYLOAD: [&str; 3] = ["payload", "hex", "file"];

fn content_as_payload() -> Value {
    json!({
        "type": ["string", "number", "boolean", "object", "array"],
        "description": "The content: a mapping or a list is JSON, anything else text.",
    })
}

fn content_as_hex() -> Value {
    json!({
        "type": ["string", "number"],
        "description": "The content, as bytes in hexadecimal.",
    })
}

fn at_most_one_payload() -> Value {
    let two = |a: &str, b: &str| json!({ "required": [a, b] });
    json!({ "not": { "anyOf": [
        two("payload", "hex"), two("payload", "file"), two("hex", "file"),
    ] } })
}

fn described_scalar(description: &str) -> Value {
    json!({ "type": ["string", "number", "boolean"], "description": description })
}

fn messages(generator: &mut SchemaGenerator, also: Map<String, Value>, rule: Value) -> Schema {
    let name = generator.subschema_for::<Name>();
    let time = time(generator);
    let mut properties = json!({
        "payload": content_as_payload(),
        "hex": content_as_hex(),
        "file": {
            "type": "string",
            "minLength": 1,
            "description": "A file with the content: of .jsonl each line is a message, of any other the whole is one.",
        },
        "topic": described_scalar("Where the message belongs."),
        "key": described_scalar("What messages are grouped by."),
        "headers": {
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
            "description": "Names and values. Others may be there beside those that are expected.",
        },
        "content-type": described_scalar("Media type of the payload."),
        "timestamp": {
            "allOf": [time],
            "description": "When it was measured. Without it a message that is given has the time of the test.",
        },
    });
    let mut message = json!({ "type": "object", "additionalProperties": false });
    if let (Some(message), Some(properties)) = (message.as_object_mut(), properties.as_object_mut())
    {
        properties.extend(also);
        message.insert("properties".to_owned(), properties.clone().into());
        message.extend(rule.as_object().cloned().unwrap_or_default());
    }
    json_schema!({
        "type": "object",
        "propertyNames": name,
        "additionalProperties": { "type": "array", "items": message },
    })
}

/// Puts the kinds of step into a step's schema, exactly one of which it has.
pub(crate) fn add_kinds(step: &mut Schema) {
    let choice: Vec<Value> =
        Kind::ALL.iter().map(|kind| json!({ "required": [kind.as_str()] })).collect();
    step.insert("oneOf".to_owned(), Value::Array(choice));
    let Some(Value::Object(properties)) = step.get_mut("properties") else { return };
    // Their definitions have no place in a step's own schema.
    let mut inline =
        SchemaSettings::draft07().with(|s| s.inline_subschemas = true).into_generator();
    for kind in Kind::ALL {
        let value = match kind.settings() {
            Some(settings) => described(kind.description(), settings, &mut inline),
            None => {
                json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$", "description": kind.description() })
            }
        };
        properties.insert(kind.as_str().to_owned(), value);
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
        connectors(
            generator,
            |connector| Some(&connector.source),
            [("delivery".to_owned(), delivery)],
        )
    }
}

impl JsonSchema for SinkBinding {
    fn schema_name() -> Cow<'static, str> {
        "SinkBinding".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        connectors(generator, |connector| connector.sink.as_ref(), [])
    }
}

/// Exactly one connector with its settings, and `also` beside it.
fn connectors<const N: usize>(
    generator: &mut SchemaGenerator,
    side: fn(&Connector) -> Option<&SettingsKind>,
    also: [(String, Value); N],
) -> Schema {
    let mut properties = Map::from_iter(also);
    let mut choice = Vec::new();
    for connector in registry::CONNECTORS {
        let Some(kind) = side(connector) else { continue };
        let settings = described(connector.title, kind, generator);
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
