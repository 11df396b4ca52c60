//! The source: takes what the server hands over, answers when it is safe.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_batch::Fields;
use millrace_kit::{Backoff, Delivery, Inlet, Limits, Link, Source};
use millrace_settings::http::SourceSettings;
use tokio::sync::mpsc;

use crate::door::{Doors, Entry};
use crate::way::{Job, Pending, Way};

/// Most bytes of requests of one source that are read or not yet safe. A body has its bytes set aside before it is read.
pub const HELD_BYTES: usize = 32 << 20;

/// Takes requests over HTTP.
#[derive(Debug)]
pub struct HttpSource {
    settings: SourceSettings,
    limits: Limits,
    doors: Arc<Doors>,
}

impl HttpSource {
    /// A source at one of these servers.
    #[must_use]
    pub const fn new(settings: SourceSettings, limits: Limits, doors: Arc<Doors>) -> Self {
        Self { settings, limits, doors }
    }
}

impl Source for HttpSource {
    fn run(self: Box<Self>, link: Arc<Link>, delivery: Arc<Delivery>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let inlet = Inlet::new(delivery, Arc::clone(&link), self.limits);
            let (sender, jobs) = mpsc::unbounded_channel();
            let way = Arc::new(Way::new(self.settings, Arc::clone(&link), HELD_BYTES, sender));
            let Some(entry) = enter(&self.doors, &way, &link).await else { return };
            link.connected();
            let mut taking = Taking { link, inlet, jobs };
            taking.until_drained().await;
            taking.finish().await;
            // Who waits for what is not safe is told so, before the server ends.
            drop(taking);
            entry.leave().await;
        })
    }
}

/// The path at the server, tried until it is had; nothing when the link is drained before.
async fn enter(doors: &Doors, way: &Arc<Way>, link: &Link) -> Option<Entry> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let entered = async {
            way.ready().await?;
            doors.enter(way).await
        };
        match entered.await {
            Ok(entry) => return Some(entry),
            Err(error) => link.retrying(error),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = link.drain.cancelled() => return None,
        }
    }
}

struct Taking {
    link: Arc<Link>,
    inlet: Inlet<Arc<Pending>>,
    jobs: mpsc::UnboundedReceiver<Job>,
}

impl Taking {
    async fn until_drained(&mut self) {
        let drain = self.link.drain.clone();
        loop {
            tokio::select! {
                Some(job) = self.jobs.recv() => self.take(&job),
                safe = self.inlet.settled() => settle(&safe),
                () = drain.cancelled() => return,
            }
        }
    }

    /// Those that wait for an answer get it. Requests that come now are told to come again.
    async fn finish(&mut self) {
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.take(&job);
        }
        self.inlet.flush();
        while !self.inlet.is_idle() {
            tokio::select! {
                safe = self.inlet.settled() => settle(&safe),
                () = self.link.leave.cancelled() => break,
            }
        }
    }

    fn take(&mut self, job: &Job) {
        let Job { common, payloads, pending } = job;
        for (number, payload) in payloads.iter().enumerate() {
            let mut headers: Vec<(&str, &str)> = common
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let numbered = common.numbered.and_then(|at| headers.get_mut(at));
            let told_apart;
            if let Some((_, value)) = numbered {
                told_apart = format!("{value}/{number}");
                *value = &told_apart;
            }
            let fields = Fields {
                timestamp: common.timestamp,
                topic: &common.topic,
                content_type: common.content_type.as_deref(),
                key: common.key.as_deref(),
                payload,
            };
            if let Err(error) = self.inlet.push(&fields, &headers, Arc::clone(pending)) {
                // Its size was checked before. The request is not answered as safe: one of its messages is missing.
                self.link.noticed(format_args!("a message was not taken: {error}"));
            }
        }
    }
}

fn settle(safe: &[Arc<Pending>]) {
    for pending in safe {
        pending.settle();
    }
}
