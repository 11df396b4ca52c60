//! Paths of fields, and where in a text they are.

use std::fmt;
use std::ops::Range;

use crate::tree::{Node, Value};

/// The way to a field: `steps.celsius.from[1]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Path {
    pub(crate) fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(|key| Segment::Key(key.to_owned())).collect())
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// A way with dots inside this field, as a settings' error has it; numbers are places in lists.
    pub(crate) fn way(&self, way: &str) -> Self {
        way.split('.').fold(self.clone(), |path, part| match part.parse() {
            Ok(index) => path.index(index),
            Err(_) => path.key(part),
        })
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Whether this is the field `other` or inside it.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The top field that this one is in, or is.
    pub(crate) fn section(&self) -> Option<&str> {
        match self.0.first() {
            Some(Segment::Key(key)) => Some(key),
            _ => None,
        }
    }

    /// The names on the way, without places in lists.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Index(_) => None,
        })
    }

    /// Whether the field is in the binding.
    pub(crate) fn in_binding(&self) -> bool {
        self.section() == Some("binding")
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    let dot = if at == 0 { "" } else { "." };
                    let plain =
                        key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                    match plain && !key.is_empty() {
                        true => write!(f, "{dot}{key}")?,
                        false => write!(f, "{dot}{}", quoted(key))?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// A text of the author's inside a message: shortened, control characters
/// escaped.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

/// Which part of a field a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its name.
    Key,
    /// Its value.
    Value,
    /// The field is not there: what it should be in.
    Missing,
}

/// Where a field is, and the path that leads there. A field that is not there
/// is found in the nearest thing that is.
///
/// A list of one may be written without the list, and a mapping that has only
/// a name as that name: the path of such a field is longer than the way to it.
pub(crate) fn locate(root: &Node, path: &Path, part: Part) -> (Range<usize>, Path) {
    let mut node = root;
    let mut key_span = None;
    let mut found = Path::default();
    let mut complete = true;
    for segment in &path.0 {
        let next = match (segment, &node.value) {
            (Segment::Key(key), Value::Map(entries)) => entries
                .iter()
                .find(|entry| entry.key == *key)
                .map(|entry| (Some(entry.key_span.clone()), &entry.value)),
            // `sources: [a, b]` names its entries without options.
            (Segment::Key(key), Value::List(items)) => items
                .iter()
                .find(|item| matches!(&item.value, Value::Scalar(text) if text == key))
                .map(|item| (Some(item.span.clone()), item)),
            (Segment::Index(0), Value::Map(_) | Value::Scalar(_)) => continue,
            (Segment::Index(index), Value::List(items)) => {
                items.get(*index).map(|item| (None, item))
            }
            _ => None,
        };
        let Some((span, value)) = next else {
            complete = false;
            break;
        };
        key_span = span.or(key_span);
        found.0.push(segment.clone());
        node = value;
    }
    let shown = if part == Part::Missing { path.clone() } else { found };
    let span = match (part, key_span) {
        (Part::Value, _) if complete => node.span.clone(),
        (Part::Value, _) if matches!(node.value, Value::Scalar(_)) => node.span.clone(),
        (_, Some(span)) => span,
        // The document as a whole: its start.
        (_, None) => node.span.start..node.span.start,
    };
    (span, shown)
}
