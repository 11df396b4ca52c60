//! What passed each durable edge, from their histories: where on its way a message was repeated.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt as _;
use millrace_batch::Batch;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::message;

/// How often each number was stored on one edge.
#[derive(Debug, Default)]
struct Passed {
    times: Vec<u32>,
    /// The last of the history that was looked at.
    sequence: u64,
}

impl Passed {
    fn times(&self, number: usize) -> u32 {
        self.times.get(number).copied().unwrap_or_default()
    }
}

/// Reads the history of one edge while the run lasts.
#[derive(Debug)]
pub(crate) struct Hop {
    passed: Arc<Mutex<Passed>>,
    reader: JoinHandle<()>,
}

impl Hop {
    /// Begins to read.
    pub(crate) fn start(nats_url: String, history: String) -> Self {
        let passed = Arc::<Mutex<Passed>>::default();
        let entered = Arc::clone(&passed);
        let reader = tokio::spawn(async move {
            // Whatever goes wrong: the server is away, or the edge is not there yet.
            while read(&nats_url, &history, &entered).await.is_err() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Self { passed, reader }
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Ends with an error alone.
async fn read(nats_url: &str, history: &str, passed: &Mutex<Passed>) -> anyhow::Result<()> {
    let js = async_nats::jetstream::new(async_nats::connect(nats_url).await?);
    let stream = js.get_stream(history).await?;
    let start_sequence = passed.lock().sequence + 1;
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    loop {
        let mut batches = consumer.fetch().max_messages(200).messages().await?;
        let mut none = true;
        while let Some(batch) = batches.next().await {
            none = false;
            let batch = batch.map_err(|e| anyhow::anyhow!("history: {e}"))?;
            let sequence = batch.info().map_err(|e| anyhow::anyhow!("{e}"))?.stream_sequence;
            let parsed = Batch::parse(&batch.payload)?;
            let mut passed = passed.lock();
            passed.sequence = sequence;
            for message in parsed.messages() {
                let number = message::read(message.payload).context("not as it was sent")?;
                let at = usize::try_from(number)?;
                if passed.times.len() <= at {
                    passed.times.resize(at + 1, 0);
                }
                if let Some(times) = passed.times.get_mut(at) {
                    *times += 1;
                }
            }
        }
        if none {
            // It ends at once where nothing waits.
            tokio::time::sleep(Duration::from_millis(200)).await;
            js.get_stream(history).await?;
        }
    }
}

/// Where messages were repeated. A repeat that the next edge knows goes no further, so that fewer come out twice.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Repeats {
    /// Stored again on the first edge: the source took them again, or had no answer.
    pub(crate) first_edge: u64,
    /// Stored again on the second, beyond that.
    pub(crate) second_edge: u64,
    /// Came out again, beyond that.
    pub(crate) sink: u64,
}

impl Repeats {
    /// Counts them: how often each number was on the first edge and on the second, and came out.
    pub(crate) fn count(first: &Hop, second: &Hop, came: &[u32]) -> Self {
        Self::of(&first.passed.lock(), &second.passed.lock(), came)
    }

    fn of(first: &Passed, second: &Passed, came: &[u32]) -> Self {
        let mut repeats = Self::default();
        let all = first.times.len().max(second.times.len()).max(came.len());
        for number in 0..all {
            let (first, second) = (first.times(number), second.times(number));
            let came = came.get(number).copied().unwrap_or_default();
            repeats.first_edge += u64::from(first.saturating_sub(1));
            // A history misses what nats-server was writing when it was killed.
            if first > 0 {
                repeats.second_edge += u64::from(second.saturating_sub(first));
            }
            if second > 0 {
                repeats.sink += u64::from(came.saturating_sub(second));
            }
        }
        repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_belongs_to_the_first_place_that_has_it() {
        let passed = |times: &[u32]| Passed { times: times.to_vec(), sequence: 0 };
        let repeats = |first: &[u32], second: &[u32], came: &[u32]| {
            Repeats::of(&passed(first), &passed(second), came)
        };
        let of = |first_edge, second_edge, sink| Repeats { first_edge, second_edge, sink };
        assert_eq!(repeats(&[1, 1], &[1, 1], &[1, 1]), of(0, 0, 0));
        assert_eq!(repeats(&[1, 3], &[1, 3], &[1, 3]), of(2, 0, 0));
        assert_eq!(repeats(&[1, 1], &[2, 1], &[2, 1]), of(0, 1, 0));
        assert_eq!(repeats(&[1, 1], &[1, 1], &[1, 4]), of(0, 0, 3));
        assert_eq!(repeats(&[2], &[3], &[5]), of(1, 1, 2));
        assert_eq!(repeats(&[0, 1], &[1, 0], &[1, 1]), of(0, 0, 0), "what a history missed");
    }
}
