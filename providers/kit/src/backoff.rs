//! Pauses between retries.
//!
//! Many links fail together when one broker or host goes away. Without jitter
//! they would all come back in the same instant and knock it over again, so
//! every pause is drawn at random below a bound that doubles ("full jitter",
//! with a floor so that a retry is never immediate).

use std::time::Duration;

use rand::Rng;

/// A doubling, bounded, jittered sequence of pauses.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// Pauses from `min` up to `max`. The first is `min`; each later one is
    /// drawn between half of its bound and its bound, and the bound doubles.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), bound: min }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(rand::rng().random_range(0.5..=1.0)).max(self.min)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.bound = self.min;
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_between_the_bounds_and_grows() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(1_000));
        let mut backoff = Backoff::new(min, max);
        assert_eq!(backoff.next_pause(), min);
        let pauses: Vec<_> = (0..50).map(|_| backoff.next_pause()).collect();
        assert!(pauses.iter().all(|p| (min..=max).contains(p)), "{pauses:?}");
        assert!(
            pauses.iter().skip(10).all(|p| *p >= max / 2),
            "the bound has been reached: {pauses:?}"
        );
    }

    #[test]
    fn is_jittered() {
        let draw = || {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            (0..8).map(|_| backoff.next_pause()).collect::<Vec<_>>()
        };
        assert_ne!(draw(), draw(), "two links must not retry in step");
    }

    #[test]
    fn a_maximum_below_the_minimum_is_raised() {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::ZERO);
        assert_eq!(backoff.next_pause(), Duration::from_secs(5));
    }

    #[test]
    fn resets() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        for _ in 0..5 {
            backoff.next_pause();
        }
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::from_millis(10));
    }
}
