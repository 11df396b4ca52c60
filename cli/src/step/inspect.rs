//! `millrace step inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use millrace_desk::shown_text;
use millrace_step::{Fate, Inspection};

use super::{Given, Subject, memory};
use crate::ui::{Ui, human_size};

/// What to look at.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The component, or the folder of a step that is built.
    file: PathBuf,
    #[command(flatten)]
    given: Given,
}

pub(crate) fn run(ui: Ui, args: &Args) -> anyhow::Result<ExitCode> {
    let subject = Subject::of(&args.file)?;
    let settings = subject.settings(None, &[], &[], &args.given);
    let grants = settings.grants.iter().cloned().collect();
    let bytes = subject.read()?;
    let found = millrace_step::inspect(&bytes, &grants, memory(settings.memory.as_deref())?)?;
    if ui.json {
        ui.json(&found)?;
    } else {
        show(ui, &subject, &found);
    }
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(ui: Ui, subject: &Subject, found: &Inspection) {
    let row =
        |name: &str, text: String| ui.line(format!("{}{text}", ui.dim(format!("{name:<10}"))));
    let list =
        |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    ui.line(ui.bold(subject.component.display()));
    row("kinds", list(found.kinds.iter().map(ToString::to_string).collect()));
    if !found.other_exports.is_empty() {
        let others = shown_text(&found.other_exports.join(", "));
        row("exports", format!("{others}  (beside; nobody calls it)"));
    }
    imports(ui, found);
    let memories = found.memories.iter().map(|memory| match memory.maximum_pages {
        Some(most) => format!("{} to {most} pages", memory.initial_pages),
        None => format!("{} pages without a maximum", memory.initial_pages),
    });
    row(
        "memory",
        format!("{} at the start: {}", human_size(found.initial_memory), list(memories.collect())),
    );
    row("size", format!("{}  ({} bytes)", human_size(found.bytes as u64), found.bytes));
    row("version", found.version.as_deref().map_or("not said".to_owned(), shown_text));
    row("sha-256", found.digest.clone());
    let made = found.producers.iter().map(|p| match p.version.as_str() {
        "" => shown_text(&p.name),
        version => shown_text(&format!("{} {version}", p.name)),
    });
    row("made with", list(made.collect()));
    problems(ui, &found.problems);
}

/// What becomes of each import.
pub(crate) fn imports(ui: Ui, found: &Inspection) {
    let name = |text: &str| ui.dim(format!("{text:<10}"));
    if found.imports.is_empty() {
        ui.line(format!("{}none", name("imports")));
    }
    for (number, import) in found.imports.iter().enumerate() {
        let fate = match &import.fate {
            Fate::Types => ui.dim("types"),
            Fate::Lattice => ui.dim("the lattice, as every stage"),
            Fate::Granted { grant } => ui.green(format!("granted: {grant}")),
            Fate::Denied { grant: None } => ui.dim("denied"),
            Fate::Denied { grant: Some(grant) } => {
                ui.dim(format!("denied; the grant `{grant}` would open it"))
            }
            Fate::Needs { grant } => ui.yellow(format!("needs the grant `{grant}`")),
            Fate::Refused { .. } => ui.red("refused"),
        };
        let heading = name(if number == 0 { "imports" } else { "" });
        ui.line(format!("{heading}{:<46} {fate}", shown_text(&import.name)));
    }
}

/// Why it would be refused.
pub(crate) fn problems(ui: Ui, problems: &[String]) {
    for problem in problems {
        ui.error(problem);
    }
}
