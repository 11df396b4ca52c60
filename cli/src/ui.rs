//! What people see: colours only on a terminal, JSON on request, progress on standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How results are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    /// Results as JSON on standard output, one document (or one line an event).
    pub(crate) json: bool,
    /// Colour on standard output.
    pub(crate) color: bool,
    color_err: bool,
}

impl Ui {
    pub(crate) fn new(json: bool, choice: ColorChoice) -> Self {
        let wanted = |terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        };
        Self {
            json,
            color: !json && wanted(std::io::stdout().is_terminal()),
            color_err: wanted(std::io::stderr().is_terminal()),
        }
    }

    /// A line of a result, on standard output. A reader that went away ends the process quietly, as `head` expects.
    pub(crate) fn line(&self, text: impl Display) {
        if writeln!(std::io::stdout(), "{text}").is_err() {
            std::process::exit(0);
        }
    }

    /// A result as JSON, on one line.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value)?);
        Ok(())
    }

    /// A step of long work, on standard error.
    pub(crate) fn step(&self, text: impl Display) {
        let mark = if self.color_err { "\x1b[36m>\x1b[0m" } else { ">" };
        eprintln!("{mark} {text}");
    }

    /// Something to know that is no failure, on standard error.
    pub(crate) fn warn(&self, text: impl Display) {
        let mark = if self.color_err { "\x1b[33mwarning:\x1b[0m" } else { "warning:" };
        eprintln!("{mark} {text}");
    }

    /// A failure, on standard error.
    pub(crate) fn error(&self, text: impl Display) {
        let mark = if self.color_err { "\x1b[31merror:\x1b[0m" } else { "error:" };
        eprintln!("{mark} {text}");
    }

    pub(crate) fn green(&self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn red(&self, text: impl Display) -> String {
        self.paint("31", text)
    }

    pub(crate) fn yellow(&self, text: impl Display) -> String {
        self.paint("33", text)
    }

    pub(crate) fn dim(&self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn bold(&self, text: impl Display) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// `850 us`, `3.2 ms`, `1.5 s`.
pub(crate) fn human_time(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    match us {
        _ if us < 1e3 => format!("{us:.0} us"),
        _ if us < 1e6 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

/// `512 B`, `1.5 KiB`, `1.0 MiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{kib:.1} KiB"),
        _ => format!("{:.1} MiB", kib / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(human_time(Duration::from_micros(850)), "850 us");
        assert_eq!(human_time(Duration::from_micros(3210)), "3.2 ms");
    }

    #[test]
    fn sizes() {
        assert_eq!([512, 1536, 1 << 20].map(human_size), ["512 B", "1.5 KiB", "1.0 MiB"]);
    }
}
