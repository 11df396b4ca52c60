//! Times as in RFC 3339.

/// Nanoseconds since 1970; nothing where the text is no time, or one before 1970 or after 2554. A leap second is the first
/// second after it.
pub fn read(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let (hour, rest) = rest.split_once(':')?;
    let (minute, rest) = rest.split_once(':')?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (second, zone) = rest.split_at(end);
    let (second, fraction) = second.split_once('.').map_or((second, None), |(s, f)| (s, Some(f)));
    let of_day = number(hour, 2, 0..=23)? * 3_600
        + number(minute, 2, 0..=59)? * 60
        + number(second, 2, 0..=60)?;
    let seconds = days(date)? * 86_400 + of_day - offset(zone)?;
    let seconds = u64::try_from(seconds).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction.map_or(Some(0), nanoseconds)?)
}

/// So many digits, and a number within a range.
fn number(text: &str, digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| good && range.contains(number))
}

/// Days from 1970-01-01 to this one.
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, 0..=9_999)?;
    let month = number(parts.next()?, 2, 1..=12)?;
    let day = number(parts.next()?, 2, 1..=length(year, month))?;
    if parts.next().is_some() {
        return None;
    }
    let before = |year: i64| {
        365 * (year - 1) + (year - 1).div_euclid(4) - (year - 1).div_euclid(100)
            + (year - 1).div_euclid(400)
    };
    let months: i64 = (1..month).map(|month| length(year, month)).sum();
    Some(before(year) - before(1970) + months + day - 1)
}

fn length(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Seconds that a zone is ahead.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = if zone.starts_with('+') { 1 } else { -1 };
    let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
    Some(sign * (number(hours, 2, 0..=23)? * 3_600 + number(minutes, 2, 0..=59)? * 60))
}

/// Of a fraction of a second; what is finer is left out.
fn nanoseconds(fraction: &str) -> Option<u64> {
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn times() {
        let second = 1_000_000_000;
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-01T00:00:00Z", 1_767_225_600 * second),
            ("2026-01-01t01:30:00.5+01:30", 1_767_225_600 * second + second / 2),
            ("2025-12-31 23:00:00.0000000019-01:00", 1_767_225_600 * second + 1),
            ("2000-02-29T12:00:00Z", 951_825_600 * second),
            ("2100-03-01T00:00:00Z", 4_107_542_400 * second),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * second),
            ("2554-07-21T23:34:33Z", 18_446_744_073 * second),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-1-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-01-01-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1.1Z",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00+01:00Z",
            "+026-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2554-07-22T00:00:00Z",
            "２026-01-01T00:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
