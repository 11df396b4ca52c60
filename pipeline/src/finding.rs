//! What is wrong with a definition, for people and for programs.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use crate::locate::{Part, Path};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The pipeline cannot be deployed as it is.
    Error,
    /// It can, and something about it is likely not meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule that found it, a stable name: `unknown-name`.
    pub rule: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// The field, as `steps.celsius.from`; empty for the whole definition.
    pub path: String,
    /// Where it is; absent when the model did not come from a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A place in a file. Lines and columns start at 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Location {
    /// The file, as it was given.
    pub file: String,
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Line of the last character.
    pub end_line: usize,
    /// Column after the last character.
    pub end_column: usize,
}

impl fmt::Display for Finding {
    /// One line: `pipeline.yaml:8:11: error: message (mend) [rule]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Location { file, line, column, .. }) = &self.location {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        if let Some(mend) = &self.mend {
            write!(f, " ({mend})")?;
        }
        write!(f, " [{}]", self.rule)
    }
}

/// A finding whose place in a text is not worked out yet.
#[derive(Debug, Clone)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    pub(crate) rule: &'static str,
    pub(crate) path: Path,
    pub(crate) part: Part,
    /// The place, when it is known already.
    pub(crate) span: Option<Range<usize>>,
    /// The field that an unknown one seems to have meant.
    pub(crate) meant: Option<Path>,
    pub(crate) message: String,
    pub(crate) mend: Option<String>,
}

impl Issue {
    pub(crate) fn error(
        rule: &'static str,
        path: Path,
        part: Part,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            rule,
            path,
            part,
            span: None,
            meant: None,
            message: message.into(),
            mend: None,
        }
    }

    pub(crate) fn warning(
        rule: &'static str,
        path: Path,
        part: Part,
        message: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(rule, path, part, message) }
    }

    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    pub(crate) fn maybe_mend(mut self, mend: Option<String>) -> Self {
        self.mend = mend;
        self
    }

    pub(crate) fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// The finding, without a place.
    pub(crate) fn unplaced(self) -> Finding {
        Finding {
            severity: self.severity,
            rule: self.rule,
            message: self.message,
            mend: self.mend,
            path: self.path.to_string(),
            location: None,
        }
    }
}

/// A text cut into lines.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line and column, from 1, of a byte.
    fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let before = self.text.get(start..byte).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    pub(crate) fn location(&self, file: &str, span: &Range<usize>) -> Location {
        let (line, column) = self.position(span.start);
        let (end_line, end_column) = self.position(span.end.max(span.start));
        Location { file: file.to_owned(), line, column, end_line, end_column }
    }

    /// A line, from 1, without its break.
    fn line(&self, line: usize) -> &'a str {
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let end = self.starts.get(line).copied().unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r'])
    }
}

/// Longest line that is shown; a longer one is named only.
const LINE_SHOWN: usize = 400;

/// One finding as a compiler shows it: the line, a caret, the mend.
pub(crate) fn render(finding: &Finding, lines: Option<&Lines<'_>>, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(finding.message.as_str()).id(finding.rule);
    let source;
    let mut group = match (&finding.location, lines) {
        (Some(at), Some(lines)) => {
            source = without_password(lines.line(at.line));
            let snippet =
                Snippet::source(source.as_str()).line_start(at.line).path(at.file.as_str());
            if source.len() > LINE_SHOWN {
                title.element(
                    annotate_snippets::Origin::path(at.file.as_str())
                        .line(at.line)
                        .char_column(at.column),
                )
            } else {
                let span = byte_span(&source, at);
                let label = AnnotationKind::Primary.span(span).label(finding.path.as_str());
                title.element(snippet.annotation(label))
            }
        }
        _ => annotate_snippets::Group::with_title(title),
    };
    if let Some(mend) = &finding.mend {
        group = group.element(Level::HELP.message(mend.as_str()));
    }
    renderer.render(&[group])
}

/// The part of one line a location covers, in bytes, at least one character.
fn byte_span(line: &str, at: &Location) -> Range<usize> {
    let byte = |column: usize| {
        line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at)
    };
    let start = byte(at.column);
    let end = if at.end_line == at.line { byte(at.end_column) } else { line.len() };
    start..end.max(byte(at.column + 1))
}

/// What stands between `://` and `@` in an address becomes asterisks: findings
/// end up in logs. The number of characters stays, so that columns do.
pub(crate) fn without_password(line: &str) -> String {
    let mut secret = 0..0;
    if let Some(start) = line.find("://").map(|at| at + 3) {
        let rest = line.get(start..).unwrap_or_default();
        let address = rest
            .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
            .next()
            .unwrap_or_default();
        secret = start..start + address.rfind('@').unwrap_or(0);
    }
    line.char_indices().map(|(at, c)| if secret.contains(&at) { '*' } else { c }).collect()
}
