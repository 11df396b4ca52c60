//! `millrace pipeline set` and `rename`: a changed definition with everything else as it was.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_pipeline::edit::{Editor, Value};
use millrace_pipeline::{Document, LoadError, Loaded, Options, Severity, load_with, read_text};
use serde_json::json;

use crate::DefinitionErrors;
use crate::ui::Ui;

/// Lines around a change that are shown.
const AROUND: usize = 2;

/// What to do with the changed text.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Writing {
    /// Show what would change, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write it even if it has errors then that it has not now.
    #[arg(long)]
    force: bool,
}

/// Arguments of `set`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Set {
    /// The definition, or a binding or tests in a file of their own.
    file: PathBuf,
    /// A field and its new value, as YAML: steps.too-hot.config.limit=90.
    #[arg(value_name = "PATH=VALUE", value_parser = assignment, required_unless_present = "remove")]
    values: Vec<(String, Value)>,
    /// Take out this field, with the comments that belong to it; may be given several times.
    #[arg(long, value_name = "PATH")]
    remove: Vec<String>,
    #[command(flatten)]
    writing: Writing,
}

/// Arguments of `rename`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rename {
    /// The definition, or a binding or tests in a file of their own.
    file: PathBuf,
    /// A source, step or sink; or with dots the path of any field, of which only the name is changed then.
    old: String,
    /// Its new name.
    new: String,
    #[command(flatten)]
    writing: Writing,
}

/// `PATH=VALUE`.
fn assignment(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => {
            let value = value
                .parse::<Value>()
                .map_err(|error| format!("the value is not YAML: {error}"))?;
            Ok((path.to_owned(), value))
        }
        _ => Err("it has to be PATH=VALUE, such as steps.too-hot.config.limit=90".to_owned()),
    }
}

/// Gives fields values, and takes others out.
pub(crate) fn set(ui: Ui, args: &Set) -> anyhow::Result<()> {
    change(ui, &args.file, &args.writing, false, |editor| {
        for (path, value) in &args.values {
            editor.set(path, value)?;
        }
        for path in &args.remove {
            editor.remove(path)?;
        }
        Ok(())
    })
}

/// Gives something another name.
pub(crate) fn rename(ui: Ui, args: &Rename) -> anyhow::Result<()> {
    change(ui, &args.file, &args.writing, true, |editor| {
        match args.old.contains(['.', '[']) {
            true => editor.rename(&args.old, &args.new)?,
            false => editor.rename_node(&args.old, &args.new)?,
        }
        Ok(())
    })
}

fn change(
    ui: Ui,
    file: &Path,
    writing: &Writing,
    renamed: bool,
    edit: impl FnOnce(&mut Editor) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // One that is too long is refused when it is parsed.
    let before = read_text(file).map_err(|error| match error {
        LoadError::Read { path, source } => {
            anyhow::Error::new(source).context(format!("could not read {}", path.display()))
        }
        error @ LoadError::NotText { .. } => error.into(),
    })?;
    let mut editor = Editor::new(before.as_str())
        .with_context(|| format!("cannot change {}", file.display()))?;
    edit(&mut editor).with_context(|| format!("{} is as it was", file.display()))?;
    let after = editor.text();
    let changed = before != after;
    let new = new_errors(file, &before, after, renamed);
    let refused = !new.is_empty() && !writing.force;
    let write = changed && !refused && !writing.dry_run;
    if write {
        rewrite(file, after.as_bytes())
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    let diff = difference(&before, after);
    if ui.json {
        let lines: Vec<String> = diff.iter().map(|(mark, line)| format!("{mark}{line}")).collect();
        ui.json(&json!({ "file": file, "changed": changed, "written": write, "diff": lines, "errors": new }))?;
    } else if changed {
        show(ui, &diff);
    } else {
        ui.line(format!("{} is as it was", file.display()));
    }
    if refused {
        for error in &new {
            ui.error(error);
        }
        ui.error(format!(
            "{} is as it was, because it would have errors that it has not now; --force writes it all the same",
            file.display()
        ));
        return Err(DefinitionErrors.into());
    }
    if changed && writing.dry_run {
        ui.step("nothing was written");
    }
    Ok(())
}

/// Puts another text into a file that somebody wrote: where a link points to, with the same rights, and whole or not at all.
fn rewrite(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let file = file.canonicalize()?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(bytes)?;
    new.as_file().set_permissions(file.metadata()?.permissions())?;
    new.persist(&file)?;
    Ok(())
}

/// The errors that the changed text has and the one before had not. A file beside a definition is not looked at.
fn new_errors(file: &Path, before: &str, after: &str, renamed: bool) -> Vec<String> {
    let name = file.to_string_lossy();
    let load = |text: &str| -> Loaded {
        load_with(Document { file: &name, text }, None, &Options::default(), &|file| {
            read_text(file)
        })
    };
    let is_beside = |text: &str| {
        Editor::new(text).is_ok_and(|editor| {
            ["sources", "sinks", "version"]
                .iter()
                .all(|field| matches!(editor.has(field), Ok(false)))
        })
    };
    if is_beside(before) {
        return Vec::new();
    }
    let mut known: Vec<_> = errors(&load(before)).collect();
    let mut new: Vec<_> = errors(&load(after)).collect();
    // The same error is there still; with another name in it, after a rename, it is the same rule's.
    type Error = (&'static str, String, String);
    let same: [fn(&Error, &Error) -> bool; 2] =
        [|a, b| (a.0, &a.1) == (b.0, &b.1), |a, b| a.0 == b.0];
    for same in same.into_iter().take(1 + usize::from(renamed)) {
        new.retain(|error| match known.iter().position(|other| same(error, other)) {
            Some(at) => {
                known.remove(at);
                false
            }
            None => true,
        });
    }
    new.into_iter().map(|(_, _, shown)| shown).collect()
}

/// The errors: the rule, the message, and how it is shown.
fn errors(loaded: &Loaded) -> impl Iterator<Item = (&'static str, String, String)> {
    let errors = loaded.findings().iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|error| (error.rule, error.message.clone(), error.to_string()))
}

/// The lines of both, each with ` `, `-` or `+`, and `@` where lines are left out.
fn difference<'t>(before: &'t str, after: &'t str) -> Vec<(char, &'t str)> {
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.lines().collect(), after.lines().collect());
    let mut all: Vec<(char, &str)> = Vec::new();
    let (mut old, mut new) = (before.as_slice(), after.as_slice());
    while let Some((first, rest)) = old.split_first() {
        match new.split_first() {
            Some((same, others)) if same == first => {
                all.push((' ', first));
                (old, new) = (rest, others);
            }
            _ => {
                // The nearest place where both go on the same: few lines are changed, so this is soon found.
                let (gone, come) = nearest(old, new);
                let (out, left) = old.split_at_checked(gone).unwrap_or((old, &[]));
                let (into, others) = new.split_at_checked(come).unwrap_or((new, &[]));
                all.extend(out.iter().map(|line| ('-', *line)));
                all.extend(into.iter().map(|line| ('+', *line)));
                (old, new) = (left, others);
            }
        }
    }
    all.extend(new.iter().map(|line| ('+', *line)));
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        all.iter().skip(from).take(at + AROUND + 1 - from).any(|(mark, _)| *mark != ' ')
    };
    let mut shown = Vec::new();
    for (at, line) in all.iter().enumerate() {
        match near(at) {
            true => shown.push(*line),
            false if shown.last().is_some_and(|(mark, _)| *mark != '@') => shown.push(('@', "")),
            false => {}
        }
    }
    while shown.last().is_some_and(|(mark, _)| *mark == '@') {
        shown.pop();
    }
    shown
}

/// How many lines of each are before the nearest two that are the same in both.
fn nearest(old: &[&str], new: &[&str]) -> (usize, usize) {
    const FARTHEST: usize = 400;
    let (long, wide) = (old.len(), new.len());
    for sum in 1..(long + wide).min(FARTHEST) {
        for gone in 0..=sum.min(long) {
            let come = sum - gone;
            let same = |ahead: usize| match (old.get(gone + ahead), new.get(come + ahead)) {
                (Some(a), Some(b)) => a == b,
                (None, None) => true,
                _ => false,
            };
            if come <= wide && same(0) && same(1) {
                return (gone, come);
            }
        }
    }
    (long, wide)
}

fn show(ui: Ui, diff: &[(char, &str)]) {
    for (mark, line) in diff {
        match mark {
            '-' => ui.line(ui.red(format!("-{line}"))),
            '+' => ui.line(ui.green(format!("+{line}"))),
            '@' => ui.line(ui.dim("...")),
            _ => ui.line(format!(" {line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_lines_with_what_is_around_them() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let after = "a\nb\nc\nd\nE\nf\ng\nh\ni\n";
        let shown: Vec<String> =
            difference(before, after).iter().map(|(mark, line)| format!("{mark}{line}")).collect();
        assert_eq!(
            shown,
            ["@", " c", " d", "-e", "+E", " f", " g", " h", "+i"].map(str::to_owned)[1..]
        );
        assert!(difference(before, before).is_empty());
        assert_eq!(difference("", "a\n"), [('+', "a")]);
        assert_eq!(difference("a\n", ""), [('-', "a")]);
    }
}
