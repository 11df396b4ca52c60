//! YAML text to a tree that knows where each node stands in the text.
//!
//! The text comes from anyone, so everything is bounded: its length, depth
//! and number of nodes. Aliases are refused, which also rules out a short text
//! that expands without end.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// Longest definition, in bytes.
pub const TEXT_MAX: usize = 1 << 20;

/// Deepest nesting; the language itself needs seven levels, and a
/// payload of a test has its own.
const DEPTH_MAX: usize = 24;

/// Most nodes in one definition.
const NODES_MAX: usize = 200_000;

/// A value and its place, in bytes from the start of the text.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
    /// Whether it is a single value without quotes.
    pub(crate) plain: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing after the colon, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: Node,
}

impl Node {
    /// What the value is, in an author's words.
    pub(crate) fn what(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Why a text has no tree.
#[derive(Debug)]
pub(crate) struct TreeError {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) mend: Option<&'static str>,
}

fn error(span: Range<usize>, message: impl Into<String>, mend: Option<&'static str>) -> TreeError {
    TreeError { span, message: message.into(), mend }
}

/// A mapping or list whose end has not come yet.
struct Open {
    node: Node,
    /// The key whose value is awaited.
    key: Option<(String, Range<usize>)>,
}

/// Reads the one document of a text.
pub(crate) fn parse(text: &str) -> Result<Node, TreeError> {
    if text.len() > TEXT_MAX {
        let message =
            format!("a definition is at most {TEXT_MAX} bytes long, this one has {}", text.len());
        return Err(error(0..0, message, None));
    }
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        disallow_directives: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| {
            let at = e.marker().byte_offset().unwrap_or(text.len()).min(text.len());
            error(at..at, format!("this is not YAML: {}", e.info()), in_braces(text, at))
        })?;
        builder.take(event, place(text, span))?;
    }
    builder.root.ok_or_else(|| {
        error(0..0, "the definition is empty", Some("start with `millrace: v1alpha1`"))
    })
}

/// What may mend a text that cannot be read: YAML takes the braces of a parameter for its own inside of others.
fn in_braces(text: &str, at: usize) -> Option<&'static str> {
    let before = text.get(..=at).unwrap_or(text);
    let line = before.rsplit('\n').next()?;
    let open = line.rfind("${")?;
    let quoted = line.get(..open)?.ends_with(['"', '\'']);
    (!quoted).then_some("write \"${name}\" in quotes where it is inside of { } or [ ]")
}

/// A span as a range of the text, without the line breaks and blanks that end
/// it.
fn place(text: &str, span: Span) -> Range<usize> {
    let range = span.byte_range().unwrap_or_default();
    let end = range.end.min(text.len());
    let start = range.start.min(end);
    let shown = text.get(start..end).unwrap_or_default().trim_end().len();
    start..start + shown
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), TreeError> {
        match event {
            Event::Scalar(text, style, _, tag) => {
                no_tag(tag.is_some(), &span)?;
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.put(Node { span, value, plain })
            }
            Event::SequenceStart(_, _, tag) => {
                no_tag(tag.is_some(), &span)?;
                self.enter(Node { span, value: Value::List(Vec::new()), plain: false })
            }
            Event::MappingStart(_, _, tag) => {
                no_tag(tag.is_some(), &span)?;
                self.enter(Node { span, value: Value::Map(Vec::new()), plain: false })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { mut node, .. }) => {
                    node.span.end = span.end.max(node.span.end);
                    self.put(node)
                }
                None => Ok(()),
            },
            Event::Alias(_) | Event::UnresolvedAlias(_) => Err(error(
                span,
                "aliases are not part of the language",
                Some("write the value out where it is needed"),
            )),
            Event::DocumentStart(..) if self.root.is_some() => Err(error(
                span,
                "a file holds one definition",
                Some("put the second one into a file of its own"),
            )),
            _ => Ok(()),
        }
    }

    fn enter(&mut self, node: Node) -> Result<(), TreeError> {
        self.count(&node)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(error(node.span, format!("nested deeper than {DEPTH_MAX} levels"), None));
        }
        if let Some(Open { node: Node { value: Value::Map(_), .. }, key: None }) = self.open.last()
        {
            return Err(error(node.span, "a name must be a single value", None));
        }
        self.open.push(Open { node, key: None });
        Ok(())
    }

    /// A node is complete: it is a key, a value or the document itself.
    fn put(&mut self, node: Node) -> Result<(), TreeError> {
        if matches!(node.value, Value::Scalar(_) | Value::Null) {
            self.count(&node)?;
        }
        let Some(Open { node: parent, key }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut parent.value, key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((key, key_span))) => {
                entries.push(Entry { key, key_span, value: node })
            }
            (Value::Map(_), None) => match node.value {
                Value::Scalar(text) => *key = Some((text, node.span)),
                _ => return Err(error(node.span, "a name is missing before the colon", None)),
            },
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, node: &Node) -> Result<(), TreeError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(error(node.span.clone(), format!("more than {NODES_MAX} values"), None));
        }
        Ok(())
    }
}

fn no_tag(tagged: bool, span: &Range<usize>) -> Result<(), TreeError> {
    if tagged {
        return Err(error(
            span.clone(),
            "tags are not part of the language",
            Some("leave the !tag out"),
        ));
    }
    Ok(())
}
