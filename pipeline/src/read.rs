//! From the tree to the model, noting everything that does not fit.
//!
//! Reading goes on after a mistake with whatever can be understood, so that
//! one look shows all of them. It is written by hand because a deserialiser
//! stops at the first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;

use millrace_settings::registry;

use crate::finding::Issue;
use crate::locate::{Part, Path, quoted};
use crate::model::{
    Binding, Call, Component, Durable, Input, Kind, Pipeline, Sink, SinkBinding, Source,
    SourceBinding, Step, SubPipeline,
};
use crate::tree::{Entry, Node, Value};

/// Most issues noted in one definition: enough for any real one, and a bound
/// for the others.
pub(crate) const ISSUES_MAX: usize = 500;

/// How many of them may look for the name that was meant.
const GUESSES_MAX: usize = 100;

/// The settings of one side of a connector, if it has that side.
type Side = fn(&registry::Connector) -> Option<&registry::Kind>;

#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) issues: Vec<Issue>,
    /// Whether a whole section of the graph could not be read, so that its
    /// names are not known.
    pub(crate) graph_unread: bool,
    /// The same of the binding.
    pub(crate) binding_unread: bool,
    /// Whether an input could not be read, so that it is not known whose
    /// messages are taken.
    pub(crate) inputs_unread: bool,
}

/// What is written as a step.
enum StepOrCall {
    Step(Step),
    Call(Call),
}

/// The fields of one mapping, each name once.
pub(crate) struct Fields<'t> {
    pub(crate) entries: Vec<&'t Entry>,
    /// Known fields that unknown ones seem to have meant.
    pub(crate) meant: Vec<String>,
}

impl<'t> Fields<'t> {
    pub(crate) fn get(&self, key: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| entry.key == key).copied()
    }
}

impl Reader {
    pub(crate) fn note(&mut self, issue: Issue) {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(issue);
        }
    }

    /// A whole definition.
    pub(crate) fn pipeline(&mut self, root: &Node) -> Option<Pipeline> {
        let top = Path::default();
        let fields = self.known_fields(root, &top, &Pipeline::FIELDS)?;
        self.graph_unread = fields
            .meant
            .iter()
            .any(|field| matches!(field.as_str(), "sources" | "steps" | "sinks"));
        self.binding_unread = fields.meant.iter().any(|field| field == "binding");
        self.require(
            &fields,
            &top,
            root.span.start..root.span.start,
            &["millrace", "pipeline", "version", "sources", "sinks"],
        );
        let mut steps = BTreeMap::new();
        let mut calls = BTreeMap::new();
        let read = self.named(&fields, "steps", &Path::of(["steps"]), Self::step_or_call);
        for (name, one) in read {
            match one {
                StepOrCall::Step(step) => drop(steps.insert(name, step)),
                StepOrCall::Call(call) => drop(calls.insert(name, call)),
            }
        }
        Some(Pipeline {
            millrace: self.text_field(&fields, &top, "millrace").unwrap_or_default(),
            pipeline: self.text_field(&fields, &top, "pipeline").unwrap_or_default(),
            version: self.text_field(&fields, &top, "version").unwrap_or_default(),
            description: self.text_field(&fields, &top, "description"),
            // Read before their values were put into the rest.
            parameters: BTreeMap::new(),
            sources: fields.get("sources").map(|e| self.sources(&e.value)).unwrap_or_default(),
            steps,
            calls,
            sinks: self.named(&fields, "sinks", &Path::of(["sinks"]), Self::sink),
            rollout: self.section(&fields, &top, "rollout", &registry::ROLLOUT),
            binding: fields.get("binding").map(|entry| self.binding(&entry.value)),
            tests: self.tests(&fields),
        })
    }

    /// A file that holds only a binding: the language's version, optionally
    /// the pipeline it is for, and the binding. Gives the binding and the
    /// pipeline's name.
    pub(crate) fn binding_file(&mut self, root: &Node) -> Option<(Binding, Option<String>)> {
        let (fields, pipeline) = self.file_beside(root, "binding")?;
        let binding = fields.get("binding").map(|entry| self.binding(&entry.value))?;
        Some((binding, pipeline))
    }

    /// The fields of a file that holds one section of a definition, and the
    /// name of the pipeline that it is for, if it has one.
    pub(crate) fn file_beside<'t>(
        &mut self,
        root: &'t Node,
        section: &str,
    ) -> Option<(Fields<'t>, Option<String>)> {
        let top = Path::default();
        let fields = self.known_fields(root, &top, &["millrace", "pipeline", section])?;
        self.require(&fields, &top, root.span.start..root.span.start, &["millrace", section]);
        if let Some(version) = self.text_field(&fields, &top, "millrace") {
            self.issues.extend(crate::lint::language_version(&version));
        }
        let pipeline = self.text_field(&fields, &top, "pipeline");
        Some((fields, pipeline))
    }

    fn sources(&mut self, node: &Node) -> BTreeMap<String, Source> {
        let path = Path::of(["sources"]);
        let Value::List(items) = &node.value else {
            return self.entries(node, &path, Self::source);
        };
        let mut sources = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let at = path.index(index);
            let Some(name) = self.text(item, &at) else { continue };
            if sources.insert(name.clone(), Source::default()).is_some() {
                let message = format!("the source {} is named twice", quoted(&name));
                let issue =
                    Issue::error("duplicate", at, Part::Value, message).mend("name it once");
                self.note(issue.at(item.span.clone()));
            }
        }
        sources
    }

    fn source(&mut self, entry: &Entry, path: &Path) -> Source {
        if matches!(entry.value.value, Value::Null) {
            return Source::default();
        }
        let fields = self.known_fields(&entry.value, path, &["description"]);
        Source {
            description: fields.and_then(|fields| self.text_field(&fields, path, "description")),
        }
    }

    fn step_or_call(&mut self, entry: &Entry, path: &Path) -> StepOrCall {
        let is_call = match &entry.value.value {
            Value::Map(fields) => fields.iter().any(|field| field.key == "pipeline"),
            _ => false,
        };
        match is_call {
            true => StepOrCall::Call(self.call(entry, path)),
            false => StepOrCall::Step(self.step(entry, path)),
        }
    }

    /// A step that stands for the steps of another pipeline.
    fn call(&mut self, entry: &Entry, path: &Path) -> Call {
        const KNOWN: &[&str] = &["pipeline", "description", "from", "inputs", "parameters"];
        let Some(fields) = self.known_fields(&entry.value, path, KNOWN) else {
            self.inputs_unread = true;
            return Call::default();
        };
        let from = path.key("from");
        let inputs = fields.get("inputs");
        if let (Some(inputs), Some(_)) = (inputs, fields.get("from")) {
            let message = "a sub-pipeline has either `from` or `inputs`";
            let issue = Issue::error("duplicate", path.key("inputs"), Part::Key, message);
            let mend = "keep `from` for one with a single source, or `inputs` with the names of its sources";
            self.note(issue.mend(mend).at(inputs.key_span.clone()));
        }
        if inputs.is_none() {
            self.require(&fields, path, entry.key_span.clone(), &["from"]);
        }
        Call {
            pipeline: self.text_field(&fields, path, "pipeline").unwrap_or_default(),
            description: self.text_field(&fields, path, "description"),
            from: match inputs {
                Some(_) => Vec::new(),
                None => self.inputs(&fields, path),
            },
            inputs: inputs
                .map(|entry| {
                    let path = path.key("inputs");
                    let before = self.issues.len();
                    let read = self.entries(&entry.value, &path, Self::inputs_of);
                    self.inputs_unread |= read.is_empty();
                    // Then it has nothing to take from, which is no second mistake.
                    let wrong = self.issues.get_mut(before).filter(|_| read.is_empty());
                    if let Some(wrong) = wrong {
                        wrong.meant = Some(from);
                    }
                    read
                })
                .unwrap_or_default(),
            parameters: fields
                .get("parameters")
                .map(|e| {
                    self.scalars(&e.value, &path.key("parameters"), |entry, path| {
                        let message = format!(
                            "the value of a parameter is a single value, and that of {} is {}",
                            quoted(&entry.key),
                            entry.value.what()
                        );
                        Issue::error("wrong-type", path, Part::Key, message)
                            .mend("write a text, a number, true or false")
                    })
                })
                .unwrap_or_default(),
        }
    }

    /// A step keeps its place even if nothing inside can be read: others may
    /// name it.
    fn step(&mut self, entry: &Entry, path: &Path) -> Step {
        let read = self.step_fields(entry, path);
        self.inputs_unread |= read.is_none();
        read.unwrap_or(Step {
            kind: Kind::Map,
            component: String::new(),
            settings: BTreeMap::new(),
            description: None,
            arms: Vec::new(),
            from: Vec::new(),
            window: BTreeMap::new(),
            config: BTreeMap::new(),
            grants: Vec::new(),
            memory: None,
            instances: None,
        })
    }

    fn step_fields(&mut self, entry: &Entry, path: &Path) -> Option<Step> {
        let kinds = Kind::ALL.map(Kind::as_str);
        let own =
            ["description", "arms", "from", "window", "config", "grants", "memory", "instances"];
        // A `pipeline` that is misspelt is to be found too.
        let known: Vec<&str> = kinds.into_iter().chain(own).chain(["pipeline"]).collect();
        let fields = self.known_fields(&entry.value, path, &known)?;
        self.require(&fields, path, entry.key_span.clone(), &["from"]);
        let kind = self.kind(entry, &fields, path);
        Some(Step {
            kind: kind.map_or(Kind::Map, |kind| kind.0),
            component: kind
                .filter(|(kind, _)| kind.settings().is_none())
                .and_then(|(_, key)| self.text_field(&fields, path, key))
                .unwrap_or_default(),
            settings: kind
                .and_then(|(kind, key)| Some(self.section(&fields, path, key, kind.settings()?)))
                .unwrap_or_default(),
            description: self.text_field(&fields, path, "description"),
            arms: fields
                .get("arms")
                .map(|e| self.texts(&e.value, &path.key("arms")))
                .unwrap_or_default(),
            from: self.inputs(&fields, path),
            window: self.section(&fields, path, "window", &registry::WINDOW),
            config: fields
                .get("config")
                .map(|e| self.config(&e.value, &path.key("config")))
                .unwrap_or_default(),
            grants: fields
                .get("grants")
                .map(|e| self.texts(&e.value, &path.key("grants")))
                .unwrap_or_default(),
            memory: self.value_field(&fields, path, "memory"),
            instances: self.value_field(&fields, path, "instances"),
        })
    }

    /// The one kind a step has.
    fn kind(
        &mut self,
        entry: &Entry,
        fields: &Fields<'_>,
        path: &Path,
    ) -> Option<(Kind, &'static str)> {
        let mut found =
            Kind::ALL.into_iter().filter_map(|kind| Some((kind, fields.get(kind.as_str())?)));
        let Some((first, _)) = found.next() else {
            let message = format!("the step {} does not say what it does", quoted(&entry.key));
            let issue = Issue::error("step-kind", path.clone(), Part::Key, message).mend(format!(
                "add one of {} with the name of a component, or one of {} with its settings, or `pipeline` with the name of another definition",
                kinds(false),
                kinds(true)
            ));
            self.note(issue.at(entry.key_span.clone()));
            return None;
        };
        for (other, field) in found {
            let message = format!("a step does one thing: this one already has `{first}`");
            let issue = Issue::error("step-kind", path.key(other.as_str()), Part::Key, message)
                .mend(format!("make the `{other}` a step of its own, with `from: {}`", entry.key));
            self.note(issue.at(field.key_span.clone()));
        }
        Some((first, first.as_str()))
    }

    fn sink(&mut self, entry: &Entry, path: &Path) -> Sink {
        let Some(fields) = self.known_fields(&entry.value, path, &["from", "description"]) else {
            self.inputs_unread = true;
            return Sink { from: Vec::new(), description: None };
        };
        self.require(&fields, path, entry.key_span.clone(), &["from"]);
        Sink {
            from: self.inputs(&fields, path),
            description: self.text_field(&fields, path, "description"),
        }
    }

    /// `from`: a name, a name with options, or a list of either.
    fn inputs(&mut self, fields: &Fields<'_>, path: &Path) -> Vec<Input> {
        let Some(entry) = fields.get("from") else {
            self.inputs_unread = true;
            return Vec::new();
        };
        self.inputs_of(entry, &path.key("from"))
    }

    /// The inputs under a field.
    fn inputs_of(&mut self, entry: &Entry, path: &Path) -> Vec<Input> {
        let read: Vec<Option<Input>> = match &entry.value.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(at, item)| self.input(item, &path.index(at)))
                .collect(),
            Value::Null => Vec::new(),
            _ => vec![self.input(&entry.value, path)],
        };
        if read.is_empty() {
            self.missing_value(entry, path, &entry.key);
        }
        self.inputs_unread |= read.is_empty() || read.iter().any(Option::is_none);
        read.into_iter().flatten().collect()
    }

    fn missing_value(&mut self, entry: &Entry, path: &Path, field: &str) {
        let message = format!("`{field}` has no value");
        let issue = Issue::error("missing-field", path.clone(), Part::Key, message);
        self.note(issue.mend("name a source or a step").at(entry.key_span.clone()));
    }

    fn input(&mut self, node: &Node, path: &Path) -> Option<Input> {
        let Value::Map(_) = &node.value else {
            return Some(Input { name: self.text(node, path)?, durable: None });
        };
        let fields = self.known_fields(node, path, &["name", "durable"])?;
        self.require(&fields, path, node.span.start..node.span.start + 1, &["name"]);
        let durable =
            fields.get("durable").and_then(|e| self.durable(&e.value, &path.key("durable")));
        Some(Input { name: self.text_field(&fields, path, "name")?, durable })
    }

    fn durable(&mut self, node: &Node, path: &Path) -> Option<Durable> {
        if let Value::Scalar(text) = &node.value {
            match text.as_str() {
                "true" => return Some(Durable::default()),
                "false" => return None,
                _ => {}
            }
        }
        let Value::Map(entries) = &node.value else {
            let message =
                format!("`durable` is true, false or settings, and this is {}", found(node));
            let issue = Issue::error("wrong-type", path.clone(), Part::Value, message);
            self.note(issue.mend("write `durable: true`").at(node.span.clone()));
            return None;
        };
        let fields = self.unique(entries, path);
        let own = fields.entries.iter().filter(|e| e.key != "delivery");
        Some(Durable {
            settings: self.settings(own, path, &registry::EDGE),
            delivery: self.delivery(&fields, path),
        })
    }

    /// A mapping from names to single values, as the author wrote them. `wrong`
    /// says what is to be said of a value that is none.
    pub(crate) fn scalars(
        &mut self,
        node: &Node,
        path: &Path,
        wrong: fn(&Entry, Path) -> Issue,
    ) -> BTreeMap<String, String> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(node, path, "a mapping of names to values");
            return BTreeMap::new();
        };
        let mut scalars = BTreeMap::new();
        for entry in self.unique(entries, path).entries {
            if let Value::Scalar(text) = &entry.value.value {
                scalars.insert(entry.key.clone(), text.clone());
                continue;
            }
            self.note(wrong(entry, path.key(&entry.key)).at(entry.key_span.clone()));
        }
        scalars
    }

    fn binding(&mut self, node: &Node) -> Binding {
        let path = Path::of(["binding"]);
        let Some(fields) = self.known_fields(
            node,
            &path,
            &[
                "parameters",
                "sources",
                "sinks",
                "components",
                "pipelines",
                "servers",
                "hosts",
                "placement",
            ],
        ) else {
            self.binding_unread = true;
            return Binding::default();
        };
        Binding {
            parameters: BTreeMap::new(),
            sources: self.named(&fields, "sources", &path.key("sources"), Self::source_binding),
            sinks: self.named(&fields, "sinks", &path.key("sinks"), Self::sink_binding),
            components: self.named(&fields, "components", &path.key("components"), Self::component),
            pipelines: self.named(&fields, "pipelines", &path.key("pipelines"), Self::sub_pipeline),
            servers: self.named(&fields, "servers", &path.key("servers"), Self::server),
            hosts: self.value_field(&fields, &path, "hosts").unwrap_or_default(),
            placement: fields.get("placement").map_or_else(BTreeMap::new, |entry| {
                self.scalars(&entry.value, &path.key("placement"), not_a_label)
            }),
        }
    }

    fn server(&mut self, entry: &Entry, path: &Path) -> BTreeMap<String, String> {
        let Value::Map(entries) = &entry.value.value else {
            self.wrong_type(&entry.value, path, "a mapping of settings");
            return BTreeMap::new();
        };
        let fields = self.unique(entries, path);
        self.settings(fields.entries.iter(), path, &registry::SERVER)
    }

    fn source_binding(&mut self, entry: &Entry, path: &Path) -> SourceBinding {
        let source: Side = |c| Some(&c.source);
        let Some((fields, connector)) = self.connector(entry, path, &["delivery"], source) else {
            return SourceBinding::default();
        };
        SourceBinding {
            connector: connector.map(|e| e.key.clone()).unwrap_or_default(),
            settings: self.connector_settings(connector, path, source),
            delivery: self.delivery(&fields, path),
        }
    }

    fn sink_binding(&mut self, entry: &Entry, path: &Path) -> SinkBinding {
        let sink: Side = |c| c.sink.as_ref();
        let Some((_, connector)) = self.connector(entry, path, &[], sink) else {
            return SinkBinding::default();
        };
        SinkBinding {
            connector: connector.map(|e| e.key.clone()).unwrap_or_default(),
            settings: self.connector_settings(connector, path, sink),
        }
    }

    /// The fields of a source's or sink's binding, and the one that names the
    /// connector. `also` are the other fields it may have.
    fn connector<'t>(
        &mut self,
        entry: &'t Entry,
        path: &Path,
        also: &[&str],
        side: Side,
    ) -> Option<(Fields<'t>, Option<&'t Entry>)> {
        let connectors = registry::CONNECTORS.iter().map(|connector| connector.name);
        let known: Vec<&str> = connectors.chain(also.iter().copied()).collect();
        let fields = self.known_fields(&entry.value, path, &known)?;
        let mut named = fields.entries.iter().filter(|field| !also.contains(&field.key.as_str()));
        let first = named.next().copied();
        // A misspelt connector is one mistake, not two.
        let misspelt =
            matches!(&entry.value.value, Value::Map(all) if all.len() > fields.entries.len());
        if first.is_none() && !misspelt {
            let fitting = registry::CONNECTORS.iter().filter(|connector| side(connector).is_some());
            let list: Vec<String> =
                fitting.map(|connector| format!("`{}`", connector.name)).collect();
            let message = format!("the binding of {} names no connector", quoted(&entry.key));
            let issue = Issue::error("missing-field", path.clone(), Part::Key, message)
                .mend(format!("add one of {} with its settings", list.join(", ")));
            self.note(issue.at(entry.key_span.clone()));
        }
        for other in named {
            let message = "a source or sink has one connector";
            let issue = Issue::error("duplicate", path.key(&other.key), Part::Key, message);
            self.note(issue.mend("remove the others").at(other.key_span.clone()));
        }
        Some((fields, first))
    }

    /// The settings of the connector that a binding names.
    fn connector_settings(
        &mut self,
        connector: Option<&Entry>,
        path: &Path,
        side: Side,
    ) -> BTreeMap<String, String> {
        let Some(entry) = connector else { return BTreeMap::new() };
        // A connector that has no such side is lint's to report.
        let Some(kind) = registry::connector(&entry.key).and_then(side) else {
            return BTreeMap::new();
        };
        let path = path.key(&entry.key);
        let Value::Map(entries) = &entry.value.value else {
            self.wrong_type(&entry.value, &path, "a mapping of settings");
            return BTreeMap::new();
        };
        let fields = self.unique(entries, &path);
        self.settings(fields.entries.iter(), &path, kind)
    }

    fn delivery(&mut self, fields: &Fields<'_>, path: &Path) -> BTreeMap<String, String> {
        self.section(fields, path, "delivery", &registry::DELIVERY)
    }

    /// A mapping of settings under a field of its own.
    fn section(
        &mut self,
        fields: &Fields<'_>,
        path: &Path,
        field: &str,
        kind: &registry::Kind,
    ) -> BTreeMap<String, String> {
        let Some(entry) = fields.get(field) else { return BTreeMap::new() };
        let path = path.key(field);
        let Value::Map(entries) = &entry.value.value else {
            self.wrong_type(&entry.value, &path, "a mapping of settings");
            return BTreeMap::new();
        };
        let fields = self.unique(entries, &path);
        self.settings(fields.entries.iter(), &path, kind)
    }

    /// Settings, each as its text, or as JSON where it is a list or a mapping;
    /// which and in what range is the connector's matter.
    fn settings<'t>(
        &mut self,
        entries: impl Iterator<Item = &'t &'t Entry>,
        path: &Path,
        kind: &registry::Kind,
    ) -> BTreeMap<String, String> {
        let structured = (kind.structured)();
        entries
            .filter_map(|entry| {
                let path = path.key(&entry.key);
                let inside = matches!(entry.value.value, Value::List(_) | Value::Map(_));
                let text = match inside && structured.contains(&entry.key) {
                    // What its scalars mean depends on the field.
                    true => self.json(&entry.value, &path, |_, text| text.into()).to_string(),
                    false => self.text(&entry.value, &path)?,
                };
                Some((entry.key.clone(), text))
            })
            .collect()
    }

    /// A value as JSON. `scalar` says what a single one is.
    pub(crate) fn json(
        &mut self,
        node: &Node,
        path: &Path,
        scalar: fn(&Node, &str) -> serde_json::Value,
    ) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar(text) => scalar(node, text),
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.json(item, &path.index(index), scalar))
                .collect(),
            Value::Map(entries) => {
                let unique = self.unique(entries, path).entries;
                let field =
                    |e: &&Entry| (e.key.clone(), self.json(&e.value, &path.key(&e.key), scalar));
                unique.iter().map(field).collect()
            }
        }
    }

    fn component(&mut self, entry: &Entry, path: &Path) -> Component {
        let Some(fields) = self.known_fields(&entry.value, path, &["file", "version", "digest"])
        else {
            return Component::default();
        };
        self.require(&fields, path, entry.key_span.clone(), &["file"]);
        Component {
            file: self.text_field(&fields, path, "file").unwrap_or_default(),
            version: self.text_field(&fields, path, "version"),
            digest: self.text_field(&fields, path, "digest"),
        }
    }

    fn sub_pipeline(&mut self, entry: &Entry, path: &Path) -> SubPipeline {
        let Some(fields) = self.known_fields(&entry.value, path, &["file", "digest"]) else {
            return SubPipeline::default();
        };
        self.require(&fields, path, entry.key_span.clone(), &["file"]);
        SubPipeline {
            file: self.text_field(&fields, path, "file").unwrap_or_default(),
            digest: self.text_field(&fields, path, "digest"),
        }
    }

    /// A mapping from names to things, under `field`.
    pub(crate) fn named<T>(
        &mut self,
        fields: &Fields<'_>,
        field: &str,
        path: &Path,
        read: fn(&mut Self, &Entry, &Path) -> T,
    ) -> BTreeMap<String, T> {
        fields.get(field).map(|entry| self.entries(&entry.value, path, read)).unwrap_or_default()
    }

    fn entries<T>(
        &mut self,
        node: &Node,
        path: &Path,
        read: fn(&mut Self, &Entry, &Path) -> T,
    ) -> BTreeMap<String, T> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(node, path, "a mapping with a name for each entry");
            self.section_unread(path);
            return BTreeMap::new();
        };
        let unique = self.unique(entries, path).entries;
        unique.into_iter().map(|e| (e.key.clone(), read(self, e, &path.key(&e.key)))).collect()
    }

    fn section_unread(&mut self, path: &Path) {
        match path.section() {
            Some("binding") => self.binding_unread = true,
            // The graph is known without them.
            Some("tests") => {}
            _ => self.graph_unread = true,
        }
    }

    /// The entries of a mapping without those whose name came before.
    pub(crate) fn unique<'t>(&mut self, entries: &'t [Entry], path: &Path) -> Fields<'t> {
        let mut seen = std::collections::BTreeSet::new();
        let mut unique = Vec::with_capacity(entries.len());
        for entry in entries {
            if seen.insert(entry.key.as_str()) {
                unique.push(entry);
                continue;
            }
            let message = format!("{} is there twice", quoted(&entry.key));
            let issue = Issue::error("duplicate", path.key(&entry.key), Part::Key, message)
                .mend("rename or remove one of the two: only the first is looked at");
            self.note(issue.at(entry.key_span.clone()));
        }
        Fields { entries: unique, meant: Vec::new() }
    }

    /// The fields of a mapping, of which only these may be there.
    pub(crate) fn known_fields<'t>(
        &mut self,
        node: &'t Node,
        path: &Path,
        known: &[&str],
    ) -> Option<Fields<'t>> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(node, path, &format!("a mapping with {}", list(known)));
            return None;
        };
        let mut fields = self.unique(entries, path);
        let mut meant = Vec::new();
        fields.entries.retain(|entry| {
            let right = known.contains(&entry.key.as_str());
            if !right {
                meant.extend(self.unknown_field(entry, path, known));
            }
            right
        });
        fields.meant = meant;
        Some(fields)
    }

    /// Notes an unknown field, and gives the one that was likely meant.
    fn unknown_field(&mut self, entry: &Entry, path: &Path, known: &[&str]) -> Option<String> {
        let message = format!("there is no field {} here", quoted(&entry.key));
        let meant = self.guess(&entry.key, known.iter().copied());
        let mend = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here: {}", list(known)),
        };
        let mut issue = Issue::error("unknown-field", path.key(&entry.key), Part::Key, message);
        issue.meant = meant.map(|meant| path.key(meant));
        self.note(issue.mend(mend).at(entry.key_span.clone()));
        meant.map(str::to_owned)
    }

    fn guess<'n>(&self, name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
        if self.issues.len() < GUESSES_MAX { guess(name, known) } else { None }
    }

    pub(crate) fn require(
        &mut self,
        fields: &Fields<'_>,
        path: &Path,
        place: Range<usize>,
        required: &[&str],
    ) {
        let absent = |field: &&&str| {
            fields.get(field).is_none() && !fields.meant.iter().any(|meant| meant == **field)
        };
        for field in required.iter().filter(absent) {
            let issue = Issue::error(
                "missing-field",
                path.key(field),
                Part::Missing,
                format!("`{field}` is missing"),
            );
            self.note(issue.mend(format!("add {}", example(field))).at(place.clone()));
        }
    }

    pub(crate) fn text_field(
        &mut self,
        fields: &Fields<'_>,
        path: &Path,
        field: &str,
    ) -> Option<String> {
        let entry = fields.get(field)?;
        self.text(&entry.value, &path.key(field))
    }

    /// A field of a type that parses from text.
    pub(crate) fn value_field<T>(
        &mut self,
        fields: &Fields<'_>,
        path: &Path,
        field: &str,
    ) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let entry = fields.get(field)?;
        let path = path.key(field);
        let text = self.text(&entry.value, &path)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => {
                let message = format!("`{field}` cannot be {}", quoted(&text));
                let issue = Issue::error("setting", path, Part::Value, message);
                self.note(issue.mend(format!("it {why}")).at(entry.value.span.clone()));
                None
            }
        }
    }

    pub(crate) fn texts(&mut self, node: &Node, path: &Path) -> Vec<String> {
        let Value::List(items) = &node.value else {
            self.wrong_type(node, path, "a list");
            return Vec::new();
        };
        items.iter().enumerate().filter_map(|(at, item)| self.text(item, &path.index(at))).collect()
    }

    pub(crate) fn text(&mut self, node: &Node, path: &Path) -> Option<String> {
        match &node.value {
            Value::Scalar(text) => Some(text.clone()),
            _ => {
                self.wrong_type(node, path, "a single value");
                None
            }
        }
    }

    pub(crate) fn wrong_type(&mut self, node: &Node, path: &Path, wanted: &str) {
        let place = match path.to_string() {
            whole if whole.is_empty() => "a definition".to_owned(),
            field => format!("`{field}`"),
        };
        let message = format!("{place} must be {wanted}, and this is {}", found(node));
        // An empty value has no width to point at: its field is shown.
        let issue = Issue::error("wrong-type", path.clone(), Part::Key, message);
        self.note(if node.span.is_empty() { issue } else { issue.at(node.span.clone()) });
    }
}

/// What a node is, for a message: its text if it has one.
pub(crate) fn found(node: &Node) -> String {
    match &node.value {
        Value::Scalar(text) => quoted(text),
        _ => node.what().to_owned(),
    }
}

/// The kinds of steps that need no component, or those that do.
fn kinds(without_component: bool) -> String {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.settings().is_some() == without_component);
    list(&kinds.map(Kind::as_str).collect::<Vec<_>>())
}

/// `a`, `b` and `c`.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}

/// A required field as one would write it.
fn example(field: &str) -> &'static str {
    match field {
        "millrace" => "`millrace: v1alpha1`",
        "pipeline" => "`pipeline: ` and a name",
        "version" => "`version: 0.1.0`",
        "sources" => "`sources: [` and the names of the sources `]`",
        "sinks" => "`sinks:` and, for each, `name: { from: step }`",
        "from" => "`from: ` and the name of a source or step",
        "name" => "`name: ` and the name of a source or step",
        "file" => "`file: ` and its path",
        "inputs" => "`inputs:` and, for a source, a list of messages",
        "tests" => "`tests:` and, for each, `name: { inputs: ..., outputs: ... }`",
        _ => "it",
    }
}

/// The known name that was most likely meant: as close as one slip in three
/// letters.
pub(crate) fn guess<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    known
        .into_iter()
        .filter(|other| other.len() <= LONGEST)
        .map(|other| (strsim::osa_distance(name, other), other))
        .filter(|(distance, other)| *distance * 3 <= other.len().max(name.len()))
        .min()
        .map(|(_, other)| other)
}

/// A label that is no single value.
fn not_a_label(entry: &Entry, path: Path) -> Issue {
    let message = format!("the value of a label is one word, and this is {}", found(&entry.value));
    Issue::error("wrong-type", path, Part::Value, message).mend("write it as `site: hall-3`")
}
