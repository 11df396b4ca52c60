//! No more than so many messages a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// A limit shared by all that hand on messages of an edge.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Messages a second; `None` is no limit.
    limit: Option<u64>,
    /// When the messages that were let go until now are paid for.
    paid: Mutex<Instant>,
}

impl Rate {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { limit, paid: Mutex::new(Instant::now()) }
    }

    /// What was let go and did not go after all costs nothing.
    pub(crate) fn forget(&self) {
        *self.paid.lock() = Instant::now();
    }

    /// Waits until `messages` more may go. A batch goes when those before it are
    /// paid for: the first one at once, and none needs a rate of its own size.
    pub(crate) async fn wait(&self, messages: usize) {
        let Some(limit) = self.limit else { return };
        let cost = Duration::from_secs_f64(messages as f64 / limit.max(1) as f64);
        let mine = {
            let mut paid = self.paid.lock();
            let mine = (*paid).max(Instant::now());
            *paid = mine + cost;
            mine
        };
        sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_of_any_size_come_to_the_rate() {
        let rate = Rate::new(Some(1_000));
        let start = Instant::now();
        for messages in [1, 500, 2_000, 499, 1_000] {
            rate.wait(messages).await;
        }
        // The last one has not been paid for yet.
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        rate.wait(1).await;
        assert_eq!(start.elapsed(), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_not_saved_up() {
        let rate = Rate::new(Some(10));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        rate.wait(10).await;
        rate.wait(10).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let start = Instant::now();
        Rate::new(None).wait(1_000_000).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
