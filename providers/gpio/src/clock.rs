//! The kernel's timestamps as wall time.

use chrono::{DateTime, SecondsFormat};
use millrace_kit::telemetry::now_ns;
use millrace_settings::gpio::EventClock;
use rustix::time::{ClockId, clock_gettime};

/// Makes timestamps of one clock into nanoseconds since the Unix epoch.
///
/// Monotonic timestamps are moved by the distance of the two clocks at the
/// moment this is made. Made anew for every read, a step of the wall clock
/// between edge and reading shifts those few timestamps, and none after them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wall {
    ahead: i128,
}

impl Wall {
    pub(crate) fn now(clock: EventClock) -> Self {
        match clock {
            EventClock::Realtime => Self { ahead: 0 },
            EventClock::Monotonic => {
                let monotonic = clock_gettime(ClockId::Monotonic);
                let monotonic =
                    i128::from(monotonic.tv_sec) * 1_000_000_000 + i128::from(monotonic.tv_nsec);
                Self { ahead: i128::from(now_ns()) - monotonic }
            }
        }
    }

    pub(crate) fn of(self, timestamp: u64) -> u64 {
        u64::try_from(i128::from(timestamp) + self.ahead).unwrap_or_default()
    }
}

/// RFC 3339 with nanoseconds, in UTC.
pub(crate) fn rfc3339(ns: u64) -> String {
    // Out of range from the year 2262 on.
    let ns = i64::try_from(ns).unwrap_or(i64::MAX);
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_nanoseconds() {
        assert_eq!(rfc3339(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn monotonic_time_becomes_wall_time() {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let now = u64::try_from(monotonic.tv_sec).unwrap() * 1_000_000_000
            + u64::try_from(monotonic.tv_nsec).unwrap();
        let wall = Wall::now(EventClock::Monotonic).of(now);
        assert!(now_ns().abs_diff(wall) < 1_000_000_000, "{wall}");
        assert_eq!(Wall::now(EventClock::Realtime).of(17), 17);
    }
}
