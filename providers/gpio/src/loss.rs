//! Edges that the kernel had to drop: counted at once, said now and then.

use std::time::Duration;

use millrace_kit::Link;
use tokio::time::Instant;

/// Shortest time between two notices. A line that is too fast loses edges with
/// every read.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// Losses not yet said.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    unsaid: u64,
    said_at: Option<Instant>,
}

impl Losses {
    /// Counts lost edges.
    pub(crate) fn add(&mut self, link: &Link, lost: u32) {
        link.telemetry.dropped(u64::from(lost));
        self.unsaid = self.unsaid.saturating_add(u64::from(lost));
    }

    /// When there will be something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = || Instant::now();
        (self.unsaid > 0).then(|| self.said_at.map_or_else(now, |said| said + SAID_EVERY))
    }

    /// Says what was lost, if it is time or this is the `last` word.
    pub(crate) fn say(&mut self, link: &Link, last: bool) {
        if self.due().is_some_and(|due| last || due <= Instant::now()) {
            link.noticed(format_args!("{} edges lost: the kernel's buffer was full", self.unsaid));
            self.unsaid = 0;
            self.said_at = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_kit::{Direction, LinkNames};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_edge_is_counted_and_a_flood_is_said_once_a_second() {
        let names = LinkNames { pipeline: "p".into(), name: "in".into(), stage: "s".into() };
        let link = Link::new(names, Direction::Source);
        let errors = |link: &Link| link.status().counters.errors.get("connection").copied();
        let mut losses = Losses::default();
        losses.say(&link, false);
        losses.say(&link, true);
        assert_eq!(errors(&link), None);
        for _ in 0..100 {
            losses.add(&link, 3);
            losses.say(&link, false);
        }
        assert_eq!((link.status().counters.dropped, errors(&link)), (300, Some(1)));
        tokio::time::advance(SAID_EVERY).await;
        assert!(losses.due().is_some_and(|due| due <= Instant::now()));
        losses.say(&link, false);
        assert_eq!(errors(&link), Some(2));
        let text = link.status().counters.last_error.unwrap().text;
        assert_eq!(text, "297 edges lost: the kernel's buffer was full");
        assert_eq!(losses.due(), None);
        losses.add(&link, 1);
        losses.say(&link, true);
        assert_eq!(errors(&link), Some(3), "the last word is not put off");
    }
}
