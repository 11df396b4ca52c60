//! From a changed model back to the text: what differs between two models, as edits.

use std::collections::{BTreeMap, BTreeSet};

use millrace_settings::registry::{self, Kind as SettingsKind};
use serde_json::{Map, Value as Json};

use crate::load::{Document, Options, load};
use crate::model::{Input, Kind, Pipeline};
use crate::tree::{self, Value as Tree};

use super::value::Value;
use super::{EditError, Editor, Path, RENAMED_MAX, Segment, below_key, keys, shown};

/// How often steps are looked at for those that all before them are there of.
const LOOKS_AT_STEPS: usize = 1_000;

/// How often a text is compared with the model that it has to have.
const LOOKS: usize = 3;

/// A definition of a model from nothing.
///
/// # Errors
///
/// When no text reads as this model, because it has what cannot be written.
pub fn write(pipeline: &Pipeline) -> Result<String, EditError> {
    let whole = whole(pipeline);
    let Value::Map(fields) = &whole else { return Ok(String::new()) };
    let style = super::value::Style { step: 2, open: true };
    let mut text = String::new();
    for (name, value) in fields {
        if value.is_collection() && !text.is_empty() {
            text.push('\n');
        }
        // Each section has a line for each of its entries; a list of names has one.
        let open = !matches!(value, Value::List(_)) && style.open;
        let style = super::value::Style { open, ..style };
        text.push_str(&super::value::entry(name, value, 0, style));
        text.push('\n');
    }
    let editor = Editor::new(text)?;
    match editor.model() {
        Some(read) if read == *pipeline => Ok(editor.text),
        _ => Err(not_as_meant("", "no definition reads as this model")),
    }
}

fn not_as_meant(path: &str, why: &str) -> EditError {
    EditError::NotAsMeant { path: path.to_owned(), why: why.to_owned() }
}

impl Editor {
    /// The model that the text reads as, with the defaults of its parameters and the values of its own binding.
    #[must_use]
    pub fn model(&self) -> Option<Pipeline> {
        let document = Document { file: "pipeline.yaml", text: &self.text };
        load(document, None, &Options::default()).pipeline().cloned()
    }

    /// Changes the text so that it reads as another model. What is the same in both stays as it is written, also where a
    /// parameter stands for it.
    ///
    /// # Errors
    ///
    /// When the text has no model, or cannot be changed so that it reads as that one; the text is as before then.
    pub fn apply(&mut self, to: &Pipeline) -> Result<(), EditError> {
        let from = self.model().ok_or_else(|| not_as_meant("", "the text is no definition"))?;
        if from == *to {
            return Ok(());
        }
        self.edit(|editor| {
            let new = canonical(to);
            let mut now = from;
            // Where parameters have changed, so have the places that use them: these are seen at the second look.
            for _ in 0..LOOKS {
                editor.differences(&Path::new(), &canonical(&now), &new)?;
                now = editor.model().unwrap_or(now);
                if now == *to {
                    return Ok(());
                }
            }
            Err(not_as_meant("", "it would not read as the changed model"))
        })
    }

    /// Makes the changes between two mappings, each as the model has it.
    fn differences(
        &mut self,
        path: &[Segment],
        old: &Fields,
        new: &Fields,
    ) -> Result<(), EditError> {
        let mut gone: Vec<&str> =
            old.keys().filter(|key| !new.contains_key(*key)).map(String::as_str).collect();
        let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
        for (key, value) in added {
            let same = |gone: &&str| {
                old.get(*gone).is_some_and(|old| old.json == value.json && old.form == value.form)
            };
            // A kind or connector is exchanged where it stands; anything else that is the same has another name.
            let exchanged =
                |gone: &&str| value.is_choice && old.get(*gone).is_some_and(|old| old.is_choice);
            let taken =
                gone.iter().take(RENAMED_MAX).position(|gone| exchanged(gone) || same(gone));
            let here = below_key(path, key);
            let before = taken.map(|at| gone.remove(at));
            let before = before.filter(|before| self.spot(&below_key(path, before)).is_some());
            match before {
                Some(before) => {
                    self.rename_key(&below_key(path, before), key)?;
                    if let Some(old) = old.get(before) {
                        self.difference(&here, old, value)?;
                    }
                }
                None => {
                    let new = self.written(&here, value);
                    self.put_field(&here, &new)?;
                }
            }
        }
        for key in gone {
            self.take_field(&below_key(path, key))?;
        }
        for (key, value) in new {
            if let Some(old) = old.get(key) {
                self.difference(&below_key(path, key), old, value)?;
            }
        }
        Ok(())
    }

    fn difference(&mut self, path: &[Segment], old: &Field, new: &Field) -> Result<(), EditError> {
        if old.json == new.json && old.form == new.form {
            return Ok(());
        }
        let node = self.spot(path).map(|spot| &spot.node.value);
        let both_maps = matches!((&old.json, &new.json), (Json::Object(_), Json::Object(_)));
        let here_too = matches!(node, Some(Tree::Map(_) | Tree::List(_)));
        if both_maps && here_too && new.form == Form::Map {
            return self.differences(path, &old.fields(), &new.fields());
        }
        let value = self.written(path, new);
        self.put_field(path, &value)
    }

    /// A field of the model as it is written at a path, in the form of what is there.
    fn written(&self, path: &[Segment], field: &Field) -> Value {
        let node = self.spot(path).map(|spot| spot.node);
        match field.form {
            Form::Inputs => {
                let inputs = inputs(&field.json);
                // What is the same stays in its form.
                let old: Vec<Value> = match node.map(|node| &node.value) {
                    Some(Tree::List(items)) => items.iter().map(Value::of).collect(),
                    Some(_) => node.map(Value::of).into_iter().collect(),
                    None => Vec::new(),
                };
                let old: Vec<(Value, Option<Json>)> =
                    old.into_iter().map(|value| (value.clone(), input_json(&value))).collect();
                let written = inputs.iter().map(|input| {
                    let same = old.iter().find(|(_, json)| json.as_ref() == Some(input));
                    same.map_or_else(|| input_value(input), |(value, _)| value.clone())
                });
                let mut written: Vec<Value> = written.collect();
                let is_list = matches!(node.map(|node| &node.value), Some(Tree::List(_)));
                match written.pop() {
                    Some(only) if written.is_empty() && !is_list => only,
                    Some(last) => {
                        written.push(last);
                        Value::List(written)
                    }
                    None => Value::List(written),
                }
            }
            Form::Sources => {
                let bare = |source: &Json| source.as_object().is_none_or(Map::is_empty);
                let fields = field.json.as_object();
                let is_map = matches!(node.map(|node| &node.value), Some(Tree::Map(_)));
                match fields {
                    Some(fields) if fields.values().all(bare) && !is_map => {
                        Value::List(fields.keys().map(|name| Value::Word(name.clone())).collect())
                    }
                    _ => field.value(),
                }
            }
            _ => field.value(),
        }
    }

    /// As [`Editor::put`]; what has no fields there yet and is no mapping is written anew.
    fn put_field(&mut self, path: &[Segment], value: &Value) -> Result<(), EditError> {
        match self.put(path, value) {
            Err(EditError::NotInside { .. }) => {
                Err(not_as_meant(&shown(path), "what it is in is written in another form"))
            }
            done => done,
        }
    }

    /// Takes out what the model has no more. It may have been there by default only.
    fn take_field(&mut self, path: &[Segment]) -> Result<(), EditError> {
        if let [Segment::Key(section), Segment::Key(name)] = path
            && section == "sources"
            && let Some(Tree::List(items)) =
                self.spot(&keys(["sources"])).map(|spot| &spot.node.value)
        {
            let at = items
                .iter()
                .position(|item| matches!(&item.value, Tree::Scalar(text) if text == name));
            return match at {
                Some(at) => self.take(&[Segment::Key(section.clone()), Segment::Index(at)]),
                None => Ok(()),
            };
        }
        match self.spot(path) {
            Some(_) => self.take(path),
            None => Ok(()),
        }
    }
}

/// How a field of the model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Names and fields.
    Map,
    /// Single values of which only the characters count, and lists of them.
    Words,
    /// JSON of a test's message: numbers are numbers.
    Json,
    /// A parameter of the definition, by its type.
    Parameter,
    /// JSON text of a setting, as the structure that it is.
    Setting,
    /// JSON text of a value for a component, as the structure that it is.
    Config,
    /// What a step takes messages from.
    Inputs,
    /// The sources, which may be a list of names.
    Sources,
}

/// A field of the model with its way of being written.
#[derive(Debug, Clone)]
struct Field {
    json: Json,
    form: Form,
    /// Whether its name says what it is, of which there is one: the kind of a step, a connector.
    is_choice: bool,
    /// Where it is.
    path: Vec<String>,
}

type Fields = BTreeMap<String, Field>;

/// The fields of a definition as it is written, out of the model's.
fn canonical(pipeline: &Pipeline) -> Fields {
    let mut json = serde_json::to_value(pipeline).unwrap_or_default();
    // Steps that stand for another pipeline are among the others.
    let calls = json.as_object_mut().and_then(|fields| fields.remove("calls"));
    if let (Some(Json::Object(calls)), Some(fields)) = (calls, json.as_object_mut()) {
        let steps = fields.entry("steps").or_insert_with(|| Json::Object(Map::new()));
        if let Some(steps) = steps.as_object_mut() {
            steps.extend(calls);
        }
    }
    Field { json, form: Form::Map, is_choice: false, path: Vec::new() }.fields()
}

/// The whole of a definition, in the order that people would write it.
fn whole(pipeline: &Pipeline) -> Value {
    let mut fields = canonical(pipeline);
    let mut entries = Vec::new();
    for name in Pipeline::FIELDS {
        let Some(field) = fields.remove(name) else { continue };
        let bare = |source: &Json| source.as_object().is_none_or(Map::is_empty);
        let value = match (&field.json, name) {
            (Json::Object(sources), "sources")
                if !sources.is_empty() && sources.values().all(bare) =>
            {
                Value::List(sources.keys().map(|name| Value::Word(name.clone())).collect())
            }
            (_, "steps") => in_order_of_messages(field.value(), pipeline),
            _ => field.value(),
        };
        entries.push((name.to_owned(), value));
    }
    entries.extend(fields.into_iter().map(|(name, field)| (name, field.value())));
    Value::Map(entries)
}

/// Steps behind those that they take messages from.
fn in_order_of_messages(steps: Value, pipeline: &Pipeline) -> Value {
    let Value::Map(mut waiting) = steps else { return steps };
    let mut done: Vec<(String, Value)> = Vec::new();
    // A long row that is written the wrong way round needs many looks; what is left then stays in its order.
    for _ in 0..LOOKS_AT_STEPS {
        let names: BTreeSet<String> = waiting.iter().map(|(name, _)| name.clone()).collect();
        let (ready, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(name, _)| {
            let step = pipeline.steps.get(name);
            let from = step.map(|step| step.from.as_slice()).unwrap_or_default();
            from.iter().all(|input| !names.contains(input.node()))
        });
        waiting = left;
        let is_circle = ready.is_empty();
        done.extend(ready);
        if is_circle || waiting.is_empty() {
            break;
        }
    }
    done.extend(waiting);
    Value::Map(done)
}

impl Field {
    /// The fields inside, each with its form.
    fn fields(&self) -> Fields {
        let Json::Object(fields) = &self.json else { return Fields::new() };
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let fields = match path.as_slice() {
            ["steps", _] => step_fields(fields),
            ["binding", "sources" | "sinks", _] => connector_fields(fields),
            _ => fields.iter().map(|(key, json)| (key.clone(), json.clone(), false)).collect(),
        };
        fields
            .into_iter()
            .map(|(key, json, is_choice)| {
                let path: Vec<String> = self.path.iter().cloned().chain([key.clone()]).collect();
                let form = form(&path, &json);
                (key, Field { json, form, is_choice, path })
            })
            .collect()
    }

    /// The field as it is written where there is nothing yet.
    fn value(&self) -> Value {
        match self.form {
            Form::Inputs => {
                let mut inputs: Vec<Value> = inputs(&self.json).iter().map(input_value).collect();
                match inputs.pop() {
                    Some(only) if inputs.is_empty() => only,
                    last => Value::List(inputs.into_iter().chain(last).collect()),
                }
            }
            Form::Map | Form::Sources => {
                let mut fields: Vec<(String, Value)> =
                    self.fields().into_iter().map(|(key, field)| (key, field.value())).collect();
                fields.sort_by_key(|(key, _)| rank(key));
                Value::Map(fields)
            }
            Form::Words => words(&self.json),
            Form::Json => json(&self.json),
            Form::Parameter => parameter(&self.json),
            Form::Setting => structure(&self.json, words),
            Form::Config => config(&self.json),
        }
    }
}

/// The place of a field among those beside it: what it does, from whom, and then the rest as the model has it.
fn rank(key: &str) -> usize {
    const FIRST: [&str; 8] =
        ["name", "arms", "from", "window", "inputs", "outputs", "topic", "url"];
    if Kind::ALL.iter().any(|kind| kind.as_str() == key) {
        return 0;
    }
    if key == "description" {
        return 0;
    }
    FIRST.iter().position(|first| *first == key).map_or(FIRST.len() + 1, |at| at + 1)
}

/// How a field is written, by where it is.
fn form(path: &[String], json: &Json) -> Form {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (path.as_slice(), json) {
        (["sources"], _) => Form::Sources,
        (["steps" | "sinks", _, "from"] | ["steps", _, "inputs", _], _) => Form::Inputs,
        (["steps", _, "config", _], _) => Form::Config,
        (["parameters", _], _) => Form::Parameter,
        (["tests", _, "inputs" | "outputs" | "rejected", _], Json::Array(_)) => Form::Json,
        (_, Json::String(_)) if is_structured(&path) => Form::Setting,
        (_, Json::Object(_)) => Form::Map,
        _ => Form::Words,
    }
}

/// Whether a setting is a list or a mapping.
fn is_structured(path: &[&str]) -> bool {
    let has = |kind: &SettingsKind, key: &str| (kind.structured)().contains(key);
    match path {
        ["binding", "sources", _, connector, key] => {
            registry::connector(connector).is_some_and(|known| has(&known.source, key))
        }
        ["binding", "sinks", _, connector, key] => registry::connector(connector)
            .and_then(|known| known.sink.as_ref())
            .is_some_and(|sink| has(sink, key)),
        ["rollout", key] => has(&registry::ROLLOUT, key),
        ["steps", _, "window", key] => has(&registry::WINDOW, key),
        ["steps", _, kind, key] => {
            let kind = Kind::ALL.into_iter().find(|known| known.as_str() == *kind);
            kind.and_then(Kind::settings).is_some_and(|settings| has(settings, key))
        }
        _ => false,
    }
}

/// A step's fields: its kind is the name of the field with the component or the settings.
fn step_fields(fields: &Map<String, Json>) -> Vec<(String, Json, bool)> {
    let Some(Json::String(kind)) = fields.get("kind") else {
        return fields.iter().map(|(key, json)| (key.clone(), json.clone(), false)).collect();
    };
    let has_settings =
        Kind::ALL.into_iter().any(|known| known.as_str() == kind && known.settings().is_some());
    let settings = || fields.get("settings").cloned().unwrap_or_else(|| Json::Object(Map::new()));
    let what = if has_settings {
        settings()
    } else {
        fields.get("component").cloned().unwrap_or_default()
    };
    let own = ["kind", "component", "settings"];
    let others = fields.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    std::iter::once((kind.clone(), what, true))
        .chain(others.map(|(key, json)| (key.clone(), json.clone(), false)))
        .collect()
}

/// The fields of a source's or sink's binding: the connector is the name of the field with its settings.
fn connector_fields(fields: &Map<String, Json>) -> Vec<(String, Json, bool)> {
    let settings = fields.get("settings").cloned().unwrap_or_default();
    let connector = match fields.get("connector") {
        Some(Json::String(name)) if !name.is_empty() => Some((name.clone(), settings, true)),
        _ => None,
    };
    let others = fields.iter().filter(|(key, json)| {
        let none = json.as_object().is_some_and(Map::is_empty);
        !matches!(key.as_str(), "connector" | "settings") && !none
    });
    connector
        .into_iter()
        .chain(others.map(|(key, json)| (key.clone(), json.clone(), false)))
        .collect()
}

/// A text as it is written where parameters may stand.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// Single values of which only the characters count.
fn words(json: &Json) -> Value {
    match json {
        Json::String(text) => Value::Word(escaped(text)),
        Json::Array(items) => Value::List(items.iter().map(words).collect()),
        Json::Object(fields) => {
            Value::Map(fields.iter().map(|(key, value)| (key.clone(), words(value))).collect())
        }
        Json::Number(number) => Value::Word(number.to_string()),
        other => json_single(other),
    }
}

fn json_single(json: &Json) -> Value {
    match Value::from(json) {
        Value::Text(text) => Value::Text(escaped(&text)),
        other => other,
    }
}

/// Messages of a test: what is JSON in them keeps its types.
fn json(value: &Json) -> Value {
    match value {
        Json::Array(items) => Value::List(items.iter().map(json).collect()),
        Json::Object(fields) => Value::Map(
            fields
                .iter()
                .map(|(key, value)| match (key.as_str(), value) {
                    ("payload", Json::Object(_) | Json::Array(_)) => (key.clone(), strict(value)),
                    _ => (key.clone(), words(value)),
                })
                .collect(),
        ),
        other => words(other),
    }
}

fn strict(value: &Json) -> Value {
    match value {
        Json::Array(items) => Value::List(items.iter().map(strict).collect()),
        Json::Object(fields) => {
            Value::Map(fields.iter().map(|(key, value)| (key.clone(), strict(value))).collect())
        }
        single => json_single(single),
    }
}

/// A parameter: its default alone where that says everything.
fn parameter(json: &Json) -> Value {
    let Json::Object(fields) = json else { return words(json) };
    let kind = fields.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
    let single = |value: &Json| match (value, kind.as_str()) {
        (Json::String(text), "number" | "integer" | "boolean") => Value::Literal(text.clone()),
        (Json::String(text), _) => Value::Text(escaped(text)),
        (other, _) => words(other),
    };
    match (fields.len(), fields.get("default"), kind.as_str()) {
        (2, Some(default), "text" | "number" | "boolean") => single(default),
        _ => {
            let value = |(key, value): (&String, &Json)| match key.as_str() {
                "default" | "min" | "max" => (key.clone(), single(value)),
                _ => (key.clone(), words(value)),
            };
            let mut entries: Vec<(String, Value)> = fields.iter().map(value).collect();
            entries.sort_by_key(|(key, _)| key != "type");
            Value::Map(entries)
        }
    }
}

/// JSON text as the structure that it is.
fn structure(text: &Json, of: fn(&Json) -> Value) -> Value {
    let read = text.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok());
    match read {
        Some(read @ (Json::Object(_) | Json::Array(_))) => of(&read),
        _ => words(text),
    }
}

/// A value for a component: its text, or the structure whose compact JSON that is, in the order of its fields.
fn config(json: &Json) -> Value {
    let text = json.as_str().unwrap_or_default();
    let is_json = text.starts_with(['{', '[']) && serde_json::from_str::<Json>(text).is_ok();
    match is_json.then(|| tree::parse(text)) {
        Some(Ok(node)) => escape_all(Value::of(&node)),
        _ => words(json),
    }
}

fn escape_all(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::Text(escaped(&text)),
        Value::List(items) => Value::List(items.into_iter().map(escape_all).collect()),
        Value::Map(fields) => {
            Value::Map(fields.into_iter().map(|(key, value)| (key, escape_all(value))).collect())
        }
        other => other,
    }
}

fn inputs(json: &Json) -> Vec<Json> {
    json.as_array().cloned().unwrap_or_default()
}

/// An input of the model as it is written.
fn input_value(input: &Json) -> Value {
    let name = input.get("name").map(words).unwrap_or(Value::Null);
    let Some(durable) = input.get("durable") else { return name };
    let durable = match durable.as_object() {
        Some(settings) if settings.is_empty() => Value::Literal("true".to_owned()),
        _ => words(durable),
    };
    Value::Map(vec![("name".to_owned(), name), ("durable".to_owned(), durable)])
}

/// What the model has for an input that is written so. Nothing where a parameter or a list of settings is in it.
fn input_json(value: &Value) -> Option<Json> {
    let name = |value: &Value| match value {
        Value::Text(text) | Value::Literal(text) | Value::Word(text) => Some(text.clone()),
        _ => None,
    };
    let input = match value {
        Value::Map(fields) => {
            let field =
                |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, value)| value);
            let durable = match field("durable") {
                Some(Value::Literal(text)) if text == "true" => Some(Json::Object(Map::new())),
                Some(Value::Literal(text)) if text == "false" => None,
                Some(Value::Map(settings)) => Some(plain(&Value::Map(settings.clone()))?),
                Some(_) => return None,
                None => None,
            };
            let mut json =
                Map::from_iter([("name".to_owned(), Json::String(name(field("name")?)?))]);
            json.extend(durable.map(|durable| ("durable".to_owned(), durable)));
            Json::Object(json)
        }
        single => {
            let input = Input { name: name(single)?, durable: None };
            serde_json::to_value(input).ok()?
        }
    };
    Some(input)
}

/// Settings as the model has them: every single value a text.
fn plain(value: &Value) -> Option<Json> {
    match value {
        Value::Text(text) | Value::Literal(text) | Value::Word(text) => {
            (!text.contains("${")).then(|| Json::String(text.clone()))
        }
        Value::Map(fields) => {
            let fields = fields.iter().map(|(key, value)| Some((key.clone(), plain(value)?)));
            fields.collect::<Option<Map<_, _>>>().map(Json::Object)
        }
        _ => None,
    }
}
