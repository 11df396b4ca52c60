//! The result: figures beside their bare cost and their aim, as a table or as JSON.

use std::collections::BTreeMap;
use std::io::Write as _;

use millrace_platform::find;
use serde::{Deserialize, Serialize};

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) environment: Environment,
    pub(crate) rows: Vec<Row>,
    /// Parts that could not be measured, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
}

/// The machine and the programs.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    version: &'static str,
    profile: &'static str,
    cores: usize,
    cpu: String,
    kernel: String,
    nats_server: String,
    /// What else kept the cores busy in the minute before (proc_loadavg(5)).
    load_before: f64,
    quick: bool,
}

impl Environment {
    pub(crate) fn here(quick: bool) -> Self {
        let first_of = |path: &str, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.rsplit(": ").next().unwrap_or_default().trim().to_owned()
        };
        let nats = find::nats_server().map(|path| find::nats_version(&path));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) {
                "dev (dependencies optimised, own crates at opt-level 1)"
            } else {
                "release"
            },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: first_of("/proc/cpuinfo", "model name"),
            kernel: first_of("/proc/sys/kernel/osrelease", ""),
            nats_server: nats.unwrap_or_else(|_| "not found".to_owned()),
            load_before: load_average(),
            quick,
        }
    }
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub(crate) part: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bare: Option<Bare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<String, f64>,
}

/// What the same costs without Millrace, in the unit of the row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bare {
    pub(crate) value: f64,
    /// The row's value divided by this one.
    pub(crate) ratio: f64,
}

/// What the figure should come to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// The value.
    AtLeast(f64),
    /// The value.
    AtMost(f64),
    /// The value over its bare cost.
    RatioAtMost(f64),
    /// The value over its bare cost.
    RatioAtLeast(f64),
}

impl Aim {
    fn met(self, row: &Row) -> bool {
        match self {
            Self::AtLeast(least) => row.value >= least,
            Self::AtMost(most) => row.value <= most,
            Self::RatioAtMost(most) => row.bare.as_ref().is_some_and(|bare| bare.ratio <= most),
            Self::RatioAtLeast(least) => row.bare.as_ref().is_some_and(|bare| bare.ratio >= least),
        }
    }
}

impl Row {
    /// A figure of a part, in a unit.
    #[must_use]
    pub fn new(part: &str, what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            part: part.to_owned(),
            what: what.into(),
            value,
            unit: unit.to_owned(),
            bare: None,
            aim: None,
            met: None,
            details: BTreeMap::new(),
        }
    }

    /// What the same costs without Millrace, in the same unit.
    #[must_use]
    pub fn over(mut self, bare: f64) -> Self {
        self.bare = Some(Bare { value: bare, ratio: self.value / bare });
        self
    }

    /// What it should come to. After [`Row::over`], where the aim is for the ratio.
    #[must_use]
    pub fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self.met = Some(aim.met(&self));
        self
    }

    /// A further figure about the same.
    #[must_use]
    pub fn detail(mut self, name: &str, value: f64) -> Self {
        self.details.insert(name.to_owned(), value);
        self
    }

    fn cells(&self) -> [String; 7] {
        let aim = match self.aim {
            Some(Aim::AtLeast(least)) => format!(">= {}", number(least)),
            Some(Aim::AtMost(most)) => format!("<= {}", number(most)),
            Some(Aim::RatioAtMost(most)) => format!("ratio <= {most}"),
            Some(Aim::RatioAtLeast(least)) => format!("ratio >= {least}"),
            None => String::new(),
        };
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        [
            self.part.clone(),
            self.what.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.bare.as_ref().map(|bare| number(bare.value)).unwrap_or_default(),
            self.bare.as_ref().map(|bare| format!("{:.2}", bare.ratio)).unwrap_or_default(),
            aim,
            met.to_owned(),
        ]
    }

    fn details_line(&self) -> String {
        let details = self.details.iter().map(|(name, value)| format!("{name} {}", number(*value)));
        details.collect::<Vec<_>>().join(", ")
    }
}

const HEADINGS: [&str; 8] = ["part", "what", "value", "bare", "ratio", "aim", "met", "details"];

impl Report {
    /// Writes to standard output.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
        } else {
            write!(out, "{}", self.table())?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        let e = &self.environment;
        let quick = if e.quick { "; --quick: a tenth of the work, figures are rough" } else { "" };
        let mut text = format!(
            "millrace {}, build {}; {} cores {}; Linux {}; nats-server {}; load before {:.1}{quick}\n\n",
            e.version, e.profile, e.cores, e.cpu, e.kernel, e.nats_server, e.load_before
        );
        let mut lines = vec![HEADINGS.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let mut cells = row.cells().to_vec();
            cells.push(row.details_line());
            lines.push(cells);
        }
        let width = |column: usize| {
            lines.iter().filter_map(|cells| cells.get(column)).map(String::len).max()
        };
        let widths: Vec<usize> =
            (0..HEADINGS.len()).map(|column| width(column).unwrap_or(0)).collect();
        for cells in &lines {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                // Figures to the right, words to the left.
                if (2..5).contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `1,234,567`, `12.3` or `0.456`: three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => thousands(value.round()),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

fn thousands(whole: f64) -> String {
    let digits = format!("{:.0}", whole.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if whole < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.5678, 12.34, 123.4, 1_234.5, 1_234_567.0, -2_000.0].map(number);
        assert_eq!(all, ["0", "0.568", "12.3", "123", "1,235", "1,234,567", "-2,000"]);
    }

    #[test]
    fn a_row_says_whether_its_aim_is_met() {
        let row = |aim| Row::new("stage", "x", 100.0, "messages/s").over(400.0).aim(aim);
        assert_eq!(row(Aim::AtLeast(100.0)).met, Some(true));
        assert_eq!(row(Aim::AtLeast(100.1)).met, Some(false));
        assert_eq!(row(Aim::AtMost(99.0)).met, Some(false));
        assert_eq!(row(Aim::RatioAtMost(0.25)).met, Some(true));
        assert_eq!(row(Aim::RatioAtMost(0.24)).met, Some(false));
        let cells = row(Aim::AtLeast(500.0)).cells();
        assert_eq!(cells, ["stage", "x", "100 messages/s", "400", "0.25", ">= 500", "NO"]);
    }
}
