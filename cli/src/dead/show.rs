//! Letters for people.

use std::collections::BTreeMap;

use serde::Serialize;

use super::letter::{Letter, hex};
use super::replay::Summary;
use super::route::{NoRoute, Route};
use crate::ui::Ui;

/// Characters of a reason that are shown.
const SHOWN_TEXT: usize = 60;

/// A table that is written row by row, however many there are, or lines of JSON.
pub(crate) struct Table {
    ui: Ui,
    begun: bool,
}

impl Table {
    pub(crate) const fn new(ui: Ui) -> Self {
        Self { ui, begun: false }
    }

    /// A letter.
    pub(crate) fn letter(&mut self, letter: &Letter<'_>) -> anyhow::Result<()> {
        if self.ui.json {
            return self.ui.json(&letter.described());
        }
        self.row(letter, &plain(letter.text, SHOWN_TEXT));
        Ok(())
    }

    /// A letter, and where it would go.
    pub(crate) fn planned(
        &mut self,
        letter: &Letter<'_>,
        route: &Result<Route<'_>, NoRoute>,
    ) -> anyhow::Result<()> {
        if self.ui.json {
            #[derive(Serialize)]
            struct Planned<'a> {
                #[serde(flatten)]
                letter: super::letter::Described<'a>,
                to_stage: Option<&'a str>,
                to_step: Option<&'a str>,
                problem: Option<String>,
            }
            let found = route.as_ref().ok();
            return self.ui.json(&Planned {
                letter: letter.described(),
                to_stage: found.map(|route| route.stage.name.as_str()),
                to_step: found.and_then(|route| route.enter),
                problem: route.as_ref().err().map(ToString::to_string),
            });
        }
        let to = match route {
            Ok(Route { stage, enter: None }) => format!("-> {}", stage.name),
            Ok(Route { stage, enter: Some(step) }) => format!("-> {}, at step {step}", stage.name),
            Err(none) => self.ui.red(none),
        };
        self.row(letter, &to);
        Ok(())
    }

    fn row(&mut self, letter: &Letter<'_>, last: &str) {
        if !self.begun {
            self.begun = true;
            self.ui.line(self.ui.dim(format!(
                "{:>8}  {:<24}  {:<16}  {:<16}  {:<16}  {:>5}  {:<24}  {:<16}  {:>8}  TEXT",
                "SEQ", "TIME", "STAGE", "STEP", "KIND", "TRIED", "TOPIC", "KEY", "BYTES"
            )));
        }
        let tried = letter.attempt.map(|number| number.to_string());
        self.ui.line(format!(
            "{:>8}  {:<24}  {:<16}  {:<16}  {:<16}  {:>5}  {:<24}  {:<16}  {:>8}  {last}",
            letter.seq,
            letter.written(),
            plain(letter.stage, 40),
            plain(letter.step.unwrap_or("-"), 40),
            plain(letter.kind.unwrap_or("-"), 16),
            tried.as_deref().unwrap_or("-"),
            plain(letter.message.topic, 60),
            plain(&letter.key().unwrap_or_else(|| "-".to_owned()), 40),
            letter.size(),
        ));
    }
}

/// A letter with its message.
pub(crate) fn whole(ui: Ui, letter: &Letter<'_>) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(&letter.whole());
    }
    let why = letter.kind.unwrap_or("unknown");
    ui.line(format!("{}  {}", ui.bold(format!("letter {}", letter.seq)), letter.written()));
    let step = letter.step.map(|step| format!(", step {}", plain(step, 40))).unwrap_or_default();
    ui.line(format!("  refused by    stage {}{step}", plain(letter.stage, 40)));
    ui.line(format!("  kind          {}", ui.red(plain(why, 40))));
    ui.line(format!("  reason        {}", plain(letter.text, usize::MAX)));
    if let Some(attempt) = letter.attempt {
        ui.line(format!("  attempt       {attempt}"));
    }
    ui.line(format!("  topic         {}", plain(letter.message.topic, usize::MAX)));
    if let Some(key) = letter.key() {
        ui.line(format!("  key           {}", plain(&key, usize::MAX)));
    }
    if let Some(content_type) = letter.message.content_type {
        ui.line(format!("  content type  {}", plain(content_type, usize::MAX)));
    }
    ui.line(format!("  timestamp     {} ns", letter.message.timestamp));
    for (name, value) in letter.headers() {
        let (name, value) = (plain(name, usize::MAX), plain(value, usize::MAX));
        ui.line(format!("  header        {name}: {value}"));
    }
    ui.line(format!("  payload       {} bytes", letter.size()));
    match std::str::from_utf8(letter.message.payload) {
        Ok(text) => {
            text.lines().for_each(|line| ui.line(format!("    {}", plain(line, usize::MAX))))
        }
        Err(_) => letter
            .message
            .payload
            .chunks(32)
            .for_each(|bytes| ui.line(format!("    {}", ui.dim(hex(bytes))))),
    }
    Ok(())
}

/// How many letters there are of each stage and kind.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<(String, String), Count>);

#[derive(Debug, Serialize)]
struct Count {
    letters: u64,
    bytes: u64,
    oldest: String,
    newest: String,
}

impl Counts {
    pub(crate) fn add(&mut self, letter: &Letter<'_>) {
        let of = (letter.stage.to_owned(), letter.kind.unwrap_or("-").to_owned());
        let (time, size) = (letter.written(), letter.size() as u64);
        match self.0.get_mut(&of) {
            Some(count) => {
                count.letters += 1;
                count.bytes += size;
                // Written in one form, so they compare as times.
                count.oldest = time.clone().min(std::mem::take(&mut count.oldest));
                count.newest = time.max(std::mem::take(&mut count.newest));
            }
            None => {
                let count = Count { letters: 1, bytes: size, oldest: time.clone(), newest: time };
                self.0.insert(of, count);
            }
        }
    }

    pub(crate) fn show(&self, ui: Ui) -> anyhow::Result<()> {
        if ui.json {
            let line = |((stage, kind), count): (&(String, String), &Count)| {
                serde_json::json!({ "stage": stage, "kind": kind, "letters": count.letters,
                    "bytes": count.bytes, "oldest": count.oldest, "newest": count.newest })
            };
            return ui.json(&self.0.iter().map(line).collect::<Vec<_>>());
        }
        if !self.0.is_empty() {
            ui.line(ui.dim(format!(
                "{:<24}  {:<16}  {:>8}  {:>10}  {:<24}  NEWEST",
                "STAGE", "KIND", "LETTERS", "BYTES", "OLDEST"
            )));
        }
        for ((stage, kind), count) in &self.0 {
            let Count { letters, bytes, oldest, newest } = count;
            let (stage, kind) = (plain(stage, 40), plain(kind, 16));
            ui.line(format!(
                "{stage:<24}  {kind:<16}  {letters:>8}  {bytes:>10}  {oldest:<24}  {newest}"
            ));
        }
        Ok(())
    }
}

/// What a replay came to.
pub(crate) fn replayed(ui: Ui, summary: &Summary, tried: bool) {
    let Summary { matched, replayed, came_back, left, reasons, problems } = summary;
    for problem in problems {
        ui.warn(format!("letter {problem}"));
    }
    if *left > problems.len() as u64 {
        ui.warn(format!("and {} more", left - problems.len() as u64));
    }
    let stay = if tried { "; all of them are still here" } else { "" };
    ui.line(format!("{replayed} of {matched} letters replayed{stay}"));
    if *came_back > 0 {
        ui.line(format!("  {came_back} of them were refused again and are new letters"));
    }
    if *left > 0 {
        let reasons: Vec<_> = reasons.iter().map(|(why, count)| format!("{why} {count}")).collect();
        ui.line(format!("  {} stay here: {}", ui.red(left), reasons.join(", ")));
    }
}

/// Text of unknown origin, without what a terminal would take as a command, and not longer than so many characters.
fn plain(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    match text.char_indices().nth(most) {
        None => text.chars().map(clean).collect(),
        Some(_) => {
            text.chars().map(clean).take(most.saturating_sub(3)).chain("...".chars()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn text_is_cut_and_commands_nothing() {
        assert_eq!(plain("äöü", 3), "äöü");
        assert_eq!(plain("abcdef", 5), "ab...");
        assert_eq!(plain("a\x1b[31mb\n", 80), "a\u{fffd}[31mb\u{fffd}");
    }
}
