//! Noticing that the host is gone.
//!
//! A host that is killed leaves its providers running, and they would go on
//! acknowledging into nothing. Linux could send a signal at the parent's death,
//! but it is tied to the *thread* that started the child: a host whose worker
//! thread merely ends would kill its providers. Watching the parent's process
//! id has no such surprise, works on every Unix, and needs no unsafe code.

use std::time::Duration;

use rustix::process::{Pid, getppid};

/// How often the parent is looked at.
pub const INTERVAL: Duration = Duration::from_millis(250);

/// The parent process as it was at the start.
#[derive(Debug, Clone, Copy)]
pub struct Parent(Option<Pid>);

impl Parent {
    /// Notes who the parent is. Call it first thing in `main`: a parent that
    /// died before is not noticed.
    #[must_use]
    pub fn now() -> Self {
        Self(getppid())
    }

    /// Whether the parent is still the one noted.
    #[must_use]
    pub fn lives(self) -> bool {
        getppid() == self.0
    }

    /// Returns when the parent is gone and this process has been adopted.
    pub async fn gone(self) {
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tick.tick().await;
            if !self.lives() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_parent_of_a_test_lives() {
        let parent = Parent::now();
        assert!(parent.lives());
        assert!(tokio::time::timeout(INTERVAL * 3, parent.gone()).await.is_err());
    }

    #[tokio::test]
    async fn another_parent_means_gone() {
        // The process id of this process is never that of its parent.
        let other = Parent(Some(rustix::process::getpid()));
        assert!(tokio::time::timeout(INTERVAL * 3, other.gone()).await.is_ok());
    }
}
