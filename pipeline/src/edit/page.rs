//! Where things stand in a text: lines, comments, and what belongs to an entry.

use std::ops::Range;

use crate::tree::{Entry, Node, Value as Tree};

use super::value::Quotes;

/// A text with its comments.
#[derive(Clone, Copy)]
pub(super) struct Page<'t> {
    pub(super) text: &'t str,
    pub(super) comments: &'t [Range<usize>],
}

/// A change of the text.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub(super) at: Range<usize>,
    pub(super) text: String,
    /// Whether comments in the range go with it.
    pub(super) drops: bool,
}

impl Patch {
    pub(super) fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { at: at..at, text: text.into(), drops: false }
    }

    pub(super) fn replace(at: Range<usize>, text: impl Into<String>) -> Self {
        Self { at, text: text.into(), drops: false }
    }

    /// Takes out a range with the comments in it.
    pub(super) fn drop(at: Range<usize>) -> Self {
        Self { at, text: String::new(), drops: true }
    }
}

/// A mapping's entry or a list's item.
#[derive(Clone, Copy)]
pub(super) enum Child<'t> {
    Entry(&'t Entry),
    Item(&'t Node),
}

impl<'t> Child<'t> {
    pub(super) fn of(parent: &'t Node, index: usize) -> Option<Self> {
        match &parent.value {
            Tree::Map(entries) => entries.get(index).map(Self::Entry),
            Tree::List(items) => items.get(index).map(Self::Item),
            _ => None,
        }
    }

    pub(super) fn node(self) -> &'t Node {
        match self {
            Self::Entry(entry) => &entry.value,
            Self::Item(node) => node,
        }
    }
}

pub(super) fn children(parent: &Node) -> usize {
    match &parent.value {
        Tree::Map(entries) => entries.len(),
        Tree::List(items) => items.len(),
        _ => 0,
    }
}

/// The comments of a text: every `#` after a blank, outside of the single values.
pub(super) fn comments(text: &str, root: &Node) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    singles(root, &mut spans);
    spans.sort_by_key(|span| span.start);
    let mut found = Vec::new();
    let mut from = 0;
    for span in spans.into_iter().chain(std::iter::once(text.len()..text.len())) {
        let mut at = from;
        while at < span.start {
            let Some(mark) = text.get(at..span.start).and_then(|gap| gap.find('#')) else { break };
            let start = at + mark;
            let before = text.get(..start).and_then(|text| text.chars().next_back());
            if before.is_none_or(char::is_whitespace) {
                let end = text.get(start..).and_then(|rest| rest.find('\n'));
                let line = start..end.map_or(text.len(), |end| start + end);
                let shown = text.get(line.clone()).map_or(0, |line| line.trim_end().len());
                found.push(line.start..line.start + shown);
                at = line.end;
            } else {
                at = start + 1;
            }
        }
        from = from.max(span.end);
    }
    found
}

/// The places of names and single values.
fn singles(node: &Node, spans: &mut Vec<Range<usize>>) {
    match &node.value {
        Tree::Null | Tree::Scalar(_) => spans.push(node.span.clone()),
        Tree::List(items) => items.iter().for_each(|item| singles(item, spans)),
        Tree::Map(entries) => {
            for entry in entries {
                spans.push(entry.key_span.clone());
                singles(&entry.value, spans);
            }
        }
    }
}

impl<'t> Page<'t> {
    fn get(&self, range: Range<usize>) -> &'t str {
        self.text.get(range).unwrap_or_default()
    }

    /// Where the line of a place begins.
    pub(super) fn line_start(&self, at: usize) -> usize {
        self.get(0..at).rfind('\n').map_or(0, |found| found + 1)
    }

    /// Where the line of a place ends, before its line break.
    pub(super) fn line_end(&self, at: usize) -> usize {
        let next = self.next_line(at);
        let line = self.get(at..next);
        at + line.trim_end_matches('\n').trim_end_matches('\r').len()
    }

    /// Where the next line begins, or the end.
    pub(super) fn next_line(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |n| at + n + 1)
    }

    /// The line break in use around a place.
    pub(super) fn line_break(&self, at: usize) -> &'static str {
        let here = self.text.get(at..).and_then(|rest| rest.find('\n')).map(|found| at + found);
        let found = here.or_else(|| self.get(0..at).rfind('\n'));
        match found {
            Some(end) if self.get(0..end).ends_with('\r') => "\r\n",
            _ => "\n",
        }
    }

    pub(super) fn column(&self, at: usize) -> usize {
        self.get(self.line_start(at)..at).chars().count()
    }

    /// Whether nothing but blanks is before a place on its line.
    pub(super) fn is_first(&self, at: usize) -> bool {
        self.get(self.line_start(at)..at).trim().is_empty()
    }

    pub(super) fn is_blank(&self, range: Range<usize>) -> bool {
        self.get(range).trim().is_empty()
    }

    /// The end of what is before a place, without blanks and line breaks.
    pub(super) fn trimmed(&self, at: usize) -> usize {
        self.get(0..at).trim_end().len()
    }

    fn is_blank_line(&self, start: usize) -> bool {
        self.get(start..self.next_line(start)).trim().is_empty()
    }

    /// The column of the comment that is all there is on the line that begins here.
    fn comment_line(&self, start: usize) -> Option<usize> {
        let line = self.get(start..self.next_line(start));
        let at = start + (line.len() - line.trim_start().len());
        let is_blank = line.trim().is_empty();
        (!is_blank && self.is_comment(at)).then(|| self.column(at))
    }

    fn is_comment(&self, at: usize) -> bool {
        self.comments.binary_search_by_key(&at, |comment| comment.start).is_ok()
    }

    /// The first place from here on that is neither blank nor comment.
    pub(super) fn skip(&self, mut at: usize) -> usize {
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            at += rest.len() - rest.trim_start().len();
            match self.is_comment(at) {
                true => at = self.next_line(at),
                false => return at,
            }
        }
    }

    pub(super) fn starts_with(&self, at: usize, mark: char) -> bool {
        self.text.get(at..).is_some_and(|rest| rest.starts_with(mark))
    }

    pub(super) fn is_flow(&self, node: &Node) -> bool {
        match &node.value {
            Tree::Map(_) => self.starts_with(node.span.start, '{'),
            // A list with dashes has the place of its first item, which may have brackets.
            Tree::List(items) => {
                let first = items.first().map(|item| item.span.start);
                self.starts_with(node.span.start, '[') && first != Some(node.span.start)
            }
            _ => false,
        }
    }

    /// A collection with a line for each entry.
    pub(super) fn is_block(&self, node: &Node) -> bool {
        matches!(node.value, Tree::List(_) | Tree::Map(_)) && !self.is_flow(node)
    }

    /// Whether a value takes lines of its own: a collection, or a text behind `|` or `>`.
    pub(super) fn is_open(&self, child: Child<'_>) -> bool {
        self.is_block(child.node()) || self.text_mark(child).is_some()
    }

    /// Where the `|` or `>` of a text is.
    fn text_mark(&self, child: Child<'_>) -> Option<usize> {
        let node = child.node();
        if node.plain || !matches!(node.value, Tree::Scalar(_)) {
            return None;
        }
        let from = match child {
            Child::Entry(entry) => self.colon(entry)? + 1,
            Child::Item(item) => self.dash(item)? + 1,
        };
        if from >= node.span.start {
            return None;
        }
        let gap = self.get(from..node.span.start);
        let at = from + (gap.len() - gap.trim_start().len());
        (self.starts_with(at, '|') || self.starts_with(at, '>')).then_some(at)
    }

    /// The colon behind a name. A name without one stands in braces, or behind a `?`.
    pub(super) fn colon(&self, entry: &Entry) -> Option<usize> {
        let rest = self.text.get(entry.key_span.end..)?;
        let at = entry.key_span.end + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
        self.starts_with(at, ':').then_some(at)
    }

    /// The dash before an item.
    pub(super) fn dash(&self, item: &Node) -> Option<usize> {
        let before = self.get(0..item.span.start);
        let text = before.trim_end_matches([' ', '\t', '\n', '\r']);
        // Behind a text's mark the mark is before it.
        let text =
            match text.trim_end_matches(['+', '-', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
                marked if !item.plain && marked.ends_with(['|', '>']) => {
                    marked.trim_end_matches(['|', '>']).trim_end()
                }
                _ => text,
            };
        text.ends_with('-').then(|| text.len() - 1)
    }

    /// Where a value begins.
    pub(super) fn value_start(&self, child: Child<'_>) -> usize {
        if let Some(mark) = self.text_mark(child) {
            return mark;
        }
        child.node().span.start
    }

    /// Where a value ends.
    pub(super) fn end(&self, node: &Node) -> usize {
        let last = match &node.value {
            Tree::List(items) if !self.is_flow(node) => items.last().map(|item| self.end(item)),
            Tree::Map(entries) if !self.is_flow(node) => entries.last().map(|e| self.entry_end(e)),
            _ => None,
        };
        last.unwrap_or(node.span.end)
    }

    pub(super) fn entry_end(&self, entry: &Entry) -> usize {
        match entry.value.span.is_empty() && matches!(entry.value.value, Tree::Null) {
            true => self.colon(entry).map_or(entry.key_span.end, |colon| colon + 1),
            false => self.end(&entry.value),
        }
    }

    pub(super) fn child_end(&self, child: Child<'_>) -> usize {
        match child {
            Child::Entry(entry) => self.entry_end(entry),
            Child::Item(item) => self.end(item),
        }
    }

    /// Where an entry or item begins, with its name or dash.
    pub(super) fn child_start(&self, child: Child<'_>, in_flow: bool) -> Option<usize> {
        match child {
            Child::Entry(entry) => {
                // Behind a `?` there is more of it than its name.
                let start = entry.key_span.start;
                let before = self.get(self.line_start(start)..start).trim_end();
                (!before.ends_with('?')).then_some(start)
            }
            Child::Item(item) if in_flow => Some(item.span.start),
            Child::Item(item) => self.dash(item),
        }
    }

    pub(super) fn quotes(&self, span: &Range<usize>, plain: bool) -> Quotes {
        match plain {
            true => Quotes::None,
            false if self.starts_with(span.start, '\'') => Quotes::Single,
            false => Quotes::Double,
        }
    }

    /// The first line of the comments directly above a place that belong to what is there.
    pub(super) fn with_comments_above(&self, start: usize) -> usize {
        let column = self.column(start);
        let mut first = self.line_start(start);
        while first > 0 {
            let above = self.line_start(first - 1);
            // What is further to the right belongs to what is before.
            match self.comment_line(above) {
                Some(at) if at <= column => first = above,
                _ => break,
            }
        }
        // The head of a file is about the file.
        if first == 0 { self.line_start(start) } else { first }
    }

    /// The line behind an entry, and behind the comments that stand further to the right right below it.
    pub(super) fn behind(&self, end: usize, column: usize) -> usize {
        let mut next = self.next_line(end);
        while next < self.text.len() && self.comment_line(next).is_some_and(|at| at > column) {
            next = self.next_line(next);
        }
        next
    }

    /// The lines of an entry that is first on its line, with what belongs to it.
    pub(super) fn lines_of(&self, start: usize, end: usize) -> Range<usize> {
        let mut first = self.with_comments_above(start);
        let next = self.behind(end, self.column(start));
        // One blank line is enough between those that are left.
        let blank_below = next >= self.text.len() || self.is_blank_line(next);
        while blank_below && first > 0 {
            let above = self.line_start(first - 1);
            match self.is_blank_line(above) {
                true => first = above,
                false => break,
            }
        }
        first..next
    }

    /// The first line from here on that is not blank, or this one where all are.
    pub(super) fn next_text(&self, start: usize) -> usize {
        let mut at = start;
        while at < self.text.len() {
            if !self.is_blank_line(at) {
                return at;
            }
            at = self.next_line(at);
        }
        start
    }

    /// Whether a blank line is between two places.
    pub(super) fn blank_between(&self, from: usize, to: usize) -> bool {
        let mut at = self.next_line(from);
        while at < to {
            if self.is_blank_line(at) {
                return true;
            }
            at = self.next_line(at);
        }
        false
    }
}
