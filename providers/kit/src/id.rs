//! Identities of batches and traces.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::Rng;
use ulid::Ulid;

/// Makes batch ids: unique for every process (a ULID drawn at its start) and
/// every batch (a sequence number), so that JetStream's de-duplication never
/// takes one batch for another.
#[derive(Debug)]
pub struct BatchIds {
    process: Ulid,
    next: AtomicU64,
}

impl Default for BatchIds {
    fn default() -> Self {
        Self { process: Ulid::new(), next: AtomicU64::new(0) }
    }
}

impl BatchIds {
    /// The next id.
    pub fn next_id(&self) -> String {
        format!("{}-{}", self.process, self.next.fetch_add(1, Relaxed))
    }
}

/// A new W3C `traceparent` (Trace Context, section 3.2): version 00, random
/// trace and parent ids, sampled.
#[must_use]
pub fn traceparent() -> String {
    let mut rng = rand::rng();
    // All zeroes would be invalid; `| 1` excludes it.
    let (trace, parent): (u128, u64) = (rng.random::<u128>() | 1, rng.random::<u64>() | 1);
    format!("00-{trace:032x}-{parent:016x}-01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_within_and_between_processes() {
        let (one, other) = (BatchIds::default(), BatchIds::default());
        let ids: std::collections::HashSet<_> =
            (0..100).flat_map(|_| [one.next_id(), other.next_id()]).collect();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn traceparent_has_its_form() {
        let trace = traceparent();
        let parts: Vec<_> = trace.split('-').collect();
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert!(
            trace.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_ne!(trace, traceparent());
    }
}
