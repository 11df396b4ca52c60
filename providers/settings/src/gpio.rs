//! Settings of the GPIO connector: lines of the Linux character device.
//!
//! What a link may touch is exactly what its settings list. Source and sink
//! have settings of their own, so each direction is granted on its own.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::flat::{FieldError, FieldErrorKind};
use crate::values::{Count, Duration};

/// Most lines of one source or sink: as many as the kernel allows in one
/// request (`GPIO_V2_LINES_MAX`).
const LINES_MAX: usize = 64;

/// Longest name given to a line here, in bytes. It becomes a topic.
const NAME_MAX: usize = 64;

/// Longest name the kernel keeps, in bytes without the final zero
/// (`GPIO_MAX_NAME_SIZE`).
const KERNEL_NAME_MAX: usize = 31;

/// Number of a line on its chip.
pub type Offset = Count<0, 65_535>;

/// Which edges make a message. Rising is from inactive to active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Edge {
    /// From inactive to active.
    Rising,
    /// From active to inactive.
    Falling,
    /// Both.
    #[default]
    Both,
    /// None: the level is only reported by `initial` and `interval`. For
    /// chips without interrupts.
    None,
}

/// The resistor that holds a line nobody drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Bias {
    /// As it was found.
    #[default]
    AsIs,
    /// Pulled up.
    PullUp,
    /// Pulled down.
    PullDown,
    /// No resistor.
    Disabled,
}

/// How an output drives its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Drive {
    /// Both levels are driven.
    #[default]
    PushPull,
    /// Only low is driven; high needs a pull-up.
    OpenDrain,
    /// Only high is driven; low needs a pull-down.
    OpenSource,
}

/// A logical level. On a line that is `active-low`, active is low voltage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Level {
    /// Off, 0.
    #[default]
    Inactive,
    /// On, 1.
    Active,
}

/// The clock the kernel stamps edges with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum EventClock {
    /// The wall clock, which may be set back and forth.
    #[default]
    Realtime,
    /// The clock since boot, made into wall time when the edge is read.
    Monotonic,
}

/// A line that is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InputLine {
    /// Chip: a device such as `gpiochip0` or `/dev/gpiochip0`, or a chip's
    /// label, which stays the same when devices are numbered anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// Number of the line on its chip. Needs `chip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// Name of the line as the kernel knows it, on `chip` or on any chip. Must
    /// be there once. Either this or `offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Which edges make a message: `rising`, `falling`, `both` or `none`.
    pub edge: Edge,
    /// How long a level must hold until it counts, from 1ms to 1m. Without it
    /// every edge counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Duration<1, 60_000>>,
    /// Resistor: `as-is`, `pull-up`, `pull-down` or `disabled`.
    pub bias: Bias,
    /// Whether low voltage means active.
    pub active_low: bool,
}

/// A line that is driven.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct OutputLine {
    /// Chip: a device such as `gpiochip0` or `/dev/gpiochip0`, or a chip's
    /// label, which stays the same when devices are numbered anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// Number of the line on its chip. Needs `chip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// Name of the line as the kernel knows it, on `chip` or on any chip. Must
    /// be there once. Either this or `offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Whether low voltage means active.
    pub active_low: bool,
    /// How the line is driven: `push-pull`, `open-drain` or `open-source`.
    pub drive: Drive,
    /// Resistor: `as-is`, `pull-up`, `pull-down` or `disabled`.
    pub bias: Bias,
    /// Level when the sink starts: `active` or `inactive`. Without it, that of
    /// `safe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Level>,
    /// Level when the sink ends, after `watchdog` without a write, and when a
    /// lost line is found again: `active` or `inactive`.
    pub safe: Level,
    /// Longest time without a write to this line, from 10ms to 1d; after it
    /// the line goes to `safe` until the next write. Without it, for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Duration<10, 86_400_000>>,
}

/// Reads lines of GPIO chips: a message an edge, with the kernel's timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSettings {
    /// The lines by name, 1 to 64. The name is the topic of the line's
    /// messages; only these lines are touched.
    pub lines: BTreeMap<String, InputLine>,
    /// Whether the level of each line is reported when it is opened.
    #[serde(default)]
    pub initial: bool,
    /// How often the level of each line is reported, from 10ms to 1d, whether
    /// it changed or not. Without it, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration<10, 86_400_000>>,
    /// Clock of the kernel's timestamps: `realtime` or `monotonic`. Messages
    /// carry wall time either way.
    #[serde(default)]
    pub event_clock: EventClock,
    /// Most edges of one line that the kernel keeps until they are read. It
    /// drops the oldest when there are more.
    #[serde(default = "kernel_buffer")]
    pub kernel_buffer: Count<1, 1_024>,
    /// Most messages taken from the kernel and not yet safe. At that many,
    /// edges wait in the kernel.
    #[serde(default = "window")]
    pub window: Count<1, 100_000>,
}

/// Drives lines of GPIO chips. The stage before it goes on only when the
/// kernel has set the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkSettings {
    /// The lines by name, 1 to 64. Only these lines are touched; messages for
    /// others become dead letters.
    pub lines: BTreeMap<String, OutputLine>,
    /// Messages older than this are not carried out but become dead letters,
    /// from 10ms to 1d. Without it, a backlog is carried out however old it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration<10, 86_400_000>>,
}

/// The kernel's own limit (16 times `GPIO_V2_LINES_MAX`).
const fn kernel_buffer() -> Count<1, 1_024> {
    Count::clamped(1_024)
}

const fn window() -> Count<1, 100_000> {
    Count::clamped(10_000)
}

impl Settings for SourceSettings {
    fn check(&self) -> Result<(), FieldError> {
        check_names(self.lines.keys())?;
        check_places(self.lines.iter().map(|(name, line)| (name.as_str(), Place::from(line))))?;
        for (name, line) in &self.lines {
            if line.edge != Edge::None {
                continue;
            }
            if line.debounce.is_some() {
                let text = line.debounce.map(|d| d.to_string()).unwrap_or_default();
                let message = "has no meaning with edge none: no edge is looked for";
                return Err(FieldError::invalid(&under(name, "debounce"), &text, message));
            }
            if self.interval.is_none() && !self.initial {
                let message = "needs interval or initial: the line would never be reported";
                return Err(FieldError::invalid(&under(name, "edge"), "none", message));
            }
        }
        Ok(())
    }
}

impl Settings for SinkSettings {
    fn check(&self) -> Result<(), FieldError> {
        check_names(self.lines.keys())?;
        check_places(self.lines.iter().map(|(name, line)| (name.as_str(), Place::from(line))))
    }
}

/// Where a line is, as far as the settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    chip: Option<&'a str>,
    offset: Option<u64>,
    line: Option<&'a str>,
}

impl<'a> From<&'a InputLine> for Place<'a> {
    fn from(line: &'a InputLine) -> Self {
        Self {
            chip: line.chip.as_deref(),
            offset: line.offset.map(Count::get),
            line: line.line.as_deref(),
        }
    }
}

impl<'a> From<&'a OutputLine> for Place<'a> {
    fn from(line: &'a OutputLine) -> Self {
        Self {
            chip: line.chip.as_deref(),
            offset: line.offset.map(Count::get),
            line: line.line.as_deref(),
        }
    }
}

/// The dotted name of a field of one line.
fn under(name: &str, field: &str) -> String {
    format!("lines.{name}.{field}")
}

fn check_names<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<(), FieldError> {
    if !(1..=LINES_MAX).contains(&names.len()) {
        let found = format!("{} lines", names.len());
        let message = format!("must name 1 to {LINES_MAX} lines");
        return Err(FieldError::invalid("lines", &found, message));
    }
    for name in names {
        // No dots: they separate the parts of a field's way in errors.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | ':' | '@');
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= NAME_MAX
            && name.chars().all(plain);
        if !named {
            let message = format!(
                "must be a name of 1 to {NAME_MAX} letters, digits, hyphens, underscores, \
                 slashes, colons or @, a letter first"
            );
            return Err(FieldError::invalid(&format!("lines.{name}"), name, message));
        }
    }
    Ok(())
}

/// Each line is somewhere, and no two are at the same place. Two ways of
/// naming one line are only found when it is opened: the second is in use.
fn check_places<'a>(lines: impl Iterator<Item = (&'a str, Place<'a>)>) -> Result<(), FieldError> {
    let mut seen = BTreeSet::new();
    for (name, place) in lines {
        check_place(name, place)?;
        if !seen.insert(place) {
            let (field, value) = match (place.line, place.offset) {
                (Some(line), _) => ("line", line.to_owned()),
                (None, offset) => ("offset", offset.unwrap_or_default().to_string()),
            };
            let message = "is given to another name already";
            return Err(FieldError::invalid(&under(name, field), &value, message));
        }
    }
    Ok(())
}

fn check_place(name: &str, place: Place<'_>) -> Result<(), FieldError> {
    let named = |field: &str, text: &str, most: usize| match text {
        "" => Err(FieldError::invalid(&under(name, field), text, "must not be empty")),
        text if text.len() > most => {
            let message = format!("must be at most {most} bytes long");
            Err(FieldError::invalid(&under(name, field), text, message))
        }
        text if text.chars().any(char::is_control) => {
            let message = "must not contain control characters";
            Err(FieldError::invalid(&under(name, field), text, message))
        }
        _ => Ok(()),
    };
    if let Some(chip) = place.chip {
        named("chip", chip, 255)?;
    }
    match (place.line, place.offset) {
        (Some(_), Some(offset)) => {
            let message = "must be left out when line is given";
            Err(FieldError::invalid(&under(name, "offset"), &offset.to_string(), message))
        }
        (Some(line), None) => named("line", line, KERNEL_NAME_MAX),
        (None, Some(_)) if place.chip.is_none() => Err(missing(name, "chip", "with offset")),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(missing(name, "line", "unless there are chip and offset")),
    }
}

fn missing(name: &str, field: &str, when: &str) -> FieldError {
    FieldError {
        field: under(name, field),
        value: None,
        message: format!("is required {when}"),
        kind: FieldErrorKind::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat;

    /// The settings as a link carries them: each a text, those that are
    /// mappings as JSON.
    fn flat(json: &str) -> flat::Flat {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect()
    }

    fn source(json: &str) -> Result<SourceSettings, String> {
        flat::from_flat(&flat(json), &[]).map_err(|e| e.to_string())
    }

    fn sink(json: &str) -> Result<SinkSettings, String> {
        flat::from_flat(&flat(json), &[]).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_documented() {
        let settings = source(r#"{"lines": {"door": {"line": "DOOR"}}}"#).unwrap();
        let door = &settings.lines["door"];
        assert_eq!((door.edge, door.bias, door.active_low), (Edge::Both, Bias::AsIs, false));
        assert_eq!((door.debounce, settings.interval, settings.initial), (None, None, false));
        assert_eq!(settings.event_clock, EventClock::Realtime);
        assert_eq!((settings.kernel_buffer.get(), settings.window.get()), (1_024, 10_000));
        let settings = sink(r#"{"lines": {"pump": {"chip": "gpiochip0", "offset": 4}}}"#).unwrap();
        let pump = &settings.lines["pump"];
        assert_eq!((pump.safe, pump.initial, pump.watchdog), (Level::Inactive, None, None));
        assert_eq!((pump.drive, settings.max_age), (Drive::PushPull, None));
    }

    #[test]
    fn scalars_may_be_written_as_text() {
        let settings = source(
            r#"{"lines": {"door": {"chip": "gpiochip0", "offset": "7", "debounce": "5ms",
                "edge": "rising", "bias": "pull-up"}}, "kernel-buffer": "16"}"#,
        )
        .unwrap();
        let door = &settings.lines["door"];
        assert_eq!((door.offset.unwrap().get(), door.debounce.unwrap().as_millis()), (7, 5));
        assert_eq!(settings.kernel_buffer.get(), 16);
    }

    #[test]
    fn settings_survive_their_flat_map() {
        let all = r#"{"lines": {"pump": {"line": "PUMP", "drive": "open-drain", "bias": "pull-up",
            "active-low": true, "initial": "active", "safe": "inactive", "watchdog": "5s"}},
            "max-age": "10s"}"#;
        let settings = sink(all).unwrap();
        let again = flat::from_flat(&flat::to_flat(&settings).unwrap(), &[]).unwrap();
        assert_eq!(settings, again);
        assert_eq!(again.lines["pump"].watchdog.unwrap().as_millis(), 5_000);
    }

    #[test]
    fn what_is_out_of_range_or_contradictory_is_named() {
        for (lines, wanted) in [
            ("{}", "lines: must name 1 to 64 lines"),
            (r#"{"a b": {"line": "X"}}"#, "lines.a b: must be a name of"),
            (r#"{"a.b": {"line": "X"}}"#, "must be a name of"),
            (r#"{"7": {"line": "X"}}"#, "must be a name of"),
            (r#"{"": {"line": "X"}}"#, "must be a name of"),
            (r#"{"door": {}}"#, "lines.door.line: is required unless"),
            (r#"{"door": {"offset": 1}}"#, "lines.door.chip: is required with offset"),
            (
                r#"{"door": {"chip": "c", "offset": 1, "line": "X"}}"#,
                "lines.door.offset: must be left out",
            ),
            (r#"{"door": {"line": ""}}"#, "lines.door.line: must not be empty"),
            (
                r#"{"door": {"line": "a-name-that-the-kernel-cannot-keep"}}"#,
                "lines.door.line: must be at most 31",
            ),
            (r#"{"door": {"chip": "c", "offset": 65536}}"#, "from 0 to 65535"),
            (r#"{"door": {"line": "X", "debounce": "0ms"}}"#, "from 1ms to 1m"),
            (r#"{"door": {"line": "X", "debounce": "2m"}}"#, "from 1ms to 1m"),
            (r#"{"door": {"line": "X", "edge": "up"}}"#, "unknown variant"),
            (r#"{"door": {"line": "X", "bias": "strong"}}"#, "unknown variant"),
            (r#"{"door": {"line": "X", "safe": "active"}}"#, "lines.door.safe: is not a setting"),
            (r#"{"door": {"line": "X", "edge": "none"}}"#, "lines.door.edge: needs interval"),
            (
                r#"{"door": {"line": "X", "edge": "none", "debounce": "5ms"}}"#,
                "lines.door.debounce: has no meaning",
            ),
            (r#"{"a": {"line": "X"}, "b": {"line": "X"}}"#, "lines.b.line: is given to another"),
            (
                r#"{"a": {"chip": "c", "offset": 1}, "b": {"chip": "c", "offset": 1}}"#,
                "lines.b.offset: is given to another",
            ),
        ] {
            let error = source(&format!(r#"{{"lines": {lines}}}"#)).unwrap_err();
            assert!(error.contains(wanted), "{lines}: {error}");
        }
        for (line, wanted) in [
            (r#"{"line": "X", "watchdog": "1ms"}"#, "from 10ms to 1d"),
            (r#"{"line": "X", "watchdog": "2d"}"#, "from 10ms to 1d"),
            (r#"{"line": "X", "safe": "low"}"#, "unknown variant"),
            (r#"{"line": "X", "drive": "weak"}"#, "unknown variant"),
            (r#"{"line": "X", "debounce": "5ms"}"#, "lines.pump.debounce: is not a setting"),
        ] {
            let error = sink(&format!(r#"{{"lines": {{"pump": {line}}}}}"#)).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
        let many: Vec<String> = (0..65).map(|n| format!(r#""l{n}": {{"line": "L{n}"}}"#)).collect();
        let error = source(&format!(r#"{{"lines": {{{}}}}}"#, many.join(","))).unwrap_err();
        assert!(error.contains("1 to 64"), "{error}");
    }

    #[test]
    fn every_error_inside_is_found_at_once() {
        let wrong = flat(
            r#"{"lines": {"a": {"offset": 1}, "b": {"line": "B", "debounce": "0ms"},
                "c": {"line": "C", "colour": "red"}}, "window": 0}"#,
        );
        let mut found: Vec<String> =
            flat::check_flat::<SourceSettings>(&wrong, &[]).into_iter().map(|e| e.field).collect();
        found.sort();
        let wanted = ["lines.a.chip", "lines.b.debounce", "lines.c.colour", "window"];
        assert_eq!(found, wanted);
        assert_eq!(
            flat::structured_names::<SinkSettings>().into_iter().collect::<Vec<_>>(),
            ["lines"]
        );
    }

    #[test]
    fn a_polled_line_needs_no_edges() {
        let json = r#"{"lines": {"door": {"line": "X", "edge": "none"}}, "interval": "1s"}"#;
        assert_eq!(source(json).unwrap().lines["door"].edge, Edge::None);
    }
}
