//! Parameters: what a definition leaves open, the values it is given, and putting them in.
//!
//! Values are put into the tree after the text was parsed, never into the text, so a value is one single value wherever it
//! is used and cannot bring fields of its own. What is put in is not looked at again: a value with `${` in it stays that. Every
//! node keeps its place, so a later finding still points at `${name}`, and is told what stood for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;

use millrace_settings::{Bytes, Duration};
use serde::{Deserialize, Serialize};

use crate::finding::{Issue, without_password};
use crate::lint::name_syntax;
use crate::locate::{Part, Path, quoted};
use crate::model::Kind;
use crate::read::{Reader, guess, list};
use crate::tree::{Entry, Node, TEXT_MAX, Value};

/// Most parameters of one definition.
const PARAMETERS_MAX: usize = 100;

/// Longest value of a parameter, in bytes.
const VALUE_MAX: usize = 4 * 1024;

/// Most text that values may make of one file, in bytes: as much as the file itself may have.
const EXPANDED_MAX: usize = TEXT_MAX;

/// What begins a use. With one more `$` before it, it is these characters themselves.
const OPEN: &str = "${";

/// Rules of this module. A finding of another rule at a place without a value would only repeat that there is none.
const UNKNOWN: &str = "unknown-parameter";
const MISSING: &str = "missing-parameter";
const WRONG: &str = "parameter-value";
const SYNTAX: &str = "parameter-syntax";
const PLACE: &str = "parameter-place";
const UNUSED: &str = "unused-parameter";
const TOO_MANY: &str = "too-many-parameters";
const TOO_LONG: &str = "too-long";

/// Whether a rule speaks of parameters.
pub(crate) fn is_own(rule: &str) -> bool {
    [UNKNOWN, MISSING, WRONG, SYNTAX, PLACE, UNUSED, TOO_MANY, TOO_LONG].contains(&rule)
}

/// What the values of a parameter are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterType {
    /// Any text.
    #[default]
    Text,
    /// A number, as JSON writes it.
    Number,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A whole number and a unit of time: `30s`.
    Duration,
    /// A whole number, with or without a unit of size: `64MiB`.
    Size,
}

impl ParameterType {
    /// Every type, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Text, Self::Number, Self::Integer, Self::Boolean, Self::Duration, Self::Size];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Duration => "duration",
            Self::Size => "size",
        }
    }

    /// Whether values are compared with `min` and `max`.
    const fn has_range(self) -> bool {
        !matches!(self, Self::Text | Self::Boolean)
    }

    /// Whether a value alone is no text where a definition tells the two apart.
    const fn is_plain(self) -> bool {
        matches!(self, Self::Number | Self::Integer | Self::Boolean)
    }

    /// What a value has to be, following "it".
    const fn wanted(self) -> &'static str {
        match self {
            Self::Text => "must be text",
            Self::Number => "must be a number, such as 85 or 0.5",
            Self::Integer => "must be a whole number, such as 85",
            Self::Boolean => "must be true or false",
            Self::Duration => {
                "must be a duration: a whole number and ms, s, m, h or d, such as 30s"
            }
            Self::Size => {
                "must be a size: a whole number and B, KiB, MiB, GiB, KB, MB or GB, such as 64MiB"
            }
        }
    }

    /// Reads a value of this type. Nothing for a text that is none.
    fn measure(self, text: &str) -> Option<Measure> {
        let number = || serde_json::from_str::<serde_json::Number>(text).ok();
        match self {
            Self::Text => Some(Measure::None),
            Self::Boolean => matches!(text, "true" | "false").then_some(Measure::None),
            Self::Number => number()?.as_f64().filter(|n| n.is_finite()).map(Measure::Number),
            Self::Integer => {
                number()?;
                text.parse::<i64>().ok().map(|n| Measure::Whole(n.into()))
            }
            Self::Duration => {
                let time = text.parse::<Duration<0, { u64::MAX }>>().ok()?;
                Some(Measure::Whole(time.as_millis().into()))
            }
            Self::Size => {
                let size = text.parse::<Bytes<0, { u64::MAX }>>().ok()?;
                Some(Measure::Whole(size.get().into()))
            }
        }
    }
}

impl FromStr for ParameterType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or("must be `text`, `number`, `integer`, `boolean`, `duration` or `size`")
    }
}

/// A value as it is compared with others of its type.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Measure {
    None,
    Number(f64),
    Whole(i128),
}

/// Something that a definition leaves open. Without a default it has to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parameter {
    /// What its values are.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// The value where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The only values there are; any when it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// The least value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// The greatest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
}

impl Parameter {
    /// Why a text cannot be a value, following "it".
    fn refuses(&self, text: &str) -> Option<String> {
        if text.len() > VALUE_MAX {
            return Some(format!("must be at most {VALUE_MAX} bytes long, and has {}", text.len()));
        }
        let Some(measure) = self.kind.measure(text) else {
            return Some(self.kind.wanted().to_owned());
        };
        let same = |other: &String| match self.kind.measure(other) {
            Some(Measure::None) | None => other == text,
            Some(other) => other == measure,
        };
        if !self.one_of.is_empty() && !self.one_of.iter().any(same) {
            let choices: Vec<&str> = self.one_of.iter().map(String::as_str).collect();
            return Some(format!("must be one of {}", list(&choices)));
        }
        let bound = |bound: &Option<String>| self.kind.measure(bound.as_deref()?);
        let below = bound(&self.min).is_some_and(|min| measure < min);
        let above = bound(&self.max).is_some_and(|max| measure > max);
        (below || above).then(|| match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!("must be from {min} to {max}"),
            (Some(min), None) => format!("must be {min} or more"),
            (_, max) => format!("must be {} or less", max.as_deref().unwrap_or_default()),
        })
    }
}

/// Where the value of a parameter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueOrigin {
    /// The definition, which nobody overruled.
    Default,
    /// The binding.
    Binding,
    /// The step of another definition that calls this one.
    Call,
    /// The command line, or whoever else has read the definition.
    Given,
}

impl ValueOrigin {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "the default",
            Self::Binding => "from the binding",
            Self::Call => "given by the call",
            Self::Given => "given with --param",
        }
    }
}

/// The value that a parameter has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ParameterValue {
    /// The text that stands for it.
    pub value: String,
    /// Where it comes from.
    pub origin: ValueOrigin,
    /// Whether it is a number, `true` or `false` where it stands alone.
    #[serde(skip)]
    plain: bool,
}

impl ParameterValue {
    /// The value for people: shortened, on one line, and without the password of an address.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.value)
    }
}

/// The parameters of a definition with the values they have. One without is there too: that was reported.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    values: BTreeMap<String, Option<ParameterValue>>,
    /// Whether the parameters could not be read, so that it is not known which there are.
    unread: bool,
}

impl Values {
    pub(crate) fn known(&self) -> impl Iterator<Item = (&str, &ParameterValue)> {
        self.values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_ref()?)))
    }
}

/// What was declared.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) parameters: BTreeMap<String, Parameter>,
    /// The ones that could not be read: their values are not known.
    wrong: BTreeSet<String>,
    unread: bool,
}

/// A value that a file gives.
#[derive(Debug)]
pub(crate) struct FileValue {
    text: String,
    /// Where it stands, if that is not to be looked up by its path.
    span: Option<Range<usize>>,
}

/// Values by the names of parameters, as `binding.parameters` has them.
pub(crate) type Given = BTreeMap<String, FileValue>;

/// The field of a mapping. Of two the first counts; the second is reported where the mapping is read.
fn field<'t>(node: &'t Node, key: &str) -> Option<&'t Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

impl Reader {
    /// The parameters that a definition declares.
    pub(crate) fn parameters(&mut self, root: &Node) -> Declared {
        let mut declared = Declared::default();
        let Some(entry) = field(root, "parameters") else {
            // Misspelt it is reported where the fields are read.
            let Value::Map(entries) = &root.value else { return declared };
            declared.unread = entries.iter().any(|e| guess(&e.key, ["parameters"]).is_some());
            return declared;
        };
        let path = Path::of(["parameters"]);
        let Value::Map(entries) = &entry.value.value else {
            self.wrong_type(&entry.value, &path, "a mapping from names to default values");
            declared.unread = true;
            return declared;
        };
        let unique = self.unique(entries, &path).entries;
        if let Some(first) = unique.get(PARAMETERS_MAX) {
            let message = format!(
                "a definition has at most {PARAMETERS_MAX} parameters, this one has {}",
                unique.len()
            );
            let issue = Issue::error(TOO_MANY, path.key(&first.key), Part::Key, message);
            self.note(
                issue.mend("leave out what is the same everywhere").at(first.key_span.clone()),
            );
            declared.unread = true;
        }
        for entry in unique.into_iter().take(PARAMETERS_MAX) {
            let at = path.key(&entry.key);
            if let Some(issue) = name_syntax(&entry.key, at.clone(), Part::Key) {
                self.note(issue.at(entry.key_span.clone()));
            }
            let before = self.issues.len();
            let parameter = self.parameter(entry, &at);
            if self.issues.len() > before || parameter.is_none() {
                declared.wrong.insert(entry.key.clone());
            }
            declared.parameters.insert(entry.key.clone(), parameter.unwrap_or_default());
        }
        declared
    }

    fn parameter(&mut self, entry: &Entry, path: &Path) -> Option<Parameter> {
        const KNOWN: &[&str] = &["type", "default", "description", "one-of", "min", "max"];
        match &entry.value.value {
            Value::Scalar(_) => {
                let default = self.own_value(&entry.value, path)?;
                let kind = kind_of(&entry.value);
                let parameter = Parameter { kind, default: Some(default), ..Parameter::default() };
                self.check_own(&parameter, entry, path);
                Some(parameter)
            }
            Value::Map(_) => {
                let fields = self.known_fields(&entry.value, path, KNOWN)?;
                let mut value = |key: &str| {
                    fields.get(key).and_then(|e| self.own_value(&e.value, &path.key(key)))
                };
                let (default, min, max) = (value("default"), value("min"), value("max"));
                let from_default = fields.get("default").map(|e| kind_of(&e.value));
                let kind = match fields.get("type") {
                    Some(_) => self.value_field(&fields, path, "type")?,
                    None => from_default.unwrap_or_default(),
                };
                let one_of = fields
                    .get("one-of")
                    .map(|e| self.texts(&e.value, &path.key("one-of")))
                    .unwrap_or_default();
                let description = self.text_field(&fields, path, "description");
                let parameter = Parameter { kind, default, description, one_of, min, max };
                self.check_own(&parameter, entry, path);
                Some(parameter)
            }
            _ => {
                let message = format!(
                    "a parameter is a default value or a mapping with {}, and {} is {}",
                    list(KNOWN),
                    quoted(&entry.key),
                    entry.value.what()
                );
                let issue = Issue::error("wrong-type", path.clone(), Part::Key, message);
                let mend =
                    format!("write `{}: {{ type: text }}` for one that has to be given", entry.key);
                self.note(issue.mend(mend).at(entry.key_span.clone()));
                None
            }
        }
    }

    /// A single value in which nothing is put in: that of a parameter itself.
    fn own_value(&mut self, node: &Node, path: &Path) -> Option<String> {
        let text = self.text(node, path)?;
        let found = pieces(&text);
        if found.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            return Some(found.into_iter().map(|piece| piece.text()).collect());
        }
        let issue = Issue::error(
            PLACE,
            path.clone(),
            Part::Value,
            "the value of a parameter is made of no other",
        );
        let mend = "write it out, or `$${` for the characters `${` themselves";
        self.note(issue.mend(mend).at(node.span.clone()));
        None
    }

    /// What a parameter says of itself agrees.
    fn check_own(&mut self, parameter: &Parameter, entry: &Entry, path: &Path) {
        let of = |key: &str| {
            let inside = field(&entry.value, key);
            inside.map_or(entry.value.span.clone(), |e| e.value.span.clone())
        };
        let at = |key: &str| match &entry.value.value {
            Value::Map(_) => path.key(key),
            _ => path.clone(),
        };
        let kind = parameter.kind;
        let mut sound = true;
        for (key, bound) in [("min", &parameter.min), ("max", &parameter.max)] {
            let Some(text) = bound else { continue };
            let why = if !kind.has_range() {
                format!("is for numbers, durations and sizes, and the type is {}", kind.as_str())
            } else if kind.measure(text).is_none() {
                kind.wanted().to_owned()
            } else {
                continue;
            };
            let message = format!("`{key}` cannot be {}", quoted(text));
            let issue = Issue::error("setting", at(key), Part::Value, message);
            self.note(issue.mend(format!("it {why}")).at(of(key)));
            sound = false;
        }
        for (index, choice) in parameter.one_of.iter().enumerate() {
            if kind.measure(choice).is_none() {
                let message = format!("`one-of` cannot have {}", quoted(choice));
                let issue =
                    Issue::error("setting", path.key("one-of").index(index), Part::Value, message);
                self.note(issue.mend(format!("it {}", kind.wanted())).at(of("one-of")));
                sound = false;
            }
        }
        let bound = |bound: &Option<String>| kind.measure(bound.as_deref()?);
        if sound
            && let (Some(min), Some(max)) = (bound(&parameter.min), bound(&parameter.max))
            && min > max
        {
            let issue = Issue::error("setting", at("max"), Part::Value, "`max` is less than `min`");
            self.note(issue.mend("exchange the two").at(of("max")));
            sound = false;
        }
        let Some(default) = parameter.default.as_ref().filter(|_| sound) else { return };
        if let Some(why) = parameter.refuses(default) {
            let message = format!("the default cannot be {}", shown(default));
            let issue = Issue::error(WRONG, at("default"), Part::Value, message);
            self.note(issue.mend(format!("it {why}")).at(of("default")));
        }
    }

    /// The values that the binding of a file gives.
    pub(crate) fn given_values(&mut self, root: &Node) -> Given {
        let binding = field(root, "binding");
        let Some(entry) = binding.and_then(|binding| field(&binding.value, "parameters")) else {
            return Given::new();
        };
        let path = Path::of(["binding", "parameters"]);
        let Value::Map(entries) = &entry.value.value else {
            self.wrong_type(&entry.value, &path, "a mapping from names of parameters to values");
            return Given::new();
        };
        let mut given = Given::new();
        for entry in self.unique(entries, &path).entries {
            if let Some(text) = self.own_value(&entry.value, &path.key(&entry.key)) {
                given.insert(
                    entry.key.clone(),
                    FileValue { text, span: Some(entry.value.span.clone()) },
                );
            }
        }
        given
    }
}

/// The texts that a binding gives, for the model.
pub(crate) fn texts(given: &Given) -> BTreeMap<String, String> {
    given.iter().map(|(name, value)| (name.clone(), value.text.clone())).collect()
}

/// The values that a call gives, as a binding gives them.
pub(crate) fn given_by_call(texts: &BTreeMap<String, String>) -> Given {
    let value = |text: &String| FileValue { text: text.clone(), span: None };
    texts.iter().map(|(name, text)| (name.clone(), value(text))).collect()
}

/// The type of a parameter that does not say one: that of its default.
fn kind_of(node: &Node) -> ParameterType {
    let Value::Scalar(text) = &node.value else { return ParameterType::Text };
    [ParameterType::Boolean, ParameterType::Number]
        .into_iter()
        .find(|kind| node.plain && kind.measure(text).is_some())
        .unwrap_or_default()
}

/// A value in a message. It may be an address with a password.
fn shown(text: &str) -> String {
    quoted(&without_password(text))
}

/// What is given to a definition.
pub(crate) struct Sources<'a> {
    /// What the definition is called in what is said to whoever gives it values.
    pub(crate) definition: &'a str,
    /// By the binding, or by the call.
    pub(crate) binding: &'a Given,
    /// Where these stand.
    pub(crate) at: Path,
    /// Which of the two it is.
    pub(crate) origin: ValueOrigin,
    /// By whoever reads the definition; these come first.
    pub(crate) given: &'a BTreeMap<String, String>,
    /// Whether there is a binding at all. Without one nothing can be deployed, and values may still come.
    pub(crate) bound: bool,
}

/// The value of each parameter. Gives also what is wrong with the definition, and what with the binding.
pub(crate) fn resolve(
    declared: &Declared,
    sources: &Sources<'_>,
) -> (Values, Vec<Issue>, Vec<Issue>) {
    let (mut of_definition, mut of_binding) = (Vec::new(), Vec::new());
    let names = || declared.parameters.keys().map(String::as_str);
    let unknown = |name: &str, path: Path, part: Part, what: String| {
        let mend = match guess(name, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if declared.parameters.is_empty() => {
                format!(
                    "{} has no parameters: add `parameters`, or leave the value out",
                    sources.definition
                )
            }
            None => format!("it has {}", list(&names().collect::<Vec<_>>())),
        };
        Issue::error(UNKNOWN, path, part, what).mend(mend)
    };
    let asked = |name: &str| declared.unread || declared.parameters.contains_key(name);
    let binding_path = &sources.at;
    for name in sources.binding.keys().filter(|name| !asked(name)) {
        let message = format!("{} has no parameter {}", sources.definition, quoted(name));
        of_binding.push(unknown(name, binding_path.key(name), Part::Key, message));
    }
    for name in sources.given.keys().filter(|name| !asked(name)) {
        let message =
            format!("--param gives {}, and the definition has no such parameter", quoted(name));
        of_definition.push(unknown(name, Path::of(["parameters"]), Part::Missing, message));
    }
    let mut values = Values { values: BTreeMap::new(), unread: declared.unread };
    for (name, parameter) in &declared.parameters {
        let path = Path::of(["parameters", name]);
        let wrong = declared.wrong.contains(name);
        let value = |value: &str, origin| {
            let value = value.to_owned();
            Some(ParameterValue { value, origin, plain: parameter.kind.is_plain() })
        };
        let from_file = sources.binding.get(name);
        let refused =
            from_file.and_then(|v| Some((v, parameter.refuses(&v.text)?))).filter(|_| !wrong);
        if let Some((given, why)) = &refused {
            let message =
                format!("the parameter {} cannot be {}", quoted(name), shown(&given.text));
            let issue = Issue::error(WRONG, binding_path.key(name), Part::Value, message);
            of_binding.push(Issue { span: given.span.clone(), ..issue.mend(format!("it {why}")) });
        }
        let chosen = if let Some(text) = sources.given.get(name) {
            match parameter.refuses(text).filter(|_| !wrong) {
                Some(why) => {
                    let message = format!(
                        "the parameter {} cannot be {}, which --param gives",
                        quoted(name),
                        shown(text)
                    );
                    let issue = Issue::error(WRONG, path, Part::Key, message);
                    of_definition.push(issue.mend(format!("it {why}")));
                    None
                }
                None => value(text, ValueOrigin::Given),
            }
        } else if let Some(given) = from_file {
            if refused.is_some() { None } else { value(&given.text, sources.origin) }
        } else if let Some(default) = &parameter.default {
            value(default, ValueOrigin::Default)
        } else if sources.origin == ValueOrigin::Call {
            if !wrong {
                let message = format!(
                    "the parameter {} of {} has no value",
                    quoted(name),
                    sources.definition
                );
                let issue = Issue::error(MISSING, binding_path.key(name), Part::Missing, message);
                let mend = format!("add `parameters: {{ {name}: ... }}`, or a `default` there");
                of_binding.push(issue.mend(mend));
            }
            None
        } else {
            if !wrong {
                let message = format!("the parameter {} has no value", quoted(name));
                let mend = format!(
                    "give it in the binding, `parameters: {{ {name}: ... }}`, or with `--param {name}=...`, or add a `default`"
                );
                let issue = match sources.bound {
                    true => Issue::error(MISSING, path, Part::Key, message),
                    false => Issue::warning(MISSING, path, Part::Key, message),
                };
                of_definition.push(issue.mend(mend));
            }
            None
        };
        values.values.insert(name.clone(), chosen.filter(|_| !wrong));
    }
    (values, of_definition, of_binding)
}

/// Parameters that no file uses.
pub(crate) fn unused(declared: &Declared, files: &[&Expanded]) -> Vec<Issue> {
    if declared.unread || files.iter().any(|file| file.bytes > EXPANDED_MAX) {
        return Vec::new();
    }
    let used: BTreeSet<&String> = files.iter().flat_map(|file| &file.used).collect();
    let sound = declared.parameters.keys().filter(|name| !declared.wrong.contains(*name));
    let unused = sound.filter(|name| !used.contains(name));
    unused
        .map(|name| {
            let message = format!("nothing uses the parameter {}", quoted(name));
            let issue = Issue::warning(UNUSED, Path::of(["parameters", name]), Part::Key, message);
            issue.mend(format!("write `${{{name}}}` where its value is wanted, or remove it"))
        })
        .collect()
}

/// What became of one file.
#[derive(Default)]
pub(crate) struct Expanded {
    pub(crate) issues: Vec<Issue>,
    /// The parameters that are used.
    pub(crate) used: BTreeSet<String>,
    /// Places where something was put in, each with what stood there.
    pub(crate) notes: BTreeMap<usize, String>,
    /// Places that have no value.
    pub(crate) holes: BTreeSet<usize>,
    /// Whether an input could not be read.
    pub(crate) inputs_unread: bool,
    /// How much text was put in.
    bytes: usize,
}

/// Puts values in wherever a file uses them.
pub(crate) fn expand(root: &mut Node, values: &Values) -> Expanded {
    let mut expansion = Expansion { values, done: Expanded::default() };
    expansion.node(root, &Path::default(), At::Top);
    expansion.done
}

/// Where in a file a node is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Top,
    Sources,
    Steps,
    Step,
    /// What the sources of a sub-pipeline stand for.
    Inputs,
    Sinks,
    Sink,
    From,
    Binding,
    /// The parameters themselves.
    Parameters,
    /// Names, and what is granted: they stand as they are.
    Fixed,
    /// Everything else.
    Value,
}

impl At {
    /// The field `key` of this.
    fn field(self, key: &str, value: &Node) -> Self {
        let single = matches!(value.value, Value::Scalar(_));
        match (self, key) {
            (Self::Top, "millrace" | "pipeline" | "version") => Self::Fixed,
            (Self::Top, "sources") => Self::Sources,
            (Self::Top, "steps") => Self::Steps,
            (Self::Top, "sinks") => Self::Sinks,
            (Self::Top, "binding") => Self::Binding,
            (Self::Top | Self::Binding, "parameters") => Self::Parameters,
            (Self::Steps, _) => Self::Step,
            (Self::Step, "arms" | "grants" | "pipeline") => Self::Fixed,
            (Self::Step, "inputs") => Self::Inputs,
            (Self::Inputs, _) => Self::From,
            (Self::Step, key) if single && Kind::ALL.iter().any(|kind| kind.as_str() == key) => {
                Self::Fixed
            }
            (Self::Sinks, _) => Self::Sink,
            (Self::Step | Self::Sink, "from") => Self::From,
            (Self::From, "name") => Self::Fixed,
            (Self::Parameters, _) => Self::Parameters,
            (Self::Fixed, _) => Self::Fixed,
            _ => Self::Value,
        }
    }
}

struct Expansion<'v> {
    values: &'v Values,
    done: Expanded,
}

impl Expansion<'_> {
    fn node(&mut self, node: &mut Node, path: &Path, at: At) {
        if at == At::Parameters {
            return;
        }
        match &mut node.value {
            Value::Null => {}
            Value::Scalar(text) if text.contains(OPEN) => match at {
                At::Fixed => self.refuse(text, node.span.clone(), path.clone()),
                // As lint calls inputs, so that nothing more is said of it.
                At::From => self.refuse(text, node.span.clone(), path.key("name")),
                _ => self.single(node, path),
            },
            Value::Scalar(_) => {}
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    match (at, &item.value) {
                        (At::Sources, Value::Scalar(text)) if text.contains(OPEN) => {
                            self.refuse(text, item.span.clone(), path.key(text));
                        }
                        _ => self.node(item, &path.index(index), at),
                    }
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.key(entry, path);
                    let at = at.field(&entry.key, &entry.value);
                    let path = path.key(&entry.key);
                    match (at, &entry.value.value) {
                        (At::From, Value::Scalar(_) | Value::Map(_)) => {
                            self.node(&mut entry.value, &path.index(0), at);
                        }
                        _ => self.node(&mut entry.value, &path, at),
                    }
                }
            }
        }
    }

    /// Names of fields stay as they are. That is said only where it is clear what was wanted: payloads have fields of any
    /// name.
    fn key(&mut self, entry: &Entry, path: &Path) {
        let uses = pieces(&entry.key);
        let known = |piece: &Piece<'_>| match piece {
            Piece::Use(name) => self.values.values.contains_key(*name),
            _ => false,
        };
        if entry.key.contains(OPEN) && uses.iter().any(known) {
            self.refuse(&entry.key, entry.key_span.clone(), path.key(&entry.key));
        }
    }

    fn refuse(&mut self, text: &str, span: Range<usize>, path: Path) {
        self.done.inputs_unread = true;
        let used = pieces(text).into_iter().filter(|piece| matches!(piece, Piece::Use(_)));
        self.done.used.extend(used.map(|piece| piece.text().to_owned()));
        let message = "a parameter cannot stand here: names, versions and grants are written out";
        let issue = Issue::error(PLACE, path, Part::Value, message);
        let mend = "write the name itself; values of `config`, settings, the binding and tests may have parameters";
        self.done.issues.push(issue.mend(mend).at(span));
    }

    fn single(&mut self, node: &mut Node, path: &Path) {
        let Value::Scalar(text) = &node.value else { return };
        if self.done.bytes > EXPANDED_MAX {
            self.done.holes.insert(node.span.start);
            return;
        }
        let found = pieces(text);
        let mut whole = String::new();
        let mut put_in: Vec<(&str, &ParameterValue)> = Vec::new();
        let before = self.done.issues.len();
        let mut complete = true;
        for piece in &found {
            match piece {
                Piece::Text(text) => whole.push_str(text),
                Piece::Wrong(text) => self.wrong_syntax(text, path, &node.span),
                Piece::Use(name) => match self.values.values.get(*name) {
                    Some(value) => {
                        self.done.used.insert((*name).to_owned());
                        match value {
                            Some(value) => {
                                whole.push_str(&value.value);
                                put_in.push((name, value));
                            }
                            None => complete = false,
                        }
                    }
                    None => {
                        complete = false;
                        if !self.values.unread {
                            self.unknown(name, path, &node.span);
                        }
                    }
                },
            }
            if whole.len() > EXPANDED_MAX {
                break;
            }
        }
        self.done.bytes = self.done.bytes.saturating_add(whole.len());
        if self.done.bytes > EXPANDED_MAX {
            let message =
                format!("with its values put in, the text is longer than {EXPANDED_MAX} bytes");
            let issue = Issue::error(TOO_LONG, path.clone(), Part::Value, message);
            let mend = "use long values in fewer places";
            self.done.issues.push(issue.mend(mend).at(node.span.clone()));
        }
        if !complete || self.done.issues.len() > before {
            self.done.holes.insert(node.span.start);
            return;
        }
        node.plain = match (found.as_slice(), put_in.as_slice()) {
            // A number stays one, in quotes too: in `{ }` YAML wants them.
            ([Piece::Use(_)], [(_, value)]) => value.plain,
            _ => false,
        };
        if !put_in.is_empty() {
            let is = |(name, value): &(&str, &ParameterValue)| {
                format!("`${{{name}}}` is {}, {}", value.shown(), value.origin.as_str())
            };
            put_in.dedup_by_key(|(name, _)| *name);
            let note: Vec<String> = put_in.iter().take(3).map(is).collect();
            self.done.notes.insert(node.span.start, note.join("; "));
        }
        node.value = Value::Scalar(whole);
    }

    fn unknown(&mut self, name: &str, path: &Path, span: &Range<usize>) {
        // Each costs a search for what was meant.
        if self.done.issues.len() > crate::read::ISSUES_MAX {
            return;
        }
        let known = self.values.values.keys().map(String::as_str);
        let mend = match guess(name, known) {
            Some(meant) => {
                self.done.used.insert(meant.to_owned());
                format!("did you mean `${{{meant}}}`?")
            }
            None => format!(
                "add `{name}` to `parameters`, or write `$${{{name}}}` for these characters themselves"
            ),
        };
        let message = format!("there is no parameter {}", quoted(name));
        let issue = Issue::error(UNKNOWN, path.clone(), Part::Value, message);
        self.done.issues.push(issue.mend(mend).at(span.clone()));
    }

    fn wrong_syntax(&mut self, text: &str, path: &Path, span: &Range<usize>) {
        let message = match text.ends_with('}') {
            true => format!("{} names no parameter", quoted(text)),
            false => format!("{} has no `}}`", quoted(text)),
        };
        let issue = Issue::error(SYNTAX, path.clone(), Part::Value, message);
        let mend = "write `${name}` for a parameter, and `$${` for the characters `${` themselves";
        self.done.issues.push(issue.mend(mend).at(span.clone()));
    }
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'t> {
    /// As it is.
    Text(&'t str),
    /// The parameter of this name.
    Use(&'t str),
    /// Something that begins like a use and is none.
    Wrong(&'t str),
}

impl<'t> Piece<'t> {
    const fn text(self) -> &'t str {
        match self {
            Self::Text(text) | Self::Use(text) | Self::Wrong(text) => text,
        }
    }
}

/// The parts of a text, in order.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            pieces.push(Piece::Text(literal));
            pieces.push(Piece::Text(OPEN));
            rest = from.get(OPEN.len()..).unwrap_or_default();
            continue;
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let Some(end) = from.find('}') else {
            pieces.push(Piece::Wrong(from));
            return pieces;
        };
        let (used, after) = from.split_at(end + 1);
        let name = used.get(OPEN.len()..end).unwrap_or_default();
        pieces.push(match name_syntax(name, Path::default(), Part::Value) {
            None => Piece::Use(name),
            Some(_) => Piece::Wrong(used),
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_its_pieces() {
        use Piece::{Text, Use, Wrong};
        assert_eq!(pieces("plain"), [Text("plain")]);
        assert_eq!(pieces("${a}"), [Use("a")]);
        assert_eq!(pieces("x${a}${b-2}y"), [Text("x"), Use("a"), Use("b-2"), Text("y")]);
        assert_eq!(pieces("$${a}"), [Text(""), Text("${"), Text("a}")]);
        assert_eq!(pieces("$$${a}"), [Text("$"), Text("${"), Text("a}")]);
        assert_eq!(pieces("$ {a} $a {a}"), [Text("$ {a} $a {a}")]);
        for wrong in ["${", "${a", "${}", "${A}", "${a b}", "${a.b}", "${${a}"] {
            assert!(pieces(wrong).iter().any(|p| matches!(p, Wrong(_))), "{wrong}");
        }
    }

    #[test]
    fn types_know_their_values() {
        let all = |kind: ParameterType, right: &[&str], wrong: &[&str]| {
            let is = |text: &&&str| kind.measure(text).is_some();
            assert!(right.iter().all(|text| is(&text)), "{kind:?}");
            assert!(!wrong.iter().any(|text| is(&text)), "{kind:?}");
        };
        all(ParameterType::Text, &["", "a: b"], &[]);
        all(
            ParameterType::Number,
            &["85", "-0.5", "1e3"],
            &["", "1,5", "+1", ".5", "NaN", "1e999"],
        );
        all(ParameterType::Integer, &["85", "-1"], &["8.5", "1e3", "007", "9223372036854775808"]);
        all(ParameterType::Boolean, &["true", "false"], &["yes", "True", ""]);
        all(ParameterType::Duration, &["0s", "30s", "7d"], &["30", "1.5s", "s"]);
        all(ParameterType::Size, &["0", "64MiB"], &["64 MiB", "-1", "MiB"]);
    }

    #[test]
    fn values_are_compared_as_what_they_are() {
        let parameter = |kind, min: &str, max: &str| Parameter {
            kind,
            min: Some(min.to_owned()),
            max: Some(max.to_owned()),
            ..Parameter::default()
        };
        let time = parameter(ParameterType::Duration, "90s", "1h");
        assert_eq!(time.refuses("2m"), None);
        assert_eq!(time.refuses("1m").unwrap(), "must be from 90s to 1h");
        let size = parameter(ParameterType::Size, "1KiB", "1MiB");
        assert_eq!(size.refuses("1024"), None);
        assert!(size.refuses("2MiB").is_some());
        let one = Parameter {
            kind: ParameterType::Number,
            one_of: vec!["1".to_owned(), "2.5".to_owned()],
            ..Parameter::default()
        };
        assert_eq!(one.refuses("1.0"), None);
        assert_eq!(one.refuses("2").unwrap(), "must be one of `1` and `2.5`");
    }
}
