//! Values as edits have them, and how they are written as YAML.

use std::str::FromStr;

use crate::tree::{self, Node};

use super::EditError;

/// Longest line that a collection is written on; a longer one gets a line for each entry.
const LINE_MAX: usize = 100;

/// Most levels of a collection that is written on one line.
const LINE_DEPTH: usize = 2;

/// A value to put into a definition.
///
/// ```
/// use millrace_pipeline::edit::Value;
///
/// let value: Value = "{ limit: 85, unit: C }".parse()?;
/// assert_eq!(value, Value::Map(vec![
///     ("limit".to_owned(), Value::Literal("85".to_owned())),
///     ("unit".to_owned(), Value::Text("C".to_owned())),
/// ]));
/// # Ok::<(), millrace_pipeline::edit::EditError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, as after `name:` alone.
    Null,
    /// A text. It gets quotes where YAML would read it as something else.
    Text(String),
    /// A number, `true` or `false`, as it is to be written. Anything else is a text.
    Literal(String),
    /// A single value of which only the characters count, as in settings and `config`: where there were quotes there
    /// are some again.
    Word(String),
    /// A list.
    List(Vec<Value>),
    /// A mapping, in the order of its entries.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// What a node of a tree is.
    pub(super) fn of(node: &Node) -> Self {
        match &node.value {
            tree::Value::Null => Self::Null,
            tree::Value::Scalar(text) if node.plain && is_literal(text) => {
                Self::Literal(text.clone())
            }
            tree::Value::Scalar(text) => Self::Text(text.clone()),
            tree::Value::List(items) => Self::List(items.iter().map(Self::of).collect()),
            tree::Value::Map(entries) => {
                Self::Map(entries.iter().map(|e| (e.key.clone(), Self::of(&e.value))).collect())
            }
        }
    }

    /// Whether a node reads as this value. `ordered` says whether the order of entries counts.
    pub(super) fn fits(&self, node: &Node, ordered: bool) -> bool {
        match (self, &node.value) {
            (Self::Null, tree::Value::Null) => true,
            (Self::Text(text), tree::Value::Scalar(is)) => {
                text == is && !(node.plain && is_literal(is))
            }
            (Self::Literal(text), tree::Value::Scalar(is)) => {
                text == is && (node.plain || !is_literal(text))
            }
            (Self::Word(text), tree::Value::Scalar(is)) => text == is,
            (Self::List(items), tree::Value::List(are)) => {
                items.len() == are.len()
                    && items.iter().zip(are).all(|(item, is)| item.fits(is, ordered))
            }
            (Self::Map(entries), tree::Value::Map(are)) => {
                let mut entries: Vec<_> = entries.iter().collect();
                let mut are: Vec<_> = are.iter().collect();
                if !ordered {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                    are.sort_by(|a, b| a.key.cmp(&b.key));
                }
                entries.len() == are.len()
                    && entries
                        .iter()
                        .zip(are)
                        .all(|((key, value), is)| *key == is.key && value.fits(&is.value, ordered))
            }
            _ => false,
        }
    }

    pub(super) fn is_collection(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// How many collections are inside of each other.
    fn depth(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Map(entries) => 1 + entries.iter().map(|(_, v)| v.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// Whether a text with line breaks is in it.
    fn has_lines(&self) -> bool {
        match self {
            Self::Text(text) | Self::Word(text) => text.contains('\n'),
            Self::List(items) => items.iter().any(Self::has_lines),
            Self::Map(entries) => entries.iter().any(|(_, value)| value.has_lines()),
            _ => false,
        }
    }
}

impl FromStr for Value {
    type Err = EditError;

    /// Reads a value as YAML, bounded like a definition. An empty text is the empty text.
    fn from_str(text: &str) -> Result<Self, EditError> {
        if text.trim().is_empty() {
            return Ok(Self::Text(String::new()));
        }
        tree::parse(text)
            .map(|node| Self::of(&node))
            .map_err(|error| EditError::not_yaml(text, &error))
    }
}

impl From<&serde_json::Value> for Value {
    /// A value as JSON has it: a text stays a text, a number a number.
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
                Self::Literal(value.to_string())
            }
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => {
                Self::Map(fields.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        }
    }
}

/// Whether a text without quotes is a number, `true` or `false`.
pub(super) fn is_literal(text: &str) -> bool {
    matches!(text, "true" | "false") || serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// The quotes of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    None,
    Single,
    Double,
}

/// A single value. `wanted` are the quotes of what it replaces.
pub(super) fn scalar(value: &Value, in_flow: bool, wanted: Quotes) -> String {
    let (text, strict) = match value {
        Value::Null => return "null".to_owned(),
        Value::Literal(text) if is_literal(text) => return text.clone(),
        Value::Text(text) | Value::Literal(text) => (text, true),
        Value::Word(text) => (text, false),
        // No single value: its caller asks only for those.
        Value::List(_) | Value::Map(_) => return inline(value, in_flow),
    };
    let bare = if strict { is_bare(text, in_flow) } else { is_bare_word(text, in_flow) };
    match wanted {
        Quotes::None if bare => text.clone(),
        Quotes::Single if !text.chars().any(|c| needs_escape(c) || c == '\n') => {
            format!("'{}'", text.replace('\'', "''"))
        }
        _ => double_quoted(text),
    }
}

/// A name before a colon.
pub(super) fn key(text: &str, in_flow: bool, wanted: Quotes) -> String {
    if wanted == Quotes::None && is_bare(text, in_flow) && !text.contains(':') {
        return text.to_owned();
    }
    scalar(
        &Value::Text(text.to_owned()),
        in_flow,
        if wanted == Quotes::Single { wanted } else { Quotes::Double },
    )
}

/// Whether a text without quotes is read as this text, by this reader and by others.
fn is_bare(text: &str, in_flow: bool) -> bool {
    is_bare_word(text, in_flow) && !is_literal(text)
}

/// Whether a text without quotes has the same characters: a number may be one.
fn is_bare_word(text: &str, in_flow: bool) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let last = text.chars().next_back();
    let blank = |c: Option<char>| c.is_some_and(char::is_whitespace);
    let lower = text.to_ascii_lowercase();
    let other_word = matches!(
        lower.as_str(),
        "null" | "~" | "yes" | "no" | "on" | "off" | "y" | "n" | "true" | "false"
    ) && !matches!(text, "true" | "false");
    !blank(Some(first))
        && !blank(last)
        && !other_word
        && (is_literal(text) || !looks_like_number(&lower))
        && (is_literal(text) || !"-?:,[]{}#&*!|>'\"%@`=<".contains(first))
        && !text.starts_with("...")
        && last != Some(':')
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(|c| needs_escape(c) || c == '\n')
        && !(in_flow && text.contains([',', '[', ']', '{', '}', ':', '"', '\'', '#']))
}

/// Whether another reader of YAML might take it for a number or a time of day.
fn looks_like_number(lower: &str) -> bool {
    let bare = lower.trim_start_matches(['+', '-', '.']);
    let digits = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b':'))
    };
    lower.parse::<f64>().is_ok()
        || digits(bare)
        || matches!(bare, "inf" | "nan")
        || ["0x", "0o", "0b"].iter().any(|mark| bare.starts_with(mark))
}

/// Whether a character stands in a text only as an escape.
fn needs_escape(c: char) -> bool {
    c != '\n'
        && (c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'))
}

fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if needs_escape(c) => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value on one line.
pub(super) fn inline(value: &Value, in_flow: bool) -> String {
    match value {
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| inline(item, true)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Map(entries) => {
            let entries: Vec<String> = entries.iter().map(|(k, v)| inline_entry(k, v)).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        single => scalar(single, in_flow, Quotes::None),
    }
}

/// An entry of a mapping that is on one line.
pub(super) fn inline_entry(name: &str, value: &Value) -> String {
    format!("{}: {}", key(name, true, Quotes::None), inline(value, true))
}

/// Whether a value is written on the line that it begins on, from this column on.
pub(super) fn is_inline(value: &Value, column: usize) -> bool {
    match value {
        Value::List(_) | Value::Map(_) => {
            value.is_empty()
                || value.depth() <= LINE_DEPTH
                    && !value.has_lines()
                    && column + inline(value, false).chars().count() <= LINE_MAX
        }
        Value::Text(text) | Value::Word(text) => literal_lines(text).is_none(),
        _ => true,
    }
}

/// The mark and the lines of a text that is written as it is, with its line breaks. Nothing where that cannot be.
fn literal_lines(text: &str) -> Option<(&'static str, Vec<&str>)> {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let fits = body.contains('\n')
        && !body.starts_with([' ', '\n', '\t'])
        && !body.ends_with('\n')
        && !text.chars().any(needs_escape)
        && body.lines().all(|line| line == line.trim_end());
    let mark = if body.len() == text.len() { "|-" } else { "|" };
    fits.then(|| (mark, body.split('\n').collect()))
}

/// How a value is written below others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Columns of one level.
    pub(super) step: usize,
    /// Whether the value itself gets lines of its own, even if it is short.
    pub(super) open: bool,
}

impl Style {
    fn inner(self) -> Self {
        Self { open: false, ..self }
    }

    fn is_inline(self, value: &Value, column: usize) -> bool {
        let open = self.open && value.is_collection() && !value.is_empty();
        !open && is_inline(value, column)
    }
}

/// An entry that begins at this column, without the blanks before its first line.
pub(super) fn entry(name: &str, value: &Value, column: usize, style: Style) -> String {
    let name = key(name, false, Quotes::None);
    if matches!(value, Value::Null) {
        return format!("{name}:");
    }
    let (same, below) = after_mark(value, column, column + name.chars().count() + 2, style);
    if same.is_empty() { format!("{name}:{below}") } else { format!("{name}: {same}{below}") }
}

/// What stands on the line of a name or dash, and what on the lines below.
pub(super) fn after_mark(
    value: &Value,
    column: usize,
    from: usize,
    style: Style,
) -> (String, String) {
    if style.is_inline(value, from) {
        return (inline(value, false), String::new());
    }
    let inner = column + style.step;
    let indent = " ".repeat(inner);
    match value {
        Value::Text(text) | Value::Word(text) => match literal_lines(text) {
            Some((mark, lines)) => {
                let lines = lines.into_iter().map(|line| match line {
                    "" => "\n".to_owned(),
                    line => format!("\n{indent}{line}"),
                });
                (mark.to_owned(), lines.collect())
            }
            None => (inline(value, false), String::new()),
        },
        _ => (String::new(), format!("\n{indent}{}", block(value, inner, style.inner()))),
    }
}

/// A collection with a line for each entry, beginning at this column, without the blanks before its first line.
pub(super) fn block(value: &Value, column: usize, style: Style) -> String {
    let pieces: Vec<String> = match value {
        Value::Map(entries) if !entries.is_empty() => {
            entries.iter().map(|(name, value)| entry(name, value, column, style)).collect()
        }
        Value::List(items) if !items.is_empty() => {
            items.iter().map(|value| item(value, column, style)).collect()
        }
        other => return inline(other, false),
    };
    pieces.join(&format!("\n{}", " ".repeat(column)))
}

/// An item with its dash at this column.
pub(super) fn item(value: &Value, column: usize, style: Style) -> String {
    if value.is_collection() && !style.is_inline(value, column + 2) {
        return format!("- {}", block(value, column + 2, style.inner()));
    }
    let (same, below) = after_mark(value, column, column + 2, style);
    format!("- {same}{below}")
}

/// A value inside of braces, with the quotes of what it replaces.
pub(super) fn inline_or_scalar(value: &Value, in_flow: bool, wanted: Quotes) -> String {
    match value.is_collection() {
        true => inline(value, in_flow),
        false => scalar(value, in_flow, wanted),
    }
}
