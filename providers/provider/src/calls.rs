//! Answers the lattice's calls, each in a task of its own.
//!
//! The SDK has a function for it (`serve_provider_exports`), which keeps a quarter of a kilobyte of every call until the
//! process ends, as of 0.17.1: nobody takes what is done out of its set of tasks. At a hundred calls a second that is two
//! gigabytes a day.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt as _;
use futures::stream::{Stream, select_all};
use tokio::task::JoinSet;

/// Answers until `shutdown`; what is under way then is given up.
pub(crate) async fn answer<S, F, E>(
    calls: impl IntoIterator<Item = (&'static str, &'static str, S)>,
    shutdown: impl Future<Output = ()>,
) where
    S: Stream<Item = Result<F, E>> + Unpin,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Debug + Send + 'static,
{
    let named = |(instance, name, calls): (_, _, S)| calls.map(move |call| (instance, name, call));
    let mut calls = select_all(calls.into_iter().map(named));
    let mut shutdown = pin!(shutdown);
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some((instance, name, call)) = calls.next() => match call {
                Ok(call) => {
                    tasks.spawn(async move {
                        if let Err(error) = call.await {
                            tracing::warn!(?error, instance, name, "could not answer a call");
                        }
                    });
                }
                Err(error) => tracing::warn!(?error, instance, name, "could not take a call"),
            },
            Some(done) = tasks.join_next() => {
                if let Err(error) = done {
                    tracing::error!(%error, "answering a call failed");
                }
            }
            () = &mut shutdown => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::stream;
    use tokio::sync::Notify;

    use super::*;

    /// Lives as long as the task that has it.
    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    /// A set that nobody empties shows in the memory of the process: forty thousand tasks of a kilobyte.
    #[tokio::test]
    async fn what_is_done_is_not_kept() {
        const CALLS: usize = 40_000;
        let (alive, answered, end) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let before = resident();
        let call = |_| {
            let (count, answered, end) = (alive.clone(), answered.clone(), end.clone());
            count.fetch_add(1, Relaxed);
            let alive = Alive(count);
            let body = [0_u8; 1_000];
            Ok::<_, String>(async move {
                tokio::task::yield_now().await;
                drop((body, alive));
                if answered.fetch_add(1, Relaxed) + 1 == CALLS {
                    end.notify_one();
                }
                Ok(())
            })
        };
        let one_by_one = |call| async move {
            tokio::task::yield_now().await;
            call
        };
        let calls = stream::iter(0..CALLS).map(call).then(one_by_one).chain(stream::pending());
        answer([("instance", "name", calls.boxed())], end.notified()).await;
        assert_eq!((answered.load(Relaxed), alive.load(Relaxed)), (CALLS, 0));
        let grown = resident().saturating_sub(before);
        assert!(grown < 20 << 20, "{grown} bytes more after {CALLS} calls");
    }

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[tokio::test]
    async fn one_that_fails_or_hangs_holds_up_no_other() {
        let end = Arc::new(Notify::new());
        let done = end.clone();
        let calls: Vec<futures::future::BoxFuture<'static, Result<(), String>>> = vec![
            Box::pin(std::future::pending()),
            Box::pin(async { Err("no".to_owned()) }),
            Box::pin(async move {
                done.notify_one();
                Ok(())
            }),
        ];
        let refused = stream::iter([Err("not a call".to_owned())]);
        let calls = refused.chain(stream::iter(calls).map(Ok)).chain(stream::pending());
        let ended = answer([("instance", "name", calls.boxed())], end.notified());
        tokio::time::timeout(std::time::Duration::from_secs(5), ended).await.unwrap();
    }
}
