//! The character device behind one small seam.
//!
//! Lines are found here, opened, read and set, with errors in our words.
//! Whoever replaces the library replaces this file. Its asynchronous half is
//! not used: made on a device that cannot be polled it panics, and a device
//! that hangs up makes it spin.
//!
//! Each line is a request of its own. So one line that is in use does not keep
//! the others from working, each has the whole of the kernel's largest buffer,
//! and no limit on different settings within a request is ever met.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use gpiocdev::line::{self, EdgeKind, Value};
use gpiocdev::{Chip, Request};
use gpiocdev_uapi::v2::LineEdgeEvent;
use millrace_settings::gpio::{Bias, Drive, Edge, EventClock, InputLine, Level, OutputLine};
use rustix::io::Errno;

use crate::error::{LineError, errno};

/// Most edges taken with one read.
const READ_EDGES: usize = 64;

/// Size of an edge in the kernel's buffer, in its words of 64 bits.
const EDGE_WORDS: usize = size_of::<LineEdgeEvent>() / 8;

/// Longest consumer the kernel keeps, in bytes without the final zero
/// (`GPIO_MAX_NAME_SIZE`).
const CONSUMER_MAX: usize = 31;

/// An edge as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Nanoseconds of the clock that was asked for.
    pub(crate) timestamp: u64,
    /// The level after the edge.
    pub(crate) level: Level,
    /// Number of the edge since the line was opened, from 1, wrapping.
    pub(crate) seq: u32,
}

/// How inputs are opened, where it is the same for all of a source.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) clock: EventClock,
    /// Edges kept by the kernel, for each line.
    pub(crate) kernel_buffer: u32,
    /// Who we are in the kernel's list of lines.
    pub(crate) consumer: String,
}

/// Where a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    chip: PathBuf,
    offset: u32,
}

/// A line that is read.
#[derive(Debug)]
pub(crate) struct Input {
    request: Request,
    found: Found,
}

impl Input {
    /// Finds and opens a line. May block for as long as the chip takes: one
    /// behind a slow bus takes milliseconds.
    pub(crate) fn open(line: &InputLine, reading: &Reading) -> Result<Self, LineError> {
        let offset = line.offset.map(|o| u32::try_from(o.get()).unwrap_or(u32::MAX));
        let found = find(line.chip.as_deref(), offset, line.line.as_deref())?;
        let mut builder = Request::builder();
        builder
            .on_chip(&found.chip)
            .with_consumer(reading.consumer.as_str())
            .with_kernel_event_buffer_size(reading.kernel_buffer)
            .with_line(found.offset)
            .as_input()
            .with_bias(bias(line.bias));
        if line.active_low {
            builder.as_active_low();
        }
        if let Some(edge) = edge(line.edge) {
            builder.with_edge_detection(edge).with_event_clock(match reading.clock {
                EventClock::Realtime => line::EventClock::Realtime,
                EventClock::Monotonic => line::EventClock::Monotonic,
            });
        }
        if let Some(debounce) = line.debounce {
            builder.with_debounce_period(debounce.get());
        }
        let request = builder.request().map_err(|e| refused("cannot read", &found, &e))?;
        Ok(Self { request, found })
    }

    /// The level now. May block, as [`Input::open`].
    pub(crate) fn level(&self) -> Result<Level, LineError> {
        let value = self.request.value(self.found.offset);
        value.map(level).map_err(|e| refused("cannot read", &self.found, &e))
    }

    /// Takes edges that wait in the kernel, oldest first. Never blocks.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none.
    pub(crate) fn edges(&self, into: &mut Vec<Happened>) -> io::Result<()> {
        if !self.request.has_edge_event().map_err(|e| io_error(&e))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut words = [0_u64; READ_EDGES * EDGE_WORDS];
        let read =
            self.request.read_edge_events_into_slice(&mut words).map_err(|e| io_error(&e))?;
        for edge in words.get(..read).unwrap_or_default().chunks_exact(EDGE_WORDS) {
            let edge = self.request.edge_event_from_slice(edge).map_err(|e| io_error(&e))?;
            into.push(Happened {
                timestamp: edge.timestamp_ns,
                level: match edge.kind {
                    EdgeKind::Rising => Level::Active,
                    EdgeKind::Falling => Level::Inactive,
                },
                seq: edge.line_seqno,
            });
        }
        Ok(())
    }

    /// What [`Input::edges`] failed with, in our words.
    pub(crate) fn failed(&self, error: &io::Error) -> LineError {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NODEV) => LineError::Gone(self.found.chip.clone()),
            _ => LineError::Kernel {
                doing: "cannot read",
                chip: self.found.chip.clone(),
                offset: self.found.offset,
                reason: error.to_string(),
            },
        }
    }
}

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.request.as_raw_fd()
    }
}

/// A line that is driven. Released when it is dropped: what the line does then
/// is up to the chip's driver.
pub(crate) trait Output: Send {
    /// Sets the level. May block for as long as the chip takes.
    fn set(&self, level: Level) -> Result<(), LineError>;

    /// Whether the line is still there. Never blocks.
    fn check(&self) -> Result<(), LineError>;
}

/// Where outputs come from: the kernel, or a test.
pub(crate) trait Outputs: Send {
    /// Finds a line and drives it to `level`, without another level before.
    fn open(&self, line: &OutputLine, level: Level) -> Result<Box<dyn Output>, LineError>;
}

/// Outputs of the machine's GPIO chips.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Who we are in the kernel's list of lines.
    pub(crate) consumer: String,
}

impl Outputs for Kernel {
    fn open(&self, line: &OutputLine, level: Level) -> Result<Box<dyn Output>, LineError> {
        let offset = line.offset.map(|o| u32::try_from(o.get()).unwrap_or(u32::MAX));
        let found = find(line.chip.as_deref(), offset, line.line.as_deref())?;
        let mut builder = Request::builder();
        builder
            .on_chip(&found.chip)
            .with_consumer(self.consumer.as_str())
            .with_line(found.offset)
            .as_output(value(level))
            .with_bias(bias(line.bias))
            .with_drive(match line.drive {
                Drive::PushPull => line::Drive::PushPull,
                Drive::OpenDrain => line::Drive::OpenDrain,
                Drive::OpenSource => line::Drive::OpenSource,
            });
        if line.active_low {
            builder.as_active_low();
        }
        let request = builder.request().map_err(|e| refused("cannot drive", &found, &e))?;
        Ok(Box::new(Driven { request, found }))
    }
}

/// An output of the kernel.
struct Driven {
    request: Request,
    found: Found,
}

impl Output for Driven {
    fn set(&self, level: Level) -> Result<(), LineError> {
        let set = self.request.set_value(self.found.offset, value(level));
        set.map_err(|e| refused("cannot set", &self.found, &e))
    }

    fn check(&self) -> Result<(), LineError> {
        // An output has no edges: what wakes a poll is that the chip is gone.
        match self.request.has_edge_event() {
            Ok(true) => Err(LineError::Gone(self.found.chip.clone())),
            Ok(false) => Ok(()),
            Err(error) => Err(refused("cannot look at", &self.found, &error)),
        }
    }
}

/// What the kernel knows of a line.
pub(crate) struct Seen {
    /// `line 3 (PUMP) of /dev/gpiochip0`.
    pub(crate) place: String,
    /// Who has it.
    pub(crate) consumer: Option<String>,
}

/// Finds a line and looks at it, without requesting it. May block, as
/// [`Input::open`].
pub(crate) fn look(
    chip: Option<&str>,
    offset: Option<u32>,
    line: Option<&str>,
) -> Result<Seen, LineError> {
    let found = find(chip, offset, line)?;
    let info = open(&found.chip)?.line_info(found.offset);
    let info = info.map_err(|e| refused("cannot look at", &found, &e))?;
    let name = if info.name.is_empty() { String::new() } else { format!(" ({})", info.name) };
    let place = format!("line {}{name} of {}", found.offset, found.chip.display());
    let unnamed = |consumer: String| match consumer.is_empty() {
        true => "somebody without a name".to_owned(),
        false => consumer,
    };
    Ok(Seen { place, consumer: info.used.then(|| unnamed(info.consumer)) })
}

/// The consumer of a link's lines, as long as the kernel keeps it.
pub(crate) fn consumer(pipeline: &str, name: &str) -> String {
    // Names are ASCII.
    format!("millrace {pipeline} {name}").chars().take(CONSUMER_MAX).collect()
}

/// Finds a line by what the settings say of it.
fn find(chip: Option<&str>, offset: Option<u32>, line: Option<&str>) -> Result<Found, LineError> {
    let chips = match chip {
        Some(chip) => vec![chip_of(chip)?],
        None => chips(),
    };
    if let Some(line) = line {
        return find_named(line, chip.unwrap_or("any GPIO chip"), &chips);
    }
    let (Some(path), Some(offset)) = (chips.into_iter().next(), offset) else {
        return Err(LineError::NoLine { line: String::new(), on: "any GPIO chip".to_owned() });
    };
    let lines = open(&path)?.info().map_err(|_| LineError::Gone(path.clone()))?.num_lines;
    if offset >= lines {
        return Err(LineError::NoOffset { chip: path, offset, last: lines.saturating_sub(1) });
    }
    Ok(Found { chip: path, offset })
}

/// Finds the only line of a name. Chips that cannot be looked into are passed
/// over, unless the line is not found anywhere else.
fn find_named(line: &str, on: &str, chips: &[PathBuf]) -> Result<Found, LineError> {
    let mut found = Vec::new();
    let mut closed = None;
    for path in chips {
        match open(path) {
            Ok(chip) => {
                let lines = chip.info().map_or(0, |info| info.num_lines);
                let named = (0..lines)
                    .filter(|offset| chip.line_info(*offset).is_ok_and(|info| info.name == line));
                found.extend(named.map(|offset| Found { chip: path.clone(), offset }));
            }
            Err(error) => closed = Some(error),
        }
    }
    match (found.len(), found.pop(), closed) {
        (1, Some(only), _) => Ok(only),
        (0, _, Some(closed)) => Err(closed),
        (0, ..) => Err(LineError::NoLine { line: line.to_owned(), on: on.to_owned() }),
        (_, last, _) => Err(LineError::AmbiguousLine {
            line: line.to_owned(),
            found: found.into_iter().chain(last).map(|f| f.chip).collect(),
        }),
    }
}

/// The device of a chip named by device or label.
fn chip_of(chip: &str) -> Result<PathBuf, LineError> {
    if chip.starts_with('/') {
        return Ok(PathBuf::from(chip));
    }
    let device = Path::new("/dev").join(chip);
    if chip.starts_with("gpiochip") && device.exists() {
        return Ok(device);
    }
    let labelled = |path: &PathBuf| {
        open(path).is_ok_and(|opened| opened.info().is_ok_and(|info| info.label == chip))
    };
    let mut found: Vec<PathBuf> = chips().into_iter().filter(labelled).collect();
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (_, None) => Err(LineError::NoChip(chip.to_owned())),
        (_, Some(last)) => {
            found.push(last);
            Err(LineError::AmbiguousChip { label: chip.to_owned(), found })
        }
    }
}

/// Every chip of the machine.
fn chips() -> Vec<PathBuf> {
    gpiocdev::chip::chips().unwrap_or_default()
}

fn open(path: &Path) -> Result<Chip, LineError> {
    Chip::from_path(path).map_err(|error| match errno(&error) {
        Some(Errno::NOENT) => LineError::NoChip(path.display().to_string()),
        Some(Errno::ACCESS | Errno::PERM) => LineError::Denied(path.to_owned()),
        Some(Errno::NODEV | Errno::NXIO) => LineError::Gone(path.to_owned()),
        _ => LineError::NoChip(format!("{}: {error}", path.display())),
    })
}

/// The library's error in our words.
fn refused(doing: &'static str, found: &Found, error: &gpiocdev::Error) -> LineError {
    let (chip, offset) = (found.chip.clone(), found.offset);
    match errno(error) {
        Some(Errno::BUSY) => LineError::InUse { by: holder(found), chip, offset },
        Some(Errno::ACCESS | Errno::PERM) => LineError::Denied(chip),
        Some(Errno::NODEV | Errno::NOENT) => LineError::Gone(chip),
        Some(errno @ (Errno::NXIO | Errno::OPNOTSUPP)) => {
            let reason = format!("the chip cannot do what the settings ask: {errno}");
            LineError::Kernel { doing, chip, offset, reason }
        }
        Some(errno) => LineError::Kernel { doing, chip, offset, reason: errno.to_string() },
        None => LineError::Kernel { doing, chip, offset, reason: error.to_string() },
    }
}

/// Who has a line.
fn holder(found: &Found) -> String {
    let info = open(&found.chip).ok().and_then(|chip| chip.line_info(found.offset).ok());
    match info.map(|info| info.consumer) {
        Some(consumer) if !consumer.is_empty() => format!("\"{consumer}\""),
        _ => "somebody else".to_owned(),
    }
}

fn io_error(error: &gpiocdev::Error) -> io::Error {
    match errno(error) {
        Some(errno) => errno.into(),
        None => io::Error::other(error.to_string()),
    }
}

const fn bias(bias: Bias) -> Option<line::Bias> {
    match bias {
        Bias::AsIs => None,
        Bias::PullUp => Some(line::Bias::PullUp),
        Bias::PullDown => Some(line::Bias::PullDown),
        Bias::Disabled => Some(line::Bias::Disabled),
    }
}

const fn edge(edge: Edge) -> Option<line::EdgeDetection> {
    match edge {
        Edge::Rising => Some(line::EdgeDetection::RisingEdge),
        Edge::Falling => Some(line::EdgeDetection::FallingEdge),
        Edge::Both => Some(line::EdgeDetection::BothEdges),
        Edge::None => None,
    }
}

const fn level(value: Value) -> Level {
    match value {
        Value::Active => Level::Active,
        Value::Inactive => Level::Inactive,
    }
}

const fn value(level: Level) -> Value {
    match level {
        Level::Active => Value::Active,
        Level::Inactive => Value::Inactive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_fits_into_the_kernels_name() {
        assert_eq!(consumer("line", "door"), "millrace line door");
        assert_eq!(consumer(&"p".repeat(40), "door").len(), CONSUMER_MAX);
    }

    #[test]
    fn a_chip_that_is_not_there_is_named() {
        let error = find(Some("gpiochip999"), Some(0), None).unwrap_err();
        assert_eq!(error.to_string(), "there is no GPIO chip gpiochip999");
        let error = find(Some("/dev/gpiochip999"), Some(0), None).unwrap_err();
        assert_eq!(error.to_string(), "there is no GPIO chip /dev/gpiochip999");
        let error = find(Some("/dev/null"), Some(0), None).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let error = find(None, None, Some("NOT-THERE")).unwrap_err();
        assert_eq!(error.to_string(), "there is no line named NOT-THERE on any GPIO chip");
    }
}
