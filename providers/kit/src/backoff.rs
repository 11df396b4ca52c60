//! Pauses between retries.
//!
//! Many links fail together when one broker or host goes away. Without jitter
//! they would all come back in the same instant and knock it over again, so
//! every pause, the first too, is drawn at random between half of a bound and
//! the bound, which doubles.

use std::time::Duration;

use rand::Rng;

/// A doubling, bounded, jittered sequence of pauses.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// Pauses of at most `first`, then twice that, and so on up to `max`, and
    /// of no less than half of it.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max: max.max(first), bound: first }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.bound = self.first;
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
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(1_000));
        let mut backoff = Backoff::new(first, max);
        assert!((first / 2..=first).contains(&backoff.next_pause()));
        let pauses: Vec<_> = (0..50).map(|_| backoff.next_pause()).collect();
        assert!(pauses.iter().all(|p| (first..=max).contains(p)), "{pauses:?}");
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
        let (one, other) = (draw(), draw());
        assert_ne!(one.first(), other.first(), "what fails together must not retry together");
        assert_ne!(one, other, "two links must not retry in step");
    }

    #[test]
    fn a_maximum_below_the_minimum_is_raised() {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::ZERO);
        backoff.next_pause();
        assert!(backoff.next_pause() <= Duration::from_secs(5));
    }

    #[test]
    fn resets() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        for _ in 0..5 {
            backoff.next_pause();
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(10));
    }
}
