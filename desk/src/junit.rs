//! Reports as JUnit writes them, which every build server reads.

use std::fmt::Write as _;
use std::time::Duration;

use crate::test::{Report, Tone};

/// The tests of one definition.
#[derive(Debug, Clone, Copy)]
pub struct Suite<'a> {
    /// What they are called together: the pipeline.
    pub name: &'a str,
    /// What came of each.
    pub reports: &'a [Report],
}

/// The reports as a JUnit file.
#[must_use]
pub fn junit(suites: &[Suite<'_>]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = || suites.iter().flat_map(|suite| suite.reports);
    let totals = totals(all());
    // Writing to a text cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"millrace\" {totals}>");
    for suite in suites {
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" {}>",
            escaped(suite.name),
            self::totals(suite.reports.iter())
        );
        suite.reports.iter().for_each(|report| case(&mut xml, suite.name, report));
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn totals<'a>(reports: impl Iterator<Item = &'a Report> + Clone) -> String {
    let failures = reports.clone().filter(|report| !report.passed()).count();
    let time: Duration = reports.clone().map(|report| report.took).sum();
    format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{:.6}\"",
        reports.count(),
        time.as_secs_f64()
    )
}

fn case(xml: &mut String, suite: &str, report: &Report) {
    let _ = writeln!(
        xml,
        "    <testcase name=\"{}\" classname=\"{}\" file=\"{}\" line=\"{}\" time=\"{:.6}\">",
        escaped(&report.name),
        escaped(suite),
        escaped(&report.file),
        report.line,
        report.took.as_secs_f64()
    );
    for failure in &report.failures {
        let lines = failure.lines();
        let heading = lines.first().map(|(_, text)| text.as_str()).unwrap_or_default();
        let rest = lines.iter().filter(|(tone, _)| *tone != Tone::Heading);
        let text: Vec<&str> = rest.map(|(_, text)| text.as_str()).collect();
        let _ = writeln!(
            xml,
            "      <failure message=\"{}\">{}</failure>",
            escaped(heading),
            escaped(&text.join("\n"))
        );
    }
    if !report.log.is_empty() {
        let line = |line: &crate::host::LogLine| {
            format!("{} {} {}: {}", line.level.as_str(), line.stage, line.context, line.text)
        };
        let lines: Vec<String> = report.log.iter().map(line).collect();
        let _ = writeln!(xml, "      <system-out>{}</system-out>", escaped(&lines.join("\n")));
    }
    xml.push_str("    </testcase>\n");
}

/// A text inside XML. What XML cannot hold at all becomes a replacement character.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(
            escaped("a<b> & \"c\"\n\u{0}\u{1b}"),
            "a&lt;b&gt; &amp; &quot;c&quot;\n\u{fffd}\u{fffd}"
        );
    }
}
