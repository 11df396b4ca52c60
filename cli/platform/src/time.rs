//! Times on the command lines.

use std::time::Duration;

/// `20s`, `5m`, `1h`, `500ms` or a plain number of seconds.
///
/// # Errors
///
/// What is wrong, and how a time is written.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a time; write it as 20s, 5m, 1h or 500ms"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("`{unit}` is no unit of time; write it as 20s, 5m, 1h or 500ms")),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is too long a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_time("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("7"), Ok(Duration::from_secs(7)));
        assert!(parse_time("20 parsecs").is_err_and(|e| e.contains("500ms")));
        assert!(parse_time("").is_err());
        assert!(parse_time("99999999999999999999s").is_err());
    }
}
