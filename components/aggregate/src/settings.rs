//! What the pipeline says about the step.

use crate::reading::Path;

const DEFAULT: &str = "count,mean,min,max";

/// What is told of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Variance,
    First,
    Last,
    /// From 0 to 100.
    Percentile(f64),
}

impl Function {
    /// What a state has to keep for it.
    fn part(self) -> u8 {
        match self {
            Self::Count => 0,
            Self::Sum | Self::Mean => parts::SUM,
            Self::Min => parts::MIN,
            Self::Max => parts::MAX,
            Self::Variance => parts::SPREAD,
            Self::First => parts::FIRST,
            Self::Last => parts::LAST,
            Self::Percentile(_) => parts::SKETCH,
        }
    }
}

/// What a state keeps beside the number of readings, one bit each.
pub mod parts {
    pub const SUM: u8 = 1;
    pub const MIN: u8 = 2;
    pub const MAX: u8 = 4;
    pub const SPREAD: u8 = 8;
    pub const FIRST: u8 = 16;
    pub const LAST: u8 = 32;
    pub const SKETCH: u8 = 64;
    pub const ALL: u8 = 127;
}

#[derive(Debug)]
pub struct Settings {
    /// Where the reading is.
    pub path: Path,
    /// What is told of a window, with the names as they were given.
    pub functions: Vec<(String, Function)>,
    /// Topic of the result, where it is not the window's.
    pub topic: Option<String>,
}

impl Settings {
    pub fn read(configuration: Vec<(String, String)>) -> Result<Self, String> {
        let (mut path, mut functions, mut topic) = (Path::Payload, DEFAULT.to_owned(), None);
        for (name, value) in configuration {
            match name.as_str() {
                "value" => path = Path::new(&value)?,
                "functions" => functions = value,
                "topic" => topic = Some(value),
                other => return Err(format!("no such setting: `{other}`")),
            }
        }
        let mut found: Vec<(String, Function)> = Vec::new();
        for name in functions.split(',').map(str::trim) {
            if found.iter().any(|(other, _)| other == name) {
                return Err(format!("`{name}` is there twice in `functions`"));
            }
            found.push((name.to_owned(), function(name)?));
        }
        Ok(Self { path, functions: found, topic })
    }

    /// What a state has to keep.
    pub fn parts(&self) -> u8 {
        self.functions.iter().fold(0, |all, (_, function)| all | function.part())
    }
}

fn function(name: &str) -> Result<Function, String> {
    Ok(match name {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "mean" => Function::Mean,
        "min" => Function::Min,
        "max" => Function::Max,
        "variance" => Function::Variance,
        "first" => Function::First,
        "last" => Function::Last,
        _ => Function::Percentile(percentile(name).ok_or_else(|| {
            format!(
                "no such function: `{name}`; there are count, sum, mean, min, max, variance, first, last, and \
                 percentiles from p0 to p100"
            )
        })?),
    })
}

fn percentile(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    digits.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        )
    }

    #[test]
    fn functions_and_what_they_need() {
        let settings = read(&[("functions", "p50, p99.9,mean")]).expect("settings");
        assert_eq!(settings.parts(), parts::SKETCH | parts::SUM);
        let names: Vec<&str> = settings.functions.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p50", "p99.9", "mean"]);
        assert_eq!(read(&[]).expect("defaults").parts(), parts::SUM | parts::MIN | parts::MAX);
    }

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        for (name, value, expected) in [
            ("funktions", "count", "no such setting: `funktions`"),
            ("functions", "count,median", "no such function: `median`; there are count,"),
            ("functions", "p101", "no such function: `p101`"),
            ("functions", "p-1", "no such function: `p-1`"),
            ("functions", "pinf", "no such function: `pinf`"),
            ("functions", "", "no such function: ``"),
            ("functions", "min,min", "`min` is there twice in `functions`"),
            ("value", "", "`value` is empty"),
            ("value", "a..b", "`value` is no path: `a..b`"),
        ] {
            let error = read(&[(name, value)]).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
