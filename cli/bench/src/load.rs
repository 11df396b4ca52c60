//! Makes calls and takes times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

/// A call that takes this long is lost.
const LOST: Duration = Duration::from_secs(20);

/// Calls that were all answered.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) elapsed: Duration,
    pub(crate) times: Times,
}

impl Load {
    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        self.times.0.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Makes `calls` calls, always `in_flight` at once; the closure is given the call's number.
///
/// # Errors
///
/// The first call that failed, or was not answered within 20 s.
pub(crate) async fn drive<F, Fut>(calls: usize, in_flight: usize, call: F) -> anyhow::Result<Load>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let call = Arc::new(call);
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    // Ends its tasks when it is dropped.
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (call, next) = (Arc::clone(&call), Arc::clone(&next));
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(calls.div_ceil(in_flight));
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return anyhow::Ok(times);
                }
                let start = Instant::now();
                tokio::time::timeout(LOST, call(number))
                    .await
                    .with_context(|| format!("call {number} was not answered in {LOST:?}"))??;
                times.push(start.elapsed());
            }
        });
    }
    let mut all = Vec::with_capacity(calls);
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(Load { elapsed: start.elapsed(), times: Times::new(all) })
}

/// Times, sorted.
#[derive(Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that this part of all is not above, in microseconds; 0 when there are none.
    pub(crate) fn quantile_us(&self, part: f64) -> f64 {
        let at = (self.0.len() as f64 * part).ceil() as usize;
        let found = self.0.get(at.saturating_sub(1)).copied().unwrap_or_default();
        found.as_secs_f64() * 1e6
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The middle one; of an even number the upper of the two. 0 when there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn makes_each_call_once_and_keeps_to_the_number_in_flight() {
        let (now, most, sum) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (n, m, s) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&sum));
        let load = drive(100, 4, move |number| {
            let (now, most) = (Arc::clone(&n), Arc::clone(&m));
            s.fetch_add(number, Ordering::SeqCst);
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        });
        let load = load.await.unwrap();
        assert_eq!(load.times.len(), 100);
        assert_eq!(most.load(Ordering::SeqCst), 4);
        assert_eq!(sum.load(Ordering::SeqCst), 4950);
        assert!(load.times.quantile_us(0.5) >= 1000.0);
    }

    #[tokio::test]
    async fn a_failed_call_fails_the_measurement() {
        let load = drive(10, 2, |number| async move {
            anyhow::ensure!(number != 7, "seven");
            Ok(())
        });
        assert_eq!(load.await.unwrap_err().to_string(), "seven");
    }

    #[test]
    fn quantiles_and_medians() {
        let times = Times::new((1..=100).rev().map(Duration::from_micros).collect());
        assert!((times.quantile_us(0.5) - 50.0).abs() < 1e-6);
        assert!((times.quantile_us(0.99) - 99.0).abs() < 1e-6);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
