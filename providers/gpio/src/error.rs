//! Why a line could not be had or used, in the words of whoever has to mend it.

use std::path::PathBuf;

use rustix::io::Errno;

/// What went wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// No device of that name, and no chip of that label.
    #[error("there is no GPIO chip {0}")]
    NoChip(String),
    /// A label that several chips have.
    #[error("several GPIO chips are labelled {label}: {}", list(.found))]
    AmbiguousChip {
        /// The label.
        label: String,
        /// The devices that have it.
        found: Vec<PathBuf>,
    },
    /// No line of that name where it was looked for.
    #[error("there is no line named {line} on {on}")]
    NoLine {
        /// The name.
        line: String,
        /// Where it was looked for.
        on: String,
    },
    /// A name that several lines have.
    #[error("several lines are named {line}, on {}: give chip and offset", list(.found))]
    AmbiguousLine {
        /// The name.
        line: String,
        /// The devices of the lines.
        found: Vec<PathBuf>,
    },
    /// An offset beyond the chip's last line.
    #[error("{} has lines 0 to {last}, and no {offset}", .chip.display())]
    NoOffset {
        /// The device.
        chip: PathBuf,
        /// What was asked for.
        offset: u32,
        /// The greatest offset there is.
        last: u32,
    },
    /// Somebody else has the line.
    #[error("line {offset} of {} is in use by {by}", .chip.display())]
    InUse {
        /// The device.
        chip: PathBuf,
        /// The line.
        offset: u32,
        /// Who has it, as the kernel knows.
        by: String,
    },
    /// The device may not be opened.
    #[error("{}: permission denied: this process needs read and write access", .0.display())]
    Denied(PathBuf),
    /// The chip has been taken away.
    #[error("{} is gone", .0.display())]
    Gone(PathBuf),
    /// Anything else the kernel says.
    #[error("{doing} line {offset} of {}: {reason}", .chip.display())]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// The device.
        chip: PathBuf,
        /// The line.
        offset: u32,
        /// What the kernel answered.
        reason: String,
    },
}

impl LineError {
    /// Whether the line has to be opened again.
    pub(crate) const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The kernel's error number in an error of the library, if there is one.
pub(crate) fn errno(error: &gpiocdev::Error) -> Option<Errno> {
    let number = match error {
        gpiocdev::Error::Os(number)
        | gpiocdev::Error::Uapi(_, gpiocdev_uapi::Error::Os(number)) => number.0,
        _ => return None,
    };
    Some(Errno::from_raw_os_error(number))
}
