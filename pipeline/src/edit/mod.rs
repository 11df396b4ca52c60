//! Changing the text of a definition and nothing else of it.
//!
//! The text is the truth: an edit is a smallest change of it. Comments, blank lines, quotes, the order of entries, line
//! ends and indentation of everything that is not concerned stay byte for byte, and what is new looks like what is
//! around it. After each edit the text is read again, and has to give what was meant and all other comments; if it
//! does not, the edit is refused and the text is as before.
//!
//! ```
//! use millrace_pipeline::edit::{Editor, Value};
//!
//! let text = "\
//! millrace: v1alpha1
//! pipeline: alerts
//! version: 0.1.0
//! sources: [machine]
//! steps:
//!   too-hot: # in Celsius
//!     filter: above-limit
//!     from: machine
//!     config: { limit: 85 }
//! sinks:
//!   alerts: { from: too-hot }
//! ";
//! let mut editor = Editor::new(text)?;
//! editor.set("steps.too-hot.config.limit", &Value::Literal("90".to_owned()))?;
//! editor.rename_node("too-hot", "hot")?;
//! editor.set_durable("hot", "alerts", Some(&Value::Literal("true".to_owned())))?;
//! assert!(editor.text().contains("  hot: # in Celsius\n"));
//! assert!(editor.text().contains("config: { limit: 90 }\n"));
//! assert!(editor.text().contains("alerts: { from: { name: hot, durable: true } }\n"));
//! # Ok::<(), millrace_pipeline::edit::EditError>(())
//! ```

mod graph;
mod model;
mod page;
mod value;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::finding::Lines;
use crate::locate;
use crate::model::Pipeline;
use crate::tree::{self, Node, TEXT_MAX, TreeError, Value as Tree};

pub use model::write;
pub use value::Value;

use page::{Child, Page, Patch, children, comments};
use value::{Quotes, Style};

/// Most text that the changes of one edit read anew, in bytes.
const WORK_MAX: usize = 256 * TEXT_MAX;

/// How many names that are gone are held against a new one.
const RENAMED_MAX: usize = 64;

/// Deepest value that is taken.
const DEPTH_MAX: usize = 24;

/// Why a text was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text or value is not YAML, or not such as definitions are.
    #[error("line {line}, column {column}: {message}")]
    NotYaml {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The path is no path.
    #[error(
        "`{path}` is no path of a field: write names with dots between them, such as steps.too-hot.config.limit, and [0] for an item"
    )]
    Path {
        /// The path as it was given.
        path: String,
    },
    /// There is nothing at the path.
    #[error("there is no `{path}`")]
    NotThere {
        /// The path.
        path: String,
    },
    /// There is something at the path already.
    #[error("there is `{path}` already")]
    Exists {
        /// The path.
        path: String,
    },
    /// A path goes on inside of something that has no fields, or no such items.
    #[error("`{path}` is {found}, and has no `{field}` inside")]
    NotInside {
        /// The path of what is there.
        path: String,
        /// What it is.
        found: &'static str,
        /// What was looked for in it.
        field: String,
    },
    /// A name that no source, step or sink can have.
    #[error(
        "`{name}` cannot be a name: it has lower-case letters, digits and hyphens, a letter first, 40 at most"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The text is written in a way that cannot be changed in place.
    #[error("`{path}` cannot be changed where it stands: {why}; change it by hand")]
    Unsupported {
        /// The path.
        path: String,
        /// What is in the way.
        why: &'static str,
    },
    /// The changed text did not read as it was meant.
    #[error(
        "the change of `{path}` would have changed something else too, so nothing was changed: {why}; change it by hand"
    )]
    NotAsMeant {
        /// The path.
        path: String,
        /// What would have been different.
        why: String,
    },
    /// The edit is made of too many changes for a text of this length.
    #[error("these are too many changes for one edit: make them in several")]
    TooMany,
}

impl EditError {
    fn not_yaml(text: &str, error: &TreeError) -> Self {
        let at = Lines::new(text).location("", &error.span);
        let message = match error.mend {
            Some(mend) => format!("{} ({mend})", error.message),
            None => error.message.clone(),
        };
        Self::NotYaml { line: at.line, column: at.column, message }
    }
}

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

type Path = Vec<Segment>;

/// A path out of names.
fn keys<'a>(names: impl IntoIterator<Item = &'a str>) -> Path {
    names.into_iter().map(|name| Segment::Key(name.to_owned())).collect()
}

fn below(path: &[Segment], segment: Segment) -> Path {
    path.iter().cloned().chain(std::iter::once(segment)).collect()
}

fn below_key(path: &[Segment], key: &str) -> Path {
    below(path, Segment::Key(key.to_owned()))
}

fn shown(path: &[Segment]) -> String {
    let start = locate::Path::default();
    path.iter()
        .fold(start, |path, segment| match segment {
            Segment::Key(key) => path.key(key),
            Segment::Index(index) => path.index(*index),
        })
        .to_string()
}

/// Reads `steps.too-hot.from[1]`; a name with other characters stands between backticks or double quotes.
fn path_of(text: &str) -> Result<Path, EditError> {
    let wrong = || EditError::Path { path: text.chars().take(200).collect() };
    let mut path = Path::new();
    let mut rest = text;
    loop {
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '`' | '"')) {
            let inside = rest.get(1..).ok_or_else(wrong)?;
            let (name, behind) = inside.split_once(quote).ok_or_else(wrong)?;
            path.push(Segment::Key(name.to_owned()));
            rest = behind;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end).ok_or_else(wrong)?;
            if name.is_empty() {
                return Err(wrong());
            }
            path.push(Segment::Key(name.to_owned()));
            rest = behind;
        }
        while let Some(inside) = rest.strip_prefix('[') {
            let (index, behind) = inside.split_once(']').ok_or_else(wrong)?;
            path.push(Segment::Index(index.parse().map_err(|_| wrong())?));
            rest = behind;
        }
        if rest.is_empty() {
            return Ok(path);
        }
        rest = rest.strip_prefix('.').ok_or_else(wrong)?;
        if path.len() > DEPTH_MAX {
            return Err(wrong());
        }
    }
}

/// Whether the order of the entries in a value counts: `config` becomes the JSON text that a component gets.
fn is_ordered(path: &[Segment]) -> bool {
    matches!(path, [Segment::Key(steps), _, Segment::Key(config), ..] if steps == "steps" && config == "config")
}

/// A place in the tree.
#[derive(Clone, Copy)]
struct Spot<'t> {
    node: &'t Node,
    /// What it is in, and where there; nothing for the whole.
    parent: Option<(&'t Node, usize)>,
    /// Whether it is inside of braces or brackets.
    in_flow: bool,
}

/// The text of a definition, and of a binding or tests in a file of their own, with the edits made so far.
#[derive(Debug, Clone)]
pub struct Editor {
    text: String,
    tree: Node,
    comments: Vec<Range<usize>>,
    /// How much text the edit has read anew.
    work: usize,
}

impl Editor {
    /// Reads a text.
    ///
    /// # Errors
    ///
    /// When it is not YAML, or has what definitions have not: aliases, tags, several documents.
    pub fn new(text: impl Into<String>) -> Result<Self, EditError> {
        let text = text.into();
        let tree = tree::parse(&text).map_err(|error| EditError::not_yaml(&text, &error))?;
        let comments = comments(&text, &tree);
        Ok(Self { text, tree, comments, work: 0 })
    }

    /// The text as it is now.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is at a path, or nothing.
    ///
    /// # Errors
    ///
    /// When the path is none.
    pub fn get(&self, path: &str) -> Result<Option<Value>, EditError> {
        let path = path_of(path)?;
        Ok(self.spot(&path).map(|spot| Value::of(spot.node)))
    }

    /// Gives a field a value. What it is in is made when it is not there. Of a mapping or list that is there already only
    /// what differs is changed.
    ///
    /// # Errors
    ///
    /// When that cannot be done; the text is as before then.
    pub fn set(&mut self, path: &str, value: &Value) -> Result<(), EditError> {
        let path = path_of(path)?;
        self.edit(|editor| editor.put(&path, value))
    }

    /// Takes out a field or item, with the comments that belong to it: those directly above and those at its line's end.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be taken out; the text is as before then.
    pub fn remove(&mut self, path: &str) -> Result<(), EditError> {
        let path = path_of(path)?;
        self.edit(|editor| editor.take(&path))
    }

    /// Gives a field another name. Nothing else that has the old name is changed: for sources, steps and sinks there is
    /// [`Editor::rename_node`].
    ///
    /// # Errors
    ///
    /// When it is not there, or the name is taken; the text is as before then.
    pub fn rename(&mut self, path: &str, name: &str) -> Result<(), EditError> {
        let path = path_of(path)?;
        self.edit(|editor| editor.rename_key(&path, name))
    }

    /// Puts an item into a list, before the one at this place, or at the end.
    ///
    /// # Errors
    ///
    /// When there is no list, or it is shorter; the text is as before then.
    pub fn insert(
        &mut self,
        path: &str,
        at: Option<usize>,
        value: &Value,
    ) -> Result<(), EditError> {
        let path = path_of(path)?;
        self.edit(|editor| {
            let list = editor.spot(&path).ok_or(EditError::NotThere { path: shown(&path) })?;
            let length = children(list.node);
            editor.insert_item(&path, at.unwrap_or(length), value)
        })
    }

    /// Does something wholly or not at all.
    fn edit(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), EditError>,
    ) -> Result<(), EditError> {
        let mut changed = self.clone();
        changed.work = 0;
        change(&mut changed)?;
        *self = changed;
        Ok(())
    }

    fn page(&self) -> Page<'_> {
        Page { text: &self.text, comments: &self.comments }
    }

    fn spot(&self, path: &[Segment]) -> Option<Spot<'_>> {
        let page = self.page();
        let mut spot = Spot { node: &self.tree, parent: None, in_flow: false };
        for segment in path {
            let index = match (segment, &spot.node.value) {
                (Segment::Key(key), Tree::Map(entries)) => {
                    entries.iter().position(|e| e.key == *key)?
                }
                (Segment::Index(index), Tree::List(_)) => *index,
                _ => return None,
            };
            let in_flow = spot.in_flow || page.is_flow(spot.node);
            let child = Child::of(spot.node, index)?;
            spot = Spot { node: child.node(), parent: Some((spot.node, index)), in_flow };
        }
        Some(spot)
    }

    fn need(&self, path: &[Segment]) -> Result<Spot<'_>, EditError> {
        self.spot(path).ok_or_else(|| EditError::NotThere { path: shown(path) })
    }

    /// Columns of one level, as the text has them.
    fn step(&self) -> usize {
        let page = self.page();
        let Tree::Map(entries) = &self.tree.value else { return 2 };
        let inside = entries.iter().filter(|e| page.is_block(&e.value));
        inside
            .filter_map(|entry| match &entry.value.value {
                Tree::Map(_) => Some(page.column(entry.value.span.start)),
                _ => None,
            })
            .find(|step| (1..=8).contains(step))
            .unwrap_or(2)
    }

    /// Makes a change and reads the text again: it has to be what was meant, and to have all other comments.
    fn commit(
        &mut self,
        path: &[Segment],
        mut patches: Vec<Patch>,
        meant: impl FnOnce(&mut Value) -> Option<()>,
    ) -> Result<(), EditError> {
        let refuse = |why: String| EditError::NotAsMeant { path: shown(path), why };
        let mut value = Value::of(&self.tree);
        meant(&mut value).ok_or_else(|| EditError::NotThere { path: shown(path) })?;
        patches.sort_by_key(|patch| (patch.at.start, patch.at.end));
        let mut text = String::with_capacity(self.text.len() + 64);
        let mut from = 0;
        for Patch { at, text: new, .. } in &patches {
            let kept = self.text.get(from..at.start);
            text.push_str(
                kept.ok_or_else(|| refuse("its parts lie across each other".to_owned()))?,
            );
            let ends = self.page().line_break(at.start);
            match ends {
                "\n" => text.push_str(new),
                ends => text.push_str(&new.replace('\n', ends)),
            }
            from = at.end;
        }
        text.push_str(self.text.get(from..).unwrap_or_default());
        self.work += text.len() + 1024;
        if self.work > WORK_MAX {
            return Err(EditError::TooMany);
        }
        let tree = tree::parse(&text)
            .map_err(|error| refuse(EditError::not_yaml(&text, &error).to_string()))?;
        if !value.fits(&tree, true) {
            return Err(refuse("it would read as something else".to_owned()));
        }
        let now = comments(&text, &tree);
        let dropped = |comment: &Range<usize>| {
            patches.iter().any(|patch| patch.drops && patch.at.contains(&comment.start))
        };
        let kept = self.comments.iter().filter(|comment| !dropped(comment));
        let kept = kept.map(|comment| self.text.get(comment.clone()));
        if !kept.eq(now.iter().map(|comment| text.get(comment.clone()))) {
            return Err(refuse("a comment of something else would be lost".to_owned()));
        }
        (self.text, self.tree, self.comments) = (text, tree, now);
        Ok(())
    }

    /// Makes the field at a path have a value, with what it is in.
    fn put(&mut self, path: &[Segment], value: &Value) -> Result<(), EditError> {
        bounded(value, DEPTH_MAX)?;
        if self.spot(path).is_some() {
            return self.reconcile(path, value);
        }
        // The longest part of the way that is there.
        let there =
            (0..path.len()).rev().find(|n| path.get(..*n).is_some_and(|p| self.spot(p).is_some()));
        let there = there.unwrap_or(0);
        let (inside, missing) = path.split_at_checked(there).unwrap_or((path, &[]));
        let Some((first, rest)) = missing.split_first() else { return Ok(()) };
        let mut value = value.clone();
        for segment in rest.iter().rev() {
            value = match segment {
                Segment::Key(key) => Value::Map(vec![(key.clone(), value)]),
                Segment::Index(0) => Value::List(vec![value]),
                Segment::Index(_) => return Err(EditError::NotThere { path: shown(path) }),
            };
        }
        let spot = self.need(inside)?;
        let not_inside = |field: &Segment| EditError::NotInside {
            path: shown(inside),
            found: spot.node.what(),
            field: shown(std::slice::from_ref(field)),
        };
        match (first, &spot.node.value) {
            (Segment::Key(key), Tree::Map(_)) => {
                let behind = self.place_of(inside, key);
                self.insert_entry(inside, key, &value, behind)
            }
            (Segment::Key(key), Tree::Null) => {
                self.replace(inside, &Value::Map(vec![(key.clone(), value)]), false)
            }
            // `sources: [a, b]` has names without options.
            (Segment::Key(_), Tree::List(_)) if *inside == keys(["sources"]) => {
                self.names_to_entries(inside)?;
                self.put(path, &descend(value, rest))
            }
            (Segment::Index(index), Tree::List(items)) if *index == items.len() => {
                self.insert_item(inside, *index, &value)
            }
            (Segment::Index(0), Tree::Null) => {
                self.replace(inside, &Value::List(vec![value]), false)
            }
            (field, _) => Err(not_inside(field)),
        }
    }

    /// The entry that a new one comes behind: at the top the fields have an order.
    fn place_of(&self, path: &[Segment], key: &str) -> Option<usize> {
        let entries = match self.spot(path).map(|spot| &spot.node.value) {
            Some(Tree::Map(entries)) => entries,
            _ => return None,
        };
        let last = entries.len().checked_sub(1);
        if !path.is_empty() {
            return last;
        }
        let Some(own) = Pipeline::FIELDS.iter().position(|name| *name == key) else { return last };
        let before = Pipeline::FIELDS.get(..own).unwrap_or_default();
        entries.iter().rposition(|entry| before.contains(&entry.key.as_str())).or(last)
    }

    /// Changes what differs between what is there and a value.
    fn reconcile(&mut self, path: &[Segment], value: &Value) -> Result<(), EditError> {
        let ordered = is_ordered(path);
        let node = self.need(path)?.node;
        if value.fits(node, ordered) {
            return Ok(());
        }
        match (&node.value, value) {
            (Tree::Map(old), Value::Map(new)) if !old.is_empty() && !new.is_empty() => {
                let old: Vec<String> = old.iter().map(|entry| entry.key.clone()).collect();
                let known: BTreeSet<&String> = old.iter().collect();
                let wanted: BTreeSet<&String> = new.iter().map(|(key, _)| key).collect();
                if known.len() < old.len() || wanted.len() < new.len() {
                    let why = "a name is there twice";
                    return Err(EditError::Unsupported { path: shown(path), why });
                }
                let kept: Vec<&String> = old.iter().filter(|key| wanted.contains(key)).collect();
                let first: Vec<&String> = new.iter().map(|(key, _)| key).take(kept.len()).collect();
                if ordered && kept != first || kept.is_empty() && path.is_empty() {
                    return self.replace(path, value, true);
                }
                self.reconcile_entries(path, &old, new)
            }
            (Tree::List(old), Value::List(new)) if !old.is_empty() && !new.is_empty() => {
                let same = |a: &Value, b: &Node| a.fits(b, ordered);
                let head = new.iter().zip(old).take_while(|(a, b)| same(a, b)).count();
                let rest = old.len().min(new.len()) - head;
                let tail = new
                    .iter()
                    .rev()
                    .zip(old.iter().rev())
                    .take(rest)
                    .take_while(|(a, b)| same(a, b));
                let tail = tail.count();
                let (were, are) = (old.len() - head - tail, new.len() - head - tail);
                for index in (head + are.min(were)..head + were).rev() {
                    self.remove_child(path, index)?;
                }
                for (index, value) in new.iter().enumerate().skip(head).take(are) {
                    match index < head + were {
                        true => self.reconcile(&below(path, Segment::Index(index)), value)?,
                        false => self.insert_item(path, index, value)?,
                    }
                }
                Ok(())
            }
            _ => self.replace(path, value, true),
        }
    }

    fn reconcile_entries(
        &mut self,
        path: &[Segment],
        old: &[String],
        new: &[(String, Value)],
    ) -> Result<(), EditError> {
        let known: BTreeSet<&String> = old.iter().collect();
        let wanted: BTreeSet<&String> = new.iter().map(|(key, _)| key).collect();
        let mut gone: Vec<&String> = old.iter().filter(|key| !wanted.contains(key)).collect();
        for (key, value) in new.iter().filter(|(key, _)| !known.contains(key)) {
            // The same thing with another name keeps its place.
            let renamed = gone.iter().take(RENAMED_MAX).position(|gone| {
                let spot = self.spot(&below_key(path, gone));
                spot.is_some_and(|spot| value.fits(spot.node, is_ordered(path)))
            });
            match renamed {
                Some(at) => {
                    let gone = gone.remove(at);
                    self.rename_key(&below_key(path, gone), key)?;
                }
                None => {
                    let behind = self.place_of(path, key);
                    self.insert_entry(path, key, value, behind)?;
                }
            }
        }
        for key in gone {
            self.take(&below_key(path, key))?;
        }
        for (key, value) in new.iter().filter(|(key, _)| known.contains(key)) {
            self.reconcile(&below_key(path, key), value)?;
        }
        Ok(())
    }

    /// Takes out an entry or item by its path.
    fn take(&mut self, path: &[Segment]) -> Result<(), EditError> {
        let spot = self.need(path)?;
        let index = spot.parent.map(|(_, index)| index);
        match (path.split_last(), index) {
            (Some((_, parent)), Some(index)) => self.remove_child(parent, index),
            _ => {
                Err(EditError::Unsupported { path: shown(path), why: "it is the whole definition" })
            }
        }
    }

    fn remove_child(&mut self, parent: &[Segment], index: usize) -> Result<(), EditError> {
        let page = self.page();
        let spot = self.need(parent)?;
        let node = spot.node;
        let unsupported = |why| EditError::Unsupported { path: shown(parent), why };
        let child =
            Child::of(node, index).ok_or_else(|| EditError::NotThere { path: shown(parent) })?;
        let in_flow = spot.in_flow || page.is_flow(node);
        let start = page.child_start(child, in_flow);
        let start = start.ok_or_else(|| unsupported("an entry is written in an unusual way"))?;
        let end = page.child_end(child);
        let count = children(node);
        let next = Child::of(node, index + 1).and_then(|next| page.child_start(next, in_flow));
        let before = index.checked_sub(1).and_then(|index| Child::of(node, index));
        let before = before.map(|before| page.child_end(before));
        let patches = if in_flow {
            flow_removal(page, node, start..end, before, next)
        } else if count == 1 {
            let Some((holder, at)) = spot.parent else {
                return Err(unsupported("it is the only field of the definition"));
            };
            let empty = if matches!(node.value, Tree::Map(_)) { "{}" } else { "[]" };
            match Child::of(holder, at) {
                Some(Child::Entry(entry)) if page.is_first(start) => {
                    let colon =
                        page.colon(entry).ok_or_else(|| unsupported("there is no colon"))?;
                    // What is left has no lines around it that could be one too many.
                    let lines =
                        page.with_comments_above(start)..page.behind(end, page.column(start));
                    let lines = lines.start.max(page.next_line(colon))..lines.end;
                    vec![Patch::insert(colon + 1, format!(" {empty}")), Patch::drop(lines)]
                }
                _ => {
                    let until = page.trimmed(page.behind(end, page.column(start))).max(end);
                    vec![Patch { at: start..until, text: empty.to_owned(), drops: true }]
                }
            }
        } else if page.is_first(start) {
            let lines = page.lines_of(start, end);
            // Below the name of them all there is no blank line that was not there before.
            let until = if index == 0 { page.next_text(lines.end) } else { lines.end };
            vec![Patch::drop(lines.start..until)]
        } else {
            // The first one behind a dash: the next takes its place.
            let line = page.next_line(end);
            let rest = page.text.get(line..).unwrap_or_default();
            vec![Patch::drop(start..line + (rest.len() - rest.trim_start().len()))]
        };
        let parent = parent.to_vec();
        self.commit(&parent, patches, |value| match at(value, &parent)? {
            Value::Map(entries) => (index < entries.len()).then(|| drop(entries.remove(index))),
            Value::List(items) => (index < items.len()).then(|| drop(items.remove(index))),
            _ => None,
        })
    }

    fn rename_key(&mut self, path: &[Segment], name: &str) -> Result<(), EditError> {
        let spot = self.need(path)?;
        let (Some((parent, index)), Some((_, above))) = (spot.parent, path.split_last()) else {
            return Err(EditError::NotThere { path: shown(path) });
        };
        let Some(Child::Entry(entry)) = Child::of(parent, index) else {
            return Err(EditError::Unsupported { path: shown(path), why: "an item has no name" });
        };
        if entry.key == name {
            return Ok(());
        }
        let new = below_key(above, name);
        if self.spot(&new).is_some() {
            return Err(EditError::Exists { path: shown(&new) });
        }
        let patch = self.page().renamed(entry, name, spot.in_flow);
        let above = above.to_vec();
        self.commit(path, vec![patch], |value| match at(value, &above)? {
            Value::Map(entries) => {
                entries.get_mut(index)?.0 = name.to_owned();
                Some(())
            }
            _ => None,
        })
    }

    /// `[a, b]` as a mapping from these names to nothing.
    fn names_to_entries(&mut self, path: &[Segment]) -> Result<(), EditError> {
        let page = self.page();
        let spot = self.need(path)?;
        let Tree::List(items) = &spot.node.value else { return Ok(()) };
        let names = items.iter().map(|item| match &item.value {
            Tree::Scalar(text) => Ok(text.clone()),
            _ => Err(EditError::Unsupported { path: shown(path), why: "it is no list of names" }),
        });
        let names = names.collect::<Result<Vec<String>, EditError>>()?;
        let entries: Vec<_> = names.iter().map(|name| (name.clone(), Value::Null)).collect();
        if page.is_flow(spot.node) {
            let empty =
                entries.into_iter().map(|(name, _)| (name, Value::Map(Vec::new()))).collect();
            return self.replace(path, &Value::Map(empty), false);
        }
        let mut patches = Vec::new();
        for (item, name) in items.iter().zip(&names) {
            let dash = page.dash(item).filter(|dash| page.is_first(*dash));
            let dash = dash
                .ok_or(EditError::Unsupported { path: shown(path), why: "an item has no dash" })?;
            let name = value::key(name, false, Quotes::None);
            patches.push(Patch::replace(dash..item.span.end, format!("{name}:")));
            // Entries are further to the right than the name that they are below of.
            if page.column(dash) == 0 {
                patches.push(Patch::insert(dash, " ".repeat(self.step())));
            }
        }
        let path = path.to_vec();
        self.commit(&path, patches, |value| {
            *at(value, &path)? = Value::Map(entries);
            Some(())
        })
    }

    fn insert_entry(
        &mut self,
        parent: &[Segment],
        name: &str,
        new: &Value,
        behind: Option<usize>,
    ) -> Result<(), EditError> {
        let spot = self.need(parent)?;
        let Tree::Map(entries) = &spot.node.value else {
            return Err(EditError::NotThere { path: shown(parent) });
        };
        if entries.iter().any(|entry| entry.key == name) {
            return Err(EditError::Exists { path: shown(&below_key(parent, name)) });
        }
        let Some(behind) = behind.filter(|index| *index < entries.len()) else {
            // The first one of an empty mapping.
            return self.replace(parent, &Value::Map(vec![(name.to_owned(), new.clone())]), false);
        };
        let patches = self.insertion(parent, behind, New::Entry(name, new))?;
        let (parent, name, new) = (parent.to_vec(), name.to_owned(), new.clone());
        self.commit(&below_key(&parent, &name), patches, |value| match at(value, &parent)? {
            Value::Map(entries) => {
                entries.insert(behind + 1, (name.clone(), new));
                Some(())
            }
            _ => None,
        })
    }

    fn insert_item(
        &mut self,
        parent: &[Segment],
        index: usize,
        new: &Value,
    ) -> Result<(), EditError> {
        bounded(new, DEPTH_MAX)?;
        let spot = self.need(parent)?;
        let length = match &spot.node.value {
            Tree::List(items) => items.len(),
            _ => {
                return Err(EditError::NotInside {
                    path: shown(parent),
                    found: spot.node.what(),
                    field: format!("[{index}]"),
                });
            }
        };
        let item = below(parent, Segment::Index(index));
        if index > length {
            return Err(EditError::NotThere { path: shown(&item) });
        }
        if length == 0 {
            return self.replace(parent, &Value::List(vec![new.clone()]), false);
        }
        let patches = match index.checked_sub(1) {
            Some(behind) => self.insertion(parent, behind, New::Item(new))?,
            None => self.insertion_before(parent, new)?,
        };
        let (parent, new) = (parent.to_vec(), new.clone());
        self.commit(&item, patches, |value| match at(value, &parent)? {
            Value::List(items) => (index <= items.len()).then(|| items.insert(index, new)),
            _ => None,
        })
    }

    /// How a value is written among those of a collection.
    fn style_in(&self, parent: &Node, value: &Value) -> Style {
        let page = self.page();
        let last = (0..children(parent)).rev().filter_map(|index| Child::of(parent, index));
        let mut collections = last.map(Child::node).filter(|node| {
            children(node) > 0
                && matches!(node.value, Tree::Map(_)) == matches!(value, Value::Map(_))
        });
        let open = collections.next().is_some_and(|node| page.is_block(node));
        Style { step: self.step(), open }
    }

    /// The change that puts something behind an entry or item.
    fn insertion(
        &self,
        parent: &[Segment],
        behind: usize,
        new: New<'_>,
    ) -> Result<Vec<Patch>, EditError> {
        let page = self.page();
        let spot = self.need(parent)?;
        let node = spot.node;
        let in_flow = spot.in_flow || page.is_flow(node);
        let unusual = || EditError::Unsupported {
            path: shown(parent),
            why: "an entry is written in an unusual way",
        };
        let child = Child::of(node, behind).ok_or_else(unusual)?;
        let end = page.child_end(child);
        let start = page.child_start(child, in_flow).ok_or_else(unusual)?;
        let next = Child::of(node, behind + 1).and_then(|next| page.child_start(next, in_flow));
        if in_flow {
            return Ok(flow_insertion(page, start..end, next, &new.inline()));
        }
        if matches!(child, Child::Item(item) if item.span.is_empty()) {
            return Err(unusual());
        }
        let first = Child::of(node, 0)
            .and_then(|first| page.child_start(first, false))
            .ok_or_else(unusual)?;
        let column = page.column(first);
        let text = new.block(column, self.style_in(node, new.value()));
        let indent = " ".repeat(column);
        let before = behind.checked_sub(1).and_then(|index| Child::of(node, index));
        let apart = match (next, before) {
            (Some(next), _) => page.blank_between(end, next),
            (None, Some(before)) => page.blank_between(page.child_end(before), start),
            (None, None) => false,
        };
        let blank = if apart { "\n" } else { "" };
        let place = page.behind(end, column);
        let text = match page.text.get(..place).is_some_and(|text| text.ends_with('\n')) {
            true => format!("{blank}{indent}{text}\n"),
            false => format!("\n{blank}{indent}{text}"),
        };
        Ok(vec![Patch::insert(place, text)])
    }

    /// The change that puts an item before all others.
    fn insertion_before(&self, parent: &[Segment], new: &Value) -> Result<Vec<Patch>, EditError> {
        let page = self.page();
        let spot = self.need(parent)?;
        let in_flow = spot.in_flow || page.is_flow(spot.node);
        let first = Child::of(spot.node, 0).and_then(|first| page.child_start(first, in_flow));
        let start = first
            .ok_or(EditError::Unsupported { path: shown(parent), why: "an item has no dash" })?;
        if in_flow {
            return Ok(vec![Patch::insert(start, format!("{}, ", value::inline(new, true)))]);
        }
        let column = page.column(start);
        let text = value::item(new, column, self.style_in(spot.node, new));
        let indent = " ".repeat(column);
        Ok(match page.is_first(start) {
            true => {
                vec![Patch::insert(page.with_comments_above(start), format!("{indent}{text}\n"))]
            }
            false => vec![Patch::insert(start, format!("{text}\n{indent}"))],
        })
    }

    /// Puts another value in the place of one. `drops` says whether comments inside of it go with it.
    fn replace(&mut self, path: &[Segment], new: &Value, drops: bool) -> Result<(), EditError> {
        let page = self.page();
        let spot = self.need(path)?;
        let unsupported = |why| EditError::Unsupported { path: shown(path), why };
        let (parent, index) =
            spot.parent.ok_or_else(|| unsupported("it is the whole definition"))?;
        let child = Child::of(parent, index).ok_or_else(|| unsupported("it is not there"))?;
        let patches = match child {
            Child::Entry(entry) => self.entry_replacement(&spot, parent, entry, new, drops),
            Child::Item(item) => {
                let empty = item.span.is_empty();
                let start = page.value_start(child);
                let quotes = page.quotes(&item.span, item.plain);
                let was_open = page.is_open(child);
                let end = match was_open {
                    // What stands at the end of its last line, and further to the right below it, is inside of it.
                    true => page
                        .trimmed(page.behind(page.end(item), page.column(start)))
                        .max(page.end(item)),
                    false => page.end(item),
                };
                let lines = page.is_block(item) || !value::is_inline(new, page.column(start));
                let open = !spot.in_flow && lines && page.is_blank(end..page.line_end(end));
                let text = match new.is_collection() {
                    true if open && !empty => value::block(
                        new,
                        page.column(start),
                        Style { step: self.step(), open: false },
                    ),
                    true => value::inline(new, spot.in_flow),
                    false => value::scalar(
                        new,
                        spot.in_flow,
                        if was_open { Quotes::None } else { quotes },
                    ),
                };
                match empty {
                    true => vec![Patch::insert(start, format!(" {text}"))],
                    false => vec![Patch { at: start..end, text, drops }],
                }
            }
        };
        let (path, new) = (path.to_vec(), new.clone());
        self.commit(&path, patches, |value| {
            *at(value, &path)? = new;
            Some(())
        })
    }

    fn entry_replacement(
        &self,
        spot: &Spot<'_>,
        parent: &Node,
        entry: &crate::tree::Entry,
        new: &Value,
        drops: bool,
    ) -> Vec<Patch> {
        let page = self.page();
        let child = Child::Entry(entry);
        let node = spot.node;
        let Some(colon) = page.colon(entry) else {
            // A name alone, in braces.
            return vec![Patch::insert(
                entry.key_span.end,
                format!(": {}", value::inline(new, true)),
            )];
        };
        let behind = colon + 1;
        // A list begins with its first dash.
        let dash = Child::of(node, 0).filter(|_| page.is_block(node));
        let dash = dash.and_then(|first| page.child_start(first, false));
        let (start, end) = (dash.unwrap_or_else(|| page.value_start(child)), page.end(node));
        let empty = node.span.is_empty() && matches!(node.value, Tree::Null);
        let was_open = page.is_open(child);
        let column = page.column(entry.key_span.start);
        let mut style = self.style_in(parent, new);
        style.open = style.open && !was_flow_collection(page, node) || page.is_block(node);
        let stays_flow = was_flow_collection(page, node) && new.is_collection();
        let (same, below) = match spot.in_flow {
            true => (value::inline_or_scalar(new, true, self.quotes_of(node)), String::new()),
            false if stays_flow && value::is_inline(new, column) => {
                (value::inline(new, false), String::new())
            }
            false if new.is_collection() => {
                value::after_mark(new, column, behind - page.line_start(behind) + 1, style)
            }
            false => {
                let quotes = if was_open { Quotes::None } else { self.quotes_of(node) };
                match quotes {
                    Quotes::None => value::after_mark(new, column, column, style),
                    quotes => (value::scalar(new, false, quotes), String::new()),
                }
            }
        };
        let same = if same.is_empty() || matches!(new, Value::Null) && !spot.in_flow {
            String::new()
        } else {
            format!(" {same}")
        };
        let same_line = page.line_start(start.min(page.text.len())) == page.line_start(colon);
        if empty {
            let mut patches = vec![Patch::insert(behind, same)];
            if !below.is_empty() {
                patches.push(Patch::insert(page.line_end(behind), below));
            }
            return patches;
        }
        if same_line && !page.is_block(node) {
            // The value is on the line of its name.
            let alone = page.text.get(behind..start).is_none_or(|gap| gap.trim().is_empty());
            let gap = match alone {
                true => Patch { at: behind..end, text: same, drops },
                false => Patch { at: start..end, text: same.trim_start().to_owned(), drops },
            };
            return match below.is_empty() {
                true => vec![gap],
                false if page.line_end(end) == end => {
                    vec![Patch { text: format!("{}{below}", gap.text), ..gap }]
                }
                false => vec![gap, Patch::insert(page.line_end(end), below)],
            };
        }
        if !page.is_first(start) {
            return vec![Patch { at: start..end, text: same.trim_start().to_owned(), drops }];
        }
        // It is below its name.
        let lines = page.with_comments_above(start).max(page.next_line(colon));
        match below.is_empty() {
            true => vec![
                Patch::insert(behind, same),
                Patch { at: lines..page.behind(end, column), text: String::new(), drops },
            ],
            false => {
                // The break before is that of the line above.
                let text = below.strip_prefix('\n').unwrap_or(&below);
                // Behind a `|` every line is text.
                let from = if new.is_collection() { lines } else { page.next_line(colon) };
                let until = page.behind(end, column);
                let ends = page.text.get(..until).is_some_and(|text| text.ends_with('\n'));
                let text = if ends { format!("{text}\n") } else { text.to_owned() };
                let mut patches = vec![Patch { at: from..until, text, drops }];
                if !same.is_empty() {
                    patches.push(Patch::insert(behind, same));
                }
                patches
            }
        }
    }

    fn quotes_of(&self, node: &Node) -> Quotes {
        match node.value {
            Tree::Scalar(_) => self.page().quotes(&node.span, node.plain),
            _ => Quotes::None,
        }
    }
}

impl Page<'_> {
    /// The change of a name.
    fn renamed(&self, entry: &crate::tree::Entry, name: &str, in_flow: bool) -> Patch {
        let quoted = self.starts_with(entry.key_span.start, '"')
            || self.starts_with(entry.key_span.start, '\'');
        let quotes = self.quotes(&entry.key_span, !quoted);
        Patch::replace(entry.key_span.clone(), value::key(name, in_flow, quotes))
    }
}

fn was_flow_collection(page: Page<'_>, node: &Node) -> bool {
    page.is_flow(node) && children(node) > 0
}

/// What is put into a collection.
#[derive(Clone, Copy)]
enum New<'v> {
    Entry(&'v str, &'v Value),
    Item(&'v Value),
}

impl<'v> New<'v> {
    fn value(self) -> &'v Value {
        match self {
            Self::Entry(_, value) | Self::Item(value) => value,
        }
    }

    fn inline(self) -> String {
        match self {
            Self::Entry(name, value) => value::inline_entry(name, value),
            Self::Item(value) => value::inline(value, true),
        }
    }

    fn block(self, column: usize, style: Style) -> String {
        match self {
            Self::Entry(name, value) => value::entry(name, value, column, style),
            Self::Item(value) => value::item(value, column, style),
        }
    }
}

/// The change that takes something out of braces or brackets.
fn flow_removal(
    page: Page<'_>,
    parent: &Node,
    own: Range<usize>,
    before: Option<usize>,
    next: Option<usize>,
) -> Vec<Patch> {
    let behind = page.skip(own.end);
    let comma = page.starts_with(behind, ',').then_some(behind);
    let own_line = page.is_first(own.start);
    let until = comma.map_or(own.end, |comma| comma + 1);
    let rest = page.text.get(until..page.line_end(until)).unwrap_or_default().trim_start();
    let ends_line = rest.is_empty() || rest.starts_with('#');
    if own_line && ends_line {
        let mut patches = vec![Patch::drop(page.lines_of(own.start, until))];
        if let (None, None, Some(before)) = (next, comma, before) {
            let at = page.skip(before);
            if page.starts_with(at, ',') {
                patches.push(Patch::replace(at..at + 1, ""));
            }
        }
        return patches;
    }
    match (before, next) {
        (_, Some(next)) => vec![Patch::drop(own.clone()), Patch::replace(own.end..next, "")],
        (Some(before), None) => vec![Patch::replace(before..own.start, ""), Patch::drop(own)],
        (None, None) => {
            let empty = if matches!(parent.value, Tree::Map(_)) { "{}" } else { "[]" };
            vec![Patch { at: parent.span.clone(), text: empty.to_owned(), drops: true }]
        }
    }
}

/// The change that puts something into braces or brackets, behind what stands at a place.
fn flow_insertion(page: Page<'_>, own: Range<usize>, next: Option<usize>, new: &str) -> Vec<Patch> {
    let at = page.skip(own.end);
    let comma = page.starts_with(at, ',').then_some(at + 1);
    let line = page.line_end(comma.unwrap_or(own.end));
    let rest = page.text.get(comma.unwrap_or(own.end)..line).unwrap_or_default().trim_start();
    let alone = page.is_first(own.start) && (rest.is_empty() || rest.starts_with('#'));
    if !alone {
        return match (comma, next) {
            // A comma at the end stays one.
            (Some(comma), None) => vec![Patch::insert(comma, format!(" {new},"))],
            _ => vec![Patch::insert(own.end, format!(", {new}"))],
        };
    }
    let indent = " ".repeat(page.column(own.start));
    match comma {
        Some(_) => vec![Patch::insert(line, format!("\n{indent}{new},"))],
        None => vec![Patch::insert(own.end, ","), Patch::insert(line, format!("\n{indent}{new}"))],
    }
}

/// A value by its path.
fn at<'v>(value: &'v mut Value, path: &[Segment]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, segment| match (segment, value) {
        (Segment::Key(key), Value::Map(entries)) => {
            entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
        }
        (Segment::Index(index), Value::List(items)) => items.get_mut(*index),
        _ => None,
    })
}

/// What is at the end of a way through a value that was made of it.
fn descend(value: Value, way: &[Segment]) -> Value {
    way.iter().fold(value, |value, _| match value {
        Value::Map(entries) => entries.into_iter().next().map_or(Value::Null, |(_, value)| value),
        Value::List(items) => items.into_iter().next().unwrap_or(Value::Null),
        single => single,
    })
}

/// Refuses a value that is nested deeper than a definition may be.
fn bounded(value: &Value, levels: usize) -> Result<(), EditError> {
    let inside: Vec<&Value> = match value {
        Value::List(items) => items.iter().collect(),
        Value::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        _ => return Ok(()),
    };
    let Some(left) = levels.checked_sub(1) else {
        let message = format!("nested deeper than {DEPTH_MAX} levels");
        return Err(EditError::NotYaml { line: 1, column: 1, message });
    };
    inside.into_iter().try_for_each(|value| bounded(value, left))
}
