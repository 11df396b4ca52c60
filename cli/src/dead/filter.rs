//! Which dead letters a command is about.

use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

use super::letter::Letter;

const WHICH: &str = "Which letters";

/// Which letters; without any of these, all.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Filter {
    /// Only those of this stage; may be given several times.
    #[arg(long, help_heading = WHICH, value_name = "STAGE")]
    pub(crate) stage: Vec<String>,
    /// Only those that this step refused; may be given several times.
    #[arg(long, help_heading = WHICH, value_name = "STEP")]
    pub(crate) step: Vec<String>,
    /// Only these kinds: invalid-argument, internal, retry, trap, timeout, batch, refused.
    #[arg(long, help_heading = WHICH, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
    /// Only of this topic; `*` stands for any characters, `?` for one.
    #[arg(long, help_heading = WHICH, value_name = "TOPIC")]
    pub(crate) topic: Option<Glob>,
    /// Only with this key, written as `list` shows it.
    #[arg(long, help_heading = WHICH, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only those written since: an age as 90s, 15m, 2h or 3d, or a time as 2026-01-31T08:00:00Z.
    #[arg(long, help_heading = WHICH, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Only those written until.
    #[arg(long, help_heading = WHICH, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Only those whose reason contains this text.
    #[arg(long, help_heading = WHICH, value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// Only these numbers, as `list` shows them: 12, 12..20, 12.. or ..20.
    #[arg(long, help_heading = WHICH, value_name = "A..B")]
    pub(crate) seq: Option<Numbers>,
    /// The first so many that fit.
    #[arg(long, help_heading = WHICH, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

impl Filter {
    /// Whether every letter is meant.
    pub(crate) fn is_all(&self) -> bool {
        let Self { stage, step, kind, topic, key, since, until, text, seq, limit } = self;
        stage.is_empty()
            && step.is_empty()
            && kind.is_empty()
            && topic.is_none()
            && key.is_none()
            && since.is_none()
            && until.is_none()
            && text.is_none()
            && seq.is_none()
            && limit.is_none()
    }

    /// Whether a letter is meant, the limit apart.
    pub(crate) fn fits(&self, letter: &Letter<'_>) -> bool {
        let among = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|w| w == found))
        };
        among(&self.stage, Some(letter.stage))
            && among(&self.step, letter.step)
            && among(&self.kind, letter.kind)
            && self.topic.as_ref().is_none_or(|glob| glob.fits(letter.message.topic))
            && self.key.as_ref().is_none_or(|key| letter.key().as_ref() == Some(key))
            && self.since.is_none_or(|since| letter.time >= since.0)
            && self.until.is_none_or(|until| letter.time <= until.0)
            && self.text.as_ref().is_none_or(|text| letter.text.contains(text.as_str()))
            && self.seq.as_ref().is_none_or(|numbers| numbers.0.contains(&letter.seq))
    }

    /// Numbers of the stream that can fit.
    pub(crate) fn numbers(&self) -> RangeInclusive<u64> {
        self.seq.as_ref().map_or(0..=u64::MAX, |numbers| numbers.0.clone())
    }
}

/// A moment, written as such or as an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        let wrong = || {
            format!(
                "`{text}` is neither an age (90s, 15m, 2h, 3d) nor a time (2026-01-31T08:00:00Z)"
            )
        };
        let age = match text.strip_suffix('d') {
            Some(days) => days.parse().ok().and_then(TimeDelta::try_days),
            None => millrace_platform::parse_time(text)
                .ok()
                .and_then(|age| TimeDelta::from_std(age).ok()),
        };
        let age = age.filter(|age| *age >= TimeDelta::zero()).ok_or_else(wrong)?;
        Utc::now().checked_sub_signed(age).map(Self).ok_or_else(wrong)
    }
}

/// Numbers of letters, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbers(RangeInclusive<u64>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, open: u64| match text {
            "" => Ok(open),
            digits => digits.parse().map_err(|_| format!("`{digits}` is no number of a letter")),
        };
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (number(first, 0)?, number(last, u64::MAX)?),
            None if text.is_empty() => return Err("write 12, 12..20, 12.. or ..20".to_owned()),
            None => (number(text, 0)?, number(text, 0)?),
        };
        if first > last {
            return Err(format!("{first} is above {last}"));
        }
        Ok(Self(first..=last))
    }
}

/// A text in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<char>);

impl FromStr for Glob {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.chars().collect()))
    }
}

impl Glob {
    fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut pattern) = (0, 0);
        // Where the last star is, and what it covers up to. To give it one character more is always enough.
        let mut star = None;
        while let Some(character) = text.get(at) {
            match self.0.get(pattern) {
                Some('*') => {
                    star = Some((pattern, at));
                    pattern += 1;
                }
                Some(wanted) if *wanted == '?' || wanted == character => {
                    at += 1;
                    pattern += 1;
                }
                _ => match star {
                    Some((place, covered)) => {
                        star = Some((place, covered + 1));
                        (pattern, at) = (place + 1, covered + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0.iter().skip(pattern).all(|left| *left == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_fits_its_pattern_and_no_other() {
        let fits = |glob: &str, text: &str| glob.parse::<Glob>().unwrap().fits(text);
        for (glob, text) in [
            ("plant/a", "plant/a"),
            ("plant/*", "plant/a/b"),
            ("*", ""),
            ("*/temperature", "plant/m1/temperature"),
            ("plant/*/temp*", "plant/m1/x/temperature"),
            ("m?", "mü"),
            ("a*b*c", "a-b-b-c"),
        ] {
            assert!(fits(glob, text), "{glob} {text}");
        }
        for (glob, text) in [
            ("plant/a", "plant/ab"),
            ("plant/a", "plant/"),
            ("plant/*", "hall/a"),
            ("m?", "m"),
            ("a*b*c", "a-b-b-d"),
            ("", "a"),
        ] {
            assert!(!fits(glob, text), "{glob} {text}");
        }
    }

    #[test]
    fn moments_are_ages_or_times() {
        let time: Moment = "2026-01-31T09:00:00+01:00".parse().unwrap();
        assert_eq!(time.0.to_rfc3339(), "2026-01-31T08:00:00+00:00");
        let age = |text: &str| {
            let moment = text.parse::<Moment>().unwrap();
            Utc::now() - moment.0
        };
        assert!((7200..7205).contains(&age("2h").num_seconds()));
        assert_eq!(age("3d").num_days(), 3);
        for wrong in ["", "yesterday", "2026-01-31", "-3d", "9999999999999d", "99999999999h"] {
            let error = wrong.parse::<Moment>().unwrap_err();
            assert!(error.contains("2026-01-31T08:00:00Z"), "{error}");
        }
    }

    #[test]
    fn numbers_are_one_or_from_to() {
        let numbers = |text: &str| text.parse::<Numbers>().map(|numbers| numbers.0);
        assert_eq!(numbers("12"), Ok(12..=12));
        assert_eq!(numbers("12..20"), Ok(12..=20));
        assert_eq!(numbers("12.."), Ok(12..=u64::MAX));
        assert_eq!(numbers("..20"), Ok(0..=20));
        for wrong in ["", "a", "1..b", "3..2", "-1", "1.2"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }
}
