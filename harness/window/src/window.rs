//! Which windows a time is in.

use std::fmt;
use std::str::FromStr;

/// Most windows that one message can be in.
pub const MAX_OVERLAP: u64 = 100;

/// The words of a window, as the harness is given them.
const FORMS: &str =
    "`tumbling <ns>`, `hopping <size ns> <every ns>`, `session <gap ns>`, `count <n>`";

/// Windows of a step with state. Times are nanoseconds of event time since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Which messages of a group belong together.
    pub kind: Kind,
    /// How much later than the newest message one may come, in nanoseconds. Not part of the text.
    pub lateness: u64,
}

/// Which messages of a group belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Windows one after another, the first at the epoch.
    Tumbling {
        /// Length, in nanoseconds.
        size: u64,
    },
    /// Windows that overlap, the first at the epoch.
    Hopping {
        /// Length, in nanoseconds.
        size: u64,
        /// How often one begins, in nanoseconds. Need not divide `size`.
        every: u64,
    },
    /// A window for as long as messages come.
    Session {
        /// It ends when none has come for so long, in nanoseconds.
        gap: u64,
    },
    /// A window for so many messages, whatever their time.
    Count {
        /// Number of messages.
        messages: u64,
    },
}

impl Window {
    /// The window without lateness.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, lateness: 0 }
    }

    /// The windows of fixed place that this time is in, as first nanosecond and first nanosecond after, earliest first.
    /// None for sessions and counts, whose place depends on the messages.
    pub(crate) fn around(&self, time: u64) -> impl Iterator<Item = (u64, u64)> {
        let (size, every) = match self.kind {
            Kind::Tumbling { size } => (size, size),
            Kind::Hopping { size, every } => (size, every),
            Kind::Session { .. } | Kind::Count { .. } => (0, 0),
        };
        // The last that begins no later, and those before that reach beyond `time`. None begins before the epoch.
        let last = time.checked_div(every).map(|number| number * every);
        let overlap = size.checked_div(every).unwrap_or_default();
        let starts = (0..=overlap).rev().filter_map(move |back| last?.checked_sub(back * every));
        starts
            .filter(move |start| time - start < size)
            .map(move |start| (start, start.saturating_add(size)))
    }
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not one of the forms.
    #[error("`{0}` is no window; the forms are {FORMS}")]
    NoSuch(String),
    /// A number that is none, or above 64 bits.
    #[error("`{number}` in the window `{window}` is not a whole number of at most 64 bits")]
    NotANumber {
        /// The window.
        window: String,
        /// The word that should be a number.
        number: String,
    },
    /// A number that must not be 0.
    #[error("the window `{0}` has a 0: no message would be in it")]
    Zero(String),
    /// Windows that leave room between them.
    #[error("the window `{window}` begins every {every} ns and is {size} ns long: messages between two would be in none")]
    Gaps {
        /// The window.
        window: String,
        /// Its length, in nanoseconds.
        size: u64,
        /// How often one begins, in nanoseconds.
        every: u64,
    },
    /// More than [`MAX_OVERLAP`].
    #[error("in the window `{window}` each message would be in {overlap} windows, at most {MAX_OVERLAP} are allowed")]
    Overlap {
        /// The window.
        window: String,
        /// Windows a message would be in.
        overlap: u64,
    },
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |word: &str| match word.parse::<u64>() {
            Ok(0) => Err(WindowError::Zero(text.to_owned())),
            Ok(number) => Ok(number),
            Err(_) => {
                Err(WindowError::NotANumber { window: text.to_owned(), number: word.to_owned() })
            }
        };
        let kind = match words.as_slice() {
            ["tumbling", size] => Kind::Tumbling { size: number(size)? },
            ["hopping", size, every] => hopping(text, number(size)?, number(every)?)?,
            ["session", gap] => Kind::Session { gap: number(gap)? },
            ["count", messages] => Kind::Count { messages: number(messages)? },
            _ => return Err(WindowError::NoSuch(text.to_owned())),
        };
        Ok(Self::new(kind))
    }
}

fn hopping(window: &str, size: u64, every: u64) -> Result<Kind, WindowError> {
    if every > size {
        return Err(WindowError::Gaps { window: window.to_owned(), size, every });
    }
    let overlap = size.div_ceil(every);
    if overlap > MAX_OVERLAP {
        return Err(WindowError::Overlap { window: window.to_owned(), overlap });
    }
    Ok(Kind::Hopping { size, every })
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Tumbling { size } => write!(f, "tumbling {size}"),
            Kind::Hopping { size, every } => write!(f, "hopping {size} {every}"),
            Kind::Session { gap } => write!(f, "session {gap}"),
            Kind::Count { messages } => write!(f, "count {messages}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(window: &str, time: u64) -> Vec<(u64, u64)> {
        window.parse::<Window>().unwrap().around(time).collect()
    }

    #[test]
    fn text_and_back() {
        for text in ["tumbling 10", "hopping 60 10", "hopping 25 10", "session 30", "count 100"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("", "`` is no window; the forms are `tumbling <ns>`"),
            ("tumbling", "`tumbling` is no window"),
            ("sliding 10", "`sliding 10` is no window"),
            ("tumbling 1 2", "`tumbling 1 2` is no window"),
            ("tumbling 1s", "`1s` in the window `tumbling 1s` is not a whole number"),
            ("count -1", "`-1` in the window"),
            ("session 18446744073709551616", "at most 64 bits"),
            ("tumbling 0", "the window `tumbling 0` has a 0"),
            ("hopping 10 0", "has a 0"),
            ("hopping 10 11", "begins every 11 ns and is 10 ns long"),
            ("hopping 1000 9", "each message would be in 112 windows, at most 100"),
        ] {
            let error = text.parse::<Window>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_time_is_in_these_windows() {
        assert_eq!(around("tumbling 10", 0), [(0, 10)]);
        assert_eq!(around("tumbling 10", 9), [(0, 10)]);
        assert_eq!(around("tumbling 10", 10), [(10, 20)]);
        // Every 10 begins one of 30.
        assert_eq!(around("hopping 30 10", 35), [(10, 40), (20, 50), (30, 60)]);
        assert_eq!(around("hopping 30 10", 40), [(20, 50), (30, 60), (40, 70)]);
        // None begins before the epoch.
        assert_eq!(around("hopping 30 10", 5), [(0, 30)]);
        // One of 25 every 10: two or three hold a time.
        assert_eq!(around("hopping 25 10", 44), [(20, 45), (30, 55), (40, 65)]);
        assert_eq!(around("hopping 25 10", 47), [(30, 55), (40, 65)]);
        assert_eq!(around("tumbling 10", u64::MAX), [(u64::MAX - 5, u64::MAX)]);
        assert_eq!(around("hopping 10 10", 12), [(10, 20)]);
        assert_eq!(around("session 10", 12), []);
        assert_eq!(around("count 10", 12), []);
    }
}
